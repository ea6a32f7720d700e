"""Where a system rests: fixed points, rest points of flows, cycles and slow points, each with its stability."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from numbers import Real
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.anchors import Anchors
from separatrix.analysis.fixed.further import FEW, shot, wide_guesses
from separatrix.analysis.fixed.guesses import default_guesses
from separatrix.analysis.fixed.homotopy import follow
from separatrix.analysis.fixed.krylov import find_zeros_by_products, gmres, leading_eigenvalues
from separatrix.analysis.fixed.newton import ROUNDINGS, Zeros, find_zeros
from separatrix.analysis.fixed.stability import BORDER, kind_of
from separatrix.analysis.run.units import as_scale
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.derivative import on_a_kink
from separatrix.core.derived import Frozen, InUnit, Iterate
from separatrix.core.driven import Driven
from separatrix.core.errors import HorizonError, InputError, ShapeError
from separatrix.core.evolve import begin, check_system_type
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.tangent import jacobian
from separatrix.core.twin import twin
from separatrix.core.wording import counted, plain

MOST_NUMBERS = 2_000  # of a state whose Jacobian is made as a dense matrix; above, only its products with vectors are
SMALLEST = 1e-3  # of most guesses, down from which, and up from its inverse, states are counted in a unit of their own
PACERS = 64  # guesses at which rates are looked at
KINK = "on a kink"  # where there is no derivative
LEADING = 6  # eigenvalues of such a state
AT_ONCE = 1_000_000  # numbers of all Jacobians of one batch of guesses: more would leave the processor's cache
FAR, AUDIBLE = 1e3, 1e-3  # times the guess's size, and its residual: farther out, a zero must stand out more from rounding
ROUNDS = 3  # of another search where the indices do not add up
MOST_SHOTS = 3  # times as many as guesses, of cycles solved for at once
SLOW = 1e-3  # relative slope of ‖residual‖ below which a state that is no zero counts as a local minimum


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FixedPoints(Result):
    r"""Rest points of a flow, fixed points of a map, or its cycles, the most attracting first.

    Each guess has a status: `ok` when it came to a point, `not_converged` when it ended elsewhere (at a slow point, perhaps), and
    `diverged` when the system has no finite value there.

    Args:
        points: (point, dim); of a cycle, one of its states.
        residuals: (point), ‖F^p(x) − x‖∞, or the largest component of a flow's field.
        errors: (point), how far rounding may have moved the point, ‖ |DF^p − 1|⁻¹ ε (|x| + |DF^p − 1| |x|) ‖∞ to first order; inf
            where the matrix is singular, as on a line of rest points. With a scale for each number: over it, times the largest.
        multipliers: (point, eigenvalue), complex, |μ| descending: eigenvalues of DF^p; of a flow, exp(λ dt) with λ those of its
            field. All of them; of states of more than 2,000 numbers the leading 6.
        rates: (point, eigenvalue), nats per unit time: ln|μ| / T, T the time that F^p takes there; of a flow, Re λ.
        frequencies: (point, eigenvalue), radians per unit time: arg μ / T; of a flow, Im λ.
        kind: (point), "stable node", "saddle with 1 unstable direction", …; "undecided" where an eigenvalue is too near the border;
            "on a kink" where the step has no derivative (a ReLU of zero), and so no eigenvalues, which are NaN.
        minimal_period: (point), the smallest number of steps after which the state returns; 1 for a rest point.
        cycles: (point, phase, dim), the p states of each cycle, the first of them being the point.
        periods: (point), time of one round of the cycle, in the system's unit: of a section, the period of the flow's cycle. None
            where a flow's rest points were sought, which have none.
        found_by: (point), how many guesses came to it.
        slow: (slow_point, dim), local minima of ‖residual‖ that are not zero: states where the system lingers.
        slow_residuals: (slow_point), ‖residual‖∞ there.
        sensitivity: (point, dim, input), ∂x*/∂u, how a rest point moves with the frozen input: (1 − DF)⁻¹ ∂F/∂u. None where
            the system has no input, or p > 1; NaN where DF has the eigenvalue 1.
        reached: (*batch, dim), where each guess came to; NaN for those that came to no point.
        size: root mean square of the guesses in units of `settings["unit"]`.
        index_sum: Σ sign det(1 − DF^p) over all points of period p, those of shorter cycles included; of a flow, Σ sign det(−Df).
            None where a point is not isolated, so that it has no sign, or where there are too many numbers for a determinant.
        index_expected: what it is if no point is missing (Lefschetz): 1 for a system that says it maps a ball into itself
            (`System.into_ball`), as PyTorch's own cells with tanh; None where that is not known.
    """

    points: Tensor
    residuals: Tensor
    errors: Tensor
    multipliers: Tensor
    rates: Tensor
    frequencies: Tensor
    kind: tuple[str, ...]
    minimal_period: Tensor
    cycles: Tensor
    found_by: Tensor
    slow: Tensor
    slow_residuals: Tensor
    reached: Tensor
    size: float
    index_sum: int | None = None
    index_expected: int | None = None
    periods: Tensor | None = None
    sensitivity: Tensor | None = None

    layout: ClassVar[dict[str, str]] = {
        "points": "point dim",
        "residuals": "point",
        "errors": "point",
        "multipliers": "point eigenvalue",
        "rates": "point eigenvalue",
        "frequencies": "point eigenvalue",
        "minimal_period": "point",
        "cycles": "point phase dim",
        "periods": "point",
        "found_by": "point",
        "slow": "slow_point dim",
        "slow_residuals": "slow_point",
        "reached": "batch dim",
        "sensitivity": "point dim input",
    }
    units: ClassVar[dict[str, str]] = {
        "rates": "nats per unit time",
        "frequencies": "radians per unit time",
        "periods": "units of time",
        **dict.fromkeys(("points", "cycles", "slow", "reached"), "the state's unit"),
    }

    @property
    def eigenvalues(self) -> Tensor:
        """Rates and frequencies as complex numbers λ, per unit time, (point, eigenvalue): of a flow, its field's eigenvalues."""
        return torch.complex(self.rates, self.frequencies)

    @property
    def isolated(self) -> Tensor:
        """Whether a point's place is known to better than `distinct`, (point): not on a line of rest points, nor in a flat."""
        unit = torch.as_tensor(self.settings.get("unit", 1.0)).to(self.points)
        return _is_isolated(self.errors / unit.max(), self.points / unit, self.settings["distinct"])

    @property
    def points_missing(self) -> bool | None:
        """Whether the indices do not add up, so that points are missing. False: they do, which is no proof. None: not known."""
        if self.index_sum is None or self.index_expected is None:
            return None
        return self.index_sum != self.index_expected

    def _indices(self) -> list[str]:
        if self.index_sum is None:
            return []
        what = "det(−Df)" if self.periods is None else "det(1 − DF)" if self.cycles.shape[1] == 1 else "det(1 − DFᵖ)"
        told = f"Σ sign {what} = {self.index_sum}".replace("-", "−")
        if self.points_missing:
            return [f"points are missing: {told}, but {self.index_expected} over all there are"]
        return [told + (", as over all there are" if self.points_missing is False else "")]

    def summary(self) -> str:
        """How many points of which kind, whether their indices add up, and what became of the guesses."""
        kinds = ", ".join(f"{number} × {kind}" for kind, number in Counter(self.kind).items())
        noun = "point" if self.cycles.shape[1] == 1 else "orbit"
        lines = [f"{counted(len(self.points), noun)}{f': {kinds}' if kinds else ''}"]
        if loose := int((~self.isolated).sum()):
            lines.append(f"{counted(loose, noun)} not isolated: on a line of such, or where all is flat to rounding")
        lines += self._indices()
        if len(self.slow):
            least = plain(float(self.slow_residuals.min()))
            lines.append(f"{counted(len(self.slow), 'slow point')}, not converged; the smallest residual is {least}")
        lost = [
            f"{number} {status.words}"
            for status in (Status.NOT_CONVERGED, Status.DIVERGED)
            if (number := int((self.codes == status).sum()))
        ]
        of_which = f", of which {' and '.join(lost)}" if lost else ""
        more = int(self.settings.get("further_starts", 0))
        lines.append(f"from {self.codes.numel():,} guesses{of_which}{f', and {more:,} further starts' if more else ''}")
        return "\n".join(lines)


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
    count: int = 256,
    scale: float | Tensor | None = None,
    seed: int = 0,
    progress: bool = False,
) -> FixedPoints:
    r"""Zeros of  F^p(x) − x,  or of a flow's field, by damped Newton steps from many guesses at once, and their stability.

    The drive is frozen at step n. All guesses are solved as one batch, each on its own: one that fails disturbs no other.

    Args:
        system: any System; a flow is taken at its field, so that rest points and eigenvalues are the flow's, not the solver's.
        guesses: states to begin from, shape (*batch, dim). Default: `count` states of 16 orbits, scattered by 1 % to 200 % of
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
        count: how many guesses to make where none are given.
        scale: the size of states, a number, or one for each number of the state, shape (dim): all is then done with states divided
            by it, and 1 in `tol` and `distinct` is that. Default: see `tol`.
        seed: of the guesses.
        progress: show a progress bar.

    Returns:
        FixedPoints: `points` (point, dim), `multipliers`, `rates`, `kind`, `found_by`, and `slow` apart from them.

    Raises:
        InputError: period, count or max_steps below 1, no guesses, or a flow with a period.
        HorizonError: the system has no step n.
        ShapeError: the system is a batch of systems.

    Limits: what the guesses lead to is found; that there is no more is not proved. Dense Jacobians in pieces of 1,000,000 numbers;
        of states of more than 2,000 numbers only products J v are used (GMRES, Arnoldi): no paths, no slow points, the leading 6
        eigenvalues, `errors` estimated. On a line of rest points each guess finds a point of its own: see `isolated`.
    Source: Sussillo & Barak 2013, Neural Comput. 25, 626 (guesses from orbits, slow points); damping as Moré 1978, Lect. Notes
        Math. 630, 105; paths: Chow, Mallet-Paris & Yorke 1978, Math. Comp. 32, 887.
    """
    _check(system, n=n, period=period, count=count, max_steps=max_steps, seed=seed)
    if check_whole("path_steps", path_steps) < 0:
        raise InputError(f"path_steps is {path_steps}; it counts steps, so it is 0 or more.")
    _check_tolerances(tol=tol, distinct=distinct)
    given = default_guesses(system, count, seed) if guesses is None else _as_guesses(guesses)
    if given.numel() == 0:
        raise InputError(f"there are no guesses: their shape is {tuple(given.shape)}.\nPass at least one state, or leave them out.")
    usable = torch.isfinite(given).all(-1)
    begun = begin(system, given.where(usable[..., None], 0.0), seed=seed)
    asked = as_scale(scale, begun.x)
    unit = _unit(begun.x[usable.expand(begun.x.shape[:-1])], begun.system.step(begun.x, n)) if asked is None else asked
    front = replace(begun, system=InUnit(begun.system, unit), x=begun.x / unit) if asked is not None or unit != 1 else begun
    starts = front.x.reshape(-1, system.dim)
    problem = Problem.of(front.system, n, period).at_pace_of(starts)
    search = _Search(problem, front.system, n, _Asked(tol, max_steps, path_steps, distinct, count, seed), guesses is None)
    ends = _solved(problem, starts, tol, max_steps, path_steps, progress)
    usable = usable.to(front.x.device).expand(front.x.shape[:-1])
    drowned = _drowned(problem, starts, ends)
    zero, broken = ends.is_zero & usable.reshape(-1) & ~drowned, ~(usable.reshape(-1) & torch.isfinite(ends.size))
    codes = torch.where(zero, Status.OK, torch.where(broken, Status.DIVERGED, Status.NOT_CONVERGED)).to(torch.int8)
    found, further = search.all_points(starts, ends.only(zero))
    chosen, found_by, cycles = _orbits(problem, found, distinct)
    points = found.x[chosen]
    stability = _stability(problem, points).without(_kinked(problem, points, float(starts.abs().mean()) or 1.0))
    minimal = _minimal_period(cycles, distinct)
    order = stability.rates[:, 0].argsort(stable=True)
    near = ~zero & ~broken & ~drowned & (ends.slope < SLOW)
    slow = _distinct(ends, near, distinct**0.5)[0]  # a minimum is located to about the root of what a zero is
    return FixedPoints(
        codes=codes.reshape(front.x.shape[:-1]),
        points=unit * points[order],
        residuals=_largest_residuals(problem, points[order], unit),
        errors=stability.errors[order] * (unit if asked is None else asked.max()),
        multipliers=stability.multipliers[order],
        rates=stability.rates[order],
        frequencies=stability.frequencies[order],
        kind=tuple(stability.kind[i] for i in order.tolist()),
        minimal_period=minimal[order],
        cycles=unit * cycles[order],
        periods=None if problem.is_flow else (problem.time(points) * minimal.to(points.device) / period)[order],
        found_by=found_by[order],
        slow=unit * ends.x[slow],
        slow_residuals=_largest_residuals(problem, ends.x[slow], unit),
        sensitivity=_sensitivity(problem, begun.system, points[order], unit, n),
        reached=unit * ends.x.where(zero[:, None], torch.nan).reshape(front.x.shape),
        size=float(front.x.square().mean().sqrt()),
        index_sum=_index_sum(problem, points, stability, minimal, distinct),
        index_expected=_index_expected(problem),
        settings={
            "n": n,
            "period": period,
            "tol": tol,
            "max_steps": max_steps,
            "path_steps": path_steps,
            "distinct": distinct,
            "count": count if guesses is None else None,
            "further_starts": further,
            "seed": seed,
            "unit": unit if asked is None else asked.tolist(),
            "border": BORDER[front.x.dtype],
            "clock": system.clock,
        },
    )


class Problem(NamedTuple):
    """A system whose rest is sought, frozen in time, and whether its residual is a field or F^p(x) − x.

    A field is multiplied by `pace`, a time: what is small is so against states alone.
    """

    step: System
    system: System
    period: int
    is_flow: bool
    pace: float = 1.0

    @classmethod
    def of(cls, system: System, n: int, period: int) -> "Problem":
        frozen = Frozen(system, n)
        if system.continuous:
            if period != 1:
                raise InputError(
                    f"period is {period}, but a flow's rest points have none.\nFor cycles of its steps pass sx.Iterate(system, 1)."
                )
            return cls(frozen, frozen, 1, True)
        return cls(frozen, Iterate(frozen, period), period, False)

    def at_pace_of(self, states: Tensor) -> "Problem":
        """The same with a flow's time in a unit of its own where rates are all small, or huge, against 1."""
        if not self.is_flow:
            return self
        some = states[torch.isfinite(states).all(-1)][:PACERS]
        along = torch.randn(some.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(some)
        rates = self.pushed(some, along).norm(dim=-1) / along.norm(dim=-1)
        rates = rates[torch.isfinite(rates) & (rates > 0)]
        rate = float(rates.median()) if len(rates) else 1.0
        return self if SMALLEST <= rate <= 1 / SMALLEST else self._replace(pace=2.0 ** -round(math.log2(rate)))

    def residual(self, x: Tensor) -> Tensor:
        value = self.system.residual(x)
        return value if self.pace == 1 else self.pace * value

    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The residual and its Jacobian, (items, dim) and (items, dim, dim)."""
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        value, rows = self.system.residual_pushforward(x, identity.expand(len(x), -1, -1))
        return (value, rows.mT) if self.pace == 1 else (self.pace * value, self.pace * rows.mT)

    def pushed(self, x: Tensor, v: Tensor) -> Tensor:
        """The residual's Jacobian along one tangent each, (items, dim)."""
        return self.pace * self.system.residual_pushforward(x, v[:, None])[1][:, 0]

    def leading(self, points: Tensor) -> Tensor:
        """The leading eigenvalues at each point: of a flow's field those of largest real part, else the largest multipliers."""
        shift, which = (0.0, "LR") if self.is_flow else (1.0, "LM")
        products = [lambda v, x=x[None]: self.pushed(x, v[None])[0] + shift * v for x in points]
        return torch.stack([leading_eigenvalues(product, points[0], LEADING, which, seed=0) for product in products])

    @property
    def is_wide(self) -> bool:
        """Whether the state has too many numbers for a dense Jacobian."""
        return self.step.dim > MOST_NUMBERS

    def time(self, x: Tensor) -> Tensor:
        """The time that the map F^p takes from each state, shape (items), float64."""
        return torch.as_tensor(self.system.elapsed(x), dtype=torch.float64, device=x.device).expand(len(x))


class Stability(NamedTuple):
    """Eigenvalues of several points, |μ| descending, the kinds they make, and how well the points are placed."""

    multipliers: Tensor
    rates: Tensor
    frequencies: Tensor
    kind: list[str]
    errors: Tensor

    def without(self, kinked: Tensor) -> "Stability":
        """The same without what points on a kink have not: a derivative, and so eigenvalues."""
        if not bool(kinked.any()):
            return self
        nan, there = torch.nan, kinked[:, None]
        values = torch.complex(*(part.masked_fill(there, nan) for part in (self.multipliers.real, self.multipliers.imag)))
        kind = [KINK if on_it else one for one, on_it in zip(self.kind, kinked.tolist(), strict=True)]
        return Stability(values, self.rates.masked_fill(there, nan), self.frequencies.masked_fill(there, nan), kind, self.errors)


def _solved(
    problem: Problem, x: Tensor, tol: float, max_steps: int, path_steps: int, progress: bool, *, zeros_only: bool = False
) -> Zeros:
    """The ends of all guesses, in batches of moderate size; if only zeros count, what strands is left where it is."""
    pieces = x.split(max(1, AT_ONCE // (x.shape[-1] * (1 if problem.is_wide else x.shape[-1]))))
    ticks = watched_count(len(pieces), "guesses", progress)
    anchors = Anchors(problem.residual, problem.linearised)
    ends: list[Zeros] = []
    for tick in ticks:
        ends.append(_solved_at_once(problem, pieces[tick.index], anchors, tol, max_steps, path_steps, zeros_only))
    return Zeros(*(torch.cat(parts) for parts in zip(*(vars(end).values() for end in ends), strict=True)))


class _Asked(NamedTuple):
    """What was asked of the search."""

    tol: float
    max_steps: int
    path_steps: int
    distinct: float
    count: int
    seed: int


class _Search:
    """All starts of one problem: the guesses', the points of the period's divisors, and further ones where that costs little."""

    def __init__(self, problem: Problem, system: System, n: int, asked: _Asked, is_free: bool) -> None:
        self.problem, self.system, self.n, self.asked, self.is_free = problem, system, n, asked, is_free

    def all_points(self, guesses: Tensor, found: Zeros) -> tuple[Zeros, int]:
        """What was found from the guesses and what further starts add, and how many those were."""
        starts = torch.cat([self.of_divisors(guesses), self.around(guesses, found, self.asked.seed)])
        found, count = self.added(found, starts, 0), len(starts)
        for again in range(1, ROUNDS + 1):
            if not (self.is_free and self.is_short_of(found)):
                break
            seed = self.asked.seed + again
            guessed = default_guesses(self.system, self.asked.count, seed).to(guesses)
            starts = torch.cat([guessed, self.around(torch.cat([guesses, guessed]), found, seed)])
            found, count = self.added(found, starts, self.asked.path_steps), count + len(starts)
        return found, count

    def added(self, found: Zeros, starts: Tensor, path_steps: int) -> Zeros:
        """What was found, and the isolated points that these starts lead to: far out, rounding alone may look like rest."""
        if not len(starts):
            return found
        ends = _solved(self.problem, starts, self.asked.tol, self.asked.max_steps, path_steps, False, zeros_only=True)
        new = ends.only(ends.is_zero & ~ends.vague & ~_drowned(self.problem, starts, ends))
        if not self.problem.is_wide and len(new.x):
            new = new.only(_is_isolated(_errors(self.problem.linearised(new.x)[1].double(), new.x), new.x, self.asked.distinct))
        return Zeros(*(torch.cat(parts) for parts in zip(vars(found).values(), vars(new).values(), strict=True)))

    def of_divisors(self, guesses: Tensor) -> Tensor:
        """The points of all periods that divide this one: they are points of this one too, and others may be near."""
        period, parts = self.problem.period, [guesses[:0]]
        for divisor in (d for d in range(1, period) if period % d == 0):
            shorter = _Search(Problem.of(self.system, self.n, divisor), self.system, self.n, self.asked, self.is_free)
            found = shorter.added(_none(guesses), guesses, 0)
            found = shorter.added(found, shorter.around(guesses, found, self.asked.seed), 0)
            parts.append(found.x[_distinct(found, found.is_zero, self.asked.distinct)[0]])
        return torch.cat(parts)

    def around(self, guesses: Tensor, found: Zeros, seed: int) -> Tensor:
        """Wide guesses and, of cycles, states found by solving for all of a cycle at once; none where there are many numbers."""
        step, period = self.problem.step, self.problem.period
        is_needless = self.problem.is_flow and seed == self.asked.seed  # a flow's first search has paths for every guess
        if not self.is_free or is_needless or period * guesses.shape[-1] > FEW:
            return guesses[:0]
        finite = guesses[torch.isfinite(guesses).all(-1)]
        wide = wide_guesses(step.step, finite, self.asked.count, seed)
        if period == 1:
            return wide
        pool = torch.cat([finite, wide, found.x])
        options = {"tol": self.asked.tol, "max_steps": self.asked.max_steps, "seed": seed}
        return torch.cat(
            [wide, shot(step.step, step.pushforward, pool, period, self.asked.count * min(period, MOST_SHOTS), **options)]
        )

    def is_short_of(self, found: Zeros) -> bool:
        """Whether the indices of what was found do not add up."""
        expected = _index_expected(self.problem)
        if expected is None:
            return False
        chosen, _, cycles = _orbits(self.problem, found, self.asked.distinct)
        points = found.x[chosen]
        minimal = _minimal_period(cycles, self.asked.distinct)
        total = _index_sum(self.problem, points, _stability(self.problem, points), minimal, self.asked.distinct)
        return total is not None and total != expected


def _is_isolated(errors: Tensor, points: Tensor, distinct: float) -> Tensor:
    """Whether each point's place is known to better than `distinct`."""
    return errors <= distinct * points.abs().amax(-1).clamp(min=1)


def _largest_residuals(problem: Problem, x: Tensor, unit: float | Tensor) -> Tensor:
    """‖residual‖∞ at each state, in the system's own units."""
    return (unit * problem.residual(x)).abs().amax(-1) / problem.pace if len(x) else x[:, 0]


def _none(like: Tensor) -> Zeros:
    """No ends at all."""
    empty = like[:0]
    return Zeros(empty, empty[:, 0], empty[:, 0] > 0, empty[:, 0] > 0, empty[:, 0])


def _index_expected(problem: Problem) -> int | None:
    return 1 if problem.step.into_ball and not problem.is_wide else None


def _index_sum(problem: Problem, points: Tensor, stability: Stability, minimal: Tensor, distinct: float) -> int | None:
    """Σ sign det(1 − DF^p) over all states of all cycles, or Σ sign det(−Df); None where one has no sign."""
    if problem.is_wide or KINK in stability.kind or not bool(_is_isolated(stability.errors, points, distinct).all()):
        return None
    if not len(points):
        return 0
    signs = torch.linalg.slogdet(-problem.linearised(points)[1].double())[0]
    return int((signs.cpu() * minimal).sum())


def _drowned(problem: Problem, starts: Tensor, ends: Zeros) -> Tensor:
    """Which ends are so far out that rounding there drowns such a residual as the guess had: what seems zero may not be."""
    size = ends.x.abs().amax(-1)
    rounding = ROUNDINGS * torch.finfo(size.dtype).eps * size
    seen = problem.residual(starts).abs().amax(-1)
    return (size > FAR * starts.abs().amax(-1).clamp(min=1)) & (rounding > AUDIBLE * seen)


def _solved_at_once(
    problem: Problem, x: Tensor, anchors: Anchors, tol: float, max_steps: int, path_steps: int, zeros_only: bool
) -> Zeros:
    """Newton's method; where it strands, a path from the guess; where that is lost too, down to a minimum of ‖residual‖."""
    residual, linearised = problem.residual, problem.linearised
    if problem.is_wide:
        return find_zeros_by_products(residual, problem.pushed, x, tol=tol, max_steps=max_steps)
    landed = anchors.landed
    ends = find_zeros(residual, linearised, x, tol=tol, max_steps=max_steps, patient=not (path_steps or zeros_only), landed=landed)
    anchors.add(ends.x[ends.is_zero])
    stranded = ((~ends.is_zero | ends.vague) & torch.isfinite(ends.size)).nonzero()[:, 0]
    if path_steps and len(stranded):
        crossings = 1 + torch.arange(len(stranded), device=x.device) % 2
        for near in follow(linearised, x[stranded], crossings, max_steps=path_steps).unbind(1):
            met = torch.isfinite(near).all(-1)
            if not met.any():
                break
            found = find_zeros(residual, linearised, near[met], tol=tol, max_steps=max_steps, patient=False, landed=landed)
            anchors.add(found.x[found.is_zero])
            better = found.is_zero & (~found.vague | ~ends.is_zero[stranded[met]])
            ends = ends.replaced(stranded[met][better], found.only(better))
    stranded = stranded[~ends.is_zero[stranded]]
    if len(stranded) and not zeros_only:
        ends = ends.replaced(stranded, find_zeros(residual, linearised, ends.x[stranded], tol=tol, max_steps=max_steps, even=False))
    return ends


def _orbits(problem: Problem, ends: Zeros, distinct: float) -> tuple[Tensor, Tensor, Tensor]:
    """One end for each orbit, how many guesses came to that orbit, and its states, (point, phase, dim)."""
    chosen, counts = _distinct(ends, ends.is_zero, distinct)
    states = [ends.x[chosen]]
    for _ in range(problem.period - 1):
        states.append(problem.step.step(states[-1]))
    cycles = torch.stack(states, dim=1)
    kept, found_by = [], []
    left = list(range(len(chosen)))
    while left:
        first = left[0]
        on_it = [i for i in left if i == first or bool(_near(cycles[first], cycles[i, 0], 10 * distinct).any())]
        kept.append(first)
        found_by.append(int(counts[on_it].sum()))
        left = [i for i in left if i not in on_it]
    return chosen[kept], torch.tensor(found_by, dtype=torch.int64), cycles[kept]


def _distinct(ends: Zeros, among: Tensor, distance: float) -> tuple[Tensor, Tensor]:
    """Indices of ends that differ, the smallest residual of each group, and the size of its group."""
    left = among.nonzero()[:, 0]
    left = left[ends.size[left].argsort(stable=True)]
    chosen, counts = [], []
    while len(left):
        same = _near(ends.x[left], ends.x[left[0]], distance)
        same[0] = True
        chosen.append(int(left[0]))
        counts.append(int(same.sum()))
        left = left[~same]
    return torch.tensor(chosen, dtype=torch.int64), torch.tensor(counts, dtype=torch.int64)


def _near(x: Tensor, point: Tensor, distance: float) -> Tensor:
    distance = max(distance, 100 * torch.finfo(x.dtype).eps)
    return (x - point).abs().amax(-1) <= distance * point.abs().amax().clamp(min=1)


def _minimal_period(cycles: Tensor, distinct: float) -> Tensor:
    """The first phase, of those that divide the period, at which the state is back."""
    phases = cycles.shape[1]
    found = [
        next((d for d in range(1, phases) if phases % d == 0 and bool(_near(c[d], c[0], 10 * distinct))), phases) for c in cycles
    ]
    return torch.tensor(found, dtype=torch.int64)


def _stability(problem: Problem, points: Tensor) -> Stability:
    """The eigenvalues at each point; of a wide system the leading ones."""
    if not len(points):
        none = torch.zeros_like(points, dtype=torch.float64)
        return Stability(none.to(torch.complex128), none, none, [], none[:, 0])
    border, dim, time = BORDER[points.dtype], points.shape[-1], problem.time(points)[:, None]
    if problem.is_wide:
        values, errors = problem.leading(points), _errors_by_products(problem, points)
    else:
        matrix = problem.linearised(points)[1].double()
        one = torch.eye(dim, dtype=matrix.dtype, device=matrix.device)
        values, errors = torch.linalg.eigvals(matrix if problem.is_flow else matrix + one), _errors(matrix, points)
    if problem.is_flow:
        values = values / problem.pace
        values = values.gather(-1, values.real.argsort(dim=-1, descending=True, stable=True))
        size = values.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        kind = [kind_of(one.real, one.imag, border, dim) for one in values / size]
        return Stability((values * time).exp(), values.real.clone(), values.imag.clone(), kind, errors)
    values = values.gather(-1, values.abs().argsort(dim=-1, descending=True, stable=True))
    growth, angle = values.abs().log(), values.angle()
    turning = values.imag / values.abs().clamp(min=torch.finfo(torch.float64).tiny)
    kind = [kind_of(one, turn, border, dim) for one, turn in zip(growth, turning, strict=True)]
    return Stability(values, growth / time, angle / time, kind, errors)


def _kinked(problem: Problem, points: Tensor, size: float) -> Tensor:
    """Which points lie on a kink of the residual, tried in float64 among states of that size."""
    exact = problem if points.dtype == torch.float64 else problem._replace(system=twin(problem.system, dtype=torch.float64))
    return on_a_kink(exact.residual, points.double(), size)


def _errors(matrix: Tensor, points: Tensor) -> Tensor:
    """What rounding in the residual moves a point by, to first order: ‖ |J⁻¹| ε (|x| + |J| |x|) ‖∞."""
    inverse, failed = torch.linalg.inv_ex(matrix)
    size = points.double().abs()
    rounding = torch.finfo(points.dtype).eps * (size + (matrix.abs() @ size[..., None])[..., 0])
    moved = (inverse.abs() @ rounding[..., None])[..., 0].amax(-1)
    return torch.where((failed == 0) & torch.isfinite(moved), moved, torch.inf)


def _errors_by_products(problem: Problem, points: Tensor) -> Tensor:
    """The same with one random choice of rounding's signs in place of all: |J⁻¹ (± ε |x|)|, an estimate."""
    signs = torch.randint(0, 2, points.shape, generator=torch.Generator().manual_seed(0)).to(points) * 2 - 1
    rounding = torch.finfo(points.dtype).eps * points.abs().amax(-1, keepdim=True) * signs
    return gmres(lambda v: problem.pushed(points, v), rounding).abs().amax(-1).double()


def _unit(guesses: Tensor, after: Tensor) -> float:
    """The unit in which states are counted, a power of 2: 1, unless most guesses and what becomes of them are tiny, or huge."""
    before, after = (sizes[(sizes > 0) & sizes.isfinite()] for sizes in (guesses.abs().amax(-1), after.abs().amax(-1).flatten()))
    if not len(before) or not len(after):
        return 1.0
    sizes = float(before.median()), float(after.median())
    size = max(sizes) if max(sizes) < SMALLEST else min(sizes) if min(sizes) > 1 / SMALLEST else 1.0
    return 2.0 ** round(math.log2(size))


def _sensitivity(problem: Problem, system: System, points: Tensor, unit: float | Tensor, n: int) -> Tensor | None:
    """∂x*/∂u at each point, by the implicit function theorem on F(x, u) = x."""
    if not isinstance(system, Driven) or problem.is_flow or problem.is_wide or problem.period > 1 or not len(points):
        return None
    u = system.drive(n).to(points)
    if u.ndim != 1 or u.numel() == 0:
        return None
    along_input = jacobian(lambda w: system.advance(unit * points, w), u.expand(len(points), -1))
    along_input = along_input if isinstance(unit, float) else along_input / unit[:, None]
    solution, failed = torch.linalg.solve_ex(-problem.linearised(points)[1], along_input)
    solution = solution if isinstance(unit, float) else solution * unit[:, None]
    return solution.masked_fill((failed != 0)[:, None, None], torch.nan)


def _check(system: System, *, n: int, seed: int, **counts: int) -> None:
    check_system_type(system)
    check_seed(seed)
    check_whole("n", n)
    for name, value in counts.items():
        check_whole(name, value)
        if value < 1:
            raise InputError(f"{name} is {value}; it is at least 1.")
    if n < 0 or (system.horizon is not None and n >= system.horizon):
        last = "without end" if system.horizon is None else f"up to {system.horizon - 1}"
        raise HorizonError(f"n is {n}, but the steps of this system are counted from 0, {last}.")
    if system.batch_shape:
        raise ShapeError(
            f"this is a batch of systems: its parameters or inputs have batch axes {tuple(system.batch_shape)}.\n"
            "Ask for the rest points of one of them at a time: system.at(…), or one sequence of inputs."
        )


def _as_guesses(guesses: object) -> Tensor:
    try:
        return torch.as_tensor(guesses)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"guesses cannot be read as numbers: {str(error).splitlines()[0]}") from None


def _check_tolerances(**values: float) -> None:
    for name, value in values.items():
        if not (isinstance(value, Real) and 0 < value < 1):
            raise InputError(f"{name} is {value}; it is a small positive number.")
