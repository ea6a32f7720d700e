"""Progress bars of runs, drawn on stderr on request."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar


class HasSteps(Protocol):
    """Part of a run."""

    @property
    def steps(self) -> int:
        """Number of steps it took."""
        ...


Counted = TypeVar("Counted", bound=HasSteps)


def watched(blocks: Iterable[Counted], total: int, label: str, show: bool) -> Iterator[Counted]:
    """Yield the blocks of a run; with `show`, draw a progress bar of their steps."""
    if not show:
        yield from blocks
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        for block in blocks:
            yield block
            bar.advance(task, block.steps)


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
