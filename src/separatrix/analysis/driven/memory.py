"""Memory as a measurement: how well the state tells the inputs of the past."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.core.checks import check_seed, check_whole
from separatrix.core.driven import Driven
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import Front, begin, check_steps, check_system_type
from separatrix.core.progress import watched_count
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured

FOLDS = 20  # stretches that are left out in turn
FEWEST_STEPS, STEPS_PER_NUMBER = 10_000, 50  # of a default run: at least, and for each number of the state
FEWEST_LAGS = 20
ENOUGH = 15  # steps for each readout weight, under which the next order in p/T is seen: 5 leave a capacity of 2.5 near −1
SURE = 3  # standard errors beyond which the last lags still carry memory

# Note [Capacity without bias]
# A regression on p numbers of T samples explains p/T of anything, so that the capacities in sample, summed over many lags, exceed
# what there is; those on samples left out fall short by as much. To first order in p/T the two are off by −c and c, whatever the
# residuals' correlation in time (c = tr(Σ⁻¹Ω)/T, Ω the long-run covariance of state times residual: Takeuchi 1976), and with B
# stretches left out in turn, by c·B/(B−1): so that the mean of the two, with weights B and B−1, is free of it.
# The states are first turned to orthonormal columns by an SVD: the normal equations of a long memory would square a condition
# number that is large already. Columns below rounding are dropped: what they hold is noise of the arithmetic.


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MemoryCapacity(Result):
    r"""How much of an input the state still tells, lag by lag:  C_l = 1 − min ⟨(s_{n+1−l} − w·x_{n+1} − b)²⟩ / ⟨s²⟩,  and Σ_l C_l.

    Args:
        lags: (lag), 1 … the longest; lag 1 is the input that the last step read.
        curve, curve_stderr: (lag, *batch), C_l: the squared correlation of the best linear readout with the input; and its error.
        capacity, stderr: (*batch), Σ_l C_l over these lags, and its standard error. It is at most dim.
        half_lag: (*batch), the lag by which half of the capacity is reached, to its standard error.
        rank: (*batch), numbers of the state that vary independently, to rounding: what the capacity is also bounded by.
        dim: numbers of the state.
        enters: how the input enters, in words.
    """

    lags: Tensor
    curve: Tensor
    curve_stderr: Tensor
    capacity: Tensor
    stderr: Tensor
    half_lag: Tensor
    rank: Tensor
    dim: int
    enters: str

    drawn_by: ClassVar[str] = "separatrix.plot.memory:memory_figure"
    layout: ClassVar[dict[str, str]] = {
        "lags": "lag",
        "curve": "lag batch",
        "curve_stderr": "lag batch",
        "capacity": "batch",
        "stderr": "batch",
        "half_lag": "batch",
        "rank": "batch",
    }
    units: ClassVar[dict[str, str]] = {
        "lags": "steps",
        "half_lag": "steps",
        "curve": "squared correlation",
        "capacity": "inputs",
        "stderr": "inputs",
    }

    def summary(self) -> str:
        """The capacity, of what it could be, and half of it within how many steps."""
        known = self.codes != Status.DIVERGED
        if not bool(known.any()):
            return "memory capacity: diverged"
        if self.batch:
            low, high = float(self.capacity[known].min()), float(self.capacity[known].max())
            return f"memory capacity of {counted(self.codes.numel(), 'run')}: {low:.3g} … {high:.3g} of at most {self.dim} inputs"
        more = "" if self.codes == Status.OK else f"; {self._why()}"
        return (
            f"memory capacity {measured(float(self.capacity), float(self.stderr))} of at most {self.dim} inputs over "
            f"{counted(len(self.lags), 'lag')}, half of it within {counted(int(self.half_lag), 'step')}{more}; {self.enters}"
        )

    def _why(self) -> str:
        steps, needed = self.settings["steps"], ENOUGH * (int(self.rank) + 1)
        short = f"not_converged, {steps:,} steps are too few to be free of bias: give {needed:,}"
        return short if steps < needed else "lags beyond still carry some"


@torch.no_grad()
def memory_capacity(
    system: System,
    x0: Tensor | None = None,
    *,
    scale: float = 1.0,
    direction: Tensor | None = None,
    max_lag: int | None = None,
    steps: int | None = None,
    settle: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> MemoryCapacity:
    r"""Linear memory capacity: drive the system with white noise and read its past back from the state,  Σ_l r²(s_{n+1−l}, ŝ_l).

    An exponent says how fast perturbations fade; this says what is remembered. It is at most the size of the state.

    Args:
        system: any System. A `Driven` one gets its own input plus scale · s_n · direction, so that s enters through the network's
            input weights; drive it with zeros (no inputs) to measure the network alone, with data to measure it under that
            load. Any other system, a `Noisy` one too, gets the same added to its state after each step.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        scale: of the input; s_n is uniform in ±1, independent from step to step, the same for all items.
        direction: the vector that is multiplied by s_n, shape (inputs) or (dim). Default: equal numbers, of length 1.
        max_lag: the longest lag. Default: twice the state's size, at least 20.
        steps: steps to learn and test the readouts on. Default: 10,000, or 50 for each number of the state; within the horizon.
        settle: steps before them. Default: a fifth of `steps`.
        seed: of the input and of the initial state.
        progress: show a progress bar.

    Returns:
        MemoryCapacity: `capacity` ± `stderr` (*batch), `curve` (lag, *batch). Neither is biased by the number of readout weights,
        to first order; so a capacity that is 0 comes out on both sides of 0. An item whose last lags still carry memory is
        `not_converged`: give more lags; so is one with fewer than 15 steps for each weight of a readout, which is biased.

    Raises:
        InputError: scale, max_lag or steps out of range; fewer steps than the readouts need, 20 + 2 · (dim + 1).
        ShapeError: direction does not fit the input.
        HorizonError: the steps exceed what the system can take.
    Limits: keeps all states, steps × *batch × dim numbers. Error bars are from 20 stretches left out in turn: they do not know
        of other inputs than white noise. Linear readouts only.
    Source: Jaeger 2001, GMD Report 152 (his lag k is l − 1, and his sum leaves out k = 0); bound and generalisation: Dambre et al.
        2012, Sci. Rep. 2, 514.
    """
    check_system_type(system)
    seed = check_seed(seed)
    lags = check_whole("max_lag", max(2 * system.dim, FEWEST_LAGS) if max_lag is None else max_lag)
    steps, settle = _plan(system, steps, settle, lags)
    if not (isinstance(scale, int | float) and 0 < scale < math.inf):
        raise InputError(f"scale is {scale!r}; the input's size is a positive number.")
    front = begin(system, x0, seed=seed)
    push, enters = _entrance(front, direction, float(scale))
    signal = 2 * torch.rand(settle + steps, dtype=torch.float64, generator=torch_generator(seed, "signal to remember")) - 1
    states = _states(front, push, signal.to(front.x), settle, progress)
    targets = torch.stack([signal[settle + 1 - lag : settle + steps + 1 - lag] for lag in range(1, lags + 1)], dim=-1)
    failed = ~states.isfinite().all(0).all(-1)
    found = _capacities(states.where(~failed[..., None], 0.0), targets.to(states))
    known = (value.where(~failed, torch.nan) for value in (found.curve, found.curve_error, found.total, found.error))
    curve, doubt, total, error = known
    before = (curve.cumsum(0) >= (total - error) / 2).long().cumsum(0) == 0
    unsure = _carries_on(found) | (steps < ENOUGH * (found.rank + 1))
    codes = torch.where(unsure, Status.NOT_CONVERGED, Status.OK).masked_fill(failed, Status.DIVERGED)
    return MemoryCapacity(
        codes=codes.to(torch.int8),
        lags=torch.arange(1, lags + 1),
        curve=curve,
        curve_stderr=doubt,
        capacity=total,
        stderr=error,
        half_lag=(before.sum(0) + 1).masked_fill(failed, 0),
        rank=found.rank.masked_fill(failed, 0),
        dim=system.dim,
        enters=enters,
        settings={"scale": scale, "max_lag": lags, "steps": steps, "settle": settle, "seed": seed},
    )


def _plan(system: System, steps: int | None, settle: int | None, lags: int) -> tuple[int, int]:
    """Steps to learn from, and to settle before them, of which there must be as many as there are lags."""
    if lags < 1:
        raise InputError(f"max_lag is {lags}; the last input is at lag 1.")
    least = FOLDS + 2 * (system.dim + 1)
    wanted = max(FEWEST_STEPS, STEPS_PER_NUMBER * system.dim) if steps is None else check_whole("steps", steps)
    before = max(wanted // 5, lags) if settle is None else check_whole("settle", settle)
    if system.horizon is not None and settle is None:
        before = max(min(before, system.horizon // 5 if steps is None else system.horizon - wanted), lags)
    if system.horizon is not None and steps is None:
        wanted = min(wanted, max(system.horizon - before, 1))
    if before < lags - 1:
        raise InputError(
            f"settle is {before} but the longest lag is {lags}: {lags - 1} inputs must have been read before the first."
        )
    check_steps(system, settle=before, steps=wanted)
    if wanted < least:
        raise InputError(f"steps is {wanted}, but readouts from {system.dim} numbers need at least {least}.\nGive more steps.")
    return int(wanted), int(before)


Push = Callable[[Tensor, Tensor, int], Tensor]


def _entrance(front: Front, direction: Any, scale: float) -> tuple[Push, str]:
    """One step with the input, (x, s, n) ↦ x', and how it enters, in words."""
    system, x = front.system, front.x
    driven = system if isinstance(system, Driven) else None
    size = system.dim if driven is None else driven.drive(0).shape[-1]
    along = torch.full((size,), size**-0.5) if direction is None else torch.as_tensor(direction)
    if along.shape != (size,) or not bool(along.isfinite().all()) or not bool(along.any()):
        raise ShapeError(
            f"direction has shape {tuple(along.shape)}; it is {size} finite numbers, not all 0: one for each number of the "
            f"{'input' if driven is not None else 'state'}."
        )
    along = scale * along.to(x)
    if driven is not None:
        return lambda x, s, n: driven.advance(x, driven.drive(n).to(x) + s * along), "white noise through the system's input"
    return lambda x, s, n: system.step(x, n) + s * along, "white noise added to the state"


def _states(front: Front, push: Push, signal: Tensor, settle: int, progress: bool) -> Tensor:
    """The state after each step that follows the settling, (steps, *batch, dim)."""
    x, kept = front.x, []
    for tick in watched_count(len(signal), "Memory capacity", progress):
        x = push(x, signal[tick.index], tick.index)
        if tick.index >= settle:
            kept.append(x)
    return torch.stack(kept)


@dataclass(frozen=True)
class _Found:
    """Capacities and their errors, (lag, *batch) and (*batch), and the rank."""

    curve: Tensor
    curve_error: Tensor
    total: Tensor
    error: Tensor
    rank: Tensor


def _capacities(states: Tensor, targets: Tensor) -> _Found:
    """See Note [Capacity without bias].

    Args:
        states: (steps, *batch, dim), finite.
        targets: (steps, lag), the inputs of the past.
    """
    whole = len(states) // FOLDS * FOLDS
    columns, rank = _orthonormal(states[len(states) - whole :])
    y = targets[len(states) - whole :]
    folds = columns.unflatten(-2, (FOLDS, -1))  # (*batch, fold, time, column)
    y_folds = y.unflatten(0, (FOLDS, -1))
    gram, cross = folds.mT @ folds, folds.mT @ y_folds
    free = torch.diag_embed((rank[..., None] < torch.arange(1, columns.shape[-1] + 1, device=rank.device)).to(columns))
    left = gram.sum(-3, keepdim=True) - gram + free[..., None, :, :]
    weights = torch.linalg.solve(left, cross.sum(-3, keepdim=True) - cross)
    outside = (y_folds - folds @ weights).square().sum(-2)  # (*batch, fold, lag)
    inside = (y_folds - folds @ (columns.mT @ y)[..., None, :, :]).square().sum(-2)
    mixed = (FOLDS * inside + (FOLDS - 1) * outside) / (2 * FOLDS - 1)
    power = FOLDS * y_folds.square().sum(-2) / y.square().sum(0)
    told = power - FOLDS * mixed / y.square().sum(0)
    curve = told.mean(-2)
    by_fold = (told - curve[..., None, :] * (power - 1)).movedim(-2, 0)  # less what a fold's own power does; (fold, *batch, lag)
    total = curve.sum(-1)
    chance = 2 * rank[..., None] * ((1 - curve) / whole).square()  # of what a readout explains by chance, χ²/T
    curve_error = (by_fold.var(0) / FOLDS + chance).sqrt()
    error = (by_fold.sum(-1).var(0) / FOLDS + chance.sum(-1)).sqrt()
    return _Found(curve.movedim(-1, 0), curve_error.movedim(-1, 0), total, error, rank - 1)


def _orthonormal(states: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns that span the states and a constant, (*batch, steps, dim + 1), and how many are no rounding."""
    x = states.movedim(0, -2)
    mean = x.mean(-2, keepdim=True)
    u, s, _ = torch.linalg.svd(x - mean, full_matrices=False)
    noise = 10 * torch.finfo(x.dtype).eps * len(states) ** 0.5 * x.abs().amax((-2, -1))
    kept = s > noise[..., None]
    constant = torch.full_like(x[..., :1], len(states) ** -0.5)
    return torch.cat([constant, u * kept[..., None, :]], dim=-1), 1 + kept.sum(-1)


def _carries_on(found: _Found) -> Tensor:
    """Whether the last tenth of the lags hold more than chance, and more than a thousandth of the capacity."""
    last = max(len(found.curve) // 10, 1)
    held, doubt = found.curve[-last:].sum(0), found.curve_error[-last:].square().sum(0).sqrt()
    return (held > SURE * doubt) & (held > 1e-3 * found.total)
