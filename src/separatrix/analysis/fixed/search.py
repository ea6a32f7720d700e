"""The complete search: from the guesses, from points of shorter periods, and from further starts if these are cheap."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.further import FEW, shot, wide_guesses
from separatrix.analysis.fixed.guesses import default_guesses
from separatrix.analysis.fixed.indices import index_expected, index_sum
from separatrix.analysis.fixed.newton import Zeros
from separatrix.analysis.fixed.orbits import distinct_ends, orbits_of
from separatrix.analysis.fixed.problem import Problem
from separatrix.analysis.fixed.rounding import errors, hidden_by_rounding, is_isolated
from separatrix.analysis.fixed.stability import stability_of
from separatrix.analysis.fixed.zeros import Options, find_ends
from separatrix.core.system import System

ROUNDS = 3  # maximum number of further searches if the sum of the indices shows that points are missing
MOST_SHOTS = 3  # maximum number of cycles solved for at once, in units of `starts`


class Search(NamedTuple):
    """A search for the zeros of one problem.

    Args:
        problem: the problem whose zeros are sought.
        system: the system, not frozen, from whose orbits guesses are taken.
        options: the options of `fixed_points`.
        may_restart: whether further starts are allowed; they are not if the user passed guesses.
    """

    problem: Problem
    system: System
    options: Options
    may_restart: bool

    def all_points(self, guesses: Tensor, found: Zeros) -> tuple[Zeros, int]:
        """The zeros found from the guesses and from further starts, and the number of further starts."""
        newton_only = self._replace(options=self.options._replace(path_steps=0))
        starts = torch.cat([self.of_divisors(guesses), self.around(guesses, found, self.options.seed)])
        found, count = newton_only.added(found, starts), len(starts)
        for again in range(1, ROUNDS + 1):
            if not (self.may_restart and self.is_missing_points(found)):
                break
            seed = self.options.seed + again
            guessed = default_guesses(self.system, self.options.starts, seed).to(guesses)
            starts = torch.cat([guessed, self.around(torch.cat([guesses, guessed]), found, seed)])
            found, count = self.added(found, starts), count + len(starts)
        return found, count

    def added(self, found: Zeros, starts: Tensor) -> Zeros:
        """The zeros found, with the isolated zeros that these starts lead to; far out, others may be due to rounding."""
        if not len(starts):
            return found
        ends = find_ends(self.problem, starts, self.options, zeros_only=True)
        new = ends.only(ends.is_zero & ~ends.vague & ~hidden_by_rounding(self.problem, starts, ends))
        if not self.problem.is_wide and len(new.x):
            new = new.only(is_isolated(errors(self.problem.linearised(new.x)[1].double(), new.x), new.x, self.options.distinct))
        return Zeros.joined([found, new])

    def of_divisors(self, guesses: Tensor) -> Tensor:
        """The points of all periods that divide this one, which have this period too and may be near others."""
        period, parts = self.problem.period, [guesses[:0]]
        for divisor in (d for d in range(1, period) if period % d == 0):
            shorter = self._replace(problem=self.problem.of_period(divisor), options=self.options._replace(path_steps=0))
            found = shorter.added(Zeros.none(guesses), guesses)
            found = shorter.added(found, shorter.around(guesses, found, self.options.seed))
            parts.append(found.x[distinct_ends(found, found.is_zero, self.options.distinct)[0]])
        return torch.cat(parts)

    def around(self, guesses: Tensor, found: Zeros, seed: int) -> Tensor:
        """Wide guesses and, for cycles, states found by multiple shooting; none for large systems."""
        step, period = self.problem.step, self.problem.period
        has_paths = self.problem.is_flow and seed == self.options.seed  # the first search of a flow has paths for every guess
        if not self.may_restart or has_paths or period * guesses.shape[-1] > FEW:
            return guesses[:0]
        finite = guesses[torch.isfinite(guesses).all(-1)]
        wide = wide_guesses(step.step, finite, self.options.starts, seed)
        if period == 1:
            return wide
        pool, count = torch.cat([finite, wide, found.x]), self.options.starts * min(period, MOST_SHOTS)
        limits = {"tol": self.options.tol, "max_steps": self.options.max_steps}
        return torch.cat([wide, shot(step.step, step.pushforward, pool, period, count, seed=seed, **limits)])

    def is_missing_points(self, found: Zeros) -> bool:
        """Whether the sum of the indices shows that points are missing."""
        expected = index_expected(self.problem)
        if expected is None:
            return False
        orbits = orbits_of(self.problem, found, self.options.distinct)
        total = index_sum(self.problem, orbits, stability_of(self.problem, orbits.points), self.options.distinct)
        return total is not None and total != expected
