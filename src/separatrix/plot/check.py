"""The check: λ₁ from the tangents against the rate at which two nearby trajectories separate."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from separatrix.analysis.lyapunov.divergence import DivergenceRate
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.core.wording import counted, measured, plain
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import BAR, FAINT, INK, NOTE, SERIES, canvas, mark_zero, nothing_to_show, styled


def differences(spectrum: LyapunovSpectrum) -> np.ndarray:
    """Two-trajectory rate minus λ₁, for the runs in which both are finite, shape (runs)."""
    x, y, _, _ = _pairs(spectrum)
    return y - x


def _pairs(spectrum: LyapunovSpectrum) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """λ₁, the two-trajectory rate and their standard errors, for the runs in which both rates are finite."""
    near = spectrum.check
    if near is None:
        none = np.empty(0)
        return none, none, none, none
    kept = alive(spectrum)
    x, x_error = of_runs(spectrum, spectrum.exponents)[:, 0], of_runs(spectrum, spectrum.stderr)[:, 0]
    y, y_error = array(near.rate).reshape(-1)[kept], array(near.stderr).reshape(-1)[kept]
    both = np.isfinite(x) & np.isfinite(y)
    return x[both], y[both], np.nan_to_num(x_error[both]), np.nan_to_num(y_error[both])


def draw_check(axes: Axes, spectrum: LyapunovSpectrum, *, unit: str) -> None:
    """Draw each run as a point with its two error bars, and the diagonal on which both methods agree."""
    x, y, x_error, y_error = _pairs(spectrum)
    if not len(x):
        nothing_to_show(axes, "not checked" if spectrum.check is None else "no run with two finite rates")
        return
    low = min((x - BAR * x_error).min(), (y - BAR * y_error).min())
    high = max((x + BAR * x_error).max(), (y + BAR * y_error).max())
    margin = max(0.06 * (high - low), 1e-3 * abs(high), 1e-9)
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=INK, linewidth=1, gid="diagonal", zorder=1)
    axes.errorbar(
        x,
        y,
        BAR * y_error,
        BAR * x_error,
        linestyle="",
        elinewidth=0.5,
        ecolor=FAINT,
        capsize=0,
        label="one run each",
        **SERIES[0].marks,
    )
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel=f"λ₁ from tangents ({unit})", ylabel=f"two-trajectory rate ({unit})")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    worst = f"largest difference\n{plain(float(np.abs(y - x).max()))}"
    axes.text(0.97, 0.04, worst, ha="right", va="bottom", transform=axes.transAxes, **NOTE)


@styled
def check_figure(spectrum: LyapunovSpectrum, *, title: str = "") -> Figure:
    """Draw λ₁ against the two-trajectory rate of each run; bars show ±2 standard errors."""
    unit = f"nats per {spectrum.clock}"
    figure, ((axes,),) = canvas(width=4.4, height=4.0)
    draw_check(axes, spectrum, unit=unit)
    axes.set_title(title)
    apart = differences(spectrum)
    extra = f"; they differ by at most {plain(float(np.abs(apart).max()))} {unit}" if len(apart) else ""
    figure.set_label(f"λ₁ against the two-trajectory rate{f' of {title}' if title else ''}, {counted(len(apart), 'run')}{extra}.")
    return figure


@styled
def divergence_figure(near: DivergenceRate) -> Figure:
    """Draw the rate of each run with bars of ±2 standard errors, and the border at zero."""
    figure, ((axes,),) = canvas()
    rates, errors = array(near.rate).reshape(-1), array(near.stderr).reshape(-1)
    shown = np.isfinite(rates)
    if not shown.any():
        nothing_to_show(axes, "no run has a finite rate")
        return figure
    run = np.arange(1, len(rates) + 1)
    axes.errorbar(run[shown], rates[shown], BAR * np.nan_to_num(errors[shown]), linestyle="", **SERIES[0].marks)
    mark_zero(axes)
    unit = f"nats per {near.clock}"
    axes.set(xlabel="run", ylabel=f"two-trajectory rate ({unit})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    first = measured(float(rates[shown][0]), float(errors[shown][0]))
    figure.set_label(f"Separation rate of two nearby trajectories, {counted(int(shown.sum()), 'run')}; the first: {first} {unit}.")
    return figure
