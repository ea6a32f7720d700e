"""Comparison of two systems: the difference of every quantity in standard errors, and both return maps in one panel."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.analysis.compare.dynamics import DynamicsComparison
from separatrix.plot.runs import array
from separatrix.plot.style import FAINT, INK, QUIET, SERIES, canvas, nothing_to_show, styled

BEYOND = 8  # standard errors, where the axis ends; larger differences are shown by an arrow and a number
MOST = 6_000  # dots of a return map


def draw_differences(axes: Axes, found: DynamicsComparison) -> None:
    """Draw one row per quantity: its difference in standard errors, inside or outside the band that chance explains."""
    if not found.names:
        nothing_to_show(axes, "too few orbits remained to measure")
        return
    rows = np.arange(len(found.names))[::-1]
    z, limit, differs = array(found.z), array(found.limit), found.differs.cpu().numpy()
    axes.barh(rows, 2 * limit, left=-limit, height=0.72, color=FAINT, alpha=0.35, gid="limits")
    axes.axvline(0, color=INK, linewidth=1)
    for row, value, apart in zip(rows, z, differs, strict=True):
        look = SERIES[1] if apart else SERIES[0]
        shown = np.clip(value, -BEYOND, BEYOND)
        axes.plot(shown, row, **{**look.marks, "markersize": 5.5, "linestyle": "none"})
        if abs(value) > BEYOND:
            side = 1 if value > 0 else -1
            size = "∞" if np.isinf(value) else f"{abs(value):.0f}"
            arrow = f"{size} ›" if side > 0 else f"‹ {size}"
            axes.text(shown - side * 0.45, row, arrow, ha="right" if side > 0 else "left", va="center", fontsize=8, color=INK)
    axes.set_yticks(rows, found.names)
    axes.set_xlim(-BEYOND - 0.5, BEYOND + 0.5)
    axes.set_xlabel("learned − true (standard errors)")
    axes.grid(axis="y", visible=False)


def draw_return_maps(axes: Axes, found: DynamicsComparison, *, name: str = "") -> None:
    """Draw the learned return map over the true one.

    Args:
        found: the result to draw.
        name: name of the component, with its unit. Default: x₁, x₂, … by its index in the state.
    """
    if not found.maps:
        nothing_to_show(axes, "there is no return map")
        return
    true, learned = found.maps["true"], found.maps["learned"]
    name = name or f"x{str(true.component + 1).translate(str.maketrans('0123456789', '₀₁₂₃₄₅₆₇₈₉'))}"
    for seen, look, size, who in ((true, SERIES[0], 5.0, "true"), (learned, SERIES[1], 1.3, "learned")):
        before, after = _dots(seen)
        color = FAINT if who == "true" else look.color
        axes.plot(before, after, "o", color=color, markersize=size, markeredgewidth=0, rasterized=True, label=who)
    limits = axes.get_xlim()
    axes.plot(limits, limits, color=QUIET, linewidth=0.8, zorder=0)
    axes.set_xlim(limits)
    when = "maximum" if true.of_maxima else "step"
    axes.set(xlabel=f"{name} at {when} n", ylabel=f"{name} at {when} n + 1")
    axes.legend(loc="lower center", markerscale=2, handlelength=1)


def _dots(seen: ReturnMap) -> tuple[np.ndarray, np.ndarray]:
    before, after = array(seen.before).ravel(), array(seen.after).ravel()
    known = np.isfinite(before) & np.isfinite(after)
    every = max(1, int(known.sum()) // MOST)
    return before[known][::every], after[known][::every]


@styled
def comparison_figure(found: DynamicsComparison) -> Figure:
    """Draw the differences in standard errors, and both return maps."""
    figure, ((left, right),) = canvas(columns=2, width=4.8, height=4.2)
    draw_differences(left, found)
    draw_return_maps(right, found)
    figure.set_label(found.summary())
    return figure
