"""Plain attributes of networks, besides parameters, buffers and children; they must be equal throughout an ensemble."""

import types
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.references import ATOMS, parts_of
from separatrix.core.twin import MODULES_OWN

Leaf = tuple[str, Any]
NOTHING: Leaf = ("", None)


def difference(one: nn.Module, other: nn.Module) -> tuple[str, str, str] | None:
    """The first plain attribute in which two networks differ, with both values; None if there is none.

    It compares numbers, strings, functions, and modules and tensors that are not registered, also inside lists, dictionaries,
    partials and closures. References to a network's own parts are equal if they refer to the same part.
    """
    for (place, a), (_, b) in zip_longest(_Kept(one).leaves(), _Kept(other).leaves(), fillvalue=NOTHING):
        if not _same(a, b):
            return place, _shown(a), _shown(b)
    return None


class _Kept:
    def __init__(self, module: nn.Module) -> None:
        self.module = module
        tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
        self.own = {id(part): name for name, part in (*tensors, *module.named_modules())}
        self.seen: set[int] = set()

    def leaves(self) -> Iterator[Leaf]:
        """The values of all plain attributes, each with its place."""
        for name, part in self.module.named_modules():
            yield from self.attributes(name, part)

    def attributes(self, place: str, module: nn.Module) -> Iterator[Leaf]:
        for name in sorted(vars(module).keys() - MODULES_OWN - {"_compiled_call_impl"}):
            yield from self.of(f"{place}.{name}".strip("."), vars(module)[name])

    def of(self, place: str, value: Any) -> Iterator[Leaf]:
        if id(value) in self.own:
            yield place, f"own {self.own[id(value)]}"
        elif type(value) in ATOMS or isinstance(value, Tensor | np.ndarray):
            yield place, value
        elif id(value) not in self.seen:
            self.seen.add(id(value))
            yield from self.inside(place, value)

    def inside(self, place: str, value: Any) -> Iterator[Leaf]:
        yield place, type(value)
        if isinstance(value, nn.Module):
            for name, tensor in value.state_dict().items():
                yield f"{place}.{name}", tensor
            for name, part in value.named_modules():
                yield from self.attributes(f"{place}.{name}".strip("."), part)
        elif isinstance(value, types.FunctionType):
            yield place, value.__code__
        elif isinstance(value, types.BuiltinFunctionType) and not isinstance(value.__self__, Tensor | nn.Module):
            yield place, value
            return
        for n, part in enumerate(() if isinstance(value, nn.Module) else parts_of(value)):
            yield from self.of(f"{place}[{n}]", part)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


def _shown(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"an array of shape {tuple(value.shape)}" if value.ndim else repr(value.item())
    return getattr(value, "__qualname__", None) or repr(value)
