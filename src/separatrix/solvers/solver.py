"""What every one-step method is: a name, an order, a step and its exact derivative."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Slope = Callable[[Tensor, float], Tensor]
TangentSlope = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Solver:
    """A one-step method for  ẋ = f(x, t).

    Args:
        name: what users call it.
        order: of the local error, minus one.
    """

    name: str
    order: int

    def step(self, field: Slope, x: Tensor, t: float, h: float) -> Tensor:
        """The state after one step of length h, which may be negative, shape (*batch, dim)."""
        raise NotImplementedError

    def pushforward(self, field: TangentSlope, x: Tensor, v: Tensor, t: float, h: float) -> tuple[Tensor, Tensor]:
        """The state and the tangents, shape (*batch, k, dim), after one step."""
        raise NotImplementedError

    def check_dim(self, dim: int) -> None:
        """Refuse states that the method cannot follow."""

    def check_field(self, field: Slope, x: Tensor, t: float) -> None:
        """Refuse a field that the method cannot follow, tried near the states x at time t."""
