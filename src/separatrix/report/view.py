"""What a kind of portrait needs to be reported: how it is marked, compared, put into a table and drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

WIDE = 9.2  # inches, of a figure as wide as the page


class Mark(NamedTuple):
    """How a side is told: by a shape, and by one of the page's tones (up, down, edge, broken)."""

    shape: str
    tone: str


class Cell(NamedTuple):
    """A number and, smaller, what belongs to it."""

    value: str
    note: str = ""


class Quantity(NamedTuple):
    """A row of the table: its name, unit, what it is, what it is of a portrait, and whether it decides the verdict."""

    name: str
    unit: str
    note: str
    cell: Callable[[Any], Cell]
    is_key: bool = False


class Drawing(NamedTuple):
    """A figure, or why there is none; whose it is, where that is not in it; and what it says in words."""

    svg: Markup | None
    name: str = ""
    said: str = ""


class Section(NamedTuple):
    """One kind of figure: its heading, how to read it, and the drawings, wide ones one below the other."""

    key: str
    heading: str
    caption: str
    drawings: list[Drawing]
    is_wide: bool = False


@dataclass(frozen=True)
class View:
    """How one kind of portrait is shown.

    Args:
        question: what it answers, under the title.
        marks: by `Portrait.side`.
        overview: all portraits of the kind in one figure.
        overview_note: how to read that.
        quantities: the rows of the table.
        sections: the figures of all portraits of the kind.
        arguments: of `sx.analyze`, as the portrait's settings name them.
        record: the portrait's field that holds most of its data.
        glossary: terms and their meaning.
    """

    question: str
    marks: Mapping[str, Mark]
    overview: Callable[[Mapping[str, Any]], Figure]
    overview_note: str
    quantities: tuple[Quantity, ...]
    sections: Callable[[Mapping[str, Any]], list[Section]]
    arguments: tuple[str, ...]
    record: str
    glossary: tuple[tuple[str, str], ...]
