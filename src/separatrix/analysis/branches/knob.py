"""The number that is varied: a parameter, one number of an array, or how far an array is moved along a direction."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from separatrix.core.checks import as_numbers
from separatrix.core.errors import InputError
from separatrix.core.evolve import check_system_type
from separatrix.core.parametric import Number, Parametric, place_of
from separatrix.core.system import System


@dataclass(frozen=True)
class Knob:
    """What one number sets in a system.

    Args:
        parameter: a name that `System.at` accepts.
        direction: where that is an array, the way in which it is moved.
        base: the array at 0.
    """

    parameter: str
    direction: Tensor | None = None
    base: Tensor | None = None

    def set(self, system: System, value: Number) -> System:
        """The system at a value, which may be a batch of them."""
        if self.direction is None or self.base is None:
            return system.at(**{self.parameter: value})
        direction, amount = self.direction, torch.as_tensor(value, device=self.base.device)
        moved = amount.reshape(*amount.shape, *[1] * direction.ndim) * direction.to(self.base)
        return system.at(**{self.parameter: self.base + moved})

    @property
    def settings(self) -> dict[str, Any]:
        """What it adds to a result's settings."""
        return {} if self.direction is None else {"direction": self.direction.tolist()}


def knob_of(system: System, parameter: str, direction: object = None) -> Knob:
    """What a parameter's name, and a direction, stand for; refuses what the system does not have, or what is no single number."""
    check_system_type(system)
    name, index = place_of(parameter) if isinstance(parameter, str) else (parameter, None)
    if name not in system.parameter_names:
        known = ", ".join(system.parameter_names) or "none"
        raise InputError(f"{type(system).__name__} has no parameter {name!r}; it has: {known}.")
    rank, value = next(found for part in system.modules() if (found := _held(part, name)) is not None)
    array = value if rank and isinstance(value, Tensor) else None
    if array is None or index is not None:
        if direction is not None:
            raise InputError(f"the parameter {parameter!r} is a number, which has no direction.\nLeave direction out.")
        if index is not None:
            system.at(**{parameter: 0.0})  # refuses a place that there is not
        return Knob(parameter)
    shape = tuple(array.shape[array.ndim - rank :])
    if direction is None:
        raise InputError(
            f"the parameter {name!r} is an array of shape {shape}, and what is varied is a number.\n"
            f"Name one of its numbers, {name}[{','.join('0' * rank)}], or pass direction=, the way in which all of it moves."
        )
    along = as_numbers("direction", direction)
    if tuple(along.shape) != shape:
        raise InputError(f"direction has shape {tuple(along.shape)}, but the parameter {name!r} is an array of shape {shape}.")
    if not torch.isfinite(along).all() or not along.any():
        raise InputError(f"the direction of {name!r} must be finite, and not zeros alone.\nPass the way in which it is to move.")
    return Knob(parameter, along.to(array.device), array.to(along.dtype))


def _held(part: object, name: str) -> tuple[int, Any] | None:
    """How many axes of its own a parameter has, and its value; None where a module has none of that name."""
    return (part._ranks[name], getattr(part, name)) if isinstance(part, Parametric) and name in part._ranks else None


def check_range(parameter: str, low: float, high: float) -> None:
    """Refuse a range that has no length or no end."""
    if not (isinstance(low, Real) and isinstance(high, Real)):
        raise InputError(f"{parameter} was to go from {low!r} to {high!r}; both ends must be numbers.")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{parameter} was to go from {low} to {high}; both ends must be finite numbers.")
    if low == high:
        raise InputError(f"{parameter} was to go from {low} to {high}, which are equal: there is nothing to vary.")
