"""The Rosenbrock method: order on nonlinear and forced fields, its polynomial, damping, kept quantities and exact derivatives."""

import math
from itertools import pairwise

import torch
from torch.autograd import gradcheck

import separatrix as sx
from separatrix.flows.methods import rodas5p

DOUBLE = {"dtype": torch.float64}


def slopes(errors: list[float]) -> list[float]:
    """The slopes of log error over log step size for successive halvings."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


def forced(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """ẋ = −x² cos t, solved from 1 by 1/(1 + sin t)."""
    return -(x**2) * torch.cos(torch.as_tensor(t, **DOUBLE))


def test_its_error_falls_with_the_fifth_power_on_a_nonlinear_forced_field():
    errors = []
    for steps in (16, 32, 64):
        x = torch.ones(1, **DOUBLE)
        for n in range(steps):
            x = rodas5p.step(forced, x, n * 2 / steps, 2 / steps)
        errors.append(abs(float(x) - 1 / (1 + math.sin(2))))
    assert min(slopes(errors)) > 4.7


def test_its_polynomial_is_of_fourth_order_and_meets_the_ends():
    x, t, share = torch.ones(1, 1, **DOUBLE), torch.zeros(1, 1, **DOUBLE), torch.tensor([[0.37]], **DOUBLE)
    errors = []
    for h in (0.2, 0.1, 0.05):
        length = torch.full((1, 1), h, **DOUBLE)
        piece = rodas5p.piece(forced, x, t, length)
        errors.append(abs(float(piece.at(share)) - 1 / (1 + math.sin(0.37 * h))))
        assert torch.allclose(piece.at(t + 1), rodas5p.step(forced, x, t, length), rtol=1e-14)
    assert min(slopes(errors)) > 4.8


def test_it_damps_what_decays_fast_and_keeps_what_the_field_keeps():
    """R(z) → 0 as z → −∞; Σ x is kept where velocities add up to 0, to the rounding of h J u, h J being 1e6."""
    assert float(rodas5p.amplification(torch.tensor(-1e6, **DOUBLE)).abs()) < 1e-4

    def reacting(x: torch.Tensor, t: float) -> torch.Tensor:
        fast, slow = 1e6 * (x[..., 1] ** 2 - x[..., 0]), 0.1 * x[..., 1] * x[..., 2]
        return torch.stack([fast, -fast - slow, slow], -1)

    x = torch.tensor([0.2, 0.5, 0.3], **DOUBLE)
    assert abs(float(rodas5p.step(reacting, x, 0.0, 1.0).sum()) - 1.0) < 1e6 * torch.finfo(torch.float64).eps


def test_its_derivatives_are_those_of_the_step():
    w = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), **DOUBLE).requires_grad_()

    def step(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return rodas5p.step(lambda y, t: torch.tanh(y @ w.T) * torch.cos(t), x, torch.full((2, 1), 0.4, **DOUBLE), 0.3)

    assert gradcheck(step, (x, w.requires_grad_()))
    flow = sx.Flow(lambda y: torch.tanh(y @ w.detach().T), 3, 0.3, method="rodas5p")
    v = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(2), **DOUBLE)
    _, pushed = flow.pushforward(x.detach(), v)
    h = 1e-6
    for k in range(2):
        ahead, behind = (flow.step(x.detach() + sign * h * v[:, k]) for sign in (1, -1))
        torch.testing.assert_close(pushed[:, k], (ahead - behind) / (2 * h), rtol=0, atol=1e-8)


def test_a_step_of_length_zero_leaves_the_state():
    x = torch.tensor([[1.0, 2.0]], **DOUBLE)
    assert torch.equal(rodas5p.step(lambda y, t: -y, x, torch.zeros(1, 1, **DOUBLE), torch.zeros(1, 1, **DOUBLE)), x)
