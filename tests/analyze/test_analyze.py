"""The main job on networks whose answer is known."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.analyze.responses import components_of
from separatrix.analyze.verdict import advice, side

QUICK = {"steps": 300, "settle": 100, "copies": 6}


def rnn_with(weight: torch.Tensor, inputs: int = 1, nonlinearity: str = "tanh") -> nn.RNN:
    """An RNN without bias whose recurrent matrix is given and whose inputs enter at a thousandth."""
    rnn = nn.RNN(inputs, len(weight), bias=False, nonlinearity=nonlinearity).double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(weight)
        rnn.weight_ih_l0.mul_(1e-3)
    return rnn


def test_a_contracting_network_is_ordered_at_the_rate_of_its_weights():
    """H' = tanh(h/2) falls to 0, where its multiplier is 1/2: λ = ln ½ for every exponent."""
    portrait = sx.analyze(rnn_with(torch.eye(4) / 2), **QUICK)
    torch.testing.assert_close(portrait.pooled.exponents, torch.full((4,), -math.log(2), dtype=torch.float64))
    assert portrait.verdict.startswith("ordered: λ₁ = −0.6931")
    assert "e-fold in 1.4 steps" in portrait.verdict
    assert "6 initial states reach one attractor" in portrait.verdict


def test_two_attractors_are_told_apart():
    """H' = tanh(2h) has the two sinks ±h*, h* = 0.95750402407729, with multiplier 2(1 − h*²)."""
    portrait = sx.analyze(rnn_with(2 * torch.eye(1)), steps=300, settle=100, copies=16)
    assert "16 initial states reach 2 different attractors" in portrait.verdict
    assert portrait.lambda_1[0] == pytest.approx(math.log(2 * (1 - 0.95750402407729**2)), abs=1e-9)
    assert sum("Attractor" in sentence for sentence in portrait.did) == 2


def test_a_network_that_remembers_its_initial_state_reaches_different_responses():
    """The same bistable unit under tiny inputs: perturbations fade, but the side it began on stays."""
    inputs = torch.randn(40, 20, 1, generator=torch.Generator().manual_seed(0)).double()
    portrait = sx.analyze(rnn_with(2 * torch.eye(1)), inputs.transpose(0, 1), **{**QUICK, "copies": 16})
    assert portrait.verdict.startswith("ordered")
    assert "16 initial states reach 2 different responses" in portrait.verdict
    assert any("Reset it" in line for line in portrait.advice)


def test_a_large_random_network_is_chaotic():
    """G = 3 is far beyond the border g = 1 of random tanh networks (Sompolinsky, Crisanti & Sommers 1988)."""
    generator = torch.Generator().manual_seed(1)
    weight = 3 * torch.randn(60, 60, generator=generator) / 60**0.5
    portrait = sx.analyze(rnn_with(weight), k=3, **QUICK)
    rate, error = portrait.lambda_1
    near, near_error = portrait.check
    assert portrait.verdict.startswith("chaotic: λ₁ = 0.")
    assert rate == pytest.approx(near, abs=4 * math.hypot(error, near_error))
    assert "gradients over 100 steps grow by about e" in portrait.verdict


def test_a_network_without_recurrent_weights_erases_everything():
    portrait = sx.analyze(rnn_with(torch.zeros(3, 3)), torch.randn(30, 5, 1), **QUICK)
    assert portrait.lambda_1[0] == -math.inf
    assert "erased exactly" in portrait.verdict


def test_many_short_sequences_are_streamed_and_measured_over_their_own_length_too():
    torch.manual_seed(0)
    model, inputs = nn.GRU(3, 5, batch_first=True), torch.randn(12, 7, 3)
    portrait = sx.analyze(model, inputs, **QUICK)
    assert portrait.regime == "stream"
    assert portrait.finite_time_steps == 7
    expected = torch.stack([largest_growth(model, sequence) for sequence in inputs]).log() / 7
    torch.testing.assert_close(portrait.finite_time, expected, rtol=1e-9, atol=1e-9)


def largest_growth(model: nn.GRU, sequence: torch.Tensor) -> torch.Tensor:
    """σ₁ of ∂h_T/∂h_0 by reverse-mode differentiation of PyTorch's own forward pass."""
    double = nn.GRU(3, 5, batch_first=True).double()
    double.load_state_dict(model.state_dict())
    step = lambda h: double(sequence.double()[None], h[None, None])[1].flatten()  # noqa: E731
    return torch.linalg.matrix_norm(torch.autograd.functional.jacobian(step, torch.zeros(5, dtype=torch.float64)), ord=2)


def test_one_long_sequence_is_followed_along_itself():
    torch.manual_seed(0)
    portrait = sx.analyze(nn.LSTM(2, 3), torch.randn(1200, 2))
    assert portrait.regime == "sequence"
    assert portrait.spectrum.settle + portrait.spectrum.steps == 1200
    assert portrait.spectrum.dim == 6  # h and c


def test_the_users_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(2, 3), nn.GRU(3, 4, num_layers=2, dropout=0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sx.analyze(model, torch.randn(9, 5, 2), **QUICK)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) and value.dtype == torch.float32 for name, value in model.state_dict().items())


def test_the_same_seed_gives_the_same_bits():
    torch.manual_seed(0)
    model, inputs = nn.GRU(2, 4), torch.randn(10, 6, 2)
    first, second = (sx.analyze(model, inputs, seed=3, **QUICK) for _ in range(2))
    assert torch.equal(first.pooled.exponents, second.pooled.exponents)
    assert torch.equal(first.plane, second.plane)


def test_a_network_that_overflows_is_said_to_diverge():
    portrait = sx.analyze(
        rnn_with(1e6 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), nonlinearity="relu"), steps=200, settle=0, copies=4
    )
    assert portrait.status == "diverged"
    assert portrait.verdict.startswith("diverged")
    assert portrait.numbers()["lambda_1_nats_per_step"] == "nan"


def test_a_network_that_grows_without_bound_is_said_to_diverge():
    """Multiplier 40, inputs near 10⁻³: ln(1.8e308 / 10⁻³) / ln 40 ≈ 194 steps to the overflow, through states whose squares do."""
    portrait = sx.analyze(rnn_with(40 * torch.eye(2), nonlinearity="relu"), torch.rand(5, 6, 1), copies=3, steps=300)
    assert portrait.status == "diverged"
    assert portrait.spectrum.failed_at.tolist() == pytest.approx([194] * 3, abs=4)


def test_a_portrait_survives_saving(tmp_path):
    torch.manual_seed(0)
    portrait = sx.analyze(nn.GRU(2, 3), torch.randn(10, 6, 2), **QUICK)
    again = sx.load(portrait.save(tmp_path / "portrait.zarr"))
    assert again.verdict == portrait.verdict
    assert again.advice == portrait.advice
    assert torch.equal(again.spectrum.check.rate, portrait.spectrum.check.rate)
    assert torch.equal(again.plane, portrait.plane)


@pytest.mark.parametrize(
    ("rate", "error", "expected"),
    [
        (0.1, 0.01, "chaotic"),
        (-0.1, 0.01, "ordered"),
        (0.01, 0.01, "at the edge"),
        (0.1, math.nan, "at the edge"),
        (math.nan, 0.0, "diverged"),
    ],
)
def test_a_side_is_taken_beyond_two_standard_errors(rate, error, expected):
    assert side(rate, error) == expected


def test_advice_names_the_steps_over_which_gradients_live():
    assert "every 20 steps" in advice(-0.05, 0.001, 1000, None)[0]
    assert "A sequence has 60 steps, and its first reaches the loss at 0.05" in advice(-0.05, 0.001, 60, None)[1]  # e^−3
    assert "gradients reach back over all of it" in advice(-0.05, 0.001, 40, None)[1]
    assert "beyond about 20 steps" in advice(0.05, 0.001, None, None)[0]


def test_groups_are_the_connected_components():
    linked = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    assert components_of(linked).tolist() == [0, 0, 1, 2]
