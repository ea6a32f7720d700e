"""Arrivals: when and where each item meets its event, and how it ended."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, plain


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Arrival(Result):
    """The first zero of a function along the solution of an initial value problem.

    An item without an event before `end` is `ok` with `found` False. One that fails first is `diverged` or `not_converged`.

    Args:
        times: times of the events, shape (*batch), float64, differentiable; NaN where there is none.
        states: states at the events, shape (*batch, dim), differentiable; NaN where there is none.
        found: whether there is an event, shape (*batch).
        speeds: d/dt g(x(t), t) at the event, shape (*batch). Near 0 the orbit is tangent, and gradients grow like 1 / speed.
        accepted, rejected: number of accepted and rejected steps, shape (*batch).
        reached: time up to which each item was followed, shape (*batch).
    """

    times: Tensor
    states: Tensor
    found: Tensor
    speeds: Tensor
    accepted: Tensor
    rejected: Tensor
    reached: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.arrival:arrival_figure"
    layout: ClassVar[dict[str, str]] = {
        "times": "batch",
        "states": "batch state",
        "found": "batch",
        "speeds": "batch",
        "accepted": "batch",
        "rejected": "batch",
        "reached": "batch",
    }
    units: ClassVar[dict[str, str]] = {"times": "time", "reached": "time"}

    def summary(self) -> str:
        total, times = self.codes.numel(), self.times.detach()[self.found]
        span = "" if not len(times) else f", at t = {_range(times)}"
        late = int((~self.found & (self.codes == Status.OK)).sum())
        without = f"; {late} without one before the end time" if late else ""
        method = str(self.settings["method"]).replace("_", " ")
        return f"{len(times)} of {counted(total, 'item')} with an event{span}, by {method}{without}; {self.ended()}."


def _range(times: Tensor) -> str:
    low, high = float(times.min()), float(times.max())
    return plain(low) if low == high else f"{plain(low)} … {plain(high)}"
