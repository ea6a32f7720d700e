"""Return maps: what a component of the state is at its next maximum, or return, against what it is at this one."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.statistics import standard_error
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front, begin, check_steps
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain
from separatrix.flows.events.crossing import Extremum, check_autonomous, check_flow, next_crossing


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ReturnMap(Result):
    """One component of the state, from visit to visit: s_{n+1} against s_n.

    Args:
        component: which one.
        of_maxima: the visits are the component's maxima along a flow, not the steps of a map.
        values: (visit, *batch), s_0 … s_steps; NaN from where a sample left the finite numbers or had no further maximum.
        intervals: (interval, *batch), the time from each visit to the next.
    """

    component: int
    of_maxima: bool
    values: Tensor
    intervals: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.return_map:return_map_figure"
    layout: ClassVar[dict[str, str]] = {"values": "visit batch", "intervals": "interval batch"}
    units: ClassVar[dict[str, str]] = {"intervals": "units of time"}

    @property
    def before(self) -> Tensor:
        """s_n, shape (interval, *batch)."""
        return self.values[:-1]

    @property
    def after(self) -> Tensor:
        """s_{n+1}, shape (interval, *batch)."""
        return self.values[1:]

    @property
    def mean_interval(self) -> tuple[Tensor, Tensor]:
        """The mean time between visits and its standard error by batch means, each (*batch)."""
        return self.intervals.mean(0), standard_error(self.intervals, torch.ones_like(self.intervals))

    def summary(self) -> str:
        """How many visits, between which values, how far apart."""
        what = "maxima" if self.of_maxima else "values"
        finite = self.values[torch.isfinite(self.values)]
        lost = int((self.codes == Status.DIVERGED).sum())
        ended = f"; {lost} of {counted(self.codes.numel(), 'run')} ended early" if lost else ""
        alive = self.codes != Status.DIVERGED
        if not bool(alive.any()):
            return f"Return map: no {what} of component {self.component}{ended}"
        runs = f" of {self.codes.numel():,} runs" if self.codes.numel() > 1 else ""
        span = f"from {plain(float(finite.min()))} to {plain(float(finite.max()))}"
        mean, error = (part[alive] for part in self.mean_interval)
        return (
            f"{len(self.values):,} successive {what} of component {self.component}{runs}, {span}, "
            f"{measured(float(mean.mean()), float(error.square().mean() / len(error)) ** 0.5)} units of time apart{ended}"
        )


@torch.no_grad()
def return_map(
    system: System,
    x0: Tensor | None = None,
    *,
    component: int = 0,
    steps: int = 1_000,
    settle: int = 100,
    max_steps: int = 10_000,
    seed: int = 0,
    progress: bool = False,
) -> ReturnMap:
    r"""A component's successive maxima along a flow, s_{n+1} against s_n; of any other system, its successive values.

    A maximum lies where ẋ_i falls through zero, and is located on the solver's own step taken in part. Where the points lie on a
    curve the dynamics is, to the eye, that of a map of one number.

    Args:
        system: a `Flow`, of whose component the maxima are followed; a `Section`, a `Stroboscopic` map or any other system, of
            which each step is one visit.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        component: i, from 0.
        steps: how many visits to follow the first one.
        settle: how many to discard first.
        max_steps: steps of a flow within which a maximum must follow; where none does, NaN from there on.
        seed: for the initial state.
        progress: show a bar.

    Returns:
        ReturnMap: `values` (visit, *batch), `intervals` (interval, *batch), `before` and `after`; status `diverged` where the
        visits end early.

    Raises:
        InputError: no such component, a flow whose field depends on time, or no run in which the component has a maximum.
        HorizonError: `settle + steps` exceeds the steps the system can take.

    Limits: two extrema of the component within one step of a flow are not seen.
    Source: Lorenz 1963, J. Atmos. Sci. 20, 130, fig. 4 (successive maxima of z).
    """
    check_seed(seed)
    check_steps(system, settle=settle, steps=steps)
    if steps < 1:
        raise InputError(f"steps is {steps}; a return map needs at least 1.")
    if check_whole("max_steps", max_steps) < 1:
        raise InputError(f"max_steps is {max_steps}; a maximum is at least 1 step away.")
    if not 0 <= check_whole("component", component) < system.dim:
        raise InputError(f"component is {component}, but the state has the components 0 … {system.dim - 1}.")
    if system.continuous:
        check_flow(system, "a return map of maxima")
    front = begin(system, x0, seed=seed)
    visits = _Peaks(front, component, max_steps) if system.continuous else _Steps(front)
    states, times = [], []
    for tick in watched_count(settle + steps + 1, "return map", progress):
        if tick.index >= settle:
            states.append(visits.x[..., component])
            times.append(visits.time)
        if tick.index < settle + steps:
            visits.go_on()
    values, time = torch.stack(states), torch.stack(times)
    lost = ~torch.isfinite(values[-1])
    return ReturnMap(
        codes=torch.where(lost, Status.DIVERGED, Status.OK).to(torch.int8),
        component=int(component),
        of_maxima=system.continuous,
        values=values,
        intervals=time.diff(dim=0).where(torch.isfinite(values[1:]), torch.nan),
        settings={"steps": steps, "settle": settle, "max_steps": max_steps, "seed": seed},
    )


class _Steps:
    """The visits of a map: every step is one."""

    def __init__(self, front: Front) -> None:
        self.front = front

    @property
    def x(self) -> Tensor:
        return self.front.x

    @property
    def time(self) -> Tensor:
        batch = self.x.shape[:-1]
        return torch.as_tensor(self.front.time, dtype=torch.float64, device=self.x.device).expand(batch)

    def go_on(self) -> None:
        self.front = self.front.advance(1)


class _Peaks:
    """The visits of a flow: the maxima of a component, the first of them some time after the start."""

    def __init__(self, front: Front, component: int, max_steps: int) -> None:
        self.flow, self.peak, self.max_steps = front.system, Extremum(component), max_steps
        check_autonomous(self.flow, front.x, "where its component has a maximum does not follow from the state alone")
        self.x, self.time = front.x, torch.zeros_like(front.x[..., 0], dtype=torch.float64)
        self.go_on(leaving=False)
        if not bool(torch.isfinite(self.x).any()):
            raise InputError(
                f"component {component} has no maximum within {max_steps:,} steps of the flow.\n"
                "Begin where it oscillates, choose another component, or raise max_steps."
            )

    def go_on(self, leaving: bool = True) -> None:
        found = next_crossing(self.flow, self.peak, self.x, direction=-1, max_steps=self.max_steps, leaving=leaving)
        self.x, self.time = found.x, self.time + found.time
