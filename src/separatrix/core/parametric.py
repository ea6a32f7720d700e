"""Objects with named parameters that broadcast against the batch and can be replaced in a copy."""

import copy
import re
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, ShapeError
from separatrix.core.twin import own_leaves, parameters_as_buffers, twin

Number = float | Tensor


class Parametric(nn.Module):
    """Base of objects with named parameters that broadcast against the batch and can be replaced in a copy."""

    def __init__(self) -> None:
        super().__init__()
        self._ranks: dict[str, int] = {}

    def hold(self, *, rank: int = 0, **parameters: Number) -> None:
        """Keep parameters as attributes: numbers stay numbers, tensors follow `.to()` and keep their graph.

        Args:
            rank: number of trailing axes that belong to each parameter itself (0: a number, 2: a matrix); the rest are batch axes.
        """
        for name, value in parameters.items():
            self._ranks[name] = rank
            self.__dict__.pop(name, None)
            self._buffers.pop(name, None)
            if isinstance(value, Tensor):
                self.register_buffer(name, value, persistent=False)
            else:
                self.__dict__[name] = value

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The broadcast of the batch axes of all parameters; the batch of a run is its broadcast with that of x0."""
        own = [
            value.shape[: value.ndim - rank]
            for name, rank in self._ranks.items()
            if isinstance(value := getattr(self, name), Tensor)
        ]
        return np.broadcast_shapes(*own, *(child.batch_shape for child in self._parametric_children()))

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Every name that `at` accepts."""
        return (*self._ranks, *(name for child in self._parametric_children() for name in child.parameter_names))

    def at(self, **parameters: Number) -> Self:
        """A copy with parameters replaced. Gradients reach the new values; this object is unchanged.

        Args:
            parameters: new values, numbers or tensors. A tensor may have batch axes that the old value did not have. A single
                number of an array is named by its index: at(**{"constant[0]": 0.5}) or at(**{"weight_hh_l0[2,1]": 0.5}).

        Raises:
            InputError: there is no parameter of that name.
            ShapeError: the shape of an array differs from that of the old one, or the index is out of range.
        """
        other = twin(self)
        for name, value in parameters.items():
            if not other._replace(name, value):
                known = ", ".join(self.parameter_names) or "none"
                raise InputError(f"{type(self).__name__} has no parameter {name!r}; its parameters are: {known}.")
        return other

    def _replace(self, name: str, value: Number) -> bool:
        name, index = place_of(name)
        if name in self._ranks:
            self.__dict__["_ranks"] = dict(self._ranks)
            rank, old = self._ranks[name], getattr(self, name)
            if rank and isinstance(old, Tensor):
                value = _as_array(name, old, value, rank) if index is None else _with_one(name, old, value, rank, index)
            elif index is not None:
                raise InputError(f"the parameter {name!r} is a number, which has no index.\nName it without [{_joined(index)}].")
            self.hold(rank=rank, **{name: value})
            if rank and isinstance(old, Tensor) and isinstance(value, Tensor) and value.dtype != old.dtype:
                self._raise_to(value.dtype)
            return True
        return any(child._replace(_named(name, index), value) for child in self._parametric_children())

    def _raise_to(self, dtype: torch.dtype) -> None:
        """Cast the other arrays to the precision of a new one, so that they can be multiplied by it."""
        for name, held in self._buffers.items():
            if name in self._ranks and held is not None and held.is_floating_point():
                self._buffers[name] = held.to(torch.promote_types(held.dtype, dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As in `nn.Module`, but the tensors of the modules from which this one was built stay unchanged."""
        with parameters_as_buffers(self):
            return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with parameters of its own."""
        memo |= {key: leaf for key, leaf in own_leaves(self).items() if key not in memo}
        other = object.__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def _parametric_children(self) -> "list[Parametric]":
        return [child for child in self.children() if isinstance(child, Parametric)]


def place_of(name: str) -> tuple[str, tuple[int, ...] | None]:
    """The array and the index in a name like "constant[0]" or "weight_hh_l0[2,1]"; None for a name without an index."""
    found = re.fullmatch(r"(\w+)\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]", name)
    return (found[1], tuple(int(i) for i in found[2].split(","))) if found else (name, None)


def _named(name: str, index: tuple[int, ...] | None) -> str:
    return name if index is None else f"{name}[{_joined(index)}]"


def _joined(index: tuple[int, ...]) -> str:
    return ",".join(map(str, index))


def _as_array(name: str, old: Tensor, value: Any, rank: int) -> Tensor:
    """A new value for an array, which must have the shape of the old one after its batch axes."""
    new, own = torch.as_tensor(value), tuple(old.shape[old.ndim - rank :])
    if tuple(new.shape[max(new.ndim - rank, 0) :]) != own:
        raise ShapeError(
            f"the parameter {name!r} is an array of shape {own}, but the new value has shape {tuple(new.shape)}.\n"
            f"Pass the full array, with batch axes first, or name one of its numbers: {_named(name, (0,) * rank)!r}."
        )
    return new


def _with_one(name: str, old: Tensor, value: Number, rank: int, index: tuple[int, ...]) -> Tensor:
    """An array with one number replaced; the batch axes of the new number come first."""
    own = old.shape[old.ndim - rank :]
    if len(index) != rank or any(i >= size for i, size in zip(index, own, strict=True)):
        raise ShapeError(f"the parameter {name!r} is an array of shape {tuple(own)}; the index [{_joined(index)}] is out of range.")
    mask = torch.zeros(own, dtype=torch.bool, device=old.device)
    mask[index] = True
    new = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64, device=old.device)
    dtype = torch.promote_types(new.dtype, old.dtype)
    return torch.where(mask, new.to(dtype).reshape(*new.shape, *[1] * rank), old.to(dtype))
