"""A convolution as a matrix: the input position that each tap of the kernel reads, axis by axis."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import frexp, prod

import torch
from torch import Tensor
from torch.nn import functional as F

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Axis:
    """Axis along which the kernel slides.

    Args:
        size: number of input positions.
        kernel, stride, dilation: parameters of the convolution along the axis.
        before, after: padding before and after.
        mode: padding mode: zeros, circular, reflect or replicate.
    """

    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    mode: str = "zeros"

    @property
    def reach(self) -> int:
        """Places between the first and the last tap, d (k − 1)."""
        return self.dilation * (self.kernel - 1)

    @property
    def out(self) -> int:
        """Places of the output."""
        return (self.size + self.before + self.after - self.reach - 1) // self.stride + 1

    @property
    def is_copied(self) -> bool:
        """Whether the kernel does not mix places along it."""
        return self.kernel == 1 and self.before == self.after == 0

    def source(self, place: int) -> int | None:
        """The place of the input that is read at a place of the padded line; None for a zero."""
        i = place - self.before
        if 0 <= i < self.size:
            return i
        match self.mode:
            case "circular":
                return i % self.size
            case "replicate":
                return 0 if i < 0 else self.size - 1
            case "reflect":
                return -i if i < 0 else 2 * (self.size - 1) - i
        return None

    def reads(self) -> Iterator[tuple[int, int, int]]:
        """(tap, output place, input place) of every product that the axis makes."""
        for o in range(self.out):
            for tap in range(self.kernel):
                i = self.source(o * self.stride + self.dilation * tap)
                if i is not None:
                    yield tap, o, i

    def incidence(self) -> Tensor:
        """Ones where `reads` says so, shape (kernel, out, size)."""
        table = torch.zeros(self.kernel, self.out, self.size, dtype=torch.float64, device="cpu")
        for read in self.reads():
            table[read] = 1.0
        return table


@dataclass(frozen=True)
class Convolution:
    """Convolution as a linear map (groups · c, *sizes) → (groups · o, *outs), without its bias.

    Args:
        weight: kernels, shape (groups, o, c, *kernel), float64.
        axes: one per axis of the kernel; empty for a plain matrix.
    """

    weight: Tensor
    axes: tuple[Axis, ...] = ()

    @property
    def groups(self) -> int:
        """Number of independent blocks."""
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        """Number of inputs of a group."""
        return self.weight.shape[2] * prod(axis.size for axis in self.axes)

    @property
    def rows(self) -> int:
        """Number of outputs of a group."""
        return self.weight.shape[1] * prod(axis.out for axis in self.axes)

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Channels and places of the input."""
        return (self.groups * self.weight.shape[2], *(axis.size for axis in self.axes))

    def __call__(self, x: Tensor) -> Tensor:
        """The image of x, shape (batch, *in_shape)."""
        if not self.axes:
            return torch.einsum("goc,bgc->bgo", self.weight.to(x.dtype), x.unflatten(1, (self.groups, -1))).flatten(1)
        for j, axis in enumerate(self.axes):
            places = [axis.source(p) for p in range(axis.size + axis.before + axis.after)]
            index = torch.tensor([0 if p is None else p for p in places], device=x.device)
            seen = torch.tensor([p is not None for p in places], device=x.device, dtype=x.dtype)
            x = x.index_select(j + 2, index) * seen.view(-1, *[1] * (len(self.axes) - j - 1))
        convolve = CONVOLVE[len(self.axes)]
        stride, dilation = ([getattr(axis, name) for axis in self.axes] for name in ("stride", "dilation"))
        return convolve(x, self.weight.flatten(0, 1).to(x.dtype), stride=stride, dilation=dilation, groups=self.groups)

    def dense(self) -> Tensor:
        """Its matrix, group by group, shape (groups, rows, columns)."""
        matrix = self.weight
        for axis in self.axes:  # (groups, o, c, *kernel left, out, size, …)
            matrix = torch.tensordot(matrix, axis.incidence().to(matrix), dims=([3], [0]))
        d = len(self.axes)
        outs, sizes = range(3, 3 + 2 * d, 2), range(4, 4 + 2 * d, 2)
        return matrix.permute(0, 1, *outs, 2, *sizes).reshape(self.groups, self.rows, self.columns)

    def taps(self, axis: int) -> Tensor:
        """The matrices of the taps along one axis, over all other axes; shape (kernel, groups, rows, columns)."""
        others = tuple(one for j, one in enumerate(self.axes) if j != axis)
        return torch.stack([Convolution(kernel, others).dense() for kernel in self.weight.movedim(3 + axis, 0)])

    def reduced(self) -> "Convolution":
        """The convolution without the axes that the kernel does not mix, along which it repeats at each position."""
        kept = [j for j, axis in enumerate(self.axes) if not axis.is_copied]
        axes = tuple(self.axes[j] for j in kept)
        return Convolution(self.weight.reshape(*self.weight.shape[:3], *(axis.kernel for axis in axes)), axes)

    def absolute_norm(self) -> float:
        """√(‖A‖₁ ‖A‖_∞) ≥ ‖|A|‖₂ where each place is read at most once by a tap; larger where padding repeats places."""
        size = self.weight.abs()
        spatial = tuple(range(3, size.dim()))
        summed = size.sum(spatial) if spatial else size
        repeats = prod(max(axis_repeats(axis)) for axis in self.axes)
        return float((summed.sum(-1).max() * summed.sum(-2).max() * repeats).sqrt())

    def scaled(self) -> tuple["Convolution", int]:
        """The convolution scaled to a largest weight in [½, 1), and the power of two by which it was divided."""
        largest = float(self.weight.abs().max()) if self.weight.numel() else 0.0
        if largest == 0.0:
            return self, 0
        power = frexp(largest)[1]
        return replace(self, weight=power_of_two(self.weight, -power)), power


def power_of_two(values: Tensor, power: int) -> Tensor:
    """values · 2^power, in two steps, so that the factors themselves stay numbers."""
    half = power // 2
    return values * 2.0**half * 2.0 ** (power - half)


def axis_repeats(axis: Axis) -> list[int]:
    """For each place of the input, how often one tap reads it."""
    counts: dict[tuple[int, int], int] = {}
    for tap, _, i in axis.reads():
        counts[tap, i] = counts.get((tap, i), 0) + 1
    return list(counts.values()) or [0]
