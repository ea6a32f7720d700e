"""Reversible networks as blocks: perceptrons that move the halves of a state in turns, as systems with a guarantee."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.nn.activation import ActivationLike
from separatrix.nn.block import Block
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.reversible.reversible import Couplings, Momentum, Reversible, halved, of_pair
from separatrix.nn.shift import Network


class HalfAndHalf(Block):
    """A block on states of two halves, which couplings move in turns.

    Args:
        couplings: of halves of half as many numbers.
        dim: numbers in both.
    """

    couplings: Couplings

    def inverse(self, y: Tensor) -> Tensor:
        """The state before, in floats."""
        return joined(*self.couplings.undo(*halved(y, -1)))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """Both halves behind the last layer."""
        return joined(*self.couplings.run(*halved(x, -1)))

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """Layer by layer."""
        pairs = zip(halved(x, -1), halved(v, -1), strict=True)
        a, b = self.couplings.along(*pairs)
        return joined(a[0], b[0]), joined(a[1], b[1])


class MomentumNet(HalfAndHalf):
    r"""`Momentum` on states (x, v), each half of the numbers, with perceptrons f.

    Its volume shrinks by the same factor at every state,  log |det J| = layers · (dim/2) · log γ.

    Args:
        dim: numbers in x and v together, even.
        layers: how many.
        hidden: widths of the hidden layers of each f. Default: one of dim units.
        gamma: γ.
        activation: of f's hidden units.
        bits, recompute: as of `Momentum`.

    Raises:
        ShapeError: dim is odd.
        InputError: fewer than 1 layer; γ is out of range; the activation mixes numbers.
    Source: as `Momentum`.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 4,
        hidden: Sequence[int] | None = None,
        gamma: float = 0.9,
        activation: ActivationLike = "tanh",
        bits: int | None = None,
        recompute: bool = True,
    ) -> None:
        super().__init__(dim)
        modules = perceptrons(dim, layers, hidden, activation)
        self.couplings = Momentum(modules, gamma=gamma, bits=bits, recompute=recompute)

    @property
    def guarantee(self) -> Guarantee:
        """The volume; and a Lipschitz factor, where all f have one."""
        layers = len(self.couplings.layers)
        return of_pair(self.couplings, layers * (self.dim // 2) * math.log(self.couplings.leap.gamma))


class ReversibleNet(HalfAndHalf):
    r"""`Reversible` on vectors, with perceptrons f and g; it keeps volumes.

    Args:
        dim: numbers in both halves, even.
        layers: pairs of f and g.
        hidden: widths of the hidden layers of each. Default: one of dim units.
        activation: of their hidden units.
        bits, recompute: as of `Momentum`.

    Raises:
        ShapeError: dim is odd.
        InputError: fewer than 1 layer; the activation mixes numbers.
    Source: as `Reversible`.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 2,
        hidden: Sequence[int] | None = None,
        activation: ActivationLike = "tanh",
        bits: int | None = None,
        recompute: bool = True,
    ) -> None:
        super().__init__(dim)
        f, g = (perceptrons(dim, layers, hidden, activation) for _ in range(2))
        self.couplings = Reversible(f, g, axis=-1, bits=bits, recompute=recompute)

    @property
    def guarantee(self) -> Guarantee:
        """Volumes are kept; and a Lipschitz factor, where all modules have one."""
        return of_pair(self.couplings, 0.0)


def perceptrons(dim: int, layers: int, hidden: Sequence[int] | None, activation: ActivationLike) -> list[nn.Module]:
    """One for each layer, of half the numbers of a state."""
    if dim % 2:
        raise ShapeError(f"a state of two equal halves has an even number of numbers, not {dim}.")
    if check_whole("layers", layers) < 1:
        raise InputError(f"layers is {layers}; a network has at least 1.")
    widths = (dim,) if hidden is None else hidden
    return [Network(dim // 2, dim // 2, hidden=widths, activation=activation) for _ in range(layers)]


def joined(first: Tensor, second: Tensor) -> Tensor:
    """The halves of vectors, or of tangents, put together."""
    return torch.cat([first, second], dim=-1)
