"""Circular convolutions, which the Fourier transform takes apart: one small matrix for each frequency."""

from dataclasses import replace
from math import log2, prod

import torch
from torch import Tensor

from separatrix.nn.norms.convolution import Axis, Convolution
from separatrix.nn.norms.dense import by_singular_values
from separatrix.nn.norms.rounding import SAFETY, UNIT, Extremes


def is_circulant(axis: Axis) -> bool:
    """Whether the axis turns onto itself: circular padding, and strides that meet the beginning again."""
    return axis.mode == "circular" and axis.out * axis.stride == axis.size


def circulant(convolution: Convolution) -> Convolution:
    """The same kernel on a circle that is long enough that no output of the layer goes around: the layer is a piece of it."""
    return replace(convolution, axes=tuple(map(_closed, convolution.axes)))


def _closed(axis: Axis) -> Axis:
    if is_circulant(axis):
        return axis
    size = axis.size + axis.before + axis.after
    size += -size % axis.stride
    return Axis(size, axis.kernel, axis.stride, axis.dilation, 0, axis.reach + axis.stride - 1, "circular")


def repetition(axis: Axis) -> int:
    """‖pad‖²: how often the padded line shows one place of the input, at most."""
    if is_circulant(axis) or axis.mode == "zeros":
        return 1
    shown = [axis.source(place) for place in range(axis.size + axis.before + axis.after)]
    return max(map(shown.count, range(axis.size)))


def symbol(convolution: Convolution) -> Tensor:
    r"""K̂(ω) on the circle, with the frequencies that a stride folds onto each other side by side.

        K̂_oc(ω) = Σ_t K_oct e^{−i ω·dt},   folded: (K̂(ω + 2πm/s))_m / √(Π s)   of shape (frequencies, o, c Π s)

    For a real kernel K̂(−ω) is its conjugate, so half of them have all singular values. Shape (groups · frequencies, o, c Π s).
    """
    axes = convolution.axes
    kernel = torch.zeros(*convolution.weight.shape[:3], *(axis.size for axis in axes), dtype=torch.float64)
    kernel = kernel.to(convolution.weight.device)
    places = [torch.arange(axis.kernel) * axis.dilation % axis.size for axis in axes]
    grid = torch.meshgrid(*places, indexing="ij")
    for tap in zip(*(g.flatten().tolist() for g in grid), *(i.flatten().tolist() for i in _taps(axes)), strict=True):
        at, which = tap[: len(axes)], tap[len(axes) :]
        kernel[(..., *at)] += convolution.weight[(..., *which)]
    whole = torch.fft.fftn(kernel, dim=tuple(range(3, 3 + len(axes))))
    return _folded(whole, axes)


def _taps(axes: tuple[Axis, ...]) -> tuple[Tensor, ...]:
    return torch.meshgrid(*(torch.arange(axis.kernel) for axis in axes), indexing="ij")


def _folded(whole: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    groups, o, c = whole.shape[:3]
    d, strides = len(axes), [axis.stride for axis in axes]
    split = whole.reshape(groups, o, c, *(n for axis in axes for n in (axis.stride, axis.size // axis.stride)))
    aliases, frequencies = range(3, 3 + 2 * d, 2), range(4, 4 + 2 * d, 2)
    split = split.permute(0, *frequencies, 1, 2, *aliases)
    if max(strides) == 1:  # half of the last axis has its conjugates in the other half
        split = split.narrow(d, 0, axes[-1].size // 2 + 1)
    return split.reshape(-1, o, c * prod(strides)) / prod(strides) ** 0.5


def by_fourier(convolution: Convolution) -> Extremes:
    r"""The largest singular value over the frequencies of the circle; exact for circular padding, else a bound from above.

    Any other padding is a piece of a circular convolution: outputs left out of  C · pad,  so  ‖A‖ ≤ ‖C‖ ‖pad‖,  and ‖pad‖ is 1 for
    zeros. The bound is then loose by about (π k / n)² / 8, and nothing is known of the smallest singular value.

    Source: Sedghi, Gupta & Long 2019, The singular values of convolutional layers, theorem 6, for the circular case.
    """
    ring = circulant(convolution)
    repeats = prod(repetition(axis) for axis in convolution.axes)
    exact = all(is_circulant(axis) for axis in convolution.axes)
    places = prod(axis.size for axis in ring.axes)
    slack = SAFETY * (log2(places) + 4) * UNIT * ring.absolute_norm()
    found = by_singular_values(symbol(ring), "Fourier").widened(slack)
    if exact:
        return found
    return Extremes(found.upper * repeats**0.5 * (1 + 8 * UNIT), 0.0, None, "circular bound")
