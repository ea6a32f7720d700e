"""Which zeros are one point, which points are one cycle, and what period a cycle really has."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.newton import Zeros
from separatrix.analysis.fixed.problem import Problem

LOOSER = 10  # times as far apart as two ends of one point: two states of one cycle, each of which carries the cycle's error


class Orbits(NamedTuple):
    """Fixed points and cycles, one of each.

    Args:
        points: (point, dim); of a cycle, one of its states.
        found_by: (point), how many guesses came to it.
        cycles: (point, phase, dim).
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
    """One end for each orbit."""
    chosen, counts = distinct_ends(ends, ends.is_zero, distinct)
    states = [ends.x[chosen]]
    for _ in range(problem.period - 1):
        states.append(problem.step.step(states[-1]))
    cycles = torch.stack(states, dim=1)
    kept, found_by = [], []
    left = list(range(len(chosen)))
    while left:
        first = left[0]
        on_it = [i for i in left if i == first or bool(_near(cycles[first], cycles[i, 0], LOOSER * distinct).any())]
        kept.append(first)
        found_by.append(int(counts[on_it].sum()))
        left = [i for i in left if i not in on_it]
    cycles = cycles[kept]
    return Orbits(ends.x[chosen[kept]], torch.tensor(found_by, dtype=torch.int64), cycles, _minimal_period(cycles, distinct))


def distinct_ends(ends: Zeros, among: Tensor, distance: float) -> tuple[Tensor, Tensor]:
    """Indices of ends that differ, the smallest residual of each group, and the size of its group."""
    left = among.nonzero()[:, 0]
    left = left[ends.size[left].argsort(stable=True)]
    chosen, counts = [], []
    while len(left):
        same = _near(ends.x[left], ends.x[left[0]], distance)
        same[0] = True
        chosen.append(int(left[0]))
        counts.append(int(same.sum()))
        left = left[~same]
    return torch.tensor(chosen, dtype=torch.int64), torch.tensor(counts, dtype=torch.int64)


def _near(x: Tensor, point: Tensor, distance: float) -> Tensor:
    distance = max(distance, 100 * torch.finfo(x.dtype).eps)
    return (x - point).abs().amax(-1) <= distance * point.abs().amax().clamp(min=1)


def _minimal_period(cycles: Tensor, distinct: float) -> Tensor:
    """The first phase, of those that divide the period, at which the state is back."""
    phases = cycles.shape[1]
    found = [
        next((d for d in range(1, phases) if phases % d == 0 and bool(_near(c[d], c[0], LOOSER * distinct))), phases)
        for c in cycles
    ]
    return torch.tensor(found, dtype=torch.int64)
