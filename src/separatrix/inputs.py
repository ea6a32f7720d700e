"""Reading what a user gave as numbers."""

from typing import Any

import torch
from torch import Tensor

from separatrix.errors import InputError


def as_inputs(values: Any, name: str = "the inputs") -> Tensor:
    """A floating-point tensor of finite numbers, of what a user gave (tensor, array or nested list).

    Raises:
        InputError: it holds text, objects, complex numbers, or numbers that are not finite.
    """
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers: {str(error).splitlines()[0]}") from None
    if tensor.is_complex():
        raise InputError(f"{name} are {tensor.dtype}, but a network's inputs are real numbers.")
    if not tensor.is_floating_point():
        tensor = tensor.double()
    finite = torch.isfinite(tensor)
    if not finite.all():
        where = tuple((~finite).nonzero()[0].tolist())
        raise InputError(
            f"{name} have {int((~finite).sum())} numbers out of {tensor.numel()} that are not finite, the first at {list(where)}.\n"
            "Clean them first (numpy.nan_to_num, or drop the sequence): a NaN would spread over the whole run."
        )
    return tensor
