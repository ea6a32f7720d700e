"""The correlation dimension: the share of close pairs over their distance, and its local slopes with the fitted range."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.analysis.attractor.correlation_dimension import CorrelationDimension
from separatrix.plot.runs import alive, of_runs
from separatrix.plot.style import BAR, INK, MOST_LINES, NOTE, canvas, nothing_to_show, series, styled

FEW = 5  # up to this many runs, each has its own style


def draw_correlation(axes: Axes, found: CorrelationDimension) -> None:
    """Draw C(r) of each run on logarithmic axes, and the fitted straight line."""
    radii, shares = of_runs(found, found.radii, 1)[:, :MOST_LINES], of_runs(found, found.correlation, 1)[:, :MOST_LINES]
    if not np.isfinite(radii).any():
        nothing_to_show(axes, "every run diverged or is at rest")
        return
    for i in range(radii.shape[1]):
        some = shares[:, i] > 0
        few = radii.shape[1] <= FEW
        look, name = series(i if few else 0), f"run {i + 1}" if 1 < radii.shape[1] <= FEW else None
        axes.plot(radii[some, i], shares[some, i], color=look.color, linestyle=look.line, label=name, gid="correlation")
    axes.set(xscale="log", yscale="log", xlabel="distance r (the state's unit)", ylabel="share of pairs closer than r, C(r)")
    if 1 < radii.shape[1] <= FEW:
        axes.legend()
    if radii.shape[1] == 1 and np.isfinite(dimension := float(of_runs(found, found.dimension)[0])):
        low, high = of_runs(found, found.range)[0]
        inside = (radii[:, 0] >= low * 0.999) & (radii[:, 0] <= high * 1.001)
        x, y = np.log(radii[inside, 0]), np.log(shares[inside, 0])
        line = np.exp(y.mean() + dimension * (x - x.mean()))
        axes.plot(np.exp(x), 2.5 * line, color=INK, linewidth=1, gid="fit")
        middle = len(x) // 2
        axes.annotate(
            f"slope {dimension:.3g}", (np.exp(x[middle]), 2.5 * line[middle]), (-4, 4), textcoords="offset points", ha="right"
        )


def draw_slopes(axes: Axes, found: CorrelationDimension) -> None:
    """Draw the local slopes of each run with bands of ±2 standard errors; for a single run, also the fitted range and dimension."""
    radii, slopes, errors = (of_runs(found, value, 1)[:, :MOST_LINES] for value in (found.radii, found.slopes, found.slopes_stderr))
    if not np.isfinite(slopes).any():
        nothing_to_show(axes, "too few pairs for a slope")
        return
    one = radii.shape[1] == 1
    for i in range(radii.shape[1]):
        some = np.isfinite(slopes[:, i])
        x, y, error = radii[some, i], slopes[some, i], BAR * errors[some, i]
        look = series(i if radii.shape[1] <= FEW else 0)
        if radii.shape[1] <= FEW:
            axes.fill_between(x, y - error, y + error, color=look.color, alpha=0.2, linewidth=0, gid="band")
        axes.plot(x, y, color=look.color, linestyle=look.line, gid="slopes")
    axes.set(xscale="log", xlabel="distance r (the state's unit)", ylabel="local slope of ln C (over 2 octaves)")
    top = np.nanquantile(slopes, 0.98)
    axes.set_ylim(min(0.0, np.nanmin(slopes)), 1.35 * top if top > 0 else 1)
    if one and np.isfinite(dimension := float(of_runs(found, found.dimension)[0])):
        low, high = of_runs(found, found.range)[0]
        if np.isfinite(low):
            axes.axvspan(low, high, color=INK, alpha=0.08, linewidth=0, gid="range")
            axes.text(np.sqrt(low * high), axes.get_ylim()[1], "fitted range", ha="center", va="top", **NOTE)
        axes.axhline(dimension, color=INK, linewidth=1, linestyle=(0, (5, 3)), gid="dimension")


@styled
def correlation_figure(found: CorrelationDimension, *, title: str = "") -> Figure:
    """Draw C(r) and its local slopes."""
    figure, ((left, right),) = canvas(1, 2, width=4.4)
    if not alive(found).any():
        for axes in (left, right):
            nothing_to_show(axes, "all runs diverged")
    else:
        draw_correlation(left, found)
        draw_slopes(right, found)
    left.set_title(title)
    figure.set_label(found.summary())
    return figure
