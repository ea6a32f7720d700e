"""Finding what was named; where it is not, saying what is there instead."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from separatrix.core.errors import SeparatrixError

ALIKE = 0.75  # how alike the name of a file must be to be suggested: a common suffix alone makes half of a short one


def existing_file(path: Path, kind: type[SeparatrixError]) -> Path:
    """The path, if a file is there; else an error of the given kind that names the files nearby."""
    if os.path.isdir(path):
        raise kind(f"{path} is a folder, not a file.\n{contents(path, path.suffix)}")
    if os.path.exists(path):
        return path
    if not os.path.isdir(path.parent):
        start = "" if path.is_absolute() else f"; it starts from {Path.cwd()}"
        raise kind(f"{path} does not exist: there is no folder {path.parent}.\nCheck the path{start}.")
    near = get_close_matches(path.name, _files(path.parent, path.suffix) or _files(path.parent), n=1, cutoff=ALIKE)
    instead = f"Did you mean {path.parent / near[0]}?" if near else contents(path.parent, path.suffix)
    raise kind(f"{path} does not exist.\n{instead}")


@contextmanager
def reading(path: Path, kind: type[SeparatrixError]) -> Iterator[None]:
    """What the operating system refuses, as an error of the given kind."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} cannot be read: {error.strerror or error}.\nCheck its permissions, or copy it to this disk.") from error


def contents(folder: Path, suffix: str) -> str:
    """The files of one suffix that a folder holds, in a sentence."""
    names, where = _files(folder, suffix), "This folder" if folder == Path() else folder
    return f"{where} holds: {listed(names)}." if names else f"{where} holds no {suffix or 'such'} file."


def instead_of(name: str, known: Iterable[str], has: str) -> str:
    """What to write in place of a name that is not there: the closest one, and what there is."""
    known = list(known)
    if not known:
        return f"{has} none."
    close = get_close_matches(name, known, n=1)
    return (f"Did you mean {close[0]}? " if close else "") + f"{has}: {listed(known)}."


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names separated by commas: the first few, then how many more."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _files(folder: Path, suffix: str = "") -> list[str]:
    try:
        return sorted(item.name for item in os.scandir(folder) if item.is_file() and item.name.endswith(suffix))
    except OSError:
        return []
