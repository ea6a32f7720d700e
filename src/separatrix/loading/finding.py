"""Finding a file or name that the user wrote, and suggesting alternatives if it does not exist."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from separatrix.core.errors import SeparatrixError

ALIKE = 0.75  # similarity of file names from which one is suggested: a common suffix alone gives half for a short name


def existing_file(path: Path, kind: type[SeparatrixError]) -> Path:
    """The path, if the file exists; otherwise an error of the given kind that names similar files."""
    if os.path.isdir(path):
        raise kind(f"{path} is a folder, not a file.\n{contents(path, path.suffix)}")
    if os.path.exists(path):
        return path
    if not os.path.isdir(path.parent):
        start = "" if path.is_absolute() else f"; it is relative to {Path.cwd()}"
        raise kind(f"{path} does not exist: there is no folder {path.parent}.\nCheck the path{start}.")
    near = get_close_matches(path.name, _files(path.parent, path.suffix) or _files(path.parent), n=1, cutoff=ALIKE)
    instead = f"Did you mean {path.parent / near[0]}?" if near else contents(path.parent, path.suffix)
    raise kind(f"{path} does not exist.\n{instead}")


@contextmanager
def reading(path: Path, kind: type[SeparatrixError]) -> Iterator[None]:
    """Convert errors of the operating system to an error of the given kind."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} cannot be read: {error.strerror or error}.\nCheck its permissions, or copy it to this disk.") from error


def contents(folder: Path, suffix: str) -> str:
    """A sentence that lists the files of one suffix in a folder."""
    names, where = _files(folder, suffix), "This folder" if folder == Path() else folder
    return f"{where} holds: {listed(names)}." if names else f"{where} holds no {f'{suffix} ' if suffix else ''}files."


def instead_of(name: str, known: Iterable[str], has: str) -> str:
    """A suggestion in place of an unknown name: the closest known name, and all known names."""
    known = list(known)
    if not known:
        return f"{has} none."
    close = get_close_matches(name, known, n=1)
    return (f"Did you mean {close[0]}? " if close else "") + f"{has}: {listed(known)}."


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names separated by commas: the first few, then the number of the others."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _files(folder: Path, suffix: str = "") -> list[str]:
    try:
        return sorted(item.name for item in os.scandir(folder) if item.is_file() and item.name.endswith(suffix))
    except OSError:
        return []
