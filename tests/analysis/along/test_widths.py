"""The coordinate check: exponents of the width against closed forms of linear networks and single steps of optimisers."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import digamma
from torch import nn

import separatrix as sx
from seeded_networks import linear, normal
from separatrix import plot
from separatrix.analysis.along.widths import _slope
from separatrix.core.errors import InputError, ModelError, UnsupportedModuleError

WIDTHS = (16, 32, 64, 128)
RATE = 1e-6


def three_layers(n: int, readout: float, seed: int) -> nn.Sequential:
    """Three numbers → n → n → 1, with a readout of size n^(−readout)."""
    sizes = (((n, 3), 1.0), ((n, n), n**-0.5), ((1, n), n**-readout))
    return linear(*(std * normal(*shape, seed=10 * seed + i) for i, (shape, std) in enumerate(sizes)))


def adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=RATE, eps=1e-30)


def mup(network: nn.Sequential) -> torch.optim.Optimizer:
    """Adam with rates ∝ 1/n at the hidden and the output layer."""
    wide = {"params": [network[1].weight, network[2].weight], "lr": RATE / network[1].in_features}
    return torch.optim.Adam([{"params": [network[0].weight]}, wide], lr=RATE, eps=1e-30)


def checked(build, count: int = 6, widths=WIDTHS, **asked) -> sx.results.WidthScaling:
    return sx.along(
        {n: [build(n, seed) for seed in range(count)] for n in widths}, lambda networks: sx.coordinate_sizes(networks, **asked)
    ).result


@pytest.mark.parametrize("power", [0.5, 0.0])
def test_activations_of_a_linear_stack_grow_by_the_variance_of_its_weights(power):
    """‖h_l‖² is a product of χ²_n variables: E ln r.m.s. = l/2 (ψ(n/2) − ln(n/2)) + l (1/2 − power) ln n."""

    def stack(n: int, seed: int) -> nn.Sequential:
        return linear(*(n**-power * normal(n, n, seed=100 * seed + layer) for layer in range(3)))

    found = sx.along(
        {n: [stack(n, seed) for seed in range(12)] for n in WIDTHS},
        lambda networks: sx.coordinate_sizes(networks, torch.ones(1, networks[0][0].in_features), steps=1),
    ).result
    half = np.array(WIDTHS) / 2
    for layer in range(3):
        expected = (layer + 1) * ((digamma(half) - np.log(half)) / 2 + (0.5 - power) * np.log(WIDTHS))
        slope = np.polyfit(np.log(WIDTHS), expected, 1)[0]
        assert abs(float(found.activation_exponent[layer]) - slope) < 4 * float(found.activation_exponent_stderr[layer])
        assert float(found.activation_exponent_stderr[layer]) < 0.1
    assert [size for size, _ in found.verdicts] == ["stable" if power else "grows"] * 3


@pytest.mark.parametrize("readout", [0.5, 1.0], ids=["standard", "μP"])
def test_the_output_changes_by_the_rate_times_the_gradient_that_adam_sees(readout):
    """To first order a step of Adam changes a loss by Σ rate |∂loss/∂θ|: like n^(3/2) in standard parametrisation, like 1 in μP."""
    x = normal(1, 3)
    optimizer = adam if readout == 0.5 else mup
    found = checked(lambda n, seed: three_layers(n, readout, seed), inputs=x, loss=lambda y: y.sum(), optimizer=optimizer, steps=1)
    for w, n in enumerate(WIDTHS):
        for seed in range(6):
            network = three_layers(n, readout, seed)
            loss = network(x).sum()
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            rates = [group["lr"] for group in optimizer(network).param_groups for _ in group["params"]]
            expected = sum(rate * float(gradient.abs().sum()) for rate, gradient in zip(rates, gradients, strict=True))
            assert float(found.change[2, w, seed]) == pytest.approx(expected, rel=1e-2)
    assert found.layers == ("0", "1", "2")
    truth = torch.tensor([0.0, 1.0, 1.5] if readout == 0.5 else [0.0] * 3).double()
    assert ((found.change_exponent - truth).abs() < 2 * found.change_exponent_stderr + 0.15).all()
    words = ["stable", "grows", "grows"] if readout == 0.5 else ["stable"] * 3
    assert [change for _, change in found.verdicts] == words
    assert found.verdict.startswith("2 of 3 layers depend on the width, '2' most" if readout == 0.5 else "stable in width")


def test_one_step_of_a_readout_alone_is_known_exactly():
    """f = V h: Adam changes it by rate ‖h‖₁, SGD by rate ‖h‖², both like n."""
    x = normal(1, 3, seed=5)

    def readout_only(kind):
        return lambda network: kind([network[1].weight], lr=RATE)

    for kind, size in ((torch.optim.Adam, lambda h: h.abs().sum()), (torch.optim.SGD, lambda h: h.square().sum())):
        found = checked(
            lambda n, seed: linear(normal(n, 3, seed=seed), n**-0.5 * normal(1, n, seed=50 + seed)),
            inputs=x,
            loss=lambda y: y.sum(),
            optimizer=readout_only(kind),
            steps=1,
        )
        hidden = [[size(x @ normal(n, 3, seed=seed).T) for seed in range(6)] for n in WIDTHS]
        assert found.change[1].tolist() == pytest.approx(RATE * np.array(hidden), rel=1e-5)
        assert abs(float(found.change_exponent[1]) - 1) < 3 * float(found.change_exponent_stderr[1])
        assert found.verdicts[0] == ("stable", "zero") and bool((found.change[0] == 0).all())


@pytest.mark.parametrize(("widths", "networks", "shrinking"), [(4, 1, 0.0), (4, 4, 0.5), (2, 6, 0.0), (8, 3, 0.5)])
def test_the_error_bar_of_an_exponent_holds(widths, networks, shrinking):
    """The truth lies within two standard errors in 90 to 99 % of 400 draws."""
    draws, n = np.random.default_rng(0), 64 * 2.0 ** np.arange(widths)
    scatter, held = (0.3 * (n / n[0]) ** -shrinking)[:, None], 0
    for _ in range(400):
        slope, error = _slope(np.log(n), 0.7 * np.log(n)[:, None] + scatter * draws.standard_normal((widths, networks)))
        held += abs(slope - 0.7) <= 2 * error
    assert 0.90 <= held / 400 <= 0.99


def test_the_networks_are_left_alone_and_draw_the_same_numbers_in_every_pass():
    """With a rate of 0 nothing changes, although dropout is at work; the loss is that of the batch."""
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3))
    network[0].weight.scale = 2.0  # as libraries write on parameters

    def still(copy: nn.Sequential) -> torch.optim.Optimizer:
        assert copy is not network and copy[0].weight.scale == 2.0
        return torch.optim.SGD(copy.parameters(), lr=0.0)

    asked = {"targets": torch.tensor([0, 1, 2, 1]), "optimizer": still}
    sizes = sx.testing.check_module_untouched(network, lambda: sx.coordinate_sizes(network, 9 * normal(4, 4).float(), **asked))
    assert sizes.layers == ("0", "1", "2", "3", "4") and bool((sizes.change == 0).all())
    assert float(sizes.activation[1]) == pytest.approx(1.0, abs=0.01)  # by the batch's own statistics
    assert sizes.batch == () and "5 layers, 3 steps of SGD" in repr(sizes)


def test_layers_are_named_once_and_weights_are_no_layers():
    """A container passes on its last layer's output; a parametrisation returns weights; a layer may be called twice."""
    shared = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    network = nn.Sequential(nn.Sequential(shared, nn.Tanh()), shared, nn.Linear(3, 2))
    assert sx.coordinate_sizes(network, torch.ones(2, 3)).layers == ("0.0", "0.1", "0.0:2", "2")
    assert sx.coordinate_sizes(network, torch.ones(2, 3), layers=["0", "0.0"]).layers == ("0.0", "0", "0.0:2")


def test_steps_are_those_of_a_loop_over_the_users_optimiser():
    x, y, network = normal(6, 3), normal(6, 1, seed=1), three_layers(8, 0.5, 0)
    twin = three_layers(8, 0.5, 0)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    before = twin(x).detach()
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.mse_loss(twin(x), y).backward()
        optimizer.step()
    asked = {"optimizer": lambda copy: torch.optim.SGD(copy.parameters(), lr=0.05, momentum=0.9), "steps": 4}
    for way in ({}, {"loss": nn.functional.mse_loss}):
        sizes = sx.coordinate_sizes(network, x, targets=y, **asked, **way)
        assert float(sizes.change[-1]) == pytest.approx(float((twin(x) - before).square().mean().sqrt().detach()), rel=1e-10)
        assert float(sizes.activation[-1]) == pytest.approx(float(before.square().mean().sqrt()), rel=1e-12)


def test_what_is_zero_or_not_finite_has_no_exponent_and_no_other_width_suffers(tmp_path):
    def build(n: int, seed: int) -> nn.Sequential:
        network = three_layers(n, 0.5, seed)
        with torch.no_grad():
            network[2].weight.zero_()
            if n == 32:
                network[1].weight[0, 0] = math.inf
        return network

    found = sx.along(
        {n: build(n, 0) for n in WIDTHS}, lambda one: sx.coordinate_sizes(one, normal(2, 3), loss=lambda y: y.sum(), optimizer=adam)
    )
    assert found.status.tolist() == ["ok", "diverged", "ok", "ok"] and found.result.batch == (4,)
    assert found.result.verdicts[2][0] == "zero" and float(found.result.activation_exponent[2].nan_to_num(7.0)) == 7.0
    assert abs(float(found.result.activation_exponent[0])) < 0.5 and float(found.result.activation_exponent_stderr[0]) > 0
    assert "along 4 widths, 16 … 128" in repr(found) and "are 0 at every width" in repr(found)
    again = sx.load(found.save(tmp_path / "along"))
    assert repr(again) == repr(found) and "<svg" in plot.svg(again.plot())


def test_the_picture_shows_the_mean_of_each_layer_over_the_widths():
    asked = {"inputs": normal(2, 3), "loss": lambda y: y.sum(), "optimizer": adam, "steps": 1}
    found = checked(lambda n, seed: three_layers(n, 0.5, seed), 3, **asked)
    figure = found.plot()
    left, middle, right = figure.axes
    for axes, sizes in ((left, found.activation), (middle, found.change)):
        (line,) = axes.findobj(lambda artist: artist.get_gid() == "layer 1")
        assert list(line.get_xdata()) == list(WIDTHS) and axes.get_xscale() == axes.get_yscale() == "log"
        assert list(line.get_ydata()) == pytest.approx(sizes[1].log().mean(-1).exp().tolist())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]
    assert [label.get_text() for label in right.get_xticklabels()] == ["0", "1", "2"]


def test_the_picture_of_one_width_shows_both_sizes_over_the_layers():
    sizes = sx.coordinate_sizes([three_layers(8, 0.5, seed) for seed in range(3)], normal(2, 3), optimizer=adam)
    (axes,) = sizes.plot().axes
    for line, values in zip(axes.lines, (sizes.activation, sizes.change), strict=True):
        assert list(line.get_ydata()) == pytest.approx(values.median(-1).values.tolist())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["activations", "change in 3 steps of Adam"]


def test_bad_input_is_refused():
    x, network = torch.ones(2, 3, dtype=torch.float64), three_layers(4, 0.5, 0)
    with pytest.raises(InputError, match="parameters of another network"):
        sx.coordinate_sizes(network, x, optimizer=lambda _: torch.optim.SGD(network.parameters(), lr=0.1))
    with pytest.raises(InputError, match="got a float"):
        sx.coordinate_sizes(network, x, optimizer=0.1)
    with pytest.raises(InputError, match="no output of a layer named 'readout'"):
        sx.coordinate_sizes(network, x, layers=["0", "readout"])
    with pytest.raises(InputError, match=r"one number that depends on the parameters, got a tensor of shape \(2, 1\)"):
        sx.coordinate_sizes(network, x, loss=lambda y: y)
    with pytest.raises(InputError, match="Sequential failed on inputs"):
        sx.coordinate_sizes(network, torch.ones(2, 5))
    with pytest.raises(InputError, match="Tanh has no parameters to train"):
        sx.coordinate_sizes(nn.Tanh(), x)
    with pytest.raises(UnsupportedModuleError, match="TorchScript"):
        sx.coordinate_sizes(torch.jit.script(nn.Linear(3, 2)), x.float())
    with pytest.raises(UnsupportedModuleError, match="got a str"):
        sx.coordinate_sizes(["GRU"], x)
    with pytest.raises(InputError, match="at least 1 network, got 0"):
        sx.coordinate_sizes([], x)
    measure = lambda networks: sx.coordinate_sizes(networks, x, steps=1)  # noqa: E731
    with pytest.raises(InputError, match="expected widths above 0, got 0"):
        sx.along([network, network], measure)
    with pytest.raises(InputError, match="different numbers of networks"):
        sx.along({4: [network], 8: [three_layers(8, 0.5, seed) for seed in range(2)]}, measure)
    with pytest.raises(InputError, match="layer 1: width 1 has '0', width 2 has 'output'"):
        sx.along({1: network, 2: nn.ModuleDict({"a": nn.Linear(3, 1)})["a"]}, measure)
    with pytest.raises(InputError, match=r"a label is '8'; .*\n.* its width"):
        sx.along({"8": network}, measure)
    with pytest.raises(InputError, match="at least 1 network, got an empty list"):
        sx.along({8: []}, measure)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_that_is_a_class_or_fails_is_refused_with_a_function_that_works(kind):
    network, x = three_layers(4, 0.5, 0), torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(InputError, match=rf"is the class {kind.__name__};.*\n.*lambda network: torch.optim.{kind.__name__}\("):
        sx.coordinate_sizes(network, x, optimizer=kind)
    with pytest.raises(InputError, match=r"optimizer failed on this Sequential: TypeError.*\n.*lambda network: "):
        sx.coordinate_sizes(network, x, optimizer=partial(kind, lr=0.1))


def test_a_loss_with_another_number_of_arguments_is_refused():
    network, x = three_layers(4, 0.5, 0), torch.ones(2, 3, dtype=torch.float64)
    for measure in (sx.coordinate_sizes, sx.depth_profile):
        with pytest.raises(InputError, match=r"cannot be called with \(output, targets\): .*\nLeave targets out"):
            measure(network, x, targets=x[:, :1], loss=lambda y: y.sum())
        with pytest.raises(InputError, match=r"cannot be called with \(output\): .*\nPass targets"):
            measure(network, x, loss=nn.MSELoss())
    for loss in (nn.MSELoss(), nn.functional.mse_loss, torch.jit.script(nn.MSELoss())):
        assert sx.coordinate_sizes(network, x, targets=x[:, :1], loss=loss, steps=1).status == "ok"


def test_lazy_weights_and_sparse_gradients_are_refused_by_name():
    with pytest.raises(ModelError, match=r"uninitialised lazy weights.\nCall it once"):
        sx.coordinate_sizes(nn.Sequential(nn.LazyLinear(4)), torch.ones(2, 3))
    network, words = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 1)), torch.arange(3)
    with pytest.raises(InputError, match=r"Adam does not take the sparse gradient of '0.weight'.\n.*sparse=False"):
        sx.coordinate_sizes(network, words)
    assert sx.coordinate_sizes(network, words, optimizer=lambda one: torch.optim.SGD(one.parameters(), lr=0.1)).status == "ok"


def test_networks_of_different_depth_are_refused_unless_their_common_layers_are_named():
    x = normal(2, 3)
    shallow = linear(normal(16, 3), normal(1, 16))
    with pytest.raises(InputError, match="layer 3: width 8 has '2', width 16 has no such layer"):
        sx.along({8: three_layers(8, 0.5, 0), 16: shallow}, lambda one: sx.coordinate_sizes(one, x, steps=1))
    with pytest.raises(InputError, match="layer 3: network 0 has '2', network 1 has no such layer"):
        sx.coordinate_sizes([three_layers(16, 0.5, 0), shallow], x, steps=1)
    named = sx.along({8: three_layers(8, 0.5, 0), 16: shallow}, lambda one: sx.coordinate_sizes(one, x, steps=1, layers=["0"]))
    assert named.result.layers == ("0",)


def test_without_an_error_bar_nothing_is_decided():
    """Two widths with one network each leave no freedom; a third width or a second network does, and the growth is seen."""

    def scaled(n: int, seed: int) -> nn.Sequential:  # all activations are exactly ∝ n
        return linear(n * torch.ones(n, 3).double(), torch.eye(n).double())

    asked = {"inputs": torch.ones(2, 3, dtype=torch.float64), "optimizer": adam, "steps": 1, "loss": lambda y: y.sum()}
    for widths, count, word in (((8, 16), 1, "undecided"), ((8, 16), 2, "grows"), ((8, 16, 32), 1, "grows")):
        found = checked(scaled, count, widths, **asked)
        assert found.activation_exponent.tolist() == pytest.approx([1.0, 1.0])
        assert [size for size, _ in found.verdicts] == [word] * 2
        assert ("undecided at 2 layers (no error bars: " in found.verdict) == (word == "undecided")


def test_a_verdict_says_first_that_every_network_diverged_or_that_a_width_is_missing():
    x = normal(2, 3)
    found = sx.along(
        {n: three_layers(n, 0.5, 0) for n in (8, 16, 32)},
        lambda one: sx.coordinate_sizes(one, x, optimizer=lambda own: torch.optim.SGD(own.parameters(), lr=math.inf)),
    )
    assert found.result.verdict == "every network diverged" and "32: every network diverged\n" in found.summary()
    one = checked(lambda n, seed: three_layers(n, 0.5, seed), 2, (8,), inputs=x)
    assert one.verdict.startswith("at least two widths are needed")
