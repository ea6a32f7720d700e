"""Shifts: the functions by which a shear moves part of a state, with closed-form tangents."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.func import grad

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.tangent import pushforward
from separatrix.nn.activation import ActivationLike, as_activation, with_slope
from separatrix.nn.energy import Ridges
from separatrix.nn.factory import Factory


class Shift(nn.Module):
    """A function z ↦ s(z), shape (*batch, inputs) → (*batch, outputs)."""

    def pushforward(self, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """s(z) and Ds(z) v for tangents v, shape (*batch, k, inputs)."""
        raise NotImplementedError(f"{type(self).__name__} must define pushforward(z, v).")


class Network(Shift):
    """A perceptron  z ↦ C Σ(… Σ(Az + a) …) + c;  without hidden layers  z ↦ Σ(Az + a).

    Args:
        inputs, outputs: numbers in z and in s(z).
        hidden: widths of the hidden layers.
        activation: Σ, elementwise.
        factory: device and dtype of the weights.
    """

    def __init__(
        self, inputs: int, outputs: int, *, hidden: Sequence[int], activation: ActivationLike, **factory: Unpack[Factory]
    ) -> None:
        super().__init__()
        if isinstance(hidden, int):
            raise InputError(f"hidden is {hidden}; expected the widths of all hidden layers.\nPass ({hidden},) for a single one.")
        for width in hidden:
            check_whole("a width of hidden", width, 1, error=ShapeError)
        self.layers = nn.ModuleList(nn.Linear(a, b, **factory) for a, b in pairwise((inputs, *hidden, outputs)))
        self.activation = as_activation(activation)
        self.active = max(1, len(hidden))  # number of layers followed by Σ

    def forward(self, z: Tensor) -> Tensor:
        """s(z)."""
        for i, layer in enumerate(self.layers):
            z = self.activation(layer(z)) if i < self.active else layer(z)
        return z

    def pushforward(self, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """s(z) and Ds(z) v, layer by layer."""
        for i, layer in enumerate(self.layers):
            z, v = layer(z), v @ layer.weight.mT
            if i < self.active:
                z, slope = with_slope(self.activation, z)
                v = v * slope[..., None, :]
        return z, v


class OfRidges(Shift):
    r"""The gradient  ∇V(z) = Kᵀ diag(a) σ(Kz + b)  of the potential  V(z) = Σ_j a_j S((Kz + b)_j),  S' = σ.

    Args:
        size: numbers in z.
        hidden: rows of K.
        activation: σ, elementwise.
        factory: device and dtype of the weights.
    """

    def __init__(self, size: int, *, hidden: int, activation: ActivationLike, **factory: Unpack[Factory]) -> None:
        super().__init__()
        check_whole("hidden", hidden, 1, error=ShapeError)
        self.K = nn.Parameter(torch.empty(hidden, size, **factory))
        self.a, self.b = (nn.Parameter(torch.empty(hidden, **factory)) for _ in range(2))
        self.activation = as_activation(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """K and b as in `nn.Linear(size, hidden)`, a as the weights of `nn.Linear(hidden, 1)`."""
        hidden, size = self.K.shape
        for parameter, fan in ((self.K, size), (self.b, size), (self.a, hidden)):
            nn.init.uniform_(parameter, -(fan**-0.5), fan**-0.5)

    def forward(self, z: Tensor) -> Tensor:
        """The gradient."""
        return Ridges(self.K, self.b, self.a).gradient(z, self.activation)

    def pushforward(self, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient, and the Hessian  Kᵀ diag(a σ') K  applied to v."""
        return Ridges(self.K, self.b, self.a).pushforward(z, v, self.activation)


class OfPotential(Shift):
    """The gradient ∇V of any scalar module V, by reverse AD.

    Args:
        potential: V, (…, size) → (…, 1).
    """

    def __init__(self, potential: nn.Module) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, z: Tensor) -> Tensor:
        """The gradient."""
        return grad(lambda y: self.potential(y).sum())(z)

    def pushforward(self, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient, and the Hessian applied to v by forward-over-reverse AD."""
        return pushforward(self, z, v)


class Scaled(Shift):
    """The gradient  z ↦ a σ(z)  of the potential  Σ_i a_i S(z_i),  S' = σ.

    Args:
        size: numbers in z.
        activation: σ, elementwise.
        factory: device and dtype of the weights.
    """

    def __init__(self, size: int, *, activation: ActivationLike, **factory: Unpack[Factory]) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(size, **factory))
        self.activation = as_activation(activation)
        nn.init.uniform_(self.a, -1, 1)

    def forward(self, z: Tensor) -> Tensor:
        """The gradient."""
        return self.a * self.activation(z)

    def pushforward(self, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient, and the diagonal Hessian applied to v."""
        value, slope = with_slope(self.activation, z)
        return self.a * value, v * (self.a * slope)[..., None, :]


class Symmetric(Shift):
    """The gradient  z ↦ Sz  of the potential  ½ zᵀSz,  with S = (A + Aᵀ)/2.

    Args:
        size: numbers in z.
        factory: device and dtype of the weights.
    """

    def __init__(self, size: int, **factory: Unpack[Factory]) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(size, size, **factory))
        nn.init.uniform_(self.A, -1 / size, 1 / size)

    def forward(self, z: Tensor) -> Tensor:
        """The gradient, also for tangents."""
        return z @ (self.A + self.A.mT) / 2

    def pushforward(self, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient; it is linear, so the same on tangents."""
        return self(z), self(v)


def shifted_along(shift: nn.Module, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """s(z) and Ds(z) v: in closed form for a `Shift`, by forward AD for any other module."""
    return shift.pushforward(z, v) if isinstance(shift, Shift) else pushforward(shift, z, v)
