"""The polynomial of one step: the state anywhere between its ends, and how fast it moves there."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.flows.methods.pair import Hermite, Pair
from separatrix.flows.methods.solver import Slope, Solver


class Piece(NamedTuple):
    r"""The state on a step by its share θ ∈ [0, 1]:  x(t + θh) = c_0 + c_1 θ + c_2 θ² + …,  each c_i of shape (*batch, dim).

    It is the cubic through the states and slopes at both ends; for a pair its own polynomial, of degree four.
    In powers of θ, rather than as `Hermite` has it, its slope and zeros are at hand.
    """

    coefficients: tuple[Tensor, ...]

    @classmethod
    def of(cls, method: Solver, field: Slope, x: Tensor, t: Tensor, h: Tensor) -> "Piece":
        """Of the steps from x, shape (*batch, dim), at t and of length h, both (*batch, 1)."""
        if isinstance(method, Pair):
            found = method.piece(field, x, t, h)
        else:
            after = method.step(field, x, t, h)
            found = Hermite(x, after, h * field(x, t), h * field(after, t + h), torch.zeros_like(x))
        rise, left, right, bend = found.after - x, found.leaving, found.coming, found.bend
        return cls((x, left, 3 * rise - 2 * left - right + bend, left + right - 2 * rise - 2 * bend, bend))

    def at(self, share: Tensor) -> Tensor:
        """The state at the share θ, shape (*batch, 1)."""
        return _horner(self.coefficients, share)

    def slope(self, share: Tensor) -> Tensor:
        """Its derivative by θ, which is h ẋ."""
        return _horner(tuple(i * c for i, c in enumerate(self.coefficients))[1:], share)

    def detach(self) -> "Piece":
        """The same without a graph."""
        return Piece(tuple(c.detach() for c in self.coefficients))


class Substeps(NamedTuple):
    """The state on a step of a method whose polynomial is less accurate than its steps: each a step of its own.

    Args:
        method, field, x, t, h: as of `Piece.of`.
    """

    method: Pair
    field: Slope
    x: Tensor
    t: Tensor
    h: Tensor

    def at(self, share: Tensor) -> Tensor:
        """The state at the share θ, shape (*batch, 1)."""
        return self.method.between(self.field, self.x, self.t, self.h, share)

    def slope(self, share: Tensor) -> Tensor:
        """Its derivative by θ, which is h ẋ."""
        return self.h * self.field(self.at(share), self.t + share * self.h)


def _horner(coefficients: tuple[Tensor, ...], share: Tensor) -> Tensor:
    value = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        value = c + share * value
    return value
