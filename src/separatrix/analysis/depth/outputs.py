"""What each layer of a network gives, one after the other, as the network is run once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.analysis.depth.hooks import Call, LayerHooks, first_line, floating, label
from separatrix.core.errors import InputError, SeparatrixError, UnsupportedModuleError
from separatrix.core.twin import twin
from separatrix.core.wrappers import bare

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
UNCHANGING = (nn.Identity, nn.Flatten, nn.modules.dropout._DropoutNd)  # in evaluation mode they move nothing
MOST_NAMED = 12  # layers in an error message

Keep = Callable[[str, Tensor], None]


def run_layers(model: nn.Module, x: Tensor, names: Sequence[str] | None, keep: Keep) -> None:
    """Run the model's twin on x, (items, …), calling keep(name, output) for each layer as it is left, and for the model's output.

    A layer that is called again is told apart by the number of its call: "block:2". What is kept must be copied: a later layer
    may write over it.

    Args:
        names: as in `model.named_modules()`. Default: the model's children, containers opened, those that change nothing left out.

    Raises:
        InputError: there is no such layer, or the model refuses x.
        UnsupportedModuleError: a layer is compiled to TorchScript, or the model gives no real tensor.
    """
    model = bare(model)
    copy = twin(model, dtype=x.dtype, device=x.device)
    listened = _named(copy, names)
    for name, layer in listened.items():
        if isinstance(layer, torch.jit.ScriptModule):
            raise UnsupportedModuleError(f"{name} is TorchScript, which cannot be listened to.\nPass the nn.Module itself.")
    last: list[Tensor] = []

    def heard(call: Call, _: Any, returned: Any) -> None:
        output = floating(returned)
        if output is not None:
            last[:] = [output]
            keep(label(call), output)

    with LayerHooks(listened).listening(heard):
        output = floating(_guarded(copy, x))
    if output is None:
        raise UnsupportedModuleError(f"{type(model).__name__} gives no floating-point tensor, so there is nothing to draw.")
    if not last or last[0] is not output:
        keep("output", output)


def _guarded(model: nn.Module, x: Tensor) -> Any:
    try:
        return model(x)
    except SeparatrixError:
        raise
    except Exception as error:  # the user's code: whatever it raises is the message
        raise InputError(
            f"{type(model).__name__} failed on inputs of shape {tuple(x.shape)}: {type(error).__name__}: {first_line(error)}\n"
            "Pass x0 of shape (rows, columns, …) with, after the first two axes, one input as the model takes it."
        ) from error


def _named(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    if names is None:
        return {name: layer for name, layer in _opened(model, "") if not isinstance(layer, UNCHANGING)}
    known = {name: layer for name, layer in model.named_modules() if name}
    for name in names:
        if name not in known:
            raise InputError(f"there is no layer {name!r}; the first are {', '.join(list(known)[:MOST_NAMED]) or 'none'}.")
    return {name: known[name] for name in names}


def _opened(model: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Children, and those of children that only hold others."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        path = f"{prefix}.{name}" if prefix else name
        found += _opened(child, path) if isinstance(child, CONTAINERS) else [(path, child)]
    return found
