"""What an orbit settles on, for every value of a parameter at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from separatrix.analysis.branches.knob import check_range, knob_of
from separatrix.analysis.run.statistics import least_size
from separatrix.core.checks import as_numbers, check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import begin, check_steps
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

LONGEST = 64  # steps, of the longest cycle that is looked for
ROUNDINGS = 1e3  # by how many a state at rest may be off its own image
SETTLING = 20  # pieces that the settling is taken in, for the progress bar


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OrbitDiagram(Result):
    """The states that orbits visit after settling, over the values of one parameter.

    Args:
        parameter: its name.
        values: (value), what it was.
        states: (time, value, *batch, dim); NaN from the step on at which an orbit diverged.
        periods: (value, *batch), int64: length of the cycle, in steps; 0 where none up to 64 was seen.
    """

    parameter: str
    values: Tensor
    states: Tensor
    periods: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.bifurcations:orbit_diagram_figure"
    layout: ClassVar[dict[str, str]] = {"values": "value", "states": "time batch dim", "periods": "batch"}
    units: ClassVar[dict[str, str]] = {"periods": "steps", "states": "the state's unit"}

    def summary(self) -> str:
        """How many of the orbits are cycles, in words."""
        lengths = sorted(set(self.periods[(self.periods > 0) & (self.codes == Status.OK)].tolist()))
        cycles = f"cycles of length {', '.join(map(str, lengths))}" if lengths else "no cycles"
        other = int(((self.periods == 0) & (self.codes == Status.OK)).sum())
        open_ = int((self.codes == Status.NOT_CONVERGED).sum())
        still = f"; {open_} still moving" if open_ else ""
        lost = int((self.codes == Status.DIVERGED).sum())
        ends = f"{plain(float(self.values[0]))} … {plain(float(self.values[-1]))}"
        counts = f"{other} without{still}; {lost} diverged"
        return f"{counted(self.codes.numel(), 'orbit')} over {self.parameter} = {ends}: {cycles}; {counts}"


@torch.no_grad()
def orbit_diagram(
    system: System,
    parameter: str,
    values: Tensor | Sequence[float],
    x0: Tensor | None = None,
    *,
    direction: Tensor | None = None,
    settle: int = 1_000,
    steps: int = 200,
    distinct: float = 1e-6,
    seed: int = 0,
    progress: bool = False,
) -> OrbitDiagram:
    r"""The orbits of  x_{n+1} = F(x_n; p)  after settling, for all values of the parameter p in one run.

    A cycle has the least length q ≤ 64, steps / 2 with  |x_{n+q} − x_n| ≤ distinct · max(s, |x|)  for every component and all
    kept n; s is a thousandth of the size of x0.

    Args:
        system: any System. A flow is seen every dt, so that its cycles do not show as periods.
        parameter: one of `system.parameter_names` that is a number; or a number of an array, "constant[0]"; or an array that is
            moved along `direction`.
        values: a tensor or list of values, or a tuple (low, high, count).
        x0: initial states, shape (*batch, dim), the same for each value. Default: `system.initial_state()`.
        direction: d, of the array's shape: the values are the p of  array + p d.
        settle: steps to discard first.
        steps: states to keep.
        distinct: how near a cycle must come back to itself.
        seed: of the initial state.
        progress: show a bar.

    Returns:
        OrbitDiagram: `values` (value), `states` (time, value, *batch, dim), `periods` and `status` (value, *batch). A cycle that
        still moves is `not_converged`: what it misses itself by is more than rounding and has not halved over the kept states, or
        has halved at a shorter lag too, so that the cycle may be shorter in the end.

    Raises:
        InputError: there is no such parameter, or the values are none, not finite, or a range whose ends are equal.
        HorizonError: `settle + steps` exceeds the steps the system can take.

    Limits: one start shows one attractor for each value. At a bifurcation orbits settle slowly, and a cycle is not seen yet.
    Source: May 1976, Nature 261, 459, fig. 4.
    """
    knob = knob_of(system, parameter, direction)
    check_seed(seed)
    check_steps(system, settle=settle, steps=steps)
    if steps < 2:
        raise InputError(f"steps is {steps}; a cycle is seen in at least 2 states.")
    if not (isinstance(distinct, Real) and distinct > 0):
        raise InputError(f"distinct is {distinct}; states come back to within a positive distance.")
    x0 = system.initial_state(tuple(system.batch_shape), seed) if x0 is None else torch.as_tensor(x0)
    grid = _as_values(parameter, values)
    axes = max(x0.ndim - 1, len(system.batch_shape))
    dtype = x0.dtype if x0.is_floating_point() else torch.float64
    front = begin(knob.set(system, grid.to(dtype).reshape(-1, *[1] * axes)), x0, seed=seed)
    states, least = [], least_size(front.x)
    for tick in watched_count(SETTLING + steps, f"orbits over {parameter}", progress):
        i = tick.index
        if i < SETTLING:
            front = front.advance(settle * (i + 1) // SETTLING - settle * i // SETTLING)
        else:
            states.append(front.x)
            front = front.advance(1) if i < SETTLING + steps - 1 else front
    kept = torch.stack(states)
    periods, moving = _periods(kept, distinct, least)
    codes = torch.where(moving, Status.NOT_CONVERGED, Status.OK).masked_fill(front.failed_at >= 0, Status.DIVERGED)
    return OrbitDiagram(
        codes=codes.to(torch.int8),
        parameter=parameter,
        values=grid,
        states=kept,
        periods=periods,
        settings={**knob.settings, "settle": settle, "steps": steps, "distinct": distinct, "seed": seed},
    )


def _as_values(parameter: str, values: Tensor | Sequence[float]) -> Tensor:
    if isinstance(values, tuple):
        if len(values) != 3:
            raise InputError(f"a range of {parameter} is (low, high, count), not {values}.\nPass a list for single values.")
        low, high, count = values
        check_whole("count", count)
        check_range(parameter, low, high)
        if count < 1:
            raise InputError(f"count is {count}; there must be at least 1 value of {parameter}.")
        return torch.from_numpy(np.linspace(low, high, count))
    grid = as_numbers(f"values of {parameter}", values)
    if grid.ndim != 1 or len(grid) == 0:
        raise InputError(f"values of {parameter} have shape {tuple(grid.shape)}; pass a row of at least 1 number.")
    if not torch.isfinite(grid).all():
        raise InputError(f"{int((~torch.isfinite(grid)).sum())} of {len(grid)} values of {parameter} are not finite.")
    return grid


def _periods(states: Tensor, distinct: float, least: Tensor) -> tuple[Tensor, Tensor]:
    """The least lag at which every state comes back, 0 where there is none, and whether that is not yet known.

    A slow passage comes back to within any tolerance, or goes one way; only that it comes nearer tells a cycle from it. Where it
    comes nearer at a shorter lag too, one that divides this, the cycle may be of that length in the end.
    """
    size = torch.maximum(states.abs().amax((0, -1)), least)
    near, rounding = distinct * size, ROUNDINGS * torch.finfo(states.dtype).eps * size
    periods = torch.zeros(states.shape[1:-1], dtype=torch.int64, device=states.device)
    moving, nears = torch.zeros_like(periods, dtype=torch.bool), {}
    for lag in range(1, min(LONGEST, len(states) // 2) + 1):
        missed = (states[lag:] - states[:-lag]).abs().amax(-1)
        third = max(1, len(missed) // 3)
        first, last = missed[:third].amax(0), missed[-third:].amax(0)
        nears[lag] = last <= first / 2
        open_ = ~nears[lag] & (last > rounding)
        for shorter in (d for d in range(1, lag) if lag % d == 0):
            open_ = open_ | nears[shorter]
        new = (periods == 0) & (missed.amax(0) <= near)
        periods, moving = torch.where(new, lag, periods), open_.where(new, moving)
    return periods, moving | (periods == 0) & _creeps(states)


def _creeps(states: Tensor) -> Tensor:
    """Whether every component only rises or only falls, as none does on what orbits settle on, shape (*batch)."""
    steps = states.diff(dim=0)
    one_way = (steps >= 0).all(0) | (steps <= 0).all(0)
    return one_way.all(-1) & (steps != 0).any(0).any(-1)
