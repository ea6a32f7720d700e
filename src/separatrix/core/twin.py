"""A second view of a module: the same tensors, cast and in evaluation mode, in a module tree of its own.

A run needs the user's network in float64, without dropout, on the device of the state, and must leave it unchanged. So a run works
on a *twin*: every module object of the tree is copied shallowly (a few dictionaries), but no tensor is copied unless it must be
cast. Gradients flow through the cast to the user's parameters, and the twin sees what an optimiser does to those. A parameter of
the twin is the user's parameter, cast or as a view: it is not a leaf, so no optimiser takes it for a parameter of its own.
"""

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from separatrix.core.references import ATOMS, PROXIES, modules_and_tensors
from separatrix.core.remake import check_leads_nowhere, remade
from separatrix.core.wrappers import of_wrapper

M = TypeVar("M", bound=nn.Module)

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
MODULES_OWN = frozenset(vars(nn.Module()))
"""The attributes of every module; apart from parameters, buffers, children and hooks, a forward pass calls none of them."""
FEW = 4096  # size up to which a buffer of data is copied, because it may count steps


def twin(
    module: M,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    detach: bool = False,
    apart: bool = False,
) -> M:
    """The twin of a module tree, with floating-point tensors cast to `dtype` and all tensors moved to `device`.

    Args:
        module: the root of the tree.
        dtype: dtype of its floating-point tensors; complex tensors get the same precision.
        device: device of its tensors.
        detach: cut the registered tensors from the graph; tensors that the tree does not own keep it.
        apart: copy the buffers, and tensors kept as plain attributes, so that what a forward pass writes to them stays in the twin.

    Raises:
        UnsupportedModuleError: an attribute refers back to the module in a way that cannot be followed.
    """
    twins = Twin(module, dtype, device, detach, apart)
    root = twins.module(module)
    if twins.kept:
        root.__dict__["_twins_kept"] = twins.kept
    return root


class Twin:
    """Twin of a tree under construction: every module of the tree, and every value that refers to it, is remade once.

    `FIX_UPS` lists the corrections to the copy of a module; `core/remake.py` remakes kept values.
    """

    def __init__(self, root: nn.Module, dtype: torch.dtype | None, device: torch.device | None, detach: bool, apart: bool) -> None:
        self.root, self.dtype, self.device, self.detach, self.apart = root, dtype, device, detach, apart
        self.done: dict[int, Any] = {}  # by the identity of the original
        self.kept: list[Any] = []  # twins that only a weak reference holds

    @functools.cached_property
    def tree(self) -> set[int]:
        """The identities of the tree's modules and tensors."""
        modules = list(self.root.modules())
        tensors = [tensor for part in modules for tensor in (*part._parameters.values(), *part._buffers.values())]
        return {*map(id, modules), *(id(tensor) for tensor in tensors if tensor is not None)}

    def is_in_tree(self, value: Any) -> bool:
        """Whether a module or a tensor belongs to the tree."""
        return id(value) in self.tree

    def leads_back(self, value: Any) -> bool:
        """Whether a value refers to the tree."""
        return any(self.is_in_tree(found) for found in modules_and_tensors(value))

    def module(self, module: Any) -> Any:
        """The twin of a module and everything in it."""
        done = self.done.get(id(module))
        if done is not None:
            return done
        if isinstance(module, torch.jit.ScriptModule):  # compiled: its tensors cannot be replaced from here
            return module
        if (inner := of_wrapper(module)) is not None:  # what torch.compile returns is bound to the module's own tensors
            return self.module(inner)
        copy = object.__new__(type(module))
        self.done[id(module)] = copy
        copy.__dict__.update(module.__dict__)
        for fix_up in FIX_UPS:
            fix_up(self, module, copy)
        return copy

    def reference(self, module: nn.Module) -> nn.Module:
        """The twin of a module that is only referred to weakly."""
        copy = self.module(module)
        if copy is not self.done.get(id(self.root)):
            self.kept.append(copy)
        return copy

    def value(self, value: Any, where: str = "a value kept by the module") -> Any:
        """What replaces a value in the twin: the value itself if it refers to no module and no tensor."""
        if type(value) in ATOMS:
            return value
        if id(value) in self.done:
            return self.done[id(value)]
        if isinstance(value, nn.Module) and type(value) not in PROXIES:
            return self.module(value)
        if isinstance(value, Tensor):
            return self.parameter(value) if isinstance(value, nn.Parameter) else self.buffer(value)
        new = remade(self, value)
        if new is value:
            check_leads_nowhere(self, value, where)
        else:
            self.done[id(value)] = new
        return new

    def parameter(self, tensor: Tensor) -> Tensor:
        """A parameter cast, or a view of it."""
        done = self.done.get(id(tensor))
        if done is not None:
            return done
        cast = self.cast(tensor)
        if self.detach and self.is_in_tree(tensor):
            cast = cast.detach()
        if cast is tensor and type(tensor) is not Tensor and not is_lazy(tensor):  # a plain tensor belongs to a twin already
            cast = tensor.view_as(tensor) if torch.is_grad_enabled() or not tensor.requires_grad else _view(tensor)
        if cast is not tensor:
            cast.__dict__.update(tensor.__dict__)
            cast = _as_parameter(cast)
        self.done[id(tensor)] = cast
        return cast

    def buffer(self, tensor: Tensor, copied: bool = True) -> Tensor:
        """A buffer cast, or the buffer itself; a copy if the twin is `apart` and this one may be `copied`."""
        done = self.done.get(id(tensor))
        if done is not None:
            return done
        cast = self.cast(tensor)
        is_own = cast is not tensor
        if self.detach and self.is_in_tree(tensor):
            cast = cast.detach()
        if self.apart and copied and not is_own:
            cast = cast.clone()
        self.done[id(tensor)] = cast
        return cast

    def cast(self, tensor: Tensor) -> Tensor:
        """A tensor in the dtype and on the device of the twin."""
        dtype = self.dtype
        if dtype is not None and not tensor.is_floating_point():
            dtype = dtype.to_complex() if tensor.is_complex() else None
        if (dtype is None or tensor.dtype is dtype) and (self.device is None or tensor.device == self.device):
            return tensor
        return tensor.to(device=self.device, dtype=dtype)


def parameters(twin: Twin, module: nn.Module, copy: nn.Module) -> None:
    """Parameters are cast, or become views."""
    own = {name: p if p is None else twin.parameter(p) for name, p in module._parameters.items()}
    copy.__dict__["_parameters"] = own


def buffers(twin: Twin, module: nn.Module, copy: nn.Module) -> None:
    """Buffers are cast. An `apart` twin copies those that a step may write to, but not parameters of systems or long data."""
    held = module.__dict__.get("_ranks")  # a system's parameters; its other buffers are data, such as the sequences of a drive

    def fixed(name: str, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return twin.buffer(tensor, copied=held is None or (name not in held and tensor.numel() <= FEW))

    copy.__dict__["_buffers"] = {name: fixed(name, tensor) for name, tensor in module._buffers.items()}


def children(twin: Twin, module: nn.Module, copy: nn.Module) -> None:
    """Children are twins."""
    own = copy.__dict__["_modules"] = dict(module._modules)
    for name, child in module._modules.items():
        own[name] = child if child is None else twin.module(child)


def hooks(twin: Twin, module: nn.Module, copy: nn.Module) -> None:
    """Hooks refer to the twin."""
    for name in HOOKS:
        if copy.__dict__.get(name):
            copy.__dict__[name] = twin.value(copy.__dict__[name])


def kept_values(twin: Twin, module: nn.Module, copy: nn.Module) -> None:
    """Plain attributes refer to the twin."""
    for name in module.__dict__.keys() - MODULES_OWN:
        value = copy.__dict__[name]
        if type(value) not in ATOMS:
            copy.__dict__[name] = twin.value(value, f"the attribute {name} of {type(module).__name__}")


def evaluation_mode(twin: Twin, module: nn.Module, copy: nn.Module) -> None:
    """Evaluation mode, and no compiled call, which would be bound to the module's own tensors."""
    copy.__dict__.update(training=False, _compiled_call_impl=None)


def flat_weights(twin: Twin, module: nn.Module, copy: Any) -> None:
    """Recurrent layers keep a second list of their weights."""
    if "_flat_weights_names" in copy.__dict__:
        weights = [getattr(copy, name, None) for name in copy._flat_weights_names]
        references = [None if weight is None else weakref.ref(weight) for weight in weights]
        copy.__dict__.update(_flat_weights=weights, _flat_weight_refs=references)


FIX_UPS: tuple[Callable[[Twin, nn.Module, Any], None], ...] = (
    parameters,
    buffers,
    children,
    hooks,
    kept_values,
    evaluation_mode,
    flat_weights,
)
"""Corrections to the copy of a module, in this order."""


@contextmanager
def parameters_as_buffers(module: nn.Module) -> Iterator[None]:
    """For `Module.to`, which replaces buffers but overwrites parameters: within the context, parameters of twins are buffers."""
    lent = []
    for part in module.modules():
        names = [name for name, tensor in part._parameters.items() if type(tensor) is Tensor]
        if names and not isinstance(part, torch.jit.ScriptModule):
            lent.append((part, names))
            part.__dict__["_buffers"] = {**{name: part._parameters.pop(name) for name in names}, **part._buffers}
    try:
        yield
    finally:
        for part, names in lent:
            for name in names:
                part._parameters[name] = _as_parameter(part._buffers.pop(name))


def own_leaves(module: nn.Module) -> dict[int, nn.Parameter]:
    """A new parameter for each parameter of a twin, by identity, for `copy.deepcopy`, which refuses tensors that are not leaves."""
    tensors = (tensor for part in module.modules() for tensor in part._parameters.values())
    return {id(tensor): nn.Parameter(tensor.detach().clone(), tensor.requires_grad) for tensor in tensors if type(tensor) is Tensor}


def _view(tensor: Tensor) -> Tensor:
    """A view with a gradient, even where gradients are off."""
    with torch.enable_grad():
        return tensor.view_as(tensor)


def _as_parameter(tensor: Tensor) -> Tensor:
    """A tensor that passes for an `nn.Parameter`."""
    tensor._is_param = True  # type: ignore[attr-defined]  (isinstance(…, nn.Parameter) reads this attribute)
    return tensor
