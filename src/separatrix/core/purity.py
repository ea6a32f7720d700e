"""Whether a step is a function of its state and n: what it draws, and what it keeps, between two steps from one state."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError
from separatrix.core.references import ATOMS, parts_of
from separatrix.core.twin import MODULES_OWN

ROUNDING = 1e3  # units in the last place of the largest number, by which two sums in another order may differ
WHOLE = 4096  # numbers of a tensor that are compared one by one; of a larger one, the sum
MOST_READ = 2**20  # numbers of a tensor that is read at all
MOST_ITEMS = 32  # of a list that are looked into; of a longer one, its length

Facts = dict[str, Any]


class Purity:
    """The watch over a step that is taken twice from one state.

    Args:
        system: the twin that steps.
        original: what it is the twin of.
    """

    def __init__(self, system: nn.Module, original: nn.Module) -> None:
        self.system, self.original = system, original
        self.written = _versions(original)
        self.drawn = [_drawn()]
        self.facts: list[Facts] = []

    def took_a_step(self) -> None:
        """Note what there is after a step."""
        self.drawn.append(_drawn())
        self.facts.append(dict(_kept(self.system)))

    def check(self, after: Tensor, again: Tensor, step: Callable[[], Tensor]) -> None:
        """Refuse a step that draws at random, or that keeps something from one call to the next.

        Args:
            after, again: its two answers from one state.
            step: takes it a third time, to see whether another generator moves.
        """
        differs = _difference(after, again)
        moved = self.drawn[0] != self.drawn[1] and self.drawn[1] != self.drawn[2]  # not one that it seeds itself
        change = next(_changes(*self.facts), None)
        whose = "PyTorch's global generator" if moved else _moved_elsewhere(step) if differs else None
        if whose is None and change is not None and isinstance(change[1], _GeneratorState):
            whose = f"the generator {change[0]}"
        if whose is not None:
            raise InputError(_random(whose, differs))
        written = next((name for name, version in _versions(self.original).items() if version != self.written.get(name)), None)
        if written is not None:
            raise InputError(
                f"the step writes to {written} of the module itself: a run would change it.\n"
                "Make the step a function of (x, n) that writes to nothing it keeps."
            )
        if change is not None or differs is not None:
            raise InputError(_stateful(change, differs))


def _random(whose: str, differs: tuple[float, float] | None) -> str:
    told = "" if differs is None else f": from one state it went to {differs[0]:.9g}, then to {differs[1]:.9g}"
    if whose.startswith("PyTorch"):
        way = (
            'Hold its draws fixed, sx.Seeded(system), or noise="fixed" in analyze (--noise fixed); or take the noise out of the '
            "step and add it as sx.Noisy(system, scale)."
        )
    else:
        way = "Draw from PyTorch's global generator and pass sx.Seeded(system), or add the noise as sx.Noisy(system, scale)."
    return f"the step draws random numbers from {whose}{told}.\n{way}"


def _stateful(change: tuple[str, Any, Any] | None, differs: tuple[float, float] | None) -> str:
    told = [] if differs is None else [f"from one state it went to {differs[0]:.9g}, then to {differs[1]:.9g}"]
    if change is not None:
        told.append(f"{change[0]} went from {change[1]} to {change[2]}")
    return (
        f"the step keeps state besides x: {'; '.join(told)}.\n"
        "Make it a function of (x, n): what it remembers belongs into x, and what counts steps is n (time_dependent=True)."
    )


def _difference(after: Tensor, again: Tensor) -> tuple[float, float] | None:
    """The two numbers that are furthest apart, if by more than rounding."""
    if after.shape != again.shape:
        return float(after.numel()), float(again.numel())
    gap = (after - again).abs()
    gap = gap.masked_fill((after == again) | (after.isnan() & again.isnan()), 0.0).nan_to_num(torch.inf)
    size = after.abs().nan_to_num(0.0, posinf=0.0)
    if not gap.numel() or not bool((gap > ROUNDING * torch.finfo(after.dtype).eps * size.max()).any()):
        return None
    place = int(gap.argmax())
    return float(after.flatten()[place]), float(again.flatten()[place])


def _drawn() -> list[bytes]:
    """The states of PyTorch's global generators."""
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [state.numpy().tobytes() for state in (torch.get_rng_state(), *gpu)]


def _moved_elsewhere(step: Callable[[], Tensor]) -> str | None:
    """Whether NumPy's or Python's global generator moves as the step is taken; both are put back."""
    numpy, python = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    try:
        step()
        if random.getstate() != python:
            return "Python's global generator"
        now = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
        same = now["pos"] == numpy["state"]["pos"] and np.array_equal(now["key"], numpy["state"]["key"])
        return None if same else "NumPy's global generator"
    finally:
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)


def _versions(module: nn.Module) -> dict[str, int]:
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor._version for name, tensor in tensors if not tensor.is_inference()}


class _GeneratorState(bytes):
    """Where a generator stands."""


def _kept(system: nn.Module) -> Iterator[tuple[str, Any]]:
    """What the modules of a twin keep, piece by piece."""
    for place, part in system.named_modules():
        name = type(part).__name__
        for key, tensor in part._buffers.items():
            if tensor is not None:
                yield f"the buffer {f'{place}.{key}'.strip('.')} of {name}", _numbers(tensor)
        for key in part.__dict__.keys() - MODULES_OWN:
            yield from _pieces(f"the attribute {f'{place}.{key}'.strip('.')} of {name}", part.__dict__[key], 0, set())


def _pieces(place: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if kind in ATOMS:
        yield place, value
    elif isinstance(value, Tensor):
        yield place, _numbers(value)
    elif isinstance(value, torch.Generator):
        yield place, _GeneratorState(value.get_state().numpy().tobytes())
    elif isinstance(value, np.random.Generator):
        yield place, _GeneratorState(repr(value.bit_generator.state).encode())
    elif isinstance(value, np.random.RandomState | random.Random):
        state = value.get_state() if isinstance(value, np.random.RandomState) else value.getstate()
        yield place, _GeneratorState(repr([getattr(part, "tolist", lambda part=part: part)() for part in state]).encode())
    elif depth < 3 and id(value) not in seen and not isinstance(value, nn.Module):
        seen.add(id(value))
        if isinstance(value, list | dict | set) or hasattr(value, "maxlen"):
            yield f"the length of {place}", len(value)
        for n, part in enumerate(parts_of(value)[:MOST_ITEMS]):
            yield from _pieces(f"item {n} of {place}", part, depth + 1, seen)


def _changes(before: Facts, after: Facts) -> Iterator[tuple[str, Any, Any]]:
    for place, value in after.items():
        old = before.get(place)
        if place in before and type(old) is type(value) and not _same(old, value):
            yield place, old, value


def _same(a: Any, b: Any) -> bool:
    return a is b or a == b or (a != a and b != b)


class _Numbers:
    """The numbers of a tensor, to be compared and shown."""

    def __init__(self, shape: tuple[int, ...], values: bytes, first: float) -> None:
        self.shape, self.values, self.first = shape, values, first

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Numbers) and (self.shape, self.values) == (other.shape, other.values)

    def __repr__(self) -> str:
        return f"{self.first:.9g}" if self.shape in ((), (1,)) else f"numbers of sum {self.first:.9g}"


def _numbers(tensor: Tensor) -> Any:
    """A tensor's numbers; of a very large one, how often it was written to; None where there is nothing to read, in a transform."""
    if tensor.numel() > MOST_READ:
        return None if tensor.is_inference() else tensor._version
    try:
        own = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
        own = own.cpu().double()
        total = float(own.sum())
        return _Numbers(tuple(own.shape), own.numpy().tobytes() if own.numel() <= WHOLE else repr(total).encode(), total)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
