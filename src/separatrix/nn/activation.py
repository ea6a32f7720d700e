"""Activations: one reader for names, modules and functions, and σ together with its slope σ'."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn import functional

from separatrix.core.checks import check_choice
from separatrix.core.errors import InputError

Activation = Callable[[Tensor], Tensor]
ActivationLike = str | type[nn.Module] | Activation

NAMES = (
    "celu",
    "cos",
    "elu",
    "erf",
    "gelu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "logsigmoid",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "sin",
    "softplus",
    "softshrink",
    "softsign",
    "square",
    "tanh",
    "tanhshrink",
)
ACTIVATIONS: dict[str, Activation] = {name: getattr(torch, name, None) or getattr(functional, name) for name in NAMES}
"""Elementwise functions by their names in `torch` or `torch.nn.functional`."""


def as_activation(activation: ActivationLike) -> Activation:
    """The function σ that an `activation` argument stands for.

    Args:
        activation: a name in `ACTIVATIONS` such as "tanh", an `nn.Module` class or instance such as `nn.SiLU`, or a function of
            tensors. A class is built with its defaults.

    Raises:
        InputError: an unknown name, a class that needs arguments, an object that is not callable, or a function that mixes the
            entries of its input: its slopes would not be its derivative.
    """
    if isinstance(activation, str):
        return _named(activation)
    function: Activation = _built(activation) if isinstance(activation, type) else activation
    if not callable(function):
        raise InputError(
            f"expected an activation, got {function!r}.\nPass a name such as 'tanh', a module such as nn.SiLU, or a function."
        )
    if not _is_elementwise(function):
        raise InputError(
            f"expected an elementwise activation; {function} mixes the entries of its input.\n"
            "Pass a function that acts on each number separately, such as torch.tanh."
        )
    return function


def with_slope(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """σ(z) and σ'(z), elementwise; tanh is hot and takes its closed form."""
    if activation is torch.tanh or type(activation) is nn.Tanh:
        value = activation(z)
        return value, 1 - value * value
    return jvp(activation, (z,), (torch.ones_like(z),))[:2]


def _named(name: str) -> Activation:
    check_choice("activation", name, ACTIVATIONS, way_out="Or pass a module such as nn.SiLU, or a function.")
    return ACTIVATIONS[name]


def _built(kind: type[Any]) -> Any:
    if not issubclass(kind, nn.Module):
        raise InputError(f"expected an nn.Module class as activation, got the class {kind.__name__}.\nPass one such as nn.SiLU.")
    try:
        return kind()
    except TypeError as error:
        raise InputError(
            f"{kind.__name__}, passed as activation, cannot be built without arguments: {error}.\nPass an instance."
        ) from error


def _is_elementwise(activation: Activation) -> bool:
    """Whether a vector maps to the same numbers as its entries one by one."""
    weight = next(activation.parameters(), torch.zeros(())) if isinstance(activation, nn.Module) else torch.zeros(())
    z = torch.linspace(-1.5, 1.5, 6).to(weight)
    if z.is_meta:  # built under torch.device("meta"): there are no numbers to compare
        return True
    try:
        with torch.no_grad():
            together, alone = activation(z), torch.stack([activation(number) for number in z])
    except (RuntimeError, ValueError, IndexError):
        return False  # it accepts one shape only
    return together.shape == alone.shape and torch.allclose(together, alone, rtol=1e-4, atol=1e-6)
