"""What steps are chosen by: how far off one may be, and how long the next is."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHARE = 1e-3  # of rtol, by which a number may be off relative to the largest that it has been
ROUNDINGS = 8  # of the state's largest number: less no step can be off by

# Note [Whose unit]
# An absolute tolerance has a unit, and a library has none. So where the user gives none, a number of the state may be off by a
# thousandth of rtol relative to the largest that it has been so far: a scale of its own for volts and for moles, which is there
# when the number itself goes through 0. Lengths of time are compared with the time, or with what has passed of it.


@dataclass(frozen=True)
class Tolerance:
    """What steps are chosen by.

    Args:
        rtol, atol: relative and absolute, of one step; None: see Note [Whose unit].
        max_steps: trials before an item is given up.
        max_step: the longest step, in units of time; None for any.
    """

    rtol: float
    atol: float | None
    max_steps: int
    max_step: float | None = None

    @property
    def longest(self) -> float:
        """The longest step."""
        return math.inf if self.max_step is None else self.max_step

    def ratio(self, error: Tensor, before: Tensor, after: Tensor, largest: Tensor) -> Tensor:
        """rms_i(e_i / (atol + rtol |x_i|)) of each item, shape (items); `largest` is the size that each number has been."""
        size = torch.maximum(before.abs(), after.abs())
        allowed = self.least(torch.maximum(size, largest)).add(size, alpha=self.rtol)
        return rms(error / allowed)

    def least(self, largest: Tensor) -> Tensor:
        """What a number may be off by if it is 0, given how large it has been, (items, dim)."""
        tiny = torch.finfo(largest.dtype).tiny  # nothing beside any number, so that one that stays 0 has no error
        if self.atol is not None:
            return torch.full_like(largest, max(self.atol, tiny))
        rounding = ROUNDINGS * torch.finfo(largest.dtype).eps * largest.amax(-1, keepdim=True)
        return torch.maximum(SHARE * self.rtol * largest, rounding.clamp(min=tiny))


@dataclass(frozen=True)
class Controller:
    """How long the next step is:  h · safety · r^(−α/q) · r'^(β/q),  r and r' the error ratios of this step and the last taken.

    Args:
        order: q, of the local error of the estimate.
        safety: what is aimed at below the tolerance.
        shrink, grow: the bounds of the factor.
        alpha, beta: of the proportional and the integral part; their difference acts in the long run.
    Source: Hairer & Wanner 1996, Solving Ordinary Differential Equations II, IV.2.
    """

    order: int
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0
    alpha: float = 0.75
    beta: float = 0.2

    def factor(self, ratio: Tensor, before: Tensor) -> Tensor:
        """The factor of each item, shape (items); the smallest where the ratio is no number."""
        wanted = self.safety * ratio ** (-self.alpha / self.order) * before ** (self.beta / self.order)
        return wanted.clamp(self.shrink, self.grow).nan_to_num(self.shrink)


def rms(x: Tensor) -> Tensor:
    """The root of the mean square of the last axis."""
    return torch.linalg.vector_norm(x, dim=-1) / x.shape[-1] ** 0.5
