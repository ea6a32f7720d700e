"""Purity of a step: whether it is a function of its state and n, without random draws and without state between calls."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError
from separatrix.core.references import ATOMS, parts_of
from separatrix.core.twin import MODULES_OWN

ROUNDING = 1e3  # tolerated difference between sums in different order, in units in the last place of the largest number
WHOLE = 4096  # size up to which tensors are compared number by number; above it, their sums are compared
MOST_READ = 2**20  # size up to which tensors are read
MOST_ITEMS = 32  # number of items of a container that are inspected

Facts = dict[str, Any]


class Purity:
    """Comparison of two steps from the same state.

    Args:
        system: the twin that takes the steps.
        original: the system of which it is the twin.
    """

    def __init__(self, system: nn.Module, original: nn.Module) -> None:
        self.system, self.original = system, original
        self.written = _versions(original)
        self.drawn = [_drawn()]
        self.facts: list[Facts] = []

    def took_a_step(self) -> None:
        """Record generators, buffers and attributes after a step."""
        self.drawn.append(_drawn())
        self.facts.append(dict(_kept(self.system)))

    def check(self, after: Tensor, again: Tensor, step: Callable[[], Tensor]) -> None:
        """Refuse a step that draws random numbers, or that keeps state from one call to the next.

        Args:
            after, again: the results of two steps from the same state.
            step: takes the step a third time, to see whether another generator moves.
        """
        differs = difference(after, again)
        moved = self.drawn[0] != self.drawn[1] and self.drawn[1] != self.drawn[2]  # not a generator that the step seeds itself
        change = next(_changes(*self.facts), None)
        whose = "PyTorch's global generator" if moved else _moved_elsewhere(step) if differs else None
        if whose is None and change is not None and isinstance(change[1], _GeneratorState):
            whose = f"the generator {change[0]}"
        if whose is not None:
            raise InputError(_random(whose, differs))
        written = next((name for name, version in _versions(self.original).items() if version != self.written.get(name)), None)
        if written is not None:
            raise InputError(
                f"the step writes to the module's own {written}, so a run would change the module.\n"
                "Make the step a function of (x, n) that changes no tensor of the module."
            )
        if change is not None or differs is not None:
            raise InputError(stateful(change, differs))


def _random(whose: str, differs: tuple[float, float] | None) -> str:
    results = "" if differs is None else f": from the same state it went to {differs[0]:.9g}, then to {differs[1]:.9g}"
    if whose.startswith("PyTorch"):
        way = (
            'Hold its draws fixed with sx.Seeded(system), or with noise="fixed" in analyze (--noise fixed). Or remove the noise '
            "from the step and add it with sx.Noisy(system, scale)."
        )
    else:
        way = "Draw from PyTorch's global generator and pass sx.Seeded(system), or add the noise with sx.Noisy(system, scale)."
    return f"the step draws random numbers from {whose}{results}.\n{way}"


def stateful(change: tuple[str, Any, Any] | None, differs: tuple[float, float] | None) -> str:
    """The message for a step that keeps state: what changed between two calls, or two results from the same state."""
    evidence = [] if differs is None else [f"from the same state it went to {differs[0]:.9g}, then to {differs[1]:.9g}"]
    if change is not None:
        evidence.append(f"{change[0]} went from {change[1]} to {change[2]}")
    return (
        f"the step keeps state besides x: {'; '.join(evidence)}.\n"
        "Make it a function of (x, n): put what it remembers into x, and count steps with n (time_dependent=True)."
    )


def difference(after: Tensor, again: Tensor) -> tuple[float, float] | None:
    """The two numbers that differ most, if they differ by more than rounding error; otherwise None."""
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
    """The name of NumPy's or Python's global generator if the step moves it; both are restored."""
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
    """State of a generator."""


def _kept(system: nn.Module) -> Iterator[tuple[str, Any]]:
    """The buffers and attributes of the modules of a twin, by name."""
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
    """Numbers of a tensor, for comparison and display."""

    def __init__(self, shape: tuple[int, ...], values: bytes, first: float) -> None:
        self.shape, self.values, self.first = shape, values, first

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Numbers) and (self.shape, self.values) == (other.shape, other.values)

    def __repr__(self) -> str:
        return f"{self.first:.9g}" if self.shape in ((), (1,)) else f"numbers with the sum {self.first:.9g}"


def _numbers(tensor: Tensor) -> Any:
    """A tensor's numbers, or the version of a very large tensor; None if the numbers cannot be read, as in a transform."""
    if tensor.numel() > MOST_READ:
        return None if tensor.is_inference() else tensor._version
    try:
        own = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
        own = own.cpu().double()
        total = float(own.sum())
        return _Numbers(tuple(own.shape), own.numpy().tobytes() if own.numel() <= WHOLE else repr(total).encode(), total)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
