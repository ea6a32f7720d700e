"""Notes that accompany a result, on the error stream."""

from rich.console import Console


def say(note: str) -> None:
    """Print a note without markup."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(note, markup=False)
