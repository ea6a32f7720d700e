"""What one forward and one backward pass give at each layer, the gains of a default profile, and the statistics of BatchNorm."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import separatrix as sx
from seeded_networks import linear, normal, seeded
from separatrix.analysis.depth.layerwise import _frobenius_from_random

WIDE = 300  # more than are measured by the whole Jacobian


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def residual() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDE, 12), Block(12), nn.ReLU(), nn.Linear(12, 5)).double()


def outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output of every module, by hooks of the test's own."""
    seen: dict[str, Tensor] = {}
    handles = [
        part.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name, part in model.named_modules()
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return seen


def test_a_large_input_has_sizes_and_gains_by_default_and_singular_values_where_they_are_asked_for():
    model, x = seeded(residual), normal(2, WIDE)
    default = sx.depth_profile(model, x)
    assert default.singular_values is default.residual is default.exponents is None
    assert set(default.status) == {"ok"} and default.largest.isnan().all()
    assert "pass k or the names of layers" in default.summary()
    some = sx.depth_profile(model, x, layers=["1"], sweeps=30, tol=1e-7, k=3)
    jacobian = jacrev(lambda z: model[:2](z))(x[0])
    assert some.singular_values[0, 0] == pytest.approx(torch.linalg.svdvals(jacobian)[:3].detach(), rel=1e-9)
    off = (default.gain[default.layers.index("1")] - some.gain[0]).abs()
    assert (off <= 4 * (default.gain_stderr[default.layers.index("1")] + some.gain_stderr[0])).all()


def test_a_profile_without_singular_values_is_drawn_saved_and_analysed(tmp_path):
    model, x = seeded(residual), normal(2, WIDE)
    profile = sx.depth_profile(model, x)
    again = sx.load(profile.save(tmp_path / "profile"))
    assert again.singular_values is None and again.summary() == profile.summary()
    assert torch.equal(again.dead_units, profile.dead_units)
    growth, _ = profile.plot().axes
    assert not any(str(line.get_label()).startswith("singular values") for line in growth.lines)
    portrait = sx.analyze(model, x)
    assert portrait.side == profile.verdict and portrait.numbers()["layer_largest_singular_value"] is None


def test_sizes_and_parameter_gradients_are_those_of_autograd():
    model, x, classes = seeded(residual), normal(3, WIDE), torch.tensor([0, 4, 2])
    profile = sx.depth_profile(model, x, targets=classes)
    seen = outputs(model, x)
    weights = dict(model.named_parameters())
    for i, layer in enumerate(profile.layers):
        value = seen["" if layer == "output" else layer].detach()
        assert profile.activation[i] == pytest.approx(value.square().mean(-1).sqrt(), rel=1e-12)
        assert profile.peak[i] == pytest.approx(value.abs().amax(-1), rel=1e-12)
        own = [name for name in weights if name.startswith(f"{layer}.")]
        for b in range(3):

            def loss(some: dict[str, Tensor], b: int = b) -> Tensor:
                return nn.functional.cross_entropy(functional_call(model, {**weights, **some}, (x[b : b + 1],)), classes[b : b + 1])

            if own:
                gradient = torch.func.grad(loss)({name: weights[name] for name in own})
                expected = torch.cat([one.flatten() for one in gradient.values()]).norm()
                assert profile.parameter_gradient[i, b] == pytest.approx(float(expected), rel=1e-10), layer
            else:
                assert profile.parameter_gradient[i, b].isnan()
    assert profile.has_weights.tolist() == [kind == "Linear" for kind in profile.kinds]


def test_parameters_that_are_frozen_shared_or_called_twice_have_their_whole_gradient():
    layer = seeded(lambda: nn.Linear(4, 4, bias=False)).double().requires_grad_(False)
    x = normal(1, 4)
    found = sx.depth_profile(nn.Sequential(layer, nn.Tanh(), layer), x, loss=lambda y: y.sum())
    expected = torch.func.grad(lambda w: (torch.tanh(x @ w.T) @ w.T).sum())(layer.weight).norm()
    assert found.layers == ("0", "1", "0:2") or found.layers[0] == "0"
    own = found.parameter_gradient[[0, -1], 0]
    assert own == pytest.approx([float(expected)] * 2, rel=1e-12)
    assert not layer.weight.requires_grad and layer.weight.grad is None


def test_dead_units_are_channels_or_features_that_are_zero_for_all_inputs():
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    dense = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    with torch.no_grad():
        convolution[0].bias[[1, 3]] = -100.0
        dense[0].bias[2] = -100.0
        dense[0].weight[4], dense[0].bias[4] = torch.tensor([1.0, 0.0, 0.0]), 0.0  # active for one of the two inputs
    images = sx.depth_profile(convolution, normal(2, 1, 6, 6))
    assert images.unit_count.tolist() == [4, 4] and images.dead_units.tolist() == [0, 2]
    assert "2 of 4 at '1'" in images.summary()
    tokens = torch.tensor([[[1.0, 0.2, 0.1], [2.0, 0.1, 0.3]], [[-1.0, 0.2, 0.1], [-2.0, 0.1, 0.3]]])
    texts = sx.depth_profile(dense, tokens)
    active = dense(tokens).flatten(0, 1).gt(0).any(0)
    assert texts.dead_units[1] == int((~active).sum()) and active[4] and not active[2]


def test_what_float16_cannot_hold_is_reported():
    profile = sx.depth_profile(linear(torch.diag(torch.tensor([1e6, 1.0], dtype=torch.float64))), torch.ones(1, 2).double())
    assert profile.margin()[0, 0] == pytest.approx(65504 / 1e6, rel=1e-12)
    assert profile.margin(torch.bfloat16)[0, 0] > 1e30 and "float16 overflows at '0'" in profile.summary()
    small = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    lost = sx.depth_profile(small, normal(1, 3), loss=lambda y: 1e-9 * y.sum())
    assert lost.underflow[0, 0] == 1 and "float16 rounds 100% of the gradient" in lost.summary()
    assert "float16" not in sx.depth_profile(small, normal(1, 3)).summary()


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0, 60.0], ids=["1/i", "1/√i", "flat", "one direction"])
@pytest.mark.parametrize("count", [4, 8, 9, 16])
def test_the_error_bar_of_the_gain_holds_whatever_the_spectrum(count, power):
    """σ_i = i^(−power): the truth lies within two standard errors in 90 to 99 % of 2,000 draws of the tangents."""
    scale = torch.arange(1.0, WIDE + 1, dtype=torch.float64) ** -power
    images = torch.randn(2_000, count, WIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * scale
    gain, error = _frobenius_from_random(images)
    share = float(((gain - scale.norm()).abs() < 2 * error).double().mean())
    assert 0.90 <= share <= 0.99


@pytest.mark.parametrize("k", [None, 1])
def test_the_gain_of_a_steep_map_has_an_error_bar_that_holds(k):
    """The same through a profile, σ_i = 1/i, in 50 runs."""
    model, held = linear(torch.diag(1 / torch.arange(1.0, WIDE + 1, dtype=torch.float64))), 0
    truth = float(model[0].weight.detach().norm()) / WIDE**0.5
    for seed in range(50):
        profile = sx.depth_profile(model, torch.zeros(1, WIDE), k=k, sweeps=k and 2, tol=0.9, seed=seed)
        held += abs(float(profile.gain[0, 0]) - truth) < 2 * float(profile.gain_stderr[0, 0])
    assert 43 <= held <= 50


def test_the_gain_of_wide_layers_is_right_within_its_error_and_that_of_one_direction_too():
    """10,000 outputs, which are sketched: ‖W‖_F/√d, from a full weight and from one of rank 1."""
    for weight in (normal(10_000, WIDE), normal(10_000, 1) * normal(1, WIDE, seed=1)):
        truth = float(weight.norm()) / 100
        profile = sx.depth_profile(linear(weight), normal(1, WIDE))
        assert 0 < profile.gain_stderr[0, 0] < 0.5 * truth
        assert abs(profile.gain[0, 0] - truth) < 3 * profile.gain_stderr[0, 0]


class Experts(nn.Module):
    """Each token goes to the expert that its first number chooses; each expert sees its own tokens only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        mixed = torch.zeros_like(x)
        for expert, chosen in zip(self.experts, (x[..., 0] > 0, x[..., 0] <= 0), strict=True):
            mixed[chosen] = torch.tanh(expert(x[chosen]))
        return self.head(x + mixed)


def test_a_mixture_of_experts_is_measured_where_all_inputs_pass_and_the_experts_are_refused_by_name():
    model, x = seeded(Experts).double(), normal(3, 5, 4, seed=2)
    profile = sx.depth_profile(model, x)
    assert {"stem", "head"} <= set(profile.layers)
    counts = {int((model.stem(one)[..., 0] > 0).sum()) for one in x}
    assert len(counts) > 1 and not any(layer.startswith("experts") for layer in profile.layers)
    for b in range(3):
        truth = torch.linalg.svdvals(jacrev(lambda z: model(z[None]).flatten())(x[b]).reshape(15, 20))
        assert profile.singular_values[profile.layers.index("head"), b] == pytest.approx(truth[:8].detach(), rel=1e-9)
    with pytest.raises(sx.errors.InputError, match=r"'experts\.0'"):
        sx.depth_profile(model, x, layers=["experts.0"])


def test_the_experts_of_one_input_are_measured_on_the_tokens_that_they_see():
    model, x = seeded(Experts).double(), normal(1, 5, 4, seed=2)
    profile = sx.depth_profile(model, x)
    for n in range(2):
        chosen = (model.stem(x)[0, :, 0] > 0) == (n == 0)

        def expert(z: Tensor, n: int = n, chosen: Tensor = chosen) -> Tensor:
            return model.experts[n](torch.tanh(model.stem(z))[chosen]).flatten()

        jacobian = jacrev(expert)(x[0]).reshape(-1, 20)
        assert profile.singular_values[profile.layers.index(f"experts.{n}"), 0, :4] == pytest.approx(
            torch.linalg.svdvals(jacobian)[:4].detach(), rel=1e-9
        )


def convolutional() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))


def test_fresh_normalisation_is_reported_first_and_is_not_after_training():
    model, x = seeded(convolutional), normal(4, 2, 5, 5).float()
    profile, portrait = sx.depth_profile(model, x), sx.analyze(model, x)
    assert profile.summary().startswith("unsure: 2 of 2 BatchNorm layers") and "statistics='batch'" in profile.fresh
    assert portrait.verdict.startswith("unsure: 2 of 2 BatchNorm layers")
    model.train()(x)
    assert not sx.depth_profile(model, x).fresh and not sx.analyze(model, x).verdict.startswith("unsure")


def test_the_statistics_of_the_batch_are_those_of_training_mode_held_fixed():
    """The gains and singular values behind each layer are those of a network whose running statistics are the batch's own."""
    model, x = seeded(convolutional), normal(4, 2, 5, 5)
    profile = sx.testing.check_module_untouched(model, lambda: sx.depth_profile(model, x, statistics="batch", k=3))
    assert not profile.fresh and profile.settings["statistics"] == "batch"
    held = copy.deepcopy(model).double()
    trained = held.train()(x).detach()
    values = x
    for part in held:
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean, part.running_var = values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)
        values = part.eval()(values).detach()
    assert torch.allclose(values, trained, rtol=1e-12, atol=1e-12)
    for b in range(4):
        jacobian = jacrev(lambda z: held(z[None]).flatten())(x[b]).reshape(-1, 50)
        assert profile.singular_values[-1, b] == pytest.approx(torch.linalg.svdvals(jacobian)[:3].detach(), rel=1e-9)


def test_batch_statistics_that_do_not_exist_are_refused_by_name():
    shared = nn.BatchNorm1d(3)
    with pytest.raises(sx.errors.InputError, match="no BatchNorm"):
        sx.depth_profile(nn.Linear(3, 3), normal(2, 3), statistics="batch")
    with pytest.raises(sx.errors.InputError, match="'0' is called twice"):
        sx.depth_profile(nn.Sequential(shared, nn.Linear(3, 3), shared), normal(4, 3), statistics="batch")
    with pytest.raises(sx.errors.InputError, match="one number per channel"):
        sx.depth_profile(nn.Sequential(nn.BatchNorm1d(3)), normal(1, 3), statistics="batch")
    with pytest.raises(sx.errors.InputError, match="statistics"):
        sx.depth_profile(nn.Linear(3, 3), normal(2, 3), statistics="training")
    with pytest.raises(sx.errors.InputError, match="statistics"):
        sx.analyze(nn.RNN(2, 3), normal(5, 2, 2).float(), statistics="batch")


def test_advice_names_the_worst_layer_and_does_not_advise_what_is_there():
    layers = [nn.Linear(6, 6, bias=False).double() for _ in range(6)]
    for n, layer in enumerate(layers):
        nn.init.orthogonal_(layer.weight).data.mul_(1e-4 if n == 3 else 0.9)
    advice = " ".join(sx.analyze(nn.Sequential(*layers), normal(3, 6)).advice)
    assert "loss in one step is at '3', by a factor of 1 × 10⁻⁴" in advice
    assert "each of the 6 layers" in advice and "skip connections" in advice
    blocks = nn.Sequential(*[Block(6) for _ in range(3)], nn.LayerNorm(6), nn.Linear(6, 6)).double()
    blocks[-1].weight.data.mul_(1e-3)
    advice = " ".join(sx.analyze(blocks, normal(3, 6)).advice)
    assert "skip connections" not in advice and "ormalise between" not in advice and "scale the weights" not in advice
    assert "loss in one step is at '4'" in advice and "most of all at the last, '4'" in advice
    assert math.isfinite(sx.analyze(blocks, normal(3, 6)).numbers()["gain_factor"])
