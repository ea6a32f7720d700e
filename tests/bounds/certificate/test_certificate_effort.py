"""What a certificate costs: its plan, its looser proofs and its early end."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import separatrix as sx
from separatrix.bounds.certificate import effort, layers, steepest
from separatrix.bounds.certificate.graph import operator_graph
from separatrix.bounds.operator_norm import proof
from separatrix.core.ending import ending

SHAPE = (2, 9, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    parts = (nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*parts, nn.Linear(80, 3)).double()


def dense_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    eye = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return float(torch.linalg.matrix_norm((layer(eye) - layer(torch.zeros_like(eye))).detach().flatten(1), 2))


def test_a_pass_has_the_multiplications_that_pytorch_counts():
    parts = (nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.Flatten())
    model = nn.Sequential(*parts, nn.Linear(6 * 18 * 16, 5)).double().eval()
    x = torch.zeros(1, *SHAPE, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        model(x)
    nodes = operator_graph(model, x).nodes
    assert 2 * sum(map(effort._multiplications, nodes)) == counter.get_total_flops()


def test_a_small_network_is_proven_tightly_and_searched_at_length():
    settings = sx.certificate(network(), SHAPE).settings
    assert (settings["starts"], settings["steps"], settings["slack"], settings["ended"]) == (9, 30, 3e-6, "")


def test_a_large_network_is_planned_to_cost_less():
    model = nn.Sequential(*[nn.Conv2d(64, 64, 3, padding=1) for _ in range(12)])
    graph = torch.export.export(model, (torch.zeros(1, 64, 56, 56),)).graph  # made on stand-ins, without a pass
    nodes = list(graph.nodes)
    assert effort.planned(nodes).proofs == effort.COARSE
    assert effort.planned(nodes).search.steps == 6  # 10¹² / (60 · 2 · 12 · 64² · 9 · 56²) is 6.01
    assert effort.planned(nodes[:16]).proofs == effort.planned(()).proofs


@pytest.mark.parametrize("budget", [0.0, 2e11])
def test_a_coarse_plan_bounds_each_layer_by_at_least_its_dense_norm(budget, monkeypatch):
    model = network()
    tight = sx.certificate(model, SHAPE)
    for name in ("PROOFS", "SEARCH"):
        monkeypatch.setattr(effort, name, 0.0)
    monkeypatch.setattr(effort, "COARSE", proof.Effort(budget, 1e-2))
    monkeypatch.setattr(proof, "SMALL", 0)
    found = sx.certificate(model, SHAPE)
    exact = [dense_norm(model[0], SHAPE), dense_norm(model[2], (4, 9, 8))]
    norms = [layer for layer in found.layers if layer.kind == "Conv2d"]
    assert [layer.factor >= norm for layer, norm in zip(norms, exact, strict=True)] == [True, True]
    assert [layer.lower <= norm for layer, norm in zip(norms, exact, strict=True)] == [True, True]
    most = 1.2 if budget == 0 else 1.0101
    assert max(layer.factor / norm for layer, norm in zip(norms, exact, strict=True)) < most
    assert tight.bound <= found.bound and 0 < found.lower <= tight.bound
    assert (found.settings["starts"], found.settings["steps"], found.settings["slack"]) == (3, effort.FEWEST, 1e-2)


def test_starts_and_steps_that_are_asked_for_are_taken_in_any_plan(monkeypatch):
    monkeypatch.setattr(effort, "SEARCH", 0.0)
    settings = sx.certificate(network(), SHAPE, starts=5, steps=7).settings
    assert (settings["starts"], settings["steps"]) == (5, 7)


def interrupted(function, after: int):
    calls = []

    def run(*args, **named):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return function(*args, **named)

    return run


def test_ctrl_c_in_a_proof_keeps_the_layers_before_it_and_claims_no_bound(monkeypatch):
    whole = sx.certificate(network(), SHAPE)
    monkeypatch.setattr(layers, "affine_norm", interrupted(layers.affine_norm, 2))
    with ending(None, on_interrupt=True):
        found = sx.certificate(network(), SHAPE)
    assert found.names == whole.names[: len(found.names)] and len(found.names) == 2
    assert found.factors.tolist() == whole.factors[:2].tolist()
    assert found.bound == math.inf and found.lower == 0 and found.settings["ended"] == "stopped by Ctrl-C"
    assert found.unknown == ("2",)


def test_ctrl_c_in_the_search_keeps_the_bound_and_what_was_measured(monkeypatch):
    whole = sx.certificate(network(), SHAPE)
    for name in ("_slopes", "polished"):
        with monkeypatch.context() as patch:
            patch.setattr(steepest.Steepest, name, interrupted(getattr(steepest.Steepest, name), 2 if name == "_slopes" else 0))
            with ending(None, on_interrupt=True):
                found = sx.certificate(network(), SHAPE)
        assert found.bound == whole.bound and 0 < found.lower <= found.bound
        assert found.settings["ended"] == "stopped by Ctrl-C"


def test_ctrl_c_without_an_early_end_stops_the_run(monkeypatch):
    monkeypatch.setattr(layers, "affine_norm", interrupted(layers.affine_norm, 1))
    with pytest.raises(KeyboardInterrupt):
        sx.certificate(network(), SHAPE)


def test_each_layer_is_shown_on_stderr_as_soon_as_it_is_known(capfd):
    found = sx.certificate(network(), SHAPE, progress=True)
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines if "bound so far" in line] == list(found.names)
