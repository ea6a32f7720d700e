"""One operator with its arguments by name: known values, or placeholders for values that depend on the network's input."""

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from separatrix.bounds.operator_norm.proof import TIGHT, Effort

DRAWS = "it draws random numbers, even in evaluation mode"


class NoBoundError(Exception):
    """An operator has no Lipschitz factor, or none is known; the message is the reason."""


@dataclass(frozen=True)
class Active:
    """Argument that depends on the network's input.

    Args:
        shape: shape of its value.
        bound: bound of the Lipschitz factor from the network's input to this argument.
        dtype: dtype of its value.
    """

    shape: tuple[int, ...]
    bound: float
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True)
class Call:
    """Operator with its arguments.

    Args:
        name: name without namespace and overload: "conv2d".
        op: the overload.
        values: its arguments by the names in its schema, including defaults.
        shape: shape of its output, or of the first of several.
        dtype: dtype of that output.
        device: device on which it runs.
        jointly: joint bound of all arguments that depend on the input, if it is known.
        effort: what the proof of a norm may cost, and how tight it need be.
    """

    name: str
    op: Any
    values: dict[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    jointly: float = inf
    effort: Effort = TIGHT

    def __getitem__(self, name: str) -> Any:
        """An argument; None if the operator has none of that name."""
        return self.values.get(name)

    @property
    def first(self) -> Any:
        """The first argument, on which most operators act."""
        return next(iter(self.values.values()))

    @property
    def active(self) -> list[Active]:
        """The arguments that depend on the network's input, including those in lists."""
        return [part for _, part in self._parts() if isinstance(part, Active)]

    @property
    def active_names(self) -> list[str]:
        """The name of each argument in `active`."""
        return [name for name, part in self._parts() if isinstance(part, Active)]

    @property
    def held(self) -> list[Tensor]:
        """The tensors that do not depend on the input."""
        return [part for _, part in self._parts() if isinstance(part, Tensor)]

    @property
    def is_complex(self) -> bool:
        """Whether an input or the output is complex."""
        return self.dtype.is_complex or any(part.dtype.is_complex for part in self.active)

    def alone(self, number: int) -> "Call":
        """The same call in which only one of `active` depends on the input; the others are replaced by zeros."""
        kept = self.active[number]

        def still(part: Any) -> Any:
            if isinstance(part, Active) and part is not kept:
                return torch.zeros(part.shape, dtype=part.dtype, device=self.device)
            return [still(one) for one in part] if isinstance(part, list | tuple) else part

        return replace(self, values={name: still(value) for name, value in self.values.items()})

    def in_double(self) -> "Call":
        """The same call in float64, whatever the precision of the numbers that it holds."""

        def wide(part: Any) -> Any:
            if isinstance(part, Tensor) and (part.is_floating_point() or part.is_complex()):
                return part.detach().to(torch.complex128 if part.is_complex() else torch.float64)
            if isinstance(part, torch.dtype) and part.is_floating_point:
                return torch.float64
            return [wide(one) for one in part] if isinstance(part, list | tuple) else part

        return replace(self, values={name: wide(value) for name, value in self.values.items()})

    def run(self, x: Tensor) -> list[Tensor]:
        """The outputs for the only active argument x."""
        ready = {name: self._put(value, x) for name, value in self.values.items()}
        given = [ready[a.name] for a in self.op._schema.arguments if not a.kwarg_only]
        named = {a.name: ready[a.name] for a in self.op._schema.arguments if a.kwarg_only}
        found = self.op(*given, **named)
        return [found] if isinstance(found, Tensor) else [part for part in found if isinstance(part, Tensor)]

    def _parts(self) -> list[tuple[str, Any]]:
        named = self.values.items()
        return [(name, part) for name, value in named for part in (value if isinstance(value, list | tuple) else [value])]

    def _put(self, value: Any, x: Tensor) -> Any:
        if isinstance(value, Active):
            return x
        return type(value)(self._put(part, x) for part in value) if isinstance(value, list | tuple) else value
