"""The whole search: from the guesses, from points of shorter periods, and from further starts where that costs little."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.further import FEW, shot, wide_guesses
from separatrix.analysis.fixed.guesses import default_guesses
from separatrix.analysis.fixed.indices import index_expected, index_sum
from separatrix.analysis.fixed.newton import Zeros
from separatrix.analysis.fixed.orbits import distinct_ends, orbits_of
from separatrix.analysis.fixed.problem import Problem
from separatrix.analysis.fixed.rounding import drowned, errors, is_isolated
from separatrix.analysis.fixed.stability import stability_of
from separatrix.analysis.fixed.zeros import Asked, find_ends
from separatrix.core.system import System

ROUNDS = 3  # of another search where the indices do not add up
MOST_SHOTS = 3  # times as many as guesses, of cycles solved for at once


class Search(NamedTuple):
    """All starts of one problem.

    Args:
        problem: whose zeros are sought.
        system: that it is of, not frozen, from whose orbits guesses are taken.
        asked: the options.
        is_free: whether further starts may be made, which they may not where the caller gave guesses.
    """

    problem: Problem
    system: System
    asked: Asked
    is_free: bool

    def all_points(self, guesses: Tensor, found: Zeros) -> tuple[Zeros, int]:
        """What was found from the guesses and what further starts add, and how many those were."""
        newton_only = self._replace(asked=self.asked._replace(path_steps=0))
        starts = torch.cat([self.of_divisors(guesses), self.around(guesses, found, self.asked.seed)])
        found, count = newton_only.added(found, starts), len(starts)
        for again in range(1, ROUNDS + 1):
            if not (self.is_free and self.is_short_of(found)):
                break
            seed = self.asked.seed + again
            guessed = default_guesses(self.system, self.asked.starts, seed).to(guesses)
            starts = torch.cat([guessed, self.around(torch.cat([guesses, guessed]), found, seed)])
            found, count = self.added(found, starts), count + len(starts)
        return found, count

    def added(self, found: Zeros, starts: Tensor) -> Zeros:
        """What was found, and the isolated points that these starts lead to: far out, rounding alone may look like rest."""
        if not len(starts):
            return found
        ends = find_ends(self.problem, starts, self.asked, zeros_only=True)
        new = ends.only(ends.is_zero & ~ends.vague & ~drowned(self.problem, starts, ends))
        if not self.problem.is_wide and len(new.x):
            new = new.only(is_isolated(errors(self.problem.linearised(new.x)[1].double(), new.x), new.x, self.asked.distinct))
        return Zeros.joined([found, new])

    def of_divisors(self, guesses: Tensor) -> Tensor:
        """The points of all periods that divide this one: they are points of this one too, and others may be near."""
        period, parts = self.problem.period, [guesses[:0]]
        for divisor in (d for d in range(1, period) if period % d == 0):
            shorter = self._replace(problem=self.problem.of_period(divisor), asked=self.asked._replace(path_steps=0))
            found = shorter.added(Zeros.none(guesses), guesses)
            found = shorter.added(found, shorter.around(guesses, found, self.asked.seed))
            parts.append(found.x[distinct_ends(found, found.is_zero, self.asked.distinct)[0]])
        return torch.cat(parts)

    def around(self, guesses: Tensor, found: Zeros, seed: int) -> Tensor:
        """Wide guesses and, of cycles, states found by solving for all of a cycle at once; none where there are many numbers."""
        step, period = self.problem.step, self.problem.period
        is_needless = self.problem.is_flow and seed == self.asked.seed  # a flow's first search has paths for every guess
        if not self.is_free or is_needless or period * guesses.shape[-1] > FEW:
            return guesses[:0]
        finite = guesses[torch.isfinite(guesses).all(-1)]
        wide = wide_guesses(step.step, finite, self.asked.starts, seed)
        if period == 1:
            return wide
        pool, count = torch.cat([finite, wide, found.x]), self.asked.starts * min(period, MOST_SHOTS)
        options = {"tol": self.asked.tol, "max_steps": self.asked.max_steps, "seed": seed}
        return torch.cat([wide, shot(step.step, step.pushforward, pool, period, count, **options)])

    def is_short_of(self, found: Zeros) -> bool:
        """Whether the indices of what was found do not add up."""
        expected = index_expected(self.problem)
        if expected is None:
            return False
        orbits = orbits_of(self.problem, found, self.asked.distinct)
        total = index_sum(self.problem, orbits, stability_of(self.problem, orbits.points), self.asked.distinct)
        return total is not None and total != expected
