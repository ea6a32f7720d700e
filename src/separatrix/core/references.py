"""References of a Python value: cells, defaults, arguments, items and attributes, followed as far as modules and tensors."""

import collections
import functools
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), type, range, slice, type(Ellipsis), types.ModuleType}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
"""Types whose values refer to no module or tensor."""
PROXIES = weakref.ProxyTypes
LEFT_ALONE = frozenset(sys.stdlib_module_names) | {
    *("torch", "numpy", "separatrix", "lightning", "lightning_fabric", "pytorch_lightning", "accelerate", "wandb", "tensorboard")
}
"""Packages whose objects are not inspected."""
NAMESPACES = ("SimpleNamespace", "Namespace")


def modules_and_tensors(value: Any) -> Iterator[Any]:
    """The modules and tensors that a value refers to, directly or indirectly; their own references are not followed."""
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
    """The direct references of a value: cells, defaults, arguments, items, attributes."""
    if isinstance(value, types.FunctionType):
        cells = [content(cell)[0] for cell in value.__closure__ or ()]
        cells += globals_used(value).values()
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
        return [behind(value)]
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else []
    if isinstance(value, list | tuple | set | frozenset | collections.deque):
        items = list(value)
    return [*items, *(item for _, item in attributes(value))] if is_followed(value) else items


def content(cell: types.CellType) -> tuple[Any, bool]:
    """The content of a cell, and whether it has any."""
    try:
        return cell.cell_contents, True
    except ValueError:
        return None, False


def globals_used(function: types.FunctionType) -> dict[str, Any]:
    """The modules, methods, partials and functions of the same file that a user's function refers to by global names."""
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


def behind(proxy: Any) -> Any:
    """The object behind a weak proxy; None if it no longer exists."""
    try:
        return proxy.__repr__.__self__
    except (ReferenceError, AttributeError):
        return None


def is_followed(value: Any) -> bool:
    """Whether the attributes of an object are followed: it is of a user's class and holds no resource that must be closed."""
    kind = type(value)
    if kind.__name__ in NAMESPACES:
        return True
    foreign = kind.__module__.partition(".")[0] in LEFT_ALONE
    return not foreign and not isinstance(value, type | torch.utils.data.Dataset) and not hasattr(kind, "__del__")


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object by name, slots included."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield name, getattr(value, name)
