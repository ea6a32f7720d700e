"""Whether a run leaves a module unchanged."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from separatrix.testing.statements import require, same_bits


def check_module_untouched(module: nn.Module, run: Callable[[], Any]) -> Any:
    """Call `run` and return its value, after checking that it left the module unchanged.

    Args:
        module: the module to watch.
        run: a function without arguments.

    Raises:
        AssertionError: a tensor was replaced, its value, dtype or `requires_grad` has changed, or the training mode of a layer has.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> sx.testing.check_module_untouched(layer, lambda: layer(torch.zeros(2)).shape)
        torch.Size([3])
    """
    before, modes = _tensors(module), _modes(module)
    copies = {name: tensor.detach().clone() for name, tensor in before.items()}
    grads = {name: tensor.requires_grad for name, tensor in before.items()}
    result = run()
    after = _tensors(module)
    require(list(after) == list(before), f"the module's tensors were {list(before)} and are {list(after)}.")
    for name, copy in copies.items():
        require(after[name] is before[name], f"{name} was replaced by another tensor.")
        same_bits(f"{name} has changed", after[name], copy)
        now = after[name].requires_grad
        require(now == grads[name], f"{name}.requires_grad was {grads[name]} and is {now}.")
    for name, mode in _modes(module).items():
        was = modes.get(name)
        require(mode == was, f"training of the layer {name or 'itself'} was {was} and is {mode}.")
    return result


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _modes(module: nn.Module) -> dict[str, bool]:
    return {name: child.training for name, child in module.named_modules()}
