"""The command `separatrix`, also `python -m separatrix`: it answers Ctrl-C from the start."""

import sys

from separatrix.core.interrupt import importing


def main() -> None:
    """Run `separatrix.cli`."""
    with importing():
        from separatrix.cli import main as run

    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
