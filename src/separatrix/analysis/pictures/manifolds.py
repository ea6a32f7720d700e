"""Stable and unstable manifolds of saddles, where they are curves; in a plane the stable ones are the separatrices."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.problem import Problem
from separatrix.analysis.fixed.result import FixedPoints
from separatrix.flows.flow import Flow

START = 1e-4  # distance of a curve's start from the saddle, in windows; the curve's error is of the order of its square
MOST_STEPS = 20_000  # maximum number of steps along a curve of a flow
ITERATES, MOST_ITERATES = 200, 2_000  # images of a map's first segment: after it has left the saddle, and in all
PIECE = 400  # states of that segment
NEAR, FAR = 1.5, 3.0  # distances from the centre in windows: of the farthest saddle with curves, and of the end of a curve
GAP = 0.05  # in windows: a map's curve ends where the gap between two of its states is larger
NEWTON, HALVINGS = 40, 8  # maximum number of Newton steps for an inverse image, and of halvings of each
INVERTED = 1e-9  # y is an inverse image of x if ‖F(y) − x‖ is below this, in windows

# Note [Growing a manifold]
# The manifold of a saddle is a curve if exactly one direction expands (unstable) or contracts (stable). For a flow it consists of
# one orbit on each side, which starts next to the saddle along the eigenvector and runs forward or backward in time: deviations
# from the curve contract. The orbit of a map jumps along the curve, so a segment of the curve is iterated, from s to |μ| s (to μ² s
# with every second step if μ < 0, which changes sides); its images are the rest of the curve. The inverse map is solved by Newton's
# method, state by state.

Step = Callable[[Tensor], Tensor]


class Curves(NamedTuple):
    """Coordinates along each branch, (branch, sample, 2), NaN past its end, and the index of its saddle, (branch)."""

    places: Tensor
    saddle: Tensor


class Window(NamedTuple):
    """The visible part of a plane."""

    places: Callable[[Tensor], Tensor]
    center: Tensor
    size: Tensor

    def scaled(self, x: Tensor) -> Tensor:
        """Coordinates relative to the centre of the window, in units of its size."""
        return (self.places(x) - self.center) / self.size


def manifolds(problem: Problem, rest: FixedPoints, window: Window, *, stable: bool, steps: int) -> Curves:
    """Manifolds of the saddles in the window, or up to its width away, that are curves.

    Args:
        problem: the frozen system.
        rest: its fixed points.
        window: the visible part of the plane.
        stable: stable manifolds, backward in time, instead of unstable ones.
        steps: steps of a flow's curve after it has left its saddle.
    """
    saddles = _saddles(rest, window, stable)
    if not saddles:
        return Curves(rest.points.new_zeros(0, 0, 2), torch.zeros(0, dtype=torch.int64))
    multipliers = rest.multipliers[saddles]
    size = multipliers.abs()
    place = (size.argmin(-1) if stable else size.argmax(-1))[:, None]
    chosen = multipliers.gather(-1, place)[:, 0]
    rates = chosen.abs().log().abs()  # per step
    x = rest.points[saddles]
    directions = torch.stack([_direction(problem, one, mu) for one, mu in zip(x, chosen, strict=True)])
    seen = (window.scaled(x + directions) - window.scaled(x)).norm(dim=-1).clamp(min=START)
    leaving = math.log(1 / START) / float(rates.min())  # steps to a distance of one window
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
    """The saddles near the window with exactly one stable (or unstable) direction and finite rates."""
    growth = -rest.rates if stable else rest.rates
    is_curve = ((growth > 0).sum(-1) == 1) & torch.isfinite(growth).all(-1)
    near = (window.scaled(rest.points).abs() < NEAR).all(-1)
    return [i for i, kind in enumerate(rest.kind) if kind.startswith("saddle") and bool(is_curve[i] & near[i])]


def _direction(problem: Problem, saddle: Tensor, multiplier: Tensor) -> Tensor:
    """The unit eigenvector of a real multiplier."""
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
    """The y near x with F(y) = x, by damped Newton steps; NaN if there is none."""
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
        active[at] = moved & (r.norm(dim=-1) > enough)  # r before the step: a converged y has had one more
    away = (problem.system.step(y) - target).norm(dim=-1)
    return y.where((away <= enough)[:, None], torch.nan).reshape(shape)


def _downhill(problem: Problem, y: Tensor, move: Tensor, r: Tensor, target: Tensor) -> Tensor:
    """The point after the longest of the moves 1, 1/2, 1/4, … that brings F closer to the target."""
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
    """Coordinates of the successive images of (branch, piece, dim), (branch, images · piece, 2)."""
    places = [window.places(x)]
    for _ in range(reach):
        x = step(x)
        places.append(window.places(x))
        moved = ((places[-1] - places[-2]) / window.size).abs().amax(-1)
        inside = ((places[-1] - window.center) / window.size).abs().amax(-1) < FAR
        if not (inside.all(1) & (moved.amax(1) > START**2)).any():  # every branch has left or converged
            break
    return torch.cat(places, dim=1)


def _trimmed(curves: Tensor, window: Window, longest: float) -> Tensor:
    """The curves, NaN from where a branch leaves the surroundings of the window or has a large gap; cut to the longest."""
    scaled = (curves - window.center) / window.size
    near = scaled.abs().amax(-1) < FAR
    gap = (scaled[:, 1:] - scaled[:, :-1]).norm(dim=-1)
    resolved = torch.cat([torch.ones_like(near[:, :1]), gap < longest], dim=1)
    kept = (near & resolved).to(torch.int8).cummin(dim=1).values.bool()
    return curves.where(kept[..., None], torch.nan)[:, : int(kept.sum(1).max())]
