"""A sheet mapped through layers: one panel per layer, front and back in two colours, overlaps darker."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from separatrix.analysis.pictures.flow_map import FlowMap
from separatrix.core.wording import counted
from separatrix.plot.runs import array
from separatrix.plot.style import INK, NOTE, SERIES, canvas, nothing_to_show, styled

FRONT, BACK = "#7fa8cf", "#f0a860"  # of the sheet, with the same opacity: overlaps are darker
OPACITY = 0.34
LINES = 12  # of the grid drawn each way, the rest left to the shade
PER_ROW = 4  # panels
MARGIN = 0.06


def draw_layer(axes: Axes, flow: FlowMap, layer: int, *, points: bool = True, title: bool = True) -> None:
    """Draw the sheet after one layer.

    Args:
        flow: the result to draw.
        layer: index of the layer, 0 for the input.
        points: draw the data points, one marker per class.
        title: show the name of the layer.
    """
    places = array(flow.images[layer])
    dots = None if flow.dots is None or not points else array(flow.dots[layer])
    if not np.isfinite(places).all(-1).any():
        nothing_to_show(axes, "every input became infinite or NaN")
        return
    draw_sheet(axes, places, None if flow.flipped is None else flow.flipped[layer].cpu().numpy())
    if dots is not None and flow.classes is not None:
        draw_dots(axes, dots, flow.classes.cpu().numpy())
    center, reach = view(flow, layer)
    axes.set(xlim=(center[0] - reach, center[0] + reach), ylim=(center[1] - reach, center[1] + reach), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.grid(False)
    if title:
        axes.set_title(named(flow, layer))
    axes.set_xlabel(seen_as(flow, layer), **NOTE)


def draw_sheet(axes: Axes, places: np.ndarray, flipped: np.ndarray | None) -> None:
    """Draw a grid of positions (rows, columns, 2) as a sheet, and any other batch as dots."""
    if flipped is None:
        axes.plot(*places.reshape(-1, 2).T, ".", color=SERIES[0].color, markersize=2, gid="inputs")
        return
    shade = {"linewidths": 0, "rasterized": True, "antialiaseds": False, "gid": "sheet", "zorder": 1}
    axes.add_collection(PolyCollection(cells(places), facecolors=shades(flipped), **shade))
    axes.add_collection(LineCollection(threads(places), colors=INK, linewidths=0.35, alpha=0.55, gid="threads", zorder=2))


def cells(places: np.ndarray) -> np.ndarray:
    """Corners of every cell, (cells, 4, 2)."""
    corners = places[:-1, :-1], places[:-1, 1:], places[1:, 1:], places[1:, :-1]
    return np.stack(corners, axis=2).reshape(-1, 4, 2)


def shades(flipped: np.ndarray) -> list[tuple[str, float]]:
    """The colour of every cell."""
    return [(BACK if back else FRONT, OPACITY) for back in flipped.reshape(-1)]


def threads(places: np.ndarray) -> list[np.ndarray]:
    """Some lines of the grid in both directions, including the edges."""
    rows, columns = (np.unique(np.linspace(0, n - 1, min(n, LINES + 1)).round().astype(int)) for n in places.shape[:2])
    return [*places[rows], *places[:, columns].transpose(1, 0, 2)]


def draw_dots(axes: Axes, dots: np.ndarray, classes: np.ndarray) -> None:
    """Draw points by class, distinguished by marker and by filled or open style."""
    for number, kind in enumerate(np.unique(classes)):
        look = SERIES[number % len(SERIES)]
        marks = {**look.marks, "markersize": 3.2, "markeredgewidth": 0.7, "linestyle": "", "zorder": 3}
        axes.plot(*dots[classes == kind].T, label=f"class {kind}", gid=f"class {kind}", **marks)


def view(flow: FlowMap, layer: int) -> tuple[np.ndarray, float]:
    """The centre of a layer's picture and its half width, the same in both directions."""
    places = array(flow.images[layer]).reshape(-1, 2)
    if flow.dots is not None:
        places = np.concatenate([places, array(flow.dots[layer])])
    places = places[np.isfinite(places).all(-1)]
    low, high = (places.min(0), places.max(0)) if len(places) else (np.zeros(2), np.ones(2))
    reach = (0.5 + MARGIN) * (high - low).max()
    return (low + high) / 2, reach if reach > 0 else 1.0


def named(flow: FlowMap, layer: int) -> str:
    """The name of a layer; "layer 3" for one that only has a number."""
    name = flow.names[layer]
    return f"layer {name}" if name[0].isdigit() else name


def seen_as(flow: FlowMap, layer: int) -> str:
    """A description of the two axes."""
    width = flow.widths[layer]
    if width <= 2:
        return counted(width, "number")
    return f"{width} numbers: principal plane, {float(flow.share[layer]):.0%} of variance"


@styled
def flow_map_figure(flow: FlowMap, *, title: str = "") -> Figure:
    """Draw every layer in its own panel."""
    count = len(flow.names)
    columns = min(count, PER_ROW)
    figure, panels = canvas(math.ceil(count / columns), columns, width=2.9, height=3.35)
    for layer, axes in enumerate(panels.flat):
        if layer < count:
            draw_layer(axes, flow, layer)
        else:
            axes.set_axis_off()
    if title:
        figure.suptitle(title)
    figure.set_label(flow.summary().replace("\n", "; ") + ".")
    return figure
