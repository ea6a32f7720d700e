"""The QR factors of a run, last to first, in memory that grows like the square root of the run.

Going forward, only the state and the frame at the start of each segment are kept. Going backward, one segment at a time is run
again, by the same operations on the same numbers, and its factors are held.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from separatrix.analysis.run.tangent_run import BEARABLE, Block
from separatrix.core.evolve import Front
from separatrix.core.orthonormal import orthonormalise


@dataclass(frozen=True)
class Stretch:
    """One QR interval: the front at its start, whose tangents are orthonormal, and the factor R of what it does to them."""

    start: Front
    r: Tensor
    logs: Tensor
    time: float | Tensor
    steps: int


class FactoredRun:
    """A run of so many QR intervals of `every` steps.

    Args:
        front: the start, with an orthonormal frame as its tangents.
        every: steps between two QRs.
        intervals: how many.
    """

    def __init__(self, front: Front, every: int, intervals: int) -> None:
        self.front = front
        self.every = every
        self.intervals = intervals
        self.segment = segment_length(intervals)
        self._checkpoints: list[Front] = []

    def forward(self) -> Iterator[Block]:
        """Run to the end, keeping the start of each segment."""
        for i in range(self.intervals):
            if i % self.segment == 0:
                self._checkpoints.append(self.front)
            stretch, self.front = _advance(self.front, self.every)
            yield Block(stretch.logs, stretch.time, stretch.steps)

    def backward(self) -> Iterator[Stretch]:
        """The intervals from the last to the first, once `forward` has been through."""
        left = self.intervals
        for front in reversed(self._checkpoints):
            stretches = []
            for _ in range((left - 1) % self.segment + 1):
                stretch, front = _advance(front, self.every)
                stretches.append(stretch)
            left -= len(stretches)
            yield from reversed(stretches)


def segment_length(intervals: int) -> int:
    """QR intervals in a segment: as many as there are segments."""
    return max(1, math.ceil(intervals**0.5))


def _advance(start: Front, steps: int) -> tuple[Stretch, Front]:
    """So many steps and a QR; in two halves where the frame came out too flat to be resolved. See Note [QR interval]."""
    after = start.advance(steps)
    q, logs = orthonormalise(after.v)
    if steps > 1 and _too_flat(logs):
        first, middle = _advance(start, steps // 2)
        second, end = _advance(middle, steps - steps // 2)
        return Stretch(start, second.r @ first.r, first.logs + second.logs, first.time + second.time, steps), end
    # the diagonal of q vᵀ would lose its small numbers to rounding
    r = (q @ torch.transpose(after.v, -2, -1)).triu(1) + torch.diag_embed(logs.exp())
    return Stretch(start, r, logs, after.time - start.time, steps), replace(after, v=q)


def _too_flat(logs: Tensor) -> bool:
    known = logs.masked_fill(logs.isnan(), 0.0)
    return float((known.amax(-1).clamp(min=0) - known.amin(-1).clamp(max=0)).max()) > math.log(BEARABLE[logs.dtype])
