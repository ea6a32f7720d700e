"""Ctrl-C while modules are being imported: nothing has been measured, so the program ends at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def importing() -> Iterator[None]:
    """A context in which Ctrl-C ends the program with one line and exit code 130."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # a parent process wants Ctrl-C ignored, or this is not the outermost context
        yield
        return
    signal.signal(signal.SIGINT, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(*_: Any) -> None:
    os.write(2, b"stopped: nothing measured.\n")
    os._exit(130)
