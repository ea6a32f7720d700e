"""The source of the Jacobians of a network: one of its arguments, or the output of a layer."""

import difflib
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.analysis.depth.hooks import Call
from separatrix.analysis.depth.record import Made, Record, Recorder
from separatrix.core.errors import InputError, ShapeError


@dataclass(frozen=True)
class Source:
    """The variable of the Jacobians.

    Args:
        rows: one row per item, (items, dim).
        shape: shape of one item.
        axis: batch axis, None for a single item.
        call: layer whose output it is; None if it is an argument.
        index: index of that argument; −1 if it is a layer's output.
    """

    rows: Tensor
    shape: torch.Size
    axis: int | None
    call: Call | None
    index: int

    def shaped(self, z: Tensor) -> Tensor:
        """A copy of the rows in the model's shape; a copy because the model may write to its input."""
        if self.axis is None:
            return z.reshape(self.shape).clone()
        return z.reshape(len(z), *self.shape).movedim(0, self.axis).clone()


def find_source(recorder: Recorder, origin: str | None) -> Source:
    """The layer of that name; or the first floating-point argument; or the first layer with a floating-point output."""
    if origin is not None:
        return _at_layer(recorder, _named(recorder, origin), None)
    places = [i for i, argument in enumerate(recorder.arguments) if argument.is_floating_point()]
    if places:
        return _of_value(recorder, recorder.arguments[places[0]], None, places[0])
    record = recorder.plain(until=lambda one: one.value is not None and bool(one.call[0]) and _looks_up(one, recorder.arguments))
    made = [one for one in record.made if one.value is not None and one.call[0]]
    found = next((one for one in made if _looks_up(one, recorder.arguments)), None) or next(iter(made), None)
    if found is None:
        raise InputError(
            "the inputs are whole numbers, and no layer turns them into floating-point numbers.\n"
            "Pass floating-point inputs, or the name of the layer at whose output the profile starts as origin."
        )
    return _at_layer(recorder, found.call, record)


def _named(recorder: Recorder, origin: str) -> Call:
    if origin not in recorder.kinds:
        names = recorder.names
        near = difflib.get_close_matches(origin, names, n=5, cutoff=0.3) or names[:8]
        raise InputError(f"origin is {origin!r}, but {recorder.model_name} has no such layer.\nNearest: {', '.join(near)}.")
    return origin, 1


def _looks_up(made: Made, arguments: list[Tensor]) -> bool:
    """Whether the argument of a layer is one of the model's arguments."""
    return made.tokens is not None and any(torch.equal(argument, made.tokens) for argument in arguments)


def _at_layer(recorder: Recorder, call: Call, record: Record | None) -> Source:
    """A layer's output as the source."""
    made = (recorder.plain() if record is None else record).made
    value = {one.call: one.value for one in made}.get(call)
    if value is None:
        raise InputError(
            f"origin is {call[0]!r}, but that layer is not reached or returns no floating-point tensor.\n"
            "Pass the name of another layer."
        )
    return _of_value(recorder, value, call, -1)


def _of_value(recorder: Recorder, value: Tensor, call: Call | None, index: int) -> Source:
    """A tensor of all items as rows."""
    axis = recorder.axis
    if axis is None:
        return Source(value.reshape(1, -1), value.shape, axis, call, index)
    if value.ndim <= axis or value.shape[axis] != recorder.items:
        raise ShapeError(
            f"the profile would start at {call and call[0]!r}, whose output of shape {tuple(value.shape)} does not have the "
            f"batch size {recorder.items} along axis {axis}.\nPass the name of another layer as origin."
        )
    moved = value.movedim(axis, 0)
    return Source(moved.reshape(recorder.items, -1).contiguous(), moved.shape[1:], axis, call, index)
