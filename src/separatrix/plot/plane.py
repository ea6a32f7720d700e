"""The phase portrait: settled states in the plane of their two leading principal components."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from torch import Tensor

from separatrix.core.wording import counted
from separatrix.plot.runs import array
from separatrix.plot.style import INK, NOTE, canvas, nothing_to_show, series, styled

FOLLOWED = 25  # last steps of the one run that is followed from ○ to ●
MOST_NAMED = 10  # attractors, beyond which a legend would hide the picture
POINT = 1e-9  # states closer than this are one point


def draw_plane(axes: Axes, plane: Tensor, explained: Tensor, groups: Tensor | None = None) -> None:
    """Draw the states of all runs, older ones fainter, and the last steps of the first run as a line from ○ to ●.

    Args:
        plane: the states, (step, run, 2).
        explained: (2), the share of the variance along each axis.
        groups: (run), the attractor that each run is on, shown by colour and marker.
    """
    states, share = array(plane), array(explained)
    states = states[:, np.isfinite(states).all((0, 2))]
    if not states.size:
        nothing_to_show(axes, "every run shown became infinite or NaN")
        return
    labels = np.zeros(states.shape[1], int) if groups is None else groups.cpu().numpy()[: states.shape[1]]
    for group in np.unique(labels):
        _draw_states(axes, states[:, labels == group], int(group))
    axes.set_aspect("equal", adjustable="datalim")
    if groups is not None:
        _mark_attractors(axes, states[-1], labels)
    elif np.ptp(states, axis=(0, 1)).max() < POINT:
        axes.set(xlim=(-1, 1), ylim=(-1, 1), adjustable="box")
        axes.text(0.5, 0.6, "the states shown have settled on one point", ha="center", transform=axes.transAxes, **NOTE)
    _follow(axes, states[-FOLLOWED:, 0])
    axes.set_xlabel(f"principal component 1 ({share[0]:.0%} of variance)")
    axes.set_ylabel(f"principal component 2 ({share[1]:.0%})")


def _draw_states(axes: Axes, states: np.ndarray, group: int) -> None:
    """Draw points and thin lines between successive ones, both fading into the past; rasterised, because there are thousands."""
    look, (steps, runs, _) = series(group), states.shape
    colors = np.tile(to_rgba(look.color), (steps, 1))
    colors[:, 3] = np.linspace(0.05, 0.4, steps)
    pieces = np.stack([states[:-1], states[1:]], axis=2).reshape(-1, 2, 2)
    faint = np.repeat(colors[1:], runs, 0) * (1, 1, 1, 0.2)
    axes.add_collection(LineCollection(pieces, colors=faint, linewidths=0.4, rasterized=True, gid="steps"), autolim=True)
    marks = {"s": 4.5, "linewidths": 0, "rasterized": True, "gid": f"states {group + 1}"}
    axes.scatter(*states.reshape(-1, 2).T, color=np.repeat(colors, runs, 0), **marks)


def _mark_attractors(axes: Axes, last: np.ndarray, labels: np.ndarray) -> None:
    """Mark the last state of each run by its attractor."""
    for group in np.unique(labels):
        name = f"attractor {group + 1}"
        axes.plot(*last[labels == group].T, linestyle="", markersize=6, label=name, gid=name, **series(int(group)).marks)
    if len(np.unique(labels)) <= MOST_NAMED:
        axes.legend(ncols=2)


def _follow(axes: Axes, path: np.ndarray) -> None:
    """Draw the last steps of a run from ○ to ●, with a white edge that separates it from the cloud."""
    if np.ptp(path, axis=0).max() < POINT:
        return
    edge = [Stroke(linewidth=2.6, foreground="white"), Normal()]
    axes.plot(*path.T, color=INK, linewidth=0.9, gid="followed", path_effects=edge)
    ends = {"linestyle": "", "marker": "o", "color": INK, "markersize": 6.5}
    axes.plot(*path[0], markerfacecolor="white", gid="start", **ends)
    axes.plot(*path[-1], gid="end", **ends)


@styled
def plane_figure(plane: Tensor, explained: Tensor, groups: Tensor | None = None, *, title: str = "") -> Figure:
    """Draw the phase portrait in the leading principal plane, with equal scales on both axes."""
    figure, ((axes,),) = canvas(height=4.4)
    draw_plane(axes, plane, explained, groups)
    axes.set_title(title)
    runs, of = counted(plane.shape[1], "run"), f" of {title}" if title else ""
    held = f"the plane of the two leading principal components, which hold {float(explained.sum()):.0%} of the variance"
    figure.set_label(f"Phase portrait{of}: {runs} of {len(plane)} states each, in {held}.")
    return figure
