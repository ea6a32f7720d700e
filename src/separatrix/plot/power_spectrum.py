"""Power spectra: density over frequency, and the spectral lines of a regular orbit."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.analysis.attractor.power_spectrum import PowerSpectrum
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import INK, NOTE, canvas, nothing_to_show, series, styled

FEW = 5  # up to this many runs, each has its own style
DEPTH = 1e-12  # of the highest density: below it, only the leakage of the window and rounding would be visible


def draw_power(axes: Axes, spectrum: PowerSpectrum) -> None:
    """Draw the density of each run over frequency; for a single run, also triangles at its lines and the verdict."""
    if not alive(spectrum).any():
        nothing_to_show(axes, "all runs diverged")
        return
    power, frequency = of_runs(spectrum, spectrum.power, 1), array(spectrum.frequencies)
    verdicts = np.atleast_1d(spectrum.verdict).reshape(-1)[alive(spectrum)]
    top = power.max()
    if not top > 0 or (verdicts == "at rest").all():
        nothing_to_show(axes, "at rest: no power above rounding error")
        return
    count = power.shape[1]
    for i in range(count):
        look = series(i if count <= FEW else 0)
        name = f"run {i + 1}: {verdicts[i]}" if 1 < count <= FEW else None
        shown = np.where(power[:, i] > DEPTH * top, power[:, i], np.nan)
        width, alpha = (1.1, 1.0) if count <= FEW else (0.6, 0.4)
        axes.plot(frequency, shown, color=look.color, linewidth=width, alpha=alpha, label=name, gid="power")
    axes.set(yscale="log", xlabel="frequency (cycles per unit time)", ylabel="power density (variance · unit time)")
    low = max(np.nanmin(power[power > 0]), DEPTH * top)
    axes.set(ylim=(0.3 * low, top * (top / low) ** 0.25), xlim=(0, 1.01 * frequency[-1]))
    if count == 1:
        _mark_lines(axes, spectrum, top)
        axes.text(0.99, 0.98, verdicts[0], ha="right", va="top", transform=axes.transAxes, fontweight="bold", color=INK)
    elif count <= FEW:
        axes.legend()


def _mark_lines(axes: Axes, spectrum: PowerSpectrum, top: float) -> None:
    lines = of_runs(spectrum, spectrum.lines)[0]
    lines = lines[np.isfinite(lines) & (lines > 0)]
    if len(lines):
        axes.plot(lines, np.full(len(lines), 4 * top), "v", color=INK, markersize=4, clip_on=False, gid="lines")
        axes.text(0.01, 0.975, "▾ its strongest lines", va="top", transform=axes.transAxes, **NOTE)


@styled
def power_spectrum_figure(spectrum: PowerSpectrum, *, title: str = "") -> Figure:
    """Draw the density over frequency."""
    figure, ((axes,),) = canvas()
    draw_power(axes, spectrum)
    axes.set_title(title)
    figure.set_label(spectrum.summary())
    return figure
