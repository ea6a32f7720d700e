"""Fixed points of maps, equilibria of flows, cycles and slow points, each with its stability."""

from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.guesses import default_guesses
from separatrix.analysis.fixed.indices import index_expected, index_sum
from separatrix.analysis.fixed.kinds import BORDER
from separatrix.analysis.fixed.newton import Zeros
from separatrix.analysis.fixed.orbits import Orbits, distinct_ends, orbits_of
from separatrix.analysis.fixed.problem import Problem, unit_of
from separatrix.analysis.fixed.result import FixedPoints
from separatrix.analysis.fixed.rounding import drowned
from separatrix.analysis.fixed.search import Search
from separatrix.analysis.fixed.sensitivity import sensitivity
from separatrix.analysis.fixed.stability import Stability, kinked, stability_of
from separatrix.analysis.fixed.zeros import Asked, find_ends
from separatrix.analysis.run.units import as_scale
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.derived import InUnit
from separatrix.core.errors import HorizonError, InputError, ShapeError
from separatrix.core.evolve import begin, check_system_type
from separatrix.core.result import Status
from separatrix.core.system import System

SLOW = 1e-3  # relative slope of ‖residual‖ below which a state that is no zero counts as a local minimum


@torch.no_grad()
def fixed_points(
    system: System,
    guesses: Tensor | None = None,
    *,
    n: int = 0,
    period: int = 1,
    tol: float = 1e-12,
    max_steps: int = 100,
    path_steps: int = 500,
    distinct: float = 1e-6,
    starts: int = 256,
    scale: float | Tensor | None = None,
    seed: int = 0,
    progress: bool = False,
) -> FixedPoints:
    r"""Zeros of  F^p(x) − x,  or of a flow's field, by damped Newton steps from many guesses at once, and their stability.

    The drive is frozen at step n. All guesses are solved as one batch, each on its own: one that fails disturbs no other.

    Args:
        system: any System; a flow is taken at its field, so that equilibria and eigenvalues are the flow's, not the solver's.
        guesses: states to begin from, shape (*batch, dim). Default: `starts` states of 16 orbits, scattered by 1 % to 200 % of
            their spread.
        n: the step whose drive, or time, is kept for ever.
        period: p, at least 1. Cycles whose period divides p are found too, and say so.
        tol: ‖residual‖∞ that counts as zero; or what rounding allows, where that is more. Where most guesses and their images are
            below 1e-3, or above 1e3, this and `distinct` are in units of their median. A flow's time is counted likewise.
        max_steps: Newton steps at most.
        path_steps: for each guess that Newton's method strands, most steps along a path (see Source) that leads to a zero from
            almost every guess if states far out are brought inwards, as by a network of bounded states or a dissipative flow.
            Every other path is followed to its second zero, since det(1 − DF) > 0 at all first ones. 0: no paths.
        distinct: points nearer than this to each other, relative to max(1, ‖x‖∞), are one.
        starts: how many guesses to make where none are given.
        scale: the size of states, a number, or one for each number of the state, shape (dim): all is then done with states divided
            by it, and 1 in `tol` and `distinct` is that. Default: see `tol`.
        seed: of the guesses.
        progress: show a progress bar.

    Returns:
        FixedPoints: `points` (point, dim), `multipliers`, `rates`, `kind`, `found_by`, and `slow` apart from them.

    Raises:
        InputError: period, starts or max_steps below 1, no guesses, or a flow with a period.
        HorizonError: the system has no step n.
        ShapeError: the system is a batch of systems.

    Limits: what the guesses lead to is found; that there is no more is not proved. Dense Jacobians in pieces of 1,000,000 numbers;
        of states of more than 2,000 numbers only products J v are used (GMRES, Arnoldi): no paths, no slow points, the leading 6
        eigenvalues, `errors` estimated. On a line of fixed points each guess finds a point of its own: see `isolated`.
    Source: Sussillo & Barak 2013, Neural Comput. 25, 626 (guesses from orbits, slow points); damping as Moré 1978, Lect. Notes
        Math. 630, 105; paths: Chow, Mallet-Paris & Yorke 1978, Math. Comp. 32, 887.
    """
    asked = Asked(tol, max_steps, path_steps, distinct, starts, seed)
    _check(system, n, period, asked)
    start = _start(system, guesses, asked, n, scale)
    problem = Problem.of(start.system, n, period).at_pace_of(start.states)
    ends = find_ends(problem, start.states, asked, progress=progress)
    fates = _fates(problem, start, ends)
    search = Search(problem, start.system, asked, is_free=guesses is None)
    zeros, further = search.all_points(start.states, ends.only(fates.is_zero))
    orbits, stability = _most_attracting_first(problem, orbits_of(problem, zeros, distinct), start)
    settings = {
        "n": n,
        "period": period,
        **asked._asdict(),
        "starts": starts if guesses is None else None,
        "further_starts": further,
        "unit": start.unit if start.scale is None else start.scale.tolist(),
        "border": BORDER[start.x.dtype],
        "clock": system.clock,
    }
    return _result(start, problem, ends, fates, orbits, stability, settings)


class _Start(NamedTuple):
    """Where the search begins.

    Args:
        given: the system as it was given, for states in their own unit.
        system: the same with states counted in `unit`.
        x: the guesses in that unit, (*batch, dim), zero where a number was not finite.
        usable: (item), whether all numbers of a guess are finite.
        n: the step whose drive is kept.
        unit: a number, or one for each number of the state.
        scale: the sizes that were asked for, (dim), or None.
    """

    given: System
    system: System
    x: Tensor
    usable: Tensor
    n: int
    unit: float | Tensor
    scale: Tensor | None

    @property
    def states(self) -> Tensor:
        """The guesses, (item, dim)."""
        return self.x.reshape(-1, self.x.shape[-1])


class _Fates(NamedTuple):
    """What became of each guess, (item): its status, and whether it ended at a zero or at a slow point."""

    codes: Tensor
    is_zero: Tensor
    is_slow: Tensor


def _start(system: System, guesses: Tensor | None, asked: Asked, n: int, scale: float | Tensor | None) -> _Start:
    """The guesses, given or made, in a unit that suits them."""
    given = default_guesses(system, asked.starts, asked.seed) if guesses is None else _as_guesses(guesses)
    if given.numel() == 0:
        raise InputError(f"there are no guesses: their shape is {tuple(given.shape)}.\nPass at least one state, or leave them out.")
    finite = torch.isfinite(given).all(-1)
    begun = begin(system, given.where(finite[..., None], 0.0), seed=asked.seed)
    sizes, batch = as_scale(scale, begun.x), begun.x.shape[:-1]
    unit = unit_of(begun.x[finite.expand(batch)], begun.system.step(begun.x, n)) if sizes is None else sizes
    front = replace(begun, system=InUnit(begun.system, unit), x=begun.x / unit) if sizes is not None or unit != 1 else begun
    return _Start(begun.system, front.system, front.x, finite.to(front.x.device).expand(batch).reshape(-1), n, unit, sizes)


def _fates(problem: Problem, start: _Start, ends: Zeros) -> _Fates:
    """A zero is one that rounding alone does not make; what has no finite residual diverged."""
    is_drowned = drowned(problem, start.states, ends)
    is_zero, broken = ends.is_zero & start.usable & ~is_drowned, ~(start.usable & torch.isfinite(ends.size))
    codes = torch.where(is_zero, Status.OK, torch.where(broken, Status.DIVERGED, Status.NOT_CONVERGED)).to(torch.int8)
    return _Fates(codes, is_zero, ~is_zero & ~broken & ~is_drowned & (ends.slope < SLOW))


def _most_attracting_first(problem: Problem, orbits: Orbits, start: _Start) -> tuple[Orbits, Stability]:
    """The orbits in that order, and their stability."""
    stability = stability_of(problem, orbits.points)
    stability = stability.without(kinked(problem, orbits.points, float(start.states.abs().mean()) or 1.0))
    order = stability.rates[:, 0].argsort(stable=True)
    return orbits.only(order), stability.only(order)


def _result(
    start: _Start,
    problem: Problem,
    ends: Zeros,
    fates: _Fates,
    orbits: Orbits,
    stability: Stability,
    settings: dict[str, Any],
) -> FixedPoints:
    """All of it, states in the system's own units."""
    unit, distinct, points = start.unit, settings["distinct"], orbits.points
    slow = ends.x[distinct_ends(ends, fates.is_slow, distinct**0.5)[0]]  # a minimum is located to about the root of a zero's error
    time = stability.time * orbits.minimal_period.to(stability.time.device) / problem.period
    return FixedPoints(
        codes=fates.codes.reshape(start.x.shape[:-1]),
        points=unit * points,
        residuals=_largest_residuals(problem, points, unit),
        errors=stability.errors * (unit if start.scale is None else start.scale.max()),
        multipliers=stability.multipliers,
        rates=stability.rates,
        frequencies=stability.frequencies,
        kind=tuple(stability.kind),
        minimal_period=orbits.minimal_period,
        cycles=unit * orbits.cycles,
        periods=None if problem.is_flow else time,
        found_by=orbits.found_by,
        slow=unit * slow,
        slow_residuals=_largest_residuals(problem, slow, unit),
        sensitivity=sensitivity(problem, start.given, points, unit, start.n),
        reached=unit * ends.x.where(fates.is_zero[:, None], torch.nan).reshape(start.x.shape),
        size=float(start.x.square().mean().sqrt()),
        index_sum=index_sum(problem, orbits, stability, distinct),
        index_expected=index_expected(problem),
        settings=settings,
    )


def _largest_residuals(problem: Problem, x: Tensor, unit: float | Tensor) -> Tensor:
    """‖residual‖∞ at each state, in the system's own units."""
    return (unit * problem.residual(x)).abs().amax(-1) / problem.pace if len(x) else x[:, 0]


def _check(system: System, n: int, period: int, asked: Asked) -> None:
    check_system_type(system)
    check_seed(asked.seed)
    check_whole("n", n)
    for name, value in (("period", period), ("starts", asked.starts), ("max_steps", asked.max_steps)):
        if check_whole(name, value) < 1:
            raise InputError(f"{name} is {value}; it is at least 1.")
    if check_whole("path_steps", asked.path_steps) < 0:
        raise InputError(f"path_steps is {asked.path_steps}; it counts steps, so it is 0 or more.")
    for name, value in (("tol", asked.tol), ("distinct", asked.distinct)):
        if not (isinstance(value, Real) and 0 < value < 1):
            raise InputError(f"{name} is {value}; it is a small positive number.")
    if n < 0 or (system.horizon is not None and n >= system.horizon):
        last = "without end" if system.horizon is None else f"up to {system.horizon - 1}"
        raise HorizonError(f"n is {n}, but the steps of this system are counted from 0, {last}.")
    if system.batch_shape:
        raise ShapeError(
            f"this is a batch of systems: its parameters or inputs have batch axes {tuple(system.batch_shape)}.\n"
            "Ask for the fixed points of one of them at a time: system.at(…), or one sequence of inputs."
        )


def _as_guesses(guesses: object) -> Tensor:
    try:
        return torch.as_tensor(guesses)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"guesses cannot be read as numbers: {str(error).splitlines()[0]}") from None
