"""Phase portraits: the field on a plane of the state space, its nullclines, orbits, fixed points and separatrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.analysis.fixed.fixed_points import fixed_points
from separatrix.analysis.fixed.guesses import default_guesses
from separatrix.analysis.fixed.problem import Problem
from separatrix.analysis.fixed.result import FixedPoints
from separatrix.analysis.lyapunov.finite_time import grid
from separatrix.analysis.pictures.manifolds import Window, manifolds
from separatrix.analysis.pictures.nullclines import zero_lines
from separatrix.analysis.pictures.plane import Plane, plane_of, spans_plane
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import Front, begin, check_system_type
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted
from separatrix.flows.flow import Flow

ORBITS = 16  # number of orbits by default
GUESSES = 256  # states near orbits from which fixed points are sought
COARSE = 16  # states of the plane along each axis from which fixed points are sought too
MARGIN = 0.08  # margin of a default window on each side, relative to the range of the orbits
NO_SPAN = 1e-9  # a relative range below this is a point


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PhasePortrait(Result):
    r"""Phase portrait on the plane  origin + a₁ axis₁ + a₂ axis₂  with coordinates (a₁, a₂); the batch is that of the orbits.

    In two dimensions the plane is the state space. In more, the field, nullclines and shares are evaluated *on* the plane, while
    orbits, fixed points and manifolds are projected onto it.

    Args:
        origin: (dim), the state at the coordinates (0, 0).
        axes: (axis, dim), the two axes as rows.
        labels: names of the two coordinates.
        first, second: (row), (column), grid values of a₁ and a₂.
        field: (row, column, axis), components of the field along the axes: ẋ of a flow, F(x) − x of a map; NaN where not finite.
        speed: (row, column), length of the whole field.
        leaving: (row, column), share of that length orthogonal to the plane, 0 … 1; 0 in two dimensions.
        nullcline_1, nullcline_2: (vertex, axis), lines on which the first or the second component is 0, with a row of NaN after
            each line. In more than two dimensions they are zeros of the projected field, and need not meet at fixed points.
        orbits: (time, *batch, axis), coordinates of the orbits.
        rest: the fixed points that were found (equilibria of a flow), their stability, and the status of the guesses.
        rest_places: (point, axis), coordinates of the fixed points.
        rest_away: (point), distances of the fixed points from the plane.
        unstable, stable: (branch, sample, axis), unstable and stable manifolds of saddles, where they are curves; NaN past the end
            of a curve. In the plane the stable ones are the separatrices.
        unstable_of, stable_of: (branch), index of the saddle in `rest.points`.
        is_flow: whether the field is a velocity ẋ or a displacement F(x) − x.
    """

    origin: Tensor
    axes: Tensor
    labels: tuple[str, str]
    first: Tensor
    second: Tensor
    field: Tensor
    speed: Tensor
    leaving: Tensor
    nullcline_1: Tensor
    nullcline_2: Tensor
    orbits: Tensor
    rest: FixedPoints
    rest_places: Tensor
    rest_away: Tensor
    unstable: Tensor
    stable: Tensor
    unstable_of: Tensor
    stable_of: Tensor
    is_flow: bool

    drawn_by: ClassVar[str] = "separatrix.plot.phase_portrait:phase_portrait_figure"
    layout: ClassVar[dict[str, str]] = {
        "origin": "dim",
        "axes": "axis dim",
        "first": "row",
        "second": "column",
        "field": "row column axis",
        "speed": "row column",
        "leaving": "row column",
        "nullcline_1": "vertex_1 axis",
        "nullcline_2": "vertex_2 axis",
        "orbits": "time batch axis",
        "rest_places": "point axis",
        "rest_away": "point",
        "unstable": "unstable_branch unstable_sample axis",
        "stable": "stable_branch stable_sample axis",
        "unstable_of": "unstable_branch",
        "stable_of": "stable_branch",
    }
    units: ClassVar[dict[str, str]] = {
        "field": "units of the coordinates, per unit time for a flow, per step for a map",
        "speed": "the state's unit, per unit time for a flow, per step for a map",
        "leaving": "1",
    }

    def summary(self) -> str:
        """The plane, fixed points, manifolds and orbits, and the share of the field that leaves the plane, in words."""
        lines = [f"phase portrait of a {'flow' if self.is_flow else 'map'} over {self.labels[0]} and {self.labels[1]}"]
        lines.append(self.rest.summary().splitlines()[0])
        lines.append(f"manifolds of saddles: {len(self.stable)} stable and {len(self.unstable)} unstable branches")
        diverged = int((self.codes == Status.DIVERGED).sum())
        lines.append(counted(self.codes.numel(), "orbit") + (f", {diverged} of them diverged" if diverged else ""))
        if self.axes.shape[1] > 2:
            share = self.leaving[torch.isfinite(self.leaving)]
            values = f"median {float(share.median()):.0%}, maximum {float(share.max()):.0%}" if len(share) else "unknown"
            lines.append(f"share of the field that leaves the plane: {values}")
        return "\n".join(lines)

    def _remedy(self, status: Status) -> str:
        return "These orbits left the finite numbers; start nearer to an attractor, or take fewer steps."


@torch.no_grad()
def phase_portrait(
    system: System,
    x0: Tensor | None = None,
    *,
    plane: str | Sequence[Any] = "principal",
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    resolution: int = 80,
    steps: int = 1_000,
    settle: int = 0,
    guesses: Tensor | None = None,
    n: int = 0,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> PhasePortrait:
    r"""Field of a flow, or F(x) − x of a map, on a plane, with nullclines, orbits, fixed points and separatrices.

    A driven or time-dependent system is frozen at step n, also for its orbits. A flow is represented by its field, so that nothing
    depends on its solver; orbits and manifolds integrate the field by RK4 with the system's dt.

    Args:
        system: any System with at least two components; a driven network is frozen at the input of step n.
        x0: initial states of the orbits, shape (*batch, dim). Default: 16 states near those that the system visits.
        plane: (i, j), two components of the state, through the mean of the settled orbits; (origin, axis1, axis2), three vectors;
            or "principal": the state space itself in two dimensions, otherwise the leading principal plane of the fixed points and
            the later half of the orbits, or of the whole orbits if those do not span a plane.
        low, high: corners of the window in the coordinates of the plane, two numbers each. Default: the range of the orbits and of
            fixed points close to it.
        resolution: number of grid points along each axis. Nullclines are found on the grid and refined by bisection.
        steps: steps of each orbit, and of a flow's manifold after it has left its saddle.
        settle: steps before the orbits begin.
        guesses: initial guesses for fixed points, (*batch, dim). Default: 256 states near orbits and 256 on the plane.
        n: step at which the input, or time, is frozen.
        seed: seed of the orbits and guesses.
        progress: show a progress bar.
        throw: raise instead of marking orbits `diverged`.

    Returns:
        PhasePortrait: `field`, `leaving`, `nullcline_1`, `nullcline_2`, `orbits`, `rest`, `stable`, `unstable`, and a status for
        each orbit.

    Raises:
        InputError: the state has 1 component; axes are out of range, equal, parallel or of length 0; `resolution` is below 2; the
            window is empty.
        HorizonError: the system has no step n.
        ShapeError: an axis does not have the width of the state, or the system is a batch of systems.
        DivergedError: with `throw=True`.

    Limits: nullclines are missed if they are narrower than the grid or if the field does not change sign on them, fixed points if
        no guess converges to them. States of more than 2,000 numbers are refused. Manifolds start 1e-4 window sizes from their
        saddle, with an error of the square of that. They are drawn where they are curves: in the plane, or if a saddle has one
        unstable (or one stable) direction. Stable manifolds of a map need inverse images, and end where there are none.
    Source: Strogatz 2015, Nonlinear Dynamics and Chaos, ch. 6; manifolds as Parker & Chua 1989, Practical Numerical Algorithms
        for Chaotic Systems, ch. 6.

    Example:
        >>> flow = sx.Flow(lambda x: torch.stack([x[..., 0] - x[..., 0] ** 3, -x[..., 1]], -1), 2, 0.1)
        >>> guesses = torch.tensor([[-0.9, 0.1], [0.1, 0.0], [0.9, 0.1]])
        >>> portrait = sx.phase_portrait(flow, low=(-2, -2), high=(2, 2), guesses=guesses, resolution=20, steps=20)
        >>> sorted(portrait.rest.kind), len(portrait.stable)
        (['saddle with 1 unstable direction', 'stable node', 'stable node'], 2)
    """
    _check(system, resolution=resolution, steps=steps, settle=settle, seed=seed)
    low, high = _corner("low", low), _corner("high", high)
    _check_window(low, high)
    front = begin(system, default_guesses(system, ORBITS, seed) if x0 is None else x0, seed=seed)
    near = default_guesses(system, GUESSES, seed).to(front.x) if guesses is None else guesses
    rest = fixed_points(system, near, n=n, seed=seed)
    problem = Problem.of(front.system, n, 1)
    orbits, codes = _orbits(problem, front.x, steps, settle, progress)
    chosen = _plane(plane, orbits, rest, front.x)
    low, high = _window(chosen.places(orbits), chosen.places(rest.points), low, high)
    if guesses is None:
        more = chosen.states(grid(low, high, (COARSE, COARSE)).to(front.x)).reshape(-1, system.dim)
        rest = fixed_points(system, torch.cat([near, more]), n=n, seed=seed)
    first, second = (torch.linspace(a, b, resolution).to(front.x) for a, b in zip(low, high, strict=True))
    corner, opposite = torch.stack([first[0], second[0]]), torch.stack([first[-1], second[-1]])
    window = Window(chosen.places, (corner + opposite) / 2, opposite - corner)
    unstable, stable = (manifolds(problem, rest, window, stable=back, steps=steps) for back in (False, True))
    return PhasePortrait(
        codes=codes,
        origin=chosen.origin,
        axes=chosen.axes,
        labels=chosen.labels,
        first=first,
        second=second,
        **_field(problem, chosen, first, second),
        orbits=chosen.places(orbits),
        rest=rest,
        rest_places=chosen.places(rest.points),
        rest_away=(rest.points - chosen.states(chosen.places(rest.points))).norm(dim=-1),
        unstable=unstable.places,
        stable=stable.places,
        unstable_of=unstable.saddle,
        stable_of=stable.saddle,
        is_flow=problem.is_flow,
        settings={
            "plane": plane if isinstance(plane, str) else [torch.as_tensor(part).tolist() for part in plane],
            "low": list(low),
            "high": list(high),
            "resolution": resolution,
            "steps": steps,
            "settle": settle,
            "n": n,
            "seed": seed,
        },
    ).or_raise(throw)


def _field(problem: Problem, plane: Plane, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """The field on the grid, its speed, the share of it that leaves the plane, and its nullclines."""
    places = torch.stack(torch.meshgrid(first, second, indexing="ij"), dim=-1)
    velocity = problem.residual(plane.states(places))
    velocity = velocity.where(torch.isfinite(velocity).all(-1, keepdim=True), torch.nan)
    field = plane.components(velocity)

    def nullcline(axis: int) -> Tensor:
        return zero_lines(
            lambda at: plane.components(problem.residual(plane.states(at)))[..., axis], first, second, field[..., axis]
        )

    return {
        "field": field,
        "speed": velocity.norm(dim=-1),
        "leaving": plane.share_outside(velocity),
        "nullcline_1": nullcline(0),
        "nullcline_2": nullcline(1),
    }


def _check(system: System, *, resolution: int, steps: int, settle: int, seed: int) -> None:
    check_system_type(system)
    check_seed(seed)
    if system.dim < 2:
        raise InputError(
            f"expected a state of at least 2 numbers, got a {type(system).__name__} with {system.dim}.\n"
            "Draw sx.orbit_diagram, or its trajectory over time."
        )
    if system.batch_shape:
        raise ShapeError(
            f"expected one system, got a batch: its parameters or inputs have batch axes {tuple(system.batch_shape)}.\n"
            "Draw the systems one at a time: system.at(…), or a single sequence of inputs."
        )
    for name, value, least in (("resolution", resolution, 2), ("steps", steps, 1), ("settle", settle, 0)):
        check_whole(name, value, least)


def _corner(name: str, corner: Any) -> tuple[float, ...] | None:
    """A corner of the window as two Python floats."""
    if corner is None:
        return None
    try:
        numbers = tuple(float(value) for value in corner)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        raise InputError(f"expected two finite numbers for {name}, a corner of the window, got {corner!r}.")
    return numbers


def _check_window(low: tuple[float, ...] | None, high: tuple[float, ...] | None) -> None:
    for a, b in zip(low or (), high or (), strict=False):
        if not a < b:
            raise InputError(f"expected low below high, got a window from {a:g} to {b:g}.")


def _orbits(problem: Problem, x: Tensor, steps: int, settle: int, progress: bool) -> tuple[Tensor, Tensor]:
    """States after the settling, (time, *batch, dim), and a status for each orbit."""
    system = Flow(problem.residual, x.shape[-1], problem.step.dt) if problem.is_flow else problem.step
    front = Front(system, x, lived=torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device)).advance(settle)
    states = [front.x]
    for _ in watched_count(steps, "Orbits", progress):
        front = front.advance(1)
        states.append(front.x)
    return torch.stack(states), torch.where(front.failed_at >= 0, Status.DIVERGED, Status.OK).to(torch.int8)


def _plane(spec: Any, orbits: Tensor, rest: FixedPoints, like: Tensor) -> Plane:
    """The plane of a specification, from the later halves of the finite orbits, or from all of them if those span no plane."""
    finite = _finite(orbits)
    settled = finite[len(finite) // 2 :].flatten(0, 1)
    if spec != "principal":
        return plane_of(spec, like, settled)
    settled = torch.cat([settled, rest.points])
    return plane_of(spec, like, settled if spans_plane(settled) else torch.cat([finite.flatten(0, 1), rest.points]))


def _finite(orbits: Tensor) -> Tensor:
    """The orbits that do not diverge, (time, orbit, dim)."""
    several = orbits.reshape(len(orbits), -1, orbits.shape[-1])
    return several[:, torch.isfinite(several[-1]).all(-1)]


def _window(
    orbits: Tensor, points: Tensor, low: tuple[float, ...] | None, high: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The given corners, or by default those of the finite orbits and of the fixed points within one range of them."""
    finite = _finite(orbits).flatten(0, 1)
    finite = finite if len(finite) else torch.cat([orbits[0].reshape(-1, 2), points])
    ends = [_range(finite[:, axis], points[:, axis]) for axis in (0, 1)]
    bottom, top = low or tuple(end[0] for end in ends), high or tuple(end[1] for end in ends)
    _check_window(bottom, top)
    return bottom, top


def _range(orbits: Tensor, points: Tensor) -> tuple[float, float]:
    bottom, top = float(orbits.min()), float(orbits.max())
    span = top - bottom
    near = points[(points > bottom - span) & (points < top + span)]
    if len(near):
        bottom, top = min(bottom, float(near.min())), max(top, float(near.max()))
    span = top - bottom
    if span <= NO_SPAN * abs(top):
        half = abs(top) or 1.0
        return bottom - half, top + half
    return bottom - MARGIN * span, top + MARGIN * span
