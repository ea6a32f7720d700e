"""What the records of a network's passes must agree on: repeated, they are the same; and items are independent of each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from separatrix.analysis.depth.hooks import Call
from separatrix.analysis.depth.layers import Layer, depth_of_signal, layers_of
from separatrix.analysis.depth.record import Record
from separatrix.core.errors import InputError, ModelError, UnsupportedModuleError
from separatrix.core.system import System
from separatrix.flows.field import Field

TOGETHER = 8  # items that are held against each of them alone
TRIES = 3  # passes in which a model that draws at random may still make the same
AGREEMENT = 1e-4  # by which an item alone may differ from the same item in a batch, relative to its largest number: float32's sums

Shapes = dict[Call, torch.Size]


class Recorded(Protocol):
    """A network whose passes can be recorded."""

    model_name: str
    axis: int | None
    items: int

    def record(self, items: slice) -> Record:
        """A pass of some items, without a graph."""
        ...

    def trace(self, items: slice) -> Record:
        """A pass of some items with its graph."""
        ...


def check_model(model: object) -> None:
    """Refuse what has no layers that can be told apart.

    Raises:
        UnsupportedModuleError: a System whose depth is its time, a field, or no plain module.
        ModelError: weights without a shape yet.
    """
    if isinstance(model, System) and not model.layered:
        raise UnsupportedModuleError(
            f"a {type(model).__name__} is a System: its depth is its time.\nMeasure it with sx.finite_time_lyapunov or "
            "sx.gradient_propagation, or pass the network itself."
        )
    if isinstance(model, Field):
        raise UnsupportedModuleError(
            f"a {type(model).__name__} is a field, a velocity at each state, and no step.\n"
            "Follow it: sx.Flow(field, dim, dt) is a system."
        )
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModuleError(f"a {type(model).__name__} is no plain nn.Module, so its layers cannot be told apart.")
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{type(model).__name__} has weights without a shape yet.\nCall it once on its inputs.")


def checked_items(network: Recorded, layers: Sequence[Layer], first: Record) -> list[Layer]:
    """The layers, those with their trouble that mix items: each item alone must give what it gives beside others, in its place.

    Args:
        network: whose further passes are recorded.
        layers: of its first item.
        first: the record of that item.

    Raises:
        InputError: the output mixes items, items pass layers of another number, or the model draws at random.
    """
    if network.axis is None or network.items == 1:
        _check_repeats(network, first)
        return list(layers)
    found = _compared(network, layers, first)
    if layers[-1].call in found.mixed | found.parted:
        _check_repeats(network, first)
        raise InputError(
            f"the items along axis {network.axis} of the inputs are not independent: an item alone gives another output than "
            "beside another one.\n"
            "Say with batch_axis where items lie (sequence first: 1), or batch_axis=None where the inputs are one item."
        )
    if len(found.depths) > 1:
        raise InputError(
            f"the inputs take ways of different depth through {network.model_name}: between {min(found.depths)} and "
            f"{max(found.depths)} layers carry the whole signal, so there is no common depth.\n"
            "Profile inputs that take the same way."
        )
    trouble = dict.fromkeys(found.parted, "not all inputs pass it alike: the model chooses the way by the numbers")
    trouble |= dict.fromkeys(found.mixed - found.parted, "its output mixes the items of the batch, or has them in another order")
    return [replace(layer, trouble=layer.trouble or trouble.get(layer.call, "")) for layer in layers]


@dataclass
class _Compared:
    """Calls that not all items pass alike, calls whose output mixes items, and the depths that the items' signals have."""

    depths: set[int]
    parted: set[Call] = field(default_factory=set)
    mixed: set[Call] = field(default_factory=set)


def _compared(network: Recorded, layers: Sequence[Layer], first: Record) -> _Compared:
    """Every item alone, held against the same beside a few others."""
    shapes = {call: value.shape for call, value in first.values().items()}
    found = _Compared({depth_of_signal(layers)})
    for start in range(0, network.items, TOGETHER):
        items = range(start, min(start + TOGETHER, network.items))
        alone = [network.record(slice(i, i + 1)).values() for i in items]
        found.parted |= {call for call in shapes if any(call not in one or one[call].shape != shapes[call] for one in alone)}
        found.depths |= {_depth_alone(network, i) for i, one in zip(items, alone, strict=True) if not _same_way(one, shapes)}
        together = network.record(slice(items.start, items.stop)).values() if len(alone) > 1 else alone[0]
        for call in shapes.keys() - found.parted:
            if call not in together or not _agree([one[call] for one in alone], together[call], network.axis or 0):
                found.mixed.add(call)
    return found


def _depth_alone(network: Recorded, item: int) -> int:
    """How many layers carry the whole signal of one item, whose way through the model is its own."""
    return depth_of_signal(layers_of(network.trace(slice(item, item + 1))))


def _same_way(values: dict[Call, Tensor], shapes: Shapes) -> bool:
    """Whether an item passes the same calls as the first one."""
    return {call: value.shape for call, value in values.items()} == shapes


def _agree(alone: list[Tensor], together: Tensor, axis: int) -> bool:
    """Whether items side by side are the same as together, up to rounding."""
    if not all(value.ndim > axis and (axis == 0 or value.shape[axis] == 1) for value in alone):
        return False
    joined = torch.cat(alone, dim=axis)
    if joined.shape != together.shape:
        return False
    apart = (joined - together).abs()
    size = together.abs().nan_to_num(0.0).amax().clamp(min=1e-30) if together.numel() else 1.0
    return bool((apart <= AGREEMENT * size).logical_or(~together.isfinite()).all())


def _check_repeats(network: Recorded, first: Record) -> None:
    """Refuse a model that draws at random."""
    if not all(_repeats(first, network.trace(slice(0, 1))) for _ in range(TRIES)):
        raise InputError(
            "two forward passes of the same input differ: the model draws at random, even in evaluation mode.\n"
            "Take the draws out: F.dropout(x, p, training=self.training), or nn.Dropout."
        )


def _repeats(first: Record, again: Record) -> bool:
    """Whether another pass made the same; what cannot be looked at counts as the same."""
    pairs = list(zip(first.made, again.made, strict=False))
    readable = [(a.readable, b.readable) for a, b in pairs]
    return len(first.made) == len(again.made) and all(a is None or b is None or torch.equal(a, b) for a, b in readable)
