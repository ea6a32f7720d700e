"""The QR factors of a run in reverse order, in memory that grows like the square root of its length.

The forward pass stores only the state and the frame at the start of each segment. The backward pass runs one segment at a time
again, with the same operations on the same numbers, and stores its factors.
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
    """One QR interval: the front at its start, with orthonormal tangents, and the factor R of the pushed tangents."""

    start: Front
    r: Tensor
    logs: Tensor
    time: float | Tensor
    steps: int


class FactoredRun:
    """A run of `intervals` QR intervals of `every` steps each.

    Args:
        front: the start, with an orthonormal frame as its tangents.
        every: steps between two QRs.
        intervals: number of QR intervals.
    """

    def __init__(self, front: Front, every: int, intervals: int) -> None:
        self.front = front
        self.every = every
        self.intervals = intervals
        self.segment = segment_length(intervals)
        self._checkpoints: list[Front] = []

    def forward(self) -> Iterator[Block]:
        """Run to the end and store the start of each segment."""
        for i in range(self.intervals):
            if i % self.segment == 0:
                self._checkpoints.append(self.front)
            stretch, self.front = _advance(self.front, self.every)
            yield Block(stretch.logs, stretch.time, stretch.steps)

    def backward(self) -> Iterator[Stretch]:
        """The intervals from the last to the first; `forward` must have run to its end."""
        left = self.intervals
        for front in reversed(self._checkpoints):
            stretches = []
            for _ in range((left - 1) % self.segment + 1):
                stretch, front = _advance(front, self.every)
                stretches.append(stretch)
            left -= len(stretches)
            yield from reversed(stretches)


def segment_length(intervals: int) -> int:
    """QR intervals per segment: the square root of their number, so that there are about as many segments."""
    return max(1, math.ceil(intervals**0.5))


def _advance(start: Front, steps: int) -> tuple[Stretch, Front]:
    """Take `steps` steps and a QR, in two halves if the frame becomes too flat. See Note [QR interval]."""
    after = start.advance(steps)
    q, logs = orthonormalise(after.v)
    if steps > 1 and _too_flat(logs):
        first, middle = _advance(start, steps // 2)
        second, end = _advance(middle, steps - steps // 2)
        return Stretch(start, second.r @ first.r, first.logs + second.logs, first.time + second.time, steps), end
    # small numbers on the diagonal of q vᵀ would be lost to rounding
    r = (q @ torch.transpose(after.v, -2, -1)).triu(1) + torch.diag_embed(logs.exp())
    return Stretch(start, r, logs, after.time - start.time, steps), replace(after, v=q)


def _too_flat(logs: Tensor) -> bool:
    logs = logs.masked_fill(logs.isnan(), 0.0)
    return float((logs.amax(-1).clamp(min=0) - logs.amin(-1).clamp(max=0)).max()) > math.log(BEARABLE[logs.dtype])
