"""The files of a result, the same in every verb: the flags that name them, what is refused, and how they are written."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from separatrix.core.errors import InputError
from separatrix.core.result import Result
from separatrix.report.folder import put

ENDINGS = (".png", ".svg", ".pdf")

Out = Annotated[Path | None, typer.Option(help="Folder for the result, to be read by `sx.load`. Default: not saved.")]
Picture = Annotated[Path | None, typer.Option(help="File for the picture: .png, .svg or .pdf. Default: not drawn.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run wrote there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print only the numbers, as JSON.")]


def check_files(out: Path | None, picture: Path | None, overwrite: bool) -> None:
    """Raise InputError, before anything is computed, if a result or its picture cannot be written.

    Args:
        out: folder for the result; with `overwrite` it may hold an earlier result and nothing else.
        picture: file for the picture; with `overwrite` it may be an earlier one.
        overwrite: replace what is there.
    """
    if out is not None and os.path.lexists(out):
        _refuse_unless(overwrite, out, "--out")
        if not _is_a_result(out):
            raise InputError(f"expected {out} to hold only an earlier result. It is left unchanged.\nChoose another --out.")
    if picture is None:
        return
    if picture.suffix not in ENDINGS:
        raise InputError(f"{picture} has the suffix {picture.suffix!r}; expected .png, .svg or .pdf.")
    if not picture.absolute().parent.is_dir():
        raise InputError(f"cannot write {picture.name}: the folder {picture.parent} does not exist.")
    if os.path.lexists(picture):
        _refuse_unless(overwrite, picture, "--picture")
        if not picture.is_file():
            raise InputError(f"{picture} is not a file and is left unchanged.\nChoose another --picture.")


def write_files(result: Result, out: Path | None, picture: Path | None) -> None:
    """Save and draw a result. The folder has its name when it is complete."""
    if out is not None:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as desk:
            put(result.save(Path(desk) / "new"), out, aside=Path(desk) / "old")
    if picture is not None:
        result.plot().savefig(picture, dpi=150)


def _refuse_unless(overwrite: bool, place: Path, flag: str) -> None:
    if not overwrite:
        raise InputError(f"{place} already exists. Choose another {flag}, or pass --overwrite.")


def _is_a_result(folder: Path) -> bool:
    """Whether a folder is one that `Result.save` wrote, with nothing beside it."""
    import zarr

    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        group = zarr.open_group(folder, mode="r")
    except (OSError, ValueError):
        return False
    return "result" in group.attrs and {entry.name for entry in folder.iterdir()} <= {"zarr.json", *group.keys()}
