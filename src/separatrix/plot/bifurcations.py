"""Dependence on a parameter: orbits over its values, and branches of fixed points with their bifurcations."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.analysis.branches.continuation import Branch
from separatrix.analysis.branches.orbit_diagram import OrbitDiagram
from separatrix.plot.runs import array
from separatrix.plot.style import INK, SERIES, canvas, nothing_to_show, styled

MARKS = {
    "fold": "s",
    "flip": "^",
    "Neimark–Sacker": "D",
    "Hopf": "D",
    "pitchfork": "o",
    "transcritical": "X",
    "branch point": "P",
}
POINTS = 100_000  # drawn at most


def draw_orbits(axes: Axes, diagram: OrbitDiagram, component: int = 0, *, color: str = INK) -> None:
    """Draw every kept state as a dot over its parameter value."""
    states = array(diagram.states[..., component]).reshape(len(diagram.states), len(diagram.values), -1)
    values = np.broadcast_to(array(diagram.values)[:, None], states.shape)
    thin = max(1, -(-states.size // POINTS))
    x, y = values.ravel()[::thin], states.ravel()[::thin]
    if not np.isfinite(y).any():
        nothing_to_show(axes, "every orbit diverged")
        return
    axes.plot(x, y, ",", color=color, alpha=0.5, gid="orbits", rasterized=True)
    axes.set(xlabel=diagram.parameter, ylabel=f"state, component {component + 1}")


def draw_branch(axes: Axes, branch: Branch, component: int = 0, *, color: str = SERIES[0].color, label: str = "") -> None:
    """Draw the branch, solid where it is stable and dashed elsewhere, and label its bifurcations."""
    x, y, stable = array(branch.parameters), array(branch.points[:, component]), branch.stable.numpy()
    cuts = np.flatnonzero(np.diff(stable)) + 1
    for i, part in enumerate(np.split(np.arange(len(x)), cuts)):
        part = np.append(part, part[-1] + 1) if part[-1] + 1 < len(x) else part
        good = bool(stable[part[0]])
        look = {"linestyle": "-" if good else (0, (3, 2)), "linewidth": 1.8 if good else 1.1}
        axes.plot(x[part], y[part], color=color, gid="stable" if good else "unstable", label=label if i == 0 else None, **look)
    for event in branch.bifurcations:
        seen = event.kind in axes.get_legend_handles_labels()[1]
        axes.plot(
            event.parameter,
            float(event.point[component]),
            MARKS[event.kind],
            color=INK,
            markerfacecolor="white",
            markersize=6,
            linestyle="",
            label=None if seen else event.kind,
            gid="bifurcation",
            zorder=3,
        )
    axes.set(xlabel=branch.parameter, ylabel=f"state, component {component + 1}")
    if axes.get_legend_handles_labels()[1]:
        axes.legend()


@styled
def orbit_diagram_figure(diagram: OrbitDiagram) -> Figure:
    """Draw the first component of the states on which orbits settle, over the parameter."""
    figure, ((axes,),) = canvas()
    draw_orbits(axes, diagram)
    figure.set_label(f"Orbit diagram: {diagram.summary()}.")
    return figure


@styled
def branch_figure(branch: Branch) -> Figure:
    """Draw the first component of a branch, solid where stable and dashed elsewhere, with its bifurcations."""
    figure, ((axes,),) = canvas()
    draw_branch(axes, branch)
    figure.set_label(f"Branch: {branch.summary()}.")
    return figure
