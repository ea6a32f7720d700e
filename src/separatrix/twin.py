"""A second view of a module: the same tensors, cast and in evaluation mode, in a module tree of its own.

A run wants the user's network in float64, without dropout, on the device of the state; the user wants it back untouched. So a
run works on a *twin*: every module object of the tree is copied shallowly (a few dictionaries), no tensor is, unless it must
be cast. Gradients flow through the cast to the user's parameters, and what an optimiser does to those is seen by the twin.
Parameters become buffers in it, because `Module.to` replaces a buffer but overwrites a parameter, which is the user's.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from separatrix.wrappers import of_wrapper

M = TypeVar("M", bound=nn.Module)


def twin(module: M, *, dtype: torch.dtype | None = None, device: torch.device | None = None, detach: bool = False) -> M:
    """The twin of a module tree; floating-point tensors cast to `dtype`, all moved to `device`; no gradients if `detach`."""
    return _copy(module, dtype, device, detach, {})


def _copy(module: Any, dtype: torch.dtype | None, device: torch.device | None, detach: bool, done: dict[int, Any]) -> Any:
    if id(module) in done:
        return done[id(module)]
    if isinstance(module, torch.jit.ScriptModule):  # compiled: its tensors cannot be replaced from here
        return module
    if (inner := of_wrapper(module)) is not None:  # what torch.compile returns is bound to the module's own tensors
        return _copy(inner, dtype, device, detach, done)
    copy = object.__new__(type(module))
    done[id(module)] = copy
    copy.__dict__ = dict(module.__dict__)
    tensors = {**module._parameters, **module._buffers}
    copy.__dict__["_parameters"] = {}
    copy.__dict__["_buffers"] = {name: _cast(tensor, dtype, device, detach) for name, tensor in tensors.items()}
    children = module._modules.items()
    copy.__dict__["_modules"] = {
        name: None if child is None else _copy(child, dtype, device, detach, done) for name, child in children
    }
    copy.__dict__ |= {"training": False, "_compiled_call_impl": None}
    if "_flat_weights_names" in copy.__dict__:  # recurrent layers keep a second list of their weights
        copy.__dict__["_flat_weights"] = [getattr(copy, name, None) for name in copy._flat_weights_names]
    return copy


def _cast(tensor: Tensor | None, dtype: torch.dtype | None, device: torch.device | None, detach: bool) -> Tensor | None:
    if tensor is None:
        return None
    if tensor.is_complex():
        return _cast_to(tensor, dtype.to_complex() if dtype is not None else None, device, detach)
    return _cast_to(tensor, dtype if tensor.is_floating_point() else None, device, detach)


def _cast_to(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | None, detach: bool) -> Tensor:
    cast = tensor.to(device=device, dtype=dtype)
    return cast.detach() if detach else cast
