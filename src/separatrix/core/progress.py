"""Progress bars of runs, drawn on stderr on request."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from separatrix.core.ending import check_time, kept


class HasSteps(Protocol):
    """Part of a run."""

    @property
    def steps(self) -> int:
        """Number of steps it took."""
        ...


Counted = TypeVar("Counted", bound=HasSteps)


PAUSE = 0.5  # seconds between two texts beside a bar


def watched(
    blocks: Iterable[Counted],
    total: int,
    label: str,
    show: bool,
    *,
    keeps: bool = False,
    says: Callable[[], str] | None = None,
) -> Iterator[Counted]:
    """Yield the blocks of a run; with `show`, draw a progress bar of their steps.

    Args:
        blocks: the blocks.
        total: number of steps in all of them.
        label: text before the bar.
        show: whether to draw it.
        keeps: whether the run can use a part of its blocks, so that an early end stops it; otherwise `Ended` is raised.
        says: what is known so far, as text; it is asked at most twice a second.
    """
    blocks = kept(iter(blocks)) if keeps else _timed(blocks)
    if not show:
        yield from blocks
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    known = TextColumn("{task.fields[known]}", markup=False)
    with Progress(*columns, known, transient=True, console=Console(stderr=True)) as bar:
        task, ask_at = bar.add_task(label, total=total, known=""), 0.0
        for block in blocks:
            yield block
            bar.advance(task, block.steps)
            if says is not None and time.monotonic() >= ask_at:
                bar.update(task, known=says())
                ask_at = time.monotonic() + PAUSE


def _timed(blocks: Iterable[Counted]) -> Iterator[Counted]:
    for block in blocks:
        check_time()
        yield block


@dataclass(frozen=True)
class Tick:
    """One of the equal parts of a task."""

    index: int
    steps: int = 1


def watched_count(count: int, label: str, show: bool) -> Iterator[Tick]:
    """Yield ticks 0 … count − 1; with `show`, draw a progress bar."""
    return watched((Tick(i) for i in range(count)), count, label, show)


Bar = Callable[[Callable[[], float]], None]


@contextmanager
def bar(label: str, show: bool) -> Iterator[Bar]:
    """A progress bar for a run whose number of steps is unknown; it receives a function that returns the completed share."""
    if not show:
        yield lambda share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as shown:
        task = shown.add_task(label, total=1.0)
        yield lambda share: shown.update(task, completed=share())


def say(text: str) -> None:
    """A line on stderr, beside the progress bars."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
