"""Reversible networks as blocks: perceptrons that move the halves of a state alternately."""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import ShapeError
from separatrix.nn.activation import ActivationLike
from separatrix.nn.block import Block
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.reversible.couplings import Couplings
from separatrix.nn.reversible.reversible import Momentum, Reversible, halved, of_pair
from separatrix.nn.shift import Network


class HalfAndHalf(Block):
    """A block on states of two halves that `couplings` move alternately."""

    couplings: Couplings

    def inverse(self, y: Tensor) -> Tensor:
        """The inverse in floats, up to rounding."""
        return joined(*self.couplings.undo(*halved(y, -1)))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state after the last layer."""
        return joined(*self.couplings.run(*halved(x, -1)))

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The pushforward of each layer in order."""
        pairs = zip(halved(x, -1), halved(v, -1), strict=True)
        a, b = self.couplings.along(*pairs)
        return joined(a[0], b[0]), joined(a[1], b[1])


class MomentumNet(HalfAndHalf):
    r"""A momentum residual network with perceptrons f on states (x, v); see `Momentum`.

    It contracts volume by the same factor at every state,  log |det J| = layers · (dim/2) · log γ.

    Args:
        dim: numbers in the state (x, v), even.
        layers: number of layers.
        hidden: widths of the hidden layers of each f. Default: one of dim units.
        gamma: γ.
        activation: elementwise function of the hidden units: a name such as "tanh", an `nn.Module` class or instance, or a
            function.
        bits, recompute: as for `Momentum`.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: dim is odd.
        InputError: layers is less than 1, gamma is out of range, or the activation is unknown or not elementwise.
    Source: as `Momentum`.

    Example:
        >>> network = sx.nn.MomentumNet(4, layers=2, gamma=0.5)
        >>> print(f"{network.guarantee.log_det:.4f}")  # 2 · 2 · ln 0.5
        -2.7726
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
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim)
        modules = perceptrons(dim, layers, hidden, activation, device=device, dtype=dtype)
        self.couplings = Momentum(modules, gamma=gamma, bits=bits, recompute=recompute)

    @property
    def guarantee(self) -> Guarantee:
        """The log-determinant; and a Lipschitz factor, if every f has one."""
        layers = len(self.couplings.layers)
        return of_pair(self.couplings, layers * (self.dim // 2) * math.log(self.couplings.leap.gamma))


class ReversibleNet(HalfAndHalf):
    r"""A volume-preserving reversible network with perceptrons f and g on vectors; see `Reversible`.

    Args:
        dim: numbers in the state, even.
        layers: number of pairs f, g.
        hidden: widths of the hidden layers of f and g. Default: one of dim units.
        activation: elementwise function of the hidden units: a name such as "tanh", an `nn.Module` class or instance, or a
            function.
        bits, recompute: as for `Momentum`.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: dim is odd.
        InputError: layers is less than 1, or the activation is unknown or not elementwise.
    Source: as `Reversible`.

    Example:
        >>> network, x = sx.nn.ReversibleNet(4).double(), torch.randn(4).double()
        >>> torch.allclose(network.inverse(network(x)), x), network.guarantee.log_det
        (True, 0.0)
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
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim)
        f, g = (perceptrons(dim, layers, hidden, activation, device=device, dtype=dtype) for _ in range(2))
        self.couplings = Reversible(f, g, axis=-1, bits=bits, recompute=recompute)

    @property
    def guarantee(self) -> Guarantee:
        """Volume; and a Lipschitz factor, if every module has one."""
        return of_pair(self.couplings, 0.0)


def perceptrons(
    dim: int, layers: int, hidden: Sequence[int] | None, activation: ActivationLike, **factory: Unpack[Factory]
) -> list[nn.Module]:
    """One perceptron per layer, on half of the state."""
    if dim % 2:
        raise ShapeError(f"dim is {dim}; expected an even number, for two equal halves.")
    check_whole("layers", layers, 1)
    widths = (dim,) if hidden is None else hidden
    return [Network(dim // 2, dim // 2, hidden=widths, activation=activation, **factory) for _ in range(layers)]


def joined(first: Tensor, second: Tensor) -> Tensor:
    """The halves of states or tangents, concatenated."""
    return torch.cat([first, second], dim=-1)
