"""The functions between the linear layers of a block, by name."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp

from separatrix.errors import InputError

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": nn.functional.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "softplus": nn.functional.softplus,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
}


def activation_of(name: str | Activation) -> Activation:
    """The function of a name in `ACTIVATIONS`; any other that acts on each number alone is used as it is."""
    if callable(name):
        return name
    if name not in ACTIVATIONS:
        raise InputError(
            f"there is no activation {name!r}.\nChoose one of {', '.join(ACTIVATIONS)}, or pass a function of tensors."
        )
    return ACTIVATIONS[name]


def with_slope(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """σ(z) and σ'(z), each number by itself."""
    return jvp(activation, (z,), (torch.ones_like(z),))[:2]
