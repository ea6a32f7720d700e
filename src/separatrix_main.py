"""The console script: Ctrl-C is answered from its first moment on, also in the seconds that PyTorch takes to be imported."""

import os
import signal
import sys
from typing import Any


def main() -> None:
    """Run `separatrix.cli`; until it is there, nothing is measured and nothing needs to be tidied up."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else somebody wants it ignored
        signal.signal(signal.SIGINT, _stop)
    from separatrix.cli import main as run

    try:
        signal.signal(signal.SIGINT, before)
        run()
    except KeyboardInterrupt:
        sys.exit(130)


def _stop(*_: Any) -> None:
    os.write(2, b"stopped: nothing measured.\n")
    os._exit(130)
