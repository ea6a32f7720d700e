"""The outputs of a network's layers in one forward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.analysis.depth.hooks import Call, LayerHooks, first_line, floating, label
from separatrix.core.errors import InputError, SeparatrixError, UnsupportedModuleError
from separatrix.core.twin import twin
from separatrix.core.wrappers import bare

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
UNCHANGING = (nn.Identity, nn.Flatten, nn.modules.dropout._DropoutNd)  # these keep all values in evaluation mode
MOST_NAMED = 12  # layers listed in an error message

Keep = Callable[[str, Tensor], None]


def run_layers(model: nn.Module, x: Tensor, names: Sequence[str] | None, keep: Keep) -> None:
    """Run the model's twin on x, (items, …), and call keep(name, output) after each layer and for the model's output.

    The second call of a layer is named "block:2". `keep` must copy the output, since a later layer may overwrite it.

    Args:
        model: any module.
        x: inputs, (items, …).
        names: layers, as in `model.named_modules()`. Default: the model's children, with containers opened, without identities,
            flattening and dropout.
        keep: called as keep(name, output).

    Raises:
        InputError: there is no such layer, or the model fails on x.
        UnsupportedModuleError: a layer is compiled to TorchScript, or the model does not return a floating-point tensor.
    """
    model = bare(model)
    copy = twin(model, dtype=x.dtype, device=x.device)
    listened = _named(copy, names)
    for name, layer in listened.items():
        if isinstance(layer, torch.jit.ScriptModule):
            raise UnsupportedModuleError(f"{name} is TorchScript, which does not support hooks.\nPass the nn.Module itself.")
    last: list[Tensor] = []

    def heard(call: Call, _: Any, returned: Any) -> None:
        output = floating(returned)
        if output is not None:
            last[:] = [output]
            keep(label(call), output)

    with LayerHooks(listened).listening(heard):
        output = floating(_guarded(copy, x))
    if output is None:
        raise UnsupportedModuleError(f"expected {type(model).__name__} to return a floating-point tensor; it returned none.")
    if not last or last[0] is not output:
        keep("output", output)


def _guarded(model: nn.Module, x: Tensor) -> Any:
    try:
        return model(x)
    except SeparatrixError:
        raise
    except Exception as error:  # raised by the user's code, reported in the message
        raise InputError(
            f"{type(model).__name__} failed on inputs of shape {tuple(x.shape)}: {type(error).__name__}: {first_line(error)}\n"
            "Pass x0 of shape (rows, columns, …), where the axes after the first two are those of one input."
        ) from error


def _named(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    if names is None:
        return {name: layer for name, layer in _opened(model, "") if not isinstance(layer, UNCHANGING)}
    known = {name: layer for name, layer in model.named_modules() if name}
    for name in names:
        if name not in known:
            raise InputError(
                f"the model has no layer named {name!r}.\nIts first layers: {', '.join(list(known)[:MOST_NAMED]) or 'none'}."
            )
    return {name: known[name] for name in names}


def _opened(model: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Children, with containers replaced by their own children."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        path = f"{prefix}.{name}" if prefix else name
        found += _opened(child, path) if isinstance(child, CONTAINERS) else [(path, child)]
    return found
