"""Checks of a network's forward passes: they are repeatable, and items of a batch are independent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from separatrix.analysis.depth.hooks import Call
from separatrix.analysis.depth.layers import Layer, depth_of_signal, layers_of
from separatrix.analysis.depth.record import Record, Recorder
from separatrix.core.errors import InputError, ModelError, UnsupportedModuleError
from separatrix.core.system import System
from separatrix.flows.field import Field

TOGETHER = 8  # items per batch that is compared with its items alone
AGREEMENT = 1e-4  # difference allowed between an item alone and in a batch, relative to its largest component: float32 sums

Shapes = dict[Call, torch.Size]


class Recorded(Protocol):
    """A network whose passes can be recorded."""

    recorder: Recorder
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
    """Refuse a model without layers.

    Raises:
        UnsupportedModuleError: the model is a System whose depth is its time, a field, or not a plain module.
        ModelError: the model has uninitialised lazy weights.
    """
    if isinstance(model, System) and not model.layered:
        raise UnsupportedModuleError(
            f"expected a network with layers, got a {type(model).__name__}, a System whose depth is its time.\n"
            "Measure it with sx.finite_time_lyapunov or sx.gradient_propagation, or pass the network itself."
        )
    if isinstance(model, Field):
        raise UnsupportedModuleError(
            f"expected a network with layers, got a {type(model).__name__}, a vector field.\n"
            "Build a system from it with sx.Flow(field, dim, dt)."
        )
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModuleError(f"expected a plain nn.Module with layers, got a {type(model).__name__}.")
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{type(model).__name__} has uninitialised lazy weights.\nCall it once on its inputs.")


def checked_items(network: Recorded, layers: Sequence[Layer], first: Record) -> list[Layer]:
    """The layers, with `trouble` set for those whose output for an item differs between the item alone and in a batch.

    Args:
        network: the network, for further passes.
        layers: layers that the first item passes.
        first: record of the first item.

    Raises:
        InputError: the output mixes items, items pass different numbers of layers, or the model draws at random.
    """
    if network.axis is None or network.items == 1:
        _check_repeats(network, first)
        return list(layers)
    found = _compared(network, layers, first)
    if layers[-1].call in found.mixed | found.parted:
        _check_repeats(network, first)
        raise InputError(
            f"items along axis {network.axis} of the inputs are not independent: the output for an item alone differs from its "
            "output in a batch.\n"
            "Pass the batch axis as batch_axis (sequence first: 1), or batch_axis=None if the inputs are one item."
        )
    if len(found.depths) > 1:
        raise InputError(
            f"the inputs take paths of different depth through {network.model_name}: between {min(found.depths)} and "
            f"{max(found.depths)} layers carry the whole signal.\n"
            "Profile inputs that take the same path."
        )
    trouble = dict.fromkeys(found.parted, "not all inputs pass it in the same way, since the model branches on their values")
    trouble |= dict.fromkeys(found.mixed - found.parted, "its output mixes or reorders the items of the batch")
    return [replace(layer, trouble=layer.trouble or trouble.get(layer.call, "")) for layer in layers]


@dataclass
class _Compared:
    """Depths of the items' signals, calls that not all items pass in the same way, and calls whose output mixes items."""

    depths: set[int]
    parted: set[Call] = field(default_factory=set)
    mixed: set[Call] = field(default_factory=set)


def _compared(network: Recorded, layers: Sequence[Layer], first: Record) -> _Compared:
    """Compare every item alone with the same item in a batch of a few."""
    shapes = {call: value.shape for call, value in first.values().items()}
    found = _Compared({depth_of_signal(layers)})
    for start in range(0, network.items, TOGETHER):
        items = range(start, min(start + TOGETHER, network.items))
        alone = [network.record(slice(i, i + 1)).values() for i in items]
        found.parted |= {call for call in shapes if any(call not in one or one[call].shape != shapes[call] for one in alone)}
        found.depths |= {_depth_alone(network, i) for i, one in zip(items, alone, strict=True) if not _same_path(one, shapes)}
        together = network.record(slice(items.start, items.stop)).values() if len(alone) > 1 else alone[0]
        for call in shapes.keys() - found.parted:
            if call not in together or not _agree([one[call] for one in alone], together[call], network.axis or 0):
                found.mixed.add(call)
    return found


def _depth_alone(network: Recorded, item: int) -> int:
    """Number of layers that carry the whole signal of one item, traced by itself."""
    return depth_of_signal(layers_of(network.trace(slice(item, item + 1)), network.recorder))


def _same_path(values: dict[Call, Tensor], shapes: Shapes) -> bool:
    """Whether an item passes the same calls as the first one."""
    return {call: value.shape for call, value in values.items()} == shapes


def _agree(alone: list[Tensor], together: Tensor, axis: int) -> bool:
    """Whether the outputs of single items, concatenated, equal the output of the batch up to rounding error."""
    if not all(value.ndim > axis and (axis == 0 or value.shape[axis] == 1) for value in alone):
        return False
    joined = torch.cat(alone, dim=axis)
    if joined.shape != together.shape:
        return False
    apart = (joined - together).abs()
    size = together.abs().nan_to_num(0.0).amax().clamp(min=1e-30) if together.numel() else 1.0
    return bool((apart <= AGREEMENT * size).logical_or(~together.isfinite()).all())


def _check_repeats(network: Recorded, first: Record) -> None:
    """Refuse a model that draws at random. It may give the same output twice, so the later passes are compared too."""
    if not _repeats(first, network.record(slice(0, 1))):
        raise draws_at_random()


def draws_at_random() -> InputError:
    """The error for a model of which two passes of the same input differ."""
    return InputError(
        "two forward passes of the same input differ: the model draws at random, even in evaluation mode.\n"
        "Switch the randomness off in evaluation mode: nn.Dropout, or F.dropout(x, p, training=self.training)."
    )


def _repeats(first: Record, again: Record) -> bool:
    """Whether two passes gave the same values, as far as they can be read."""
    pairs = list(zip(first.made, again.made, strict=False))
    readable = [(a.readable, b.readable) for a, b in pairs]
    return len(first.made) == len(again.made) and all(a is None or b is None or torch.equal(a, b) for a, b in readable)
