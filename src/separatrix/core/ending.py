"""An early end for runs: when their time is up, or on Ctrl-C, they keep what they have."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from separatrix.core.checks import check_positive
from separatrix.core.wording import plain

# Note [Early end]
# Within `ending(seconds)`, a run that can use a part of its steps stops at the next block and keeps the blocks it has (`kept`).
# Every other loop that reports its progress raises `Ended`, because half of its result is none. With `on_interrupt`, Ctrl-C is the
# same event: the time is up now. The clock decides only where a run ends, never what it measures until then.

Part = TypeVar("Part")


class Ended(Exception):
    """The time is up, and the loop that was running has nothing to keep."""


class Ending:
    """The time at which runs end, and why they did.

    Args:
        seconds: time from now; None for no limit.
        on_interrupt: whether Ctrl-C ends runs instead of raising KeyboardInterrupt.
        within: the ending of the context around it, if there is one.
    """

    def __init__(self, seconds: float | None, on_interrupt: bool = False, within: "Ending | None" = None) -> None:
        self.seconds = seconds
        self.on_interrupt = on_interrupt
        self._within = within
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds
        self._stopped = False

    @property
    def is_due(self) -> bool:
        """Whether runs end now."""
        return self._stopped or time.monotonic() >= self._deadline or (self._within is not None and self._within.is_due)

    @property
    def why(self) -> str:
        """The reason, as text; empty if it is not due."""
        if self._stopped:
            return "stopped by Ctrl-C"
        if self.seconds is not None and time.monotonic() >= self._deadline:
            return f"ended after {plain(self.seconds)} s"
        return "" if self._within is None else self._within.why

    def stop(self) -> None:
        """End now, as on Ctrl-C."""
        self._stopped = True


_current: ContextVar[Ending | None] = ContextVar("ending", default=None)


@contextmanager
def ending(seconds: float | None, *, on_interrupt: bool = False) -> Iterator[Ending]:
    """A context whose runs end early: after `seconds` (None for no limit) and, with `on_interrupt`, on Ctrl-C.

    Raises:
        InputError: `seconds` is not a positive number.
    """
    inner = Ending(None if seconds is None else check_positive("seconds", seconds), on_interrupt, _current.get())
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)


def time_limit() -> float | None:
    """The seconds after which runs end; None without a limit."""
    now = _current.get()
    return None if now is None else now.seconds


def check_time() -> None:
    """Raise `Ended` if the time is up."""
    now = _current.get()
    if now is not None and now.is_due:
        raise Ended(now.why)


def kept(parts: Iterator[Part]) -> Iterator[Part]:
    """The parts of a run up to an early end, at least one."""
    now = _current.get()
    if now is None:
        yield from parts
        return
    some = False
    try:
        for part in parts:
            yield part
            some = True
            if now.is_due:
                return
    except KeyboardInterrupt:
        if not (some and now.on_interrupt):
            raise
        now.stop()


@contextmanager
def stoppable() -> Iterator[None]:
    """A block that Ctrl-C leaves, as an early end, where `on_interrupt` asks for it; what it has assigned until then stays."""
    try:
        yield
    except KeyboardInterrupt:
        now = _current.get()
        if now is None or not now.on_interrupt:
            raise
        now.stop()


def why_ended() -> str:
    """Why runs end now; empty if they do not."""
    now = _current.get()
    return "" if now is None else now.why
