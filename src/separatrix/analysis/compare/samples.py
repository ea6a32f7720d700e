"""Orbits to compare: followed from a system, or cut from data, without those that left."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.core.checks import check_all_finite, check_positive
from separatrix.core.errors import DivergedError, InputError, ShapeError
from separatrix.core.evolve import begin
from separatrix.core.progress import watched_count
from separatrix.core.system import System

FEWEST = 4  # least number of orbits for an error bar
FAR = 10  # an orbit has left at this distance from the mean of the truth, in extents of the truth
STILL = 1e-6  # an orbit is at rest if its last tenth spans less than this, relative to the extent of the truth
WHOLE = 1e-6  # relative tolerance within which a ratio of two sampling intervals is a whole number


class Sample(NamedTuple):
    """Orbits of a system at equal time intervals.

    Args:
        states: the orbits that stayed, shape (time, orbits, dim).
        dt: the time interval.
        followed, left, resting: numbers of orbits in all, of those that left, and of those that came to rest.
    """

    states: Tensor
    dt: float
    followed: int
    left: int
    resting: int


class Options(NamedTuple):
    """Options of `compare_dynamics`, with defaults filled in."""

    k: int | None
    starts: int
    steps: int
    settle: int
    component: int
    points: int
    seed: int
    progress: bool


def sampled(learned: System, truth: System | Tensor, x0: Tensor | None, dt: float | None, options: Options) -> dict[str, Sample]:
    """Orbits of both systems, the true ones first."""
    steps, every = options.steps, 1
    if isinstance(truth, System):
        own = max(1, round(steps * learned.dt / truth.dt)) if truth.continuous else steps
        starts = _starts(truth, x0, options.starts, options.seed)
        true = _followed(truth, starts, own, options.settle, 1, None, "True orbits", options.progress)
    else:
        true, every = _of_data(truth, dt, options.starts, learned.dt)
        steps = (len(true.states) - 1) * every
    if true.states.shape[1] < FEWEST:
        raise DivergedError(
            f"expected at least {FEWEST} true orbits that stay bounded, for an error bar, got {true.states.shape[1]} of "
            f"{true.followed}.\nPass other initial states x0, more starts, or a longer settle."
        )
    start = true.states[-1] if isinstance(truth, System) else _scattered(true.states, options.starts)
    ours = _followed(learned, start, steps, options.settle, every, true.states, "Learned orbits", options.progress)
    return {"true": true, "learned": ours}


def _followed(
    system: System, x0: Tensor, steps: int, settle: int, every: int, truth: Tensor | None, label: str, progress: bool
) -> Sample:
    """The orbits of a system after settling, with one state per `every` steps."""
    front = begin(system, x0).advance(settle)
    states = [front.x]
    for _ in watched_count(steps // every, label, progress):
        front = front.advance(every)
        states.append(front.x)
    sample = torch.stack(states)
    return _sorted(sample, every * system.dt, truth)


def _sorted(states: Tensor, dt: float, truth: Tensor | None) -> Sample:
    """The sample of the orbits that stay finite and within ten extents of the truth from its mean."""
    finite = states.isfinite().all(-1).all(0)
    reference = states[:, finite] if truth is None else truth
    if not reference.numel():
        return Sample(states[:, finite], dt, states.shape[1], states.shape[1], 0)
    extent = reference.amax((0, 1)) - reference.amin((0, 1))
    reach = extent.amax().clamp(min=STILL * float(reference.abs().amax()))
    stays = finite & ((states - reference.mean((0, 1))).abs().amax((0, 2)) <= FAR * reach)
    tail = states[-max(2, len(states) // 10) :, stays]
    resting = (tail.amax(0) - tail.amin(0)).amax(-1) <= STILL * reach
    return Sample(states[:, stays], dt, states.shape[1], int((~stays).sum()), int(resting.sum()))


def _starts(truth: System, x0: Tensor | None, orbits: int, seed: int) -> Tensor:
    """Initial states of the true orbits, (orbits, dim)."""
    start = truth.initial_state((orbits,), seed) if x0 is None else torch.as_tensor(x0)
    if start.ndim != 2:
        raise ShapeError(f"expected x0 of shape (starts, {truth.dim}), got {tuple(start.shape)}.")
    if len(start) < FEWEST or bool((start == start[0]).all()):
        raise InputError(
            f"expected at least {FEWEST} orbits with different initial states, for an error bar, got {len(start)} orbits from "
            f"{len(start.unique(dim=0))} states.\nPass x0 of shape (starts, {truth.dim})."
        )
    return start


def _of_data(data: Tensor, dt: float | None, orbits: int, step: float) -> tuple[Sample, int]:
    """Data as orbits, with series cut into pieces if there are too few, and the learned system's steps between two samples."""
    dt = check_positive("dt", dt, way_out="It is the time between two samples of the data.")
    every = round(dt / step)
    if every < 1 or abs(every - dt / step) > WHOLE * every:
        raise InputError(
            f"expected dt to be a multiple of the learned system's step {step:g}, got {dt:g}.\n"
            f"Give the learned flow the step {dt:g}, or a whole fraction of it."
        )
    states = torch.as_tensor(data).detach().double()
    check_all_finite("the data", states, "Leave those times out.")
    states = states.reshape(len(states), -1, states.shape[-1])
    pieces = -(-orbits // states.shape[1])
    length = len(states) // pieces
    if length < 2 * FEWEST:
        raise ShapeError(
            f"expected pieces of at least {2 * FEWEST} samples, got {length}: {len(states)} samples in {pieces} pieces.\n"
            "Pass longer data, or fewer starts."
        )
    cut = states[: pieces * length].unflatten(0, (pieces, length)).movedim(0, 1).flatten(1, 2)
    return _sorted(cut, dt, None), every


def _scattered(states: Tensor, count: int) -> Tensor:
    """`count` of the states, evenly spaced in time."""
    flat = states.movedim(0, 1).flatten(0, 1)
    return flat[torch.linspace(0, len(flat) - 1, count).long()]
