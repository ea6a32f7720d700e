"""What each layer of a network gives, one after the other, as the network is run once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.errors import InputError, UnsupportedModuleError
from separatrix.twin import twin

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
UNCHANGING = (nn.Identity, nn.Flatten, nn.modules.dropout._DropoutNd)  # in evaluation mode they move nothing
MOST_NAMED = 12  # layers in an error message

Keep = Callable[[str, Tensor], None]


def run_layers(model: nn.Module, x: Tensor, names: Sequence[str] | None, keep: Keep) -> None:
    """Run the model's twin on x, (items, …), calling keep(name, output) for each layer as it is left, and for the output.

    A layer that is called again is told apart by the number of its call: "block (2)".

    Args:
        names: as in `model.named_modules()`. Default: the model's children, containers opened, those that change nothing left out.

    Raises:
        InputError: there is no such layer.
        UnsupportedModuleError: a layer is compiled to TorchScript, and cannot be listened to.
    """
    copy = twin(model, dtype=x.dtype, device=x.device)
    layers = _named(copy, names)
    calls: dict[str, int] = {}
    last: list[Tensor] = []
    for name, layer in layers.items():
        if isinstance(layer, torch.jit.ScriptModule):
            raise UnsupportedModuleError(f"{name} is TorchScript, which cannot be listened to.\nPass the nn.Module itself.")

        def told(value: Any, name: str = name) -> None:
            calls[name] = calls.get(name, 0) + 1
            output = first_tensor(value)
            last[:] = [output]
            keep(name if calls[name] == 1 else f"{name} ({calls[name]})", output)

        layer.__dict__["forward"] = _listened(layer.forward, told)  # the twin's own: the user's module is another object
    output = first_tensor(copy(x))
    if not last or last[0] is not output:
        keep("output", output)


def _listened(forward: Callable[..., Any], told: Callable[[Any], None]) -> Callable[..., Any]:
    def listened(*arguments: Any, **named: Any) -> Any:
        value = forward(*arguments, **named)
        told(value)
        return value

    return listened


def _named(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    if names is None:
        return {name: layer for name, layer in _opened(model, "") if not isinstance(layer, UNCHANGING)}
    known = dict(model.named_modules())
    for name in names:
        if name not in known or not name:
            listed = ", ".join([other for other in known if other][:MOST_NAMED]) or "none"
            raise InputError(f"there is no layer {name!r}; the first are {listed}.")
    return {name: known[name] for name in names}


def _opened(model: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        path = f"{prefix}.{name}" if prefix else name
        found += _opened(child, path) if isinstance(child, CONTAINERS) else [(path, child)]
    return found


def first_tensor(value: Any) -> Tensor:
    """An output, or the first tensor of several."""
    while isinstance(value, tuple | list) and len(value):
        value = value[0]
    if isinstance(value, dict) and value:
        return first_tensor(next(iter(value.values())))
    if not isinstance(value, Tensor):
        raise UnsupportedModuleError(f"a layer gives a {type(value).__name__}, no tensor.\nName the layers to be seen: layers=[…].")
    return value
