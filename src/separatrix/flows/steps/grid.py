"""Equal steps that all items share, whatever the times at which each is asked: between the steps solutions are cubics."""

import math

import torch
from torch import Tensor

from separatrix.core.errors import InputError
from separatrix.flows.flow import check_step
from separatrix.flows.methods import runge_kutta
from separatrix.flows.methods.explicit import ExplicitRungeKutta
from separatrix.flows.methods.solver import Slope

MAX_STEPS = 10_000


def follow_on_grid(field: Slope, x0: Tensor, times: Tensor, *, dt: float, method: str = "rk4") -> Tensor:
    r"""The solution of  ẋ = f(x),  x(0) = x0,  at many times, in steps of length dt that end on multiples of dt, forwards and back.

    Between two steps it is the cubic through both states and slopes, which is off by O(dt⁴), as much as a step of "rk4". So a
    batch of series, each with its own times, costs as many steps as the longest lasts, not as many as there are times.

    Args:
        field: (x, t) ↦ ẋ on states of shape (*batch, dim), the same at all times.
        x0: states at time 0, shape (*batch, dim).
        times: in any order, negative ones too, shape (times, *batch).
        dt: length of the steps.
        method: an explicit Runge–Kutta method of `SOLVERS`.

    Returns:
        States, shape (times, *batch, dim).

    Raises:
        InputError: the method is none of those, dt is not a positive number, or it takes more than 10,000 steps.
    Source: the cubic: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.6.
    """
    check_step(dt)
    solver = runge_kutta(method)
    shares = times / dt
    ahead, behind = _counts(shares, dt)
    after, slopes_after = _followed(solver, field, x0, dt, ahead)
    before, slopes_before = _followed(solver, field, x0, -dt, behind)
    nodes, slopes = torch.stack(before[:0:-1] + after), torch.stack(slopes_before[:0:-1] + slopes_after)
    place = shares.detach().floor().clamp(max=ahead - 1)
    return _cubic(nodes, slopes, place.long() + behind, (shares - place)[..., None], dt)


def _counts(shares: Tensor, dt: float) -> tuple[int, int]:
    """How many steps it takes forwards, at least one, and back."""
    last, first = max(float(shares.detach().amax()), 0.0), min(float(shares.detach().amin()), 0.0)
    if not last - first <= MAX_STEPS:
        raise InputError(
            f"from {first * dt:g} to {last * dt:g} it takes {last - first:.3g} steps of {dt:g}, more than {MAX_STEPS}.\n"
            "Pass a longer dt, or times in another unit."
        )
    return max(1, math.ceil(last)), math.ceil(-first)


def _followed(solver: ExplicitRungeKutta, field: Slope, x: Tensor, h: float, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """The states before every step and after the last, and the field there, which is each step's first stage."""
    nodes, slopes = [x], []
    for _ in range(steps):
        stages = solver.slopes(field, nodes[-1], 0.0, h)
        slopes.append(stages[0])
        nodes.append(solver.combine(nodes[-1], h, solver.b, stages))
    return nodes, [*slopes, field(nodes[-1], 0.0)] if steps else slopes


def _cubic(nodes: Tensor, slopes: Tensor, place: Tensor, s: Tensor, dt: float) -> Tensor:
    """Hermite's polynomial between nodes `place` and `place` + 1, at the share s of the way."""
    index = place[..., None].expand(*place.shape, nodes.shape[-1])
    here, there = nodes.gather(0, index), nodes.gather(0, index + 1)
    bend = (s * (1 - s) ** 2) * slopes.gather(0, index) - (s**2 * (1 - s)) * slopes.gather(0, index + 1)
    return here + (s**2 * (3 - 2 * s)) * (there - here) + dt * bend
