"""The table of headline numbers: one row per quantity, one column per portrait."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from separatrix.portrait.portrait import Portrait
from separatrix.report.view import Cell, Quantity
from separatrix.report.views import by_view, view_of


class Row(NamedTuple):
    """A quantity with its unit, a note, one cell per portrait, and whether it decides the verdict."""

    name: str
    unit: str
    note: str
    cells: list[Cell]
    is_key: bool = False


def headline_rows(portraits: Mapping[str, Portrait], extra: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The rows of the table, the extra facts first; a dash where a quantity does not apply to a portrait."""
    labels = dict.fromkeys(label for facts in extra.values() for label in facts)
    rows = [Row(label, "", "", [Cell(str(extra.get(name, {}).get(label, "–"))) for name in portraits]) for label in labels]
    for view, _ in by_view(portraits):
        rows.extend(
            _row(quantity, [(portrait, view_of(portrait) is view) for portrait in portraits.values()])
            for quantity in view.quantities
        )
    return rows


def _row(quantity: Quantity, portraits: list[tuple[Portrait, bool]]) -> Row:
    cells = [quantity.cell(portrait) if is_its_kind else Cell("–") for portrait, is_its_kind in portraits]
    return Row(quantity.name, quantity.unit, quantity.note, cells, quantity.is_key)
