"""Gradient propagation: growth of the largest and of a typical perturbation over a number of steps."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from separatrix.analysis.gradients.propagation import Propagation
from separatrix.core.wording import plain, power_of_ten
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import INK, NOTE, SERIES, TICKS, Series, canvas, mark_zero, nothing_to_show, styled

FURTHER = 4  # singular values drawn, the largest included
SUBSCRIPTS = "₁₂₃₄"
CURVES = (("log_norm", "largest, σ₁", SERIES[0]), ("log_gain", "typical, ‖J‖/√dim", SERIES[1]))


def draw_propagation(axes: Axes, growth: Propagation, rate: float | None = None) -> None:
    """Draw the logarithms of the largest and the typical growth over lags: median over the runs, band over their range.

    Args:
        growth: the result to draw; a growth of exactly 0 has no logarithm and is left out.
        rate: λ₁, nats per unit time: the slope of a straight line from the origin.
    """
    if not alive(growth).any():
        nothing_to_show(axes, "all runs diverged")
        return
    lags = array(growth.lags)
    for field, name, look in CURVES:
        _draw_curve(axes, lags, of_runs(growth, getattr(growth, field), 1), name, look)
    for i in range(1, min(growth.rates.shape[-1], FURTHER)):
        _draw_curve(axes, lags, of_runs(growth, growth.log_singular_values[..., i], 1), f"σ{SUBSCRIPTS[i]}", SERIES[1 + i])
    if rate is not None and math.isfinite(rate):
        line = {"color": INK, "linestyle": (0, (5, 3)), "linewidth": 1.1}
        axes.plot(lags, rate * array(growth.time), label=f"slope λ₁ = {plain(rate)}", gid="slope", **line)
    mark_zero(axes)
    _say_erased(axes, growth)
    axes.set_xlabel("lag (steps)")
    axes.set_ylabel("growth of a gradient (nats)")
    axes.legend()
    _powers_of_ten(axes)


def _draw_curve(axes: Axes, lags: np.ndarray, logs: np.ndarray, name: str, look: Series) -> None:
    logs = np.where(np.isfinite(logs), logs, np.nan)
    some = ~np.isnan(logs).all(1)
    if not some.any():
        return
    lags, logs = lags[some], logs[some]
    median, low, high = np.nanmedian(logs, 1), np.nanmin(logs, 1), np.nanmax(logs, 1)
    if logs.shape[1] > 1:
        axes.fill_between(lags, low, high, color=look.color, alpha=0.2, linewidth=0, gid=f"range {name}")
    axes.plot(lags, median, linestyle=look.line, markersize=3, label=name, **look.marks)


def _say_erased(axes: Axes, growth: Propagation) -> None:
    """If the growth of every run is exactly 0 there is no curve: keep the lags in view and say so."""
    logs = of_runs(growth, growth.log_norm, 1)
    erased = array(growth.lags)[np.isneginf(logs).all(1)]
    if len(erased):
        axes.set_xlim(0, 1.03 * float(growth.lags[-1]))
        axes.text(0.5, 0.3, f"exactly 0 from lag {erased[0]:g} on", ha="center", transform=axes.transAxes, **NOTE)
    if np.ptp(axes.get_ylim()) < 1:
        axes.set_ylim(-1, 1)


def _powers_of_ten(axes: Axes) -> None:
    """Add the same scale on the right as a factor."""
    right = axes.secondary_yaxis("right", functions=(lambda nats: nats / math.log(10), lambda decades: decades * math.log(10)))
    right.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    right.yaxis.set_major_formatter(FuncFormatter(_whole_power))
    right.tick_params(**TICKS)
    right.set_ylabel("as a factor")
    right.spines["right"].set_visible(True)


def _whole_power(decades: float, _: int) -> str:
    return power_of_ten(round(decades)) if abs(decades - round(decades)) < 1e-6 else ""


@styled
def propagation_figure(growth: Propagation, *, rate: float | None = None, title: str = "") -> Figure:
    """Draw how far gradients reach; the band spans all runs."""
    figure, ((axes,),) = canvas()
    draw_propagation(axes, growth, rate)
    axes.set_title(title)
    if alive(growth).any():
        last = float(np.median(of_runs(growth, growth.log_norm, 1)[-1]))
        over = int(growth.lags[-1])
        of = f" of {title}" if title else ""
        figure.set_label(f"Growth of gradients{of} over lags; over {over} steps the largest changes by {plain(last)} nats.")
    return figure
