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

ORBITS = 16  # of a default portrait
GUESSES = 256  # states near orbits from which fixed points are sought, besides those of the plane
COARSE = 16  # states of the plane, along each axis, that are guesses too
MARGIN = 0.08  # of the orbits' range, on each side of a default window
NO_SPAN = 1e-9  # a range below this is a point


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PhasePortrait(Result):
    r"""What a system does on a plane  origin + a₁ axis₁ + a₂ axis₂;  (a₁, a₂) is a place. The batch is that of the orbits.

    In two dimensions the plane is the state space. In more, field, nullclines and shares are those *on* the plane, while orbits,
    fixed points and manifolds are drawn where they project.

    Args:
        origin: (dim), the state at the place (0, 0).
        axes: (axis, dim), the two axes, as rows.
        labels: what the two numbers of a place are.
        first, second: (row), (column), the grid's values of a₁ and a₂.
        field: (row, column, axis), the field's components along the axes: ẋ of a flow, F(x) − x of a map; NaN where not finite.
        speed: (row, column), the length of the whole field.
        leaving: (row, column), the share of that length that is orthogonal to the plane, 0 … 1; 0 in two dimensions.
        nullcline_1, nullcline_2: (vertex, axis), lines on which the first, or second, component is 0, with a row of NaN after each
            line. In more than two dimensions: zeros of the projected field, which need not be at rest where they meet.
        orbits: (step, *batch, axis), places of the orbits.
        rest: the fixed points (of a flow, equilibria) that were found, their stability, and the guesses' status.
        rest_places: (point, axis).
        rest_away: (point), distance of each from the plane.
        unstable, stable: (branch, sample, axis), the unstable and stable manifolds of saddles where these are curves; NaN past a
            curve's end. In the plane the stable ones are the separatrices.
        unstable_of, stable_of: (branch), the saddle's number among `rest.points`.
        is_flow: whether the field is a velocity, or the displacement F(x) − x.
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
        "orbits": "step batch axis",
        "rest_places": "point axis",
        "rest_away": "point",
        "unstable": "unstable_branch unstable_sample axis",
        "stable": "stable_branch stable_sample axis",
        "unstable_of": "unstable_branch",
        "stable_of": "stable_branch",
    }
    units: ClassVar[dict[str, str]] = {
        "field": "units of a place, per unit time of a flow, per step of a map",
        "speed": "the state's unit, per unit time of a flow, per step of a map",
        "leaving": "1",
    }

    def summary(self) -> str:
        """The plane, the fixed points, the separatrices, the orbits, and how much of the field leaves the plane."""
        lines = [f"phase portrait of a {'flow' if self.is_flow else 'map'} over {self.labels[0]} and {self.labels[1]}"]
        lines.append(self.rest.summary().splitlines()[0])
        lines.append(f"branches of saddles' manifolds: {len(self.stable)} stable, {len(self.unstable)} unstable")
        lost = int((self.codes == Status.DIVERGED).sum())
        lines.append(counted(self.codes.numel(), "orbit") + (f", of which {lost} diverged" if lost else ""))
        if self.axes.shape[1] > 2:
            share = self.leaving[torch.isfinite(self.leaving)]
            told = f"{float(share.median()):.0%} in the median, {float(share.max()):.0%} at most" if len(share) else "unknown"
            lines.append(f"share of the field that leaves the plane: {told}")
        return "\n".join(lines)


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
) -> PhasePortrait:
    r"""The field of a flow, or F(x) − x of a map, over a plane, with nullclines, orbits, fixed points and separatrices.

    A driven or time-dependent system is frozen at step n, its orbits as well. A flow is taken at its field, so that everything is
    the flow's and not its solver's; orbits and manifolds follow the field by RK4 at the system's dt.

    Args:
        system: any System of at least two numbers; a network under data is frozen at the input of step n.
        x0: where orbits begin, shape (*batch, dim). Default: 16 states near those that the system visits.
        plane: (i, j), two numbers of the state, through the mean of the settled orbits; (origin, axis1, axis2), three vectors; or
            "principal": the state space itself in two dimensions, else the leading principal plane of the later half of the orbits
            with the fixed points, or of all of the orbits where those span none.
        low, high: the window's corners in places, two numbers each. Default: the orbits' range and fixed points near it.
        resolution: points of the grid along each axis. Nullclines are found on it, then bisected to the last bit.
        steps: of each orbit, and of a flow's manifold once it has left its saddle.
        settle: steps before the orbits begin.
        guesses: where to look for fixed points, (*batch, dim). Default: 256 states near orbits, and 256 of the plane.
        n: the step whose drive, or time, is kept for ever.
        seed: of orbits and guesses.
        progress: show a bar of the orbits' steps.

    Returns:
        PhasePortrait: `field`, `leaving`, `nullcline_1`, `nullcline_2`, `orbits`, `rest`, `stable`, `unstable`, and a status for
        each orbit.

    Raises:
        InputError: a state of 1 number; axes out of range, equal, parallel or of length 0; a resolution below 2; an empty window.
        HorizonError: the system has no step n.
        ShapeError: an axis of another width than the state's, or a batch of systems.

    Limits: nullclines thinner than the grid are missed, and zeros at which no sign changes; so are fixed points that no guess leads
        to. States of more than 2,000 numbers are refused. Manifolds begin 1e-4 windows from their saddle, with an
        error of the square of that, and are drawn where they are curves: in the plane, or where a saddle has one unstable (or one
        stable) direction. A map's stable ones need inverse images, and end where there are none.
    Source: Strogatz 2015, Nonlinear Dynamics and Chaos, ch. 6; manifolds as Parker & Chua 1989, Practical Numerical Algorithms
        for Chaotic Systems, ch. 6.
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
    )


def _field(problem: Problem, plane: Plane, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """The field over the grid, its speed, how much of it leaves the plane, and its nullclines."""
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
            f"a plane needs 2 numbers but the state of this {type(system).__name__} has {system.dim}.\n"
            "Draw sx.orbit_diagram, or its trajectory over time."
        )
    if system.batch_shape:
        raise ShapeError(
            f"this is a batch of systems: its parameters or inputs have batch axes {tuple(system.batch_shape)}.\n"
            "Draw one of them at a time: system.at(…), or one sequence of inputs."
        )
    for name, value, least in (("resolution", resolution, 2), ("steps", steps, 1), ("settle", settle, 0)):
        check_whole(name, value)
        if value < least:
            raise InputError(f"{name} is {value}; it is at least {least}.")


def _corner(name: str, corner: Any) -> tuple[float, ...] | None:
    """A corner of the window as two numbers of Python's own."""
    if corner is None:
        return None
    try:
        numbers = tuple(float(value) for value in corner)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        raise InputError(f"{name} is {corner!r}; a corner of the window is two finite numbers.")
    return numbers


def _check_window(low: tuple[float, ...] | None, high: tuple[float, ...] | None) -> None:
    for a, b in zip(low or (), high or (), strict=False):
        if not a < b:
            raise InputError(f"the window is empty: it goes from {a:g} to {b:g}.\nGive low below high.")


def _orbits(problem: Problem, x: Tensor, steps: int, settle: int, progress: bool) -> tuple[Tensor, Tensor]:
    """States after the settling, (step, *batch, dim), and a status for each orbit."""
    system = Flow(problem.residual, x.shape[-1], problem.step.dt) if problem.is_flow else problem.step
    front = Front(system, x, lived=torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device)).advance(settle)
    states = [front.x]
    for _ in watched_count(steps, "orbits", progress):
        front = front.advance(1)
        states.append(front.x)
    return torch.stack(states), torch.where(front.failed_at >= 0, Status.DIVERGED, Status.OK).to(torch.int8)


def _plane(spec: Any, orbits: Tensor, rest: FixedPoints, like: Tensor) -> Plane:
    """The plane asked for, of the settled halves of the orbits that do not diverge; of all of these where those span none."""
    kept = _kept(orbits)
    settled = kept[len(kept) // 2 :].flatten(0, 1)
    if spec != "principal":
        return plane_of(spec, like, settled)
    settled = torch.cat([settled, rest.points])
    return plane_of(spec, like, settled if spans_plane(settled) else torch.cat([kept.flatten(0, 1), rest.points]))


def _kept(orbits: Tensor) -> Tensor:
    """The orbits that do not diverge, (step, orbit, dim)."""
    several = orbits.reshape(len(orbits), -1, orbits.shape[-1])
    return several[:, torch.isfinite(several[-1]).all(-1)]


def _window(
    orbits: Tensor, points: Tensor, low: tuple[float, ...] | None, high: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The corners asked for; else those of the orbits that do not diverge, and of the fixed points within one such range."""
    kept = _kept(orbits).flatten(0, 1)
    kept = kept if len(kept) else torch.cat([orbits[0].reshape(-1, 2), points])
    ends = [_range(kept[:, axis], points[:, axis]) for axis in (0, 1)]
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
