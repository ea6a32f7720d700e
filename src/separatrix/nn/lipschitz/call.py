"""One operator with its arguments by name: numbers where they are known, a place where the network's input arrives."""

from dataclasses import dataclass
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
    """

    shape: tuple[int, ...]
    bound: float


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
    """

    name: str
    op: Any
    values: dict[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def __getitem__(self, name: str) -> Any:
        """An argument; None where the operator has none of that name."""
        return self.values.get(name)

    @property
    def active(self) -> list[Active]:
        """What depends on the network's input, those in lists included."""
        flat = [part for value in self.values.values() for part in (value if isinstance(value, list | tuple) else [value])]
        return [part for part in flat if isinstance(part, Active)]

    @property
    def first(self) -> Any:
        """The first argument: what the operator acts on."""
        return next(iter(self.values.values()))

    def run(self, x: Tensor) -> list[Tensor]:
        """The outputs where the only active argument is x."""
        ready = {name: self._put(value, x) for name, value in self.values.items()}
        given = [ready[a.name] for a in self.op._schema.arguments if not a.kwarg_only]
        named = {a.name: ready[a.name] for a in self.op._schema.arguments if a.kwarg_only}
        found = self.op(*given, **named)
        return [found] if isinstance(found, Tensor) else [part for part in found if isinstance(part, Tensor)]

    def _put(self, value: Any, x: Tensor) -> Any:
        if isinstance(value, Active):
            return x
        return type(value)(self._put(part, x) for part in value) if isinstance(value, list | tuple) else value
