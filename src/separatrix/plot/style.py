"""One style for every picture: unobtrusive axes, a palette that works in grey, and error bars with one meaning."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BAR = 2  # standard errors shown by an error bar: if one reaches 0, the verdict is "at the edge"
INK, QUIET, FAINT = "#26292e", "#646a73", "#a9afb8"
WIDTH, HEIGHT = 5.0, 3.4  # inches, of one panel
MOST_LINES = 64  # runs drawn one by one; bands and bars are over all of them

LOOK = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.xmargin": 0.03,
    "grid.color": "#e9ebee",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2,
}
TICKS = {"labelsize": 8, "color": QUIET, "labelcolor": INK, "length": 3, "width": 0.8}
NOTE = {"fontsize": 7.5, "color": QUIET}

# Decorates a drawing function: it runs in the house style and restores the caller's settings.
styled = style.context(["default", LOOK])


class Series(NamedTuple):
    """Style that distinguishes one of several curves: by lightness, line and marker before hue."""

    color: str
    line: Any
    marker: str
    filled: bool

    @property
    def marks(self) -> dict[str, Any]:
        """Arguments that draw its markers."""
        face = self.color if self.filled else "white"
        return {"color": self.color, "marker": self.marker, "markerfacecolor": face, "markeredgecolor": self.color}


SERIES = (
    Series("#0b4f7d", "-", "o", True),
    Series("#e2760a", (0, (4, 1.6)), "s", False),
    Series("#0f9f7a", (0, (1, 1.3)), "^", True),
    Series("#b56a9c", (0, (5, 1.5, 1, 1.5)), "D", False),
    Series("#58b0e0", (0, (7, 2)), "v", True),
)


def series(number: int) -> Series:
    """The style of the curve with this number; after one cycle, filled markers become open and open ones filled."""
    look = SERIES[number % len(SERIES)]
    return look._replace(filled=look.filled ^ (number // len(SERIES) % 2 == 1))


def canvas(rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, np.ndarray]:
    """An empty figure with panels of the given size, and its axes, shape (rows, columns), without pyplot."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.tick_params(which="both", **TICKS)  # ticks are made when drawn, perhaps outside of this style
    return figure, panels


def mark_zero(axes: Axes) -> None:
    """Draw the border, a line at 0, which also keeps 0 in view."""
    axes.axhline(0, color=INK, linewidth=1, gid="zero")


def shows_something(figure: Figure) -> bool:
    """Whether any panel of a figure shows more than the reason why it is empty."""
    return any(axes.axison for axes in figure.axes)


def nothing_to_show(axes: Axes, why: str) -> None:
    """Say why a panel is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=QUIET, transform=axes.transAxes)
