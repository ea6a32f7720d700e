"""Events: the time and state at which each item met its event."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.flows.events.arrival import Arrival
from separatrix.plot.runs import array
from separatrix.plot.solution import MOST_NUMBERS
from separatrix.plot.style import canvas, nothing_to_show, series, styled


def draw_arrival(axes: Axes, found: Arrival) -> None:
    """Draw the first components of the state at the event over its time, one marker per item that met one."""
    here = found.found.reshape(-1).cpu().numpy()
    if not here.any():
        nothing_to_show(axes, "no item met an event")
        return
    times = array(found.times).reshape(-1)[here]
    states = array(found.states).reshape(len(here), -1)[here]
    for i in range(min(MOST_NUMBERS, states.shape[-1])):
        axes.plot(times, states[:, i], linestyle="", label=f"x{'₁₂₃₄₅'[i]}", **series(i).marks)
    axes.set(xlabel="time of the event t", ylabel="state at the event")
    axes.legend(ncols=MOST_NUMBERS, loc="upper right")


@styled
def arrival_figure(found: Arrival) -> Figure:
    """The states at the events."""
    figure, ((axes,),) = canvas(width=6.4)
    draw_arrival(axes, found)
    figure.set_label(found.summary())
    return figure
