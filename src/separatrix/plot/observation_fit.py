"""The fit of a field to observations: the misfit over the steps, and the residuals."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.nn.fit.fit_observations import ObservationFit
from separatrix.plot.runs import array
from separatrix.plot.style import SERIES, canvas, mark_zero, nothing_to_show, styled


def draw_misfit(axes: Axes, found: ObservationFit) -> None:
    """Draw the relative misfit over the steps."""
    misfit = array(found.misfit)
    if not (misfit > 0).any():
        nothing_to_show(axes, "the fit took no step")
        return
    axes.plot(misfit, color=SERIES[0].color, gid="misfit")
    axes.set(xlabel="steps that lowered the loss", ylabel="|y − ŷ| / |y|", yscale="log")


def draw_residuals(axes: Axes, found: ObservationFit) -> None:
    """Draw the residual of each observation."""
    left = array(found.observed - found.predicted)
    if not (left == left).any():
        nothing_to_show(axes, "the solution became infinite or NaN")
        return
    mark_zero(axes)
    axes.plot(left, linestyle="", markersize=3, **SERIES[0].marks)
    axes.set(xlabel="observation", ylabel="y − ŷ (in its unit)")


@styled
def observation_fit_figure(found: ObservationFit) -> Figure:
    """Draw the misfit over the steps, and the final residuals."""
    figure, ((left, right),) = canvas(columns=2, width=4.6)
    draw_misfit(left, found)
    draw_residuals(right, found)
    figure.set_label(found.summary())
    return figure
