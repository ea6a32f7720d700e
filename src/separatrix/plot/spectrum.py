"""The spectrum: exponents against their index, with error bars, the border at zero, and exponents of −∞."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from separatrix.analysis.lyapunov.pooled import PooledSpectrum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.core.wording import counted, measured
from separatrix.plot.convergence import draw_convergence
from separatrix.plot.runs import array, headline, of_runs
from separatrix.plot.style import BAR, FAINT, MOST_LINES, NOTE, Series, canvas, mark_zero, nothing_to_show, series, styled

UNIT = "nats per unit time"
LEAST = 1e-9  # minimum height of the view
LANE = 0.07  # of the height of the axes
MARKED = 64  # up to this many exponents, each has its own marker


def draw_spectrum(axes: Axes, mean: PooledSpectrum, runs: np.ndarray | None = None, *, name: str = "", number: int = 0) -> None:
    """Draw one spectrum: the mean over its runs with error bars, a band of their spread, and the individual runs.

    Args:
        mean: the mean spectrum.
        runs: (runs, k), the spectra of individual runs, drawn faintly.
        name: name in the legend.
        number: index of this spectrum among several in these axes.
    """
    look, index = series(number), np.arange(1, len(mean.exponents) + 1)
    if runs is not None and len(runs) > 1:
        axes.plot(index, np.where(np.isfinite(runs), runs, np.nan)[:MOST_LINES].T, color=FAINT, linewidth=0.5, alpha=0.6, gid="run")
    exponents = array(mean.exponents)
    shown = np.isfinite(exponents)
    center, error = exponents[shown], np.nan_to_num(array(mean.stderr)[shown])
    if mean.runs > 1:
        spread = error * mean.runs**0.5
        axes.fill_between(index[shown], center - spread, center + spread, color=look.color, alpha=0.18, linewidth=0, gid="spread")
    marks = look.marks if len(exponents) <= MARKED else {"color": look.color}
    size = 4.5 if len(exponents) <= MARKED // 2 else 3
    axes.errorbar(index[shown], center, BAR * error, linestyle=look.line, linewidth=1.2, markersize=size, label=name, **marks)
    _mark_erased(axes, index[exponents == -np.inf], look)


def _mark_erased(axes: Axes, erased: np.ndarray, look: Series) -> None:
    """Mark exponents of −∞ by arrows in a lane below the axis, one lane per spectrum, with their number."""
    if not len(erased):
        return
    lane = sum(line.get_gid() == "erased" for line in axes.lines)
    height = LANE * (lane + 0.5)
    arrows = {"linestyle": "", "marker": 7, "markersize": 4.5, "transform": axes.get_xaxis_transform()}
    axes.plot(erased, np.full(len(erased), height), color=look.color, gid="erased", **arrows)
    words = {"va": "center", "fontsize": 7.5, "color": look.color, "transform": axes.transAxes}
    axes.text(1.005, height, f"{len(erased)} at −∞", **words)


def _open_lanes(axes: Axes) -> None:
    """Make room below the axis for the exponents of −∞, so that no value can be read there."""
    lanes = LANE * sum(line.get_gid() == "erased" for line in axes.lines)
    if not lanes:
        return
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    axes.set_ylim(high - (high - low) / (1 - lanes), high)
    axes.set_yticks(ticks)
    axes.axhspan(axes.get_ylim()[0], low, color=FAINT, alpha=0.16, linewidth=0, gid="lanes")


def finish(axes: Axes, unit: str) -> None:
    """Add the border, the labels, and integer ticks on the index axis."""
    mark_zero(axes)
    axes.margins(y=0.08)
    if np.ptp(axes.get_ylim()) < LEAST:
        axes.set_ylim(-1, 0.25)
    _open_lanes(axes)
    axes.set_xlabel("index i, largest exponent first")
    axes.set_ylabel(f"Lyapunov exponent λᵢ ({unit})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(left=max(axes.get_xlim()[0], 0.1))  # there is no exponent 0
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
    axes.annotate("↑ perturbations grow", (1, 0), (-2, 3), **place, **NOTE)


@styled
def compare_spectra(named: Mapping[str, LyapunovSpectrum | PooledSpectrum], *, unit: str = UNIT, width: float = 7.4) -> Figure:
    """Draw several spectra in one picture, distinguished by marker, line and lightness; bars show ±2 standard errors."""
    figure, ((axes,),) = canvas(width=width)
    rates = []
    for number, (name, spectrum) in enumerate(named.items()):
        mean = headline(spectrum) if isinstance(spectrum, LyapunovSpectrum) else spectrum
        if mean is not None and mean.runs > 0:
            draw_spectrum(axes, mean, name=name, number=number)
            rates.append(f"{name}: λ₁ = {measured(float(mean.exponents[0]), float(mean.stderr[0]))}")
    if not rates:
        nothing_to_show(axes, "all runs diverged: there is no spectrum")
        figure.set_label("No spectrum: all runs diverged.")
        return figure
    finish(axes, unit)
    axes.legend()
    figure.set_label(f"Lyapunov spectra. {'; '.join(rates)} {unit}.")
    return figure


@styled
def spectrum_figure(spectrum: LyapunovSpectrum) -> Figure:
    """Draw a spectrum with every run, and the convergence of the leading exponents."""
    figure, ((left, right),) = canvas(1, 2)
    mean = headline(spectrum)
    if mean is None:
        for axes in (left, right):
            nothing_to_show(axes, f"{counted(spectrum.codes.numel(), 'run')}, all diverged")
        figure.set_label("No spectrum: all runs diverged.")
        return figure
    draw_spectrum(left, mean, of_runs(spectrum, spectrum.exponents), name=runs_in_words(mean))
    left.set_title("Spectrum")
    unit = f"nats per {spectrum.clock}"
    finish(left, unit)
    left.legend()
    draw_convergence(right, spectrum, mean, unit=unit)
    right.set_title("Convergence")
    figure.set_label(f"Lyapunov spectrum and its convergence. λ₁ = {_first(mean)} {unit}.")
    return figure


@styled
def pooled_figure(mean: PooledSpectrum) -> Figure:
    """Draw one spectrum of many runs."""
    figure, ((axes,),) = canvas()
    if mean.runs == 0:
        nothing_to_show(axes, "all runs diverged: there is no spectrum")
        return figure
    draw_spectrum(axes, mean, name=runs_in_words(mean))
    unit = f"nats per {mean.clock}"
    finish(axes, unit)
    axes.legend()
    figure.set_label(f"Lyapunov spectrum of {counted(mean.runs, 'run')}. λ₁ = {_first(mean)} {unit}.")
    return figure


def runs_in_words(mean: PooledSpectrum) -> str:
    """The number of runs in a spectrum, and the number left out."""
    left_out = f" ({mean.diverged} diverged)" if mean.diverged else ""
    return f"one run{left_out}" if mean.runs == 1 else f"mean of {mean.runs} runs{left_out}"


def _first(mean: PooledSpectrum) -> str:
    return measured(float(mean.exponents[0]), float(mean.stderr[0]))
