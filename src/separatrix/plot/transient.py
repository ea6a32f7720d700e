"""Transient growth: the largest amplification over time, with its initial slope and the slope that eigenvalues predict."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.analysis.gradients.transient import TransientGrowth
from separatrix.core.wording import counted, plain
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import INK, MOST_LINES, canvas, mark_zero, nothing_to_show, series, styled

ROOM = 0.15  # of the height by which lines may leave the picture


def draw_transient(axes: Axes, growth: TransientGrowth, names: tuple[str, ...] = ()) -> None:
    """Draw ln ‖Φ(t)‖ of each run with its peak marked; for a single run, also the two slopes.

    Args:
        growth: the result to draw; runs that diverged are left out.
        names: names of the runs, for the legend.
    """
    if not alive(growth).any():
        nothing_to_show(axes, "all runs diverged")
        return
    time, logs = array(growth.time), of_runs(growth, growth.log_norm, 1)
    logs = np.where(np.isfinite(logs), logs, np.nan)
    peaks, when = of_runs(growth, growth.peak), of_runs(growth, growth.peak_time)
    for i in range(min(logs.shape[1], MOST_LINES)):
        look = series(i)
        name = f"{names[i]}: ×{plain(np.exp(peaks[i]))}" if i < len(names) else _only(peaks[0]) if logs.shape[1] == 1 else None
        axes.plot(time, logs[:, i], color=look.color, linestyle=look.line, label=name, gid=f"growth {i + 1}")
        if peaks[i] > 0:
            axes.plot([when[i]], [peaks[i]], linestyle="none", **look.marks)
    if logs.shape[1] == 1:
        _draw_slopes(axes, growth, time, logs)
    mark_zero(axes)
    axes.set(xlabel="time (units of time)", ylabel="largest amplification (nats)")
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


def _only(peak: float) -> str:
    return f"‖Φ(t)‖, at most ×{plain(np.exp(peak))}" if peak > 0 else "‖Φ(t)‖"


def _draw_slopes(axes: Axes, growth: TransientGrowth, time: np.ndarray, logs: np.ndarray) -> None:
    """Draw straight lines of the numerical and the spectral abscissa from the origin, cut where they leave the curve's range."""
    low, high = min(np.nanmin(logs), -0.5), max(np.nanmax(logs), 0.5)
    margin = ROOM * (high - low)
    slopes = (("initial rate", growth.numerical_abscissa, (0, (1, 1.5))), ("eigenvalues", growth.spectral_abscissa, (0, (5, 3))))
    for name, slope, line in slopes:
        rate = float(of_runs(growth, slope)[0])
        if np.isfinite(rate):
            inside = (rate * time >= low - margin) & (rate * time <= high + margin)
            label = f"{name} {plain(rate)} nats per {growth.clock}"
            axes.plot(time[inside], rate * time[inside], color=INK, linestyle=line, linewidth=1.1, label=label)


@styled
def transient_figure(growth: TransientGrowth, *, title: str = "") -> Figure:
    """Draw how far perturbations grow before they decay."""
    figure, ((axes,),) = canvas()
    draw_transient(axes, growth)
    axes.set_title(title)
    peaks = of_runs(growth, growth.peak)
    most = f", at most by a factor of {plain(float(np.exp(peaks.max())))}" if len(peaks) else ""
    figure.set_label(f"Largest amplification over time of {counted(growth.codes.numel(), 'run')}{most}.")
    return figure
