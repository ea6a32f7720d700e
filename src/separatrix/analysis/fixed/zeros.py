"""From guesses to zeros: Newton's method, then homotopy paths if it stalls, then descent to a minimum of the residual."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.anchors import Anchors
from separatrix.analysis.fixed.homotopy import follow
from separatrix.analysis.fixed.krylov import find_zeros_by_products
from separatrix.analysis.fixed.newton import Zeros, find_zeros
from separatrix.analysis.fixed.problem import Problem
from separatrix.core.progress import watched_count

AT_ONCE = 1_000_000  # numbers in the Jacobians of one batch of guesses, which should fit into the processor's cache


class Options(NamedTuple):
    """The options of `fixed_points`."""

    tol: float
    max_steps: int
    path_steps: int
    distinct: float
    starts: int
    seed: int


def find_ends(problem: Problem, x: Tensor, options: Options, *, zeros_only: bool = False, progress: bool = False) -> Zeros:
    """The ends of all guesses, in batches of moderate size; with `zeros_only`, stalled guesses are left where they are."""
    pieces = x.split(max(1, AT_ONCE // (x.shape[-1] * (1 if problem.is_wide else x.shape[-1]))))
    anchors = Anchors(problem.residual, problem.linearised)
    ticks = watched_count(len(pieces), "Fixed points", progress)
    return Zeros.joined([_ends_at_once(problem, pieces[tick.index], anchors, options, zeros_only) for tick in ticks])


def _ends_at_once(problem: Problem, x: Tensor, anchors: Anchors, options: Options, zeros_only: bool) -> Zeros:
    """The ends of one batch."""
    tol, max_steps = options.tol, options.max_steps
    if problem.is_wide:
        return find_zeros_by_products(problem.residual, problem.pushed, x, tol=tol, max_steps=max_steps)
    ends = _newton(problem, x, anchors, options, patient=not (options.path_steps or zeros_only))
    stalled = ((~ends.is_zero | ends.vague) & torch.isfinite(ends.size)).nonzero()[:, 0]
    if options.path_steps and len(stalled):
        ends = _along_paths(problem, x, ends, stalled, anchors, options)
    stalled = stalled[~ends.is_zero[stalled]]
    if len(stalled) and not zeros_only:
        minima = find_zeros(problem.residual, problem.linearised, ends.x[stalled], tol=tol, max_steps=max_steps, even=False)
        ends = ends.replaced(stalled, minima)
    return ends


def _newton(problem: Problem, x: Tensor, anchors: Anchors, options: Options, *, patient: bool) -> Zeros:
    """The ends of Newton's method; the zeros among them become anchors."""
    limits = {"tol": options.tol, "max_steps": options.max_steps}
    ends = find_zeros(problem.residual, problem.linearised, x, patient=patient, landed=anchors.landed, **limits)
    anchors.add(ends.x[ends.is_zero])
    return ends


def _along_paths(problem: Problem, x: Tensor, ends: Zeros, stalled: Tensor, anchors: Anchors, options: Options) -> Zeros:
    """The ends, with stalled ones replaced by zeros on the paths from their guesses: alternately the first and the second."""
    crossings = 1 + torch.arange(len(stalled), device=x.device) % 2
    for near in follow(problem.linearised, x[stalled], crossings, max_steps=options.path_steps).unbind(1):
        reached = torch.isfinite(near).all(-1)
        if not reached.any():
            break
        found = _newton(problem, near[reached], anchors, options, patient=False)
        better = found.is_zero & (~found.vague | ~ends.is_zero[stalled[reached]])
        ends = ends.replaced(stalled[reached][better], found.only(better))
    return ends
