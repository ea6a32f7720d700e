"""The start of a branch: its equations, its units and its first point."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from separatrix.analysis.branches.branch import TOTAL, Bifurcation
from separatrix.analysis.branches.branch_equations import Equations
from separatrix.analysis.branches.conserved import Totals, conserved_sums, in_words, may_conserve, trial_residuals, with_given
from separatrix.analysis.branches.knob import Knob, knob_of
from separatrix.analysis.run.units import as_scale, filled
from separatrix.core.checks import as_numbers
from separatrix.core.derivative import check_derivative
from separatrix.core.derived import Frozen, Iterate
from separatrix.core.errors import InputError
from separatrix.core.evolve import begin, check_system_type
from separatrix.core.system import System
from separatrix.core.wording import plain
from separatrix.flows.field import Field

FIRST = 100  # maximum number of Newton steps to the first point
ROUNDS = 6  # of Newton's method, each in units taken from the last
PROBES = (0.02, 0.25, 1.0)  # fractions of the range at which Newton's method looks for other points, for the size of states
FARTHEST = 1e3  # largest size of these points, relative to the first point
VANISHING = 1e-3  # a component that shrinks by this factor from one round to the next is 0
OFF = 0.25  # distance of the other branch's first point from the bifurcation, relative to step_size
LEAST_OFF = 1e-4  # least change of the parameter there, relative to that distance
FACTOR, TRIALS = 8.0, 40  # factor by which that distance is changed, and maximum number of changes
BESIDE = 0.01  # distance, in the state's unit, at which another fixed point is sought
ROUNDED_TERMS = 1e-14  # relative to an equation's terms: a residual below this is zero to rounding
ALONE = 1e-10  # least singular value above which a point is certainly isolated
GENERAL = ("separatrix.core.", "separatrix.flows.")  # modules whose pushforward is forward AD or composed of those of parts


def begun(
    system: System,
    parameter: str,
    direction: Tensor | None,
    start: float,
    stop: float,
    x0: Tensor | Bifurcation | None,
    total: Any,
    scale: Any,
    period: int,
    tol: float,
    seed: int,
) -> tuple[Equations, Tensor]:
    """The equations and the first point of the branch; if x0 is a bifurcation, its state."""
    knob = _knob(system, parameter, direction, total)
    continuous = system.continuous
    if continuous and period > 1:
        raise InputError(
            f"expected period 1 for a flow, got {period}.\n"
            "Omit it to follow the flow's equilibria; to follow its cycles, pass an sx.Section."
        )
    if isinstance(x0, Bifurcation):
        _check_other_branch(x0, parameter, start, stop)
        at, state = x0.parameter, x0.point
    else:
        at, state = start, system.initial_state((), seed) if x0 is None else as_numbers("x0", x0)
    front = begin(system if knob is None else knob.set(system, at), state, seed=seed)
    if front.x.ndim != 1:
        raise InputError(
            f"expected 1 state to start from, got a batch of shape {tuple(front.x.shape[:-1])}.\nCall it for each state."
        )
    frozen: System = Frozen(front.system, 0)
    own = _has_tangents(frozen)
    if not own:
        check_derivative(frozen.residual, front.x, "field" if continuous else "step")
    iterate = frozen if continuous else Iterate(frozen, period)
    x, given = front.x, as_scale(scale, front.x)
    known = x.abs().maximum(x0.direction[:-1].to(x).abs()) if isinstance(x0, Bifurcation) else x.abs()
    unit = filled(known) if given is None else given
    none = Totals(x.new_zeros(0, len(x)))
    equations = Equations(iterate, continuous, knob, start, stop - start, unit, tol, none, x.new_zeros(0), own)
    totals = _totals(equations, x, parameter, total)
    equations = Equations(iterate, continuous, knob, start, stop - start, unit, tol, totals, totals.of(x), own)
    if isinstance(x0, Bifurcation):
        return equations, x
    equations, x = _onto_branch(equations, x, given)
    _check_isolated(equations, x)
    return (equations if given is not None else equations.in_scale(_seen_scale(equations, x))), x


def _has_tangents(system: System) -> bool:
    """Whether any part defines a pushforward of its own, beyond forward AD and compositions."""
    parts = [part for part in system.modules() if isinstance(part, System | Field)]
    return any(not type(part).pushforward.__module__.startswith(GENERAL) for part in parts)


def _knob(system: System, parameter: str, direction: Any, total: Any) -> Knob | None:
    """What the parameter sets; None if it is a total."""
    check_system_type(system)
    if parameter != TOTAL or (total is None and TOTAL in system.parameter_names):
        return knob_of(system, parameter, direction)
    if direction is not None:
        raise InputError('the parameter "total" is a number and takes no direction.\nOmit direction.')
    return None


def _totals(equations: Equations, x: Tensor, parameter: str, weights: Any) -> Totals:
    """The conserved quantities, the varied one first; refuses a total that cannot be varied."""
    none = equations.totals
    varies_total = equations.knob is None
    if weights is None and not varies_total and not may_conserve(equations.linear(equations.at(x, 0.0)).own):
        return none
    points = [torch.tensor(equations.start + share * equations.span, dtype=x.dtype, device=x.device) for share in (0.0, 0.37, 1.0)]
    residuals = [_quiet(equations.system_at(p)) for p in points[: 1 if varies_total else 3]]
    found = conserved_sums(residuals, x, equations.scale)
    if weights is not None:
        weights = weights if callable(weights) and not isinstance(weights, Tensor) else as_numbers("total", weights)
        if isinstance(weights, Tensor) and (
            weights.ndim not in (1, 2) or weights.shape[-1] != len(x) or not bool(weights.any(-1).all())
        ):
            raise InputError(
                f"expected weights of shape ({len(x)},) in total, not all 0, got shape {tuple(weights.shape)}.\n"
                "Give one weight for each number of the state: [1, 1, 0]."
            )
        return with_given(found, weights, *trial_residuals(residuals, x, equations.scale))
    if varies_total and len(found) != 1:
        known = ", ".join(in_words(row) for row in found)
        what = f"{len(found)} conserved sums: {known}" if len(found) else "0 conserved sums"
        more = "the weights of the one to vary" if len(found) else "a function of the state that is conserved, if there is one"
        raise InputError(f"the parameter {parameter!r} needs 1 conserved sum, but this system has {what}.\nPass total=, {more}.")
    return Totals(found)


def _quiet(system: System) -> Callable[[Tensor], Tensor]:
    """The residual, NaN for states that raise an error."""

    def residual(states: Tensor) -> Tensor:
        try:
            return system.residual(states)
        except Exception:  # the user's code may refuse these states
            return torch.full_like(states, torch.nan)

    return residual


def _onto_branch(equations: Equations, x: Tensor, given: Tensor | None) -> tuple[Equations, Tensor]:
    """The fixed point near x at the start of the range, found repeatedly, each time in the units of the last result."""
    up = torch.cat([torch.zeros_like(x), x.new_ones(1)])
    if given is None and not x.any():  # at x = 0 the first Newton step gives the only scale
        local = equations.linear(equations.at(x, 0.0))
        moved = (torch.linalg.pinv(local.slope[:, :-1]) @ local.g).abs() * equations.scale
        equations = equations.in_scale(filled(torch.where(torch.isfinite(moved), moved, 0.0)))
    for _ in range(ROUNDS):
        found = equations.correct(equations.at(x, 0.0), up, FIRST)
        if found is None:
            raise _no_start(equations, x)
        before, x = equations.scale, equations.state(found.z)
        if given is not None:
            break
        shrunk = x.abs() < VANISHING * before
        equations = equations.in_scale(filled(x.abs()))
        if not bool((shrunk & (x != 0)).any()):
            break
    x = torch.where((x.abs() < VANISHING * before) & (given is None), 0.0, x)
    return equations if given is not None else equations.in_scale(filled(x.abs())), x


def _no_start(equations: Equations, x: Tensor) -> InputError:
    size = float(equations.system_at(x.new_tensor(equations.start)).residual(x).abs().amax())
    what = TOTAL if equations.knob is None else equations.knob.parameter
    return InputError(
        f"found no fixed point or cycle near x0 at {what} = {equations.start:g}: Newton's method did not reduce the residual, "
        f"{plain(size)} at x0, to tol = {equations.tol:g} relative to its terms.\n"
        "Pass an x0 closer to one; for a stable one, the end of a trajectory."
    )


def _seen_scale(equations: Equations, x: Tensor) -> Tensor:
    """The largest size of each component at the first point and at others over the range. See Note [Units of a branch]."""
    up = torch.cat([torch.zeros_like(x), x.new_ones(1)])
    size = x.abs()
    most = torch.where(size > 0, FARTHEST * size, torch.inf)
    for share in PROBES:
        found = equations.correct(equations.at(x, share), up)
        if found is not None:
            size = torch.maximum(size, torch.minimum(equations.state(found.z).abs(), most))
    return filled(size)


def _check_isolated(equations: Equations, x: Tensor) -> None:
    """Refuse a point on a curve of fixed points at one parameter value: the branch would be undetermined."""
    z = equations.at(x, 0.0)
    local = equations.linear(z)
    square = local.reduced[:, :-1]
    size = square.abs().sum(-1)
    _, values, right = torch.linalg.svd(square / torch.where(size > 0, size, 1.0)[:, None])
    if not len(values) or float(values[-1]) > ALONE:
        return
    beside = z + BESIDE * torch.cat([right[-1] @ local.basis, z.new_zeros(1)])
    plane = torch.stack([torch.cat([right[-1] @ local.basis, z.new_zeros(1)]), torch.zeros_like(z)])
    plane[1, -1] = 1
    for _ in range(3):
        there = equations.linear(beside)
        step = torch.linalg.pinv(torch.cat([there.slope, plane])) @ torch.cat([-there.g, z.new_zeros(2)])
        beside = beside + step
    there = equations.linear(beside)
    if there.size <= max(ROUNDED_TERMS, 10 * local.size) and bool(torch.isfinite(beside).all()):
        what = TOTAL if equations.knob is None else equations.knob.parameter
        raise InputError(
            f"the fixed points at {what} = {equations.start:g} are not isolated: the one near x0 has a neighbour at a distance of "
            f"{BESIDE:g} times its size.\nIf the system conserves a quantity that is not a linear sum of the state, pass it as "
            "total=function; otherwise start where fixed points are isolated."
        )


def _check_other_branch(event: Bifurcation, parameter: str, start: float, stop: float) -> None:
    if not bool(event.direction.any()):
        raise InputError(
            f"expected a flip, a pitchfork or a transcritical bifurcation, which have another branch, got a {event.kind}.\n"
            "To follow the cycles of a flow, pass an sx.Section."
        )
    if not min(start, stop) <= event.parameter <= max(start, stop):
        raise InputError(
            f"the {event.kind} at {parameter} = {event.parameter:.6g} lies outside the range {start:g} … {stop:g}.\n"
            "Choose start and stop on either side of it."
        )


def onto_other_branch(equations: Equations, event: Bifurcation, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """A point on the other branch through a bifurcation, the direction to it, and the units for the walk from there.

    The distance is chosen such that the parameter changes by a fraction of a step; on an arm of a pitchfork it changes by the
    square of the distance.
    """
    here = equations.at(event.point, (event.parameter - equations.start) / equations.span)
    away = torch.cat([event.direction[:-1] / equations.scale, event.direction[-1:] / equations.span])
    away = away / torch.linalg.vector_norm(away)
    off, found, tried = OFF * step, None, set()
    for _ in range(TRIALS):
        point = equations.correct(here + off * away, away)
        z = None if point is None else point.z
        moved = 0.0 if z is None else float((z[-1] - here[-1]).abs())
        if z is not None and found is None:
            found = off, z
        if z is not None and moved >= LEAST_OFF * OFF * step and moved <= 4 * step:
            found = off, z
            break
        tried.add(off)
        off = off * FACTOR if z is not None and moved <= 4 * step else off / FACTOR
        if any(abs(off / one - 1) < 1e-6 for one in tried):
            break
    if found is None:
        name = TOTAL if equations.knob is None else equations.knob.parameter
        raise InputError(
            f"the other branch through the {event.kind} at {name} = {event.parameter:.6g} was not found: "
            f"Newton's method did not converge at a distance of {step * OFF:g} from it.\nTake a step_size smaller than {step:g}."
        )
    off, z = found
    size = equations.state(z).abs()
    moved = (off * equations.scale * away[:-1]).abs() / (OFF * step)
    return z, away, filled(torch.maximum(size, moved))
