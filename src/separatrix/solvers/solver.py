"""What every one-step method is: a name, an order, a step and its exact derivative."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Time = float | Tensor  # one number for all items; or one for each, shape (*batch, 1)
Slope = Callable[[Tensor, Time], Tensor]
TangentSlope = Callable[[Tensor, Tensor, Time], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Solver:
    """A one-step method for  ẋ = f(x, t).

    Args:
        name: what users call it.
        order: of the local error, minus one.
    """

    name: str
    order: int

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

    def check_dim(self, dim: int) -> None:
        """Refuse states that the method cannot follow."""

    def check_field(self, field: Slope, x: Tensor, t: Time) -> None:
        """Refuse a field that the method cannot follow, tried near the states x at time t."""


def moved(x: Tensor, length: Time, slope: Tensor) -> Tensor:
    """X + length · slope."""
    return torch.addcmul(x, length, slope) if isinstance(length, Tensor) else x.add(slope, alpha=length)


def along_rows(length: Time) -> Time:
    """The same length, ready to multiply tangents, (*batch, k, dim)."""
    return length[..., None] if isinstance(length, Tensor) else length
