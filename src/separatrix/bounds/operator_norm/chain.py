"""Consecutive linear layers: diagonals are multiplied into their neighbours, and small chains become one matrix."""

from dataclasses import replace
from math import frexp, prod

import torch
from torch import Tensor

from separatrix.bounds.operator_norm.convolution import Convolution, power_of_two
from separatrix.bounds.operator_norm.dense import by_singular_values
from separatrix.bounds.operator_norm.pieces import Copies, Diagonal, Piece, Turned, matrix_of
from separatrix.bounds.operator_norm.rounding import SAFETY, Extremes, absolute_norm, gamma

SMALL = 2048
"""Layers one after the other are multiplied into one matrix if each has at most the square of this many entries."""
ORDINARY = 1e100
"""Numbers between its inverse and this are multiplied without a thought for overflow."""


def folded(pieces: list[Piece]) -> list[Piece]:
    """The pieces with diagonals multiplied into the adjacent convolution or diagonal."""
    done: list[Piece] = []
    for piece in pieces:
        done.append(piece)
        while len(done) > 1 and (one := _joined(done[-2], done[-1])) is not None:
            done[-2:] = [one]
    return done


def at_one_place(pieces: list[Piece]) -> list[Piece]:
    """The pieces at a single position, if every matrix is a copy of one matrix at all positions: the norms are equal."""
    copies = [piece for piece in pieces if isinstance(piece, Copies)]
    is_same = len(copies) == len(pieces) and len({piece.places for piece in copies}) == 1
    return [piece.matrix for piece in copies] if is_same else pieces


def _joined(first: Piece, second: Piece) -> Piece | None:
    if isinstance(first, Diagonal) and isinstance(second, Diagonal):
        return _both(first, second)
    if isinstance(second, Diagonal):
        return _scaled(first, second, outputs=True)
    if isinstance(first, Diagonal):
        return _scaled(second, first, outputs=False)
    return None


def _both(first: Diagonal, second: Diagonal) -> Diagonal | None:
    places = min(first.places, second.places)
    one, other = (diagonal.factors.repeat_interleave(diagonal.places // places) for diagonal in (first, second))
    return Diagonal(one * other, places) if _is_ordinary(one) and _is_ordinary(other) else None


def _scaled(piece: Piece, diagonal: Diagonal, *, outputs: bool) -> Piece | None:
    """The piece with the diagonal applied after it, or before it."""
    if isinstance(piece, Turned):
        turned = _scaled(piece.convolution, diagonal, outputs=not outputs)
        return Turned(turned) if isinstance(turned, Convolution) else None
    if not isinstance(piece, Convolution) or not (_is_ordinary(piece.weight) and _is_ordinary(diagonal.factors)):
        return None
    side = 1 if outputs else 2
    if len(diagonal.factors) != piece.groups * piece.weight.shape[side]:
        return None
    view = [1] * piece.weight.dim()
    view[0], view[side] = piece.groups, piece.weight.shape[side]
    return replace(piece, weight=piece.weight * diagonal.factors.to(piece.weight).view(view))


def _is_ordinary(values: Tensor) -> bool:
    largest = float(values.abs().max())
    return 1 / ORDINARY <= largest <= ORDINARY


def are_small(pieces: list[Piece]) -> bool:
    """Whether all matrices are small enough to be formed."""
    return all(piece.rows * piece.columns * piece.groups**2 <= SMALL**2 for piece in pieces)


def of_one_matrix(pieces: list[Piece]) -> tuple[Extremes, int]:
    """The extremes of the product of their matrices, and the power of two by which it was divided."""
    matrices, powers = zip(*(_normal(piece) for piece in pieces), strict=True)
    matrix = matrices[0]
    for one in matrices[1:]:
        matrix = one @ matrix
    size = prod(absolute_norm(one) for one in matrices)
    slack = SAFETY * gamma(sum(max(one.shape) + 8 for one in matrices)) * size
    return by_singular_values(matrix, "SVD").widened(slack), sum(powers)


def _normal(piece: Piece) -> tuple[Tensor, int]:
    matrix = matrix_of(piece).cpu()
    whole = torch.block_diag(*matrix) if matrix.dim() == 3 else matrix
    power = frexp(float(whole.abs().max()))[1]
    return power_of_two(whole, -power), power
