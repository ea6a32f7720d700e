"""Stable and unstable manifolds of saddles, where they are curves: the first are the separatrices of a plane."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.problem import Problem
from separatrix.analysis.fixed.result import FixedPoints
from separatrix.flows.flow import Flow

START = 1e-4  # distance from the saddle at which a curve begins, over the window's; its error is of the square of this
MOST_STEPS = 20_000  # along a curve of a flow
ITERATES, MOST_ITERATES = 200, 2_000  # of a map's first piece of a curve: beyond its leaving the saddle, and in all
PIECE = 400  # states of that piece
NEAR, FAR = 1.5, 3.0  # windows from the middle: the farthest saddle whose curves are grown, and where these end
GAP = 0.05  # windows: the gap between two states of a map's curve at which it is no longer resolved
STANDS = 1e-12  # windows a step: below, a curve has come to rest
NEWTON, HALVINGS = 40, 8  # steps of the inverse of a map, and halvings of each
INVERTED = 1e-9  # ‖F(y) − x‖ over the window's size, at most, for y to be an inverse image of x

# Note [Growing a manifold]
# A saddle's manifold is a curve where one direction alone expands (unstable) or contracts (stable). A flow's is one orbit for each
# side, begun next to the saddle along the eigenvector, forward or backward in time: what is off the curve contracts onto it. A
# map's orbit jumps along the curve, so a whole piece of it is iterated, from s to |μ| s (μ² s, and every second step, where μ < 0
# changes sides): its images are the rest of the curve. The inverse map is solved for by Newton's method, state by state.

Step = Callable[[Tensor], Tensor]


class Curves(NamedTuple):
    """Places along each branch, (branch, sample, 2), NaN past its end, and its saddle, (branch)."""

    places: Tensor
    saddle: Tensor


class Window(NamedTuple):
    """The part of a plane that is looked at."""

    places: Callable[[Tensor], Tensor]
    center: Tensor
    size: Tensor

    def scaled(self, x: Tensor) -> Tensor:
        """Places in units of the window, from its middle."""
        return (self.places(x) - self.center) / self.size


def manifolds(problem: Problem, rest: FixedPoints, window: Window, *, stable: bool, steps: int) -> Curves:
    """The curves of all saddles in the window, or as far from it as it is wide, that have some.

    Args:
        problem: the system, frozen.
        rest: its fixed points.
        window: where they are looked at.
        stable: the stable manifolds, backward in time, or the unstable ones.
        steps: how many a flow's curve goes on after it has left its saddle.
    """
    saddles = _saddles(rest, window, stable)
    if not saddles:
        return Curves(rest.points.new_zeros(0, 0, 2), torch.zeros(0, dtype=torch.int64))
    multipliers = rest.multipliers[saddles]
    size = multipliers.abs()
    place = (size.argmin(-1) if stable else size.argmax(-1))[:, None]
    chosen = multipliers.gather(-1, place)[:, 0]
    rates = chosen.abs().log().abs()  # a step
    x = rest.points[saddles]
    directions = torch.stack([_direction(problem, one, mu) for one, mu in zip(x, chosen, strict=True)])
    seen = (window.scaled(x + directions) - window.scaled(x)).norm(dim=-1).clamp(min=START)
    leaving = math.log(1 / START) / float(rates.min())  # steps until it is a window away
    if problem.is_flow:
        step, turns = _flow_step(problem, backward=stable), 1
        reach = min(round(leaving) + steps, MOST_STEPS)
        pieces = torch.zeros(1).to(x)
    else:
        turns = 2 if bool((chosen.real < 0).any()) else 1
        reach = min(round(leaving / turns) + ITERATES, MOST_ITERATES)
        step = _map_step(problem, window, backward=stable, turns=turns)
        pieces = torch.linspace(0, 1, PIECE + 1).to(x)[:-1]
    sides = x.new_tensor([1.0, -1.0])[:, None]
    along = (START / seen)[:, None, None] * sides * (turns * rates[:, None, None] * pieces).exp().to(x)
    begun = (x[:, None, None] + along[..., None] * directions[:, None, None]).flatten(0, 1)
    places = _trimmed(_followed(step, begun, reach, window), window, math.inf if problem.is_flow else GAP)
    return Curves(places, torch.tensor(saddles, dtype=torch.int64).repeat_interleave(2))


def _saddles(rest: FixedPoints, window: Window, stable: bool) -> list[int]:
    """The saddles near the window with just one direction of that kind, not lost in a single step."""
    growth = -rest.rates if stable else rest.rates
    alone = ((growth > 0).sum(-1) == 1) & torch.isfinite(growth).all(-1)
    near = (window.scaled(rest.points).abs() < NEAR).all(-1)
    return [i for i, kind in enumerate(rest.kind) if kind.startswith("saddle") and bool(alone[i] & near[i])]


def _direction(problem: Problem, saddle: Tensor, multiplier: Tensor) -> Tensor:
    """The eigenvector of a real multiplier, of length 1."""
    matrix = problem.linearised(saddle[None])[1][0]
    wanted = multiplier.real.log() / problem.step.dt if problem.is_flow else multiplier.real - 1
    values, vectors = torch.linalg.eig(matrix.double())
    vector = vectors[:, int((values - wanted).abs().argmin())].real
    return (vector / vector.norm()).to(saddle)


def _flow_step(problem: Problem, *, backward: bool) -> Step:
    sign = -1.0 if backward else 1.0
    return Flow(lambda x: sign * problem.residual(x), problem.step.dim, problem.step.dt).step


def _map_step(problem: Problem, window: Window, *, backward: bool, turns: int) -> Step:
    once = (lambda x: _inverse(problem, x, window)) if backward else problem.system.step

    def step(x: Tensor) -> Tensor:
        for _ in range(turns):
            x = once(x)
        return x

    return step


def _inverse(problem: Problem, x: Tensor, window: Window) -> Tensor:
    """The y near x with F(y) = x, by damped Newton steps; NaN where there is none."""
    target, shape = x.reshape(-1, x.shape[-1]), x.shape
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    enough = INVERTED * window.size.norm()
    y, active = target.clone(), torch.isfinite(target).all(-1)
    for _ in range(NEWTON):
        at = active.nonzero()[:, 0]
        if not len(at):
            break
        after, jacobian = problem.linearised(y[at])
        after = after + y[at]  # F(y)
        r = after - target[at]
        move, failed = torch.linalg.solve_ex(jacobian + identity, -r)
        nearer = _downhill(problem, y[at], move.masked_fill((failed != 0)[:, None], torch.nan), r, target[at])
        moved = (nearer != y[at]).any(-1)
        y[at] = nearer
        active[at] = moved & (r.norm(dim=-1) > enough)  # what was near enough has had one more step
    away = (problem.system.step(y) - target).norm(dim=-1)
    return y.where((away <= enough)[:, None], torch.nan).reshape(shape)


def _downhill(problem: Problem, y: Tensor, move: Tensor, r: Tensor, target: Tensor) -> Tensor:
    """The longest of the move's halves that brings F nearer to the target."""
    best, before = y, r.norm(dim=-1)
    left = torch.ones_like(before, dtype=torch.bool)
    for halving in range(HALVINGS):
        trial = y + move / 2**halving
        now = (problem.system.step(trial) - target).norm(dim=-1)
        better = left & ((now < before) | (now == 0))
        best, left = trial.where(better[:, None], best), left & ~better
        if not left.any():
            break
    return best


def _followed(step: Step, x: Tensor, reach: int, window: Window) -> Tensor:
    """Places of the images of (branch, piece, dim), one image after the other, (branch, images · piece, 2)."""
    places = [window.places(x)]
    for _ in range(reach):
        x = step(x)
        places.append(window.places(x))
        moved = ((places[-1] - places[-2]) / window.size).abs().amax(-1)
        inside = ((places[-1] - window.center) / window.size).abs().amax(-1) < FAR
        if not (inside.all(1) & (moved.amax(1) > START**2)).any():  # every branch has left, or stands still
            break
    return torch.cat(places, dim=1)


def _trimmed(curves: Tensor, window: Window, longest: float) -> Tensor:
    """NaN from where a branch leaves the window's surroundings, or is no longer resolved; cut behind the longest."""
    scaled = (curves - window.center) / window.size
    near = scaled.abs().amax(-1) < FAR
    gap = (scaled[:, 1:] - scaled[:, :-1]).norm(dim=-1)
    whole = torch.cat([torch.ones_like(near[:, :1]), gap < longest], dim=1)
    kept = (near & whole).to(torch.int8).cummin(dim=1).values.bool()
    return curves.where(kept[..., None], torch.nan)[:, : int(kept.sum(1).max())]
