"""Events: the first time at which a function of the state is zero, with exact gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from separatrix.core.checks import check_not_negative, check_whole, refused
from separatrix.core.errors import InputError
from separatrix.core.result import Status
from separatrix.core.twin import twin
from separatrix.flows.events.arrival import Arrival
from separatrix.flows.events.bracket import Bracket, first_bracket
from separatrix.flows.events.following import Unfolded, Watch, equal_steps_until, steps_by_tolerance
from separatrix.flows.events.located import Located, located
from separatrix.flows.events.problem import Problem
from separatrix.flows.events.surface import Surface
from separatrix.flows.field import FunctionField, as_field
from separatrix.flows.flow import Flow
from separatrix.flows.gradients.mapped import lanes_refused
from separatrix.flows.methods import SOLVERS
from separatrix.flows.solve.solve import MAX_STEPS
from separatrix.flows.steps.checks import as_state, check_method, check_no_longest, check_tolerance, first_velocity
from separatrix.flows.steps.mesh import Run
from separatrix.flows.steps.tolerance import Tolerance


@lanes_refused("sx.solve_until")
def solve_until(
    field: Callable[..., Tensor],
    x0: Tensor,
    event: Callable[..., Tensor],
    *,
    end: Any,
    start: Any = 0.0,
    direction: int = 0,
    tol: float | None = None,
    method: str | None = None,
    dt: float | None = None,
    rtol: float = 1e-5,
    atol: float | None = None,
    max_steps: int = MAX_STEPS,
    max_step: float | None = None,
    time_dependent: bool = False,
    throw: bool = False,
) -> Arrival:
    r"""The first t* > start at which  g(x(t*), t*) = 0  along  ẋ = f(x, t),  x(start) = x0,  and the state there; differentiable.

    Each item takes its own steps and stops after the step that contains its event. The event is then located on the polynomial of
    that step by a bracketing method. Derivatives follow from the implicit function theorem,  dt*/dθ = −(∂g/∂θ) / ġ,  with respect
    to x0, start and everything that f and g depend on; first and second derivatives are exact.

    Args:
        field: as in `sx.solve`.
        x0: initial states, shape (*batch, dim).
        event: g, a function or an `nn.Module` from states to one number per item, shape (*batch) or (*batch, 1). It is called with
            all batch axes flattened to one, which may follow other axes.
        end: the time up to which an event is searched; a number, or shape (*batch).
        start: the time of x0; a number, or shape (*batch). It may carry a graph, as the time of a previous event does.
        direction: +1 for g rising through 0, −1 for falling, 0 for both.
        tol: error in t* on the polynomial. Default: rounding.
        method, dt, rtol, atol, max_steps, max_step: as in `sx.solve`. With `dt`, any method in `SOLVERS`; the polynomial is then
            the cubic through both ends of a step, and all steps but the last before `end` have length dt.
        time_dependent: call `field(x, t)` and `event(x, t)`.
        throw: raise instead of marking items that diverged or did not converge.

    Returns:
        Arrival. An item without an event is `ok` with `found` False; its time and state are NaN. An item that starts on the
        surface, to within `tol` in time, leaves it first. An item with a start that is not finite has no event, so that chains of
        events can continue with the others.

    Raises:
        InputError: a time, direction or tolerance out of range, or an unknown method.
        ShapeError: the velocities differ in shape from the states, or g is not one number per item.
        DivergedError, NotConvergedError: an item failed and `throw` is set.

    Limits: g is sampled eight times per step. Two zeros within one eighth of a step can be missed together; reduce dt, max_step or
        the tolerance. Where the orbit is tangent to the surface (`speeds` near 0), the time is only accurate to the square root of
        the error, may or may not be found, and has no derivative.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.6; Chen, Amos & Nickel 2021, ICLR,
        arXiv:2011.03902; root search: Chandrupatla 1997, Adv. Eng. Softw. 28, 145.

    Example:
        >>> ball = sx.solve_until(lambda x: torch.stack([x[..., 1], -torch.ones_like(x[..., 1])], -1),
        ...                       torch.tensor([2.0, 0.0]).double(), event=lambda x: x[..., 0], end=5.0)
        >>> print(f"{float(ball.times):.4f}")  # a fall from height 2 with g = 1 takes 2 units of time
        2.0000
    """
    if isinstance(field, Flow):
        method, dt = method or field.method, field.dt if method is None and dt is None else dt
        field = field.field
    method = method or "dopri5"
    _check(direction, tol, method, dt, max_steps)
    check_no_longest(max_step, dt)
    tolerance = Tolerance(rtol, atol, max_steps, max_step)
    if any(isinstance(part, Tensor) and forward_ad.unpack_dual(part).tangent is not None for part in (x0, start)):
        raise InputError(
            "torch.autograd.forward_ad does not pass through solve_until.\n"
            "Use torch.func.jvp or torch.func.jacfwd, or reverse-mode gradients."
        )
    own = as_field(field, time_dependent=time_dependent)
    x0 = as_state(x0, own)
    batch = x0.shape[:-1]
    if dt is None:
        check_tolerance(x0, tolerance)
    own = twin(own, dtype=x0.dtype, device=x0.device)
    ready = Unfolded(own, batch)
    problem = Problem.of(x0, start, end)
    first_velocity(own, problem.x0.reshape(x0.shape), problem.begin.detach().reshape(1, *batch), by_tolerance=True)
    surface = Surface(twin(FunctionField(event, time_dependent=time_dependent), dtype=x0.dtype, device=x0.device))
    surface.check(problem)
    side = surface.side(ready, problem, tol)
    watch = Watch(surface, side, direction)
    if dt is None:
        run = steps_by_tolerance(ready, problem, watch, method, tolerance)
    else:
        run = equal_steps_until(ready, problem, watch, SOLVERS[method], dt, max_steps)
    bracket = first_bracket(ready, surface, SOLVERS[method], run, side, direction)
    event_at = located(ready, surface, SOLVERS[method], run, problem, bracket, tol)
    settings = {"method": method, "dt": dt, **vars(tolerance), "direction": direction, "tol": tol}
    found = _arrival(problem, run, bracket, event_at, batch, settings)
    return found.or_raise(throw)


def _arrival(problem: Problem, run: Run, bracket: Bracket, event: Located, batch: torch.Size, settings: dict[str, Any]) -> Arrival:
    """The result; items that could not start have no event."""
    found = bracket.found & problem.given
    codes = run.codes.where(~found & problem.given, int(Status.OK)).where(problem.finite, int(Status.DIVERGED))
    return Arrival(
        times=event.t.where(found, torch.nan).reshape(batch),
        states=event.x.where(found[:, None], torch.nan).reshape(*batch, -1),
        found=found.reshape(batch),
        speeds=event.speed.where(found, torch.nan).reshape(batch),
        accepted=run.accepted.where(problem.given, 0).reshape(batch),
        rejected=run.rejected.where(problem.given, 0).reshape(batch),
        reached=event.t.detach().where(found, run.reached.where(problem.given, torch.nan)).reshape(batch),
        codes=codes.reshape(batch),
        settings=settings,
    )


def _check(direction: int, tol: float | None, method: str, dt: float | None, max_steps: int) -> None:
    if isinstance(direction, Tensor) or direction not in (-1, 0, 1):
        raise refused("direction", direction, "+1 (g rising through 0), −1 (falling) or 0 (both)")
    if tol is not None:
        check_not_negative("tol", tol)
    check_whole("max_steps", max_steps, 1)
    check_method(method, dt)
