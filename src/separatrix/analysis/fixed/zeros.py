"""From guesses to zeros: Newton's method; where it stalls, a path from the guess; else, down to a minimum of the residual."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.anchors import Anchors
from separatrix.analysis.fixed.homotopy import follow
from separatrix.analysis.fixed.krylov import find_zeros_by_products
from separatrix.analysis.fixed.newton import Zeros, find_zeros
from separatrix.analysis.fixed.problem import Problem
from separatrix.core.progress import watched_count

AT_ONCE = 1_000_000  # numbers of all Jacobians of one batch of guesses: more would leave the processor's cache


class Asked(NamedTuple):
    """The options of a search, as `fixed_points` takes them."""

    tol: float
    max_steps: int
    path_steps: int
    distinct: float
    starts: int
    seed: int


def find_ends(problem: Problem, x: Tensor, asked: Asked, *, zeros_only: bool = False, progress: bool = False) -> Zeros:
    """The ends of all guesses, in batches of moderate size; if only zeros count, what stalls is left where it is."""
    pieces = x.split(max(1, AT_ONCE // (x.shape[-1] * (1 if problem.is_wide else x.shape[-1]))))
    anchors = Anchors(problem.residual, problem.linearised)
    ticks = watched_count(len(pieces), "guesses", progress)
    return Zeros.joined([_ends_at_once(problem, pieces[tick.index], anchors, asked, zeros_only) for tick in ticks])


def _ends_at_once(problem: Problem, x: Tensor, anchors: Anchors, asked: Asked, zeros_only: bool) -> Zeros:
    """The ends of one batch."""
    tol, max_steps = asked.tol, asked.max_steps
    if problem.is_wide:
        return find_zeros_by_products(problem.residual, problem.pushed, x, tol=tol, max_steps=max_steps)
    ends = _newton(problem, x, anchors, asked, patient=not (asked.path_steps or zeros_only))
    stalled = ((~ends.is_zero | ends.vague) & torch.isfinite(ends.size)).nonzero()[:, 0]
    if asked.path_steps and len(stalled):
        ends = _along_paths(problem, x, ends, stalled, anchors, asked)
    stalled = stalled[~ends.is_zero[stalled]]
    if len(stalled) and not zeros_only:
        minima = find_zeros(problem.residual, problem.linearised, ends.x[stalled], tol=tol, max_steps=max_steps, even=False)
        ends = ends.replaced(stalled, minima)
    return ends


def _newton(problem: Problem, x: Tensor, anchors: Anchors, asked: Asked, *, patient: bool) -> Zeros:
    """The ends of Newton's method, whose zeros become anchors."""
    options = {"tol": asked.tol, "max_steps": asked.max_steps, "patient": patient, "landed": anchors.landed}
    ends = find_zeros(problem.residual, problem.linearised, x, **options)
    anchors.add(ends.x[ends.is_zero])
    return ends


def _along_paths(problem: Problem, x: Tensor, ends: Zeros, stalled: Tensor, anchors: Anchors, asked: Asked) -> Zeros:
    """The ends, those that stalled replaced by zeros that the paths from their guesses lead to: every other path's second one."""
    crossings = 1 + torch.arange(len(stalled), device=x.device) % 2
    for near in follow(problem.linearised, x[stalled], crossings, max_steps=asked.path_steps).unbind(1):
        met = torch.isfinite(near).all(-1)
        if not met.any():
            break
        found = _newton(problem, near[met], anchors, asked, patient=False)
        better = found.is_zero & (~found.vague | ~ends.is_zero[stalled[met]])
        ends = ends.replaced(stalled[met][better], found.only(better))
    return ends
