"""Continuation of fixed points, equilibria and cycles in a parameter, and the bifurcations on their branches."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.branches.branch import Bifurcation, Branch
from separatrix.analysis.branches.branch_equations import Equations, Found, in_other_units, solve
from separatrix.analysis.branches.branch_start import begun, onto_other_branch
from separatrix.analysis.branches.knob import check_range
from separatrix.core.checks import check_fraction, check_seed, check_whole
from separatrix.core.errors import InputError, SeparatrixError
from separatrix.core.progress import watched
from separatrix.core.result import Status
from separatrix.core.system import System

SMALLEST = 1e-7  # relative to step_size: the branch is lost when shorter steps fail too
BEND = 0.95  # least cosine between the tangents of neighbouring points
ASIDE = 0.01  # relative to step_size: distance from a branch point at which its neighbours are well conditioned
BISECTIONS = 36  # of a step that contains a bifurcation
SAME = 0.05  # a fold and a branch point this close, in steps, are one branch point on an arm that turns back there
FLAT = 1e-6  # relative second derivative along the null vector below which it counts as zero
ROUNDED = 1e-10  # relative to the largest eigenvalue: a sum of two eigenvalues below this is zero, whatever its sign
SINGULAR = 1e-14  # least singular value, per component of the state, below which determinants are rounding error
ZERO = 1e-13  # a component of a bifurcation's state is 0 below this, in its unit
LINE = 3  # this many singular points in a row lie on a curve of fixed points
GROWN = 2.0  # size of a component, in its unit, above which the unit grows with it


@torch.no_grad()
def continuation(
    system: System,
    parameter: str,
    start: float,
    stop: float,
    x0: Tensor | Bifurcation | None = None,
    *,
    direction: Tensor | None = None,
    total: Tensor | Callable[[Tensor], Tensor] | None = None,
    scale: float | Tensor | None = None,
    period: int = 1,
    step_size: float = 0.01,
    max_steps: int = 2_000,
    tol: float = 1e-12,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> Branch:
    r"""Branch of solutions of  G(x, p) = 0  through (x0, start), and its bifurcations, by pseudo-arclength continuation.

    G is the field of a flow, independent of its solver, or  F^period(x) − x  of a map. Each step moves along the tangent of the
    branch, then solves G = 0 by Newton's method in the hyperplane orthogonal to the tangent, so that the branch passes folds.
    A bifurcation lies where one of these changes sign:

        fold                     the tangent's component along p
        pitchfork, transcritical the determinant of DG bordered by the tangent
        flip (maps)              det(DF + 1)
        Hopf, Neimark–Sacker     Π (λ_i + λ_j), or Π (μ_i μ_j − 1), over i < j, if the pair is complex

    It is located by bisection along the branch. Conserved sums of the state, such as the atoms of a closed reaction network, are
    detected and held at their values at x0; one of them can be the parameter.

    Args:
        system: any System of fixed width. A driven system is frozen at its first input; `system.frozen(n)` freezes another.
        parameter: a scalar among `system.parameter_names`; one element of an array, such as "constant[0]", the first component
            of a network's constant input; an array that is moved along `direction`; or "total", a conserved sum.
        start: first value of the parameter; the branch is followed towards `stop`.
        stop: other end of the range. The branch ends where the parameter leaves the range, at either end.
        x0: state near the fixed point or cycle at `start`, shape (dim), whose totals are held; or one of the `bifurcations` of a
            branch, which starts the other branch through it in one direction (negate its `direction` for the opposite one).
            Default: `system.initial_state()`.
        direction: direction d in the shape of the array: the parameter is the p of  array + p d. For a network without input,
            direction=u makes p the gain of the input u.
        total: conserved sum that "total" varies, as weights of shape (dim): [1, 1, 0] for x[0] + x[1]. Not needed if there is only
            one. With several rows, the first sum is varied and the others are held. A conserved quantity that is not a linear sum
            is a function of one state; it is held while another parameter varies.
        scale: unit of the state in which steps are measured, a number or shape (dim). Default: for each component, its largest
            size at the first point, at the points that Newton's method finds from it over the range, and on the branch so far.
        period: period of a map's cycle in steps; 1 for a flow, whose equilibria are followed. A bifurcation sets its own.
        step_size: largest step along the branch, in units of |stop − start| for p and of `scale` for x.
        max_steps: maximum number of points.
        tol: largest residual of a point, for each equation relative to the sum of its terms |∂G_i/∂x_j| |x_j|.
        seed: seed of the initial state.
        progress: show a progress bar.
        throw: raise instead of marking a branch that ended within the range `not_converged`.

    Returns:
        Branch: `parameters` (point), `points` (point, dim), `eigenvalues` (point, eigenvalue), `stable` (point), `bifurcations`
        and `conserved`.

    Raises:
        InputError: there is no such parameter, or the range is empty; Newton's method finds no fixed point near x0, or the fixed
            points there are not isolated; a total is not conserved; the bifurcation has no other branch of fixed points or cycles.
        NotConvergedError: with `throw=True`.

    Limits: two events of one kind within a step cancel; take a smaller `step_size`. The determinant needs d² numbers and the Hopf
    test d² products. Computed in float64, whatever the dtype of x0.
    Source: Keller 1977, in Applications of Bifurcation Theory, 359; test functions as Kuznetsov 2004, Elements of Applied
        Bifurcation Theory, ch. 10.2.

    Example:
        >>> logistic = sx.classic.logistic()
        >>> branch = sx.continuation(logistic, "r", 2.6, 3.4, torch.tensor([0.6]), step_size=0.05)
        >>> flip = branch.bifurcations[0]
        >>> flip.kind, round(flip.parameter, 6), flip.period
        ('flip', 3.0, 2)
    """
    seed = _checked(parameter, start, stop, period, step_size, max_steps, tol, seed)
    period = _period(x0, period)
    equations, x = begun(system, parameter, direction, float(start), float(stop), x0, total, scale, period, tol, seed)
    walk = _Walk(equations, step_size, period, scale is None)
    marks, events = [walk.first(x, x0)], []
    for pair in watched(walk.follow(marks[0], max_steps - 1), max_steps, f"Branch through {parameter}", progress):
        events += walk.events(pair.here, pair.there)
        marks.append(pair.there)
    knob = equations.knob
    settings = {} if knob is None else knob.settings
    settings |= {"start": start, "stop": stop, "period": period, "step_size": step_size}
    settings |= {"max_steps": max_steps, "tol": tol, "seed": seed, "varies_total": knob is None}
    return _branch(walk, parameter, marks, events, settings).or_raise(throw)


def _branch(walk: "_Walk", parameter: str, marks: "list[_Mark]", events: list[Bifurcation], settings: dict[str, Any]) -> Branch:
    states, eigenvalues = torch.stack([m.x for m in marks]), torch.stack([m.eigenvalues for m in marks])
    dim, equations, complete = states.shape[-1], walk.equations, walk.end in ("stop", "start")
    return Branch(
        codes=torch.tensor(Status.OK if complete else Status.NOT_CONVERGED, dtype=torch.int8),
        parameter=parameter,
        continuous=equations.continuous,
        end=walk.end,
        parameters=torch.stack([m.p for m in marks]),
        points=states,
        eigenvalues=eigenvalues,
        stable=_is_stable(eigenvalues, equations.continuous),
        kind=tuple(e.kind for e in events),
        bifurcation_parameters=torch.tensor([e.parameter for e in events], dtype=torch.float64),
        bifurcation_points=torch.stack([e.point for e in events]) if events else states.new_zeros(0, dim),
        bifurcation_errors=torch.tensor([e.error for e in events], dtype=torch.float64),
        bifurcation_directions=torch.stack([e.direction for e in events]) if events else states.new_zeros(0, dim + 1),
        bifurcation_periods=torch.tensor([e.period for e in events], dtype=torch.int64),
        scale=equations.scale,
        conserved=equations.totals.names,
        totals=equations.totals.of(states[0]),
        settings=settings,
    )


def _is_stable(eigenvalues: Tensor, continuous: bool) -> Tensor:
    """Whether all eigenvalues of a point are stable beyond rounding, (point); a centre is not."""
    if not continuous:
        return (eigenvalues.abs() < 1 - ROUNDED).all(-1)
    size = eigenvalues.abs().amax(-1, keepdim=True) if eigenvalues.shape[-1] else eigenvalues.real
    return (eigenvalues.real < -ROUNDED * size).all(-1)


def _checked(
    parameter: str, start: float, stop: float, period: int, step_size: float, max_steps: int, tol: float, seed: int
) -> int:
    """Refuse numbers out of range; the seed as a Python int."""
    check_range(parameter, start, stop)
    check_whole("period", period, 1)
    check_whole("max_steps", max_steps, 1)
    check_fraction("step_size", step_size)
    check_fraction("tol", tol)
    return check_seed(seed)


def _period(x0: Tensor | Bifurcation | None, period: int) -> int:
    """The period of the branch to follow."""
    if not isinstance(x0, Bifurcation) or period == x0.period:
        return period
    if period != 1:
        raise InputError(f"expected period {x0.period}, that of the branch through this {x0.kind}, got {period}.\nOmit period.")
    return x0.period


class _Mark(NamedTuple):
    """A point of the branch with its tangent, eigenvalues and test functions.

    Args:
        z: the point in the branch's units; x and p are the state and the parameter in the system's.
        tangent: unit tangent of the branch at z.
        eigenvalues: see `Branch`.
        signs: signs of the test functions, by kind; they decide whether a bifurcation lies between two points. Sums of eigenvalues
            within rounding of 0 count as positive.
        nearly: the same signs without that allowance; they locate the bifurcation.
        is_sound: whether determinants at the point exceed rounding.
    """

    z: Tensor
    x: Tensor
    p: Tensor
    tangent: Tensor
    eigenvalues: Tensor
    signs: dict[str, bool]
    nearly: dict[str, bool]
    is_sound: bool


class _Pair(NamedTuple):
    """Neighbouring points in the same units: one step of the walk."""

    here: _Mark
    there: _Mark
    steps: int = 1


class _Walk:
    """A walk along the branch that finds the bifurcations within each step."""

    def __init__(self, equations: Equations, step: float, period: int, grows: bool) -> None:
        self.equations, self.continuous, self.step, self.period, self.grows = equations, equations.continuous, step, period, grows
        self.end = "max_steps"

    def first(self, x: Tensor, x0: Tensor | Bifurcation | None) -> _Mark:
        """The first point: near the state x, or on the other branch through a bifurcation."""
        if not isinstance(x0, Bifurcation):
            z = self.equations.at(x, 0.0)
            return self.mark(Found(z, self.equations.linear(z)), None)
        z, away, scale = onto_other_branch(self.equations, x0, self.step)
        self.equations, z, away = self.equations.in_scale(scale), *in_other_units(z, away, self.equations.scale, scale)
        return self.mark(Found(z, self.equations.linear(z)), away)

    def follow(self, here: _Mark, most: int) -> Iterator[_Pair]:
        """The following points, until the range ends, the branch is lost or `most` is reached; sets `end`."""
        size, unsound = self.step / 4, 0
        for _ in range(most):
            there, size = self.next(here, size)
            if there is None:
                self.end = "lost"
                return
            q = float(there.z[-1])
            if not 0 <= q <= 1:
                self.end = "stop" if q > 1 else "start"
                yield _Pair(here, self.onto_end(here, there, float(q > 1)))
                return
            yield _Pair(here, there)
            unsound = 0 if there.is_sound else unsound + 1
            if unsound == LINE:
                self.end = "not isolated"
                return
            here, size = self.in_grown_units(there), min(1.5 * size, self.step)

    def next(self, here: _Mark, size: float) -> tuple[_Mark | None, float]:
        """A point at a distance `size`, or less where the branch bends, and that distance; None if the branch is lost."""
        while size >= SMALLEST * self.step:
            there = self.advance(here, size)
            if there is not None and float(there.tangent @ here.tangent) >= BEND:
                return there, size
            size /= 2
        return None, size

    def in_grown_units(self, here: _Mark) -> _Mark:
        """The point after growing the units of the components that have outgrown theirs."""
        old = self.equations.scale
        grown = here.z[:-1].abs() > GROWN
        if not (self.grows and grown.any()):
            return here
        new = torch.where(grown, here.x.abs(), old)
        self.equations = self.equations.in_scale(new)
        z, tangent = in_other_units(here.z, here.tangent, old, new)
        return here._replace(z=z, tangent=tangent)

    def mark(self, found: Found, along: Tensor | None) -> _Mark:
        """The mark of a point, with its tangent oriented along `along`, or towards the stop of the range."""
        z, local = found
        if along is None:
            tangent = torch.linalg.svd(local.slope)[2][-1]
            tangent = tangent * (-1 if tangent[-1] < 0 else 1)
        else:
            one = torch.zeros(len(local.slope) + 1).to(z)
            one[-1] = 1
            tangent = solve(torch.cat([local.slope, along[None]]), one)
            tangent = tangent / torch.linalg.vector_norm(tangent)
        square = local.square
        eye = torch.eye(len(square), dtype=z.dtype, device=z.device)
        values = torch.linalg.eigvals(square if self.continuous else square + eye)
        bordered = torch.cat([local.reduced, local.within(tangent)[None]])
        signs = {
            "fold": bool(tangent[-1] >= 0),
            "branch point": bool(torch.linalg.slogdet(bordered)[0] >= 0),
        }
        if not self.continuous:
            signs["flip"] = bool(torch.linalg.slogdet(square + 2 * eye)[0] >= 0)
        turn = "Hopf" if self.continuous else "Neimark–Sacker"
        nearly = {**signs, turn: _is_positive(values, self.continuous, 0.0)}
        signs[turn] = _is_positive(values, self.continuous, ROUNDED)
        is_sound = float(torch.linalg.svdvals(bordered)[-1]) > SINGULAR * len(bordered)
        return _Mark(z, self.equations.state(z), self.equations.value(z), tangent, values, signs, nearly, is_sound)

    def advance(self, here: _Mark, size: float) -> _Mark | None:
        """The point one step further; None if Newton's method does not converge."""
        found = self.equations.correct(here.z + size * here.tangent, here.tangent)
        return None if found is None else self.mark(found, here.tangent)

    def onto_end(self, here: _Mark, there: _Mark, q: float) -> _Mark:
        """The point between two points at which the range ends."""
        share = (q - here.z[-1]) / (there.z[-1] - here.z[-1])
        guess, up = here.z + share * (there.z - here.z), torch.zeros_like(here.z)
        guess[-1], up[-1] = q, 1
        found = self.equations.correct(guess, up)
        return there if found is None else self.mark(found, here.tangent)

    def events(self, here: _Mark, there: _Mark) -> list[Bifurcation]:
        """Bifurcations between two neighbouring points, in the order of the branch."""
        if not (here.is_sound and there.is_sound):
            return []
        reach = float((there.z - here.z) @ here.tangent)
        found = {k: self.locate(k, here, there, reach) for k, sign in here.signs.items() if sign != there.signs[k]}
        if {"fold", "branch point"} <= found.keys() and abs(found["fold"][0] - found["branch point"][0]) < SAME * self.step:
            (at, low, _), (_, _, high) = sorted((found.pop("fold"), found["branch point"]), key=lambda item: item[0])
            found["branch point"] = at, low, high  # DG is nearly singular there in every direction: the two events bracket it
        ordered = sorted(found.items(), key=lambda item: item[1][0])
        events = (self.record(kind, here, at, low, high) for kind, (at, low, high) in ordered)
        return [event for event in events if event is not None]

    def locate(self, kind: str, here: _Mark, there: _Mark, reach: float) -> tuple[float, _Mark, _Mark]:
        """Locate an event by bisection along the branch: its distance from here, and the two ends of its bracket."""
        low, high, near, far = 0.0, reach, here, there
        for _ in range(BISECTIONS):
            middle = self.advance(here, (low + high) / 2)
            if middle is None:
                break
            if middle.nearly[kind] == there.nearly[kind]:
                high, far = (low + high) / 2, middle
            else:
                low, near = (low + high) / 2, middle
        return (low + high) / 2, near, far

    def record(self, kind: str, here: _Mark, at: float, low: _Mark, high: _Mark) -> Bifurcation | None:
        """The bifurcation in a bracket; None for a neutral saddle, whose critical eigenvalues are real."""
        if kind in ("Hopf", "Neimark–Sacker") and not _critical_is_complex(low.eigenvalues, self.continuous):
            return None
        away = self.other_direction(kind, low)
        if kind == "branch point":
            kind = self.name_of_branch_point(self.beside(here, at, low))
        error = max(float((high.p - low.p).abs()), self.equations.tol * abs(self.equations.span))
        period = self.period * (2 if kind == "flip" else 1)
        point = (low.x + high.x) / 2
        point = torch.where(point.abs() <= ZERO * self.equations.scale, 0.0, point)
        return Bifurcation(kind, float((low.p + high.p) / 2), point, error, away, period)

    def other_direction(self, kind: str, at: _Mark) -> Tensor:
        """Direction of the other branch through a flip or a branch point, in the units of state and parameter."""
        local = self.equations.linear(at.z)
        away = torch.zeros_like(at.z)
        if kind == "flip":
            eye = torch.eye(len(local.basis), dtype=away.dtype, device=away.device)
            away[:-1] = torch.linalg.svd(local.square + 2 * eye)[2][-1] @ local.basis
        elif kind == "branch point":
            plane = torch.linalg.svd(local.slope)[2][-2:]  # spanned by the tangents of both branches
            one, other = (plane @ at.tangent).tolist()
            away = one * plane[1] - other * plane[0]
        largest = away[away.abs().argmax()]
        away = away * largest.sign() / torch.linalg.vector_norm(away).clamp(min=torch.finfo(away.dtype).tiny)
        return torch.cat([self.equations.scale * away[:-1], self.equations.span * away[-1:]])

    def beside(self, here: _Mark, at: float, low: _Mark) -> Tensor:
        """Midpoint of two neighbours of a branch point, where Newton's method is undetermined along the null vector."""
        around = [self.advance(here, at + side * ASIDE * self.step) for side in (-1, 1)]
        found = [one.z for one in around if one is not None]
        return (found[0] + found[1]) / 2 if len(found) == 2 else low.z

    def name_of_branch_point(self, z: Tensor) -> str:
        """A pitchfork if the second derivative along the null vector vanishes, else transcritical."""
        local = self.equations.linear(z)
        left, _, right = torch.linalg.svd(local.reduced[:, :-1])
        null, across = right[-1] @ local.basis, left[:, -1]
        try:
            second, third, opening = (local.across(bent) for bent in self.equations.bends(z, null, local))
        except (RuntimeError, NotImplementedError, SeparatrixError):
            return "branch point"
        others = torch.linalg.vector_norm(second) + ((across @ third) * (across @ opening)).abs().sqrt()
        return "pitchfork" if float((across @ second).abs()) <= FLAT * float(others) else "transcritical"


def _factors(values: Tensor, continuous: bool) -> Tensor:
    """λ_i + λ_j, or μ_i μ_j − 1, over i < j."""
    i, j = torch.triu_indices(len(values), len(values), 1)
    return values[i] + values[j] if continuous else values[i] * values[j] - 1


def _size(values: Tensor, continuous: bool) -> float:
    """Scale of the factors: the largest rate, or the largest multiplier if it exceeds 1."""
    return max(float(values.abs().amax()) if len(values) else 0.0, 0.0 if continuous else 1.0)


def _is_positive(values: Tensor, continuous: bool, rounding: float) -> bool:
    """Whether the product of all factors is positive; it is real, because complex factors come in conjugate pairs.

    A factor within rounding of 0, as every pair of a Hamiltonian system has, does not count as negative.
    """
    factors, size = _factors(values, continuous), _size(values, continuous)
    real = factors.imag.abs() <= 1e-9 * (size + factors.abs())  # μ μ* is real up to rounding
    return int((real & (factors.real < -rounding * size)).sum()) % 2 == 0


def _critical_is_complex(values: Tensor, continuous: bool) -> bool:
    i, j = torch.triu_indices(len(values), len(values), 1)
    worst, least = int(_factors(values, continuous).abs().argmin()), 1e-6 * _size(values, continuous)
    return bool(values[i[worst]].imag.abs() > least and values[j[worst]].imag.abs() > least)
