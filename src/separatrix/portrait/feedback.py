"""Loops inside a model: a recurrent part whose next input the model computes from its output."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor, nn

from separatrix.core.arguments import Arguments
from separatrix.core.errors import InputError
from separatrix.core.randomness import same_draws, seed_generators
from separatrix.core.structure import leaves, refilled
from separatrix.core.system import System
from separatrix.core.twin import twin
from separatrix.portrait.answers import Answers, NotDetermined
from separatrix.portrait.recording import Call, named, replaced
from separatrix.systems.recurrent.silence import without_draws
from separatrix.systems.recurrent.standard_network import describe

SMALL, LARGE = 1e-4, 1.0  # changes of the state, relative to its size, that test for dependence
Kind = Literal["none", "closed", "driven", "choices", "remembers", "brief", "unknown"]

# Note [The loop is the model's own]
# A model that reads its own output calls its core, processes what it returns, and calls it again. The model's own forward runs
# one turn of that loop: call n of the core returns the requested state instead of computing one, and the next call is computed;
# the state that it returns is the result of the turn. Everything that the model does in between (readout, attention, sampling)
# is included and need not be named. The turn is a function of the state alone if the next input depends on no state earlier than
# the last one. Trial calls establish this, and whether all turns are alike (a free-running generator) or each has an input of
# its own (a driven loop).


class Turn(System):
    """One turn of a loop inside a model, from the state that its core returned to the state that it returns next.

    Args:
        model: the model.
        name: name of the core within the model.
        arguments: arguments of the model's forward pass.
        answers: conversion between the core's return values and its state.
        calls: the core's calls in one forward pass.
        is_driven: whether turns differ; then step n is turn n, and the horizon is the length of the forward pass.
        first: index of the first call of the loop; whatever the model does before it, such as a warm-up, is repeated in every turn.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        arguments: Arguments,
        answers: Answers,
        calls: list[Call],
        *,
        is_driven: bool = False,
        first: int = 0,
    ) -> None:
        calls = calls[first:]
        states = torch.stack([answers.state(call.returned) for call in calls])
        super().__init__(answers.network.dim, horizon=len(calls) - 1 if is_driven else None)
        self.items = states.shape[1]
        self.model = twin(model)
        self.name = name
        self.label = f"{type(model).__name__}, closed through its {describe(model.get_submodule(name))}"
        self.network = answers.network
        self.answers = answers.form
        self.form = arguments
        self.places = [f"argument_{i}" for i in range(len(arguments.tensors()))]
        for place, tensor in zip(self.places, arguments.tensors(), strict=True):
            self.register_buffer(place, tensor, persistent=False)
        self.register_buffer("states", states, persistent=False)
        self.like = [call.returned for call in calls]
        self.is_driven = is_driven
        self.first = first
        self.axes: list[int | None] | None = None
        self.axes = next((axes for axes in self._candidates() if self._repeats(axes)), None)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """One run per item of the model's batch; any batch shape if there is a single item."""
        return () if self.items == 1 else (self.items,)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state after one turn."""
        return self._turned(x, n, self._result)

    def fed(self, x: Tensor, n: int = 0, *, seed: int | None = None) -> Any:
        """The arguments of the core's next call, given the state x after call n; random draws use that call's number, or a seed."""

        def answer(count: int) -> Any:
            seed_generators(count + self.first if seed is None else seed)
            return self._answer(x, count)

        with same_draws():
            seed_generators(0)
            return self._turn(x, n, lambda _, given: given, answer=answer)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """The state after the model's first call; if the model's batch has one item, further states scattered around it."""
        start = self.states[0].detach().double()
        if self.items > 1:
            return start.expand(*batch[:-1], *start.shape).clone() if len(batch) > 1 else start.clone()
        if not batch:
            return start[0].clone()
        spread = self.states.detach().double().square().mean().sqrt().clamp(min=1e-3)
        uniform = 2 * torch.rand(*batch, self.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1
        away = spread * uniform
        away.reshape(-1, self.dim)[0] = 0.0
        return start[0] + away

    def pack(self, *state: Tensor) -> Tensor:
        """The state vector, (*batch, dim), of a state in the core's own form."""
        return self.network.pack(*(state[0] if len(state) == 1 and isinstance(state[0], tuple | list) else state))

    def unpack(self, x: Tensor) -> Any:
        """The state in the core's own form."""
        return self.network.unpack(x)

    def of_first_item(self) -> "Turn | None":
        """The loop of the first item of the batch alone; None if the batch axis of the model's arguments is unknown."""
        if self.items == 1:
            return self
        if self.axes is None:
            return None
        other = twin(self)
        for place, axis in zip(self.places, self.axes, strict=True):
            tensor = getattr(other, place)
            setattr(other, place, tensor if axis is None else tensor.narrow(axis, 0, 1))
        other.states, other.items = other.states[:, :1], 1
        return other

    def _turned(self, x: Tensor, n: int, ending: Callable[[Any, Any], Any]) -> Any:
        batch = x.shape[:-1]
        rows = x.reshape(-1, self.dim)
        if len(rows) % self.items:
            raise InputError(
                f"the number of states, {len(rows)}, is not a multiple of {self.items}, the number of items in the loop's batch."
            )
        size = len(rows) if self.axes is not None else self.items
        parts = [self._turn(chunk, n, ending) for chunk in rows.split(size)]
        return torch.cat(parts).reshape(*batch, -1) if isinstance(parts[0], Tensor) else parts[0]

    def _turn(
        self,
        x: Tensor,
        n: int,
        ending: Callable[[Any, Any], Any],
        axes: list[int | None] | None = None,
        answer: Callable[[int], Any] | None = None,
    ) -> Any:
        """One turn of a batch of states, run by the model's forward."""
        core = self.model.get_submodule(self.name)
        forward, times, count = core.forward, len(x) // self.items, -1 - self.first
        turn = n if self.is_driven else 0

        def answering(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count < 0:
                return forward(*args, **kwargs)
            if count < turn:
                return self._answer(self.states[count].to(x).repeat(times, 1), count)
            if count == turn:
                return self._answer(x, count) if answer is None else answer(count)
            raise _Turned(ending(forward, (args, kwargs)))

        tensors = [getattr(self, place) for place in self.places]
        if times > 1:
            along = self.axes if axes is None else axes
            tensors = [t if axis is None else _repeated(t, axis, times) for t, axis in zip(tensors, along or [], strict=True)]
        with replaced(core, answering):
            try:
                self.form.with_tensors(tensors).call(self.model)
            except _Turned as turned:
                return turned.result
        raise InputError(f"the loop of '{self.name}' ends after {count + 1} calls, so it has no turn {n}.")

    def _result(self, forward: Callable[..., Any], given: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
        return Answers(self.network, self.answers).state(forward(*given[0], **given[1]))

    def _answer(self, x: Tensor, count: int) -> Any:
        """The core's return value in state x, in the form that it had at that call."""
        return Answers(self.network, self.answers).returned(x, self.like[min(count, len(self.like) - 1)])

    def _candidates(self) -> list[list[int | None]]:
        """Candidates for the batch axis of each argument, judged by its size."""
        tensors = [getattr(self, place) for place in self.places]
        if self.items == 1 and not tensors:
            return [[]]
        ways = []
        for order in ((0, 1), (1, 0)):
            ways.append([next((axis for axis in order if t.ndim > axis and t.shape[axis] == self.items), None) for t in tensors])
        return ways

    @torch.no_grad()
    def _repeats(self, axes: list[int | None]) -> bool:
        """Whether repeating the arguments along these axes gives each copy of the states the same turn."""
        x = self.states[min(1, len(self.states) - 1)]
        other = self.states[0]
        try:
            with without_draws():
                both = self._turn(torch.cat([x, other]), 0, self._result, axes)
                singly = torch.cat([self._turn(x, 0, self._result), self._turn(other, 0, self._result)])
        except Exception:  # user code may raise anything; then these are not the axes
            return False
        return both.shape == singly.shape and torch.allclose(both, singly, rtol=1e-4, atol=1e-6, equal_nan=True)


class _Turned(BaseException):
    """Ends a forward pass at the call whose result is wanted; a BaseException, because user code may catch Exception."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


@dataclass(frozen=True)
class Feedback:
    """Whether a core's inputs depend on its own earlier states.

    Args:
        kind: "none"; "closed", all turns alike; "driven", each turn with an input of its own; "choices", through discrete choices
            (an argmax, a sample) that block small changes; "remembers", on more than the last state; "brief", too few calls in a
            forward pass to decide; "unknown", the model fails when its core returns other values.
        turn: the loop, if it can be closed.
    """

    kind: Kind
    turn: Turn | None = None


@torch.no_grad()
def feedback_of(model: nn.Module, name: str, arguments: Arguments, answers: Answers, calls: list[Call]) -> Feedback:
    """Whether the inputs of a part that is called step by step depend on its outputs. See Note [The loop is the model's own]."""
    fed = _fed_back(model, name, arguments, calls) if len(calls) > 2 else []
    if fed is None:
        return Feedback("unknown")
    if not any(fed):
        return Feedback("none")
    at = fed.index(True)
    goes_on = all(fed[at:])  # a loop from there on; otherwise the model's own inputs intervene
    begun = max(at, _stepwise(calls)) if goes_on else 0
    if len(calls) - begun < 3:
        return Feedback("brief")
    turn = Turn(model, name, arguments, answers, calls, is_driven=True, first=begun)
    at, fed = max(at - begun, 0), fed[begun:]
    state = turn.states[at]
    small, large = (_moved(state, size) for size in (SMALL, LARGE))
    try:
        given = _given(turn, state, at)
        if _same_given(given, _given(turn, large, at)):
            return Feedback("remembers")
        if _same_given(given, _given(turn, small, at)):
            return Feedback("choices")
        if _remembers(turn, next((n for n in range(1, len(fed)) if fed[n]), None)):
            return Feedback("remembers")
    except NotDetermined:
        return Feedback("remembers")
    middle = (len(calls) - begun) // 2
    if not goes_on or not _same_given(*(_given(turn, state, n, seed=0) for n in (0, middle))):
        return Feedback("driven", turn)
    closed = Turn(model, name, arguments, answers, calls, first=begun).of_first_item()
    return Feedback("driven", turn) if closed is None else Feedback("closed", closed)


def _stepwise(calls: list[Call]) -> int:
    """The call from which all inputs have the shape of the last one; before it, the model may read a whole sequence at once."""
    shapes = [getattr(call.inputs, "shape", None) for call in calls]
    return next((i + 1 for i in reversed(range(len(calls))) if shapes[i] != shapes[-1]), 0)


def _fed_back(model: nn.Module, name: str, arguments: Arguments, calls: list[Call]) -> list[bool] | None:
    """For each call but the last, whether the next input depends on the values returned so far; None if the model fails."""
    try:
        plain, moved = (_inputs(model, name, arguments, calls, size) for size in (0.0, LARGE))
    except Exception:  # the user's code rejects other values than its own
        return None
    return [not _same_given(one, two) for one, two in zip(plain, moved, strict=False)][1:]


def _inputs(model: nn.Module, name: str, arguments: Arguments, calls: list[Call], size: float) -> list[Any]:
    """The input of every call in a forward pass in which each call returns its recorded value, changed by a relative `size`."""
    view, given = twin(model, apart=True), []
    core = view.get_submodule(name)
    signature = inspect.signature(core.forward)

    def answering(*args: Any, **kwargs: Any) -> Any:
        given.append(next(iter(named(signature, args, kwargs).values()), None))
        seed_generators(len(given) - 1)
        returned = calls[min(len(given), len(calls)) - 1].returned
        return refilled(returned, iter([_moved(t, size) if t.is_floating_point() else t for t in leaves(returned)]))

    with replaced(core, answering), same_draws():
        seed_generators(0)
        arguments.call(view)
    return given


def _moved(x: Tensor, size: float) -> Tensor:
    noise = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(x)
    return x + size * x.square().mean().sqrt().clamp(min=1e-3) * noise


def _given(turn: Turn, x: Tensor, n: int, *, seed: int | None = None) -> Any:
    """The input of the call after call n, which returned x."""
    args, kwargs = turn.fed(x, n, seed=seed)
    signature = inspect.signature(turn.model.get_submodule(turn.name).forward)
    return next(iter(named(signature, args, kwargs).values()), None)


def _same_given(one: Any, two: Any) -> bool:
    """Whether two inputs hold the same numbers, in any containers."""
    pairs = list(zip_longest(leaves(one), leaves(two)))
    return all(a is not None and b is not None and a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _remembers(turn: Turn, n: int | None) -> bool:
    """Whether the input after call n depends on the state before that call other than through the state after it."""
    if n is None:
        return False
    kept_states = turn.states
    plain = _given(turn, kept_states[n], n)
    try:
        turn.states = torch.cat([kept_states[: n - 1], _moved(kept_states[n - 1], LARGE)[None], kept_states[n:]])
        return not _same_given(plain, _given(turn, kept_states[n], n))
    finally:
        turn.states = kept_states


def _repeated(tensor: Tensor, axis: int, times: int) -> Tensor:
    return tensor.repeat([times if i == axis else 1 for i in range(tensor.ndim)])
