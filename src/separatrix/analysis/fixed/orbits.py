"""Grouping of zeros into points and of points into cycles, and the minimal period of each cycle."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.newton import Zeros
from separatrix.analysis.fixed.problem import Problem

LOOSER = 10  # factor on `distinct` for two states of one cycle, both of which carry the error of the cycle


class Orbits(NamedTuple):
    """Distinct fixed points and cycles.

    Args:
        points: (point, dim); for a cycle, one of its states.
        found_by: (point), the number of guesses that converged to it.
        cycles: (point, phase, dim), all states of the cycle.
        minimal_period: (point).
    """

    points: Tensor
    found_by: Tensor
    cycles: Tensor
    minimal_period: Tensor

    def only(self, which: Tensor) -> "Orbits":
        """Some of them, by their indices."""
        return Orbits(*(part[which] for part in self))


def orbits_of(problem: Problem, ends: Zeros, distinct: float) -> Orbits:
    """One end per orbit."""
    chosen, counts = distinct_ends(ends, ends.is_zero, distinct)
    states = [ends.x[chosen]]
    for _ in range(problem.period - 1):
        states.append(problem.step.step(states[-1]))
    cycles = torch.stack(states, dim=1)
    kept, found_by = [], []
    remaining = list(range(len(chosen)))
    while remaining:
        first = remaining[0]
        same = [i for i in remaining if i == first or bool(_near(cycles[first], cycles[i, 0], LOOSER * distinct).any())]
        kept.append(first)
        found_by.append(int(counts[same].sum()))
        remaining = [i for i in remaining if i not in same]
    cycles = cycles[kept]
    return Orbits(ends.x[chosen[kept]], torch.tensor(found_by, dtype=torch.int64), cycles, _minimal_period(cycles, distinct))


def distinct_ends(ends: Zeros, among: Tensor, distance: float) -> tuple[Tensor, Tensor]:
    """Indices of distinct ends, the one with the smallest residual of each group, and the sizes of the groups."""
    remaining = among.nonzero()[:, 0]
    remaining = remaining[ends.size[remaining].argsort(stable=True)]
    chosen, counts = [], []
    while len(remaining):
        same = _near(ends.x[remaining], ends.x[remaining[0]], distance)
        same[0] = True
        chosen.append(int(remaining[0]))
        counts.append(int(same.sum()))
        remaining = remaining[~same]
    return torch.tensor(chosen, dtype=torch.int64), torch.tensor(counts, dtype=torch.int64)


def _near(x: Tensor, point: Tensor, distance: float) -> Tensor:
    distance = max(distance, 100 * torch.finfo(x.dtype).eps)
    return (x - point).abs().amax(-1) <= distance * point.abs().amax().clamp(min=1)


def _minimal_period(cycles: Tensor, distinct: float) -> Tensor:
    """The smallest divisor of the period after which the state returns."""
    phases = cycles.shape[1]
    periods = [
        next((d for d in range(1, phases) if phases % d == 0 and bool(_near(c[d], c[0], LOOSER * distinct))), phases)
        for c in cycles
    ]
    return torch.tensor(periods, dtype=torch.int64)
