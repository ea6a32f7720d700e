"""Indices of fixed points, whose sum shows whether points are missing (Lefschetz)."""

import torch

from separatrix.analysis.fixed.orbits import Orbits
from separatrix.analysis.fixed.problem import Problem
from separatrix.analysis.fixed.rounding import is_isolated
from separatrix.analysis.fixed.stability import KINK, Stability


def index_expected(problem: Problem) -> int | None:
    """The sum over all points: 1 for a map of a ball into itself; None if unknown."""
    return 1 if problem.step.into_ball and not problem.is_wide else None


def index_sum(problem: Problem, orbits: Orbits, stability: Stability, distinct: float) -> int | None:
    """Σ sign det(1 − DF^p) over all states of all cycles, or Σ sign det(−Df) of a flow; None if a point has no index."""
    if problem.is_wide or KINK in stability.kind or not bool(is_isolated(stability.errors, orbits.points, distinct).all()):
        return None
    if not len(orbits.points):
        return 0
    signs = torch.linalg.slogdet(-problem.linearised(orbits.points)[1].double())[0]
    return int((signs.cpu() * orbits.minimal_period).sum())
