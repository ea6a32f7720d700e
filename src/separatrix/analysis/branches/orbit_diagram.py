"""Orbit diagrams: the states that orbits settle on, for all values of a parameter at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from separatrix.analysis.branches.knob import check_range, knob_of
from separatrix.analysis.run.statistics import least_size
from separatrix.core.checks import as_numbers, check_all_finite, check_positive, check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import begin, check_steps
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

LONGEST = 64  # steps of the longest cycle that is detected
ROUNDINGS = 1e3  # number of roundings by which a settled state may differ from its image
SETTLING = 20  # parts of the settling, for the progress bar


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OrbitDiagram(Result):
    """States that orbits visit after settling, as a function of one parameter.

    Args:
        parameter: name of the parameter.
        values: (parameter), its values.
        states: (time, parameter, *batch, dim); NaN from the step at which an orbit diverged.
        periods: (parameter, *batch), int64: length of the cycle in steps; 0 if there is no cycle of up to 64 steps.
    """

    parameter: str
    values: Tensor
    states: Tensor
    periods: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.bifurcations:orbit_diagram_figure"
    layout: ClassVar[dict[str, str]] = {"values": "parameter", "states": "time batch dim", "periods": "batch"}
    units: ClassVar[dict[str, str]] = {"periods": "steps", "states": "the state's unit"}

    def summary(self) -> str:
        """The lengths of the cycles, and the number of other orbits, in words."""
        lengths = sorted(set(self.periods[(self.periods > 0) & (self.codes == Status.OK)].tolist()))
        cycles = f"cycles of length {', '.join(map(str, lengths))}" if lengths else "no cycles"
        aperiodic = int(((self.periods == 0) & (self.codes == Status.OK)).sum())
        unsettled = int((self.codes == Status.NOT_CONVERGED).sum())
        diverged = int((self.codes == Status.DIVERGED).sum())
        ends = f"{plain(float(self.values[0]))} … {plain(float(self.values[-1]))}"
        counts = f"{aperiodic} aperiodic{f'; {unsettled} not settled' if unsettled else ''}; {diverged} diverged"
        return f"{counted(self.codes.numel(), 'orbit')} over {self.parameter} = {ends}: {cycles}; {counts}"

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return "These orbits left the finite numbers; start nearer to an attractor, or leave their parameter values out."
        return f"These orbits were still approaching a cycle after settle={self.settings['settle']} steps; raise settle."


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
    throw: bool = False,
) -> OrbitDiagram:
    r"""Orbits of  x_{n+1} = F(x_n; p)  after settling, for all values of the parameter p in one run.

    The period is the least q ≤ min(64, steps / 2) with  |x_{n+q} − x_n| ≤ distinct · max(s, |x|)  for every component and all
    kept n; s is a thousandth of the size of x0.

    Args:
        system: any System. The orbits of a flow are sampled every dt, so the periods of its cycles are not detected.
        parameter: a scalar among `system.parameter_names`; one element of an array, "constant[0]"; or an array that is moved
            along `direction`.
        values: values of the parameter, as a tensor or list or as a tuple (low, high, count).
        x0: initial states, shape (*batch, dim), the same for each value. Default: `system.initial_state()`.
        direction: direction d in the shape of the array: the values are the p of  array + p d.
        settle: steps before the first kept state.
        steps: number of states to keep.
        distinct: relative distance below which two states are equal.
        seed: seed of the initial state.
        progress: show a progress bar.
        throw: raise instead of marking orbits `diverged` or `not_converged`.

    Returns:
        OrbitDiagram: `values` (parameter), `states` (time, parameter, *batch, dim), `periods` and `status` (parameter, *batch). An
        orbit that is still approaching a cycle is `not_converged`: its distance from itself one period later exceeds rounding and
        has not halved over the kept states, or has halved at a shorter lag too, so that the final period may be shorter.

    Raises:
        InputError: there is no such parameter, or the values are empty, not finite, or a range with equal ends.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: one initial state shows one attractor per value. Near a bifurcation orbits settle slowly, and a cycle may not be
    detected.
    Source: May 1976, Nature 261, 459, fig. 4.

    Example:
        >>> diagram = sx.orbit_diagram(sx.classic.logistic(), "r", [2.8, 3.2, 3.5, 3.83])
        >>> diagram.periods.tolist()
        [1, 2, 4, 3]
    """
    knob = knob_of(system, parameter, direction)
    check_seed(seed)
    check_steps(system, settle=settle, steps=steps)
    check_whole("steps", steps, 2)
    check_positive("distinct", distinct)
    x0 = system.initial_state(tuple(system.batch_shape), seed) if x0 is None else torch.as_tensor(x0)
    grid = _as_values(parameter, values)
    axes = max(x0.ndim - 1, len(system.batch_shape))
    dtype = x0.dtype if x0.is_floating_point() else torch.float64
    front = begin(knob.set(system, grid.to(dtype).reshape(-1, *[1] * axes)), x0, seed=seed)
    states, least = [], least_size(front.x)
    for tick in watched_count(SETTLING + steps, f"Orbits over {parameter}", progress):
        i = tick.index
        if i < SETTLING:
            front = front.advance(settle * (i + 1) // SETTLING - settle * i // SETTLING)
        else:
            states.append(front.x)
            front = front.advance(1) if i < SETTLING + steps - 1 else front
    kept = torch.stack(states)
    periods, unsettled = _periods(kept, distinct, least)
    codes = torch.where(unsettled, Status.NOT_CONVERGED, Status.OK).masked_fill(front.failed_at >= 0, Status.DIVERGED)
    return OrbitDiagram(
        codes=codes.to(torch.int8),
        parameter=parameter,
        values=grid,
        states=kept,
        periods=periods,
        settings={**knob.settings, "settle": settle, "steps": steps, "distinct": distinct, "seed": seed},
    ).or_raise(throw)


def _as_values(parameter: str, values: Tensor | Sequence[float]) -> Tensor:
    if isinstance(values, tuple):
        if len(values) != 3:
            raise InputError(f"expected (low, high, count) as the range of {parameter}, got {values}.\nPass values as a list.")
        low, high, count = values
        check_whole("count", count, 1)
        check_range(parameter, low, high)
        return torch.from_numpy(np.linspace(low, high, count))
    grid = as_numbers(f"values of {parameter}", values)
    if grid.ndim != 1 or len(grid) == 0:
        raise InputError(f"expected at least 1 value of {parameter} in a list or a 1-d tensor, got shape {tuple(grid.shape)}.")
    check_all_finite(f"the values of {parameter}", grid, "")
    return grid


def _periods(states: Tensor, distinct: float, least: Tensor) -> tuple[Tensor, Tensor]:
    """The least lag at which every state recurs, 0 if there is none, and whether the orbit has not settled yet.

    A slow passage recurs to within any tolerance too; a cycle differs from it in that its recurrence distance shrinks. If that
    distance also shrinks at a shorter lag that divides the period, the final period may be that lag.
    """
    size = torch.maximum(states.abs().amax((0, -1)), least)
    near, rounding = distinct * size, ROUNDINGS * torch.finfo(states.dtype).eps * size
    periods = torch.zeros(states.shape[1:-1], dtype=torch.int64, device=states.device)
    unsettled, shrinks = torch.zeros_like(periods, dtype=torch.bool), {}
    for lag in range(1, min(LONGEST, len(states) // 2) + 1):
        distance = (states[lag:] - states[:-lag]).abs().amax(-1)
        third = max(1, len(distance) // 3)
        first, last = distance[:third].amax(0), distance[-third:].amax(0)
        shrinks[lag] = last <= first / 2
        undecided = ~shrinks[lag] & (last > rounding)
        for shorter in (d for d in range(1, lag) if lag % d == 0):
            undecided = undecided | shrinks[shorter]
        new = (periods == 0) & (distance.amax(0) <= near)
        periods, unsettled = torch.where(new, lag, periods), undecided.where(new, unsettled)
    return periods, unsettled | (periods == 0) & _is_monotonic(states)


def _is_monotonic(states: Tensor) -> Tensor:
    """Whether every component only rises or only falls, which no settled orbit does, shape (*batch)."""
    steps = states.diff(dim=0)
    one_way = (steps >= 0).all(0) | (steps <= 0).all(0)
    return one_way.all(-1) & (steps != 0).any(0).any(-1)
