"""The folder of a report: it appears complete or not at all, and never replaces anything but a report."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from separatrix.core.errors import InputError

PAGE, RESULTS, SUMMARY = "report.html", "results.zarr", "summary.json"


def refuse_existing(out: str | Path, overwrite: bool = False) -> None:
    """Raise InputError if a report cannot be written to a folder; checked before the work starts, so that none is lost.

    Args:
        out: the report's folder.
        overwrite: an earlier report may be replaced.

    Raises:
        InputError: `out` exists and, with `overwrite`, holds anything but a report; or a folder cannot be created there.
    """
    out = Path(out)
    _refuse_what_stands(out, overwrite)
    with _answering(out), _desk(out):
        pass  # a rehearsal


def _refuse_what_stands(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise InputError(f"{out} already exists. Choose another --out, or pass --overwrite.")
    if out.is_symlink() or not out.is_dir():
        raise InputError(f"{out} is not a folder and is left unchanged. Choose another --out.")
    held = {entry.name for entry in out.iterdir()}
    foreign = sorted(held - {PAGE, RESULTS, SUMMARY})
    if foreign or (held and SUMMARY not in held):
        why = f"it holds {', '.join(foreign[:3])}" if foreign else f"it has no {SUMMARY}"
        raise InputError(f"expected {out} to hold only an earlier report, but {why}. It is left unchanged.\nChoose another --out.")


@contextmanager
def new_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder to write in, which takes the name `out` when the block ends and is removed if the block fails.

    Raises:
        InputError: as for `refuse_existing`, or writing fails.
    """
    _refuse_what_stands(Path(out), overwrite)
    out = Path(os.path.abspath(out))
    with _answering(out), _desk(out) as desk:
        fresh = desk / "new"
        fresh.mkdir()
        yield fresh
        _refuse_what_stands(out, overwrite)  # it may have appeared in the meantime
        put(fresh, out, aside=desk / "old")


@contextmanager
def _desk(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`; at the end it is removed, and so are parent folders created for it that are empty."""
    out = Path(os.path.abspath(out))
    missing = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as desk:
            yield Path(desk)
    finally:
        for folder in missing:
            with suppress(OSError):  # it holds the report, or something else by now
                folder.rmdir()


@contextmanager
def _answering(out: Path) -> Iterator[None]:
    """Report errors of the operating system in one line."""
    try:
        yield
    except OSError as failed:
        raise InputError(f"{out.parent} cannot hold the report: {failed.strerror or failed}. Choose another --out.") from failed


def put(fresh: Path, out: Path, aside: Path) -> None:
    """Give a folder its name; an existing folder is moved aside first, and moved back if anything fails."""
    if not out.exists():
        fresh.rename(out)
        return
    try:
        out.rename(aside)
        fresh.rename(out)
    except BaseException:
        if aside.exists() and not out.exists():
            aside.rename(out)
        raise
