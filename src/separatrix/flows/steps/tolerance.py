"""Tolerances and the controller of the step size."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHARE = 1e-3  # default absolute tolerance of a number, relative to rtol times its largest size so far
ROUNDINGS = 8  # rounding errors of the state's largest number, the smallest absolute tolerance by default

# Note [Whose unit]
# An absolute tolerance has a unit, which a library cannot know. If the user gives none, the tolerance of a number of the state is a
# thousandth of rtol relative to its largest size so far: a separate scale for volts and for moles, which remains when the number
# itself passes through 0. Lengths of time are compared with the time, or with the elapsed time.


@dataclass(frozen=True)
class Tolerance:
    """Tolerances and limits of adaptive steps.

    Args:
        rtol, atol: relative and absolute tolerance of one step; for atol = None see Note [Whose unit].
        max_steps: maximum number of trial steps per item.
        max_step: largest step size; None for no limit.
    """

    rtol: float
    atol: float | None
    max_steps: int
    max_step: float | None = None

    @property
    def longest(self) -> float:
        """The largest step size."""
        return math.inf if self.max_step is None else self.max_step

    def ratio(self, error: Tensor, before: Tensor, after: Tensor, largest: Tensor) -> Tensor:
        """rms_i(e_i / (atol + rtol |x_i|)) of each item, shape (items); `largest` is the largest size of each number so far."""
        size = torch.maximum(before.abs(), after.abs())
        allowed = self.least(torch.maximum(size, largest)).add(size, alpha=self.rtol)
        return rms(error / allowed)

    def least(self, largest: Tensor) -> Tensor:
        """The absolute tolerance of each number, given its largest size so far, (items, dim)."""
        tiny = torch.finfo(largest.dtype).tiny  # negligible, so that a number that stays 0 has no error
        if self.atol is not None:
            return torch.full_like(largest, max(self.atol, tiny))
        rounding = ROUNDINGS * torch.finfo(largest.dtype).eps * largest.amax(-1, keepdim=True)
        return torch.maximum(SHARE * self.rtol * largest, rounding.clamp(min=tiny))


@dataclass(frozen=True)
class Controller:
    """The next step size,  h · safety · r^(−α/q) · r'^(β/q),  from the error ratios r of this step and r' of the last accepted one.

    Args:
        order: q, the order of the local error of the estimate.
        safety: target relative to the tolerance.
        shrink, grow: bounds of the factor.
        alpha, beta: exponents of the proportional and the integral part; in the long run their difference acts.
    Source: Hairer & Wanner 1996, Solving Ordinary Differential Equations II, IV.2.
    """

    order: int
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0
    alpha: float = 0.75
    beta: float = 0.2

    def factor(self, ratio: Tensor, before: Tensor) -> Tensor:
        """The factor of each item, shape (items); the smallest if the ratio is not a number."""
        wanted = self.safety * ratio ** (-self.alpha / self.order) * before ** (self.beta / self.order)
        return wanted.clamp(self.shrink, self.grow).nan_to_num(self.shrink)


def rms(x: Tensor) -> Tensor:
    """Root mean square over the last axis."""
    return torch.linalg.vector_norm(x, dim=-1) / x.shape[-1] ** 0.5
