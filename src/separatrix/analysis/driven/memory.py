"""Linear memory capacity: how well past inputs can be read from the state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.core.checks import check_positive, check_seed, check_whole
from separatrix.core.driven import Driven
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import Front, begin, check_steps, check_system_type
from separatrix.core.progress import watched_count
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured

FOLDS = 20  # blocks of the cross-validation
FEWEST_STEPS, STEPS_PER_NUMBER = 10_000, 50  # steps of a default run: at least, and per component of the state
FEWEST_LAGS = 20
ENOUGH = 15  # fewest steps per readout weight; with 5, terms of second order in p/T turn a capacity of 2.5 into about −1
SURE = 3  # standard errors beyond which the last lags still carry memory

# Note [Capacity without bias]
# A regression on p variables from T samples explains a fraction p/T of any target. Summed over many lags, the capacities on the
# training samples are therefore too large, and those on held-out samples too small by the same amount. To first order in p/T the
# two residuals are off by −c and c, whatever their correlation in time (c = tr(Σ⁻¹Ω)/T, Ω the long-run covariance of state times
# residual: Takeuchi 1976), and with B blocks left out in turn by c·B/(B−1). The mean of the two with weights B and B−1 has no
# bias of this order.
# An SVD first turns the states into orthonormal columns: for a long memory the normal equations would square a condition number
# that is already large. Columns below rounding error are dropped.


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MemoryCapacity(Result):
    r"""Linear memory curve and its sum, the capacity:  C_l = 1 − min ⟨(s_{n+1−l} − w·x_{n+1} − b)²⟩ / ⟨s²⟩,  Σ_l C_l.

    Args:
        lags: (lag), 1 … the longest; lag 1 is the input of the last step.
        curve, curve_stderr: (lag, *batch), C_l, the squared correlation of the best linear readout with the input, and its
            standard error.
        capacity, stderr: (*batch), Σ_l C_l over these lags, at most dim, and its standard error.
        half_lag: (*batch), lag by which half of the capacity is reached, within its standard error.
        rank: (*batch), number of linearly independent components of the state, up to rounding; also a bound on the capacity.
        dim: size of the state.
        enters: how the input enters the system, in words.
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
        """The capacity, its upper bound, and the lag by which half of it is reached."""
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
        short = f"not converged, {steps:,} steps are too few for an unbiased estimate, at least {needed:,} are needed"
        return short if steps < needed else "longer lags carry more"

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return "The state diverges under this input: lower scale, or choose another x0."
        return f"Raise max_lag = {self.settings['max_lag']} until the curve has decayed, or steps to {ENOUGH} per readout weight."


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
    throw: bool = False,
) -> MemoryCapacity:
    r"""Linear memory capacity: drive the system with white noise s and read its past from the state,  Σ_l r²(s_{n+1−l}, ŝ_l).

    A Lyapunov exponent measures how fast perturbations decay; the memory capacity measures what is remembered. It is at most the
    size of the state.

    Args:
        system: any System. A `Driven` system gets its own input plus scale · s_n · direction, so that s enters through the
            network's input weights; drive it with zeros (no inputs) to measure the network alone, or with data to measure it
            under that load. For any other system, including a `Noisy` one, scale · s_n · direction is added to the state after
            each step.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        scale: amplitude of the input; s_n is uniform in ±1, independent from step to step, the same for all items.
        direction: vector that multiplies s_n, shape (inputs) or (dim). Default: equal components, of length 1.
        max_lag: longest lag. Default: twice the state's size, at least 20.
        steps: steps to fit and test the readouts on. Default: 10,000, or 50 per component of the state if that is more; within the
            horizon.
        settle: steps before them. Default: a fifth of `steps`, at least max_lag.
        seed: seed of the input and of the initial state.
        progress: show a progress bar.
        throw: raise instead of marking items `diverged` or `not_converged`.

    Returns:
        MemoryCapacity: `capacity` ± `stderr` (*batch), `curve` (lag, *batch). Both are unbiased to first order in the number of
        readout weights, so the estimate of a capacity of 0 may be negative. An item is `not_converged` if its last lags still
        carry memory (raise `max_lag`), or if there are fewer than 15 steps per readout weight (its estimate is biased).

    Raises:
        InputError: scale, max_lag or steps is out of range, or steps is below the 20 + 2 · (dim + 1) that the readouts need.
        ShapeError: direction does not fit the input.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.
    Limits: stores all states, steps × *batch × dim numbers. The error bars come from 20 blocks left out in turn and hold for
        white noise as input. Linear readouts only.
    Source: Jaeger 2001, GMD Report 152 (his lag k is l − 1, and his sum leaves out k = 0); bound and generalisation: Dambre et al.
        2012, Sci. Rep. 2, 514.

    Example:
        >>> delay_line = sx.Map(lambda x: x.roll(1, -1) * torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]), dim=5)
        >>> first = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
        >>> found = sx.memory_capacity(delay_line, direction=first, max_lag=5, steps=500)
        >>> print(f"{found.capacity:.3f}")  # one input per unit
        5.000
    """
    check_system_type(system)
    seed = check_seed(seed)
    lags = check_whole("max_lag", max(2 * system.dim, FEWEST_LAGS) if max_lag is None else max_lag, 1)
    steps, settle = _plan(system, steps, settle, lags)
    check_positive("scale", scale)
    front = begin(system, x0, seed=seed)
    push, enters = _entrance(front, direction, float(scale))
    signal = 2 * torch.rand(settle + steps, dtype=torch.float64, generator=torch_generator(seed, "signal to remember")) - 1
    states = _states(front, push, signal.to(front.x), settle, progress)
    targets = torch.stack([signal[settle + 1 - lag : settle + steps + 1 - lag] for lag in range(1, lags + 1)], dim=-1)
    failed = ~states.isfinite().all(0).all(-1)
    found = _capacities(states.where(~failed[..., None], 0.0), targets.to(states))
    known = (value.where(~failed, torch.nan) for value in (found.curve, found.curve_stderr, found.total, found.stderr))
    curve, curve_stderr, total, error = known
    before = (curve.cumsum(0) >= (total - error) / 2).long().cumsum(0) == 0
    open_ended = _carries_on(found) | (steps < ENOUGH * (found.rank + 1))
    codes = torch.where(open_ended, Status.NOT_CONVERGED, Status.OK).masked_fill(failed, Status.DIVERGED)
    memory = MemoryCapacity(
        codes=codes.to(torch.int8),
        lags=torch.arange(1, lags + 1),
        curve=curve,
        curve_stderr=curve_stderr,
        capacity=total,
        stderr=error,
        half_lag=(before.sum(0) + 1).masked_fill(failed, 0),
        rank=found.rank.masked_fill(failed, 0),
        dim=system.dim,
        enters=enters,
        settings={"scale": scale, "max_lag": lags, "steps": steps, "settle": settle, "seed": seed},
    )
    return memory.or_raise(throw)


def _plan(system: System, steps: int | None, settle: int | None, lags: int) -> tuple[int, int]:
    """Steps to fit on, and steps to settle before them, which must cover the longest lag."""
    least = FOLDS + 2 * (system.dim + 1)
    wanted = max(FEWEST_STEPS, STEPS_PER_NUMBER * system.dim) if steps is None else check_whole("steps", steps)
    before = max(wanted // 5, lags) if settle is None else check_whole("settle", settle)
    if system.horizon is not None and settle is None:
        before = max(min(before, system.horizon // 5 if steps is None else system.horizon - wanted), lags)
    if system.horizon is not None and steps is None:
        wanted = min(wanted, max(system.horizon - before, 1))
    if before < lags - 1:
        raise InputError(
            f"settle is {before}, but a longest lag of {lags} needs at least {lags - 1}.\nRaise settle or lower max_lag."
        )
    check_steps(system, settle=before, steps=wanted)
    if wanted < least:
        raise InputError(f"steps is {wanted}, but readouts from {system.dim} numbers need at least {least}.\nTake more steps.")
    return int(wanted), int(before)


Push = Callable[[Tensor, Tensor, int], Tensor]


def _entrance(front: Front, direction: Any, scale: float) -> tuple[Push, str]:
    """One step with the input, (x, s, n) ↦ x', and a description of how the input enters."""
    system, x = front.system, front.x
    driven = system if isinstance(system, Driven) else None
    size = system.dim if driven is None else driven.drive(0).shape[-1]
    along = torch.full((size,), size**-0.5) if direction is None else torch.as_tensor(direction)
    if along.shape != (size,) or not bool(along.isfinite().all()) or not bool(along.any()):
        raise ShapeError(
            f"expected a direction of shape ({size},), finite and not zero, got shape {tuple(along.shape)}.\n"
            f"Pass one number for each component of the {'input' if driven is not None else 'state'}."
        )
    along = scale * along.to(x)
    if driven is not None:
        return lambda x, s, n: driven.advance(x, driven.drive(n).to(x) + s * along), "white noise through the system's input"
    return lambda x, s, n: system.step(x, n) + s * along, "white noise added to the state"


def _states(front: Front, push: Push, signal: Tensor, settle: int, progress: bool) -> Tensor:
    """The states after the settling, (steps, *batch, dim)."""
    x, kept = front.x, []
    for tick in watched_count(len(signal), "Memory capacity", progress):
        x = push(x, signal[tick.index], tick.index)
        if tick.index >= settle:
            kept.append(x)
    return torch.stack(kept)


@dataclass(frozen=True)
class _Capacities:
    """Capacities and their errors, (lag, *batch) and (*batch), and the rank."""

    curve: Tensor
    curve_stderr: Tensor
    total: Tensor
    stderr: Tensor
    rank: Tensor


def _capacities(states: Tensor, targets: Tensor) -> _Capacities:
    """See Note [Capacity without bias].

    Args:
        states: (steps, *batch, dim), finite.
        targets: (steps, lag), past inputs.
    """
    used = len(states) // FOLDS * FOLDS
    columns, rank = _orthonormal(states[len(states) - used :])
    y = targets[len(states) - used :]
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
    explained = power - FOLDS * mixed / y.square().sum(0)
    curve = explained.mean(-2)
    by_fold = (explained - curve[..., None, :] * (power - 1)).movedim(-2, 0)  # without the fold's own power; (fold, *batch, lag)
    total = curve.sum(-1)
    chance = 2 * rank[..., None] * ((1 - curve) / used).square()  # variance of what a readout explains by chance, χ²/T
    curve_stderr = (by_fold.var(0) / FOLDS + chance).sqrt()
    stderr = (by_fold.sum(-1).var(0) / FOLDS + chance.sum(-1)).sqrt()
    return _Capacities(curve.movedim(-1, 0), curve_stderr.movedim(-1, 0), total, stderr, rank - 1)


def _orthonormal(states: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns that span the states and a constant, (*batch, steps, dim + 1); and how many exceed rounding error."""
    x = states.movedim(0, -2)
    mean = x.mean(-2, keepdim=True)
    u, s, _ = torch.linalg.svd(x - mean, full_matrices=False)
    noise = 10 * torch.finfo(x.dtype).eps * len(states) ** 0.5 * x.abs().amax((-2, -1))
    kept = s > noise[..., None]
    constant = torch.full_like(x[..., :1], len(states) ** -0.5)
    return torch.cat([constant, u * kept[..., None, :]], dim=-1), 1 + kept.sum(-1)


def _carries_on(found: _Capacities) -> Tensor:
    """Whether the capacity in the last tenth of the lags is significant, and more than a thousandth of the whole."""
    last = max(len(found.curve) // 10, 1)
    tail, error = found.curve[-last:].sum(0), found.curve_stderr[-last:].square().sum(0).sqrt()
    return (tail > SURE * error) & (tail > 1e-3 * found.total)
