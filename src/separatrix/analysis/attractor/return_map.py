"""Return maps: each maximum of a component of the state, or each of its values, against the previous one."""

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
    """Successive values of one component of the state, s_{n+1} against s_n.

    Args:
        component: index of the component.
        of_maxima: True if the visits are the component's maxima along a flow, False if they are steps.
        values: (visit, *batch), s_0 … s_steps; NaN after a run diverged or had no further maximum.
        intervals: (interval, *batch), time from each visit to the next.
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
        """Mean time between visits and its standard error by batch means, each (*batch)."""
        return self.intervals.mean(0), standard_error(self.intervals, torch.ones_like(self.intervals))

    def summary(self) -> str:
        """Number of visits, range of their values and mean time between them, in words."""
        what = "maxima" if self.of_maxima else "values"
        finite = self.values[torch.isfinite(self.values)]
        short = int((self.codes == Status.DIVERGED).sum())
        ended = f"; {short} of {counted(self.codes.numel(), 'run')} ended early" if short else ""
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

    def _remedy(self, status: Status) -> str:
        return "These runs left the finite numbers or had no further maximum: remove them from x0, or raise max_steps."


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
    throw: bool = False,
) -> ReturnMap:
    r"""Successive maxima of a component along a flow, s_{n+1} against s_n; for any other system, its successive values.

    A maximum of component i lies where ẋ_i falls through zero; it is located by a fraction of a solver step. Points on a curve
    mean that a one-dimensional map describes the dynamics well.

    Args:
        system: a `Flow`, whose maxima are followed; or a `Section`, a `Stroboscopic` map or any other system, where each step is
            one visit.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        component: index i of the component, from 0.
        steps: number of visits after the first one.
        settle: number of visits to discard first.
        max_steps: maximum number of flow steps from one maximum to the next; if there is none, the run ends in NaN.
        seed: seed of the initial state.
        progress: show a progress bar.
        throw: raise instead of marking runs `diverged`.

    Returns:
        ReturnMap: `values` (visit, *batch), `intervals` (interval, *batch), `before` and `after`; status `diverged` where the
        visits end early.

    Raises:
        InputError: the component does not exist, the flow's field depends on time, or no run has a maximum.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError: with `throw=True`.

    Limits: two extrema of the component within one step of a flow are missed.
    Source: Lorenz 1963, J. Atmos. Sci. 20, 130, fig. 4 (successive maxima of z).

    Example:
        >>> logistic = sx.Map(lambda x: 4 * x * (1 - x), dim=1)
        >>> found = sx.return_map(logistic, torch.tensor([0.3], dtype=torch.float64), steps=100)
        >>> torch.allclose(found.after, 4 * found.before * (1 - found.before))
        True
    """
    check_seed(seed)
    check_steps(system, settle=settle, steps=steps)
    check_whole("steps", steps, 1)
    check_whole("max_steps", max_steps, 1)
    check_whole("component", component, 0, system.dim - 1)
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
    diverged = ~torch.isfinite(values[-1])
    found = ReturnMap(
        codes=torch.where(diverged, Status.DIVERGED, Status.OK).to(torch.int8),
        component=int(component),
        of_maxima=system.continuous,
        values=values,
        intervals=time.diff(dim=0).where(torch.isfinite(values[1:]), torch.nan),
        settings={"steps": steps, "settle": settle, "max_steps": max_steps, "seed": seed},
    )
    return found.or_raise(throw)


class _Steps:
    """The visits of a map: its steps."""

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
    """The visits of a flow: the maxima of a component, the first one some time after the start."""

    def __init__(self, front: Front, component: int, max_steps: int) -> None:
        self.flow, self.peak, self.max_steps = front.system, Extremum(component), max_steps
        check_autonomous(self.flow, front.x, "the state alone does not determine where its component has a maximum")
        self.x, self.time = front.x, torch.zeros_like(front.x[..., 0], dtype=torch.float64)
        self.go_on(leaving=False)
        if not bool(torch.isfinite(self.x).any()):
            raise InputError(
                f"component {component} has no maximum within {max_steps:,} steps of the flow.\n"
                "Start where it oscillates, choose another component, or raise max_steps."
            )

    def go_on(self, leaving: bool = True) -> None:
        found = next_crossing(self.flow, self.peak, self.x, direction=-1, max_steps=self.max_steps, leaving=leaving)
        self.x, self.time = found.x, self.time + found.time
