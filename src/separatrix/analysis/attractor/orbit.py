"""States of an orbit sampled at equal intervals, for the analyses of an attractor's geometry and spectrum."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front, check_steps, check_system_type
from separatrix.core.memory import check_memory
from separatrix.core.progress import Tick, watched
from separatrix.core.system import System
from separatrix.core.wording import counted

MOST_NUMBERS, FEWEST_SAMPLES = 2**25, 1_024  # numbers in the states kept by default, but at least so many states
PIECES = 100  # updates of the progress bar


class Sampling(NamedTuple):
    """Steps to settle, steps to analyse, and steps between two kept states."""

    settle: int
    steps: int
    every: int


def plan_sampling(
    system: System, *, samples: int, apart: float, steps: int | None, settle: int | None, every: int | None, seed: int
) -> Sampling:
    """Check the given numbers of steps and fill in the others, within the steps the system can take.

    Args:
        system: any System.
        samples: number of states to keep, if `steps` is not given.
        apart: time between them, if `every` is not given; at least one step.
        steps, settle, every: as given by the user. Default of `settle`: a fifth of `steps`.
        seed: only checked.
    """
    check_system_type(system)
    check_seed(seed)
    every = max(1, round(apart / system.dt)) if every is None else check_whole("every", every, 1)
    room = system.horizon
    wanted = samples * every if steps is None else check_whole("steps", steps)
    if steps is not None and wanted < every:
        raise InputError(f"steps is {wanted}, fewer than every = {every}: no state would be kept.\nPass at least {every} steps.")
    if settle is None:
        settle = wanted // 5 if room is None else min(wanted // 5, room // 10 if steps is None else max(room - wanted, 0))
    check_whole("settle", settle)
    if steps is None and room is not None:
        wanted = max(min(wanted, room - settle), every)
    check_steps(system, settle=settle, steps=wanted)
    return Sampling(settle, wanted // every * every, every)


def affordable_samples(samples: int, dim: int) -> int:
    """The number of states to keep by default: fewer than usual if the states are large."""
    return min(samples, max(FEWEST_SAMPLES, MOST_NUMBERS // dim))


def check_room(plan: Sampling, one: Tensor) -> None:
    """Refuse an orbit that does not fit into memory, before it is begun; `one` is what is kept of the states at a time."""
    count = plan.steps // plan.every
    check_memory(f"an orbit of {counted(count, 'state')}", 4.0 * count * one.numel(), one, "Pass fewer steps, or a larger every.")


def sampled(
    front: Front, plan: Sampling, label: str, progress: bool, seen: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Tensor, Front]:
    """What is seen of the states, one every `plan.every` steps, (time, *batch, m), and the front after the last one."""
    count, states = plan.steps // plan.every, []
    for tick in watched(_pieces(count), count, label, progress):
        for _ in range(tick.steps):
            states.append(seen(front.x))
            front = front.advance(plan.every)
    return torch.stack(states), front


def _pieces(count: int) -> list[Tick]:
    size = max(1, count // PIECES)
    return [Tick(i, min(size, count - i)) for i in range(0, count, size)]


def settled(front: Front, settle: int, label: str, progress: bool) -> Front:
    """The front after `settle` steps."""
    for tick in watched(_pieces(settle), settle, label, progress):
        front = front.advance(tick.steps)
    return front
