"""Fields followed on a grid of steps that all items share."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import separatrix as sx
from separatrix.flows.steps.grid import follow_on_grid


def pendulum(x: Tensor, t: float) -> Tensor:
    return torch.stack([x[..., 1], -x[..., 0].sin()], dim=-1)


def starts() -> Tensor:
    return torch.tensor([[1.0, 0.0], [-2.0, 0.5], [0.3, 1.0]], dtype=torch.float64)


def asked() -> Tensor:
    """Unordered times of three items, some negative."""
    return 6 * torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 2


def reference(x0: Tensor, times: Tensor) -> Tensor:
    """The solution by SciPy, one state and one time after another."""

    def at(start: Tensor, t: float) -> np.ndarray:
        return solve_ivp(lambda _, x: [x[1], -np.sin(x[0])], (0, t), start.numpy(), rtol=1e-11, atol=1e-12).y[:, -1]

    return torch.tensor(np.array([[at(start, float(t)) for start, t in zip(x0, row, strict=True)] for row in times]))


def test_states_at_times_of_each_item_before_and_after_are_those_of_scipy():
    found = follow_on_grid(pendulum, starts(), asked(), dt=0.01)
    assert (found - reference(starts(), asked())).abs().max() < 1e-8  # dt⁴


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4), ("dopri5", 4)])
def test_between_steps_the_error_has_the_order_of_the_method_or_of_the_cubic(method, order):
    truth = reference(starts(), asked())
    steps = (0.2, 0.1, 0.05, 0.025)
    errors = [float((follow_on_grid(pendulum, starts(), asked(), dt=h, method=method) - truth).abs().max()) for h in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.35)


def test_the_derivative_by_time_is_the_field():
    times = asked().requires_grad_()
    states = follow_on_grid(pendulum, starts(), times, dt=0.01)
    (slope,) = torch.autograd.grad(states[..., 0].sum(), times)
    assert (slope - states[..., 1]).abs().max() < 1e-5  # dt³, one order below the state's


def test_derivatives_by_the_start_are_finite_differences():
    assert torch.autograd.gradcheck(lambda x: follow_on_grid(pendulum, x, asked(), dt=0.3), starts().requires_grad_())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt": 0.0}, "dt is 0"),
        ({"dt": 0.1, "method": "leapfrog"}, "leapfrog"),
        ({"dt": 1e-9}, "10000"),
    ],
)
def test_bad_steps_are_refused_in_one_line(options, message):
    with pytest.raises(sx.errors.InputError, match=message):
        follow_on_grid(pendulum, starts(), asked(), **options)
