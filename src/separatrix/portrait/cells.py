"""A part that is called step by step and carries its state from call to call, as a cell (u, state) → state."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from separatrix.core.structure import children, rebuilt, sorted_keys
from separatrix.portrait.recording import Call

Path = tuple[Any, ...]  # the place of a tensor in the arguments or the return value of a call

# Note [The cell in the calls]
# The calls of a part show what its state is: the arguments that equal, number for number, tensors returned by the previous call.
# All other arguments with a batch axis are inputs, whether they vary from step to step or not; those without one are fixed. So
# (x, h), (h, x), (x, h, c), (x, mask, h, step length), images as inputs and keyword arguments are all read in the same way, from
# at least two consecutive calls. If every argument was returned by the previous call, an output among them, the calls form a
# closed loop, which needs no input.


class CalledAs(nn.Module):
    """A user's cell with the signature (u, state) → state.

    Args:
        cell: the user's module.
        form: how it is called.
    """

    def __init__(self, cell: nn.Module, form: "Form") -> None:
        super().__init__()
        self.cell = cell
        self.form = form
        self.input_size = form.width or 1  # a closed loop ignores its input

    def forward(self, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The state after the input u, shape (batch, inputs)."""
        form = self.form
        pieces = () if form.is_closed else u.split([torch.Size(shape).numel() for shape in form.shapes], dim=-1)
        inputs = (piece.reshape(len(u), *shape) for piece, shape in zip(pieces, form.shapes, strict=True))
        found = {**dict(zip(form.inputs, inputs, strict=True)), **dict(zip(form.carried, state, strict=True))}
        fixed = {path: self._fixed(value, u) for path, value in leaves(form.fixed)}
        given = refilled(form.fixed, (), {**fixed, **found})
        args, named = _call_of(self.cell, given)
        returned = self.cell(*args, **named)
        return tuple(at(returned, path) for path in form.returned)

    def _fixed(self, value: Tensor, u: Tensor) -> Tensor:
        """A fixed argument, cast to the dtype of u; one constant per item is repeated."""
        value = value.to(u.device, u.dtype if value.is_floating_point() else None)
        for_each = value.ndim == 1 and len(value) == self.form.items and bool((value == value[0]).all())
        return value[:1].expand(len(u)) if for_each else value

    def example_state(self) -> tuple[Tensor, ...]:
        """A state of zeros without the batch axis."""
        return tuple(torch.zeros(shape) for shape in self.form.state_shapes)


@dataclass(frozen=True)
class Form:
    """How a cell is called, read from its calls.

    Args:
        fixed: the arguments of a call, by name; the tensors among them that are inputs or state are replaced.
        inputs, shapes: paths of the inputs, and their shapes without the batch axis.
        carried, state_shapes: paths of the state's tensors, and their shapes without the batch axis.
        returned: paths of the new state's tensors in the return value of the cell.
        items: number of items in a batch.
    """

    fixed: dict[str, Any]
    inputs: tuple[Path, ...]
    shapes: tuple[tuple[int, ...], ...]
    carried: tuple[Path, ...]
    state_shapes: tuple[tuple[int, ...], ...]
    returned: tuple[Path, ...]
    items: int

    @property
    def width(self) -> int:
        """Length of an input vector."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def is_closed(self) -> bool:
        """Whether the cell receives only what it returned, output and state."""
        return not self.shapes and len(self.carried) > 1

    @property
    def is_plain(self) -> bool:
        """Whether the cell is already called as (u, state), with a vector as input."""
        names = list(self.fixed)
        others = [value for value in list(self.fixed.values())[2:] if value is not None]
        in_order = [path for path, _ in leaves(self.fixed[names[1]], (names[1],))] if len(names) > 1 else []
        return self.inputs == ((names[0],),) and len(self.shapes[0]) == 1 and list(self.carried) == in_order and not others

    def read(self, call: Call) -> Tensor:
        """The input vectors of a call, (batch, inputs)."""
        parts = [at(call.given, path) for path in self.inputs]
        return torch.cat([part.reshape(len(part), -1).to(torch.promote_types(part.dtype, torch.float32)) for part in parts], dim=-1)

    def state(self, call: Call) -> tuple[Tensor, ...]:
        """The state that a call received."""
        return tuple(at(call.given, path) for path in self.carried)


def form_of(calls: Sequence[Call]) -> Form | None:
    """How a part that is called step by step takes its input and its state; None if no state is carried from call to call."""
    if len(calls) < 2:
        return None
    later = [dict(leaves_of_call(call.given)) for call in calls[1:]]
    before = [dict(leaves(call.returned)) for call in calls[:-1]]
    first = dict(leaves_of_call(calls[0].given))
    if any(set(one) != set(later[0]) for one in later) or any(set(one) != set(before[0]) for one in before):
        return None
    carried = {path: source for path in later[0] if (source := _source(path, later, before)) is not None}
    if not carried:
        return None
    items = len(later[0][next(iter(carried))]) if later[0][next(iter(carried))].ndim else 0
    if items == 0 or any(later[0][path].ndim == 0 or len(later[0][path]) != items for path in carried):
        return None
    rest = {path: leaf for path, leaf in later[0].items() if path not in carried}
    batched = [path for path, leaf in rest.items() if leaf.ndim >= 2 and len(leaf) == items and leaf.is_floating_point()]
    varying = [path for path in rest if path not in batched and any(not _equal(one[path], later[0][path]) for one in later)]
    if varying or any(path in first and path not in later[0] for path in batched):
        return None
    return Form(
        fixed=dict(calls[1].given),
        inputs=tuple(batched),
        shapes=tuple(tuple(later[0][path].shape[1:]) for path in batched),
        carried=tuple(carried),
        state_shapes=tuple(tuple(later[0][path].shape[1:]) for path in carried),
        returned=tuple(carried.values()),
        items=items,
    )


def _source(path: Path, later: list[dict[Path, Tensor]], before: list[dict[Path, Tensor]]) -> Path | None:
    """The path of the returned tensor that is this argument of the next call, at every call."""
    if not later[0][path].is_floating_point() and not later[0][path].is_complex():
        return None
    matching = (source for source in before[0] if all(_equal(b[source], a[path]) for b, a in zip(before, later, strict=True)))
    return next(matching, None)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def leaves(value: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """The tensors in nested arguments, with their paths."""
    if isinstance(value, Tensor):
        return [(path, value)]
    return [leaf for key, part in parts_of(value) for leaf in leaves(part, (*path, key))]


def parts_of(value: Any) -> list[tuple[Any, Any]]:
    """The parts of a container in the order of `children`, by the keys of a mapping, else by name or number."""
    if isinstance(value, PackedSequence):
        return []
    return [(key, value[key]) for key in sorted_keys(value)] if isinstance(value, Mapping) else children(value) or []


def leaves_of_call(given: dict[str, Any]) -> list[tuple[Path, Tensor]]:
    """The tensors that a call receives, in the order of its arguments."""
    return [leaf for name, part in given.items() for leaf in leaves(part, (name,))]


def refilled(value: Any, path: Path, made: Mapping[Path, Any]) -> Any:
    """The same containers, of the same classes, with new values at some paths."""
    if path in made:
        return made[path]
    parts = {key: refilled(part, (*path, key), made) for key, part in parts_of(value)}
    if not parts:
        return value
    return {key: parts[key] for key in value} if type(value) is dict else rebuilt(value, list(parts.values()))


def at(value: Any, path: Path) -> Any:
    """The value at a path in nested arguments."""
    for key in path:
        value = dict(parts_of(value))[key]
    return value


def _call_of(cell: nn.Module, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Named arguments as a call: by position as far as possible, because hooks look there, then by name."""
    if all(name.isdigit() for name in given):
        return tuple(given.values()), {}
    left = dict(given)
    args = []
    for name, parameter in inspect.signature(cell.forward).parameters.items():
        if name not in left or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            break
        args.append(left.pop(name))
    return tuple(args), left
