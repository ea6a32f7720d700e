"""A learned flow: its losses over the training steps."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.nn.fit.fit_flow import FlowFit
from separatrix.plot.runs import array
from separatrix.plot.style import NOTE, QUIET, SERIES, canvas, styled


def draw_flow_fit(axes: Axes, fit: FlowFit) -> None:
    """Draw the losses on training and held-out segments, and mark the step whose weights were kept."""
    steps = array(fit.steps)
    for look, values, name in zip(SERIES, (fit.training, fit.held_out), ("training", "held out"), strict=False):
        axes.plot(steps, array(values), color=look.color, linestyle=look.line, label=name)
    kept = int((fit.steps == fit.best).nonzero()[0])
    axes.plot(steps[kept], float(fit.held_out[kept]), "o", color=QUIET, markerfacecolor="white", gid="kept")
    axes.annotate("kept", (steps[kept], float(fit.held_out[kept])), xytext=(0, 6), textcoords="offset points", ha="center", **NOTE)
    axes.set_yscale("log")
    axes.set(xlabel="steps of training", ylabel="loss (variances of the data)")
    axes.legend(loc="upper right")


@styled
def flow_fit_figure(fit: FlowFit) -> Figure:
    """Draw the losses."""
    figure, ((axes,),) = canvas()
    draw_flow_fit(axes, fit)
    figure.set_label(f"{fit.summary()[0].upper()}{fit.summary()[1:]}.")
    return figure
