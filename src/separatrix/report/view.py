"""What the report needs to know about a kind of portrait: its marks, comparison, table and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

WIDE = 9.2  # inches; a figure as wide as the page


class Mark(NamedTuple):
    """The mark of a side: a shape and one of the page's tones (up, down, edge, broken)."""

    shape: str
    tone: str


class Cell(NamedTuple):
    """A number with a note in smaller print."""

    value: str
    note: str = ""


class Quantity(NamedTuple):
    """A row of the table: its name, unit, note, its cell for a portrait, and whether it decides the verdict."""

    name: str
    unit: str
    note: str
    cell: Callable[[Any], Cell]
    is_key: bool = False


class Drawing(NamedTuple):
    """A figure, or None; the name of its portrait, if the figure does not show it; and the result as text."""

    svg: Markup | None
    name: str = ""
    said: str = ""


class Section(NamedTuple):
    """One kind of figure: its heading, its caption, and its drawings; wide drawings are stacked."""

    key: str
    heading: str
    caption: str
    drawings: list[Drawing]
    is_wide: bool = False


@dataclass(frozen=True)
class View:
    """Presentation of one kind of portrait.

    Args:
        question: the question it answers, shown under the title.
        marks: marks by `Portrait.side`.
        overview: one figure of all portraits of the kind.
        overview_note: how to read it.
        quantities: the rows of the table.
        sections: the figures of all portraits of the kind.
        arguments: arguments of `sx.analyze`, by their names in the portrait's settings.
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
