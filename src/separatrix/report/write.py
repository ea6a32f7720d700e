"""`write_report`: portraits → a folder with a page to read, results to load and machine-readable numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from separatrix.core.errors import InputError
from separatrix.portrait.portrait import Portrait
from separatrix.report.folder import PAGE, RESULTS, SUMMARY, new_folder
from separatrix.report.summary import summary_json


def write_report(
    portraits: Mapping[str, Portrait],
    out: str | Path,
    *,
    title: str,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> Path:
    """Write a new folder with `report.html`, `results.zarr` and `summary.json`.

    The page is one file that opens offline. `results.zarr/<name>` holds each portrait for `sx.load`. The folder appears when it is
    complete; if writing fails or is interrupted, nothing is left behind.

    Args:
        portraits: name → portrait, in the order of the page; the name is also that of its group in `results.zarr`.
        out: the folder, which must not exist.
        title: title of the page.
        extra: name → label → text: facts shown above the measured numbers, such as an accuracy.
        overwrite: replace an earlier report there. Any other folder is left unchanged.
        command: the command line that made the report, shown on the page. Default: the call of `sx.analyze`.

    Returns:
        The folder.

    Raises:
        InputError: `out` exists or cannot be written; there are no portraits; a name cannot be a folder's name; `extra` has an
            unknown name.
    """
    import zarr

    from separatrix.report.page import render  # with Matplotlib and Jinja

    extra = extra or {}
    _check_names(portraits, extra)
    with new_folder(out, overwrite=overwrite) as folder:
        store = folder / RESULTS
        zarr.open_group(store, mode="w")
        for name, portrait in portraits.items():
            portrait.save(store / name)
        (folder / SUMMARY).write_text(summary_json(portraits, title, extra), encoding="utf-8")
        (folder / PAGE).write_text(render(portraits, title, extra, command), encoding="utf-8")
    return Path(out)


def _check_names(portraits: Mapping[str, Portrait], extra: Mapping[str, Any]) -> None:
    if not portraits:
        raise InputError("expected at least 1 portrait to report, got 0.")
    for name in portraits:
        if not name.strip() or name.startswith((".", "__")) or not name.isprintable() or set(name) & set("/\\"):
            raise InputError(
                f"{name!r} cannot name a portrait, because it becomes a folder's name.\nUse letters, digits and spaces."
            )
    unknown = [name for name in extra if name not in portraits]
    if unknown:
        raise InputError(f"extra has facts about {unknown[0]!r}, but the portraits are {', '.join(map(repr, portraits))}.")
