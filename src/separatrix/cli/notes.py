"""What is said beside a result, on the error stream."""

from rich.console import Console


def say(note: str) -> None:
    """One line, as it is."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(note, markup=False)
