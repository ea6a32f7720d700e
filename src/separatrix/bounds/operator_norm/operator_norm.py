"""Proven bounds of the norms of linear layers, for the size, stride, padding and groups with which they run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import frexp, inf, ldexp, nextafter, prod
from operator import index
from sys import float_info

import torch
from torch import nn

from separatrix.bounds.operator_norm.chain import are_small, at_one_place, folded, of_one_matrix
from separatrix.bounds.operator_norm.pieces import Diagonal, Piece, kernel_of
from separatrix.bounds.operator_norm.pooling import Separable
from separatrix.bounds.operator_norm.proof import TIGHT, Effort, extremes_of
from separatrix.bounds.operator_norm.reading import layers_of, read
from separatrix.bounds.operator_norm.rounding import UNIT, Extremes
from separatrix.bounds.operator_norm.witness import Measured, measured, refuse_unless_as_read, running
from separatrix.core.checks import check_positive
from separatrix.core.errors import ContradictionError, ShapeError

READING = 32
"""Unit round-offs in a weight, after batch-norms are multiplied in."""


@dataclass(frozen=True)
class OperatorNorm:
    """Enclosure of the ℓ2 norm of a linear map:  lower ≤ max ‖Ax‖ / ‖x‖ ≤ bound.

    Args:
        bound: proven upper bound, including rounding.
        lower: proven lower bound, or one measured on the running layers less rounding; `slack` is the gap between the two.
        method: method of the proof.
        smallest: proven lower bound of  min ‖Ax‖ / ‖x‖;  None if the method proves none.
    """

    bound: float
    lower: float
    method: str
    smallest: float | None = None

    @property
    def slack(self) -> float:
        """`bound` / `lower` − 1, an upper limit on how loose the bound is."""
        if self.bound == 0:
            return 0.0
        return self.bound / self.lower - 1 if self.lower > 0 else inf


@torch.no_grad()
def operator_norm(
    layer: nn.Module | Sequence[nn.Module], shape: int | Sequence[int], *, budget: float = TIGHT.budget, slack: float = TIGHT.slack
) -> OperatorNorm:
    r"""Bound the ℓ2 norm of a linear layer, or of consecutive linear layers, for the input shape with which they run.

        ‖A‖ = max ‖Ax‖₂ / ‖x‖₂,   A the layer without its bias

    Args:
        layer: Linear, Conv1d … 3d, ConvTranspose1d … 3d, AvgPool, AdaptiveAvgPool, batch norm in evaluation mode, Identity,
            Flatten and Unflatten; or a list or `nn.Sequential` of them. A batch norm is multiplied into the adjacent convolution,
            and small chains become one matrix.
        shape: shape of one input without its batch axis, such as (channels, height, width).
        budget: maximum number of floating-point operations of a proof; a more expensive one is replaced by the circular bound, as
            `method` then reports.
        slack: relative excess of the bound over the norm that suffices, where a tighter proof costs more.

    Returns:
        OperatorNorm: `bound` is at least the norm, including rounding; `lower` is at most the norm.

    Raises:
        UnsupportedModuleError: a layer is not known to be linear, is a batch norm in training mode, or has hooks or a replaced
            forward; or the running layers do not compute what their weights determine.
        ShapeError: the layer does not take this shape.
        InputError: the weights are not finite.
        ContradictionError: a quotient measured on the running layers exceeds the bound: a bug in Separatrix.

    Limits: the bound holds for exact arithmetic with the weights in evaluation mode; a forward pass below float64 adds rounding.
        With zeros, reflections or copies around an image, it is tight to about 3 · 10⁻⁶ within the budget; for a chain of large
        layers it is the product of their norms.
    Source: see the files of `separatrix.bounds.operator_norm`, one per method: dense (SVD), torus (circular padding, and zero
        padding by counting), banded (Cholesky), pooling.

    Example:
        >>> found = sx.operator_norm(nn.AvgPool2d(2), (1, 8, 8))
        >>> print(f"{found.bound:.3f}")  # four equal weights of 1/4, a vector of length 1/2
        0.500
    """
    shape, effort = _sizes(shape), Effort(budget, check_positive("slack", slack))
    layers, readings, size = layers_of(layer), [], shape
    for one in layers:
        piece, size = read(one, size)
        readings.append(piece)
    pieces = folded([piece for piece in readings if piece is not None])
    runs = running(layer, layers, readings, shape)
    refuse_unless_as_read(runs, pieces)
    return _confirmed(_of_pieces(at_one_place(pieces), effort), measured(runs, pieces)) if pieces else NOTHING_CHANGED


NOTHING_CHANGED = OperatorNorm(1.0, 1.0, "identity", 1.0)


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    given = shape if isinstance(shape, Iterable) else (shape,)
    try:
        sizes = tuple(index(size) for size in given)
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ShapeError(f"expected the shape of one input, such as (3, 32, 32), got {shape!r}.\nPass sizes of at least 1.")
    return sizes


def _of_pieces(pieces: list[Piece], effort: Effort) -> OperatorNorm:
    if len(pieces) == 1:
        return _norm_of(pieces[0], effort)
    if are_small(pieces):
        first, last = pieces[0], pieces[-1]
        return _seen_from_inputs(*of_one_matrix(pieces), shrinks=last.rows * last.groups < first.columns * first.groups)
    return _product([_norm_of(piece, effort) for piece in pieces])


def _confirmed(proven: OperatorNorm, measured: Measured | None) -> OperatorNorm:
    """The proven norm, with the measured quotient as the lower bound if it is larger.

    Raises:
        ContradictionError: the measurement contradicts the proof.
    """
    if measured is None:
        return proven
    least, most = measured.smallest + measured.rounding, measured.largest - measured.rounding
    if most > proven.bound or least < (proven.smallest or 0.0):
        kind, value, quotient = ("bound", proven.bound, most) if most > proven.bound else ("smallest", proven.smallest, least)
        raise ContradictionError(
            f"{kind} = {value:.6g} by {proven.method}, but the layers as they run have a quotient ‖Ax‖ / ‖x‖ of {quotient:.6g}.\n"
            "This is a bug in Separatrix: please report it with the layers, their weights and the shape."
        )
    return replace(proven, lower=max(proven.lower, most))


def _norm_of(piece: Piece, effort: Effort) -> OperatorNorm:
    if isinstance(piece, Separable):
        return _seen_from_inputs(piece.extremes(), 0, shrinks=piece.rows < piece.columns)
    if isinstance(piece, Diagonal):
        return _seen_from_inputs(piece.extremes(), 0, shrinks=False)
    scaled, power = kernel_of(piece).scaled()
    if not bool(scaled.weight.any()):
        return OperatorNorm(0.0, 0.0, "zero", 0.0)
    found = extremes_of(scaled, effort).widened(READING * UNIT * scaled.absolute_norm())
    return _seen_from_inputs(found, power, shrinks=piece.rows < piece.columns)


def _seen_from_inputs(found: Extremes, power: int, *, shrinks: bool) -> OperatorNorm:
    """In the layer's own scale; a layer with fewer outputs than inputs maps some input to 0."""
    smallest = 0.0 if shrinks else found.smallest
    return OperatorNorm(
        bound=_times(found.upper, power, toward=inf),
        lower=_times(found.lower, power, toward=0.0),
        method=found.method,
        smallest=None if smallest is None else _times(smallest, power, toward=0.0),
    )


def _times(value: float, power: int, *, toward: float) -> float:
    """`value` · 2^power, rounded in one direction where it leaves the range of normal numbers."""
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
