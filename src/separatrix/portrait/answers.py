"""What a recurrent part returns, and the state in it: from one to the other, for whatever form it returns it in."""

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
    """What a core returns, and the state vector in it.

    Args:
        network: the core as a function of its state vector.
        form: how the core is called, where that is not (u, state).
    """

    network: Network
    form: Form | None = None

    def state(self, returned: Any) -> Tensor:
        """The state vectors, (items, dim), in what the core returned."""
        if self.form is not None:
            state = tuple(at(returned, path) for path in self.form.returned)
        elif isinstance(self.network, CustomCell):
            state = self.network.state_in(returned)
        else:
            state = returned if self.network.is_cell else returned[1]
        parts = state if isinstance(state, tuple) else (state,)
        return self.network.pack(*parts).reshape(-1, self.network.dim)

    def returned(self, x: Tensor, like: Any) -> Any:
        """What the core returns in state x, in the form of something that it returned.

        Raises:
            NotTold: it returns more than its state, which nobody can tell of the state alone.
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
        """Where a recurrent layer of PyTorch's has the batch in its outputs; None of anything else."""
        if isinstance(self.network, CustomCell) or self.network.is_cell or len(path) != 1 or path[0] != "0":
            return None
        return 0 if self.network.batch_first else 1


class NotTold(Exception):
    """What a core returns or is given cannot be made of its state."""


def _places(like: Any, network: Network) -> list[Path]:
    """Where the state's tensors are in what a core of signature (u, state) returned."""
    place = network.place if isinstance(network, CustomCell) else None if network.is_cell else 1
    if place is None:
        return [path for path, _ in leaves(like)]
    key, part = parts_of(like)[place]
    return [(key, *path) for path, _ in leaves(part)]


def _shaped(part: Tensor, like: Tensor) -> Tensor:
    """A part of the state with the axes that the recorded one had: no batch axis where there was none."""
    return part.reshape(like.shape) if part.ndim != like.ndim else part


def _same_as_one(output: Tensor, recorded: dict[Path, Tensor], made: dict[Path, Tensor], axis: int | None) -> Tensor:
    """An output that was a part of the state, number for number, made of the new state; the top layer's counts as a part."""
    for path, part in recorded.items():
        for of in (_whole, _top):
            if part.ndim and of(part).numel() == output.numel() and torch.equal(of(part).reshape(-1), output.reshape(-1)):
                if axis is not None and output.ndim == 3:
                    return made[path][-1].unsqueeze(1 - axis)
                return _as_output(of(made[path]), of(part), output)
    raise NotTold


def _whole(part: Tensor) -> Tensor:
    return part


def _top(part: Tensor) -> Tensor:
    return part[-1]


def _as_output(part: Tensor, recorded: Tensor, output: Tensor) -> Tensor:
    """A part of the state with the axes of length 1 that the output had beside those of the recorded part."""
    if recorded.shape == output.shape:
        return part
    rest = [(old, new) for old, new in zip(recorded.shape, part.shape, strict=True) if not old == new == 1]
    shape = [rest.pop(0)[1] if rest and rest[0][0] == size else 1 for size in output.shape]
    if rest:
        raise NotTold
    return part.reshape(shape)
