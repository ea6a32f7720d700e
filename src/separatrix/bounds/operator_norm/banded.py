"""The Gram matrix of a convolution by image rows, and the proof by Cholesky factorisation that its norm is below a number."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import gcd, prod, sqrt

import torch
from torch import Tensor

from separatrix.bounds.operator_norm.convolution import Axis, Convolution
from separatrix.bounds.operator_norm.rounding import SAFETY, UNIT, gamma

Pairs = tuple[tuple[tuple[int, int], int], ...]


@dataclass(frozen=True)
class Gram:
    """A Aᵀ (of the outputs) or Aᵀ A (of the inputs), in blocks that belong to the rows of the image along one axis.

    Args:
        convolution: A.
        axis: the axis whose positions are the rows.
        of_outputs: use A Aᵀ instead of Aᵀ A.
    """

    convolution: Convolution
    axis: int
    of_outputs: bool

    @property
    def along(self) -> Axis:
        """The axis."""
        return self.convolution.axes[self.axis]

    @property
    def block(self) -> int:
        """Numbers in a row of the image."""
        others = [axis for j, axis in enumerate(self.convolution.axes) if j != self.axis]
        channels = self.convolution.weight.shape[1 if self.of_outputs else 2]
        return channels * prod(axis.out if self.of_outputs else axis.size for axis in others)

    @cached_property
    def order(self) -> list[int]:
        """The rows, those that a dilation keeps apart one class after the other."""
        axis = self.along
        count, period = axis.size, axis.dilation
        if self.of_outputs:
            count, period = axis.out, axis.dilation // gcd(axis.dilation, axis.stride)
        return sorted(range(count), key=lambda row: (row % period, row))

    @cached_property
    def products(self) -> dict[tuple[int, int], Pairs]:
        """For each pair of neighbouring rows, by position, the pairs of taps whose products make up its block, and how often."""
        position = {row: n for n, row in enumerate(self.order)}
        readers: dict[int, list[tuple[int, int]]] = {}
        for tap, o, i in self.along.reads():
            row, shared = (o, i) if self.of_outputs else (i, o)
            readers.setdefault(shared, []).append((position[row], tap))
        counts: dict[tuple[int, int], Counter[tuple[int, int]]] = {}
        for meeting in readers.values():
            for n, tap in meeting:
                for m, other in meeting:
                    if n <= m:
                        counts.setdefault((n, m), Counter())[tap, other] += 1
        return {pair: tuple(sorted(count.items())) for pair, count in counts.items()}

    @cached_property
    def width(self) -> int:
        """Rows that a row has products with, behind it."""
        return max((m - n for n, m in self.products), default=0)

    @property
    def flops(self) -> float:
        """Of the products of taps and the Cholesky factorisation by blocks, all groups."""
        q, taps = self.width, self.along.kernel
        entries = self.convolution.rows * self.convolution.columns / (self.along.out * self.along.size)
        factorisation = len(self.order) * float(self.block) ** 3 * (1 / 3 + q + q * (q + 1))
        return self.convolution.groups * (factorisation + taps * (taps + 1) * entries * self.block)


class Blocks:
    """The blocks of a Gram matrix, each made once of those products of taps that it needs."""

    def __init__(self, gram: Gram) -> None:
        self.gram = gram
        self.made: dict[Pairs, Tensor] = {}
        self.multiplied: dict[tuple[int, int], Tensor] = {}

    @cached_property
    def taps(self) -> Tensor:
        """The matrices whose products are summed, shape (kernel, groups, block, numbers in a row of the other side)."""
        taps = self.gram.convolution.taps(self.gram.axis)
        return taps if self.gram.of_outputs else taps.mT

    def __getitem__(self, pair: tuple[int, int]) -> Tensor:
        """Block (n, m) of the rows in their order, n ≤ m, shape (groups, block, block)."""
        pairs = self.gram.products.get(pair, ())
        if pairs not in self.made:
            zero = self.taps.new_zeros(self.taps.shape[1], self.gram.block, self.gram.block)
            self.made[pairs] = sum((count * self._product(*taps) for taps, count in pairs), zero)
        return self.made[pairs]

    def _product(self, tap: int, other: int) -> Tensor:
        if (other, tap) in self.multiplied:
            return self.multiplied[other, tap].mT
        if (tap, other) not in self.multiplied:
            self.multiplied[tap, other] = self.taps[tap] @ self.taps[other].mT
        return self.multiplied[tap, other]


def grams(convolution: Convolution) -> Iterator[Gram]:
    """All ways to cut the image into rows."""
    for axis in range(len(convolution.axes)):
        yield Gram(convolution, axis, True)
        yield Gram(convolution, axis, False)


def is_below(blocks: Blocks, theta: float) -> bool:
    r"""Whether the Cholesky factorisation of  θ I − M  succeeds, image row by image row."""
    last, q = len(blocks.gram.order) - 1, blocks.gram.width
    window: dict[tuple[int, int], Tensor] = {}
    for n in range(last + 1):
        end = min(n + q, last)
        entering = range(0 if n == 0 else n + q, end + 1)
        window |= {(a, b): _shifted(blocks, a, b, theta) for b in entering for a in range(n, b + 1)}
        factor, info = torch.linalg.cholesky_ex(window.pop((n, n)))
        if bool(info.any()) or not bool(torch.isfinite(factor).all()):
            return False
        later = range(n + 1, end + 1)
        solved = {b: torch.linalg.solve_triangular(factor, window.pop((n, b)), upper=False) for b in later}
        for a in later:
            for b in range(a, end + 1):
                window[a, b].baddbmm_(solved[a].mT, solved[b], alpha=-1)
    return True


def _shifted(blocks: Blocks, a: int, b: int, theta: float) -> Tensor:
    block = -blocks[a, b]
    if a == b:
        block.diagonal(dim1=-2, dim2=-1).add_(theta)
    return block


def bound_of(blocks: Blocks, trial: float) -> float | None:
    r"""A bound of ‖A‖ just above `trial`,  √(θ + δ)  with θ = trial², if the factorisation of  θ I − M  succeeds; otherwise None.

        δ = (2b + 1) γ_{b+2} θ  +  γ_N ‖|A|‖₂²

    The first term bounds the error of the factorisation: its result is exact for a matrix that differs elementwise by at most
    γ_{b+2} √(m_ii m_jj), within a band of b numbers on either side. The second bounds the rounding of M itself, with N numbers in
    each of its inner products. Both are multiplied by a safety factor.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, theorems 10.3 and 10.7; Rump 2006, Verification of positive
    definiteness, BIT 46, 433.
    """
    gram, theta = blocks.gram, trial**2
    if not is_below(blocks, theta):
        return None
    band = (gram.width + 1) * gram.block
    inner = gram.convolution.rows + gram.convolution.columns
    left_out = (2 * band + 1) * gamma(band + 2) * theta
    of_gram = gamma(inner) * gram.convolution.absolute_norm() ** 2
    return sqrt(theta + SAFETY * (left_out + of_gram)) * (1 + 4 * UNIT)
