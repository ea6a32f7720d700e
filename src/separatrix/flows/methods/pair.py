"""Methods with an error estimate: a trial step, and a polynomial between its ends."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.flows.methods.solver import Slope, Solver, Time, moved


@dataclass(frozen=True)
class Hermite:
    r"""The solution within one step:  Hermite(θ) + θ²(1 − θ)² bend,  θ from 0 to 1: any polynomial of degree four.

    Args:
        before, after: the states at the ends, shape (*batch, dim).
        leaving, coming: the derivatives in θ there.
        bend: coefficient of the quartic.
    """

    before: Tensor
    after: Tensor
    leaving: Tensor
    coming: Tensor
    bend: Tensor

    def at(self, share: Tensor) -> Tensor:
        """The state at θ = share, shape (*batch, 1)."""
        left, right = share * (1 - share) ** 2, -(share**2) * (1 - share)
        hermite = torch.lerp(self.before, self.after, share**2 * (3 - 2 * share)) + left * self.leaving + right * self.coming
        return moved(hermite, (share * (1 - share)) ** 2, self.bend)


class Trial(NamedTuple):
    """A step that may be accepted or rejected.

    Args:
        after: the states after it, shape (*batch, dim).
        error: the error estimate, same shape.
        slope: the velocities after it, if the method computes them.
    """

    after: Tensor
    error: Tensor
    slope: Tensor | None


class Pair(Solver):
    """A method with an embedded one of lower order, whose difference estimates the error."""

    def attempt(self, field: Slope, x: Tensor, t: Tensor, h: Tensor, slope: Tensor | None) -> Trial:
        """A trial step from x, shape (items, dim), at t, of length h, (items, 1), float64; `slope`: the velocity at x, if known."""
        raise NotImplementedError

    def piece(self, field: Slope, x: Tensor, t: Time, h: Time) -> Hermite:
        """The polynomial of the step from x."""
        raise NotImplementedError

    def between(self, field: Slope, x: Tensor, t: Time, h: Time, share: Tensor) -> Tensor:
        """The state at t + share · h of the step from x, with `share` in [0, 1], shape (*batch, 1)."""
        return self.piece(field, x, t, h).at(share)
