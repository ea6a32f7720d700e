"""Stationarity of a drive: mean and standard deviation of its inputs in each window."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.analysis.driven.stationarity import Stationarity
from separatrix.core.wording import plain
from separatrix.plot.runs import array
from separatrix.plot.style import canvas, series, styled

MOST = 5  # inputs that are drawn, those that change most


def draw_windows(axes: Axes, found: Stationarity) -> None:
    """Draw the mean of each window with a bar of one standard deviation of the input, for the first item of a batch."""
    means, deviations = (array(value).reshape(len(value), -1, value.shape[-1])[:, 0] for value in (found.means, found.deviations))
    p = array(found.p_values).reshape(-1, *found.p_values.shape[-2:])[0].min(0)
    shown = np.argsort(np.nan_to_num(p, nan=1.0), kind="stable")[:MOST]
    windows = np.arange(1, len(means) + 1)
    for number, i in enumerate(shown):
        look = series(number)
        at = windows + 0.12 * (number - (len(shown) - 1) / 2)
        axes.errorbar(
            at, means[:, i], deviations[:, i], linestyle=look.line, label=f"input {i + 1}, p = {plain(p[i])}", **look.marks
        )
    axes.set(xlabel=f"window (of {found.steps // len(means):,} steps)", ylabel="mean ± standard deviation (input's unit)")
    axes.set_xticks(windows)
    axes.legend()


@styled
def stationarity_figure(found: Stationarity, *, title: str = "") -> Figure:
    """Draw whether the drive is the same in all windows."""
    figure, ((axes,),) = canvas()
    draw_windows(axes, found)
    axes.set_title(title)
    figure.set_label(f"Windows of a drive: {found.summary()}.")
    return figure
