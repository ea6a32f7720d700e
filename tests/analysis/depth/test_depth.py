"""Profiles in depth: against dense Jacobians of every layer, closed forms of linear networks, and what breaks."""

import copy
import math
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import digamma, polygamma
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import separatrix as sx
from seeded_networks import linear, normal, seeded

EXACT = 1e-12  # rounding of a few products of small float64 matrices, relative to the largest singular value


class Block(nn.Module):
    """x + W₂ relu(W₁ x), the relu in place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.relu(self.first(x)))


class Unet(nn.Module):
    """One level down and up, the skip concatenated; one activation, in place, for all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.down, self.middle = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.up, self.leave = nn.ConvTranspose2d(5, 3, 2, stride=2), nn.Conv2d(6, 1, 1)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.act(self.norm(self.enter(x)))
        deep = self.drop(self.act(self.middle(self.act(self.down(skip)))))
        return self.leave(torch.cat([skip, self.up(deep)], dim=1))


class Dense(nn.Module):
    """Each layer sees the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 4), nn.Linear(9, 4), nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.tanh(self.a(x))], dim=-1)
        return self.c(torch.cat([x, torch.tanh(self.b(x))], dim=-1))


class Inception(nn.Module):
    """Three branches between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(9, 2)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(8, 3), nn.Tanh()) for _ in range(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        return {"scores": self.head(torch.cat([branch(x) for branch in self.branches], dim=-1))}


class Attention(nn.Module):
    """Fused attention called as a function, between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))


class Language(nn.Module):
    """Tokens to scores, with a learned place of each position."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.places, self.words, self.head = nn.Embedding(5, 8), nn.Embedding(7, 8), nn.Linear(8, 7)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.batch_first = batch_first

    def forward(self, tokens: Tensor) -> Tensor:
        place = self.places(torch.arange(tokens.shape[1 if self.batch_first else 0]))
        return self.head(self.encoder(self.words(tokens) + (place if self.batch_first else place[:, None])))


def encoder(**options: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
    return nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 2))


def residual() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), Block(10), Block(10), nn.Linear(10, 3))


NETWORKS = {
    "residual": (residual, (4, 6)),
    "unet": (Unet, (2, 1, 4, 6)),
    "dense": (Dense, (3, 5)),
    "inception": (Inception, (3, 6)),
    "attention": (Attention, (2, 3, 4)),
    "transformer": (encoder, (2, 4, 3)),
    "pre-norm transformer": (lambda: encoder(norm_first=True), (2, 4, 3)),
}


def built(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    make, shape = NETWORKS[name]
    return seeded(make, seed), normal(*shape, seed=seed + 1)


def output_of(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """The output of one call of one layer, by a hook of the test's own; "output" is the model's."""
    name, _, number = layer.partition(":")
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, returned: Tensor) -> None:
        value = returned[0] if isinstance(returned, tuple) else returned
        seen.append((value["scores"] if isinstance(value, dict) else value).clone())

    handle = model.get_submodule("" if name == "output" else name).register_forward_hook(keep)
    try:
        model(x)
    finally:
        handle.remove()
    return seen[int(number or 1) - 1]


def dense_jacobians(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """∂(layer's output)/∂(input), item by item, by reverse-mode autograd, shape (items, width, dim)."""
    model = copy.deepcopy(model).double().eval()
    each = [torch.autograd.functional.jacobian(lambda z: output_of(model, layer, z[None]).reshape(-1), item) for item in x.double()]
    return torch.stack([one.flatten(1) for one in each])


def orthogonal(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed))[0]


@pytest.mark.parametrize("sweeps", [None, 40], ids=["whole", "sweeps"])
@pytest.mark.parametrize("name", NETWORKS)
def test_singular_values_and_gain_of_every_layer_are_those_of_its_dense_jacobian(name, sweeps):
    model, x = built(name)
    profile = sx.depth_profile(model, x, k=3, sweeps=sweeps, tol=1e-7)
    assert (profile.codes == sx.Status.OK).all()
    for i, layer in enumerate(profile.layers):
        jacobian = dense_jacobians(model, layer, x)
        truth = torch.linalg.svdvals(jacobian)
        count = min(3, truth.shape[-1])
        assert profile.widths[i] == jacobian.shape[1]
        assert (profile.singular_values[i, :, :count] - truth[:, :count]).abs().max() < EXACT * truth.max(), layer
        assert profile.singular_values[i, :, count:].isnan().all()
        gain = torch.linalg.matrix_norm(jacobian) / jacobian.shape[1] ** 0.5
        off = (profile.gain[i] - gain).abs()
        assert (off <= EXACT * gain + 5 * profile.gain_stderr[i]).all(), layer


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_autograd_at_each_layer(name):
    model, x = built(name)
    targets = torch.zeros_like(output_of(copy.deepcopy(model).double().eval(), "output", x))
    profile = sx.depth_profile(model, x, k=1, targets=targets)
    plain = copy.deepcopy(model).double().eval()
    assert sum(layer.partition(":")[0] == "output" for layer in profile.layers) <= 1
    for i, layer in enumerate(profile.layers):
        for b, item in enumerate(x):
            expected = gradient_by_shift(plain, layer, item[None])
            assert profile.gradient[i, b] == pytest.approx(float(expected.norm()), rel=1e-9, abs=1e-14), layer


def gradient_by_shift(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    """∂/∂s of the mean square of the output when s is added to one layer's output."""
    name, _, number = layer.partition(":")
    shift, calls = None, 0

    def add(_: nn.Module, __: object, returned: Tensor) -> Tensor:
        nonlocal shift, calls
        calls += 1
        value = returned[0] if isinstance(returned, tuple) else returned
        value = value["scores"] if isinstance(value, dict) else value
        if calls != int(number or 1):
            return returned
        shift = torch.zeros_like(value, requires_grad=True)
        moved = value + shift
        return {"scores": moved} if isinstance(returned, dict) else (moved, *returned[1:]) if isinstance(returned, tuple) else moved

    handle = model.get_submodule("" if name == "output" else name).register_forward_hook(add)
    value = model(x)
    handle.remove()
    value = value["scores"] if isinstance(value, dict) else value
    return torch.autograd.grad(value.square().mean(), shift)[0]


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("residual", ["0", "1", "2", "3"]),
        ("unet", ["enter", "norm", "act", "leave"]),
        ("dense", ["c"]),
        ("inception", ["stem", "head"]),
        ("attention", ["output"]),
        ("transformer", ["0", "1.layers.0.norm1", "1.layers.0.norm2", "1.layers.1.norm1", "1.layers.1.norm2", "2"]),
        ("pre-norm transformer", ["0", "1.layers.0", "1.layers.1", "2"]),
    ],
)
def test_the_whole_signal_passes_where_the_wiring_says(name, whole):
    profile = sx.depth_profile(*built(name), k=1)
    cut = [layer for layer, is_cut in zip(profile.layers, profile.cut, strict=True) if is_cut]
    assert cut == whole
    assert profile.depth[profile.cut].tolist() == list(range(1, len(whole) + 1))
    assert profile.exponents[~profile.cut].isnan().all()


@pytest.mark.parametrize("sweeps", [None, 2], ids=["whole", "sweeps"])
def test_a_stack_of_orthogonal_layers_is_an_isometry(sweeps):
    """Every singular value of every layer is 1, so are the gains, and the exponents are 0."""
    profile = sx.depth_profile(linear(*(orthogonal(24, seed) for seed in range(12))), normal(3, 24), sweeps=sweeps)
    assert profile.singular_values == pytest.approx(np.ones((12, 3, 8)), abs=1e-13)
    assert profile.exponents == pytest.approx(np.zeros((12, 3, 8)), abs=1e-13)
    assert (profile.gain - 1).abs().max() <= 1e-12 + 4 * profile.gain_stderr.max()
    assert (profile.residual < 1e-12).all()
    assert set(profile.verdicts) == {"near-isometric"}
    assert profile.gradient == pytest.approx(np.ones((12, 3)), abs=1e-13)


def test_exponents_are_logarithms_of_a_known_product_by_depth():
    """W = U diag(2, 1, ½) Uᵀ in every layer: after l layers the exponents are ln 2, 0, −ln 2."""
    turn = orthogonal(3, 0)
    weight = turn @ torch.diag(torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)) @ turn.mT
    profile = sx.depth_profile(linear(*[weight] * 9), normal(2, 3))
    expected = torch.tensor([math.log(2), 0.0, -math.log(2)], dtype=torch.float64).expand(9, 2, 3)
    assert (profile.exponents - expected).abs().max() < 1e-10  # σ₃/σ₁ = 4⁻⁹ loses five of sixteen digits


def test_a_deep_random_linear_network_grows_as_newman_says():
    """⟨ln‖W_L … W_1 v‖⟩ = (L/2)(ψ(n/2) + ln(2/n)), variance (L/4) ψ'(n/2), for Gaussian weights of variance 1/n.

    Source: Newman 1986, Commun. Math. Phys. 103, 121. A network with one input has one such vector as its Jacobian.
    """
    n, depth, networks = 4, 10, 150
    logs = []
    for seed in range(networks):
        draw = normal(depth, n, n, seed=seed) / n**0.5
        profile = sx.depth_profile(linear(draw[0][:, :1], *draw[1:]), torch.ones(1, 1), layers=[str(depth - 1)])
        logs.append(float(profile.singular_values[0, 0, 0].log()))
    expected = depth / 2 * (digamma(n / 2) + math.log(2 / n))
    assert abs(np.mean(logs) - expected) < 3 * (depth / 4 * polygamma(1, n / 2) / networks) ** 0.5


def test_the_gain_of_random_layers_is_one_whatever_their_widths():
    """E‖J‖_F²/d_l = 1 for weights of variance 1/fan-in: widths 10 → 60 → 7 → 30."""
    widths = (10, 60, 7, 30)
    gains = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        weights = [torch.randn(b, a, dtype=torch.float64, generator=generator) / a**0.5 for a, b in pairwise(widths)]
        gains.append(sx.depth_profile(linear(*weights), torch.zeros(1, 10)).gain[:, 0])
    squares = torch.stack(gains).square()
    assert ((squares.mean(0) - 1).abs() < 3.5 * squares.std(0) / 200**0.5).all()


def test_random_tangents_do_not_show_the_leading_singular_value_and_sweeps_do():
    """A Gaussian 64 × 64 matrix of gain 0.57 has σ₁ ≈ 1.14: eight random tangents are stretched by about half of that."""
    weight = 0.57 * normal(64, 64, seed=3) / 8
    truth = torch.linalg.svdvals(weight)
    profile = sx.depth_profile(linear(weight), normal(1, 64), k=8, sweeps=30, tol=1e-6)
    assert truth[0] > 1.0 and profile.gain[0, 0] < 0.65
    assert profile.singular_values[0, 0] == pytest.approx(truth[:8], rel=1e-8)
    assert abs(profile.gain[0, 0] - torch.linalg.matrix_norm(weight) / 8) < 3 * profile.gain_stderr[0, 0]


def test_the_residual_bounds_what_is_missing_and_unconverged_is_said():
    """Two sweeps over a spectrum without gaps: not converged, and a true singular value within residual · σ₁ of each."""
    scale = torch.linspace(1, 0.9, 300, dtype=torch.float64)
    weight = orthogonal(300, 0) * scale @ orthogonal(300, 1)
    rough = sx.depth_profile(linear(weight), normal(2, 300), k=4, sweeps=2, tol=1e-4)
    assert set(rough.status) == {"not_converged"}
    assert "not converged" in rough.summary()
    gap = (rough.singular_values[0, ..., None] - scale).abs().amin(-1)
    assert (gap <= rough.residual[0] * rough.singular_values[0, :, :1] + 1e-12).all()
    assert (rough.residual > 1e-4).any() and (rough.singular_values[0] <= scale[:4] + 1e-12).all()
    better = sx.depth_profile(linear(weight), normal(2, 300), k=4, sweeps=60, tol=1e-4)
    assert set(better.status) == {"ok"}
    assert better.singular_values[0] == pytest.approx(scale[:4].expand(2, 4), rel=1e-6)


def test_a_layer_behind_a_narrow_layer_has_all_its_singular_values():
    """Two branches, 3 and 40 wide, that run one after the other: the second is not begun from three directions only."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = nn.Linear(300, 3), nn.Linear(300, 40)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.narrow(x), self.wide(x)], dim=-1)

    model = seeded(Branches)
    profile = sx.depth_profile(model, normal(2, 300), k=20, tol=1e-6)
    assert profile.settings["method"] == "subspace iteration"
    truth = torch.linalg.svdvals(model.wide.weight.double())[:20]
    assert profile.singular_values[1] == pytest.approx(truth.detach().expand(2, 20), rel=1e-10)


def test_the_gain_from_random_tangents_has_an_error_bar_that_holds():
    """Over 100 seeds the true ‖J‖_F/√d lies within two standard errors in 85 to 100 of them (16 tangents: Student, not normal)."""
    weight = normal(40, 300, seed=5) / 300**0.5
    truth = float(torch.linalg.matrix_norm(weight)) / 40**0.5
    held = 0
    for seed in range(100):
        profile = sx.depth_profile(linear(weight), torch.zeros(1, 300), k=8, sweeps=2, tol=0.9, seed=seed)
        held += abs(float(profile.gain[0, 0]) - truth) < 2 * float(profile.gain_stderr[0, 0])
    assert 85 <= held <= 100


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(0.5, "vanishing"), (0.9, "contracting"), (1.0, "near-isometric"), (1.2, "expanding"), (2.0, "exploding")],
)
def test_the_verdict_is_that_of_a_network_whose_growth_is_known(factor, verdict):
    profile = sx.depth_profile(linear(*(factor * orthogonal(6, seed) for seed in range(10))), normal(3, 6))
    assert profile.verdict == verdict
    assert profile.gain[-1] == pytest.approx([factor**10] * 3, rel=1e-12)
    assert verdict in profile.summary()


def test_one_steep_direction_among_flat_ones_is_uneven():
    weight = torch.diag(torch.tensor([20.0] + [0.5] * 399, dtype=torch.float64))
    assert sx.depth_profile(linear(weight), normal(1, 400), k=2).verdict == "uneven"


def test_a_random_loss_has_a_gradient_of_one_at_the_output_and_comes_back_through_the_transpose():
    weights = [normal(5, 5, seed=seed) for seed in range(3)]
    profile = sx.depth_profile(linear(*weights), normal(2, 5))
    assert profile.gradient[-1] == pytest.approx([1, 1], abs=1e-14)
    ratio = profile.gradient[0] / profile.gradient[-1]
    bounds = torch.linalg.svdvals(weights[2] @ weights[1])
    assert (ratio <= bounds[0] + 1e-12).all() and (ratio >= bounds[-1] - 1e-12).all()


def test_a_loss_is_taken_item_by_item_so_that_its_reduction_and_the_batch_do_not_matter():
    """Cross-entropy at the output: softmax minus one-hot, for each item alone."""
    model, x = built("residual")
    classes = torch.tensor([0, 2, 1, 1])
    by_default = sx.depth_profile(model, x, targets=classes)
    summed = sx.depth_profile(model, x, targets=classes, loss=nn.CrossEntropyLoss(reduction="sum"))
    alone = sx.depth_profile(model, x[1:2], targets=classes[1:2])
    with torch.no_grad():
        scores = copy.deepcopy(model).double()(x)
    expected = (scores.softmax(-1) - nn.functional.one_hot(classes, 3)).norm(dim=-1)
    assert by_default.gradient[-1] == pytest.approx(expected, rel=1e-12)
    assert torch.equal(by_default.gradient, summed.gradient)
    assert by_default.gradient[:, 1] == pytest.approx(alone.gradient[:, 0], rel=1e-12)


def test_classes_of_positions_and_of_pixels_are_taken_as_pytorch_has_them():
    tokens = torch.tensor([[1, 2, 3, 4, 0], [0, 6, 5, 1, 1]])
    told = sx.depth_profile(seeded(Language), tokens, targets=tokens, k=1)

    def loss(scores: Tensor, classes: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores.flatten(0, 1), classes.flatten())

    own = sx.depth_profile(seeded(Language), tokens, targets=tokens, loss=loss, k=1)
    assert told.gradient == pytest.approx(own.gradient, rel=1e-12)
    pixels = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    model = seeded(lambda: nn.Conv2d(1, 3, 1))
    assert sx.depth_profile(model, normal(2, 1, 4, 4), targets=pixels).gradient.shape == (1, 2)


def test_token_indices_begin_at_the_layer_that_looks_them_up():
    model, tokens = seeded(Language), torch.tensor([[1, 2, 3, 4, 0], [0, 6, 5, 1, 1]])
    profile = sx.depth_profile(model, tokens, k=4)
    assert profile.settings["origin"] == "words" and profile.dim == 5 * 8
    plain = copy.deepcopy(model).double().eval()
    for b in range(2):
        z = plain.words(tokens[b : b + 1]).detach()
        rest = lambda z: plain.head(plain.encoder(z + plain.places(torch.arange(5))))  # noqa: E731
        truth = torch.linalg.svdvals(torch.autograd.functional.jacobian(rest, z).reshape(35, 40))[:4]
        assert profile.singular_values[-1, b] == pytest.approx(truth, rel=1e-11)


def test_a_profile_may_start_at_a_named_layer():
    """After the first layer of a linear stack, the Jacobian is the product of the others."""
    weights = [normal(4, 4, seed=seed) for seed in range(3)]
    profile = sx.depth_profile(linear(*weights), normal(2, 4), origin="0")
    assert profile.layers == ("1", "2")
    assert profile.singular_values[-1, 0] == pytest.approx(torch.linalg.svdvals(weights[2] @ weights[1]), rel=1e-12)


def test_the_batch_axis_of_a_sequence_first_model_is_1():
    model, tokens = seeded(lambda: Language(batch_first=False)), torch.tensor([[1, 0], [2, 6], [3, 5]])
    with pytest.raises(sx.errors.InputError, match="axis 0"):
        sx.depth_profile(model, tokens)
    both = sx.depth_profile(model, tokens, batch_axis=1, k=3)
    assert both.batch == (2,) and both.dim == 3 * 8
    one = sx.depth_profile(model, tokens[:, 1:], batch_axis=1, k=3)
    assert both.singular_values[:, 1] == pytest.approx(one.singular_values[:, 0], rel=1e-10)


def test_positions_of_a_causal_model_are_not_mistaken_for_a_batch():
    """The first position of a causal model does not depend on the others; the last one does."""

    class Causal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(0) * x

    with pytest.raises(sx.errors.InputError, match="axis 0"):
        sx.depth_profile(Causal(), normal(4, 3))
    whole = sx.depth_profile(Causal(), normal(4, 3), batch_axis=None)
    assert whole.batch == () and whole.dim == 12 and isinstance(whole.verdicts, str)


def test_a_module_that_is_called_several_times_has_a_layer_for_each():
    layer = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    model = nn.Sequential(OrderedDict(a=layer, b=nn.Tanh(), c=layer))

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(4):
                x = self.layer(x)
            return x

    profile = sx.depth_profile(Loop(), normal(2, 3))
    assert profile.layers == ("layer", "layer:2", "layer:3", "layer:4")
    power = torch.linalg.matrix_power(layer.weight.detach(), 3)
    assert profile.singular_values[2, 0] == pytest.approx(torch.linalg.svdvals(power), rel=1e-12)
    assert sx.depth_profile(Loop(), normal(2, 3), layers=["layer:3"]).layers == ("layer:3",)
    assert sx.depth_profile(model, normal(2, 3)).layers == ("a", "b", "a:2")


def test_layers_are_chosen_by_name_and_keep_their_depth():
    model, x = built("residual")
    every, some = sx.depth_profile(model, x), sx.depth_profile(model, x, layers=["3", "1"])
    assert some.layers == ("1", "3") and some.depth.tolist() == [2, 4]
    where = [every.layers.index(name) for name in some.layers]
    assert some.exponents == pytest.approx(every.exponents[where], rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("sweeps", [None, 20], ids=["whole", "sweeps"])
def test_results_do_not_depend_on_the_number_of_items_per_chunk(sweeps, monkeypatch):
    model, x = built("unet")
    together = sx.depth_profile(model, x, k=2, sweeps=sweeps, tol=1e-9)
    monkeypatch.setattr("separatrix.analysis.depth.layerwise.MOST_NUMBERS", 1)
    apart = sx.depth_profile(model, x, k=2, sweeps=sweeps, tol=1e-9)
    for name in ("singular_values", "gain", "gradient"):
        assert getattr(together, name) == pytest.approx(getattr(apart, name), rel=1e-9)


@pytest.mark.parametrize("sweeps", [None, 5], ids=["whole", "sweeps"])
def test_an_item_that_overflows_diverges_and_does_not_affect_the_others(sweeps):
    class Powers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Identity(), nn.Identity(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x**2) ** 100))

    model = seeded(Powers)
    x = torch.tensor([[0.5, 1.0, 1.5], [1e3, 1.0, 1.0], [1.2, -0.3, 0.8]], dtype=torch.float64)
    profile = sx.depth_profile(model, x, k=2, sweeps=sweeps)
    assert list(profile.status) == ["ok", "diverged", "ok"]
    assert profile.layer_codes[:, 1].tolist() == [0, 2, 2]
    assert profile.singular_values[0].isfinite().all() and profile.singular_values[1:, 1].isnan().all()
    assert list(profile.verdicts)[1] == "unknown" and "1 of 3 inputs diverged" in profile.summary()
    finite = sx.depth_profile(model, x[[0, 2]], k=2, sweeps=sweeps)
    assert profile.singular_values[:, [0, 2]] == pytest.approx(finite.singular_values, rel=1e-9)
    with pytest.raises(sx.errors.DivergedError, match="'b'"):
        sx.depth_profile(model, x, k=2, sweeps=sweeps, throw=True)


def test_dead_units_have_singular_values_of_exactly_zero():
    model = nn.Sequential(nn.Linear(3, 3, dtype=torch.float64), nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    profile = sx.depth_profile(model, normal(2, 3))
    assert (profile.singular_values[1] == 0).all() and profile.exponents[1].isneginf().all()
    assert profile.verdict == "vanishing" and (profile.codes == sx.Status.OK).all()


def test_a_gradient_of_1e_minus_200_does_not_underflow():
    profile = sx.depth_profile(linear(*[1e-10 * torch.eye(4, dtype=torch.float64)] * 20), normal(1, 4))
    assert profile.singular_values[-1, 0] == pytest.approx([1e-200] * 4, rel=1e-10)
    assert profile.gain[-1, 0] == pytest.approx(1e-200, rel=1e-10)
    assert profile.gradient[0, 0] == pytest.approx(1e-190, rel=1e-10)


def test_the_users_module_and_the_global_generator_are_left_alone():
    model, x = built("unet")
    model.train()
    before = torch.get_rng_state()
    profile = sx.testing.check_module_untouched(model, lambda: sx.depth_profile(model, x.float(), k=2))
    assert all(not part._forward_hooks for part in model.modules())
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(value.requires_grad for value in vars(profile).values() if isinstance(value, Tensor))


def test_the_same_seed_gives_the_same_bits():
    model, x = built("residual")
    first, again, other = (sx.depth_profile(model, x, sweeps=5, seed=seed) for seed in (0, 0, 1))
    for name in first.layout:
        assert torch.equal(torch.nan_to_num(getattr(first, name)), torch.nan_to_num(getattr(again, name)))
    assert not torch.equal(first.gain, other.gain)


def test_a_profile_is_saved_and_read_again(tmp_path):
    profile = sx.depth_profile(*built("unet"), k=2)
    again = sx.results.DepthProfile.load(profile.save(tmp_path / "profile"))
    assert again.summary() == profile.summary() and again.layers == profile.layers
    assert again.to_dataset()["singular_values"].dims == ("layer", "batch", "k")


def test_an_input_in_place_and_an_identity_are_no_obstacle():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Identity(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 2))
    x = normal(3, 2, 2)
    kept = x.clone()
    profile = sx.depth_profile(model, x)
    assert torch.equal(x, kept)
    assert profile.layers == ("0", "3", "4")


class Detached(nn.Module):
    """W₂ (x + W₁ x), where gradients do not see W₁."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Linear(4, 4), nn.Linear(4, 2), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "detach":
            return self.b(x + self.a(x).detach())
        with torch.no_grad():
            y = self.a(x)
        return self.b(x + y)


@pytest.mark.parametrize("sweeps", [None, 4], ids=["whole", "sweeps"])
@pytest.mark.parametrize("how", ["detach", "no_grad"])
def test_tangents_skip_what_gradients_skip(how, sweeps):
    model = seeded(lambda: Detached(how))
    profile = sx.depth_profile(model, normal(2, 4), layers=["b"], sweeps=sweeps)
    assert profile.singular_values[0, 0] == pytest.approx(torch.linalg.svdvals(model.b.weight.double()).detach(), rel=1e-10)
    assert (profile.codes == sx.Status.OK).all()


class Broken(nn.Module):
    """Has layers that are never reached, that ignore the input, or that return whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.constant, self.index = nn.Linear(3, 3), nn.Linear(3, 3), nn.Embedding(2, 3), Index()

    def forward(self, x: Tensor) -> Tensor:
        self.index(x)
        return self.used(x) + self.constant(torch.zeros(len(x), dtype=torch.int64))


class Index(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"layers": ["usd"]}, "'usd'.*\n.*used"),
        ({"layers": ["unused"]}, "'unused'"),
        ({"layers": ["used:2"]}, "'used:2'.* 1 time"),
        ({"layers": ["constant"]}, "'constant'.*input"),
        ({"layers": ["index"]}, "'index'.*floating-point"),
        ({"layers": []}, "layers"),
        ({"origin": "wrong"}, "origin.*'wrong'"),
        ({"origin": "unused"}, "origin.*'unused'"),
        ({"k": 4}, "k.* 4.* 3"),
        ({"k": 0}, "k.* 0"),
        ({"sweeps": 1}, "sweeps is 1; .* 2"),
        ({"tol": 0.0}, r"tol.* 0\.0"),
        ({"tol": math.nan}, "tol.* nan"),
        ({"seed": -1}, "seed.* -1"),
        ({"dtype": torch.float16}, "dtype.*float16"),
        ({"targets": torch.tensor([1])}, r"2 inputs.*\(1,\)"),
        ({"targets": torch.tensor([1, 7])}, "class 7"),
        ({"targets": torch.zeros(2, 5)}, r"\(3,\).*\(5,\)"),
        ({"targets": torch.full((2, 3), math.nan)}, "6 of .* targets"),
        ({"loss": lambda out: out}, r"loss.*\(1, 3\)"),
        ({"loss": lambda out: 3.0}, "loss.*float"),
        ({"tol": "small"}, "tol.*'small'"),
        ({"layers": [0]}, r"layers.*\[0\]"),
        ({"batch_axis": -2}, "batch_axis.* -2"),
        ({"batch_axis": "first"}, "batch_axis.*'first'"),
        ({"batch_axis": 5}, "axis 5"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(options, names):
    with pytest.raises(sx.SeparatrixError, match=names):
        sx.depth_profile(seeded(Broken), normal(2, 3), **options)


class Returns(nn.Module):
    """Returns a function of its input."""

    def __init__(self, value) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor):
        return self.value(x)


@pytest.mark.parametrize(
    ("model", "inputs", "error", "names"),
    [
        (nn.Linear(3, 3), torch.tensor([[1.0, math.nan, 2.0]]), sx.errors.InputError, "1 .* 3"),
        (nn.Linear(3, 3), torch.zeros(0, 3), sx.errors.InputError, "input"),
        (nn.Linear(3, 3), torch.zeros(2, 4), sx.errors.InputError, r"Linear.*\(2, 4\)"),
        (nn.Linear(3, 3), "digits", sx.errors.InputError, "input"),
        (nn.Linear(3, 3), torch.zeros(2, 3, dtype=torch.complex64), sx.errors.InputError, "complex"),
        (Returns(lambda x: x.argmax(-1)), torch.ones(2, 3), sx.errors.InputError, "Returns.*int64"),
        (Returns(lambda x: torch.ones(len(x), 2)), torch.ones(2, 3), sx.errors.InputError, "output of Returns"),
        (Returns(lambda x: x - x.mean(0)), normal(2, 3), sx.errors.InputError, "axis 0"),
        (Returns(lambda x: x + torch.rand_like(x)), normal(1, 3), sx.errors.InputError, "random"),
        (Returns(lambda x: x + torch.rand_like(x)), normal(4, 3), sx.errors.InputError, "random"),
        (nn.LazyLinear(3), torch.ones(2, 3), sx.errors.ModelError, "LazyLinear"),
        (lambda x: x, torch.ones(2, 3), sx.errors.UnsupportedModuleError, "function"),
        (sx.classic.henon(), torch.ones(2, 2), sx.errors.UnsupportedModuleError, "Henon"),
        (nn.Conv2d(3, 2, 1), torch.ones(3, 4, 4), sx.errors.InputError, "Conv2d|axis 0"),
    ],
)
def test_models_and_inputs_that_cannot_be_profiled_are_refused(model, inputs, error, names):
    with pytest.raises(error, match=names):
        sx.depth_profile(model, inputs)


def test_progress_is_shown_when_asked(capsys):
    sx.depth_profile(*built("dense"), progress=True)
    assert capsys.readouterr().out == ""


class Forked(nn.Module):
    """One of two branches for each input, by the sign of its first number; then a common head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        y = torch.tanh(self.stem(x))
        left = x[:, :1] > 0
        routed = torch.zeros_like(y)
        for branch, rows in ((self.a, left[:, 0]), (self.b, ~left[:, 0])):
            if rows.any():
                routed[rows] = torch.tanh(branch(y[rows]))
        return self.head(routed)


class EarlyExit(nn.Module):
    """Inputs of small norm leave before the second block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return torch.cat([self.head(self.first(one) if one.norm() < 1 else self.second(self.first(one))) for one in x[:, None]])


def test_inputs_on_different_paths_are_measured_at_their_common_layers():
    """Against dense Jacobians of each input alone; a branch that not all inputs pass is refused by name."""
    model = Forked().double()
    x = torch.tensor(
        [[1.0, 0.3, -0.2, 0.5], [-1.0, 0.2, 0.4, 0.1], [2.0, -1.0, 0.3, 0.2], [0.5, 0.5, 0.5, 0.5], [-2.0, 0.1, 0.1, 0.9]]
    ).double()
    profile = sx.depth_profile(model, x)
    assert {"stem", "head", "output"} >= set(profile.layers) >= {"stem", "head"}
    place = profile.layers.index("head")
    for i, one in enumerate(x[:, None]):
        true = torch.linalg.svdvals(torch.autograd.functional.jacobian(model, one).reshape(3, 4))
        assert profile.singular_values[place, i, :3].tolist() == pytest.approx(true.tolist(), rel=1e-9)
    with pytest.raises(sx.SeparatrixError, match="'a'"):
        sx.depth_profile(model, x, layers=["a"])
    assert "a" in sx.depth_profile(model, x[::2][:2]).layers  # both inputs pass it


def test_inputs_that_take_paths_of_different_depth_are_refused():
    model = EarlyExit().double()
    x = torch.stack([torch.full((4,), size) for size in (0.1, 0.2, 3.0, 0.3)]).double()
    with pytest.raises(sx.SeparatrixError, match="3 and 4 layers"):
        sx.depth_profile(model, x)
    profile = sx.depth_profile(model, x[[0, 1, 3]])
    true = torch.linalg.svdvals(model.head.weight @ model.first.weight).detach()
    assert profile.singular_values[-1, 0, :3].tolist() == pytest.approx(true.tolist(), rel=1e-9)


class HalfDetached(nn.Module):
    """A sum of two branches, one of which lets no gradient through."""

    def __init__(self, change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.change = nn.Linear(4, 4), nn.Linear(4, 4), change

    def forward(self, x):
        return torch.tanh(self.a(x)) + self.change(self.b(x))


@pytest.mark.parametrize("change", [Tensor.detach, lambda y: y + (y.sign() - y).detach(), torch.no_grad()(torch.sin)])
def test_gradients_that_are_not_the_derivatives_are_reported_first(change):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    profile = sx.depth_profile(HalfDetached(change), x)
    assert profile.changed and profile.summary().startswith(f"unsure: {profile.changed}")
    assert sx.analyze(HalfDetached(change), x).verdict.startswith("unsure: ")
    assert not sx.depth_profile(HalfDetached(torch.sin), x).changed
    assert not sx.depth_profile(HalfDetached(torch.relu), torch.zeros(3, 4)).changed


class EmptyCalls(Forked):
    """Both branches are called for every input, on the rows that are theirs: none, for one of them."""

    def forward(self, x):
        y = torch.tanh(self.stem(x))
        left = x[:, 0] > 0
        routed = torch.zeros_like(y)
        routed[left], routed[~left] = self.a(y[left]), self.b(y[~left])
        return self.head(routed)


def test_a_layer_that_is_called_on_no_rows_is_left_out():
    model = EmptyCalls().double()
    x = torch.tensor([[1.0, 0.3, -0.2, 0.5], [2.0, 0.2, 0.4, 0.1]]).double()
    profile = sx.depth_profile(model, x)
    assert "a" in profile.layers and "b" not in profile.layers
    with pytest.raises(sx.SeparatrixError, match="'b'"):
        sx.depth_profile(model, x, layers=["b"])


def test_a_reentrant_checkpoint_is_refused_and_the_other_is_not():
    def network(use_reentrant: bool) -> nn.Module:
        return Returns(lambda x: checkpoint(torch.tanh, 2 * x, use_reentrant=use_reentrant))

    with pytest.raises(sx.errors.UnsupportedModuleError, match="use_reentrant=False"):
        sx.depth_profile(network(True), normal(3, 4))
    assert set(sx.depth_profile(network(False), normal(3, 4)).status) == {"ok"}


def test_arguments_of_a_recurrent_network_are_refused_in_depth():
    with pytest.raises(sx.errors.InputError, match="noise"):
        sx.analyze(nn.Linear(3, 3), normal(4, 3), noise="fixed")
