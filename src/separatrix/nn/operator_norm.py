"""Proven bounds of the norms of linear layers, at the size, stride, padding and groups they run with."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, inf, ldexp, nextafter, prod
from sys import float_info

import torch
from torch import nn

from separatrix.nn.norms.chain import are_small, folded, of_one_matrix
from separatrix.nn.norms.pooling import Separable
from separatrix.nn.norms.proof import extremes_of
from separatrix.nn.norms.reading import Diagonal, Piece, Turned, read
from separatrix.nn.norms.rounding import UNIT, Extremes

BUDGET = 2e12
"""Floating-point operations that an attempt at a proof may cost, some fifteen seconds on two cores."""
READING = 32
"""Unit round-offs in a weight, after batch-norms are multiplied in."""


@dataclass(frozen=True)
class OperatorNorm:
    """The ℓ2 norm of a linear map, enclosed:  lower ≤ max ‖Ax‖ / ‖x‖ ≤ bound.

    Args:
        bound: proven from above, rounding included.
        lower: proven from below; `slack` is what lies between.
        method: how the bound was proven.
        smallest: a proven lower bound of  min ‖Ax‖ / ‖x‖;  None where the method proves none.
    """

    bound: float
    lower: float
    method: str
    smallest: float | None = None

    @property
    def slack(self) -> float:
        """Bound / lower − 1: how loose the bound can be at most."""
        if self.bound == 0:
            return 0.0
        return self.bound / self.lower - 1 if self.lower > 0 else inf


@torch.no_grad()
def operator_norm(layer: nn.Module | Sequence[nn.Module], shape: int | Sequence[int], *, budget: float = BUDGET) -> OperatorNorm:
    r"""The ℓ2 norm of a linear layer, or of linear layers one after the other, at the shape they run with: a proven bound.

        ‖A‖ = max ‖Ax‖₂ / ‖x‖₂,   A the layer without its bias

    Args:
        layer: Linear, Conv1d … 3d, ConvTranspose1d … 3d, AvgPool, AdaptiveAvgPool, batch-norm in eval, Identity, Flatten; or a list
            or `nn.Sequential` of them: a batch-norm is multiplied into the convolution beside it, and small chains are one matrix.
        shape: of one input without its batch, such as (channels, height, width).
        budget: floating-point operations that a proof may cost; a dearer one gives way to the circular bound, as `method` says.

    Returns:
        OperatorNorm: `bound` is at least the norm, rounding included; `lower` at most.

    Raises:
        UnsupportedModuleError: a layer that is not known to be linear, a batch-norm in training mode, hooks that change weights.
        ShapeError: the layer does not take this shape.
        InputError: weights that are not finite.
    """
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    pieces = []
    for one in _flat(layer):
        piece, size = read(one, size)
        pieces += [] if piece is None else [piece]
    pieces = folded(pieces)
    if not pieces:
        return OperatorNorm(1.0, 1.0, "identity", 1.0)
    if len(pieces) == 1:
        return _norm_of(pieces[0], budget)
    if are_small(pieces):
        first, last = pieces[0], pieces[-1]
        return _seen_from_inputs(*of_one_matrix(pieces), shrinks=last.rows * last.groups < first.columns * first.groups)
    return _product([_norm_of(piece, budget) for piece in pieces])


def _flat(layer: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    if isinstance(layer, nn.Sequential) or not isinstance(layer, nn.Module):
        return [one for part in layer for one in _flat(part)]
    return [layer]


def _norm_of(piece: Piece, budget: float) -> OperatorNorm:
    if isinstance(piece, Separable):
        return _seen_from_inputs(piece.extremes(), 0, shrinks=piece.rows < piece.columns)
    if isinstance(piece, Diagonal):
        return _seen_from_inputs(piece.extremes(), 0, shrinks=False)
    scaled, power = (piece.convolution if isinstance(piece, Turned) else piece).scaled()
    if not bool(scaled.weight.any()):
        return OperatorNorm(0.0, 0.0, "zero", 0.0)
    found = extremes_of(scaled, budget).widened(READING * UNIT * scaled.absolute_norm())
    return _seen_from_inputs(found, power, shrinks=piece.rows < piece.columns)


def _seen_from_inputs(found: Extremes, power: int, *, shrinks: bool) -> OperatorNorm:
    """In the layer's own scale; a layer with fewer outputs than inputs takes some input to nothing."""
    smallest = 0.0 if shrinks else found.smallest
    return OperatorNorm(
        bound=_times(found.upper, power, toward=inf),
        lower=_times(found.lower, power, toward=0.0),
        method=found.method,
        smallest=None if smallest is None else _times(smallest, power, toward=0.0),
    )


def _times(value: float, power: int, *, toward: float) -> float:
    """Value · 2^power, rounded one way where it leaves the numbers that have all their digits."""
    if value == 0.0:
        return 0.0
    if frexp(value)[1] + power > float_info.max_exp:
        return inf if toward == inf else float_info.max
    result = ldexp(value, power)
    return result if result >= float_info.min else nextafter(result, toward)


def _product(each: list[OperatorNorm]) -> OperatorNorm:
    bounds = [one.bound for one in each]
    bound = 0.0 if 0.0 in bounds else max(prod(bounds) * (1 + 4 * len(each) * UNIT), float_info.min)
    known = [one.smallest for one in each if one.smallest is not None]
    smallest = prod(known) * (1 - 4 * len(each) * UNIT) if len(known) == len(each) else None
    return OperatorNorm(bound, 0.0, "product", smallest)
