"""The command `separatrix`, also `python -m separatrix`: it answers Ctrl-C from the start, even while PyTorch is being imported."""

import os
import signal
import sys
from typing import Any


def main() -> None:
    """Run `separatrix.cli`. Until it is imported, nothing has been measured and there is nothing to tidy up."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # otherwise a parent process wants it ignored
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


if __name__ == "__main__":
    main()
