"""What every one-step method is: a name, an order, a step and its exact derivative."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.core.tangent import pushforward

Time = float | Tensor  # one number for all items; or one for each, shape (*batch, 1)
Slope = Callable[[Tensor, Time], Tensor]
TangentSlope = Callable[[Tensor, Tensor, Time], tuple[Tensor, Tensor]]

BORDER = 1e-9  # by which |R| may exceed 1 and still count as 1, and |Re z| 0, relative to |z|
STRIDE, FARTHEST = 0.05, 12.0  # in |z|, of the search for the border; every explicit method's region ends before
ROUNDING = 1e-12  # the same at the end of the search
BISECTIONS = 50  # of a stride: to rounding


@dataclass(frozen=True)
class Solver:
    """A one-step method for  ẋ = f(x, t).

    Args:
        name: what users call it.
        order: of the local error, minus one.
    """

    name: str
    order: int
    paired: ClassVar[bool] = False  # whether R(z) is the larger of two factors, of the eigenvalues z and −z

    def step(self, field: Slope, x: Tensor, t: Time, h: Time) -> Tensor:
        """The state after one step of length h, which may be negative, or (*batch, 1); shape (*batch, dim)."""
        raise NotImplementedError

    def pushforward(self, field: TangentSlope, x: Tensor, v: Tensor, t: Time, h: Time) -> tuple[Tensor, Tensor]:
        """The state and the tangents, shape (*batch, k, dim), after one step."""
        raise NotImplementedError

    def amplification(self, z: Tensor) -> Tensor:
        """The factor R(z) by which a step of length h multiplies the solution of  ẋ = λ x,  z = h λ: complex, of any shape.

        The step does not grow it where |R(z)| ≤ 1, the region of stability; the solution itself is multiplied by eᶻ.
        """
        raise NotImplementedError

    def stable_length(self, direction: Tensor) -> Tensor:
        """The largest r such that |R(s · direction)| ≤ 1 for all s up to r; inf where that never ends.

        With direction λ it is the longest step that does not make the mode grow. It is 0 where Re λ > 0.

        Args:
            direction: numbers other than 0, complex or real, of any shape.
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
        """Refuse states that the method cannot follow."""

    def check_field(self, field: Slope, x: Tensor, t: Time) -> None:
        """Refuse a field that the method cannot follow, tried near the states x at time t."""


def moved(x: Tensor, length: Time, slope: Tensor) -> Tensor:
    """x + length · slope."""
    return torch.addcmul(x, length, slope) if isinstance(length, Tensor) else x.add(slope, alpha=length)


def along_rows(length: Time) -> Time:
    """The same length, ready to multiply tangents, (*batch, k, dim)."""
    return length[..., None] if isinstance(length, Tensor) else length


def with_tangents(field: Any) -> TangentSlope:
    """A field's own tangents; those of a function by forward AD."""
    if hasattr(field, "pushforward"):
        return field.pushforward
    return lambda x, v, t: pushforward(lambda y: field(y, t), x, v)
