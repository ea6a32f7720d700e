"""Reading what a user gave as numbers."""

from typing import Any

import torch
from torch import Tensor

from separatrix.core.errors import InputError


def as_numbers(values: Any, name: str = "the inputs") -> Tensor:
    """A tensor of what a user gave: tensor, array or nested list of numbers.

    Raises:
        InputError: it holds text or objects.
    """
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers: {str(error).splitlines()[0]}") from None


def as_inputs(values: Any, name: str = "the inputs") -> Tensor:
    """A floating-point tensor of finite numbers, of what a user gave (tensor, array or nested list).

    Raises:
        InputError: it holds text, objects, complex numbers, or numbers that are not finite.
    """
    tensor = as_numbers(values, name)
    if tensor.is_complex():
        raise InputError(f"{name} are {tensor.dtype}, but a network's inputs are real numbers.")
    if not tensor.is_floating_point():
        tensor = tensor.double()
    check_all_finite(tensor, name)
    return tensor


def check_all_finite(tensor: Tensor, name: str, verb: str = "have") -> None:
    """Refuse a tensor with numbers that are not finite.

    Raises:
        InputError: it names how many there are, and the first.
    """
    finite = torch.isfinite(tensor)
    if not finite.all():
        where, count = (~finite).nonzero()[0].tolist(), int((~finite).sum())
        raise InputError(
            f"{name} {verb} {count} numbers out of {tensor.numel()} that are not finite, the first at {where}.\n"
            "Clean them first (numpy.nan_to_num, or drop the sequence): a NaN would spread over the whole run."
        )
