"""Equal steps shared by all items, whatever times each item needs: solutions between the steps are cubics."""

import math

import torch
from torch import Tensor

from separatrix.core.checks import check_positive
from separatrix.core.errors import InputError
from separatrix.flows.methods import runge_kutta
from separatrix.flows.methods.explicit import ExplicitRungeKutta
from separatrix.flows.methods.solver import Slope

MAX_STEPS = 10_000


def follow_on_grid(field: Slope, x0: Tensor, times: Tensor, *, dt: float, method: str = "rk4") -> Tensor:
    r"""The solution of  ẋ = f(x),  x(0) = x0,  at given times, forward and backward, in steps that end on multiples of dt.

    Between two steps it is the cubic through both states and slopes, with an error of O(dt⁴), like a step of "rk4". A batch of
    series with separate times therefore costs as many steps as the longest series, rather than as many as there are times.

    Args:
        field: (x, t) ↦ ẋ on states of shape (*batch, dim), independent of the time.
        x0: states at time 0, shape (*batch, dim).
        times: in any order, negative ones included, shape (times, *batch).
        dt: step size.
        method: an explicit Runge–Kutta method of `SOLVERS`.

    Returns:
        States, shape (times, *batch, dim).

    Raises:
        InputError: another method, dt is not a positive number, or more than 10,000 steps are needed.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.6 (the cubic).
    """
    check_positive("dt", dt)
    solver = runge_kutta(method)
    shares = times / dt
    ahead, behind = _counts(shares, dt)
    after, slopes_after = _followed(solver, field, x0, dt, ahead)
    before, slopes_before = _followed(solver, field, x0, -dt, behind)
    nodes, slopes = torch.stack(before[:0:-1] + after), torch.stack(slopes_before[:0:-1] + slopes_after)
    place = shares.detach().floor().clamp(max=ahead - 1)
    return _cubic(nodes, slopes, place.long() + behind, (shares - place)[..., None], dt)


def _counts(shares: Tensor, dt: float) -> tuple[int, int]:
    """Number of steps forward, at least one, and backward."""
    last, first = max(float(shares.detach().amax()), 0.0), min(float(shares.detach().amin()), 0.0)
    if not last - first <= MAX_STEPS:
        raise InputError(
            f"expected at most {MAX_STEPS} steps, but t = {first * dt:g} … {last * dt:g} takes {last - first:.3g} of dt = {dt:g}.\n"
            "Increase dt, or measure time in another unit."
        )
    return max(1, math.ceil(last)), math.ceil(-first)


def _followed(solver: ExplicitRungeKutta, field: Slope, x: Tensor, h: float, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """The states before every step and after the last, and the field there, the first stage of each step."""
    nodes, slopes = [x], []
    for _ in range(steps):
        stages = solver.slopes(field, nodes[-1], 0.0, h)
        slopes.append(stages[0])
        nodes.append(solver.combine(nodes[-1], h, solver.b, stages))
    return nodes, [*slopes, field(nodes[-1], 0.0)] if steps else slopes


def _cubic(nodes: Tensor, slopes: Tensor, place: Tensor, s: Tensor, dt: float) -> Tensor:
    """Hermite's cubic between nodes `place` and `place` + 1, at the fraction s of the step."""
    index = place[..., None].expand(*place.shape, nodes.shape[-1])
    here, there = nodes.gather(0, index), nodes.gather(0, index + 1)
    bend = (s * (1 - s) ** 2) * slopes.gather(0, index) - (s**2 * (1 - s)) * slopes.gather(0, index + 1)
    return here + (s**2 * (3 - 2 * s)) * (there - here) + dt * bend
