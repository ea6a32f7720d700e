"""Convergence: running estimates of the leading exponents, and their final values."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from separatrix.analysis.lyapunov.pooled import PooledSpectrum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.core.wording import measured, plain
from separatrix.plot.runs import headline, of_runs
from separatrix.plot.style import BAR, FAINT, INK, MOST_LINES, canvas, nothing_to_show, series, styled

LEADING = 3  # exponents whose running estimates are drawn
HEADROOM = 0.2  # of the height, for the legend
SUBSCRIPTS = "₁₂₃₄₅₆₇₈₉"


def draw_convergence(
    axes: Axes, spectrum: LyapunovSpectrum, mean: PooledSpectrum, *, unit: str, kept: np.ndarray | None = None
) -> None:
    """Draw running estimates over the averaging time: the mean over runs, λ₁ of each run faintly, the final value as a band.

    Args:
        spectrum: the spectrum whose `history` is drawn.
        mean: the final values and their error bars.
        unit: unit of the exponents.
        kept: mask of the runs to draw. Default: those that did not diverge.
    """
    if not bool(mean.exponents[:LEADING].isfinite().any()):
        nothing_to_show(axes, "every exponent is −∞: nothing converges")
        return
    history = of_runs(spectrum, spectrum.history, 1, kept)  # (blocks, runs, k)
    times = of_runs(spectrum, spectrum.history_time, 1, kept)  # (blocks, runs)
    if history.shape[1] > 1:
        leading = np.where(np.isfinite(history[..., 0]), history[..., 0], np.nan)
        axes.plot(times[:, :MOST_LINES], leading[:, :MOST_LINES], color=FAINT, linewidth=0.5, alpha=0.7, gid="run")
    for i in range(min(LEADING, history.shape[-1])):
        value, error = float(mean.exponents[i]), float(mean.stderr[i])
        if np.isfinite(value):
            _draw_one(axes, times.mean(1), history[..., i].mean(1), value, error, i)
    _draw_check(axes, spectrum, kept)
    _make_room(axes, float(mean.exponents[0]))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"averaging time ({_time(unit)})")
    axes.set_ylabel(f"running estimate ({unit})")
    axes.legend(ncols=2, loc="upper right")


def _make_room(axes: Axes, value: float) -> None:
    """Keep at least 2 % of the value in view, so as not to zoom into rounding errors, and leave the top to the legend."""
    low, high = axes.get_ylim()
    least = 0.02 * abs(value) if np.isfinite(value) else 0.0
    middle, height = (low + high) / 2, max(high - low, least)
    axes.set_ylim(middle - height / 2, middle + height * (0.5 + HEADROOM))


def _draw_one(axes: Axes, time: np.ndarray, running: np.ndarray, value: float, error: float, i: int) -> None:
    look = series(i)
    axes.plot(
        time,
        running,
        color=look.color,
        linestyle=look.line,
        label=f"λ{SUBSCRIPTS[i]} = {measured(value, error)}",
        gid=f"running {i + 1}",
    )
    if np.isfinite(error):
        axes.axhspan(value - BAR * error, value + BAR * error, color=look.color, alpha=0.22, linewidth=0, gid=f"final {i + 1}")


def _draw_check(axes: Axes, spectrum: LyapunovSpectrum, kept: np.ndarray | None) -> None:
    """Draw the rate at which two nearby trajectories separate, mean over the runs, dashed."""
    if spectrum.check is None:
        return
    rates = of_runs(spectrum, spectrum.check.rate, kept=kept)
    rates = rates[np.isfinite(rates)]
    if len(rates):
        rate = rates.mean()
        axes.axhline(rate, color=INK, linestyle=(0, (5, 3)), linewidth=1.1, label=f"two trajectories: {plain(rate)}", gid="check")


def _time(unit: str) -> str:
    return "steps" if unit.endswith("step") else "units of time"


@styled
def convergence_figure(
    spectrum: LyapunovSpectrum,
    *,
    mean: PooledSpectrum | None = None,
    kept: np.ndarray | None = None,
    unit: str = "nats per unit time",
    title: str = "",
) -> Figure:
    """Draw the convergence of the leading exponents; bands show ±2 standard errors of the final values."""
    figure, ((axes,),) = canvas()
    mean = headline(spectrum) if mean is None else mean
    axes.set_title(title)
    if mean is None or mean.runs == 0:
        nothing_to_show(axes, "all runs diverged: nothing converges")
        return figure
    draw_convergence(axes, spectrum, mean, unit=unit, kept=kept)
    final = measured(float(mean.exponents[0]), float(mean.stderr[0]))
    figure.set_label(f"Running estimates of the leading exponents{_of(title)}; λ₁ ends at {final} {unit}.")
    return figure


def _of(title: str) -> str:
    return f" of {title}" if title else ""
