"""How much to measure: runs, exponents and steps whose work an everyday report can afford, planned from sizes alone."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from separatrix.analysis.run.tangent_run import TangentRun, random_frame, settled
from separatrix.core.evolve import Front, begin
from separatrix.core.system import System

# Note [Effort]
# The plan counts floating-point operations instead of seconds, so that a seed gives the same result on every machine. Two cores do
# about 6e10 operations per second in float64 on products. A step costs `state` operations for each run and `tangent` for each of
# its tangents, counted while they are taken; matrices beyond the cache have to be read as well. A factorisation of the frame costs
# QR · dim · k² at the rate of a product; it is needed every few steps, or at every step if directions contract at very different
# rates, which a few steps of one run show. Fewer runs come before fewer exponents, since the error bar shrinks with the length of
# all runs together. Fewer steps come last.
VERDICT, REPORT = 2e11, 8e11  # operations for what decides the verdict, and for the spectrum
QUICK = 1e11  # operations of a spectrum for which the verdict can wait
OVERHEAD = 2e7  # operations in the time that a step takes at any size
READ, CACHED = 60.0, 4e6  # operations in the time in which a number is read from memory, and numbers that a cache holds
QR = 6
RUNS, FEWEST_RUNS = 16, 4
FEWEST_STEPS = 250
ENOUGH = 16  # exponents worth fewer runs, and then fewer steps
WHOLE = 256  # dimension up to which the whole spectrum is taken if it can be afforded
TRIED = 16  # steps that show how often a frame is factorised
TIMED = 4  # steps that show how long one takes


@dataclass(frozen=True)
class Cost:
    """Operations of one step of one run.

    Args:
        dim: numbers in the state.
        state: operations for the state and, at any number of tangents, for its Jacobian.
        tangent: operations for each tangent.
        every: steps between two factorisations of a frame of all directions.
        weights: numbers in the matrices that a step reads once for all states and once for all tangents.
    """

    dim: int
    state: float
    tangent: float
    every: float = 1.0
    weights: int = 0

    def step(self, runs: int, k: int) -> float:
        """Operations of one step of a number of runs with k tangents each."""
        frame = QR * self.dim * k * k / self.every if k > 1 else 0.0
        return runs * (self.state + k * self.tangent + frame) + 2 * READ * max(self.weights - CACHED, 0.0) + OVERHEAD


@dataclass(frozen=True)
class Effort:
    """The runs of a report.

    Args:
        cost: the operations of a step.
        runs: number of runs.
        k: number of leading exponents.
        steps, settle: steps to average over, and steps before them.
    """

    cost: Cost
    runs: int
    k: int
    steps: int
    settle: int

    def work(self, k: int) -> float:
        """Operations of a spectrum of k exponents."""
        return (self.steps + self.settle) * self.cost.step(self.runs, k)

    @property
    def most(self) -> int:
        """The number of exponents, all or a power of 2, whose spectrum can be afforded; at least 1."""
        dim = self.cost.dim
        sizes = [2**i for i in range(8) if 2**i < dim] + [min(dim, WHOLE)]
        return max((k for k in sizes if self.work(k) <= REPORT), default=1)

    @property
    def is_quick(self) -> bool:
        """Whether the spectrum is so cheap that the verdict waits for it."""
        return self.k == 1 or self.work(self.k) <= QUICK


def plan_effort(cost: Cost, *, runs: list[int], k: int | None, steps: int, settle: int, may_shorten: bool) -> Effort:
    """The runs, exponents and steps of a report.

    Args:
        cost: the operations of a step.
        runs: numbers of runs to choose from, descending.
        k: the number of exponents; None for as many as can be afforded.
        steps, settle: the numbers of steps; the defaults can be reduced.
        may_shorten: whether they can.
    """
    wanted = min(ENOUGH, cost.dim) if k is None else k
    plan = Effort(cost, runs[0], wanted, steps, settle)
    for count in runs:
        plan = replace(plan, runs=count)
        if plan.work(wanted) <= REPORT:
            break
    while may_shorten and plan.steps >= 2 * FEWEST_STEPS and plan.work(min(wanted, FEWEST_RUNS)) > REPORT:
        plan = replace(plan, steps=plan.steps // 2, settle=plan.settle // 2)
    return replace(plan, k=plan.most if k is None else k)


@torch.no_grad()
def cost_of(system: System, seed: int) -> Cost:
    """The operations of a step, counted while it is taken, and the interval between factorisations, from a few steps."""
    front = begin(system, seed=seed)
    runs, dim = max(1, front.x[..., 0].numel()), system.dim
    alone = _operations(front)
    few, more = (_operations(front.with_tangents(random_frame(front.x, k, seed))).total / runs for k in (1, min(3, dim)))
    state = alone.total / runs
    tangent = (more - few) / 2 if dim >= 3 else few - state
    cost = Cost(dim, max(state, few - tangent) + 30.0 * dim, tangent + 30.0 * dim, weights=alone.read)
    if dim > WHOLE or runs > 1:
        return cost
    horizon = TRIED if system.horizon is None else min(TRIED, system.horizon)
    tried = settled(TangentRun.begin(front, random_frame(front.x, dim, seed)), horizon)
    return replace(cost, every=float(min(max(tried.pace, 1), 32)))


class _Operations(TorchDispatchMode):
    """Counts the operations of products, and the numbers in their larger factors, which are the weights of a single run.

    Unlike PyTorch's `FlopCounterMode`, it does not import the compiler, which takes a second or two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0
        self.read = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        value = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=value)
            self.read += max(argument.numel() for argument in args if isinstance(argument, Tensor))
        return value


def _operations(front: Front) -> _Operations:
    """The operations in one step of all runs, with their tangents if they have any."""
    with _Operations() as counter:
        if front.v is None:
            front.system.step(front.x, 0)
        else:
            front.system.pushforward(front.x, front.v, 0)
    return counter


@torch.no_grad()
def pace(system: System, x0: Tensor | None, k: int, seed: int) -> float:
    """Seconds that a step with k tangents takes here, from a few steps."""
    front = begin(system, x0, seed=seed)
    run = TangentRun.begin(front, random_frame(front.x, k, seed)).advanced(1)
    begun, n = time.perf_counter(), run.front.n
    room = TIMED if system.horizon is None else min(TIMED, system.horizon - n)
    run = settled(run, room) if room > 0 else run
    return (time.perf_counter() - begun) / max(room, 1)
