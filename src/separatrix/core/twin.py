"""A second view of a module: the same tensors, cast and in evaluation mode, in a module tree of its own.

A run wants the user's network in float64, without dropout, on the device of the state; the user wants it back untouched. So a
run works on a *twin*: every module object of the tree is copied shallowly (a few dictionaries), no tensor is, unless it must
be cast. Gradients flow through the cast to the user's parameters, and what an optimiser does to those is seen by the twin.
A parameter of the twin is the user's, cast, or a view of it: no leaf, so that no optimiser takes it for its own.
"""

# Note [The original cannot be reached]
# What a module keeps besides its parameters, buffers and children may lead back to it: a bound method in a table, a partial, a
# lambda over `self`, a hook, a plain list of layers, the module above. A twin that kept these would call the user's own module,
# in its mode and its dtype. So everything that an attribute holds is followed, and what leads to a module is made anew, leading
# to its twin; cycles end where they began. A function is made anew, with cells of its own, only where it leads into the tree: one
# that the user closed over other modules is the user's business, and stays. What leads back and cannot be made anew is refused.

import collections
import copy as copies
import functools
import gc
import random
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.wrappers import of_wrapper

M = TypeVar("M", bound=nn.Module)


def twin(
    module: M,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    detach: bool = False,
    apart: bool = False,
) -> M:
    """The twin of a module tree; floating-point tensors cast to `dtype`, all moved to `device`; no gradients if `detach`.

    Args:
        module: the root of the tree.
        dtype: of its floating-point numbers; complex ones get the same precision.
        device: of its tensors.
        detach: cut the registered tensors from the graph; those that the tree does not own keep it.
        apart: copy the buffers, and tensors kept as plain attributes, so that what a forward pass writes to them stays in the twin.

    Raises:
        UnsupportedModuleError: an attribute leads back to the module in a way that cannot be followed.
    """
    twins = _Twins(module, dtype, device, detach, apart)
    root = twins.module(module)
    if twins.kept:
        root.__dict__["_twins_kept"] = twins.kept
    return root


@contextmanager
def parameters_as_buffers(module: nn.Module) -> Iterator[None]:
    """For `Module.to`, which replaces a buffer but overwrites a parameter: for a while, the twins' parameters are buffers."""
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
    """For `copy.deepcopy`, which refuses what is no leaf: a parameter for each of the twins' in a tree, by identity."""
    tensors = (tensor for part in module.modules() for tensor in part._parameters.values())
    return {id(tensor): nn.Parameter(tensor.detach().clone(), tensor.requires_grad) for tensor in tensors if type(tensor) is Tensor}


ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), type, range, slice, type(Ellipsis), types.ModuleType}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
TENSORS = ("_parameters", "_buffers", "_modules")
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
MODULES_OWN = frozenset(vars(nn.Module()))  # what every module keeps: besides those above, nothing that a forward pass calls
LEFT_ALONE = frozenset(sys.stdlib_module_names) | {
    *("torch", "numpy", "separatrix", "lightning", "lightning_fabric", "pytorch_lightning", "accelerate", "wandb", "tensorboard")
}
NAMESPACES = ("SimpleNamespace", "Namespace")
FEW = 4096  # numbers of a buffer of data that is still copied, since it may count steps
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)


class _Twins:
    """The twins of one tree, each object's made once."""

    def __init__(self, root: nn.Module, dtype: torch.dtype | None, device: torch.device | None, detach: bool, apart: bool) -> None:
        self.root, self.dtype, self.device, self.detach, self.apart = root, dtype, device, detach, apart
        self.done: dict[int, Any] = {}
        self.kept: list[Any] = []  # twins that only a weak reference holds

    @functools.cached_property
    def tree(self) -> set[int]:
        """The identities of the tree's modules and tensors."""
        modules = list(self.root.modules())
        tensors = [tensor for part in modules for tensor in (*part._parameters.values(), *part._buffers.values())]
        return {*map(id, modules), *(id(tensor) for tensor in tensors if tensor is not None)}

    def module(self, module: Any) -> Any:
        """The twin of a module, with all that it holds."""
        done = self.done.get(id(module))
        if done is not None:
            return done
        if isinstance(module, torch.jit.ScriptModule):  # compiled: its tensors cannot be replaced from here
            return module
        if (inner := of_wrapper(module)) is not None:  # what torch.compile returns is bound to the module's own tensors
            return self.module(inner)
        copy = object.__new__(type(module))
        self.done[id(module)] = copy
        own = copy.__dict__
        own.update(module.__dict__)
        held = own.get("_ranks", ())  # parameters of a system, which nobody writes to
        own["_parameters"] = {name: p if p is None else self.parameter(p) for name, p in module._parameters.items()}
        is_data = "_ranks" in own  # a drive's sequences, say
        own["_buffers"] = {name: self.buffer(tensor, name in held, is_data) for name, tensor in module._buffers.items()}
        own["_modules"] = {name: child if child is None else self.module(child) for name, child in module._modules.items()}
        for name in HOOKS:
            if own.get(name):
                own[name] = self.value(own[name])
        for name in module.__dict__.keys() - MODULES_OWN:
            value = own[name]
            if type(value) not in ATOMS:
                own[name] = self.value(value, f"the attribute {name} of {type(module).__name__}")
        own["training"], own["_compiled_call_impl"] = False, None
        if "_flat_weights_names" in own:  # recurrent layers keep a second list of their weights
            own["_flat_weights"] = [getattr(copy, name, None) for name in copy._flat_weights_names]
            own["_flat_weight_refs"] = [None if weight is None else weakref.ref(weight) for weight in own["_flat_weights"]]
        return copy

    def parameter(self, tensor: Tensor) -> Tensor:
        """A parameter cast, or a view of it."""
        done = self.done.get(id(tensor))
        if done is not None:
            return done
        cast = self.cast(tensor)
        if self.detach and id(tensor) in self.tree:
            cast = cast.detach()
        if cast is tensor and type(tensor) is not Tensor and not is_lazy(tensor):  # else it is a twin's already
            cast = tensor.view_as(tensor) if torch.is_grad_enabled() or not tensor.requires_grad else _view(tensor)
        if cast is not tensor:
            cast.__dict__.update(tensor.__dict__)
            cast = _as_parameter(cast)
        self.done[id(tensor)] = cast
        return cast

    def buffer(self, tensor: Tensor | None, shared: bool, is_data: bool = False) -> Tensor | None:
        """A buffer cast, or itself; one of the twin's own where that is asked for."""
        if tensor is None:
            return None
        done = self.done.get(id(tensor))
        if done is not None:
            return done
        cast = self.cast(tensor)
        is_own = cast is not tensor
        if self.detach and id(tensor) in self.tree:
            cast = cast.detach()
        if self.apart and not is_own and not shared and (not is_data or tensor.numel() <= FEW):
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

    def value(self, value: Any, where: str = "a value kept by the module") -> Any:
        """What takes a value's place in the twin: itself, where it leads to no module and no tensor."""
        kind = type(value)
        if kind in ATOMS:
            return value
        if id(value) in self.done:
            return self.done[id(value)]
        if isinstance(value, nn.Module) and kind not in PROXIES:
            return self.module(value)
        if isinstance(value, Tensor):
            return self.parameter(value) if isinstance(value, nn.Parameter) else self.buffer(value, shared=False)
        made = self.made(value, kind)
        if made is value:
            self.check_leads_nowhere(value, where)
        else:
            self.done[id(value)] = made
        return made

    def made(self, value: Any, kind: type) -> Any:
        """A value made anew, by its kind; itself where that is not needed."""
        if kind in CONTAINERS:
            return self.container(value, kind)
        if kind is types.FunctionType:
            return self.function(value)
        if kind is types.MethodType:
            return self.same_or(value, (value.__func__, value.__self__), lambda parts: types.MethodType(*parts))
        if kind is types.BuiltinMethodType:
            owner = value.__self__
            return self.same_or(value, (owner,), lambda parts: getattr(parts[0], value.__name__))
        if kind is functools.partial:
            named, count = value.keywords, 1 + len(value.args)
            parts = (value.func, *value.args, *named.values())
            return self.same_or(
                value, parts, lambda new: functools.partial(*new[:count], **dict(zip(named, new[count:], strict=True)))
            )
        if kind is functools._lru_cache_wrapper:
            return self.same_or(value, (value.__wrapped__,), lambda new: functools.lru_cache(**value.cache_parameters())(new[0]))
        if isinstance(value, weakref.ReferenceType) or kind in PROXIES:
            return self.weak(value)
        if isinstance(value, torch.Generator):
            return value.clone_state() if self.apart else value
        if isinstance(value, GENERATORS):
            return copies.deepcopy(value) if self.apart else value
        if isinstance(value, tuple):  # named ones
            return self.same_or(value, tuple(value), lambda parts: kind._make(parts) if hasattr(kind, "_make") else value)
        return self.object(value, kind)

    def same_or(self, value: Any, parts: tuple[Any, ...], build: Callable[[list[Any]], Any]) -> Any:
        """A value built of its parts' twins; itself where no part has another."""
        new = [self.value(part) for part in parts]
        return value if all(a is b for a, b in zip(new, parts, strict=True)) else build(new)

    def container(self, value: Any, kind: type) -> Any:
        """A list, a dictionary, a set or a queue of the twin's own; a tuple where an item changed."""
        if kind is tuple or kind is frozenset:
            return self.same_or(value, tuple(value), kind)
        copy = copies.copy(value)
        self.done[id(value)] = copy
        if issubclass(kind, dict):
            if not (_plain(value.values()) and _plain(value)):
                copy.clear()
                copy.update((self.value(key), self.value(item)) for key, item in value.items())
        elif not _plain(value):
            items = [self.value(item) for item in value]
            copy.clear()
            (copy.update if kind is set else copy.extend)(items)
        return copy

    def function(self, value: types.FunctionType) -> Any:
        """A function that leads into the tree, with cells and defaults of its own."""
        if not self.leads_back(value):
            return value
        if hasattr(value, "_torchdynamo_orig_callable"):  # compiled, with the module bound in
            return self.value(value._torchdynamo_orig_callable)
        cells = value.__closure__ or ()
        new_cells = []
        for cell in cells:
            if id(cell) not in self.done:
                self.done[id(cell)] = types.CellType()
            new_cells.append(self.done[id(cell)])
        outside = {name: item for name, item in _globals_used(value).items() if self.leads_back(item)}
        space = {**value.__globals__, **outside} if outside else value.__globals__
        copy = types.FunctionType(value.__code__, space, value.__name__, None, tuple(new_cells))
        self.done[id(value)] = copy
        space.update({name: self.value(item) for name, item in outside.items()})
        copy.__qualname__, copy.__doc__, copy.__module__ = value.__qualname__, value.__doc__, value.__module__
        copy.__defaults__ = None if value.__defaults__ is None else tuple(map(self.reached, value.__defaults__))
        copy.__kwdefaults__ = value.__kwdefaults__ and {name: self.reached(v) for name, v in value.__kwdefaults__.items()}
        copy.__dict__.update({name: self.reached(item) for name, item in value.__dict__.items()})
        for cell, new in zip(cells, new_cells, strict=True):
            content, is_full = _content(cell)
            if is_full and not _content(new)[1]:
                new.cell_contents = self.reached(content)
        return copy

    def reached(self, value: Any) -> Any:
        """The twin of what leads into the tree; anything else of a function's is the function's business."""
        return self.value(value) if self.leads_back(value) else value

    def leads_back(self, value: Any) -> bool:
        """Whether a value leads into the tree."""
        return any(id(found) in self.tree for found in _followed(value))

    def weak(self, value: Any) -> Any:
        """A weak reference to the twin."""
        target = value() if isinstance(value, weakref.ReferenceType) else _behind(value)
        if not isinstance(target, nn.Module):
            return value
        copy = self.module(target)
        self.kept.append(copy) if copy is not self.done.get(id(self.root)) else None
        return weakref.ref(copy) if isinstance(value, weakref.ReferenceType) else weakref.proxy(copy)

    def object(self, value: Any, kind: type) -> Any:
        """An object of a class of the user's that leads to a module or a tensor, copied."""
        if not _is_walked(value) or not any(isinstance(found, nn.Module | Tensor) for found in _followed(value)):
            return value
        try:
            copy = copies.copy(value)
        except Exception:  # the user's class: whatever it raises, it cannot be copied
            return value
        if copy is value:
            return value
        self.done[id(value)] = copy
        for name, item in _attributes(value):
            if type(item) not in ATOMS:
                object.__setattr__(copy, name, self.value(item))
        if isinstance(copy, dict):
            for key, item in list(value.items()):
                dict.__setitem__(copy, key, self.value(item))
        elif isinstance(copy, list):
            list.__setitem__(copy, slice(None), [self.value(item) for item in value])
        return copy

    def check_leads_nowhere(self, value: Any, where: str) -> None:
        """Refuse what stayed as it was and leads straight to a module of the tree."""
        if type(value) in FOLLOWED or isinstance(value, type):
            return
        is_closed = type(value).__module__ in CLOSED
        for found in gc.get_referents(value) if is_closed or callable(value) else ():
            led = list(_followed(found)) if is_closed else [getattr(found, "__self__", found)]
            if any(isinstance(one, nn.Module) and id(one) in self.tree for one in led):
                raise UnsupportedModuleError(
                    f"{where}, a {type(value).__name__}, leads back to the module, and cannot be copied: "
                    "the module would run in its own mode and dtype.\n"
                    "Keep a bound method, a functools.partial or a function instead."
                )


PROXIES = weakref.ProxyTypes
CLOSED = ("builtins", "itertools", "operator", "_operator", "functools")  # whose objects cannot be looked into from Python
CONTAINERS = frozenset({list, dict, tuple, set, frozenset, collections.OrderedDict, collections.defaultdict, collections.deque})
FOLLOWED = CONTAINERS | {types.FunctionType, types.MethodType, types.BuiltinMethodType, functools.partial}


def _view(tensor: Tensor) -> Tensor:
    """A view with a gradient, wherever it is made."""
    with torch.enable_grad():
        return tensor.view_as(tensor)


def _as_parameter(tensor: Tensor) -> Tensor:
    """A tensor that passes for an `nn.Parameter`."""
    tensor._is_param = True  # type: ignore[attr-defined]  (what isinstance(…, nn.Parameter) asks of a tensor)
    return tensor


def _plain(items: Iterable[Any]) -> bool:
    return all(type(item) in ATOMS for item in items)


def _content(cell: types.CellType) -> tuple[Any, bool]:
    try:
        return cell.cell_contents, True
    except ValueError:  # not yet filled
        return None, False


def _globals_used(function: types.FunctionType) -> dict[str, Any]:
    """The modules, methods, partials and functions beside it that a function of the user's finds among its global names."""
    space = function.__globals__
    place = space.get("__name__")
    if str(place).partition(".")[0] in LEFT_ALONE - {"__main__"}:
        return {}
    found = {name: space[name] for name in _names(function.__code__) if name in space}
    kinds = nn.Module | types.MethodType | functools.partial
    return {
        name: item
        for name, item in found.items()
        if isinstance(item, kinds) or (isinstance(item, types.FunctionType) and item.__globals__.get("__name__") == place)
    }


@functools.lru_cache(maxsize=1000)
def _names(code: types.CodeType) -> frozenset[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return frozenset(code.co_names).union(*inner)


def _behind(proxy: Any) -> Any:
    """What a weak proxy stands for, None once that is gone."""
    try:
        return proxy.__repr__.__self__
    except (ReferenceError, AttributeError):
        return None


def _is_walked(value: Any) -> bool:
    """Whether an object's attributes are followed: one of a class of the user's, that holds no resource to be closed."""
    kind = type(value)
    if kind.__name__ in NAMESPACES:
        return True
    foreign = kind.__module__.partition(".")[0] in LEFT_ALONE
    return not foreign and not isinstance(value, type | torch.utils.data.Dataset) and not hasattr(kind, "__del__")


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield name, getattr(value, name)


def _followed(value: Any) -> Iterator[Any]:
    """The modules and tensors that a value leads to, by cells, defaults, arguments, items and attributes; not what is in those."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        if type(value) in ATOMS or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module | Tensor) and type(value) not in PROXIES:
            yield value
        else:
            stack += parts_of(value)


def parts_of(value: Any) -> list[Any]:
    """What a value leads to in one step: cells, defaults, arguments, items, attributes."""
    if isinstance(value, types.FunctionType):
        cells = [_content(cell)[0] for cell in value.__closure__ or ()]
        cells += _globals_used(value).values()
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *value.__dict__.values()]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.BuiltinMethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, functools._lru_cache_wrapper):
        return [value.__wrapped__]
    if isinstance(value, weakref.ReferenceType):
        return [value()]
    if type(value) in PROXIES:
        return [_behind(value)]
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else []
    if isinstance(value, list | tuple | set | frozenset | collections.deque):
        items = list(value)
    return [*items, *(item for _, item in _attributes(value))] if _is_walked(value) else items
