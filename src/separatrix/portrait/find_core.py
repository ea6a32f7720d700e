"""Finding the recurrent core inside a user's model, and the inputs that reach it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from separatrix.core.arguments import Arguments, arguments_of
from separatrix.core.errors import InputError, SeparatrixError, UnsupportedModuleError
from separatrix.core.wrappers import part_named
from separatrix.portrait.captured import captured
from separatrix.portrait.core import Core
from separatrix.portrait.recognition import as_itself, is_known, parameters, recurrent_parts, shows_recurrence
from separatrix.portrait.recording import record
from separatrix.portrait.sequences import listed, merged, read_by_itself
from separatrix.portrait.unrolled import own_parts, unrolled
from separatrix.systems.recurrent.hand_layer import carries_a_state, own_network
from separatrix.systems.recurrent.standard_network import check_initialised, describe, refuse_changed_layer

OPERATORS = ("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")  # a whole recurrent layer, in an exported graph
QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.quantizable", "torch.ao.nn.intrinsic.quantized")

# Note [What the core is]
# PyTorch's recurrent modules and those that provide their step (`as_cell`) are recognised by their class. Everything else is
# recognised by its behaviour in trial calls and in one recorded forward pass: the model itself as a cell or as a layer that
# carries its state (see Note [Recognised by trying]); a part that is called step by step with the state that it returned before
# (see Note [The cell in the calls]); a part that reads a sequence once and carries its state. If there is none of these, but the
# forward pass loops over time (see Note [Loops by hand]), the model is recurrent and its step cannot be called from outside. It is
# refused, because its depth would be that of the unrolled loop. Everything else is a feed-forward network.


def find_core(model: nn.Module, inputs: Any = None, module: str | None = None) -> Core | None:
    """Find the recurrent core of a model; with inputs, one forward pass captures its inputs. See Note [What the core is].

    Args:
        model: any module; a recurrent module is its own core.
        inputs: inputs of the model.
        module: name of the core in `model.named_modules()`, if there are several.

    Returns:
        The core; None for a model that has no recurrent part for these inputs.

    Raises:
        UnsupportedModuleError: there are several recurrent parts, or none and no inputs; a layer has its own forward or hooks;
            there is a loop over time whose step cannot be called; the model is not a module, or has no weights yet.
        InputError: the forward pass fails, never reaches the core, passes it something other than sequences, or calls it in a
            way that is neither one run along time nor several runs of equal length.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModuleError(
            f"expected an nn.Module, got {getattr(model, '__name__', type(model).__name__)}.\n"
            "Pass one module at a time; to measure a function of the state, wrap it with sx.Map(f, dim) for sx.lyapunov_spectrum."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModuleError(
            f"a {type(model).__name__} is compiled by TorchScript, so its parts cannot be inspected.\n"
            "Pass the module that it was made from; to measure a scripted map of states, use sx.Map(module, dim)."
        )
    _refuse_lowered(model)
    name = _name(model, module)
    if name is not None:
        refuse_changed_layer(model.get_submodule(name))
    if inputs is None:
        return _without_inputs(model, name)
    check_initialised(model)
    given = arguments_of(model, inputs)
    if name is None:
        return _of_model(model, given) or _of_parts(model, given)
    core = model.get_submodule(name)
    if core is model and is_known(core):
        return merged(Core(core, "", None), [read_by_itself(core, arguments) for arguments in given])
    if core is model:
        return _of_model(model, given) or _of_parts(model, given)
    return captured(model, name, given)


def _refuse_lowered(model: nn.Module) -> None:
    """Raise an error for a recurrent part that was exported or quantised to a single operator: its step cannot be called."""
    for name, part in model.named_modules():
        graph = part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ()
        found = next((str(node.target) for node in graph if str(node.target).startswith(OPERATORS)), None)
        if type(part).__module__.startswith(QUANTISED):
            found = f"a quantised {type(part).__name__}"
        if found is not None:
            raise UnsupportedModuleError(
                f"{type(model).__name__} computes {found}{f' at {name!r}' if name else ''}, whose steps or derivatives are not "
                "accessible: it was exported or quantised.\nPass the module that it was made from."
            )


def _name(model: nn.Module, asked: str | None) -> str | None:
    """The name of the core, as far as names and classes determine it."""
    recurrent = recurrent_parts(model)
    if asked is not None:
        name = part_named(model, asked) if asked else None
        if name is None:
            names = [*recurrent, *(name for name, _ in model.named_modules() if name and name not in recurrent)]
            raise InputError(f"{type(model).__name__} has no module named {asked!r}.\nIts modules: {listed(names) or 'none'}.")
        return name
    if len(recurrent) > 1:
        raise _several(model, {name: describe(model.get_submodule(name)) for name in recurrent})
    return recurrent[0] if recurrent else None


def _several(model: nn.Module, parts: dict[str, str]) -> UnsupportedModuleError:
    listed = ", ".join(f"{name} = {words}" for name, words in parts.items())
    return UnsupportedModuleError(
        f"{type(model).__name__} has {len(parts)} recurrent parts: {listed}.\nChoose one by name: --module NAME, or module=."
    )


def _without_inputs(model: nn.Module, name: str | None) -> Core:
    """The core without inputs: a part that is known or named, or the model, if trial calls show that it is a cell."""
    if name is not None:
        return Core(model.get_submodule(name), name, None)
    width = getattr(model, "input_size", None)
    says_so = getattr(model, "hidden_size", None) is not None and len(parameters(model)) > 1
    try:
        network = own_network([model], False, None, width)
        if network.is_layer or carries_a_state(network):
            return as_itself(model, network, width)
    except SeparatrixError as error:
        if says_so:
            raise error from None
    parts = ", ".join(sorted({type(part).__name__ for part in model.modules() if part is not model})) or type(model).__name__
    raise UnsupportedModuleError(
        f"{type(model).__name__} has no recurrent part of a known class (RNN, GRU, LSTM, those of sx.nn, or their cells); "
        f"it consists of: {parts}.\n"
        "Pass inputs, so that `analyze` measures it in depth; or, if one of its modules is a recurrent cell, "
        "(u, state) → state, name it: --module NAME, or module=."
    )


def _of_model(model: nn.Module, given: Sequence[Arguments]) -> Core | None:
    """The model as its own core: a cell, time first, or a layer that carries its state; None if it is neither."""
    tensors = [arguments.tensors() for arguments in given]
    is_sequence = all(some and some[0].is_floating_point() and some[0].ndim in (2, 3) for some in tensors)
    if not is_sequence or isinstance(model, nn.Sequential) or len(parameters(model)) < 2:
        return None
    try:
        network = own_network([model], False, None, tensors[0][0].shape[-1])
    except SeparatrixError:
        return None
    if not network.is_layer and not carries_a_state(network):
        return None
    if not network.is_layer and any(len(arguments.args) + len(arguments.kwargs) > 1 for arguments in given):
        return None  # two arguments, one call: a module with two inputs
    core = as_itself(model, network, tensors[0][0].shape[-1])
    return merged(core, [read_by_itself(core.module, arguments) for arguments in given])


def _of_parts(model: nn.Module, given: Sequence[Arguments]) -> Core | None:
    """The one part that one forward pass shows to be recurrent; None if there is none."""
    names = [name for name, part in model.named_modules() if name and not isinstance(part, nn.ModuleList | nn.ModuleDict)]
    recording = record(model, given[0], names)
    found: dict[str, str] = {}
    for name in names:
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if not inside and shows_recurrence(model.get_submodule(name), recording.calls.get(name, [])):
            found[name] = describe(model.get_submodule(name))
    if len(found) > 1:
        raise _several(model, found)
    if found:
        return captured(model, next(iter(found)), given)
    own = {name for name, _ in own_parts(model)}
    counts = {name: len(calls) for name, calls in recording.calls.items() if name in own}
    loop = unrolled(model, given[0], counts)
    if loop is not None:
        raise UnsupportedModuleError(
            f"{type(model).__name__} is recurrent, by a handwritten loop over axis {loop.axis} of its inputs: {loop.words}, and "
            "each iteration builds on the one before. Its step cannot be called from outside.\n"
            "Move the step into a module (u, state) → state and call it in the loop, or give the looping module a method "
            f"as_cell() that returns this module{' and an attribute batch_first = True' if loop.axis == 1 else ''}. A layer that "
            "takes (sequence, state) and returns (outputs, state) is measured as it is. To name a part, use module= or --module."
        )
    return None
