"""Log-densities: the base points of a normalizing flow, shaded by the log-density."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from separatrix.nn.flows.density import LogDensity
from separatrix.plot.finite_time_field import MAP
from separatrix.plot.runs import array
from separatrix.plot.style import QUIET, SERIES, TICKS, canvas, nothing_to_show, styled

SIGMAS = (1, 2, 3)  # radii of the circles


def draw_log_density(axes: Axes, found: LogDensity) -> None:
    """Draw the first two base coordinates of each point with circles of 1, 2 and 3 standard deviations; in one dimension, log p."""
    values = array(found.values).reshape(-1)
    latents = array(found.latents).reshape(len(values), -1)
    alive = np.isfinite(values)
    if not alive.any():
        nothing_to_show(axes, "no point has a known density")
        return
    if latents.shape[1] == 1:
        axes.plot(latents[alive, 0], values[alive], linestyle="", **SERIES[0].marks)
        axes.set(xlabel="point in the base z (standard deviations)", ylabel="log-density (nats)")
        return
    dots = axes.scatter(latents[alive, 0], latents[alive, 1], c=values[alive], cmap=MAP, s=9, linewidths=0)
    for radius in SIGMAS:
        axes.add_patch(Circle((0, 0), radius, fill=False, color=QUIET, linewidth=0.8))
    bar = axes.figure.colorbar(dots, ax=axes, pad=0.02, shrink=0.85)
    bar.set_label("log-density (nats)")
    bar.ax.tick_params(**TICKS)
    axes.set(xlabel="z₁ in the base (standard deviations)", ylabel="z₂ in the base (standard deviations)", aspect="equal")


@styled
def log_density_figure(found: LogDensity) -> Figure:
    """Draw the base points and their log-densities."""
    figure, ((axes,),) = canvas(width=5.6, height=4.4)
    draw_log_density(axes, found)
    figure.set_label(found.summary())
    return figure
