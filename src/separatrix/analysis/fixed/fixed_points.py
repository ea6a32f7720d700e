"""Fixed points of maps, equilibria of flows, cycles and slow points, and their stability."""

from dataclasses import replace
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
from separatrix.analysis.fixed.rounding import hidden_by_rounding
from separatrix.analysis.fixed.search import Search
from separatrix.analysis.fixed.sensitivity import sensitivity
from separatrix.analysis.fixed.stability import Stability, kinked, stability_of
from separatrix.analysis.fixed.zeros import Options, find_ends
from separatrix.analysis.run.units import as_scale
from separatrix.core.checks import as_numbers, check_fraction, check_seed, check_whole
from separatrix.core.derived import InUnit
from separatrix.core.errors import HorizonError, InputError, ShapeError
from separatrix.core.evolve import begin, check_system_type
from separatrix.core.result import Status
from separatrix.core.system import System

SLOW = 1e-3  # relative slope of ‖residual‖ below which a state with a nonzero residual counts as a local minimum


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
    throw: bool = False,
) -> FixedPoints:
    r"""Fixed points and cycles of a map,  F^p(x) = x,  or equilibria of a flow,  f(x) = 0,  with their stability.

    Damped Newton steps are taken from many guesses in one batch; a guess that fails does not affect the others. The input of a
    driven system is frozen at step n.

    Args:
        system: any System; for a flow, equilibria and eigenvalues are those of its field and do not depend on the solver.
        guesses: initial states, shape (*batch, dim). Default: `starts` states on 16 orbits, scattered by 1 % to 200 % of their
            spread.
        n: the step at which the input, or the time, is frozen.
        period: p, at least 1. Cycles whose period divides p are also found; see `minimal_period`.
        tol: ‖residual‖∞ that counts as zero, or the rounding error if that is larger. If most guesses and their images are below
            1e-3 or above 1e3, `tol` and `distinct` are in units of their median. The time of a flow is treated in the same way.
        max_steps: maximum number of Newton steps.
        path_steps: maximum number of homotopy steps for guesses on which Newton's method stalls; 0 for no homotopy. A path leads
            from almost every guess to a zero if distant states move inwards, as for networks with bounded states and for
            dissipative flows. Every other path is followed to its second zero, because det(1 − DF) > 0 at all first zeros.
        distinct: distance below which two points count as one, relative to max(1, ‖x‖∞).
        starts: number of guesses if none are given.
        scale: size of the states, as one number or one per component, shape (dim). States are divided by it, so `tol` and
            `distinct` are relative to it. Default: see `tol`.
        seed: seed of the guesses.
        progress: show a progress bar.
        throw: raise if no point is found, instead of returning an empty result.

    Returns:
        FixedPoints: `points` (point, dim), `multipliers`, `rates`, `kind`, `found_by`, and separately `slow`.

    Raises:
        InputError: period, starts or max_steps is below 1, there are no guesses, or a flow is given a period.
        HorizonError: the system has no step n.
        ShapeError: the system is a batch of systems.
        DivergedError, NotConvergedError: with `throw=True`, if no point is found.

    Limits: the search finds the points that the guesses lead to; it does not prove that there are no others. Dense Jacobians are
        formed in pieces of 1,000,000 numbers. For states of more than 2,000 numbers only Jacobian–vector products are used (GMRES,
        Arnoldi): there are no paths and no slow points, only the 6 leading eigenvalues, and `errors` is an estimate. On a line of
        fixed points each guess finds its own point: see `isolated`.
    Source: Sussillo & Barak 2013, Neural Comput. 25, 626 (guesses from orbits, slow points); damping as Moré 1978, Lect. Notes
        Math. 630, 105; paths: Chow, Mallet-Paris & Yorke 1978, Math. Comp. 32, 887.

    Example:
        >>> well = sx.Flow(lambda x: x - x**3, dim=1, dt=0.1)
        >>> found = sx.fixed_points(well, torch.tensor([[-2.0], [0.1], [2.0]], dtype=torch.float64))
        >>> found.kind
        ('stable node', 'stable node', 'unstable node')
        >>> [round(rate, 6) for rate in found.rates[:, 0].tolist()]
        [-2.0, -2.0, 1.0]
    """
    options = Options(tol, max_steps, path_steps, distinct, starts, seed)
    _check(system, n, period, options)
    start = _start(system, guesses, options, n, scale)
    problem = Problem.of(start.system, n, period).at_pace_of(start.states)
    ends = find_ends(problem, start.states, options, progress=progress)
    fates = _fates(problem, start, ends)
    search = Search(problem, start.system, options, may_restart=guesses is None)
    zeros, further = search.all_points(start.states, ends.only(fates.is_zero))
    orbits, stability = _most_attracting_first(problem, orbits_of(problem, zeros, distinct), start)
    settings = {
        "n": n,
        "period": period,
        **options._asdict(),
        "starts": starts if guesses is None else None,
        "further_starts": further,
        "unit": start.unit if start.scale is None else start.scale.tolist(),
        "border": BORDER[start.x.dtype],
        "clock": system.clock,
    }
    return _result(start, problem, ends, fates, orbits, stability, settings).or_raise(throw)


class _Start(NamedTuple):
    """The start of a search.

    Args:
        given: the system as passed, for states in their own unit.
        system: the system for states in units of `unit`.
        x: the guesses in that unit, (*batch, dim); guesses that are not finite are zero.
        usable: (item), whether a guess is finite.
        n: the step at which the input is frozen.
        unit: one number, or one per component.
        scale: the sizes passed by the user, (dim), or None.
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
    """The end of each guess, (item): its status, and whether it is a zero or a slow point."""

    codes: Tensor
    is_zero: Tensor
    is_slow: Tensor


def _start(system: System, guesses: Tensor | None, options: Options, n: int, scale: float | Tensor | None) -> _Start:
    """The guesses, in a unit of their own size."""
    given = default_guesses(system, options.starts, options.seed) if guesses is None else as_numbers("guesses", guesses, None)
    if given.numel() == 0:
        raise InputError(f"there are no guesses: their shape is {tuple(given.shape)}.\nPass at least one state, or leave them out.")
    finite = torch.isfinite(given).all(-1)
    usable = given.where(finite[..., None], 0.0)
    begun = begin(system, usable[None] if usable.ndim == 1 else usable, seed=options.seed)  # the search runs on a batch
    if usable.ndim == 1 and begun.x.shape[:-1] == (1,):
        begun = replace(begun, x=begun.x[0], lived=begun.lived[0])
    sizes, batch = as_scale(scale, begun.x), begun.x.shape[:-1]
    unit = unit_of(begun.x[finite.expand(batch)], begun.system.step(begun.x, n)) if sizes is None else sizes
    front = replace(begun, system=InUnit(begun.system, unit), x=begun.x / unit) if sizes is not None or unit != 1 else begun
    return _Start(begun.system, front.system, front.x, finite.to(front.x.device).expand(batch).reshape(-1), n, unit, sizes)


def _fates(problem: Problem, start: _Start, ends: Zeros) -> _Fates:
    """Status of each guess: ok at a zero that is not due to rounding, diverged if the residual is not finite."""
    is_hidden = hidden_by_rounding(problem, start.states, ends)
    is_zero, diverged = ends.is_zero & start.usable & ~is_hidden, ~(start.usable & torch.isfinite(ends.size))
    codes = torch.where(is_zero, Status.OK, torch.where(diverged, Status.DIVERGED, Status.NOT_CONVERGED)).to(torch.int8)
    return _Fates(codes, is_zero, ~is_zero & ~diverged & ~is_hidden & (ends.slope < SLOW))


def _most_attracting_first(problem: Problem, orbits: Orbits, start: _Start) -> tuple[Orbits, Stability]:
    """The orbits and their stability, the most attracting first."""
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
    """The result, with states in the units of the system."""
    unit, distinct, points = start.unit, settings["distinct"], orbits.points
    slow = ends.x[distinct_ends(ends, fates.is_slow, distinct**0.5)[0]]  # the error of a minimum is about the root of a zero's
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
    """‖residual‖∞ at each state, in the units of the system."""
    return (unit * problem.residual(x)).abs().amax(-1) / problem.pace if len(x) else x[:, 0]


def _check(system: System, n: int, period: int, options: Options) -> None:
    check_system_type(system)
    check_seed(options.seed)
    check_whole("n", n)
    for name, value in (("period", period), ("starts", options.starts), ("max_steps", options.max_steps)):
        check_whole(name, value, 1)
    check_whole("path_steps", options.path_steps, 0)
    check_fraction("tol", options.tol)
    check_fraction("distinct", options.distinct)
    if n < 0 or (system.horizon is not None and n >= system.horizon):
        steps = "from 0 on" if system.horizon is None else f"0 … {system.horizon - 1}"
        raise HorizonError(f"n is {n}, but the steps of this system are {steps}.")
    if system.batch_shape:
        raise ShapeError(
            f"expected one system, got a batch: its parameters or inputs have batch axes {tuple(system.batch_shape)}.\n"
            "Search one of them at a time: pass system.at(…), or one sequence of inputs."
        )
