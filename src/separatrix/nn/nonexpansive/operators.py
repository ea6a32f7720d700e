"""Linear maps of a layer with their adjoints: matrices on vectors, convolutions on images."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from separatrix.core.errors import InputError

PADDINGS = ("circular", "zeros")


class Operator(Protocol):
    """A linear map  x ↦ A x  of known adjoint."""

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A x + b."""
        ...

    def adjoint(self) -> "Operator":
        """Aᵀ."""
        ...

    def times(self, factor: float | Tensor) -> "Operator":
        """The map times a number."""
        ...


@dataclass(frozen=True)
class Matrix:
    """x ↦ A x on vectors, (*batch, columns) → (*batch, rows)."""

    weight: Tensor

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A x + b."""
        return functional.linear(x, self.weight, bias)

    def adjoint(self) -> "Matrix":
        """Aᵀ."""
        return Matrix(self.weight.mT)

    def times(self, factor: float | Tensor) -> "Matrix":
        """The matrix times a number."""
        return Matrix(factor * self.weight)


@dataclass(frozen=True)
class Convolution:
    """A convolution of images that keeps their size, (*batch, in_channels, H, W) → (*batch, out_channels, H, W).

    Args:
        kernel: shape (out_channels, in_channels, kernel_size, kernel_size), kernel_size odd.
        padding: "circular" or "zeros".
    """

    kernel: Tensor
    padding: str = "circular"

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A x + b, a number of b for each channel."""
        images = x if x.ndim == 4 else x.reshape(-1, *x.shape[-3:])
        reach = self.kernel.shape[-1] // 2
        if self.padding == "circular":
            images = functional.conv2d(wrapped(wrapped(images, reach, -2), reach, -1), self.kernel, bias)
        else:
            images = functional.conv2d(images, self.kernel, bias, padding=reach)
        return images if x.ndim == 4 else images.reshape(*x.shape[:-3], *images.shape[1:])

    def adjoint(self) -> "Convolution":
        """Aᵀ: the kernel with its two sides exchanged and turned by half a turn; true of both paddings."""
        return Convolution(self.kernel.transpose(0, 1).flip(-2, -1), self.padding)

    def times(self, factor: float | Tensor) -> "Convolution":
        """The convolution times a number."""
        return Convolution(factor * self.kernel, self.padding)


def wrapped(images: Tensor, reach: int, axis: int) -> Tensor:
    """The images with `reach` pixels of the other end before and behind an axis.

    Cut and put together, which is faster forwards and backwards than PyTorch's circular padding; images too small to be cut are
    indexed.
    """
    size = images.shape[axis]
    if size < 2 * reach:
        return images.index_select(axis, torch.arange(-reach, size + reach, device=images.device) % size)
    start, middle, end = images.split([reach, size - 2 * reach, reach], axis)
    return torch.cat([end, start, middle, end, start], axis)


def check_padding(padding: str) -> None:
    """Refuse paddings of which nothing is known."""
    if padding not in PADDINGS:
        raise InputError(f"padding is {padding!r}; it is {' or '.join(repr(known) for known in PADDINGS)}.")
