"""Trainings whose exponents are known in closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx


class Product(nn.Module):
    """Two weights whose product is the output: the loss is ½ (a b − 1)²."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * self.b * x


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum() / 2


def two_weights(rate: float, start: float = 0.9) -> sx.Training:
    model, one = Product(start, start), torch.ones(1).double()
    return sx.Training(model, half_square, (one, one), torch.optim.SGD(model.parameters(), lr=rate))


def test_at_twice_the_rate_of_the_flip_the_weights_are_chaotic_with_ln_3():
    """On a = b the map is conjugate to the third Chebyshev polynomial; the transverse exponent is 0."""
    found = sx.lyapunov_spectrum(two_weights(2.0, start=0.7), steps=2000)
    exponents, errors = found.exponents.tolist(), found.stderr.tolist()
    assert exponents[0] == pytest.approx(math.log(3), abs=4 * errors[0] + 1e-3)
    assert exponents[1] == pytest.approx(0.0, abs=4 * errors[1] + 1e-3)
    assert errors[0] < 0.02


@pytest.mark.parametrize("rate, multiplier", [(1.0, -1.0), (0.8, -0.6)])
def test_the_minimum_flips_at_rate_1(rate: float, multiplier: float):
    """Its sharpness is 2, so that the multiplier along a = b is 1 − 2η."""
    training = two_weights(rate, start=1.0)
    found = sx.fixed_points(training, torch.ones(1, 2).double())
    leading = found.multipliers.real.min()
    assert float(leading) == pytest.approx(multiplier, abs=1e-9)
    exponents = sx.lyapunov_spectrum(training, steps=200, settle=100).exponents  # the other one belongs to a² − b², which is kept
    assert exponents.tolist() == pytest.approx([0.0, math.log(abs(multiplier))], abs=1e-9)


def test_period_two_loses_its_stability_at_the_golden_rate():
    """y → (1 + η) y − y³ with y = √η a: the cycle of 1 + η ± √… has multiplier −1 at η = √5 − 1."""
    rate = math.sqrt(5) - 1
    squares = [((rate + 1) + sign * math.sqrt((rate + 1) ** 2 - 4 * 1)) / 2 for sign in (1, -1)]
    a = math.sqrt(squares[0] / rate)
    training = two_weights(rate, start=a)
    cycle = sx.trajectory(training, steps=2)
    assert cycle[2] == pytest.approx(cycle[0], abs=1e-12) and (cycle[1] - cycle[0]).abs().max() > 0.1
    along = torch.ones(1, 2).double()
    _, once = training.pushforward(cycle[0], along)
    _, twice = training.pushforward(cycle[1], once)
    assert twice == pytest.approx(-along, abs=1e-9)
    assert float(sx.lyapunov_spectrum(training, k=1, steps=200, settle=100).exponents) == pytest.approx(0.0, abs=1e-6)


def test_exponents_of_heavy_ball_pair_to_the_logarithm_of_the_momentum():
    """JᵀΩJ = βΩ on any network, so that the exponents of θ and of the buffer add up to ln β in pairs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    inputs, targets, beta = torch.randn(8, 2).double(), torch.randn(8, 1).double(), 0.7
    training = sx.Training(model, nn.MSELoss(), (inputs, targets), torch.optim.SGD(model.parameters(), lr=0.1, momentum=beta))
    found = sx.lyapunov_spectrum(training, steps=60, settle=0)
    assert found.exponents + found.exponents.flip(-1) == pytest.approx(math.log(beta), abs=0.03)
    assert float(found.exponents.sum()) == pytest.approx(training.layout.size * math.log(beta), rel=1e-10)


def test_jacobian_of_heavy_ball_is_conformally_symplectic():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    inputs, targets, beta = torch.randn(8, 2).double(), torch.randn(8, 1).double(), 0.7
    training = sx.Training(model, nn.MSELoss(), (inputs, targets), torch.optim.SGD(model.parameters(), lr=0.1, momentum=beta))
    jacobian = training.pushforward(sx.trajectory(training, steps=5)[-1], torch.eye(training.dim).double(), 5)[1].mT
    eye = torch.eye(training.layout.size).double()
    omega = torch.cat([torch.cat([0 * eye, eye], 1), torch.cat([-eye, 0 * eye], 1)], 0)
    assert jacobian.mT @ omega @ jacobian == pytest.approx(beta * omega, abs=1e-13)


def test_multipliers_of_a_parabola_are_the_roots_of_its_characteristic_polynomial():
    """Loss ½ Σ hᵢ pᵢ², heavy ball: z² − (1 + μ − η h) z + μ = 0 for each h."""
    h, rate, momentum = torch.tensor([0.5, 3.0, 20.0], dtype=torch.float64), 0.1, 0.6
    model = nn.Linear(3, 1, bias=False).double()
    training = sx.Training(
        model,
        lambda outputs, _: outputs.square().sum() / 2,
        (torch.diag(h.sqrt()), None),
        torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum),
    )
    multipliers = torch.linalg.eigvals(training.pushforward(training.initial_state(), torch.eye(6).double(), 1)[1])
    wanted = [root for curvature in h.tolist() for root in _roots(1 + momentum - rate * curvature, momentum)]
    assert _sorted(multipliers.tolist()) == pytest.approx(_sorted(wanted), abs=1e-12)


def _roots(trace: float, determinant: float) -> list[complex]:
    root = (trace**2 / 4 - determinant + 0j) ** 0.5
    return [trace / 2 + root, trace / 2 - root]


def _sorted(values: list[complex]) -> list[complex]:
    return sorted(values, key=lambda z: (round(z.real, 9), z.imag))


def test_rates_vary_over_a_batch():
    """One run over three rates is three runs: a fixed point below the flip, then a cycle."""
    rates = torch.tensor([0.5, 0.9, 1.1]).double()
    orbits = sx.trajectory(two_weights(0.5).at(lr=rates), torch.tensor([0.9, 0.9], dtype=torch.float64), steps=50)
    for i, rate in enumerate(rates.tolist()):
        assert orbits[:, i] == pytest.approx(sx.trajectory(two_weights(rate), steps=50), abs=1e-12)


def test_a_rate_that_diverges_is_reported_with_its_step():
    found = sx.lyapunov_spectrum(two_weights(2.5, start=1.2), steps=50)
    assert found.status == "diverged" and 0 < int(found.failed_at) < 50
