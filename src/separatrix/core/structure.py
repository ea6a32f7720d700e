"""Tensors in nested containers, such as the arguments of models and the states of cells: extracted in order, and put back.

Containers are tuples, named tuples, lists, mappings of any class, dataclasses, packed sequences, and classes registered with
PyTorch's pytrees. The tensors of a mapping come in the order of its sorted keys, so the order of insertion does not matter.
"""

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree

Nested = Any  # a tensor, or containers of tensors


def leaves(value: Nested) -> list[Tensor]:
    """The tensors in a nested value, in order; for a packed sequence, only its data."""
    found: list[Tensor] = []
    mapped(lambda tensor: found.append(tensor) or tensor, value)
    return found


def refilled(value: Nested, tensors: Iterator[Tensor]) -> Nested:
    """The same containers holding other tensors: the inverse of `leaves`."""
    return mapped(lambda _: next(tensors), value)


def mapped(change: Callable[[Tensor], Any], value: Nested, otherwise: Callable[[Any], Any] = lambda leaf: leaf) -> Nested:
    """A nested value with `change` applied to its tensors and `otherwise` to its other leaves; classes are kept."""
    if isinstance(value, Tensor):
        return change(value)
    parts = children(value)
    if parts is None:
        return otherwise(value)
    return rebuilt(value, [mapped(change, part, otherwise) for _, part in parts])


def children(value: Any) -> list[tuple[str, Any]] | None:
    """The parts of a container by name, in order; None if the value is not a container."""
    if isinstance(value, PackedSequence):
        return [("data", value.data)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return [(str(i), part) for i, part in enumerate(value)]
    if isinstance(value, Mapping):
        return [(str(key), value[key]) for key in sorted_keys(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if type(value) in _pytree.SUPPORTED_NODES:
        return [(str(i), part) for i, part in enumerate(_pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)[0])]
    return None


def rebuilt(value: Any, parts: list[Any]) -> Any:
    """A container of the same class with other parts, in the order of `children`."""
    if isinstance(value, PackedSequence):
        return PackedSequence(parts[0], value.batch_sizes, value.sorted_indices, value.unsorted_indices)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)._make(parts)
    if isinstance(value, tuple | list):
        return type(value)(parts)
    if isinstance(value, Mapping):
        return _mapping_like(value, dict(zip(sorted_keys(value), parts, strict=True)))
    if dataclasses.is_dataclass(value):
        return _dataclass_like(value, parts)
    node = _pytree.SUPPORTED_NODES[type(value)]
    return node.unflatten_fn(parts, node.flatten_fn(value)[1])


def sorted_keys(value: Mapping[Any, Any]) -> list[Any]:
    """The keys of a mapping in the order of `children`."""
    return sorted(value, key=lambda key: (type(key).__name__, str(key)))


def _mapping_like(value: Mapping[Any, Any], content: dict[Any, Any]) -> Any:
    """A mapping of the same class and order; a user's class is copied and refilled."""
    ordered = {key: content[key] for key in value}
    if isinstance(value, defaultdict):
        return defaultdict(value.default_factory, ordered)
    if type(value).__init__ is dict.__init__:
        return type(value)(ordered)
    other = copy.copy(value)
    if hasattr(value, "data") and other.data is value.data:  # the copy shares the wrapped dictionary
        other.data = dict(value.data)
    for key, part in ordered.items():
        other[key] = part
    return other


def _dataclass_like(value: Any, parts: list[Any]) -> Any:
    """A dataclass with other field values, set without its __init__."""
    other = copy.copy(value)
    for field, part in zip(dataclasses.fields(value), parts, strict=True):
        object.__setattr__(other, field.name, part)
    return other


def as_pairs(z: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, on a last axis twice as long: Re z₁, Im z₁, Re z₂, …"""
    return torch.stack([z.real, z.imag], dim=-1).flatten(-2)


def from_pairs(x: Tensor) -> Tensor:
    """The inverse of `as_pairs`."""
    pairs = x.unflatten(-1, (-1, 2))
    return torch.complex(pairs[..., 0], pairs[..., 1])
