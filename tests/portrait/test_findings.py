"""Further questions of the recurrent core: asked of the right system, answered together, and none costs another."""

import math
import sys

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.wording import plain
from separatrix.portrait.findings import QUESTIONS, Question

QUICK = {"steps": 200, "settle": 50, "copies": 4}
SLOW = {"correlation_dimension", "memory_capacity"}  # never asked unasked
H = 0.95750402407729  # the positive root of h = tanh(2h)


def unit(weight: float, inputs: int = 1) -> nn.RNN:
    """One neuron h ← tanh(w h + u)."""
    rnn = nn.RNN(inputs, 1, bias=False, batch_first=True).double()
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(weight)
        rnn.weight_ih_l0.fill_(1.0)
    return rnn


def root(weight: float, u: float) -> float:
    """The stable fixed point of h ← tanh(w h + u), by iterating it."""
    h = 1.0
    for _ in range(5_000):
        h = math.tanh(weight * h + u)
    return h


def test_an_autonomous_network_rests_at_its_memories_and_on_the_border_between_them():
    """h ← tanh(2h) rests at ±h* with multiplier 2(1 − h*²), and at 0 with multiplier 2."""
    found = sx.analyze(unit(2.0), **QUICK).findings["fixed_points"]
    assert sorted(found.points.flatten().tolist()) == pytest.approx([-H, 0, H], abs=1e-10)
    by_kind = dict(zip(found.kind, found.multipliers.real.flatten().tolist(), strict=True))
    assert by_kind["stable node"] == pytest.approx(2 * (1 - H**2), abs=1e-9)
    assert found.multipliers.real.max() == pytest.approx(2)


def test_a_driven_network_rests_under_the_mean_of_its_inputs():
    inputs = torch.rand(30, 7, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.3
    found = sx.analyze(unit(0.5), inputs, **QUICK).findings["fixed_points"]
    assert found.points.flatten().tolist() == pytest.approx([root(0.5, float(inputs.mean()))], abs=1e-10)
    assert found.kind == ("stable node",)


def test_covariant_vectors_grow_at_the_exponents_of_the_spectrum():
    torch.manual_seed(0)
    portrait = sx.analyze(nn.GRU(2, 3), torch.randn(9, 20, 2), also="covariant_lyapunov_vectors", copies=4)
    (vectors,) = portrait.findings.values()
    assert vectors.batch == ()  # one run under one drive
    apart = (vectors.exponents - portrait.pooled.exponents).abs()
    assert bool((apart < 5 * (vectors.stderr**2 + portrait.pooled.stderr**2).sqrt()).all())


def test_the_attractors_of_two_memories_and_the_share_that_reaches_each():
    """h ← tanh(2h) falls to the sink of its sign, and the lattice of initial states is symmetric about what the runs visit."""
    portrait = sx.analyze(unit(2.0), steps=200, settle=50, copies=16, also="basins_of_attraction")
    basins = portrait.findings["basins_of_attraction"]
    assert sorted(basins.attractors.flatten().tolist()) == pytest.approx([-H, H], abs=1e-6)
    assert float(basins.fractions.sum()) == pytest.approx(1) and 0.2 < float(basins.fractions.min()) <= 0.5


def test_a_network_that_has_come_to_rest_is_seen_in_a_plane_of_states_and_not_of_rounding():
    """h ← tanh(W h), W = diag(2, 0.5): all that is left after the run are its memories, which span a line."""
    rnn = nn.RNN(1, 2, bias=False).double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(torch.diag(torch.tensor([2.0, 0.5])))
    portrait = sx.analyze(rnn, also=("phase_portrait", "basins_of_attraction"), **QUICK)
    plane = portrait.findings["phase_portrait"]
    assert plane.orbits[0].reshape(-1, 2).std(0).min() > 0.1
    assert plane.first[0] < -H < H < plane.first[-1] or plane.second[0] < -H < H < plane.second[-1]
    assert len(portrait.findings["basins_of_attraction"].attractors) == 2


def test_a_rotation_that_saturates_is_periodic_by_its_spectrum_and_leaves_the_origin_in_its_portrait():
    """h ← tanh(2 R h), R a quarter turn: four states in turn, and a focus that repels at 0."""
    rnn = nn.RNN(1, 2, bias=False).double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(2 * torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    portrait = sx.analyze(rnn, also=("phase_portrait", "power_spectrum"), **QUICK)
    assert portrait.findings["power_spectrum"].verdict == "periodic" and not portrait.unanswered
    rest = portrait.findings["phase_portrait"].rest
    assert (0, 0) in [tuple(point) for point in rest.points.round(decimals=9).tolist()]


@pytest.mark.parametrize(("weight", "verdict", "responses"), [(0.5, "echo state", 1), (2.0, "several responses", 2)])
def test_a_unit_forgets_where_it_began_unless_it_has_two_memories(weight, verdict, responses):
    """h ← tanh(w h) ends at 0 for w < 1, at rate ln w; at ±h* for w = 2, at rate ln 2(1 − h*²)."""
    found = sx.analyze(unit(weight), also="echo_state", **QUICK).findings["echo_state"]
    assert (found.verdict, int(found.responses)) == (verdict, responses)
    assert float(found.exponent) == pytest.approx(math.log(weight if weight < 1 else 2 * (1 - H**2)), abs=1e-3)


def test_responses_that_forget_at_different_rates_are_not_told_one_rate():
    """h ← tanh(2 h + 0.1) has two sinks, of different multipliers 2(1 − h²)."""
    inputs = torch.full((1, 200, 1), 0.1, dtype=torch.float64)
    found = sx.analyze(unit(2.0), inputs, also="echo_state", copies=4).findings["echo_state"]
    low, high = 1.0, -1.0
    for _ in range(500):
        low, high = math.tanh(2 * low + 0.1), math.tanh(2 * high + 0.1)
    told = [math.log(2 * (1 - h * h)) for h in (low, high)]
    assert f"from {plain(told[0])} to {plain(told[1])}" in found.summary()


def test_a_sheared_network_amplifies_by_the_largest_norm_of_its_powers():
    """At the fixed point 0 of h ← tanh(W h) the amplification after t steps is ‖Wᵗ‖₂."""
    rnn, shear = nn.RNN(1, 2, bias=False).double(), torch.tensor([[0.6, 3.0], [0.0, 0.6]], dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(shear)
    found = sx.analyze(rnn, also="transient_growth", **QUICK).findings["transient_growth"]
    norms = [float(torch.linalg.matrix_norm(torch.linalg.matrix_power(shear, t), ord=2)) for t in range(1, 40)]
    assert float(found.amplification) == pytest.approx(max(norms), rel=1e-9)
    assert float(found.peak_time) == 1 + norms.index(max(norms))


def test_a_unit_without_feedback_remembers_its_last_input_as_far_as_tanh_is_straight():
    """h ← tanh(s), s uniform in ±1: C₁ is their squared correlation, and all that there is."""
    found = sx.analyze(unit(0.0), also="memory_capacity", **QUICK).findings["memory_capacity"]
    s = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    squared = float((s * s.tanh()).mean() ** 2 / (s.square().mean() * s.tanh().square().mean()))
    assert float(found.curve[0]) == pytest.approx(squared, abs=1e-3)
    assert float(found.capacity) == pytest.approx(squared, abs=4 * float(found.stderr) + 1e-3)


@pytest.mark.parametrize("inputs", [None, torch.randn(1100, 2), torch.randn(1100, 3, 2)])
def test_questions_are_asked_whatever_drives_the_network(inputs):
    torch.manual_seed(0)
    portrait = sx.analyze(nn.GRU(2, 3), inputs, also=tuple(QUESTIONS), copies=3, steps=300)
    assert not portrait.unanswered and list(portrait.findings) == list(QUESTIONS)
    for name, said in zip(QUESTIONS, portrait.found(), strict=True):
        assert said.startswith(QUESTIONS[name].heading) and said in portrait.summary()


def test_a_batch_first_core_and_a_cell_of_ones_own_are_asked_too():
    class Leaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.input_size, self.hidden_size = 2, 3
            self.mix = nn.Linear(5, 3)

        def forward(self, u, state):
            return 0.5 * state + 0.5 * torch.tanh(self.mix(torch.cat([u, state], -1)))

    torch.manual_seed(0)
    portrait = sx.analyze(Leaky(), torch.randn(9, 6, 2), also="fixed_points", **QUICK)
    assert not portrait.unanswered and len(portrait.findings["fixed_points"].points) >= 1


def test_auto_asks_what_takes_seconds_and_names_are_asked_whatever_they_take():
    torch.manual_seed(0)
    large = nn.RNN(1, 200)
    brief = {"k": 1, "copies": 1, "steps": 20, "settle": 0}
    assert list(sx.analyze(unit(0.5), **QUICK).findings) == [name for name in QUESTIONS if name not in SLOW | {"phase_portrait"}]
    assert list(sx.analyze(nn.RNN(1, 2), **QUICK).findings) == [name for name in QUESTIONS if name not in SLOW]
    assert not sx.analyze(large, **brief).findings
    assert not sx.analyze(unit(0.5), also="none", **QUICK).findings
    assert not sx.analyze(unit(0.5), also=(), **QUICK).findings
    assert list(sx.analyze(large, also=("auto", "fixed_points"), **brief).findings) == ["fixed_points"]


@pytest.mark.parametrize("also", ["fixed_pionts", ("auto", "fixed_pionts"), (3,)])
def test_a_finding_that_does_not_exist_is_refused_before_any_work(also, monkeypatch):
    monkeypatch.setattr(sys.modules["separatrix.portrait.measurements"], "lyapunov_spectrum", pytest.fail)
    with pytest.raises(sx.errors.InputError, match=r"also names .*\nChoose from: auto, none, fixed_points, "):
        sx.analyze(unit(0.5), also=also)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (sx.errors.InputError("too few states.\nGive more."), "too few states."),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (MemoryError(), "MemoryError: no message"),
    ],
)
def test_a_finding_that_fails_is_a_line_and_costs_nothing_else(monkeypatch, tmp_path, error, line):
    def fail(subject):
        raise error

    question = Question(heading="Broken", caption="-", drive="common", ask=fail, is_quick=lambda _: True)
    monkeypatch.setitem(QUESTIONS, "broken", question)
    portrait = sx.analyze(unit(0.5), also=("fixed_points", "power_spectrum", "broken"), **QUICK)
    assert portrait.unanswered == {"broken": line}
    assert f"Broken: failed. {line}" in portrait.found()
    assert portrait.verdict.startswith("ordered") and "fixed_points" in portrait.findings
    again = sx.load(portrait.save(tmp_path / "p.zarr"))
    assert again.unanswered == portrait.unanswered and list(again.findings) == list(portrait.findings)


def test_a_network_that_diverges_is_answered_without_an_error():
    grown = nn.RNN(1, 2, bias=False, nonlinearity="relu").double()
    with torch.no_grad():
        grown.weight_hh_l0.copy_(1e6 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    gone = sx.analyze(grown, **QUICK)
    assert gone.verdict.startswith("diverged")
    assert "no state to start from" in gone.unanswered["fixed_points"]
    assert not any("Error" in why for why in gone.unanswered.values())


def test_findings_survive_saving(tmp_path):
    portrait = sx.analyze(unit(2.0), **QUICK)
    again = sx.load(portrait.save(tmp_path / "p.zarr"))
    for name, result in portrait.findings.items():
        assert again.findings[name].summary() == result.summary()
    assert torch.equal(again.findings["fixed_points"].points, portrait.findings["fixed_points"].points)
    assert again.settings == portrait.settings
