"""Linear maps with their adjoints: matrices on vectors, convolutions on images."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from separatrix.core.checks import check_choice

PADDINGS = ("circular", "zeros")


class Operator(Protocol):
    """A linear map  x ↦ A x  with its adjoint."""

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A x + b."""
        ...

    def adjoint(self) -> "Operator":
        """Aᵀ."""
        ...

    def times(self, factor: float | Tensor) -> "Operator":
        """The map multiplied by a number."""
        ...


@dataclass(frozen=True)
class Matrix:
    """The map  x ↦ A x  on vectors, (*batch, columns) → (*batch, rows)."""

    weight: Tensor

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A x + b."""
        return functional.linear(x, self.weight, bias)

    def adjoint(self) -> "Matrix":
        """Aᵀ."""
        return Matrix(self.weight.mT)

    def times(self, factor: float | Tensor) -> "Matrix":
        """The matrix multiplied by a number."""
        return Matrix(factor * self.weight)


@dataclass(frozen=True)
class Convolution:
    """A convolution that keeps the image size, (*batch, in_channels, H, W) → (*batch, out_channels, H, W).

    Args:
        kernel: shape (out_channels, in_channels, kernel_size, kernel_size), kernel_size odd.
        padding: "circular" or "zeros".
    """

    kernel: Tensor
    padding: str = "circular"

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A x + b, with one number of b per channel."""
        images = x if x.ndim == 4 else x.reshape(-1, *x.shape[-3:])
        reach = self.kernel.shape[-1] // 2
        if self.padding == "circular":
            images = functional.conv2d(wrapped(wrapped(images, reach, -2), reach, -1), self.kernel, bias)
        else:
            images = functional.conv2d(images, self.kernel, bias, padding=reach)
        return images if x.ndim == 4 else images.reshape(*x.shape[:-3], *images.shape[1:])

    def adjoint(self) -> "Convolution":
        """Aᵀ: the kernel with its channel axes exchanged and both spatial axes flipped; valid for both paddings."""
        return Convolution(self.kernel.transpose(0, 1).flip(-2, -1), self.padding)

    def times(self, factor: float | Tensor) -> "Convolution":
        """The convolution multiplied by a number."""
        return Convolution(factor * self.kernel, self.padding)


def wrapped(images: Tensor, reach: int, axis: int) -> Tensor:
    """The images padded circularly by `reach` pixels on both sides of an axis.

    Slicing and concatenation are faster, forward and backward, than PyTorch's circular padding; images shorter than 2 · reach are
    indexed.
    """
    size = images.shape[axis]
    if size < 2 * reach:
        return images.index_select(axis, torch.arange(-reach, size + reach, device=images.device) % size)
    start, middle, end = images.split([reach, size - 2 * reach, reach], axis)
    return torch.cat([end, start, middle, end, start], axis)


def check_padding(padding: str) -> None:
    """Refuse an unknown padding."""
    check_choice("padding", padding, PADDINGS)
