"""The scalar program of a system's step: prepared once a run is long enough, and used where it is the step and is faster."""

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from separatrix.core.randomness import torch_generator
from separatrix.core.scalars import MOST_NUMBERS, NotStraight, compiled, recorded

if TYPE_CHECKING:
    from separatrix.core.system import System

# Note [Prepared steps]
# A program replaces the step only after it has agreed with it, and with its derivative, at several states near the orbit and far
# from it, and at several steps n. A step that does not depend on n, draws nothing and keeps no state (the first step of a run is
# tried for that) and that was recorded without a decision in Python is the same sequence of operators at every state, so it cannot
# differ later. Steps with tangents are taken one by one first, in which the derivative itself is compared with the step (see
# `Tangents`). Where the numbers stop being finite, the step itself is taken.
AFTER = {False: 200, True: 20}  # steps, without and with tangents, that are taken one by one before a run is long enough
LATER = (0, 1, 17, 1_000)  # steps at which both are compared
EXACT = 1e-11  # largest difference, relative to the largest number: rounding errors
LINE, OPERATOR, DERIVATIVE = (
    0.04,
    1.5,
    8.0,
)  # time of a line of a program, and of an operator and of its derivative in PyTorch, in µs

Run = Callable[..., tuple[float, ...]]


class Prepared:
    """The programs of the system of one run, by the shape of the states and the number of tangents."""

    def __init__(self) -> None:
        self.steps: Counter[tuple[torch.Size, int]] = Counter()
        self.programs: dict[tuple[torch.Size, int], Run | None] = {}

    def advance(self, system: "System", x: Tensor, v: Tensor | None, n: int, steps: int) -> tuple[Tensor, Tensor | None] | None:
        """The states and tangents after a number of steps; None if the steps have to be taken one by one."""
        if not _is_plain(system, x, v):
            return None
        k = 0 if v is None else v.shape[-2]
        key = x.shape, k
        if key not in self.programs:
            if self.steps[key] < AFTER[k > 0]:
                self.steps[key] += steps
                return None
            self.programs[key] = _prepare(system, x, v, n)
        run = self.programs[key]
        if run is None:
            return None
        after = _run(run, x, v, steps)
        if after is None:
            self.programs[key] = None
        return after


def _is_plain(system: "System", x: Tensor, v: Tensor | None) -> bool:
    """Whether the run is one of few numbers, without gradients, on the CPU."""
    if not system.autonomous or x.numel() > MOST_NUMBERS or x.dtype != torch.float64 or x.is_cuda or 0 in x.shape:
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    if not torch.is_grad_enabled():
        return True
    given = (x, v, *system.parameters(), *system.buffers())
    return not any(tensor is not None and tensor.requires_grad for tensor in given)


def _prepare(system: "System", x: Tensor, v: Tensor | None, n: int) -> Run | None:
    """A program that agrees with the step; None if there is none, or if it would not be faster."""
    items, k = x[..., 0].numel(), 0 if v is None else v.shape[-2]
    try:
        program, results, operators = recorded(lambda y: system.step(y, n), x)
        run, lines = compiled(program, results, items, k)
    except NotStraight:
        return None
    if lines * LINE > operators * (OPERATOR if v is None else DERIVATIVE):
        return None
    if any(system.elapsed(x, n + later) != system.dt for later in (LATER if system.horizon is None else (0,))):
        return None
    generator = torch_generator(0, "states of a prepared step")
    size = x.abs().amax(-1, keepdim=True)
    size = size.where(size > 0, 1.0)
    for place, far in zip(LATER, (0.0, 0.1, 1.0, 3.0), strict=True):
        at = x + far * size * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        if not _agree(system, run, at, v, n + place if system.horizon is None else n):
            return None
    return run


def _agree(system: "System", run: Run, x: Tensor, v: Tensor | None, n: int) -> bool:
    """Whether a program and a step give the same states and tangents, or neither gives finite ones."""
    try:
        true = (system.step(x, n), None) if v is None else system.pushforward(x, v, n)
    except Exception:  # the user's function, at a state that the run does not visit
        return False
    ours = _run(run, x, v, 1)
    if ours is None:
        return not all(bool(part.isfinite().all()) for part in true if part is not None)
    return all(a is None or b is None or _close(a, b) for a, b in zip(ours, true, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= EXACT * b.abs().amax(-1, keepdim=True)).all())


def _run(run: Run, x: Tensor, v: Tensor | None, steps: int) -> tuple[Tensor, Tensor | None] | None:
    """The states and tangents after a number of steps of a program; None if they are not finite."""
    numbers = x.reshape(-1).tolist()
    if v is not None:
        numbers += v.mT.reshape(-1).tolist()
    try:
        after = run(steps, *numbers)
    except (OverflowError, ZeroDivisionError, ValueError):  # where PyTorch gives ±∞ or NaN
        return None
    if not math.isfinite(sum(after)) and not all(map(math.isfinite, after)):
        return None
    found = torch.tensor(after, dtype=x.dtype)
    count = x.numel()
    if v is None:
        return found.reshape(x.shape), None
    return found[:count].reshape(x.shape), found[count:].reshape(*x.shape, v.shape[-2]).mT
