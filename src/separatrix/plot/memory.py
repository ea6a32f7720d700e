"""The memory curve: how much of each past input can be read from the state."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from separatrix.analysis.driven.memory import MemoryCapacity
from separatrix.core.wording import counted, measured
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import BAR, MOST_LINES, canvas, nothing_to_show, series, styled


def draw_memory(axes: Axes, memory: MemoryCapacity, *, first: int = 0, name: str = "") -> None:
    """Draw C_l over lags with a band of ±2 standard errors; the capacity is the area under it.

    Args:
        memory: the result to draw; runs that diverged are left out.
        first: number of the style of its first curve.
        name: name of the system, for the legend.
    """
    if not alive(memory).any():
        nothing_to_show(axes, "all runs diverged")
        return
    lags, curves, errors = array(memory.lags), of_runs(memory, memory.curve, 1), of_runs(memory, memory.curve_stderr, 1)
    capacity, doubt = of_runs(memory, memory.capacity), of_runs(memory, memory.stderr)
    for i in range(min(curves.shape[1], MOST_LINES)):
        look = series(first + i)
        prefix = f"{name}, " if name else ""
        label = f"{prefix}{measured(capacity[i], doubt[i])} of {memory.dim}" if curves.shape[1] <= 8 else None
        low, high = curves[:, i] - BAR * errors[:, i], curves[:, i] + BAR * errors[:, i]
        axes.fill_between(lags, low, high, color=look.color, alpha=0.2, linewidth=0)
        axes.plot(lags, curves[:, i], linestyle=look.line, color=look.color, label=label, gid=f"memory {first + i + 1}")
    axes.set(xlabel="lag (steps)", ylabel="memory of the input (squared correlation)")
    axes.set_ylim(-0.04, 1.04)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(title="capacity (inputs)", title_fontsize=8, alignment="left")


@styled
def memory_figure(memory: MemoryCapacity, *, title: str = "") -> Figure:
    """Draw the memory curve of each run."""
    figure, ((axes,),) = canvas()
    draw_memory(axes, memory)
    axes.set_title(title)
    known = of_runs(memory, memory.capacity)
    prefix = f": {np.min(known):.3g} … {np.max(known):.3g} of {memory.dim} inputs" if len(known) else ""
    figure.set_label(f"Memory over lags of {counted(memory.codes.numel(), 'run')}{prefix}.")
    return figure
