"""Numbers, counts and seeds passed by a user: read, or refused with a message."""

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from separatrix.core.errors import InputError


def check_whole(name: str, value: Any) -> int:
    """A whole number as a Python int; refuses anything else."""
    if not isinstance(value, Integral):
        raise InputError(f"{name} is {value!r}, a {type(value).__name__}; it must be a whole number.")
    return int(value)


def check_seed(seed: Any) -> int:
    """A seed as a Python int; refuses numbers that cannot seed every generator in use."""
    if isinstance(seed, bool) or not 0 <= check_whole("seed", seed) < 2**63:
        raise InputError(f"seed is {seed}; it is a whole number from 0 to 2**63 − 1.")
    return int(seed)


def check_dt(dt: Any) -> float:
    """A time step as a Python number; refuses anything but a positive number."""
    if isinstance(dt, bool) or not isinstance(dt, Real) or not 0 < dt < float("inf"):
        raise InputError(f"dt is {dt!r}; the time that one step takes is a positive number.")
    return float(dt)


def as_numbers(name: str, values: Any) -> Tensor:
    """Real numbers as a float64 tensor."""
    if isinstance(values, Tensor) and values.is_complex():
        raise InputError(
            f"{name} is {str(values.dtype).removeprefix('torch.')}, but real numbers are asked for.\n"
            f"Pass torch.view_as_real({name}).flatten(-2), the real and imaginary parts, if it is a state; else its real part."
        )
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers: {str(error).splitlines()[0]}") from None
