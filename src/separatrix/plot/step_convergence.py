"""Errors over step sizes on logarithmic axes, on which the order of a method is a slope."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from separatrix.analysis.stepping.step_convergence import StepConvergence
from separatrix.core.errors import InputError
from separatrix.core.wording import measured
from separatrix.plot.runs import array, of_runs
from separatrix.plot.style import FAINT, MOST_LINES, canvas, nothing_to_show, series, styled


def draw_step_convergence(axes: Axes, found: StepConvergence, *, name: str = "", number: int = 0) -> None:
    """Draw the median error over the items at each step, each item faintly, and a line of the method's order through the finest.

    Args:
        found: the result to draw; items whose limit is not finite are left out.
        name: name in the legend. Default: the method.
        number: index of this result among several in these axes.
    """
    errors = of_runs(found, found.errors, 1)  # (levels, items)
    errors = np.where(errors > 0, errors, np.nan)
    if not np.isfinite(errors).any():
        nothing_to_show(axes, "there is no error to show")
        return
    look, dt = series(number), array(found.dt)
    if errors.shape[1] > 1:
        axes.plot(dt, errors[:, :MOST_LINES], color=look.color, linewidth=0.5, alpha=0.15, gid="run")
    rows = np.isfinite(errors).any(1)
    middle = np.full(len(dt), np.nan)
    middle[rows] = np.nanmedian(errors[rows], axis=1)
    text = f"{name or found.method.replace('_', ' ')}: order {_order(found)}"
    axes.plot(dt, middle, linestyle="", label=text, gid=f"errors {number}", **look.marks)
    fitted = np.flatnonzero(of_runs(found, found.fitted, 1).astype(bool).any(1) & rows)
    if len(fitted):
        anchor = fitted[len(fitted) // 2]
        line = middle[anchor] * (dt / dt[anchor]) ** found.nominal
        axes.plot(dt, line, color=look.color, linestyle=look.line, linewidth=1.1, gid=f"slope {number}")


def finish(axes: Axes, doubt: float) -> None:
    """Set logarithmic axes, labels, and a view of the errors without the lines beyond them."""
    shown = [line.get_ydata() for line in axes.lines if str(line.get_gid()).startswith("errors")]
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="step dt (units of time)", ylabel="distance from the limit, ‖x_dt(T) − x(T)‖₂")
    if shown:
        values = np.concatenate(shown)
        axes.set_ylim(0.3 * np.nanmin(values), 5 * np.nanmax(values))
        axes.legend(loc="lower right")
        if doubt > axes.get_ylim()[0]:
            axes.axhspan(axes.get_ylim()[0], doubt, color=FAINT, alpha=0.25, linewidth=0, gid="doubt")


@styled
def compare_step_convergence(named: Mapping[str, StepConvergence]) -> Figure:
    """Draw several methods or networks in one picture; lines have the slope of each method's order."""
    if not named:
        raise InputError("expected at least 1 result to compare, got 0.")
    figure, ((axes,),) = canvas(width=5.6, height=4.0)
    for number, (name, found) in enumerate(named.items()):
        draw_step_convergence(axes, found, name=name, number=number)
    finish(axes, max(_doubt(found) for found in named.values()))
    figure.set_label(" ".join(f"{name or found.method}: {found.summary()}." for name, found in named.items()))
    return figure


@styled
def step_convergence_figure(found: StepConvergence) -> Figure:
    """Draw the errors of one method."""
    return compare_step_convergence({"": found})


def _order(found: StepConvergence) -> str:
    orders = of_runs(found, found.order)
    known = orders[np.isfinite(orders)]
    if not len(known):
        return "unknown"
    return f"{np.median(known):.3g} (median)" if found.batch else measured(float(found.order), float(found.order_stderr))


def _doubt(found: StepConvergence) -> float:
    doubt = of_runs(found, found.doubt)
    return float(np.median(doubt)) if len(doubt) else 0.0
