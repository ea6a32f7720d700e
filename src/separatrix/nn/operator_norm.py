"""Proven bounds of the norms of linear layers, at the size, stride, padding and groups they run with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ldexp, prod

import torch
from torch import Tensor, nn

from separatrix.nn.norms.banded import Blocks, bound_below, grams, is_below
from separatrix.nn.norms.convolution import Convolution
from separatrix.nn.norms.dense import by_singular_values
from separatrix.nn.norms.fourier import by_fourier, is_circulant
from separatrix.nn.norms.lanczos import from_below
from separatrix.nn.norms.pooling import Separable
from separatrix.nn.norms.reading import Diagonal, Piece, Turned, read
from separatrix.nn.norms.rounding import SAFETY, UNIT, Extremes, absolute_norm, gamma

SMALL = 1024
"""Matrices with a side up to this are taken apart whole: an SVD takes a quarter of a second."""
BUDGET = 1e12
"""Floating-point operations that a proof may cost, some ten seconds on two cores; above it the circular bound has to do."""
EXCESS = 1e-6
"""How much above the estimate the proof is tried first, relative to the norm; ten times more after each failure."""


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
        return self.bound / self.lower - 1 if self.lower > 0 else float("inf")


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
        if piece is not None:
            pieces.append(piece)
    pieces = folded(pieces)
    if not pieces:
        return OperatorNorm(1.0, 1.0, "identity", 1.0)
    if len(pieces) == 1:
        return norm_of(pieces[0], budget)
    if all(_entries(piece) <= SMALL**2 for piece in pieces):
        return _of_small_chain(pieces)
    each = [norm_of(piece, budget) for piece in pieces]
    smallest = None if any(one.smallest is None for one in each) else prod(one.smallest for one in each)
    return OperatorNorm(prod(one.bound for one in each) * (1 + 4 * len(each) * UNIT), 0.0, "product", smallest)


def _flat(layer: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    if isinstance(layer, nn.Sequential) or not isinstance(layer, nn.Module):
        return [one for part in layer for one in _flat(part)]
    return [layer]


def folded(pieces: list[Piece]) -> list[Piece]:
    """With diagonals multiplied into the convolution before or behind them."""
    done: list[Piece] = []
    for piece in pieces:
        done.append(piece)
        while len(done) > 1 and (one := _joined(done[-2], done[-1])) is not None:
            done[-2:] = [one]
    return done


def _joined(first: Piece, second: Piece) -> Piece | None:
    if isinstance(first, Diagonal) and isinstance(second, Diagonal) and first.columns == second.columns:
        places = min(first.places, second.places)
        spread = [one.factors.repeat_interleave(one.places // places) for one in (first, second)]
        return Diagonal(spread[0] * spread[1], places)
    if isinstance(second, Diagonal):
        return _scaled(first, second, outputs=True)
    if isinstance(first, Diagonal):
        return _scaled(second, first, outputs=False)
    return None


def _scaled(piece: Piece, diagonal: Diagonal, *, outputs: bool) -> Piece | None:
    if isinstance(piece, Turned):
        turned = _scaled(piece.convolution, diagonal, outputs=not outputs)
        return Turned(turned) if isinstance(turned, Convolution) else None
    if not isinstance(piece, Convolution):
        return None
    channels = piece.weight.shape[1 if outputs else 2] * piece.groups
    if diagonal.columns % channels or diagonal.columns // channels != (_places(piece, outputs)):
        return None
    factors = diagonal.factors.repeat_interleave(diagonal.places)
    if len(diagonal.factors) > channels:
        return None
    factors = factors[:: diagonal.columns // channels].to(piece.weight)
    kernel = [1] * len(piece.axes)
    view = (piece.groups, -1, 1, *kernel) if outputs else (piece.groups, 1, -1, *kernel)
    return replace(piece, weight=piece.weight * factors.view(view))


def _places(piece: Convolution, outputs: bool) -> int:
    return prod(axis.out if outputs else axis.size for axis in piece.axes)


def _entries(piece: Piece) -> int:
    copies = piece.convolution.groups if isinstance(piece, Turned) else getattr(piece, "groups", 1)
    return piece.rows * piece.columns * copies**2


def _of_small_chain(pieces: list[Piece]) -> OperatorNorm:
    """Of the product of their matrices."""
    matrices = [_whole(piece.dense()) for piece in pieces]
    matrix, size = matrices[0], absolute_norm(matrices[0])
    for one in matrices[1:]:
        matrix, size = one @ matrix, size * absolute_norm(one)
    slack = SAFETY * gamma(sum(max(one.shape) + 8 for one in matrices)) * size
    return finished(by_singular_values(matrix, "SVD").widened(slack), *matrix.shape)


def _whole(matrix: Tensor) -> Tensor:
    return torch.block_diag(*matrix) if matrix.dim() == 3 else matrix


def finished(found: Extremes, rows: int, columns: int, power: int = 0) -> OperatorNorm:
    """As seen from the inputs, in the layer's own scale."""
    smallest = 0.0 if rows < columns else found.smallest
    return OperatorNorm(
        _raised(found.upper, power),
        ldexp(found.lower, power) if power < 1000 or found.lower == 0 else found.lower * 2.0**1000 * 2.0 ** (power - 1000),
        found.method,
        None if smallest is None else ldexp(smallest, power),
    )


def _raised(value: float, power: int) -> float:
    try:
        return ldexp(value, power) + (5e-324 if power < 0 and value > 0 else 0.0)
    except OverflowError:
        return float("inf")


def norm_of(piece: Piece, budget: float) -> OperatorNorm:
    """The cheapest proof."""
    if isinstance(piece, Separable):
        return finished(piece.extremes(), piece.rows, piece.columns)
    if isinstance(piece, Diagonal):
        size = piece.factors.abs()
        found = Extremes(float(size.max()), float(size.max()), float(size.min()), "diagonal").widened(8 * UNIT * float(size.max()))
        return finished(found, 1, 1)
    convolution = piece.convolution if isinstance(piece, Turned) else piece
    scaled, power = convolution.scaled()
    if float(scaled.weight.abs().sum()) == 0.0:
        return OperatorNorm(0.0, 0.0, "zero", 0.0)
    found = extremes_of(scaled, budget)
    found = found.widened(16 * UNIT * scaled.absolute_norm())  # what folding and reading rounded
    return finished(found, piece.rows, piece.columns, power)


def extremes_of(whole: Convolution, budget: float) -> Extremes:
    """Of a convolution whose weights are of size one."""
    convolution = whole.reduced()
    if min(convolution.rows, convolution.columns) * convolution.groups**0.33 <= SMALL:
        return by_singular_values(convolution.dense(), "SVD")
    if all(is_circulant(axis) for axis in convolution.axes):
        return by_fourier(convolution)
    lower = from_below(convolution)
    gram = min(grams(convolution), key=lambda one: one.flops)
    circular = by_fourier(convolution)
    if gram.flops <= budget:
        upper = proven(gram, lower, circular.upper)
        if upper is not None:
            return Extremes(upper, lower, None, "Cholesky")
    return replace(circular, lower=lower)


def proven(gram, lower: float, ceiling: float) -> float | None:
    """A bound between the estimate and the ceiling."""
    blocks, excess = Blocks(gram), EXCESS
    while (trial := lower * (1 + excess)) < ceiling:
        if is_below(blocks, trial**2):
            return bound_below(gram, trial**2)
        excess *= 10
    return None
