"""The blocks of a run in bounded memory: when there are too many, neighbours are merged."""

from statistics import median_low

import torch
from torch import Tensor

from separatrix.analysis.run.tangent_run import Block

MOST = 256


class Tally:
    """At most 256 blocks of similar length, however long the run; each new block has at least `least` steps."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.least = 1
        self.steps = 0
        self._open: Block | None = None

    def add(self, block: Block) -> None:
        """Add the next stretch of the run."""
        self.steps += block.steps
        self._open = block if self._open is None else self._open + block
        if self._open.steps >= self.least:
            self.blocks.append(self._open)
            self._open = None
        if len(self.blocks) == MOST:
            self.blocks = [a + b for a, b in zip(self.blocks[::2], self.blocks[1::2], strict=True)]
            self.least = median_low(block.steps for block in self.blocks)

    def series(self, k: int | None = None) -> tuple[Tensor, Tensor]:
        """Rates of the first k directions (default: all), shape (block, *batch, k), and durations, shape (block, *batch, 1).

        They cover every step of the run.
        """
        blocks = self.blocks if self._open is None else [*self.blocks, self._open]
        if not blocks:
            raise RuntimeError("no block was added")
        logs = torch.stack([block.logs[..., :k] for block in blocks])
        times = [torch.as_tensor(block.time, dtype=logs.dtype, device=logs.device) for block in blocks]
        duration = torch.stack([time.expand(logs.shape[1:-1]) for time in times])[..., None]
        return logs / duration, duration
