"""One operator with its arguments by name: numbers where they are known, a place where the network's input arrives."""

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor


class NoBoundError(Exception):
    """There is no Lipschitz factor of an operator, or none is known; says why."""


@dataclass(frozen=True)
class Active:
    """An argument that depends on the network's input.

    Args:
        shape: of its value.
        bound: of its Lipschitz factor, from the network's input to here.
        dtype: of its value.
    """

    shape: tuple[int, ...]
    bound: float
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True)
class Call:
    """An operator on its arguments.

    Args:
        name: without namespace and overload: "conv2d".
        op: the overload itself.
        values: its arguments by the names in its schema, defaults filled in.
        shape: of its output; of the first, where there are several.
        dtype: of it.
        device: on which it runs.
        jointly: bound of all that depends on the input together, where it is known.
    """

    name: str
    op: Any
    values: dict[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    jointly: float = inf

    def __getitem__(self, name: str) -> Any:
        """An argument; None where the operator has none of that name."""
        return self.values.get(name)

    @property
    def first(self) -> Any:
        """The first argument: what most operators act on."""
        return next(iter(self.values.values()))

    @property
    def active(self) -> list[Active]:
        """What depends on the network's input, those in lists included."""
        return [part for _, part in self._parts() if isinstance(part, Active)]

    @property
    def active_names(self) -> list[str]:
        """The names of the arguments that depend on the network's input, one for each of `active`."""
        return [name for name, part in self._parts() if isinstance(part, Active)]

    @property
    def held(self) -> list[Tensor]:
        """The tensors that do not depend on the input."""
        return [part for _, part in self._parts() if isinstance(part, Tensor)]

    @property
    def is_complex(self) -> bool:
        """Whether complex numbers go in or come out."""
        return self.dtype.is_complex or any(part.dtype.is_complex for part in self.active)

    def alone(self, number: int) -> "Call":
        """The same where only one of `active` depends on the input; zeros are in the place of the others."""
        kept = self.active[number]

        def still(part: Any) -> Any:
            if isinstance(part, Active) and part is not kept:
                return torch.zeros(part.shape, dtype=part.dtype, device=self.device)
            return [still(one) for one in part] if isinstance(part, list | tuple) else part

        return replace(self, values={name: still(value) for name, value in self.values.items()})

    def in_double(self) -> "Call":
        """The same in float64, however coarse the numbers that it holds."""

        def wide(part: Any) -> Any:
            if isinstance(part, Tensor) and (part.is_floating_point() or part.is_complex()):
                return part.detach().to(torch.complex128 if part.is_complex() else torch.float64)
            if isinstance(part, torch.dtype) and part.is_floating_point:
                return torch.float64
            return [wide(one) for one in part] if isinstance(part, list | tuple) else part

        return replace(self, values={name: wide(value) for name, value in self.values.items()})

    def run(self, x: Tensor) -> list[Tensor]:
        """The outputs where the only active argument is x."""
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
