"""Covariant vectors: a histogram of the angle between the unstable and the stable subspace, and the vectors on the attractor."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from separatrix.analysis.lyapunov.covariant import CovariantVectors
from separatrix.core.wording import counted, plain
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import INK, QUIET, canvas, nothing_to_show, series, styled

MOST_ARROWS = 120  # states whose vectors are drawn
LONG = 0.05  # half the length of a vector, relative to the width of the picture


def draw_angles(axes: Axes, found: CovariantVectors) -> None:
    """Draw a histogram of the smallest angle, over the recorded time and all runs, and mark the smallest of all."""
    angles = of_runs(found, found.angles, 1)
    angles = angles[np.isfinite(angles)]
    if not len(angles):
        nothing_to_show(axes, "no angle: there are not both\nunstable and stable vectors")
        return
    look, low = series(0), float(angles.min())
    axes.hist(angles, bins=np.linspace(0, np.pi / 2, 46), color=look.color, alpha=0.6, edgecolor="white", linewidth=0.5)
    axes.axvline(low, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label=f"smallest: {plain(low)}", gid="smallest")
    axes.set(xlim=(0, np.pi / 2), xlabel="angle between unstable and stable (radians)", ylabel="QR times (count)")
    axes.legend()


def draw_vectors(axes: Axes, found: CovariantVectors, plane: tuple[int, int] = (0, 1)) -> None:
    """Draw the states of the first run that did not diverge, and on some of them the leading and the last vector, both ways.

    Args:
        found: the result to draw.
        plane: indices of the two components on the axes.
    """
    if not alive(found).any():
        nothing_to_show(axes, "all runs diverged")
        return
    states = of_runs(found, found.states, 1)[:, 0][:, plane]
    vectors = of_runs(found, found.vectors, 1)[:, 0][..., plane]
    axes.plot(*states.T, ".", color=QUIET, markersize=1, gid="states")
    some = np.linspace(0, len(states) - 1, min(MOST_ARROWS, len(states))).astype(int)
    reach = LONG * max(np.ptp(states[:, 0]), 1e-12), LONG * max(np.ptp(states[:, 1]), 1e-12)
    values = array(found.exponents).reshape(-1, vectors.shape[1])[alive(found)][0]
    for number, i in enumerate(sorted({0, vectors.shape[1] - 1})):
        if np.isfinite(vectors[:, i]).all():
            _draw_direction(axes, states[some], vectors[some, i], reach, number, f"v{i + 1}, λ = {plain(values[i])}")
    axes.set(xlabel=f"x{plane[0] + 1} (state's unit)", ylabel=f"x{plane[1] + 1} (state's unit)")
    axes.legend(loc="upper right")


def _draw_direction(
    axes: Axes, states: np.ndarray, vectors: np.ndarray, reach: tuple[float, float], number: int, name: str
) -> None:
    """Draw lines of one length on the picture, so that the directions on a thin attractor are visible."""
    drawn = vectors / np.maximum(np.hypot(*(vectors / reach).T), 1e-300)[:, None]
    look = series(number)
    lines = np.stack([states - drawn, states + drawn], axis=1)
    axes.add_collection(LineCollection(list(lines), colors=look.color, linewidths=1.5 - 0.6 * number, label=name))


@styled
def covariant_figure(found: CovariantVectors, *, title: str = "") -> Figure:
    """Draw the angles and, for states of two or three components, the vectors on the attractor."""
    dim = found.states.shape[-1]
    figure, panels = canvas(1, 2 if dim in (2, 3) else 1)
    draw_angles(panels[0, -1], found)
    if dim in (2, 3):
        draw_vectors(panels[0, 0], found, (0, dim - 1))
    panels[0, 0].set_title(title)
    of = f" of {title}" if title else ""
    figure.set_label(f"Covariant vectors{of}: {found.hyperbolicity()}, over {counted(found.codes.numel(), 'run')}.")
    return figure
