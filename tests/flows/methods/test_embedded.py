"""Runge–Kutta pairs: their order at the ends of steps and between, by closed forms."""

import math
from itertools import pairwise

import torch

from separatrix.flows.methods import PAIRS, dopri5

DOUBLE = {"dtype": torch.float64}


def swung(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """ẋ = x cos t, solved by exp(sin t)."""
    return torch.cos(torch.as_tensor(t, **DOUBLE)) * x


def slopes(errors: list[float]) -> list[float]:
    """The slopes of log error over log step size for successive halvings."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


def test_a_pairs_error_falls_with_its_order():
    for pair in PAIRS.values():
        errors = []
        for steps in (20, 40, 80):
            x = torch.ones(1, **DOUBLE)
            for n in range(steps):
                x = pair.step(swung, x, n * 2 / steps, 2 / steps)
            errors.append(abs(float(x) - math.exp(math.sin(2))))
        assert min(slopes(errors)) > pair.order - 0.3


def test_between_the_ends_a_step_is_of_fourth_order():
    x0, start, share = torch.ones(1, 1, **DOUBLE), torch.zeros(1, 1, **DOUBLE), torch.tensor([[0.37]], **DOUBLE)
    for pair in PAIRS.values():
        steps = (0.1, 0.05, 0.025)
        found = [pair.piece(swung, x0, start, torch.tensor([[h]], **DOUBLE)).at(share) for h in steps]
        errors = [abs(float(x) - math.exp(math.sin(0.37 * h))) for x, h in zip(found, steps, strict=True)]
        assert min(slopes(errors)) > 4.8  # the local error of order 4 falls like h⁵


def test_the_polynomial_meets_both_ends_of_the_step():
    x, t, h = torch.tensor([[1.0], [2.0]], **DOUBLE), torch.zeros(2, 1, **DOUBLE), torch.full((2, 1), 0.3, **DOUBLE)
    assert torch.equal(dopri5.between(swung, x, t, h, torch.zeros_like(t)), x)
    assert torch.allclose(dopri5.between(swung, x, t, h, torch.ones_like(t)), dopri5.step(swung, x, t, h), rtol=1e-15)
