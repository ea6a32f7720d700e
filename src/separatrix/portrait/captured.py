"""A part of a model as its core, with the inputs that reach it in recorded forward passes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.arguments import Arguments
from separatrix.core.errors import InputError
from separatrix.core.structure import mapped
from separatrix.portrait.cells import CalledAs, Form, form_of
from separatrix.portrait.core import NONE, Core
from separatrix.portrait.feedback import Answers, Feedback, feedback_of
from separatrix.portrait.recognition import layer_in
from separatrix.portrait.recording import Call, record
from separatrix.portrait.runs import is_zero, runs_of
from separatrix.portrait.sequences import Read, Sequences, check_pieces, joined, merged, packed, piece_of
from separatrix.systems.recurrent.custom_cell import flatten, is_layer
from separatrix.systems.recurrent.hand_layer import HandLayer
from separatrix.systems.recurrent.recurrent import Recurrent
from separatrix.systems.recurrent.standard_network import describe, is_standard


def captured(model: nn.Module, name: str, given: Sequence[Arguments]) -> Core:
    """The part of that name, with its inputs in one forward pass for each of the arguments."""
    passes = [record(model, arguments, [name]).calls[name] for arguments in given]
    if not any(passes):
        raise InputError(f"one forward pass of {type(model).__name__} never reached '{name}'.\nName a part that your inputs reach.")
    part = model.get_submodule(name)
    form = None if is_standard(part) or is_layer(part) else form_of(passes[0])
    layer = None if is_standard(part) or is_layer(part) or form is not None else layer_in(part, passes[0])
    if form is not None and form.is_closed and len(passes[0]) > 2:
        calls = sum(map(len, passes))
        return Core(CalledAs(part, form), name, None, calls=calls, described=describe(part), feedback=Feedback("closed"))
    if form is not None and (not form.shapes or form.is_plain):
        form = None
    module, read = _reader(part, form, layer)
    runs = [runs_of(calls) if form is None else [calls] for calls in passes]
    state = _example(passes[0]) if module is part and not (is_standard(part) or is_layer(part)) else None
    core = Core(
        module,
        name,
        None,
        state=state,
        calls=sum(map(len, passes)),
        read="along time" if all(len(some) == 1 for some in runs) else "as further sequences",
        described=describe(part),
    )
    feedback = _feedback(model, core, form, passes[0], given[0])
    pieces = [[[read(call) for call in run] for run in some] for some in runs]
    if feedback.turn is None:
        for some, read_pieces in zip(runs, pieces, strict=True):
            check_pieces(name, some, read_pieces)
    found = merged(core, [Read(*joined(one), _start(core, form, some)) for one, some in zip(pieces, runs, strict=True)])
    return replace(found, feedback=feedback)


def _reader(part: nn.Module, form: Form | None, layer: HandLayer | None) -> tuple[nn.Module, Callable[[Call], Sequences]]:
    """The core in the form in which it is measured, and a function that reads its calls as sequences."""
    if form is not None:
        cell = CalledAs(part, form)
        return cell, lambda call: Sequences(form.read(call)[None])
    module = part if layer is None else layer
    return module, lambda call: piece_of(module, part, call.inputs)


def _feedback(model: nn.Module, core: Core, form: Form | None, calls: list[Call], arguments: Arguments) -> Feedback:
    """Whether a core that is called step by step receives inputs computed from its own states."""
    if len(calls) < 3:
        return NONE
    width = getattr(calls[0].inputs, "shape", (1,))[-1]
    inputs = None if form is not None or is_standard(core.module) else torch.zeros(1, width)
    network = Recurrent(core.module, inputs, state=core.state).network
    return feedback_of(model, core.name, arguments, Answers(network, form), calls)


def _start(core: Core, form: Form | None, runs: list[list[Call]]) -> Tensor | None:
    """The initial states that the model supplies, one per sequence; None if they are zero or cannot be read."""
    first = [run[0] for run in runs]
    states = [_given_state(call, form) for call in first]
    if all(is_zero(state) for state in states):
        return None
    system = Recurrent(core.module, state=core.state)
    starts = [torch.zeros(1, system.dim) if state is None else packed(system, state) for state in states]
    items = max(len(one) for one in starts)
    return torch.cat([one.expand(items, -1) if len(one) == 1 else one for one in starts])


def _given_state(call: Call, form: Form | None) -> Any:
    if form is None:
        return call.state
    try:
        state = form.state(call)
    except (KeyError, IndexError, TypeError):
        return None
    return state if all(isinstance(part, Tensor) for part in state) else None


def _example(calls: Sequence[Call]) -> Any:
    """A state without its batch axis, from the first call that received one; None if none did."""
    call = next((call for call in calls if call.state is not None), None)
    if call is None:
        return None
    flatten(call.state)
    return call.state if call.inputs.ndim == 1 else _first_item(call.state)


def _first_item(state: Any) -> Any:
    return mapped(lambda part: part[0], state)
