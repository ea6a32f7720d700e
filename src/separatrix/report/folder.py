"""A report's folder: it appears whole under its name or not at all, and never replaces what is not a report."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from separatrix.core.errors import InputError

PAGE, RESULTS, SUMMARY = "report.html", "results.zarr", "summary.json"


def refuse_existing(out: str | Path, overwrite: bool = False) -> None:
    """Refuse a folder that a report must not take; asked before the work is done, so that none is lost.

    Args:
        out: the report's folder.
        overwrite: an earlier report may be replaced.

    Raises:
        InputError: `out` exists, or with `overwrite`, holds anything that is not a report's; or a folder cannot be made there.
    """
    out = Path(out)
    _refuse_what_stands(out, overwrite)
    with _answering(out), _desk(out):
        pass  # a rehearsal


def _refuse_what_stands(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise InputError(f"{out} exists already. Choose another --out, or pass --overwrite.")
    if out.is_symlink() or not out.is_dir():
        raise InputError(f"{out} is not a folder, and stays as it is. Choose another --out.")
    held = {entry.name for entry in out.iterdir()}
    foreign = sorted(held - {PAGE, RESULTS, SUMMARY})
    if foreign or (held and SUMMARY not in held):
        why = f"it holds {', '.join(foreign[:3])}" if foreign else f"it has no {SUMMARY}"
        raise InputError(f"{out} is not an earlier report and nothing else: {why}. It stays as it is.\nChoose another --out.")


@contextmanager
def new_folder(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A fresh folder to write in, which takes the name `out` when the block ends and leaves nothing when it fails.

    Raises:
        InputError: as `refuse_existing`, or writing fails.
    """
    _refuse_what_stands(Path(out), overwrite)
    out = Path(os.path.abspath(out))
    with _answering(out), _desk(out) as desk:
        fresh = desk / "new"
        fresh.mkdir()
        yield fresh
        _refuse_what_stands(out, overwrite)  # it may have come meanwhile
        _put(fresh, out, aside=desk / "old")


@contextmanager
def _desk(out: Path) -> Iterator[Path]:
    """A folder to work in beside `out`, gone at the end; so are folders made above it that hold nothing by then."""
    out = Path(os.path.abspath(out))
    missing = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as desk:
            yield Path(desk)
    finally:
        for folder in missing:
            with suppress(OSError):  # it holds the report, or somebody else uses it by now
                folder.rmdir()


@contextmanager
def _answering(out: Path) -> Iterator[None]:
    """What the operating system refuses, in a line."""
    try:
        yield
    except OSError as failed:
        raise InputError(f"{out.parent} cannot hold the report: {failed.strerror or failed}. Choose another --out.") from failed


def _put(fresh: Path, out: Path, aside: Path) -> None:
    """Give a folder its name; what stood there is moved aside first, and back if anything goes wrong."""
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
