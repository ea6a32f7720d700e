"""A branch of rest points or cycles followed through a parameter, and the bifurcations on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.knob import Knob, check_range, knob_of
from separatrix.errors import InputError, SeparatrixError
from separatrix.evolve import as_numbers, begin, check_seed, check_whole, watched
from separatrix.result import Result, Status
from separatrix.system import Frozen, Iterate, System
from separatrix.tangent import check_derivative, jacobian
from separatrix.wording import counted, plain

NEWTON = 12  # corrections of a predicted point; one that needs more was predicted too far
FIRST = 100  # corrections of the point to start from
SMALLEST = 1e-7  # of the largest step: below, the branch is lost
BEND = 0.95  # least cosine between the tangents of neighbouring points
BISECTIONS = 36  # of a step that a bifurcation lies in
SAME = 0.05  # a fold and a branch point as near as this, in steps, are one branch point on the arm that turns there
FLAT = 1e-6  # second derivative along the null vector, relative to the first, that counts as zero


OFF = 0.25  # of the largest step: how far from a bifurcation the other branch's first point lies


class Bifurcation(NamedTuple):
    """One bifurcation on a branch; as the x0 of `continuation` it begins the other branch through it.

    Args:
        kind: "fold", "flip", "Neimark–Sacker", "Hopf", "pitchfork", "transcritical" or "branch point".
        parameter: its value there, and `error` the width of the bracket it lies in.
        point: the state there, (dim).
        direction: the way in which the other branch leaves, (dim + 1): of the state and, the last number, of the parameter; zeros
            where there is none (a fold), or where it is no branch of rest points or cycles of steps (Hopf, Neimark–Sacker).
        period: of the cycles on that other branch; after a flip, twice that of this one.
    """

    kind: str
    parameter: float
    point: Tensor
    error: float
    direction: Tensor
    period: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Branch(Result):
    r"""A branch of rest points, or of cycles of one period.

    Args:
        parameter: name of the parameter.
        continuous: the eigenvalues are rates of a flow (stable: Re < 0), not multipliers of a map (stable: |μ| < 1).
        end: where the branch was left: at the "stop" or the "start" of the range, after "max_steps", or "lost".
        parameters: (point), in the order of the branch, which may turn.
        points: (point, dim).
        eigenvalues: (point, dim), complex; of the field's Jacobian, or of the Jacobian of F^period.
        stable: (point), bool.
        kinds: of the bifurcations, in the order of the branch: "fold", "flip", "Neimark–Sacker", "Hopf", "pitchfork",
            "transcritical" or "branch point" (one of the two, not told apart).
        bifurcation_parameters: (event), the parameter's value at each.
        bifurcation_points: (event, dim), the state at each.
        bifurcation_errors: (event), width of the bracket that the parameter's value lies in.
        bifurcation_directions: (event, dim + 1), the way in which the other branch leaves, the parameter last; see `Bifurcation`.
        bifurcation_periods: (event), of the cycles on the other branch.
    """

    parameter: str
    continuous: bool
    end: str
    parameters: Tensor
    points: Tensor
    eigenvalues: Tensor
    stable: Tensor
    kinds: tuple[str, ...]
    bifurcation_parameters: Tensor
    bifurcation_points: Tensor
    bifurcation_errors: Tensor
    bifurcation_directions: Tensor
    bifurcation_periods: Tensor

    layout: ClassVar[dict[str, str]] = {
        "parameters": "point",
        "points": "point dim",
        "eigenvalues": "point eigenvalue",
        "stable": "point",
        "bifurcation_parameters": "event",
        "bifurcation_points": "event dim",
        "bifurcation_errors": "event",
        "bifurcation_directions": "event component",
        "bifurcation_periods": "event",
    }

    @property
    def bifurcations(self) -> list[Bifurcation]:
        """The bifurcations, in the order of the branch."""
        rows = zip(
            self.kinds,
            self.bifurcation_parameters.tolist(),
            self.bifurcation_points,
            self.bifurcation_errors.tolist(),
            self.bifurcation_directions,
            self.bifurcation_periods.tolist(),
            strict=True,
        )
        return [Bifurcation(*row) for row in rows]

    def summary(self) -> str:
        """The branch and its bifurcations in words."""
        ends = f"{self.parameter} = {plain(float(self.parameters[0]))} … {plain(float(self.parameters[-1]))}"
        reached = {"max_steps": " (stopped by max_steps)", "lost": " (lost there)", "start": " (turned back)"}.get(self.end, "")
        found = ", ".join(f"{b.kind} at {b.parameter:.10g}" for b in self.bifurcations) or "no bifurcation"
        share = float(self.stable.double().mean())
        return f"{counted(len(self.parameters), 'point')} over {ends}{reached}, {share:.0%} of them stable: {found}"


@torch.no_grad()
def continuation(
    system: System,
    parameter: str,
    start: float,
    stop: float,
    x0: Tensor | Bifurcation | None = None,
    *,
    direction: Tensor | None = None,
    period: int = 1,
    step: float = 0.01,
    max_steps: int = 2_000,
    tol: float = 1e-12,
    seed: int = 0,
    progress: bool = False,
) -> Branch:
    r"""The branch of solutions of  G(x, p) = 0  through (x0, start), by pseudo-arclength: it goes around folds.

    G is the field of a flow, whatever the method that follows it, and F^period(x) − x of a map. Each step goes along the tangent
    of the branch and corrects by Newton's method on G together with the hyperplane across the tangent. A bifurcation lies where

        fold                     the tangent's component along p changes sign
        pitchfork, transcritical the determinant of DG bordered by the tangent does
        flip (maps)              det(DF + 1) does
        Hopf, Neimark–Sacker     Π (λ_i + λ_j), or Π (μ_i μ_j − 1), over i < j does, and the pair is complex

    and is located by bisection along the branch.

    Args:
        system: any System of fixed width. A driven one is held at its first input; `system.frozen(n)` holds it at another.
        parameter: one of `system.parameter_names` that is a number; or a number of an array, such as "constant[0]", the first
            component of a network's constant input; or an array that is moved along `direction`.
        start: value of the parameter to begin at; the branch is first followed towards `stop`.
        stop: the other end. The branch is left where the parameter leaves the range, at either end.
        x0: state near the rest point or cycle at `start`, shape (dim); or one of the `bifurcations` of a branch, of which the other
            branch is then followed from there on, one way (the other way: with its `direction` negated). Default:
            `system.initial_state()`.
        direction: d, of the array's shape: what is varied is the p of  array + p d. Of a network at rest under no input,
            direction=u makes p the gain of the input u.
        period: steps of a map's cycle; 1 for a flow, of which rest points are followed. A bifurcation brings its own.
        step: largest step along the branch, in units of |stop − start| for p and of max(1, |x0|) for x.
        max_steps: most points to take.
        tol: largest |G| of a point, relative to max(1, |x|).
        seed: of the initial state.
        progress: show a progress bar.

    Returns:
        Branch: `parameters` (point), `points` (point, dim), `eigenvalues` (point, dim), `stable` (point), and `bifurcations`.

    Raises:
        InputError: there is no such parameter, no range, or Newton's method finds no rest point near x0; no other branch of rest
            points or cycles goes through the bifurcation.

    Limits: two events of one kind within one step cancel; take a smaller `step`. The determinant needs d² numbers, and the
    Hopf test d² products. The work is in float64, whatever x0 is.
    Source: Keller 1977, in Applications of Bifurcation Theory, 359; test functions as Kuznetsov 2004, Elements of Applied
        Bifurcation Theory, ch. 10.2.
    """
    knob = knob_of(system, parameter, direction)
    seed = _check_asked(parameter, start, stop, period, step, max_steps, tol, seed)
    period = _period(x0, period)
    problem, x = _problem(system, knob, float(start), float(stop), x0, period, tol, seed)
    walk = _Walk(problem, step, period)
    marks, events = [walk.first(x, x0)], []
    for there in watched(walk.follow(marks[0], max_steps - 1), max_steps, f"Branch through {parameter}", progress):
        events += walk.events(marks[-1], there)
        marks.append(there)
    asked = {
        **knob.settings,
        "start": start,
        "stop": stop,
        "period": period,
        "step": step,
        "max_steps": max_steps,
        "tol": tol,
        "seed": seed,
    }
    return _branch(problem, marks, events, walk.end, asked)


def _branch(problem: "_Problem", marks: "list[_Mark]", events: list[Bifurcation], end: str, asked: dict[str, Any]) -> Branch:
    states, eigenvalues = torch.stack([problem.state(m.z) for m in marks]), torch.stack([m.eigenvalues for m in marks])
    dim = states.shape[-1]
    ok = end in ("stop", "start")
    return Branch(
        codes=torch.tensor(Status.OK if ok else Status.NOT_CONVERGED, dtype=torch.int8),
        parameter=problem.knob.parameter,
        continuous=problem.continuous,
        end=end,
        parameters=torch.stack([problem.value(m.z) for m in marks]),
        points=states,
        eigenvalues=eigenvalues,
        stable=((eigenvalues.real < 0) if problem.continuous else (eigenvalues.abs() < 1)).all(-1),
        kinds=tuple(e.kind for e in events),
        bifurcation_parameters=torch.tensor([e.parameter for e in events], dtype=torch.float64),
        bifurcation_points=torch.stack([e.point for e in events]) if events else states.new_zeros(0, dim),
        bifurcation_errors=torch.tensor([e.error for e in events], dtype=torch.float64),
        bifurcation_directions=torch.stack([e.direction for e in events]) if events else states.new_zeros(0, dim + 1),
        bifurcation_periods=torch.tensor([e.period for e in events], dtype=torch.int64),
        settings=asked,
    )


def _check_asked(parameter: str, start: float, stop: float, period: int, step: float, max_steps: int, tol: float, seed: int) -> int:
    """Refuse what cannot be followed; the seed as Python's own number."""
    check_range(parameter, start, stop)
    for name, count in (("period", period), ("max_steps", max_steps)):
        check_whole(name, count)
        if count < 1:
            raise InputError(f"{name} is {count}; it is at least 1.")
    for name, size in (("step", step), ("tol", tol)):
        if not (isinstance(size, Real) and 0 < size < 1):
            raise InputError(f"{name} is {size}; it lies between 0 and 1.")
    return check_seed(seed)


def _period(x0: Tensor | Bifurcation | None, period: int) -> int:
    """That of the branch to follow."""
    if not isinstance(x0, Bifurcation) or period == x0.period:
        return period
    if period != 1:
        raise InputError(f"period is {period}, but the branch through this {x0.kind} has period {x0.period}.\nLeave period out.")
    return x0.period


def _problem(
    system: System,
    knob: Knob,
    start: float,
    stop: float,
    x0: Tensor | Bifurcation | None,
    period: int,
    tol: float,
    seed: int,
) -> "tuple[_Problem, Tensor]":
    """G, and the state to begin from."""
    continuous = system.continuous
    if continuous and period > 1:
        raise InputError(
            f"period is {period}, but a flow has no cycles of so many steps.\n"
            "Leave it out: a flow's rest points are followed. Its cycles are those of an sx.Section."
        )
    if isinstance(x0, Bifurcation):
        _check_other_branch(x0, knob.parameter, start, stop)
        at, state = x0.parameter, x0.point
    else:
        at, state = start, system.initial_state((), seed) if x0 is None else as_numbers("x0", x0)
    front = begin(knob.set(system, at), state, seed=seed)
    if front.x.ndim != 1:
        raise InputError(f"a branch begins at 1 state, not at a batch of shape {tuple(front.x.shape[:-1])}.\nCall it for each.")
    held: System = Frozen(front.system, 0)
    check_derivative(held.residual, front.x, "field" if continuous else "step")
    whole = held if continuous else Iterate(held, period)
    return _Problem(whole, continuous, knob, start, stop, front.x.abs().amax(), tol), front.x


def _check_other_branch(event: Bifurcation, parameter: str, start: float, stop: float) -> None:
    if not bool(event.direction.any()):
        raise InputError(
            f"no other branch of rest points, or of cycles of steps, goes through a {event.kind}.\n"
            "One goes through a flip, a pitchfork and a transcritical bifurcation. The cycles of a flow are those of an sx.Section."
        )
    if not min(start, stop) <= event.parameter <= max(start, stop):
        raise InputError(f"the {event.kind} at {parameter} = {event.parameter:.6g} lies outside the range {start:g} … {stop:g}.")


class _Problem:
    """G(z) = 0 for z = (x / size, q), where q goes from 0 at the start of the range to 1 at its stop."""

    def __init__(self, system: System, continuous: bool, knob: Knob, start: float, stop: float, size: Tensor, tol: float) -> None:
        self.system, self.continuous, self.knob, self.tol = system, continuous, knob, tol
        self.start, self.span, self.size = start, stop - start, float(size.clamp(min=1))

    def state(self, z: Tensor) -> Tensor:
        return self.size * z[..., :-1]

    def value(self, z: Tensor) -> Tensor:
        return self.start + self.span * z[..., -1]

    def __call__(self, z: Tensor) -> Tensor:
        return self.knob.set(self.system, self.value(z)).residual(self.state(z)) / self.size

    def solved(self, z: Tensor, g: Tensor) -> bool:
        return bool(g.abs().amax() <= self.tol * z.abs().amax().clamp(min=1))

    def correct(self, z: Tensor, plane: Tensor, most: int = NEWTON) -> Tensor | None:
        """Newton's method on G within the hyperplane through z across `plane`; None where it does not get there."""
        for _ in range(most):
            g = self(z)
            if not torch.isfinite(g).all():
                return None
            if self.solved(z, g):
                return z
            z = z + solve(torch.cat([jacobian(self, z), plane[None]]), torch.cat([-g, g.new_zeros(1)]))
        return z if self.solved(z, self(z)) else None

    def onto_other_branch(self, event: Bifurcation, step: float) -> tuple[Tensor, Tensor]:
        """A point on the other branch through a bifurcation, not far from it, and the way that leads there."""
        here = torch.cat([event.point / self.size, (event.point.new_tensor([event.parameter]) - self.start) / self.span])
        away = torch.cat([event.direction[:-1] / self.size, event.direction[-1:] / self.span])
        away = away / torch.linalg.vector_norm(away)
        for off in (OFF, 4 * OFF, OFF / 4):
            z = self.correct(here + off * step * away, away)
            if z is not None:
                return z, away
        raise InputError(
            f"the other branch through the {event.kind} at {self.knob.parameter} = {event.parameter:.6g} was not found: "
            f"Newton's method did not converge {step * OFF:g} from it.\nTake a smaller step than {step:g}."
        )

    def onto_branch(self, x: Tensor) -> Tensor:
        """The rest point near x at the start of the range."""
        guess = torch.cat([x / self.size, x.new_zeros(1)])
        up = torch.zeros_like(guess)
        up[-1] = 1
        z = self.correct(guess, up, FIRST)
        if z is None:
            raise InputError(
                f"no rest point or cycle was found near x0 at {self.knob.parameter} = {self.start:g}: Newton's method did "
                f"not bring the residual, {plain(float(self(guess).abs().amax()) * self.size)} at x0, to {self.tol:g}.\n"
                "Pass an x0 nearer to one, the end of a trajectory for a stable one."
            )
        return z


class _Mark(NamedTuple):
    """A point of the branch, its tangent, its eigenvalues, and the signs of the test functions; 1 step of the walk."""

    z: Tensor
    tangent: Tensor
    eigenvalues: Tensor
    signs: dict[str, bool]
    steps: int = 1


class _Walk:
    """Steps along the branch, and looks for events within them."""

    def __init__(self, problem: _Problem, step: float, period: int) -> None:
        self.problem, self.continuous, self.step, self.period = problem, problem.continuous, step, period
        self.end = "max_steps"

    def first(self, x: Tensor, x0: Tensor | Bifurcation | None) -> _Mark:
        """The point to begin at: near the state x, or on the other branch through a bifurcation."""
        if isinstance(x0, Bifurcation):
            return self.mark(*self.problem.onto_other_branch(x0, self.step))
        return self.mark(self.problem.onto_branch(x), None)

    def follow(self, here: _Mark, most: int) -> Iterator[_Mark]:
        """The points after this one, until the range ends, the branch is lost or there are enough; `end` says which."""
        size = self.step / 4
        for _ in range(most):
            there, size = self.next(here, size)
            if there is None:
                self.end = "lost"
                return
            q = float(there.z[-1])
            if not 0 <= q <= 1:
                self.end = "stop" if q > 1 else "start"
                yield self.onto_end(here, there, float(q > 1))
                return
            yield there
            here, size = there, min(1.5 * size, self.step)

    def next(self, here: _Mark, size: float) -> tuple[_Mark | None, float]:
        """A point so far on, or nearer where the branch bends, and how far; None where it is lost."""
        while size >= SMALLEST * self.step:
            there = self.advance(here, size)
            if there is not None and float(there.tangent @ here.tangent) >= BEND:
                return there, size
            size /= 2
        return None, size

    def mark(self, z: Tensor, along: Tensor | None) -> _Mark:
        """What is known of a point; its tangent goes the way of `along`, or towards the stop of the range."""
        slope = jacobian(self.problem, z)
        if along is None:
            tangent = torch.linalg.svd(slope)[2][-1]
            tangent = tangent * (-1 if tangent[-1] < 0 else 1)
        else:
            one = torch.zeros_like(z)
            one[-1] = 1
            tangent = solve(torch.cat([slope, along[None]]), one)
            tangent = tangent / torch.linalg.vector_norm(tangent)
        square = slope[:, :-1]  # state and residual are divided by one size, so that this is ∂G/∂x
        eye = torch.eye(len(square), dtype=z.dtype, device=z.device)
        values = torch.linalg.eigvals(square if self.continuous else square + eye)
        signs = {
            "fold": bool(tangent[-1] >= 0),
            "branch point": bool(torch.linalg.slogdet(torch.cat([slope, tangent[None]]))[0] >= 0),
            "Hopf" if self.continuous else "Neimark–Sacker": _pairs(values, self.continuous),
        }
        if not self.continuous:
            signs["flip"] = bool(torch.linalg.slogdet(square + 2 * eye)[0] >= 0)
        return _Mark(z, tangent, values, signs)

    def advance(self, here: _Mark, size: float) -> _Mark | None:
        """The point a step further; None where Newton's method did not find it."""
        z = self.problem.correct(here.z + size * here.tangent, here.tangent)
        return None if z is None else self.mark(z, here.tangent)

    def onto_end(self, here: _Mark, there: _Mark, q: float) -> _Mark:
        """The point between the two at which the range ends."""
        share = (q - here.z[-1]) / (there.z[-1] - here.z[-1])
        guess, up = here.z + share * (there.z - here.z), torch.zeros_like(here.z)
        guess[-1], up[-1] = q, 1
        z = self.problem.correct(guess, up)
        return there if z is None else self.mark(z, here.tangent)

    def events(self, here: _Mark, there: _Mark) -> list[Bifurcation]:
        """The bifurcations between two neighbouring points, in the order of the branch."""
        reach = float((there.z - here.z) @ here.tangent)
        found = {k: self.locate(k, here, there, reach) for k, sign in here.signs.items() if sign != there.signs[k]}
        if {"fold", "branch point"} <= found.keys() and abs(found["fold"][0] - found["branch point"][0]) < SAME * self.step:
            (at, low, _), (_, _, high) = sorted((found.pop("fold"), found["branch point"]), key=lambda item: item[0])
            found["branch point"] = at, low, high  # G is nearly singular in every direction there: the two bracket it
        ordered = sorted(found.items(), key=lambda item: item[1][0])
        return [event for kind, (_, low, high) in ordered if (event := self.record(kind, low, high)) is not None]

    def locate(self, kind: str, here: _Mark, there: _Mark, reach: float) -> tuple[float, _Mark, _Mark]:
        """Bisection along the branch: the distance from here, and the two ends of the bracket."""
        low, high, near, far = 0.0, reach, here, there
        for _ in range(BISECTIONS):
            middle = self.advance(here, (low + high) / 2)
            if middle is None:
                break
            if middle.signs[kind] == here.signs[kind]:
                low, near = (low + high) / 2, middle
            else:
                high, far = (low + high) / 2, middle
        return (low + high) / 2, near, far

    def record(self, kind: str, low: _Mark, high: _Mark) -> Bifurcation | None:
        """The event in a bracket; None for a neutral saddle, whose real eigenvalues only look like a pair."""
        if kind in ("Hopf", "Neimark–Sacker") and not _critical_is_complex(low.eigenvalues, self.continuous):
            return None
        away = self.way_out(kind, low)
        if kind == "branch point":
            kind = self.name_of_branch_point(low.z)
        before, after = self.problem.value(low.z), self.problem.value(high.z)
        point = self.problem.state((low.z + high.z) / 2)
        error = max(float((after - before).abs()), self.problem.tol)
        return Bifurcation(kind, float((before + after) / 2), point, error, away, self.period * (2 if kind == "flip" else 1))

    def way_out(self, kind: str, at: _Mark) -> Tensor:
        """The direction of the other branch through a flip or a branch point, in the units of state and parameter."""
        slope = jacobian(self.problem, at.z)
        away = torch.zeros_like(at.z)
        if kind == "flip":
            eye = torch.eye(len(slope), dtype=slope.dtype, device=slope.device)
            away[:-1] = torch.linalg.svd(slope[:, :-1] + 2 * eye)[2][-1]
        elif kind == "branch point":
            plane = torch.linalg.svd(slope)[2][-2:]  # of the tangents of both branches
            one, other = (plane @ at.tangent).tolist()
            away = one * plane[1] - other * plane[0]
        largest = away[away.abs().argmax()]
        away = away * largest.sign() / torch.linalg.vector_norm(away).clamp(min=torch.finfo(away.dtype).tiny)
        return torch.cat([self.problem.size * away[:-1], self.problem.span * away[-1:]])

    def name_of_branch_point(self, z: Tensor) -> str:
        """Pitchfork where the second derivative along the null vector vanishes, else transcritical."""
        left, _, right = torch.linalg.svd(jacobian(self.problem, z)[:, :-1])
        null, across = torch.cat([right[-1], z.new_zeros(1)]), left[:, -1]
        try:
            second = torch.func.jvp(lambda y: torch.func.jvp(self.problem, (y,), (null,))[1], (z,), (null,))[1]
        except (RuntimeError, NotImplementedError, SeparatrixError):
            return "branch point"
        return "pitchfork" if abs(float(across @ second)) < FLAT else "transcritical"


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution, or the shortest of the nearest ones where the matrix is singular, as at a branch point."""
    answer, failed = torch.linalg.solve_ex(matrix, right)
    return torch.linalg.pinv(matrix) @ right if int(failed) or not torch.isfinite(answer).all() else answer


def _factors(values: Tensor, continuous: bool) -> Tensor:
    """λ_i + λ_j, or μ_i μ_j − 1, over i < j."""
    i, j = torch.triu_indices(len(values), len(values), 1)
    return values[i] + values[j] if continuous else values[i] * values[j] - 1


def _pairs(values: Tensor, continuous: bool) -> bool:
    """The sign of the product of all factors, which is real: complex factors come in conjugate pairs."""
    factors = _factors(values, continuous)
    real = factors.imag.abs() <= 1e-9 * (1 + factors.abs())  # μ μ* is real but for rounding
    return int((real & (factors.real < 0)).sum()) % 2 == 0


def _critical_is_complex(values: Tensor, continuous: bool) -> bool:
    i, j = torch.triu_indices(len(values), len(values), 1)
    worst = int(_factors(values, continuous).abs().argmin())
    return bool(values[i[worst]].imag.abs() > 1e-6 and values[j[worst]].imag.abs() > 1e-6)
