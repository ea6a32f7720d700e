"""The search: all states are followed to the attractors that scouts among them discover."""

from collections.abc import Iterator

import torch
from torch import Tensor

from separatrix.analysis.basins.attractors import Attractor, kept, nearest
from separatrix.analysis.basins.scouts import Plan, discover
from separatrix.core.evolve import Front
from separatrix.core.progress import Tick
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Status

SCOUTS = 64  # scouts that run together
SCOUT_NUMBERS = 10_000_000  # numbers in memory for their pieces
CHECKS = 20  # comparisons of the states with the attractors per piece


class Search:
    """The states that have not arrived yet, and the attractors found so far."""

    def __init__(self, front: Front, plan: Plan) -> None:
        x = front.x.reshape(-1, front.x.shape[-1])
        self.plan = plan
        self.front = Front(front.system, x, lived=torch.zeros(len(x), dtype=torch.int64, device=x.device))
        self.index = torch.arange(len(x), device=x.device)
        self.labels = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.codes = torch.full((len(x),), Status.NOT_CONVERGED, dtype=torch.int8, device=x.device)
        self.known: list[Attractor] = []
        self.generator = torch_generator(plan.seed, "cells to refine")
        self.lasted = 0

    def run(self) -> Iterator[Tick]:
        """Alternate scouting and following, twice as long each time, until all states have arrived or the steps run out."""
        left = len(self.index)
        while len(self.index) and self.front.n < self.plan.max_steps:
            self._scout()
            until = min(max(2 * self.lasted, 2 * self.front.n, self.plan.steps), self.plan.max_steps)
            while len(self.index) and self.front.n < until:
                self._follow(min(max(self.plan.steps // CHECKS, 1), until - self.front.n))
                yield Tick(self.front.n, left - len(self.index))
                left = len(self.index)
        yield Tick(self.front.n, left)

    def _follow(self, steps: int) -> None:
        """Advance the states by some steps, and remove those that have arrived or diverged."""
        self.front = self.front.advance(steps)
        diverged = self.front.failed_at >= 0
        self.codes[self.index[diverged]] = Status.DIVERGED
        arrived = torch.zeros_like(diverged)
        if self.known:
            score, owner = nearest(self.front.x, self.known)
            arrived = (score <= 1) & ~diverged
            self.labels[self.index[arrived]] = owner[arrived]
            self.codes[self.index[arrived]] = Status.OK
        self._keep(~(arrived | diverged))

    def _keep(self, rows: Tensor) -> None:
        if not rows.all():
            self.front, self.index = kept(self.front, rows), self.index[rows]

    def _scout(self) -> None:
        """Follow some of the states until their orbits recur, add the new attractors, and remove the stuck scouts."""
        most = min(SCOUTS, max(SCOUT_NUMBERS // (self.plan.steps * self.front.x.shape[-1]), 4))
        rows = torch.randperm(len(self.index), generator=self.generator)[:most].to(self.index.device)
        found = discover(kept(self.front, rows), self.known, self.plan)
        self.known += found.attractors
        self.lasted = found.lasted
        self._keep(torch.ones_like(self.index, dtype=torch.bool).index_fill(0, rows[found.stuck], False))
