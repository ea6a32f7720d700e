"""The main job on networks whose answer is known."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.analysis.driven.responses import attractors, grouped
from separatrix.portrait.verdict import advice, side

QUICK = {"steps": 300, "settle": 100, "copies": 6, "also": "none"}


def rnn_with(weight: torch.Tensor, inputs: int = 1, nonlinearity: str = "tanh") -> nn.RNN:
    """An RNN without bias whose recurrent matrix is given and whose inputs enter at a thousandth."""
    rnn = nn.RNN(inputs, len(weight), bias=False, nonlinearity=nonlinearity).double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(weight)
        rnn.weight_ih_l0.mul_(1e-3)
    return rnn


def test_a_contracting_network_is_ordered_at_the_rate_of_its_weights():
    """h' = tanh(h/2) falls to 0, where its multiplier is 1/2: λ = ln ½ for every exponent."""
    portrait = sx.analyze(rnn_with(torch.eye(4) / 2), **QUICK)
    torch.testing.assert_close(portrait.pooled.exponents, torch.full((4,), -math.log(2), dtype=torch.float64))
    assert portrait.verdict.startswith("ordered: λ₁ = −0.6931")
    assert "e-fold in 1.4 steps" in portrait.verdict
    assert "6 initial states reach one attractor" in portrait.verdict


def test_two_attractors_are_told_apart():
    """h' = tanh(2h) has the two sinks ±h*, h* = 0.95750402407729, with multiplier 2(1 − h*²)."""
    portrait = sx.analyze(rnn_with(2 * torch.eye(1)), steps=300, settle=100, copies=16)
    assert "16 initial states reach 2 different attractors" in portrait.verdict
    assert portrait.lambda_1[0] == pytest.approx(math.log(2 * (1 - 0.95750402407729**2)), abs=1e-9)
    assert sum("Attractor" in sentence for sentence in portrait.did) == 2


def test_a_network_that_remembers_its_initial_state_reaches_different_responses():
    """The same bistable unit under tiny inputs: perturbations fade, but the side it began on stays."""
    inputs = torch.randn(40, 20, 1, generator=torch.Generator().manual_seed(0)).double()
    portrait = sx.analyze(rnn_with(2 * torch.eye(1)), inputs.transpose(0, 1), **{**QUICK, "copies": 16})
    assert portrait.verdict.startswith("ordered")
    assert portrait.verdict.endswith("16 initial states converge to 2 different responses")
    assert any("Reset it" in line for line in portrait.advice)


def test_a_large_random_network_is_chaotic():
    """g = 3 is far beyond the border g = 1 of random tanh networks (Sompolinsky, Crisanti & Sommers 1988)."""
    generator = torch.Generator().manual_seed(1)
    weight = 3 * torch.randn(60, 60, generator=generator) / 60**0.5
    portrait = sx.analyze(rnn_with(weight), k=3, **QUICK)
    rate, error = portrait.lambda_1
    near, near_error = portrait.check
    assert portrait.verdict.startswith("chaotic: λ₁ = 0.")
    assert rate == pytest.approx(near, abs=4 * math.hypot(error, near_error))
    assert "over 100 steps, gradients grow by a factor of about e" in portrait.verdict


def test_a_network_without_recurrent_weights_erases_everything():
    portrait = sx.analyze(rnn_with(torch.zeros(3, 3)), torch.randn(30, 5, 1), **QUICK)
    assert portrait.lambda_1[0] == -math.inf
    assert "every perturbation is erased" in portrait.verdict


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
    portrait = sx.analyze(nn.LSTM(2, 3), torch.randn(1200, 2), also="none")
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
    portrait = sx.analyze(rnn_with(40 * torch.eye(2), nonlinearity="relu"), torch.rand(5, 6, 1), copies=3, steps=300, also="none")
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


def test_one_state_that_diverges_leaves_the_others_attractor_alone():
    """x → x/2 below 0.9, 2x above: four states fall to 0, one grows without bound."""
    system = sx.Map(lambda x: torch.where(x > 0.9, 2 * x, 0.5 * x), 1)
    x0 = torch.tensor([[0.95], [0.1], [0.2], [0.3], [-0.4]], dtype=torch.float64)
    assert attractors(system, x0, 1_100, 2_000).tolist() == [-1, 0, 0, 0, 0]


def test_a_network_of_which_some_runs_diverge_says_how_many():
    """h' = relu(2h − 1/4): states above 1/4 in either unit grow without bound, the others are erased."""
    rnn = nn.RNN(1, 2, nonlinearity="relu").double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(2 * torch.eye(2))
        rnn.bias_hh_l0.fill_(-0.25)
        rnn.bias_ih_l0.zero_()
    starts = sx.Recurrent(rnn).initial_state((16,), 0)
    grow = int((starts > 0.25).any(-1).sum())
    portrait = sx.analyze(rnn, steps=1200, settle=100, also="none")
    assert f"{grow} of 16 initial states diverge" in portrait.verdict
    assert "16 initial states reach" not in portrait.verdict
    assert portrait.lambda_1[0] == -math.inf


def test_a_sequence_too_short_to_forget_is_said_to_be_too_short():
    """Multiplier 0.95 over 30 steps: e^−1.5 of the distance is left, so nothing is known of the end."""
    portrait = sx.analyze(rnn_with(0.95 * torch.eye(2)), torch.zeros(30, 1), also="none")
    assert "within 30 steps, which is too few to tell" in portrait.verdict
    assert not any("remembers its initial state" in line for line in portrait.advice)


def test_slow_contraction_is_not_taken_for_memory():
    """h' = tanh(0.9997 h) falls to 0, but in 20,000 steps only by e^6."""
    portrait = sx.analyze(rnn_with(0.9997 * torch.eye(2)), torch.zeros(7, 3, 1), steps=400, settle=0, copies=4, also="none")
    assert "different responses" not in portrait.verdict
    assert not any("remembers its initial state" in line for line in portrait.advice)


@pytest.mark.parametrize(
    ("rate", "error", "steps", "expected"),
    [
        (0.1, 0.01, 2000, "chaotic"),
        (-0.1, 0.01, 2000, "ordered"),
        (0.01, 0.01, 2000, "at the edge"),
        (0.1, math.nan, 2000, "undecided"),
        (math.nan, 0.0, 2000, "diverged"),
        (-2e-4, 1e-5, 2000, "at the edge"),  # a cycle's zero exponent, off by O(1/steps)
        (-2e-4, 1e-5, 200_000, "ordered"),
    ],
)
def test_a_side_is_taken_beyond_two_standard_errors_and_what_a_zero_exponent_shows(rate, error, steps, expected):
    assert side(rate, error, steps) == expected


def test_a_neutral_cycle_is_at_the_edge():
    """A rotation by 0.3 held on a circle by tanh: λ₁ = 0 along it."""
    turn = torch.tensor([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    assert sx.analyze(rnn_with(1.3 * turn), copies=8, also="none").verdict.startswith("at the edge")


def test_advice_names_the_steps_over_which_gradients_live():
    assert "every 20 steps" in advice(-0.05, 0.001, 2000, None, None, None)[0]
    vanishing = advice(-0.05, 0.001, 2000, 60, -3.0, None)[1]
    assert "60 steps of a sequence" in vanishing and "by a factor of 0.05" in vanishing  # e^−3
    assert "reaches back to the start" in advice(-0.05, 0.001, 2000, 20, -1.0, None)[1]
    assert "grows before it decays" in advice(-0.05, 0.001, 2000, 8, 1.5, None)[1]
    assert "beyond about 20 steps" in advice(0.05, 0.001, 2000, None, None, None)[0]


def test_groups_are_the_connected_components():
    linked = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    x = torch.tensor([[0.0], [0.0], [torch.nan], [0.0]])
    assert grouped(linked, torch.zeros(4, 1)).tolist() == [0, 0, 1, 2]
    assert grouped(linked, x).tolist() == [0, 0, -1, 1]
