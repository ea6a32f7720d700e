"""The polynomial of one step: state and velocity between its ends."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.flows.methods.pair import Hermite, Pair
from separatrix.flows.methods.solver import Slope, Solver


class Piece(NamedTuple):
    r"""The state within a step as a polynomial:  x(t + θh) = c_0 + c_1 θ + c_2 θ² + …,  θ ∈ [0, 1],  each c_i (*batch, dim).

    It is the cubic through the states and slopes at both ends; for an embedded pair, its own polynomial of degree four. Unlike
    `Hermite` it is written in powers of θ, for its slope and zeros.
    """

    coefficients: tuple[Tensor, ...]

    @classmethod
    def of(cls, method: Solver, field: Slope, x: Tensor, t: Tensor, h: Tensor) -> "Piece":
        """The polynomials of the steps from x, shape (*batch, dim), at t and of length h, both (*batch, 1)."""
        if isinstance(method, Pair):
            found = method.piece(field, x, t, h)
        else:
            after = method.step(field, x, t, h)
            found = Hermite(x, after, h * field(x, t), h * field(after, t + h), torch.zeros_like(x))
        rise, left, right, bend = found.after - x, found.leaving, found.coming, found.bend
        return cls((x, left, 3 * rise - 2 * left - right + bend, left + right - 2 * rise - 2 * bend, bend))

    def at(self, share: Tensor) -> Tensor:
        """The state at θ = share, shape (*batch, 1)."""
        return _horner(self.coefficients, share)

    def slope(self, share: Tensor) -> Tensor:
        """The derivative in θ, which is h ẋ."""
        return _horner(tuple(i * c for i, c in enumerate(self.coefficients))[1:], share)

    def detach(self) -> "Piece":
        """The same polynomial without a graph."""
        return Piece(tuple(c.detach() for c in self.coefficients))


class Substeps(NamedTuple):
    """The state within a step of a method whose polynomial is less accurate than its steps: each evaluation is a step of its own.

    Args:
        method, field, x, t, h: as in `Piece.of`.
    """

    method: Pair
    field: Slope
    x: Tensor
    t: Tensor
    h: Tensor

    def at(self, share: Tensor) -> Tensor:
        """The state at θ = share, shape (*batch, 1)."""
        return self.method.between(self.field, self.x, self.t, self.h, share)

    def slope(self, share: Tensor) -> Tensor:
        """The derivative in θ, which is h ẋ."""
        return self.h * self.field(self.at(share), self.t + share * self.h)


def _horner(coefficients: tuple[Tensor, ...], share: Tensor) -> Tensor:
    value = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        value = c + share * value
    return value
