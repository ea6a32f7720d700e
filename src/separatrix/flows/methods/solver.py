"""One-step methods: a name, an order, a step and its exact derivative."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.core.tangent import pushforward

Time = float | Tensor  # one number for all items, or one per item, shape (*batch, 1)
Slope = Callable[[Tensor, Time], Tensor]
TangentSlope = Callable[[Tensor, Tensor, Time], tuple[Tensor, Tensor]]

BORDER = 1e-9  # excess over 1 at which |R| still counts as 1, and |Re z| / |z| that counts as 0
STRIDE, FARTHEST = 0.05, 12.0  # in |z|: stride and range of the search for the border; all explicit methods end before
ROUNDING = 1e-12  # excess of |R| over 1 at the end of the search
BISECTIONS = 50  # bisections of a stride, down to rounding


@dataclass(frozen=True)
class Solver:
    """A one-step method for  ẋ = f(x, t).

    Args:
        name: name of the method.
        order: order of the local error, minus one.
    """

    name: str
    order: int
    paired: ClassVar[bool] = False  # whether R(z) is the larger of two factors, for the eigenvalues z and −z

    def step(self, field: Slope, x: Tensor, t: Time, h: Time) -> Tensor:
        """The state after one step of length h, a number of either sign or (*batch, 1); shape (*batch, dim)."""
        raise NotImplementedError

    def pushforward(self, field: TangentSlope, x: Tensor, v: Tensor, t: Time, h: Time) -> tuple[Tensor, Tensor]:
        """The state and the tangents, shape (*batch, k, dim), after one step."""
        raise NotImplementedError

    def amplification(self, z: Tensor) -> Tensor:
        """The factor R(z) by which a step of length h multiplies the solution of  ẋ = λ x,  z = h λ; complex, of any shape.

        The step is stable where |R(z)| ≤ 1, the region of stability. The exact solution is multiplied by eᶻ.
        """
        raise NotImplementedError

    def stable_length(self, direction: Tensor) -> Tensor:
        """The largest r such that |R(s · direction)| ≤ 1 for all s ≤ r; inf if there is no limit.

        For direction λ it is the largest step size at which the mode does not grow; 0 if Re λ > 0.

        Args:
            direction: nonzero numbers, complex or real, of any shape.
        """
        direction = direction if direction.is_complex() else torch.complex(direction, torch.zeros_like(direction))
        unit = direction / direction.abs()
        neutral = unit.real.abs() <= BORDER
        unit = torch.where(neutral, 1j * unit.imag.sign(), unit)
        low, inside = torch.zeros_like(unit.real), unit.real <= 0
        for stride in range(1, round(FARTHEST / STRIDE) + 1):
            inside = inside & (self.amplification(stride * STRIDE * unit).abs() <= 1 + BORDER)
            low = torch.where(inside, stride * STRIDE, low)
        high = low + STRIDE
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            stable = self.amplification(middle * unit).abs() <= 1 + ROUNDING
            low, high = torch.where(stable, middle, low), torch.where(stable, high, middle)
        starts_outside = (unit.real > 0) | (neutral & (high <= STRIDE)) | (~neutral & self.paired)
        return torch.where(inside, torch.inf, torch.where(starts_outside, 0.0, low))

    def check_dim(self, dim: int) -> None:
        """Refuse a state length that the method does not support."""

    def check_field(self, field: Slope, x: Tensor, t: Time) -> None:
        """Refuse a field that the method does not support, tested near the states x at time t."""


def moved(x: Tensor, length: Time, slope: Tensor) -> Tensor:
    """x + length · slope."""
    return torch.addcmul(x, length, slope) if isinstance(length, Tensor) else x.add(slope, alpha=length)


def along_rows(length: Time) -> Time:
    """The length in a shape that multiplies tangents, (*batch, k, dim)."""
    return length[..., None] if isinstance(length, Tensor) else length


def with_tangents(field: Any) -> TangentSlope:
    """The field's own tangents; for a function, those of forward AD."""
    if hasattr(field, "pushforward"):
        return field.pushforward
    return lambda x, v, t: pushforward(lambda y: field(y, t), x, v)
