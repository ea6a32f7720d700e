"""Inputs of a model: one tensor or several, positional or by name, sequences or lists of them."""

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from separatrix.core.checks import as_numbers, check_all_finite
from separatrix.core.errors import InputError
from separatrix.core.structure import children, leaves, rebuilt, refilled
from separatrix.core.twin import twin
from separatrix.core.wrappers import unwrapped

MOST_TRIED = 4  # integer tensors up to which every choice of integer or floating point is tried
CLOSE = 1e-4  # tolerance between a sequence alone and in a batch, relative to the largest number: rounding of float32 sums

# Note [Which axis is the batch's]
# Sequences of unequal length are passed to a model one at a time, each as a batch of one, so the batch axis must be known. It is
# found by trying two sequences, cut to the same length. Stacked along the batch axis, they give the same answers as each alone.
# Stacked along another axis, they are read as one sequence, or each step as a separate sequence, and at least the second answer
# differs.


@contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """A context in which `torch.zeros(batch, hidden)`, written inside a model, has the dtype of its inputs."""
    before = torch.get_default_dtype()
    if dtype is None or dtype == before:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Arguments:
    """Arguments of one call of a model, with tensors cast to the model's dtype and device.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def call(self, model: nn.Module) -> Any:
        """The model's return value. The model receives copies, because it may write to its arguments."""
        tensors = self.tensors()
        given = self.with_tensors([tensor.clone() for tensor in tensors])
        with default_dtype(next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)):
            return model(*given.args, **given.kwargs)

    @property
    def shapes(self) -> str:
        """The arguments as text, for messages."""
        parts = [_words(value) for value in self.args]
        parts += [f"{name} = {_words(value)}" for name, value in self.kwargs.items()]
        return " and ".join(parts) or "nothing"

    @property
    def way_out(self) -> str:
        """Advice for a model that fails on these arguments."""
        if len(self.args) == 1 and not self.kwargs and isinstance(self.args[0], Mapping) and self.args[0]:
            names = [str(key) for key in self.args[0]]
            return (
                f"The forward has no argument named {' or '.join(names)}, so it received the dictionary. Pass the value of an "
                f"argument alone or under the argument's name; for a file with several arrays, pass file.npz:{names[0]}."
            )
        return "Pass inputs exactly as the model takes them, including the batch axis."

    def tensors(self) -> list[Tensor]:
        """All tensors in the arguments and their containers, in order; for a packed sequence, its data."""
        return leaves((self.args, list(self.kwargs.values())))

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Arguments":
        """The same arguments with other tensors: the inverse of `tensors`."""
        count = len(self.tensors())
        if len(tensors) != count:
            raise InputError(f"expected {count} tensors, got {len(tensors)}.")
        args, values = refilled((self.args, list(self.kwargs.values())), iter(tensors))
        return Arguments(args, dict(zip(self.kwargs, values, strict=True)))


def arguments_of(model: nn.Module, inputs: Any, *, dtype: torch.dtype | None = None) -> list[Arguments]:
    """Convert a user's inputs to calls of a model: one call, or several for a list of sequences of unequal length.

    A tensor, an array or a nested list of numbers is one positional argument; a tuple is several. A mapping holds keyword
    arguments if its keys are arguments of the model's forward; otherwise it is one argument. A named tuple, a dataclass and a
    packed sequence are one argument, unchanged. A list of sequences of equal length is one batch. Floating-point and complex
    tensors are cast to the model's precision. Integers stay integers if the model accepts them, which is tried. Booleans and
    values that are not tensors are passed on unchanged.

    Args:
        model: any module. Trial calls use its twin.
        inputs: the user's inputs.
        dtype: dtype of the floating-point tensors. Default: that of the model's first parameter.

    Raises:
        InputError: a number is not finite, a name is not an argument of the model's forward, or the model accepts a list in none
            of these forms.
    """
    model = unwrapped(model)
    if isinstance(inputs, Arguments):
        return [inputs]
    given = _read(inputs, "the inputs")
    if not isinstance(given, Tensor) and children(given) is None:
        given = as_numbers("the inputs", given, None)
    if isinstance(given, Tensor) and given.is_nested:
        given = list(given.unbind())
    reader = _Reader(model, dtype)
    if isinstance(given, list) and given and all(isinstance(part, Tensor) for part in given):
        return reader.of_list(given)
    if isinstance(given, list) and given and all(isinstance(part, tuple | Mapping) for part in given):
        kind = type(given[0]).__name__
        raise InputError(
            f"expected the arguments of one call, got a list of {len(given)} {kind}s, one for each call.\nPass one of them."
        )
    return [reader.of_one(given)]


@dataclass(frozen=True)
class _Reader:
    """Conversion of inputs to the arguments of one model."""

    model: nn.Module
    dtype: torch.dtype | None = None

    def of_one(self, given: Any) -> Arguments:
        """The arguments of one call."""
        placed = self._placed(given)
        if not placed.tensors():
            raise InputError(
                f"expected tensors in the inputs, got {placed.shapes}.\nPass a tensor, an array, or a tuple or dict of them."
            )
        for tensor in placed.tensors():
            if tensor.numel() == 0:
                raise InputError(f"the inputs are empty: shape {tuple(tensor.shape)}.")
        _refuse_infinite(self.model, placed)
        return self._with_integers(placed)

    def of_list(self, sequences: list[Tensor]) -> list[Arguments]:
        """The calls that read a list of sequences: one batch if they have equal lengths, one call for each, or the list itself."""
        for i, sequence in enumerate(sequences):
            check_all_finite(f"sequence {i} of the inputs", sequence)
            if sequence.ndim == 0 or sequence.numel() == 0:
                raise InputError(f"sequence {i} of the inputs is empty: shape {tuple(sequence.shape)}.")
        shapes = {tuple(sequence.shape[1:]) for sequence in sequences}
        if len(shapes) > 1:
            raise InputError(f"the steps of the sequences differ in shape: {', '.join(map(str, sorted(shapes)))}.")
        axis = self._batch_axis(sequences)
        if axis is not None:
            if len({len(sequence) for sequence in sequences}) == 1:
                return [self._with_integers(Arguments((torch.stack(sequences, dim=axis),)))]
            return [self._with_integers(Arguments((sequence.unsqueeze(axis),))) for sequence in sequences]
        listed = self._cast(Arguments((sequences,)))
        if self._runs(listed):
            return [listed]
        alone = [self._cast(Arguments((sequence,))) for sequence in sequences]
        if all(self._runs(one) for one in alone):
            return alone
        lengths = sorted({len(sequence) for sequence in sequences})
        raise InputError(
            f"{type(self.model).__name__} accepts neither the list of {len(sequences)} sequences of {lengths[0]} to {lengths[-1]} "
            f"steps (the first of shape {tuple(sequences[0].shape)}) nor each of them as a batch of one.\n"
            "Pass inputs exactly as the model takes them."
        )

    def _placed(self, given: Any) -> Arguments:
        """The inputs sorted into positional and keyword arguments."""
        if isinstance(given, tuple) and not hasattr(given, "_fields"):
            return Arguments(given)
        if not isinstance(given, Mapping):
            return Arguments((given,))
        names, takes_any = _parameters(self.model)
        unknown = [str(key) for key in given if key not in names]
        is_named = bool(given) and all(isinstance(key, str) for key in given)
        named, as_one = Arguments((), dict(given)), Arguments((given,))
        if not is_named or (len(unknown) == len(given) and not takes_any):
            return as_one
        if unknown and not takes_any:
            if self._runs(self._cast(as_one)):
                return as_one
            raise InputError(
                f"{type(self.model).__name__}'s forward has no argument {', '.join(map(repr, unknown))}.\n"
                f"Its arguments: {', '.join(names)}."
            )
        if len(names) == 1 and len(given) == 1 and not self._runs(self._cast(named)) and self._runs(self._cast(as_one)):
            return as_one
        return named

    def _with_integers(self, arguments: Arguments) -> Arguments:
        """The arguments with integers unchanged if the model accepts them, otherwise cast to floating point."""
        tensors = arguments.tensors()
        integers = [i for i, tensor in enumerate(tensors) if _is_integer(tensor)]
        as_given = self._cast(arguments)
        if not integers or (len(tensors) == 1 and _has_embedding(self.model)):
            return as_given
        choices = _choices(integers) if len(integers) <= MOST_TRIED else iter([(), tuple(integers)])
        tried = (self._cast(arguments, floating) for floating in choices)
        keeps_integers = len(tensors) > len(integers) or _has_embedding(self.model)
        default = as_given if keeps_integers else self._cast(arguments, tuple(integers))
        return next((one for one in tried if self._runs(one)), default)

    def _cast(self, arguments: Arguments, floating: tuple[int, ...] = ()) -> Arguments:
        """The arguments in the model's precision and on its device; integers at the indices `floating` become floating point."""
        tensors = arguments.tensors()
        return arguments.with_tensors([self._tensor(tensor, i in floating) for i, tensor in enumerate(tensors)])

    def _tensor(self, tensor: Tensor, is_floating: bool) -> Tensor:
        like = _like(self.model)
        dtype = self.dtype or like.dtype
        if tensor.is_complex():
            return tensor.detach().to(like.device, dtype.to_complex())
        cast = tensor.is_floating_point() or is_floating
        return tensor.detach().to(like.device, dtype if cast else tensor.dtype)

    def _runs(self, arguments: Arguments) -> bool:
        return self._answer(arguments) is not None

    def _answer(self, arguments: Arguments) -> list[Tensor] | None:
        """The tensors that the model's twin returns; None if it fails."""
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                copies = arguments.with_tensors([tensor.clone() for tensor in arguments.tensors()])
                return leaves(copies.call(twin(self.model, dtype=self.dtype)))
        except Exception:  # user code may raise anything: it does not accept these arguments
            return None

    def _batch_axis(self, sequences: list[Tensor]) -> int | None:
        """The batch axis of the model's inputs; None if there is none. See Note [Which axis is the batch's]."""
        length = min(len(sequence) for sequence in sequences)
        first = sequences[0][:length]
        other = next((one[:length] for one in sequences[1:] if not torch.equal(one[:length], first)), None)
        second = first.flip(0) if other is None else other
        preferred = (0, 1) if getattr(self.model, "batch_first", True) else (1, 0)
        return next((axis for axis in preferred if self._is_batch(first, second, axis)), None)

    def _is_batch(self, first: Tensor, second: Tensor, axis: int) -> bool:
        calls = [
            self._with_integers(Arguments((tensor,)))
            for tensor in (first.unsqueeze(axis), second.unsqueeze(axis), torch.stack([first, second], dim=axis))
        ]
        answers = [self._answer(call) for call in calls]
        if any(answer is None for answer in answers):
            return False
        return len({len(answer) for answer in answers}) == 1 and all(side_by_side(*parts) for parts in zip(*answers, strict=True))


def side_by_side(first: Tensor, second: Tensor, both: Tensor) -> bool:
    """Whether the answers to two single items, concatenated, equal the answer to both together."""
    return any(
        first.shape[axis] == 1
        and (joined := torch.cat([first, second], dim=axis)).shape == both.shape
        and torch.allclose(joined, both, rtol=CLOSE, atol=CLOSE * float(both.abs().max()), equal_nan=True)
        for axis in range(first.ndim)
        if first.shape == second.shape and both.numel()
    )


def _read(values: Any, name: str) -> Any:
    """A value with its arrays and lists of numbers as tensors, at any depth."""
    if isinstance(values, Tensor | PackedSequence):
        return values
    if isinstance(values, np.ndarray):
        return _read(list(values), name) if values.dtype == object and values.ndim else as_numbers(name, values, None)
    if isinstance(values, list):
        return _read_list(values, name)
    parts = children(values)
    if parts is None:
        return values
    return rebuilt(values, [_read(part, f"{name}, {key}") for key, part in parts])


def _read_list(values: list[Any], name: str) -> Any:
    """A list of numbers, or of rows of equal shape, as a tensor; otherwise the list of its parts."""
    if not any(isinstance(part, Tensor | np.ndarray) for part in values):
        with suppress(TypeError, ValueError, RuntimeError):
            return torch.as_tensor(values)
    parts = [_read(part, f"{name}, {i}") for i, part in enumerate(values)]
    rows = [part for part in parts if isinstance(part, Tensor)]
    flat = len(rows) == len(parts) > 0 and len({row.shape for row in rows}) == 1
    return torch.stack(rows) if flat and (rows[0].ndim == 0 or (rows[0].ndim == 1 and not _is_integer(rows[0]))) else parts


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _has_embedding(model: nn.Module) -> bool:
    """Whether a model has an embedding, which is indexed by integers."""
    return any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in model.modules())


def _choices(integers: list[int]) -> Iterator[tuple[int, ...]]:
    """Subsets of the integer tensors to cast to floating point: none, one, …, all."""
    return itertools.chain.from_iterable(itertools.combinations(integers, count) for count in range(len(integers) + 1))


def _like(model: nn.Module) -> Tensor:
    """A real tensor with the model's precision and device."""
    tensors = (t for t in model.parameters() if t.is_floating_point() or t.is_complex())
    first = next(tensors, torch.zeros(()))
    return first.detach().real if first.is_complex() else first


def _parameters(model: nn.Module) -> tuple[list[str], bool]:
    """Argument names of a model's forward, and whether it accepts any others."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return [], False
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _refuse_infinite(model: nn.Module, arguments: Arguments) -> None:
    """Refuse numbers that are not finite, naming the argument; a mask of zeros and −∞ passes if there are other arguments."""
    names = _parameters(model)[0]
    places = [repr(names[i]) if i < len(names) else f"{i + 1}" for i in range(len(arguments.args))]
    given = [*zip(places, arguments.args, strict=True), *((repr(name), value) for name, value in arguments.kwargs.items())]
    for place, value in given:
        for i, tensor in enumerate(found := leaves(value)):
            if len(arguments.tensors()) == 1:
                check_all_finite("the inputs", tensor)
            elif not _is_mask(tensor):
                check_all_finite(f"the argument {place}" + (f", tensor {i}," if len(found) > 1 else ""), tensor)


def _is_mask(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(((tensor == 0) | (tensor == -torch.inf)).all())


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)}, {value.dtype}"
    if isinstance(value, PackedSequence):
        return f"packed sequences of {tuple(value.data.shape)}, {value.data.dtype}"
    parts = children(value)
    if parts is None:
        return repr(value) if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
    return f"{type(value).__name__} of " + (" and ".join(_words(part) for _, part in parts) or "nothing")
