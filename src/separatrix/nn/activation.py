"""The functions between the linear layers of a block, with their slopes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp

from separatrix.core.errors import InputError

Activation = Callable[[Tensor], Tensor]


def with_slope(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """σ(z) and σ'(z), each number by itself; that of tanh without AD, because it is hot."""
    if activation is torch.tanh:
        value = torch.tanh(z)
        return value, 1 - value * value
    return jvp(activation, (z,), (torch.ones_like(z),))[:2]


def check_elementwise(activation: Activation) -> None:
    """Refuse what is no function, or one that mixes the numbers it is given: its slopes would not be its derivative."""
    if not callable(activation) or isinstance(activation, type):
        raise InputError(f"an activation is a function of tensors, not {activation!r}.\nPass one such as torch.tanh or nn.SiLU().")
    if not _same_alone(activation):
        raise InputError(
            f"the activation {activation} mixes the numbers it is given, and has no slope at each.\n"
            "Pass a function of each number on its own, such as torch.tanh."
        )


def _same_alone(activation: Activation) -> bool:
    """Whether numbers come out together as they do one by one."""
    weight = next(activation.parameters(), torch.zeros(())) if isinstance(activation, nn.Module) else torch.zeros(())
    z = torch.linspace(-1.5, 1.5, 6).to(weight)
    if z.is_meta:  # made under torch.device("meta"): there are no numbers to compare
        return True
    try:
        with torch.no_grad():
            together, alone = activation(z), torch.stack([activation(number) for number in z])
    except (RuntimeError, ValueError, IndexError):
        return False  # it takes numbers of one shape alone
    return together.shape == alone.shape and torch.allclose(together, alone, rtol=1e-4, atol=1e-6)
