"""What a recurrent part returns, and the state vector in it: conversion in both directions, for any form of return value."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separatrix.portrait.cells import Form, Path, at, leaves, parts_of, refilled
from separatrix.systems.recurrent.custom_cell import CustomCell, flatten
from separatrix.systems.recurrent.standard_network import StandardNetwork

Network = StandardNetwork | CustomCell


@dataclass(frozen=True)
class Answers:
    """Conversion between the values that a core returns and the state vector in them.

    Args:
        network: the core as a function of its state vector.
        form: how the core is called, if not as (u, state).
    """

    network: Network
    form: Form | None = None

    def state(self, returned: Any) -> Tensor:
        """The state vectors, (items, dim), in a value that the core returned."""
        if self.form is not None:
            state = tuple(at(returned, path) for path in self.form.returned)
        elif isinstance(self.network, CustomCell):
            state = self.network.state_in(returned)
        else:
            state = returned if self.network.is_cell else returned[1]
        parts = state if isinstance(state, tuple) else (state,)
        return self.network.pack(*parts).reshape(-1, self.network.dim)

    def returned(self, x: Tensor, like: Any) -> Any:
        """The value that the core returns in state x, in the form of a recorded return value.

        Raises:
            NotDetermined: it returns more than its state, and the rest is not a function of the state alone.
        """
        parts = flatten(self.network.unpack(x))
        paths = [path for path, _ in leaves(like)]
        own = self.form.returned if self.form is not None else _places(like, self.network)
        recorded = {path: at(like, path) for path in paths}
        made = {path: _shaped(part, recorded[path]) for path, part in zip(own, parts, strict=True)}
        for path in paths:
            if path not in made:
                made[path] = _same_as_one(recorded[path], {p: recorded[p] for p in own}, made, self._batch_axis(path))
        return refilled(like, (), made)

    def _batch_axis(self, path: Path) -> int | None:
        """The batch axis in the outputs of a PyTorch recurrent layer; None for anything else."""
        if isinstance(self.network, CustomCell) or self.network.is_cell or len(path) != 1 or path[0] != "0":
            return None
        return 0 if self.network.batch_first else 1


class NotDetermined(Exception):
    """The state of a core does not determine its return value or its next input."""


def _places(like: Any, network: Network) -> list[Path]:
    """The paths of the state's tensors in the return value of a core of signature (u, state)."""
    place = network.place if isinstance(network, CustomCell) else None if network.is_cell else 1
    if place is None:
        return [path for path, _ in leaves(like)]
    key, part = parts_of(like)[place]
    return [(key, *path) for path, _ in leaves(part)]


def _shaped(part: Tensor, like: Tensor) -> Tensor:
    """A part of the state with the axes of the recorded one: without a batch axis if that had none."""
    return part.reshape(like.shape) if part.ndim != like.ndim else part


def _same_as_one(output: Tensor, recorded: dict[Path, Tensor], made: dict[Path, Tensor], axis: int | None) -> Tensor:
    """An output that equalled a part of the recorded state, or its top layer, rebuilt from the new state."""
    for path, part in recorded.items():
        for of in (_whole, _top):
            if part.ndim and of(part).numel() == output.numel() and torch.equal(of(part).reshape(-1), output.reshape(-1)):
                if axis is not None and output.ndim == 3:
                    return made[path][-1].unsqueeze(1 - axis)
                return _as_output(of(made[path]), of(part), output)
    raise NotDetermined


def _whole(part: Tensor) -> Tensor:
    return part


def _top(part: Tensor) -> Tensor:
    return part[-1]


def _as_output(part: Tensor, recorded: Tensor, output: Tensor) -> Tensor:
    """A part of the state with the additional axes of length 1 that the output had."""
    if recorded.shape == output.shape:
        return part
    rest = [(old, new) for old, new in zip(recorded.shape, part.shape, strict=True) if not old == new == 1]
    shape = [rest.pop(0)[1] if rest and rest[0][0] == size else 1 for size in output.shape]
    if rest:
        raise NotDetermined
    return part.reshape(shape)
