"""Compositions: the flow of a sum of fields from the flows of its parts, each for a fraction of the step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Flow = Callable[[Tensor, Any], Tensor]
TangentFlow = Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Composition:
    r"""One step of size h of  ẋ = f₁(x) + f₂(x):  flows of the parts in sequence, each for a fraction of h.

    The order holds only if the flows of the parts are exact or of at least that order.

    Args:
        name: name of the composition.
        order: order of the local error, minus one.
        stages: for each stage, the part, 0 or 1, and its fraction of h; the fractions of each part add up to 1.
    Source: Hairer, Lubich & Wanner 2006, Geometric Numerical Integration, II.5.
    """

    name: str
    order: int
    stages: tuple[tuple[int, float], ...]

    def step(self, flows: Sequence[Flow], x: Tensor, h: float | Tensor) -> Tensor:
        """The state after one step, from the parts' flows (x, h) ↦ x'; shape (*batch, dim)."""
        for part, share in self.stages:
            x = flows[part](x, share * h)
        return x

    def pushforward(self, flows: Sequence[TangentFlow], x: Tensor, v: Tensor, h: float | Tensor) -> tuple[Tensor, Tensor]:
        """The state and the tangents, shape (*batch, k, dim), after one step, from (x, v, h) ↦ (x', v')."""
        for part, share in self.stages:
            x, v = flows[part](x, v, share * h)
        return x, v


lie = Composition("lie", 1, ((0, 1.0), (1, 1.0)))
strang = Composition("strang", 2, ((0, 0.5), (1, 1.0), (0, 0.5)))
