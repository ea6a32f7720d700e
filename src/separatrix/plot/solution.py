"""Solutions over time: the components of the state, one line per item."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.flows.solution import Solution, StructuredSolution
from separatrix.plot.runs import array
from separatrix.plot.style import MOST_LINES, canvas, nothing_to_show, series, styled

MOST_NUMBERS = 5  # components of a state that are drawn


def draw_solution(axes: Axes, found: Solution | StructuredSolution) -> None:
    """Draw the first components of the state of the first items over time, each up to the time at which its item failed."""
    times = array(found.times).reshape(len(found.times), -1)[:, :MOST_LINES]
    vectors = found.vectors if isinstance(found, StructuredSolution) else found.states
    states = array(vectors).reshape(len(vectors), -1, vectors.shape[-1])[:, :MOST_LINES]
    if len(times) < 2 or times.size == 0:
        nothing_to_show(axes, "there is no time to show")
        return
    for i in range(min(MOST_NUMBERS, states.shape[-1])):
        look = series(i)
        lines = axes.plot(times, states[..., i], color=look.color, linestyle=look.line, alpha=max(0.25, 1 / times.shape[1] ** 0.5))
        lines[0].set_label(f"x{'₁₂₃₄₅'[i]}")
    axes.set(xlabel="time t", ylabel="state")
    axes.legend(ncols=MOST_NUMBERS, loc="upper right")


@styled
def solution_figure(found: Solution | StructuredSolution) -> Figure:
    """Draw the states over time."""
    figure, ((axes,),) = canvas(width=6.4)
    draw_solution(axes, found)
    figure.set_label(found.summary())
    return figure
