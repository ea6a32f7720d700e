"""Finite-time exponents: their histogram over the sequences, with λ₁ for comparison."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from separatrix.core.wording import counted, measured, plain
from separatrix.plot.runs import array
from separatrix.plot.style import BAR, INK, SERIES, canvas, nothing_to_show, styled

TOP = 0.76  # of the height; the legend is above it


def draw_finite_time(axes: Axes, values: Tensor, steps: int, rate: float, error: float) -> None:
    """Draw a histogram of the exponents of the sequences, with their mean and spread, and λ₁ of the endless run.

    Args:
        values: (sequences), nats per step.
        steps: T, the length of the sequences.
        rate, error: λ₁ and its standard error.
    """
    data = array(values)
    data = data[np.isfinite(data)]
    if not len(data):
        nothing_to_show(axes, "no sequence has a finite exponent")
        return
    look, mean, spread = SERIES[1], data.mean(), data.std()
    counts, _, _ = axes.hist(data, bins=_bins(data), color=look.color, alpha=0.45, edgecolor="white", linewidth=0.6)
    name = f"over {counted(steps, 'step')}: {measured(mean, spread)} (spread)"
    axes.axvline(mean, color=look.color, linestyle=look.line, ymax=TOP, label=name, gid="mean")
    axes.axvspan(mean - spread, mean + spread, color=look.color, alpha=0.15, linewidth=0, ymax=TOP, zorder=0, gid="spread")
    if math.isfinite(rate):
        name = f"λ₁, endless run: {measured(rate, error)}"
        axes.axvline(rate, color=INK, linewidth=1.4, ymax=TOP, label=name, gid="headline")
        if math.isfinite(error):
            axes.axvspan(rate - BAR * error, rate + BAR * error, color=INK, alpha=0.15, linewidth=0, ymax=TOP, gid="headline band")
    axes.set(xlabel=f"finite-time exponent over {counted(steps, 'step')} (nats per step)", ylabel="sequences (count)")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylim(0, 1.05 * counts.max() / TOP)
    axes.legend(loc="upper left")


def _bins(data: np.ndarray) -> np.ndarray:
    """About √n bins, 5 … 30, with some width even when all values agree."""
    low, high = data.min(), data.max()
    if high - low < 1e-12:
        low, high = low - 1e-6, high + 1e-6
    return np.linspace(low, high, int(np.clip(np.sqrt(len(data)), 5, 30)) + 1)


@styled
def finite_time_figure(values: Tensor, steps: int, *, rate: float, error: float, title: str = "") -> Figure:
    """Draw the finite-time exponents of the sequences, their mean ± spread, and the headline λ₁."""
    figure, ((axes,),) = canvas()
    draw_finite_time(axes, values, steps, rate, error)
    axes.set_title(title)
    data = array(values)
    data = data[np.isfinite(data)]
    mean = f", mean {plain(data.mean())} nats per step" if len(data) else ""
    of = f" of {title}" if title else ""
    figure.set_label(
        f"Histogram of finite-time exponents{of} over {counted(len(data), 'sequence')} of {counted(steps, 'step')}{mean}."
    )
    return figure
