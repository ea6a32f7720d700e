"""Timing two ways of doing the same work in one process, and the rows that come of it."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        work: what was measured.
        ours: our time, in `unit`.
        against: what it is compared with.
        theirs: its time, in `unit`; None when it was not measured, and `note` says why.
        floor: no way around it: the ratio is ours over theirs, the smaller the better. Otherwise theirs over ours.
        goal: what the ratio should be at most (a floor) or at least (a rival).
    """

    work: str
    ours: float
    against: str
    theirs: float | None
    unit: str
    floor: bool = False
    goal: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over theirs against a floor, theirs over ours against a rival."""
        if self.theirs is None:
            return None
        return self.ours / self.theirs if self.floor else self.theirs / self.ours

    @property
    def verdict(self) -> str:
        """The goal and whether it was reached."""
        if self.goal is None or self.ratio is None:
            return self.note
        reached = self.ratio <= self.goal if self.floor else self.ratio >= self.goal
        return f"{'≤' if self.floor else '≥'} {self.goal:g} × {'✓' if reached else '✗'}"


def interleaved(sides: dict[str, Work], repeats: int = 5) -> dict[str, float]:
    """Median seconds of each side, taken in turns after a warm-up, so that a slow minute of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for work in sides.values():
        work()
    for _ in range(repeats):
        for name, work in sides.items():
            seconds[name].append(stopwatch(work))
    return {name: median(times) for name, times in seconds.items()}


def stopwatch(work: Work) -> float:
    """Seconds that the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def machine() -> dict[str, object]:
    """Where the numbers come from: nothing that names the host."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load before the run": round(os.getloadavg()[0], 2),
    }
