"""Echo states: the distances between many initial states under one drive, over time."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from separatrix.analysis.driven.echo_state import EchoState
from separatrix.core.wording import counted, measured, plain
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import FAINT, MOST_LINES, NOTE, canvas, nothing_to_show, series, styled

LOWEST = 1e-17  # relative distance that is drawn in place of 0


def draw_distances(axes: Axes, echo: EchoState, names: tuple[str, ...] = ()) -> None:
    """Draw the largest distance between two states of each batch item over time, on a logarithmic axis; for a single item, also
    the median.

    Args:
        echo: the result to draw; items that diverged are left out.
        names: names of the items, for the legend.
    """
    if not alive(echo).any():
        nothing_to_show(axes, "all states diverged")
        return
    time = array(echo.time)
    largest, median = of_runs(echo, echo.distance, 1), of_runs(echo, echo.median_distance, 1)
    words = np.atleast_1d(echo.verdict).reshape(-1)[alive(echo)]
    for i in range(min(largest.shape[1], MOST_LINES)):
        look = series(i)
        name = f"{names[i]}: {words[i]}" if i < len(names) else f"largest: {words[i]}" if len(words) == 1 else None
        axes.plot(time, largest[:, i].clip(LOWEST), color=look.color, linestyle=look.line, label=name, gid=f"largest {i + 1}")
    if largest.shape[1] == 1:
        look = series(1)
        axes.plot(time, median[:, 0].clip(LOWEST), color=look.color, linestyle=look.line, label="median", gid="median")
    distinct = float(echo.settings.get("distinct", 1e-6))
    axes.axhline(distinct, color=FAINT, linewidth=1, gid="distinct")
    axes.text(0.99, distinct, "converged below", va="top", ha="right", transform=axes.get_yaxis_transform(), **NOTE)
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="time (units of time)", ylabel="distance (over the size of the states)")
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


@styled
def echo_state_figure(echo: EchoState, *, title: str = "") -> Figure:
    """Draw whether initial states are forgotten."""
    figure, ((axes,),) = canvas()
    draw_distances(axes, echo)
    axes.set_title(title)
    description = ""
    if not echo.batch and alive(echo).any():
        rate = measured(float(echo.exponent), float(echo.stderr))
        description = f": {echo.verdict}, {counted(int(echo.responses), 'response')}, λ₁ = {rate} nats per {echo.clock}"
        contraction = float(echo.contraction)
        description += f", distances change at {plain(contraction)}" if np.isfinite(contraction) else ""
    figure.set_label(f"Distances between {counted(len(echo.groups), 'initial state')}{description}.")
    return figure
