"""The file for a picture of a command."""

from pathlib import Path

from separatrix.core.errors import InputError

ENDINGS = (".png", ".svg", ".pdf")


def check_picture(place: Path, flag: str, overwrite: bool | None = None) -> None:
    """Raise InputError, before anything is computed, if a picture cannot be written to a file.

    Args:
        place: the file.
        flag: the command-line flag that names it.
        overwrite: whether an existing file may be replaced; None if the command has no such flag.
    """
    if place.suffix not in ENDINGS:
        raise InputError(f"{place} has the suffix {place.suffix!r}; expected .png, .svg or .pdf.")
    if not place.absolute().parent.is_dir():
        raise InputError(f"cannot write {place.name}: the folder {place.parent} does not exist.")
    if place.exists() and not overwrite:
        way_out = f"another name with {flag}" if overwrite is None else f"--overwrite to replace it, or another name with {flag}"
        raise InputError(f"{place} already exists.\nPass {way_out}.")
