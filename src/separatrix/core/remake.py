"""Values kept by a module, remade to refer to the module's twin: a table of functions by type.

Each entry is a function (twin, value) that returns the value itself if nothing in it changes.
"""

# Note [The original cannot be reached]
# Besides parameters, buffers and children, a module may keep values that refer back to it: a bound method in a table, a partial, a
# lambda over `self`, a hook, a plain list of layers, the module above it. If a twin kept these, it would call the user's own
# module, in that module's mode and dtype. So everything that an attribute holds is followed, and whatever refers to a module is
# remade to refer to its twin; cycles end where they began. A function is remade, with cells of its own, only if it refers to the
# tree: functions that the user closed over other modules stay as they are. A value that refers back to the tree and cannot be
# remade is refused.

import collections
import copy as copies
import functools
import gc
import random
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.references import (
    ATOMS,
    PROXIES,
    attributes,
    behind,
    content,
    globals_used,
    is_followed,
    modules_and_tensors,
)


class Twins(Protocol):
    """The twin of a tree, as far as the functions below need it."""

    apart: bool
    done: dict[int, Any]

    def value(self, value: Any) -> Any:
        """What replaces a value."""
        ...

    def reference(self, module: nn.Module) -> nn.Module:
        """The twin of a module that is only referred to weakly."""
        ...

    def is_in_tree(self, value: Any) -> bool:
        """Whether a module or a tensor belongs to the tree."""
        ...

    def leads_back(self, value: Any) -> bool:
        """Whether a value refers to the tree."""
        ...


def remade(twin: Twins, value: Any) -> Any:
    """A value that refers to twins instead of the tree; the value itself if it refers to nothing in the tree."""
    change = BY_TYPE.get(type(value)) or next(change for base, change in BY_BASE if isinstance(value, base))
    return change(twin, value)


def from_parts(twin: Twins, value: Any, parts: Iterable[Any], build: Callable[[list[Any]], Any]) -> Any:
    """A value built from its remade parts; the value itself if none of them changed."""
    old = tuple(parts)
    new = [twin.value(part) for part in old]
    return value if all(a is b for a, b in zip(new, old, strict=True)) else build(new)


def frozen_items(twin: Twins, value: Any) -> Any:
    """A tuple or frozen set."""
    return from_parts(twin, value, value, type(value))


def named_tuple(twin: Twins, value: Any) -> Any:
    """A named tuple; other subclasses of tuple stay as they are."""
    return from_parts(twin, value, value, lambda parts: type(value)._make(parts) if hasattr(value, "_make") else value)


def sequence(twin: Twins, value: Any) -> Any:
    """A list, set or queue, always a copy."""
    copy = twin.done[id(value)] = copies.copy(value)
    if not _only_atoms(value):
        items = [twin.value(item) for item in value]
        copy.clear()
        (copy.update if type(value) is set else copy.extend)(items)
    return copy


def mapping(twin: Twins, value: Any) -> Any:
    """A dictionary, always a copy."""
    copy = twin.done[id(value)] = copies.copy(value)
    if not (_only_atoms(value.values()) and _only_atoms(value)):
        copy.clear()
        copy.update((twin.value(key), twin.value(item)) for key, item in value.items())
    return copy


def method(twin: Twins, value: types.MethodType) -> Any:
    """A bound method."""
    return from_parts(twin, value, (value.__func__, value.__self__), lambda parts: types.MethodType(*parts))


def builtin_method(twin: Twins, value: types.BuiltinMethodType) -> Any:
    """A bound method written in C, such as `tensor.add`."""
    return from_parts(twin, value, (value.__self__,), lambda parts: getattr(parts[0], value.__name__))


def partial(twin: Twins, value: "functools.partial[Any]") -> Any:
    """A functools.partial."""
    named, count = value.keywords, 1 + len(value.args)
    parts = (value.func, *value.args, *named.values())
    return from_parts(twin, value, parts, lambda new: functools.partial(*new[:count], **dict(zip(named, new[count:], strict=True))))


def cached(twin: Twins, value: Any) -> Any:
    """A function with a cache, which starts empty."""
    return from_parts(twin, value, (value.__wrapped__,), lambda new: functools.lru_cache(**value.cache_parameters())(new[0]))


def function(twin: Twins, value: types.FunctionType) -> Any:
    """A function that refers to the tree, with its own cells, defaults and global names."""
    if not twin.leads_back(value):
        return value
    if hasattr(value, "_torchdynamo_orig_callable"):  # compiled, with the module bound in
        return twin.value(value._torchdynamo_orig_callable)
    cells = [twin.done.setdefault(id(cell), types.CellType()) for cell in value.__closure__ or ()]
    outside = {name: item for name, item in globals_used(value).items() if twin.leads_back(item)}
    space = {**value.__globals__, **outside} if outside else value.__globals__
    copy = types.FunctionType(value.__code__, space, value.__name__, None, tuple(cells))
    twin.done[id(value)] = copy  # before its parts, which may refer to it
    space.update({name: twin.value(item) for name, item in outside.items()})
    _describe(twin, copy, value)
    for cell, new in zip(value.__closure__ or (), cells, strict=True):
        held, is_full = content(cell)
        if is_full and not content(new)[1]:
            new.cell_contents = _if_back(twin, held)
    return copy


def _describe(twin: Twins, copy: types.FunctionType, value: types.FunctionType) -> None:
    """Give a function's copy its names, defaults and attributes."""
    copy.__qualname__, copy.__doc__, copy.__module__ = value.__qualname__, value.__doc__, value.__module__
    copy.__defaults__ = None if value.__defaults__ is None else tuple(_if_back(twin, item) for item in value.__defaults__)
    copy.__kwdefaults__ = value.__kwdefaults__ and {name: _if_back(twin, v) for name, v in value.__kwdefaults__.items()}
    copy.__dict__.update({name: _if_back(twin, item) for name, item in value.__dict__.items()})


def _if_back(twin: Twins, value: Any) -> Any:
    """A part of a function: remade if it refers to the tree."""
    return twin.value(value) if twin.leads_back(value) else value


def weak_reference(twin: Twins, value: "weakref.ReferenceType[Any]") -> Any:
    """A weak reference to a module."""
    target = value()
    return weakref.ref(twin.reference(target)) if isinstance(target, nn.Module) else value


def weak_proxy(twin: Twins, value: Any) -> Any:
    """A weak proxy of a module."""
    target = behind(value)
    return weakref.proxy(twin.reference(target)) if isinstance(target, nn.Module) else value


def torch_generator(twin: Twins, value: torch.Generator) -> Any:
    """A generator of PyTorch, in the same state."""
    return value.clone_state() if twin.apart else value


def other_generator(twin: Twins, value: Any) -> Any:
    """A generator of NumPy or Python, in the same state."""
    return copies.deepcopy(value) if twin.apart else value


def instance(twin: Twins, value: Any) -> Any:
    """An object of a user's class that refers to a module or a tensor, copied with its attributes and items remade."""
    if not is_followed(value) or not any(isinstance(found, nn.Module | Tensor) for found in modules_and_tensors(value)):
        return value
    try:
        copy = copies.copy(value)
    except Exception:  # raised by the user's class, which cannot be copied
        return value
    if copy is value:
        return value
    twin.done[id(value)] = copy
    for name, item in attributes(value):
        if type(item) not in ATOMS:
            object.__setattr__(copy, name, twin.value(item))
    if isinstance(copy, dict):
        for key, item in list(value.items()):
            dict.__setitem__(copy, key, twin.value(item))
    elif isinstance(copy, list):
        list.__setitem__(copy, slice(None), [twin.value(item) for item in value])
    return copy


Change = Callable[[Any, Any], Any]

CONTAINERS: dict[type, Change] = {
    tuple: frozen_items,
    frozenset: frozen_items,
    list: sequence,
    set: sequence,
    collections.deque: sequence,
    dict: mapping,
    collections.OrderedDict: mapping,
    collections.defaultdict: mapping,
}
CALLABLES: dict[type, Change] = {
    types.FunctionType: function,
    types.MethodType: method,
    types.BuiltinMethodType: builtin_method,
    functools.partial: partial,
}
BY_TYPE = CONTAINERS | CALLABLES | {functools._lru_cache_wrapper: cached} | dict.fromkeys(PROXIES, weak_proxy)
"""How a value of exactly this type is remade."""
BY_BASE: tuple[tuple[Any, Change], ...] = (
    (weakref.ReferenceType, weak_reference),
    (torch.Generator, torch_generator),
    ((np.random.Generator, np.random.RandomState, random.Random), other_generator),
    (tuple, named_tuple),
    (object, instance),
)
"""How a value of any other type is remade; the first base class that fits counts."""

CLOSED = ("builtins", "itertools", "operator", "_operator", "functools")  # modules whose objects Python cannot inspect


def check_leads_nowhere(twin: Twins, value: Any, where: str) -> None:
    """Refuse a value that was not remade although it refers directly to a module of the tree."""
    if type(value) in CONTAINERS or type(value) in CALLABLES or isinstance(value, type):
        return
    is_closed = type(value).__module__ in CLOSED
    for found in gc.get_referents(value) if is_closed or callable(value) else ():
        led = list(modules_and_tensors(found)) if is_closed else [getattr(found, "__self__", found)]
        if any(isinstance(one, nn.Module) and twin.is_in_tree(one) for one in led):
            raise UnsupportedModuleError(
                f"{where}, a {type(value).__name__}, refers back to the module and cannot be copied, so the module would run in "
                "its own mode and dtype.\nStore a bound method, a functools.partial or a function instead."
            )


def _only_atoms(items: Iterable[Any]) -> bool:
    return all(type(item) in ATOMS for item in items)
