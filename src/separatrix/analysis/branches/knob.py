"""The number that is varied: a parameter, one element of an array, or the distance that an array is moved along a direction."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separatrix.core.checks import as_numbers, check_number
from separatrix.core.errors import InputError
from separatrix.core.evolve import check_system_type
from separatrix.core.parametric import Number, Parametric, place_of
from separatrix.core.system import System


@dataclass(frozen=True)
class Knob:
    """A scalar parameter of a system:  p ↦ system.at(parameter=p), or  array + p d  along a direction d.

    Args:
        parameter: a name that `System.at` accepts.
        direction: direction d, if the parameter is an array.
        base: the array at p = 0.
    """

    parameter: str
    direction: Tensor | None = None
    base: Tensor | None = None

    def set(self, system: System, value: Number) -> System:
        """The system at a value, or at a batch of values."""
        if self.direction is None or self.base is None:
            return system.at(**{self.parameter: value})
        direction, amount = self.direction, torch.as_tensor(value, device=self.base.device)
        moved = amount.reshape(*amount.shape, *[1] * direction.ndim) * direction.to(self.base)
        return system.at(**{self.parameter: self.base + moved})

    @property
    def settings(self) -> dict[str, Any]:
        """Entries for the settings of a result."""
        return {} if self.direction is None else {"direction": self.direction.tolist()}


def knob_of(system: System, parameter: str, direction: object = None) -> Knob:
    """The knob of a parameter's name and a direction; refuses an unknown name, and an array without a direction."""
    check_system_type(system)
    name, index = place_of(parameter) if isinstance(parameter, str) else (parameter, None)
    if name not in system.parameter_names:
        known = ", ".join(system.parameter_names) or "none"
        raise InputError(f"{type(system).__name__} has no parameter {name!r}; its parameters are: {known}.")
    rank, value = next(found for part in system.modules() if (found := _held(part, name)) is not None)
    array = value if rank and isinstance(value, Tensor) else None
    if array is None or index is not None:
        if direction is not None:
            raise InputError(f"the parameter {parameter!r} is a number and takes no direction.\nOmit direction.")
        if index is not None:
            system.at(**{parameter: 0.0})  # refuses an index out of range
        return Knob(parameter)
    shape = tuple(array.shape[array.ndim - rank :])
    if direction is None:
        raise InputError(
            f"expected a scalar parameter, got {name!r}, an array of shape {shape}.\n"
            f"Name one of its elements, {name}[{','.join('0' * rank)}], or pass direction=, an array of that shape."
        )
    along = as_numbers("direction", direction)
    if tuple(along.shape) != shape:
        raise InputError(f"expected a direction of shape {shape} for the parameter {name!r}, got {tuple(along.shape)}.")
    if not torch.isfinite(along).all() or not along.any():
        kind = "zeros" if torch.isfinite(along).all() else "numbers that are not finite"
        raise InputError(f"expected a finite direction other than 0 for {name!r}, got {kind}.")
    return Knob(parameter, along.to(array.device), array.to(along.dtype))


def _held(part: object, name: str) -> tuple[int, Any] | None:
    """The number of axes of a parameter without its batch axes, and its value; None if the module has no such parameter."""
    return (part._ranks[name], getattr(part, name)) if isinstance(part, Parametric) and name in part._ranks else None


def check_range(parameter: str, low: float, high: float) -> None:
    """Refuse a range that is empty or infinite."""
    for end in (low, high):
        check_number(f"an end of the range of {parameter}", end)
    if low == high:
        raise InputError(f"expected two different numbers as the range of {parameter}, got {low} … {high}.")
