"""A return map: each value over the previous one, with the diagonal."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.plot.runs import array
from separatrix.plot.style import QUIET, SERIES, canvas, nothing_to_show, styled

MOST = 100_000  # dots drawn


def draw_return_map(axes: Axes, found: ReturnMap, *, name: str = "", color: str = SERIES[0].color) -> None:
    """Draw the points (s_n, s_{n+1}) of all runs, and the diagonal, on which fixed points lie.

    Args:
        found: the result to draw.
        name: name of the component, with its unit. Default: x₁, x₂, … by its index in the state.
        color: colour of the points.
    """
    before, after = array(found.before).ravel(), array(found.after).ravel()
    thin = max(1, -(-len(before) // MOST))
    before, after = before[::thin], after[::thin]
    finite = np.isfinite(after)
    if not finite.any():
        nothing_to_show(axes, "every run ended before its second visit")
        return
    span = np.concatenate([before[finite], after[finite]])
    axes.plot([span.min(), span.max()], [span.min(), span.max()], color=QUIET, linewidth=0.8, gid="diagonal")
    size = 1.2 if finite.sum() > 500 else 2.5
    axes.plot(before[finite], after[finite], "o", color=color, markersize=size, markeredgewidth=0, gid="visits", rasterized=True)
    axes.set_aspect("equal", adjustable="datalim" if np.ptp(span) == 0 else "box")
    name = name or f"x{str(found.component + 1).translate(str.maketrans('0123456789', '₀₁₂₃₄₅₆₇₈₉'))}"
    when = "maximum" if found.of_maxima else "return"
    axes.set(xlabel=f"{name} at {when} n", ylabel=f"{name} at {when} n + 1")


@styled
def return_map_figure(found: ReturnMap) -> Figure:
    """Draw the map and its diagonal."""
    figure, ((axes,),) = canvas(width=4.2, height=4.0)
    draw_return_map(axes, found)
    figure.set_label(f"Return map: {found.summary()}.")
    return figure
