"""Orbits to compare: of a system, followed and sorted by what became of them, or of data, cut into pieces."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.core.errors import DivergedError, InputError, ShapeError
from separatrix.core.evolve import begin
from separatrix.core.progress import watched_count
from separatrix.core.system import System

FEWEST = 4  # orbits of which an error bar can be told
FAR = 10  # extents of the truth: an orbit so far from its mean has left
STILL = 1e-6  # of the truth's extent: an orbit whose last tenth spans no more is at rest
WHOLE = 1e-6  # steps by which two samplings may be off


class Sample(NamedTuple):
    """Orbits of a system at equal distances of time.

    Args:
        states: those that stayed, shape (time, orbits, dim).
        dt: the time between two.
        followed, left, resting: how many orbits there were, left, and came to rest.
    """

    states: Tensor
    dt: float
    followed: int
    left: int
    resting: int


class Asked(NamedTuple):
    """What was asked, defaults filled in."""

    k: int | None
    starts: int
    steps: int
    settle: int
    component: int
    points: int
    seed: int
    progress: bool


def sampled(learned: System, truth: System | Tensor, x0: Tensor | None, dt: float | None, asked: Asked) -> dict[str, Sample]:
    """Orbits of both, the true ones first."""
    steps, every = asked.steps, 1
    if isinstance(truth, System):
        own = max(1, round(steps * learned.dt / truth.dt)) if truth.continuous else steps
        starts = _starts(truth, x0, asked.starts, asked.seed)
        true = _followed(truth, starts, own, asked.settle, 1, None, "True orbits", asked.progress)
    else:
        true, every = _of_data(truth, dt, asked.starts, learned.dt)
        steps = (len(true.states) - 1) * every
    if true.states.shape[1] < FEWEST:
        raise DivergedError(
            f"{true.states.shape[1]} of {true.followed} true orbits stay: fewer than {FEWEST} have no error bar.\n"
            "Begin elsewhere, follow more orbits, or settle for longer."
        )
    start = true.states[-1] if isinstance(truth, System) else _scattered(true.states, asked.starts)
    ours = _followed(learned, start, steps, asked.settle, every, true.states, "Learned orbits", asked.progress)
    return {"true": true, "learned": ours}


def _followed(
    system: System, x0: Tensor, steps: int, settle: int, every: int, truth: Tensor | None, label: str, progress: bool
) -> Sample:
    """The orbits of a system after its settling, in one state of every so many steps, and what became of them."""
    front = begin(system, x0).advance(settle)
    states = [front.x]
    for _ in watched_count(steps // every, label, progress):
        front = front.advance(every)
        states.append(front.x)
    sample = torch.stack(states)
    return _sorted(sample, every * system.dt, truth)


def _sorted(states: Tensor, dt: float, truth: Tensor | None) -> Sample:
    """A sample, without the orbits that left: became infinite, or are ten extents of the truth away from its mean."""
    finite = states.isfinite().all(-1).all(0)
    known = states[:, finite] if truth is None else truth
    if not known.numel():
        return Sample(states[:, finite], dt, states.shape[1], states.shape[1], 0)
    extent = known.amax((0, 1)) - known.amin((0, 1))
    reach = extent.amax().clamp(min=STILL * float(known.abs().amax()))
    stays = finite & ((states - known.mean((0, 1))).abs().amax((0, 2)) <= FAR * reach)
    tail = states[-max(2, len(states) // 10) :, stays]
    still = (tail.amax(0) - tail.amin(0)).amax(-1) <= STILL * reach
    return Sample(states[:, stays], dt, states.shape[1], int((~stays).sum()), int(still.sum()))


def _starts(truth: System, x0: Tensor | None, orbits: int, seed: int) -> Tensor:
    """Where the true orbits begin, (orbits, dim)."""
    start = truth.initial_state((orbits,), seed) if x0 is None else torch.as_tensor(x0)
    if start.ndim != 2:
        raise ShapeError(f"x0 has shape {tuple(start.shape)}; pass (starts, {truth.dim}).")
    if len(start) < FEWEST or bool((start == start[0]).all()):
        raise InputError(
            f"{len(start)} orbits begin in {len(start.unique(dim=0))} states: their spread, the error bar, is not known.\n"
            f"Pass x0 of shape (starts, {truth.dim}) with at least {FEWEST} different states."
        )
    return start


def _of_data(data: Tensor, dt: float | None, orbits: int, step: float) -> tuple[Sample, int]:
    """Data as orbits, a few series cut into pieces; and how many steps of the learned system are between two samples."""
    if dt is None or not 0 < dt < math.inf:
        raise InputError(f"dt is {dt}; of data it is the time between two samples, a positive number.")
    every = round(dt / step)
    if every < 1 or abs(every - dt / step) > WHOLE * every:
        raise InputError(
            f"the data are {dt:g} apart and a step of the learned system is {step:g}: no whole number of steps.\n"
            f"Give the flow the step {dt:g}, or a whole part of it."
        )
    states = torch.as_tensor(data).detach().double()
    if not states.isfinite().all():
        raise InputError(f"{int((~states.isfinite()).sum())} numbers of the data are not finite.\nLeave those times out.")
    states = states.reshape(len(states), -1, states.shape[-1])
    pieces = -(-orbits // states.shape[1])
    length = len(states) // pieces
    if length < 2 * FEWEST:
        raise ShapeError(f"{len(states)} samples cut into {pieces} pieces leave {length} each.\nPass longer data, or fewer orbits.")
    cut = states[: pieces * length].unflatten(0, (pieces, length)).movedim(0, 1).flatten(1, 2)
    return _sorted(cut, dt, None), every


def _scattered(states: Tensor, count: int) -> Tensor:
    """So many of the states, far from each other in time."""
    flat = states.movedim(0, 1).flatten(0, 1)
    return flat[torch.linspace(0, len(flat) - 1, count).long()]
