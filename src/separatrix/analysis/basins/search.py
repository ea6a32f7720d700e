"""States followed to their attractors, which scouts among them discover on the way."""

from collections.abc import Iterator

import torch
from torch import Tensor

from separatrix.analysis.basins.attractors import Attractor, kept, nearest
from separatrix.analysis.basins.scouts import Plan, discover
from separatrix.core.evolve import Front
from separatrix.core.progress import Tick
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Status

SCOUTS = 64  # orbits that look for attractors together
SCOUT_NUMBERS = 10_000_000  # in memory of their pieces
CHECKS = 20  # times per piece that runs are compared with the attractors


class Search:
    """The states that are still on their way, and the attractors known so far."""

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
        """Scouting and following in turn, twice as long each time, until nothing is left or the steps run out."""
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
        """All on their way take some steps; those that have arrived, or diverged, leave."""
        self.front = self.front.advance(steps)
        dead = self.front.failed_at >= 0
        self.codes[self.index[dead]] = Status.DIVERGED
        arrived = torch.zeros_like(dead)
        if self.known:
            score, owner = nearest(self.front.x, self.known)
            arrived = (score <= 1) & ~dead
            self.labels[self.index[arrived]] = owner[arrived]
            self.codes[self.index[arrived]] = Status.OK
        self._keep(~(arrived | dead))

    def _keep(self, rows: Tensor) -> None:
        if not rows.all():
            self.front, self.index = kept(self.front, rows), self.index[rows]

    def _scout(self) -> None:
        """Some of the states run ahead until their orbits recur; what is new and attracts is known from then on."""
        most = min(SCOUTS, max(SCOUT_NUMBERS // (self.plan.steps * self.front.x.shape[-1]), 4))
        rows = torch.randperm(len(self.index), generator=self.generator)[:most].to(self.index.device)
        found = discover(kept(self.front, rows), self.known, self.plan)
        self.known += found.attractors
        self.lasted = found.lasted
        self._keep(torch.ones_like(self.index, dtype=torch.bool).index_fill(0, rows[found.stuck], False))
