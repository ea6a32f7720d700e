"""The scalar program of a system's step: prepared once a run is long enough, and used where it is the step and is faster."""

import math
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from separatrix.core.errors import InputError
from separatrix.core.purity import difference, stateful
from separatrix.core.randomness import torch_generator
from separatrix.core.scalar_program import Run, compiled
from separatrix.core.scalar_record import MOST_NUMBERS, recorded
from separatrix.core.system import System

# Note [Prepared steps]
# A program replaces the step only after it has agreed with it, and with its derivative, at several states near the orbit and far
# from it, and at several steps n. A step that does not depend on n, draws nothing and keeps no state (the first step of a run is
# tried for that) and that was recorded without a decision in Python is the same sequence of operators at every state, so it cannot
# differ later. A derivative that the field gives in closed form is recorded itself. Steps with tangents are taken one by one first,
# in which an automatic derivative is compared with the step (see `Tangents`). Where the numbers stop being finite, the step itself
# is taken.
#
# What a record cannot show is a step that changes by itself, by a clock or by a global that another thread sets. So the step is
# taken every now and then and compared. If they differ, it is recorded again: another record refuses the run, because the
# step is not a function of the state; the same record means rounding errors that have grown, and the step itself is taken.
AFTER = {False: 200, True: 20}  # steps, without and with tangents, that are taken one by one before a run is long enough
OFTEN = 250  # steps of a program from one comparison to the next
LATER = (0, 1, 17, 1_000)  # steps at which both are compared
EXACT = 1e-11  # largest difference, relative to the largest number: rounding errors
LINE = 0.04  # time of a line of a program, in µs
OPERATOR, DERIVATIVE = 1.5, 8.0  # time of an operator in PyTorch, and of its derivative, in µs


class Prepared:
    """The programs of the system of one run, by the shape of the states and the number of tangents.

    Args:
        system: the system. A copy of it, which may get other parameters, has no programs.
    """

    def __init__(self, system: System | None = None) -> None:
        self.system: Callable[[], System | None] = lambda: None
        self.has_graph = False
        if system is not None and system.autonomous and type(system).elapsed is System.elapsed:
            self.system = weakref.ref(system)
            self.has_graph = any(tensor.requires_grad for tensor in (*system.parameters(), *system.buffers()))
        self.steps: Counter[tuple[torch.Size, int]] = Counter()  # taken one by one, or since the last comparison
        self.programs: dict[tuple[torch.Size, int], Run | None] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Prepared, ()

    def advance(self, system: System, x: Tensor, v: Tensor | None, n: int, steps: int) -> tuple[Tensor, Tensor | None] | None:
        """The states and tangents after a number of steps; None if the steps have to be taken one by one.

        Raises:
            InputError: the step is not the same function of the state as earlier in the run.
        """
        if system is not self.system() or not _are_plain(x, v) or (self.has_graph and torch.is_grad_enabled()):
            return None
        k = 0 if v is None else v.shape[-2]
        key = x.shape, k
        if key not in self.programs:
            if self.steps[key] < AFTER[k > 0]:
                self.steps[key] += steps
                return None
            self.programs[key] = _prepare(system, x, v, n)
            self.steps[key] = 0
        end = n + steps
        while n < end and (run := self.programs[key]) is not None:
            if self.steps[key] >= OFTEN:
                self.steps[key] = 0
                if not _still_agrees(system, run, x, v, n):
                    self.programs[key] = None
                    return None
            piece = min(end - n, OFTEN)
            after = _run(run, x, v, piece)
            if after is None:
                self.programs[key] = None
                return None
            (x, v), n = after, n + piece
            self.steps[key] += piece
        return (x, v) if n == end else None


def _are_plain(x: Tensor, v: Tensor | None) -> bool:
    """Whether states and tangents are few numbers without a graph, on the CPU, and not in a transform."""
    if not 0 < x.numel() <= MOST_NUMBERS or x.dtype != torch.float64 or x.device.type != "cpu":
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    return not (torch.is_grad_enabled() and (x.requires_grad or (v is not None and v.requires_grad)))


def _prepare(system: System, x: Tensor, v: Tensor | None, n: int) -> Run | None:
    """A program that agrees with the step; None if there is none, or if it would not be faster."""
    run = _program(system, x, v, n)
    if run is None:
        return None
    generator = torch_generator(0, "states of a prepared step")
    size = x.abs().amax(-1, keepdim=True)
    size = size.where(size > 0, 1.0)
    for place, far in zip(LATER, (0.0, 0.1, 1.0, 3.0), strict=True):
        at = x + far * size * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        if not _agree(system, run, at, v, n + place if system.horizon is None else n):
            return None
    return run


def _program(system: System, x: Tensor, v: Tensor | None, n: int) -> Run | None:
    """The program of a step, and of its derivative; None if it cannot be recorded, or if it would not be faster."""
    k = 0 if v is None else v.shape[-2]
    try:
        if v is not None and system.has_own_tangents:
            program, results, operators = recorded(lambda row: _row(*system.pushforward(*_parts(row, x, k), n)), _row(x, v))
            run, lines = compiled(program, results, 1, 0)
            gain = operators * OPERATOR
        else:
            program, results, operators = recorded(lambda y: system.step(y, n), x)
            run, lines = compiled(program, results, x[..., 0].numel(), k)
            gain = operators * (DERIVATIVE if k else OPERATOR)
    except Exception:  # the user's function, or an operator, does not take a tensor without numbers
        return None
    return run if lines * LINE <= gain else None


def _row(x: Tensor, v: Tensor) -> Tensor:
    """States and tangents in one row, in the order in which a program takes and returns them."""
    return torch.cat([x.reshape(-1), v.mT.reshape(-1)])


def _parts(row: Tensor, like: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The states, in the shape of others, and the tangents of a row."""
    return row[: like.numel()].reshape(like.shape), row[like.numel() :].reshape(*like.shape, k).mT


def _agree(system: System, run: Run, x: Tensor, v: Tensor | None, n: int) -> bool:
    """Whether a program and a step give the same states and tangents, or neither gives finite ones."""
    try:
        true = (system.step(x, n), None) if v is None else system.pushforward(x, v, n)
    except Exception:  # the user's function, at a state that the run does not visit
        return False
    ours = _run(run, x, v, 1)
    if ours is None:
        return not all(bool(part.isfinite().all()) for part in true if part is not None)
    return all(a is None or b is None or _close(a, b) for a, b in zip(ours, true, strict=True))


def _still_agrees(system: System, run: Run, x: Tensor, v: Tensor | None, n: int) -> bool:
    """Whether a program and the step itself go to the same states; refuses a step that has changed since it was recorded."""
    ours = _run(run, x, v, 1)
    if ours is None:
        return False
    true = system.step(x, n)
    if _close(ours[0], true):
        return True
    again = _program(system, x, v, n)
    if again is None or again.__code__ != run.__code__:
        raise InputError(stateful(None, difference(ours[0], true)))
    return False


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= EXACT * b.abs().amax(-1, keepdim=True)).all())


def _run(run: Run, x: Tensor, v: Tensor | None, steps: int) -> tuple[Tensor, Tensor | None] | None:
    """The states and tangents after a number of steps of a program; None if they are not finite."""
    numbers = (x.reshape(-1) if v is None else _row(x, v)).tolist()
    try:
        after = run(steps, *numbers)
    except (OverflowError, ZeroDivisionError, ValueError):  # where PyTorch gives ±∞ or NaN
        return None
    if not math.isfinite(sum(after)) and not all(map(math.isfinite, after)):
        return None
    found = torch.tensor(after, dtype=x.dtype)
    return (found.reshape(x.shape), None) if v is None else _parts(found, x, v.shape[-2])
