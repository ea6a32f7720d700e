"""Structured matrices that represent layers."""

# Note [Layout]
# Every piece reads and gives the numbers of a tensor in the tensor's own order (C order, the last axis fastest), without its batch.
# A Linear acts on the last axis, wherever the channels of its neighbours are; what renames axes (Flatten, Unflatten) is no piece.

from dataclasses import dataclass
from math import inf, prod
from sys import float_info

import torch
from torch import Tensor
from torch.func import vjp

from separatrix.bounds.operator_norm.convolution import Convolution
from separatrix.bounds.operator_norm.pooling import Separable, kron
from separatrix.bounds.operator_norm.rounding import SAFETY, TINY, UNIT, Extremes, absolute_norm, gamma
from separatrix.core.errors import ContradictionError
from separatrix.core.randomness import torch_generator


@dataclass(frozen=True)
class Diagonal:
    """Channel by channel a factor, channels first.

    Args:
        factors: shape (channels,).
        places: numbers in a channel.
    """

    factors: Tensor
    places: int = 1
    groups = 1

    @property
    def columns(self) -> int:
        """Numbers that it reads."""
        return len(self.factors) * self.places

    @property
    def rows(self) -> int:
        """Numbers that it gives."""
        return self.columns

    def dense(self) -> Tensor:
        """Its matrix."""
        return torch.diag(self.factors.repeat_interleave(self.places))

    def extremes(self) -> Extremes:
        """The largest and the smallest factor."""
        size = self.factors.abs()
        largest = float(size.max())
        return Extremes(largest, largest, float(size.min()), "diagonal").widened(8 * UNIT * largest)


@dataclass(frozen=True)
class Turned:
    """The transposed matrix of a convolution, which is what PyTorch calls a transposed convolution."""

    convolution: Convolution

    @property
    def groups(self) -> int:
        """Blocks that do not see each other."""
        return self.convolution.groups

    @property
    def columns(self) -> int:
        """Numbers that a group reads."""
        return self.convolution.rows

    @property
    def rows(self) -> int:
        """Numbers that a group gives."""
        return self.convolution.columns

    def dense(self) -> Tensor:
        """Its matrix, group by group."""
        return self.convolution.dense().mT


@dataclass(frozen=True)
class Copies:
    """A matrix W on the last axis, at each place of those before it:  I ⊗ W."""

    matrix: Convolution
    places: int
    groups = 1

    @property
    def columns(self) -> int:
        """Numbers that it reads."""
        return self.places * self.matrix.columns

    @property
    def rows(self) -> int:
        """Numbers that it gives."""
        return self.places * self.matrix.rows

    def dense(self) -> Tensor:
        """Its matrix."""
        weight = self.matrix.weight[0]
        return kron(torch.eye(self.places, dtype=weight.dtype, device=weight.device), weight)


Piece = Convolution | Turned | Diagonal | Separable | Copies


def image(piece: Piece, x: Tensor) -> Tensor:
    """A x, shapes (batch, numbers read) → (batch, numbers given)."""
    if isinstance(piece, Convolution):
        return piece(x.reshape(-1, *piece.in_shape)).flatten(1)
    if isinstance(piece, Turned):
        convolution = piece.convolution
        adjoint = vjp(convolution, x.new_zeros(len(x), *convolution.in_shape))[1]
        outputs = (convolution.groups * convolution.weight.shape[1], *(axis.out for axis in convolution.axes))
        return adjoint(x.reshape(-1, *outputs))[0].flatten(1)
    if isinstance(piece, Diagonal):
        return x * piece.factors.to(x).repeat_interleave(piece.places)
    if isinstance(piece, Copies):
        return (x.unflatten(1, (piece.places, -1)) @ piece.matrix.weight[0].to(x).mT).flatten(1)
    z = x.reshape(len(x) * piece.channels, *(factor.shape[1] for factor in piece.factors))
    for axis, factor in enumerate(piece.factors, start=1):
        z = torch.tensordot(z, factor.to(x), dims=([axis], [1])).movedim(-1, axis)
    return z.reshape(len(x), -1)


def size_of(piece: Piece) -> float:
    """At least ‖|A|‖₂, what rounding is measured by."""
    if isinstance(piece, Diagonal):
        return float(piece.factors.abs().max())
    if isinstance(piece, Separable):
        return prod(absolute_norm(factor) for factor in piece.factors)
    scaled, power = kernel_of(piece).scaled()
    return scaled.absolute_norm() * 2.0**power if power < float_info.max_exp else inf


def multiplications(piece: Piece) -> int:
    """In an image, about."""
    if isinstance(piece, Diagonal | Separable):
        return piece.columns
    kernel = kernel_of(piece)
    places = piece.places if isinstance(piece, Copies) else prod(axis.out for axis in kernel.axes)
    return kernel.weight.numel() * places


def kernel_of(piece: Convolution | Turned | Copies) -> Convolution:
    """What has the same norm: a transposed matrix has, and copies side by side have."""
    if isinstance(piece, Convolution):
        return piece
    return piece.matrix if isinstance(piece, Copies) else piece.convolution


def length(x: Tensor) -> float:
    """‖x‖₂, of numbers of any size."""
    largest = float(x.abs().max()) if x.numel() else 0.0
    return largest * float((x / largest).norm()) if 0 < largest < inf else largest


def matrix_of(piece: Piece) -> Tensor:
    """Its matrix, shape (rows, columns) or (groups, rows, columns), held against its image of a random vector."""
    matrix = piece.dense()
    x = torch.randn(1, piece.groups * piece.columns, dtype=torch.float64, device="cpu", generator=torch_generator(0, "matrix"))
    x = x.to(matrix.device)
    wanted = image(piece, x)
    found = (matrix.view(piece.groups, piece.rows, piece.columns) @ x.view(piece.groups, -1, 1)).view(1, -1)
    rounding = SAFETY * gamma(piece.columns + piece.rows) * size_of(piece) * length(x) + TINY
    if bool(torch.isfinite(wanted).all()) and not length(found - wanted) <= rounding:
        raise ContradictionError(
            f"the matrix of a {type(piece).__name__} does not match its action.\nThis is a bug in Separatrix: please report it."
        )
    return matrix
