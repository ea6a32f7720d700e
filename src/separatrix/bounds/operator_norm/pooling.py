"""Average pooling: one matrix per axis, so that norms multiply."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from separatrix.bounds.operator_norm.dense import by_singular_values
from separatrix.bounds.operator_norm.rounding import UNIT, Extremes


@dataclass(frozen=True)
class Separable:
    """Separable matrix P₁ ⊗ P₂ ⊗ … on every channel, whose singular values are products of those of the factors.

    Args:
        channels: number of copies.
        factors: one matrix (out, size) per axis.
    """

    channels: int
    factors: tuple[Tensor, ...]
    groups = 1

    @property
    def columns(self) -> int:
        """Numbers that it reads."""
        return self.channels * prod(factor.shape[1] for factor in self.factors)

    @property
    def rows(self) -> int:
        """Numbers that it gives."""
        return self.channels * prod(factor.shape[0] for factor in self.factors)

    def dense(self) -> Tensor:
        """Its matrix."""
        matrix = torch.eye(self.channels, dtype=torch.float64, device="cpu")
        for factor in self.factors:
            matrix = kron(matrix, factor)
        return matrix

    def extremes(self) -> Extremes:
        """The products."""
        each = [by_singular_values(factor, "separable") for factor in self.factors]
        onto = all(factor.shape[0] >= factor.shape[1] for factor in self.factors)
        found = Extremes(
            prod(one.upper for one in each),
            prod(one.lower for one in each),
            prod(one.smallest or 0.0 for one in each) if onto else 0.0,
            "separable",
        )
        return found.widened(8 * len(each) * UNIT * found.upper)


def kron(one: Tensor, other: Tensor) -> Tensor:
    """A ⊗ B; `torch.kron` fails on some matrices of one column that are views."""
    rows, columns = (one.shape[j] * other.shape[j] for j in (0, 1))
    return (one[:, None, :, None] * other[None, :, None, :]).reshape(rows, columns)


AVERAGE = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
ADAPTIVE = {nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3}


def average(layer: nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d, shape: tuple[int, ...]) -> Separable:
    """The matrix of an average pool on (channels, *sizes); its window, padding and counts are products over the axes."""
    sizes = shape[1:]
    kernel, stride, padding = (_each(value, len(sizes)) for value in (layer.kernel_size, layer.stride, layer.padding))
    divisor = getattr(layer, "divisor_override", None)
    factors = []
    for size, k, s, p in zip(sizes, kernel, stride, padding, strict=True):
        lines = torch.eye(size, dtype=torch.float64, device="cpu")[:, None, :, None]
        pooled = F.avg_pool2d(lines, (k, 1), (s, 1), (p, 0), layer.ceil_mode, layer.count_include_pad, divisor and 1)
        factors.append(pooled.flatten(1).T)
    if divisor:
        factors[0] = factors[0] / divisor
    return Separable(shape[0], tuple(factors))


def adaptive(layer: nn.Module, shape: tuple[int, ...]) -> Separable:
    """The matrix of an adaptive average pool on (channels, *sizes)."""
    targets = _each(layer.output_size, len(shape) - 1)
    factors = [
        F.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64, device="cpu")[:, None], size if target is None else target)
        .flatten(1)
        .T
        for size, target in zip(shape[1:], targets, strict=True)
    ]
    return Separable(shape[0], tuple(factors))


def _each(value, d: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * d
