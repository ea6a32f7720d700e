"""Recognition of recurrent modules, by their class or by their behaviour in trial calls."""

import inspect

import torch
from torch import Tensor, nn

from separatrix.core.errors import SeparatrixError
from separatrix.nn.cells import OdeCell
from separatrix.portrait.cells import CalledAs, Form, form_of
from separatrix.portrait.core import Core
from separatrix.portrait.recording import Call
from separatrix.systems.recurrent.custom_cell import CustomCell, is_layer
from separatrix.systems.recurrent.hand_layer import HandLayer, layer_of, own_network
from separatrix.systems.recurrent.standard_network import STANDARD, describe
from separatrix.systems.recurrent.time_axis import reads_batch_first


def recurrent_parts(model: nn.Module) -> list[str]:
    """Names of the recurrent layers and cells of known classes in a model, without those inside a layer."""
    found: list[str] = []
    for name, part in model.named_modules():
        if is_known(part) and not any(name.startswith(f"{outer}.") or not outer for outer in found):
            found.append(name)
    return found


def is_known(part: nn.Module) -> bool:
    """Whether a module is a recurrent network of a known class, or a layer of such cells."""
    return isinstance(part, (*STANDARD, OdeCell)) or is_layer(part)


def reads_sequences(core: nn.Module) -> bool:
    """Whether a core is a layer, which is called once for a whole sequence; otherwise it is a cell."""
    return isinstance(core, nn.RNNBase) or is_layer(core)


def is_batch_first(core: nn.Module) -> bool:
    """Whether a core takes (batch, time, inputs); only layers can, cells take time first."""
    return reads_sequences(core) and reads_batch_first(core)


def as_itself(model: nn.Module, network: CustomCell, width: int | None) -> Core:
    """A model that trial calls showed to be a cell, or a layer that carries its state, as a core without inputs."""
    by_hand = layer_of(model, width) if network.is_layer and not is_layer(model) and width is not None else None
    return Core(model if by_hand is None else by_hand, "", None, described=describe(model))


def shows_recurrence(part: nn.Module, calls: list[Call]) -> bool:
    """Whether the calls of a part show that it is a cell, or a trial shows that it is a layer that carries its state."""
    if isinstance(part, torch.jit.ScriptModule) or not calls:
        return False
    if len(calls) > 1:
        form = form_of(calls)
        if form is None or not ((form.is_closed and len(calls) > 2) or (form.shapes and _varies(form, calls))):
            return False
        return is_cell(CalledAs(part, form))
    return layer_in(part, calls) is not None


def _varies(form: Form, calls: list[Call]) -> bool:
    """Whether the inputs differ from call to call; a block that runs again on the same input has depth, not inputs."""
    first = form.read(calls[1])
    return any(not torch.equal(form.read(call), first) for call in calls[2:]) or len(calls) == 2


def is_cell(cell: CalledAs) -> bool:
    """Whether a module can be run as a recurrent cell."""
    try:
        own_network([cell], False, None, cell.input_size)
    except SeparatrixError:
        return False
    return True


def layer_in(part: nn.Module, calls: list[Call]) -> HandLayer | None:
    """A part that read one sequence, as a layer that carries its state."""
    if is_known(part) or len(calls) != 1 or len(parameters(part)) < 2:
        return None
    u = calls[0].inputs
    if not isinstance(u, Tensor) or u.ndim != 3 or not u.is_floating_point():
        return None
    return layer_of(part, u.shape[-1])


def parameters(model: nn.Module) -> list[str]:
    """The argument names of a forward pass; empty where they cannot be inspected."""
    try:
        return list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return []
