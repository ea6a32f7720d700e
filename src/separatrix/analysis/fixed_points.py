"""Where a system rests: fixed points, rest points of flows, cycles and slow points, each with its stability."""

import math
from collections import Counter
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from separatrix.analysis.anchors import Anchors
from separatrix.analysis.guesses import default_guesses
from separatrix.analysis.homotopy import follow
from separatrix.analysis.krylov import find_zeros_by_products, gmres, leading_eigenvalues
from separatrix.analysis.newton import ROUNDINGS, Zeros, find_zeros
from separatrix.analysis.stability import BORDER, kind_of
from separatrix.errors import HorizonError, InputError, ShapeError
from separatrix.evolve import begin, check_seed, check_system_type, check_whole, watched_count
from separatrix.result import Result, Status
from separatrix.system import Derived, Driven, Frozen, Iterate, System
from separatrix.tangent import jacobian, pushforward
from separatrix.wording import counted, plain

MOST_NUMBERS = 2_000  # of a state whose Jacobian is made as a dense matrix; above, only its products with vectors are
LEADING = 6  # eigenvalues of such a state
AT_ONCE = 1_000_000  # numbers of all Jacobians of one batch of guesses: more would leave the processor's cache
FAR, AUDIBLE = 1e3, 1e-3  # times the guess's size, and its residual: farther out, a zero must stand out more from rounding
SMALL = 1e-3  # size of all states below which they are counted in a unit of their own
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
            where the matrix is singular, as on a line of rest points.
        multipliers: (point, eigenvalue), complex, |μ| descending: eigenvalues of DF^p; of a flow, exp(λ dt) with λ those of its
            field. All of them; of states of more than 2,000 numbers the leading 6.
        rates: (point, eigenvalue), nats per unit time: ln|μ| / T, T the time that F^p takes there; of a flow, Re λ.
        frequencies: (point, eigenvalue), radians per unit time: arg μ / T; of a flow, Im λ.
        kind: (point), "stable node", "saddle with 1 unstable direction", …; "undecided" where an eigenvalue is too near the border.
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
        return self.errors <= self.settings["distinct"] * self.points.abs().amax(-1).clamp(min=self.settings.get("unit", 1.0))

    def summary(self) -> str:
        """How many points of which kind, and what became of the guesses."""
        kinds = ", ".join(f"{number} × {kind}" for kind, number in Counter(self.kind).items())
        noun = "point" if self.cycles.shape[1] == 1 else "orbit"
        lines = [f"{counted(len(self.points), noun)}{f': {kinds}' if kinds else ''}"]
        if loose := int((~self.isolated).sum()):
            lines.append(f"{counted(loose, noun)} not isolated: on a line of such, or where all is flat to rounding")
        if len(self.slow):
            least = plain(float(self.slow_residuals.min()))
            lines.append(f"{counted(len(self.slow), 'slow point')}, not converged; the smallest residual is {least}")
        lost = [
            f"{number} {status.words}"
            for status in (Status.NOT_CONVERGED, Status.DIVERGED)
            if (number := int((self.codes == status).sum()))
        ]
        of_which = f", of which {' and '.join(lost)}" if lost else ""
        lines.append(f"from {self.codes.numel():,} guesses{of_which}")
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
        tol: ‖residual‖∞ that counts as zero; or what rounding allows, where that is more. Of guesses that are all below 10⁻³ it is
            in units of the largest, as `distinct` is.
        max_steps: Newton steps at most.
        path_steps: for each guess that Newton's method strands, most steps along a path (see Source) that leads to a zero from
            almost every guess if states far out are brought inwards, as by a network of bounded states or a dissipative flow.
            Every other path is followed to its second zero, since det(1 − DF) > 0 at all first ones. 0: no paths.
        distinct: points nearer than this to each other, relative to max(1, ‖x‖∞), are one.
        count: how many guesses to make where none are given.
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
    front = begin(system, given.where(usable[..., None], 0.0), seed=seed)
    unit = unit_of(front.x)
    problem = Problem.of(front.system, n, period, unit)
    starts = front.x.reshape(-1, system.dim) / unit
    ends = _solved(problem, starts, tol, max_steps, path_steps, progress)
    usable = usable.to(front.x.device).expand(front.x.shape[:-1])
    drowned = _drowned(problem, starts, ends)
    zero, broken = ends.is_zero & usable.reshape(-1) & ~drowned, ~(usable.reshape(-1) & torch.isfinite(ends.size))
    codes = torch.where(zero, Status.OK, torch.where(broken, Status.DIVERGED, Status.NOT_CONVERGED)).to(torch.int8)
    chosen, found_by, cycles = _orbits(problem, ends, zero, distinct)
    stability, minimal = _stability(problem, ends.x[chosen]), _minimal_period(cycles, distinct)
    order = stability.rates[:, 0].argsort(stable=True)
    near = ~zero & ~broken & ~drowned & (ends.slope < SLOW)
    slow = _distinct(ends, near, distinct**0.5)[0]  # a minimum is located to about the root of what a zero is
    return FixedPoints(
        codes=codes.reshape(front.x.shape[:-1]),
        points=unit * ends.x[chosen][order],
        residuals=unit * ends.size[chosen][order],
        errors=unit * stability.errors[order],
        multipliers=stability.multipliers[order],
        rates=stability.rates[order],
        frequencies=stability.frequencies[order],
        kind=tuple(stability.kind[i] for i in order.tolist()),
        minimal_period=minimal[order],
        cycles=unit * cycles[order],
        periods=None if problem.is_flow else (problem.time(ends.x[chosen]) * minimal.to(ends.x.device) / period)[order],
        found_by=found_by[order],
        slow=unit * ends.x[slow],
        slow_residuals=unit * ends.size[slow],
        sensitivity=_sensitivity(problem, front.system, ends.x[chosen][order], n),
        reached=unit * ends.x.where(zero[:, None], torch.nan).reshape(front.x.shape),
        settings={
            "n": n,
            "period": period,
            "tol": tol,
            "max_steps": max_steps,
            "path_steps": path_steps,
            "distinct": distinct,
            "count": count if guesses is None else None,
            "seed": seed,
            "unit": unit,
            "border": BORDER[front.x.dtype],
        },
    )


class Problem(NamedTuple):
    """A system whose rest is sought, frozen in time, and whether its residual is a field or F^p(x) − x."""

    step: System
    system: System
    period: int
    is_flow: bool
    unit: float = 1.0

    @classmethod
    def of(cls, system: System, n: int, period: int, unit: float = 1.0) -> "Problem":
        frozen = Frozen(system, n) if unit == 1 else InUnits(Frozen(system, n), unit)
        if is_flow(system):
            if period != 1:
                raise InputError(
                    f"period is {period}, but a flow's rest points have none.\nFor cycles of its steps pass sx.Iterate(system, 1)."
                )
            return cls(frozen, frozen, 1, True, unit)
        return cls(frozen, Iterate(frozen, period), period, False, unit)

    def residual(self, x: Tensor) -> Tensor:
        return self.system.residual(x)

    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The residual and its Jacobian, (items, dim) and (items, dim, dim)."""
        if self.is_flow:
            return self.residual(x), jacobian(self.residual, x)
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        after, rows = self.system.pushforward(x, identity.expand(len(x), -1, -1))
        return after - x, rows.mT - identity

    def pushed(self, x: Tensor, v: Tensor) -> Tensor:
        """The residual's Jacobian along one tangent each, (items, dim)."""
        if self.is_flow:
            return pushforward(self.residual, x, v[:, None])[1][:, 0]
        return self.system.pushforward(x, v[:, None])[1][:, 0] - v

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


class InUnits(Derived):
    """A system whose states are counted in a unit: y = x / unit; the tangents are the same, the residual is counted in it too."""

    def __init__(self, system: System, unit: float) -> None:
        super().__init__(system, horizon=system.horizon)
        self.unit = unit

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's, in the unit."""
        return self.system.step(self.unit * x, n) / self.unit

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The inner system's, of states in the unit."""
        value, pushed = self.system.pushforward(self.unit * x, v, n)
        return value / self.unit, pushed

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's, in the unit."""
        return self.system.residual(self.unit * x, n) / self.unit

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        """The inner system's."""
        return self.system.elapsed(self.unit * x, n)


def unit_of(x: Tensor) -> float:
    """What the states are counted in: 1; of states that are all below 10⁻³, a power of two near the largest.

    Tolerances are relative to max(1, ‖x‖), so that a zero at the origin can be told. In units in which the whole state space is
    small, a residual as large as the state would be zero, and all points one.
    """
    largest = float(x.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return 1.0 if largest >= SMALL or largest == 0 else 2.0 ** math.floor(math.log2(largest))


class Stability(NamedTuple):
    """Eigenvalues of several points, |μ| descending, the kinds they make, and how well the points are placed."""

    multipliers: Tensor
    rates: Tensor
    frequencies: Tensor
    kind: list[str]
    errors: Tensor


def is_flow(system: System) -> bool:
    """Whether the system has a residual of its own, a field, in place of F(x) − x."""
    while type(system).residual in (Derived.residual, Frozen.residual):
        system = cast(System, system.system)
    return type(system).residual not in (System.residual, Iterate.residual)


def _solved(problem: Problem, x: Tensor, tol: float, max_steps: int, path_steps: int, progress: bool) -> Zeros:
    """The ends of all guesses, in batches of moderate size."""
    pieces = x.split(max(1, AT_ONCE // (x.shape[-1] * (1 if problem.is_wide else x.shape[-1]))))
    ticks = watched_count(len(pieces), "guesses", progress)
    anchors = Anchors(problem.residual, problem.linearised)
    ends: list[Zeros] = []
    for tick in ticks:
        ends.append(_solved_at_once(problem, pieces[tick.index], anchors, tol, max_steps, path_steps))
    return Zeros(*(torch.cat(parts) for parts in zip(*(vars(end).values() for end in ends), strict=True)))


def _drowned(problem: Problem, starts: Tensor, ends: Zeros) -> Tensor:
    """Which ends are so far out that rounding there drowns such a residual as the guess had: what seems zero may not be."""
    size = ends.x.abs().amax(-1)
    rounding = ROUNDINGS * torch.finfo(size.dtype).eps * size
    seen = problem.residual(starts).abs().amax(-1)
    return (size > FAR * starts.abs().amax(-1).clamp(min=1)) & (rounding > AUDIBLE * seen)


def _solved_at_once(problem: Problem, x: Tensor, anchors: Anchors, tol: float, max_steps: int, path_steps: int) -> Zeros:
    """Newton's method; where it strands, a path from the guess; where that is lost too, down to a minimum of ‖residual‖."""
    residual, linearised = problem.residual, problem.linearised
    if problem.is_wide:
        return find_zeros_by_products(residual, problem.pushed, x, tol=tol, max_steps=max_steps)
    landed = anchors.landed
    ends = find_zeros(residual, linearised, x, tol=tol, max_steps=max_steps, patient=not path_steps, landed=landed)
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
    if len(stranded):
        ends = ends.replaced(stranded, find_zeros(residual, linearised, ends.x[stranded], tol=tol, max_steps=max_steps, even=False))
    return ends


def _orbits(problem: Problem, ends: Zeros, zero: Tensor, distinct: float) -> tuple[Tensor, Tensor, Tensor]:
    """One end for each orbit, how many guesses came to that orbit, and its states, (point, phase, dim)."""
    chosen, counts = _distinct(ends, zero, distinct)
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
        values = values.gather(-1, values.real.argsort(dim=-1, descending=True, stable=True))
        size = values.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        kind = [kind_of(one.real, one.imag, border, dim) for one in values / size]
        return Stability((values * time).exp(), values.real.clone(), values.imag.clone(), kind, errors)
    values = values.gather(-1, values.abs().argsort(dim=-1, descending=True, stable=True))
    growth, angle = values.abs().log(), values.angle()
    turning = values.imag / values.abs().clamp(min=torch.finfo(torch.float64).tiny)
    kind = [kind_of(one, turn, border, dim) for one, turn in zip(growth, turning, strict=True)]
    return Stability(values, growth / time, angle / time, kind, errors)


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


def _sensitivity(problem: Problem, system: System, points: Tensor, n: int) -> Tensor | None:
    """∂x*/∂u at each point, by the implicit function theorem on F(x, u) = x."""
    if not isinstance(system, Driven) or problem.is_flow or problem.is_wide or problem.period > 1 or not len(points):
        return None
    u = system.drive(n).to(points)
    if u.ndim != 1 or u.numel() == 0:
        return None
    along_input = jacobian(lambda w: system.advance(problem.unit * points, w), u.expand(len(points), -1))
    solution, failed = torch.linalg.solve_ex(-problem.linearised(points)[1], along_input)
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
