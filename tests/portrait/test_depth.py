"""The portrait of a network without a recurrent part, on networks whose growth is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.portrait.growth import Growth

DIM = 6


def rotations(scale: float, depth: int) -> nn.Sequential:
    """Linear layers scale · Q without bias, Q orthogonal: after l of them every change is scale^l times as large."""
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(DIM, DIM, bias=False).double() for _ in range(depth)]
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(scale * torch.linalg.qr(torch.randn(DIM, DIM, generator=generator).double())[0])
    return nn.Sequential(*layers)


def inputs(count: int = 5) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("scale", "side", "advised"),
    [
        (0.5, "vanishing", "weights of each of the 6 layers that have some by 2."),
        (0.8, "contracting", "a factor of 0.069"),  # 0.8¹²
        (1.0, "near-isometric", "No change is needed: "),
        (1.3, "expanding", "a factor of 23"),  # 1.3¹²
        (2.0, "exploding", "weights of each of the 6 layers that have some by 0.5."),
    ],
)
def test_growth_through_scaled_rotations_is_a_power_of_the_scale(scale, side, advised):
    portrait = sx.analyze(rotations(scale, 6), inputs())
    assert portrait.side == side and portrait.verdict.startswith(f"{side}: across 6 layers, ")
    numbers = portrait.numbers()
    assert numbers["gain_factor"] == pytest.approx(scale**6)
    assert numbers["rate_nats_per_layer"] == pytest.approx(math.log(scale))
    assert numbers["layer_gain_factor"] == pytest.approx([scale**layer for layer in range(1, 7)])
    assert numbers["gradient_at_first_over_last"] == pytest.approx(scale**5)
    assert any(advised in line for line in portrait.advice), portrait.advice


def test_the_layer_from_which_on_the_signal_is_lost_is_named():
    """Halved by each layer it is below a tenth after the fourth, 1/16."""
    assert sx.analyze(rotations(0.5, 6), inputs()).growth.beyond == "3"
    assert sx.analyze(rotations(2.0, 6), inputs()).growth.beyond == "3"
    assert sx.analyze(rotations(0.9, 6), inputs()).growth.beyond is None


def test_a_network_that_stretches_one_direction_only_is_uneven():
    """J = diag(12, 0.1, 0.1, 0.1): the gain ‖J‖_F/√4 is 6.0, but σ₁ = 12."""
    layer = nn.Linear(4, 4, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([12.0, 0.1, 0.1, 0.1])))
    portrait = sx.analyze(layer, torch.randn(3, 4))
    assert portrait.side == "uneven" and "the most sensitive one by 12;" in portrait.verdict


def test_a_network_that_overflows_is_unknown_and_says_so():
    portrait = sx.analyze(rotations(1e80, 5), inputs())
    assert portrait.status == "diverged" and portrait.side == "unknown"
    assert "infinite or NaN" in portrait.verdict and "5 of 5 inputs diverged." in portrait.did


def test_inputs_are_drawn_at_random_and_targets_with_them():
    """The gradient of the cross-entropy at the scores y is softmax(y) − onehot, whatever the network."""
    model, x, labels = rotations(0.9, 2), inputs(10), torch.arange(10) % DIM
    expected = (model(x).softmax(-1) - nn.functional.one_hot(labels, DIM)).norm(dim=-1).detach()
    everything = sx.analyze(model, x, targets=labels)
    torch.testing.assert_close(everything.profile.gradient[-1], expected, rtol=1e-9, atol=0)
    some = sx.analyze(model, x, targets=labels, copies=3)
    places = [int((expected - norm).abs().argmin()) for norm in some.profile.gradient[-1]]
    torch.testing.assert_close(some.profile.gradient[-1], expected[places], rtol=1e-9, atol=0)
    assert len(set(places)) == 3 and "3 of 10 inputs, drawn at random, 6 numbers each." in some.did
    other = sx.analyze(model, x, targets=labels, copies=3, seed=1)
    assert not torch.equal(other.profile.gradient[-1], some.profile.gradient[-1])


def test_a_loss_and_layers_of_ones_own_are_taken():
    portrait = sx.analyze(rotations(0.9, 3), inputs(), loss=lambda y: y.square().sum(), layers=["0", "2"], k=2)
    assert portrait.profile.layers == ("0", "2") and portrait.profile.singular_values.shape[-1] == 2
    expected = 2 * 0.9**3 * inputs().norm(dim=-1)
    torch.testing.assert_close(portrait.profile.gradient[-1], expected, rtol=1e-9, atol=0)
    assert portrait.takes == ("model", "inputs", "loss")


def test_tokens_arrays_and_float32_models_are_taken():
    torch.manual_seed(0)
    reader = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    assert sx.analyze(reader, torch.randint(9, (5, 3))).core == "2 layers deep, 12 numbers in, 2 out"
    assert sx.analyze(nn.Linear(3, 2), np.ones((4, 3), dtype=np.float32)).profile.dim == 3


def test_a_feed_forward_model_that_says_its_hidden_size_is_not_taken_for_a_cell():
    class Perceptron(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden_size = 5
            self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

        def forward(self, x):
            return self.layers(x)

    assert isinstance(sx.analyze(Perceptron(), torch.randn(4, 3)), sx.results.DepthPortrait)


def test_a_model_with_a_recurrent_part_is_measured_along_time():
    assert isinstance(sx.analyze(nn.Linear(2, 2), torch.randn(5, 2), also=["none"]), sx.results.DepthPortrait)
    assert isinstance(sx.analyze(nn.GRU(2, 3), torch.randn(5, 4, 2), steps=50, copies=2, also="none"), sx.results.RecurrentPortrait)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sx.analyze(model, torch.randn(6, 3))
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) and value.dtype == before[name].dtype for name, value in model.state_dict().items())


def test_the_portrait_survives_saving_and_says_itself(tmp_path):
    portrait = sx.analyze(rotations(0.5, 4), inputs(), targets=torch.zeros(5, DIM))
    again = sx.load(portrait.save(tmp_path / "p.zarr"))
    assert again.numbers() == portrait.numbers() and again.summary() == portrait.summary()
    assert again.takes == ("model", "inputs", "targets")
    assert repr(portrait).startswith("Sequential: vanishing") and "<svg" in portrait._repr_html_()


def test_the_same_seed_gives_the_same_bits():
    first, second = (sx.analyze(rotations(0.7, 3), inputs(30), seed=4) for _ in range(2))
    assert torch.equal(first.profile.gradient, second.profile.gradient)


def test_growth_of_layers_none_of_which_carries_the_whole_signal_is_that_of_the_last():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return x + self.left(x) + self.right(x)

    torch.manual_seed(0)
    portrait = sx.analyze(Forked(), torch.randn(4, 3), layers=["left", "right"])
    assert not portrait.profile.cut.any()
    assert portrait.growth.whole == [0, 1] and isinstance(portrait.growth, Growth)
    assert "the whole signal passes through 0 of them." in portrait.did[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": None}, "no recurrent part .*\nPass inputs, so that `analyze` measures it in depth"),
        ({"inputs": torch.zeros(())}, r"failed on inputs of shape \(\)"),
        ({"inputs": torch.zeros(0, DIM)}, "are empty"),
        ({"inputs": torch.full((40, DIM), math.nan)}, "not finite"),
        ({"inputs": torch.cat([torch.zeros(39, DIM), torch.full((1, DIM), math.inf)])}, "6 of 240 numbers"),
        ({"inputs": "text"}, "cannot be read as numbers"),
        ({"inputs": torch.zeros(4, DIM + 1)}, "Sequential failed on inputs"),
        ({"steps": 10}, "steps cannot be used: Sequential has no recurrent part"),
        ({"settle": 10, "error": 0.1}, "settle and error cannot be used"),
        ({"also": "fixed_points"}, "also cannot be used"),
        ({"copies": 0}, "copies is 0"),
        ({"k": 0}, "k.* 0"),
        ({"seed": -1}, "seed is -1"),
        ({"layers": ["nine"]}, "no layer named 'nine'"),
        ({"layers": []}, "layers is empty"),
        ({"targets": torch.zeros(3)}, r"targets have shape \(3,\), but there are 5 inputs"),
        ({"targets": ["cat"] * 5}, "targets cannot be read as numbers"),
        ({"targets": torch.zeros(())}, r"targets have shape \(\), but there are 5 inputs"),
    ],
)
def test_bad_input_is_answered_in_a_line_or_two(given, message):
    arguments = {"inputs": inputs(), **given}
    with pytest.raises(sx.SeparatrixError, match=message) as refused:
        sx.analyze(rotations(1.0, 2), arguments.pop("inputs"), **arguments)
    assert len(str(refused.value).split("\n")) <= 2


@pytest.mark.parametrize("given", [{"layers": ["rnn"]}, {"targets": torch.zeros(5)}, {"loss": torch.sum}])
def test_what_belongs_to_depth_is_refused_for_a_recurrent_network(given):
    with pytest.raises(sx.errors.InputError, match=f"{next(iter(given))} cannot be used: GRU is measured along time"):
        sx.analyze(nn.GRU(2, 3), torch.randn(5, 4, 2), **given)


def test_arguments_that_are_no_tensors_reach_the_model_as_they_are():
    class Scaled(nn.Module):
        def forward(self, x, scale, shift=None):
            return scale * x if shift is None else x

    portrait = sx.analyze(Scaled(), (torch.randn(20, 3), 3.0, None))
    assert portrait.headline()["gain_factor"] == pytest.approx(3.0, rel=1e-12)
    assert portrait.settings["loss"] == "the output's component along a random unit vector"
