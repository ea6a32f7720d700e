"""Where a command may put its picture."""

from pathlib import Path

from separatrix.core.errors import InputError

ENDINGS = (".png", ".svg", ".pdf")


def check_picture(place: Path, flag: str, overwrite: bool | None = None) -> None:
    """Refuse, before anything is computed, a place where no picture can be written.

    Args:
        place: the file.
        flag: that named it.
        overwrite: whether one that is there may be replaced; None where the command has no such flag.
    """
    if place.suffix not in ENDINGS:
        raise InputError(f"{place} ends in {place.suffix or 'nothing'}; a picture ends in .png, .svg or .pdf.")
    if not place.absolute().parent.is_dir():
        raise InputError(f"there is no folder {place.parent} to put {place.name} into.")
    if place.exists() and not overwrite:
        way_out = f"another name with {flag}" if overwrite is None else f"--overwrite to replace it, or another name with {flag}"
        raise InputError(f"{place} exists already.\nPass {way_out}.")
