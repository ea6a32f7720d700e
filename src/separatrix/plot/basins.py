"""Basins as a map of a plane of initial states, or otherwise the states in their principal plane and the share of each basin."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from separatrix.analysis.basins.basins import Basins
from separatrix.analysis.basins.result import RESTING
from separatrix.core.wording import counted
from separatrix.plot.fixed_points import principal_plane
from separatrix.plot.runs import array
from separatrix.plot.style import BAR, INK, QUIET, canvas, styled

# Each colour differs from the others in lightness, so that basins can be distinguished in grey too.
COLORS = ("#1d3557", "#f2c14e", "#c8553d", "#8fd0c4", "#6d3f7f", "#f7e9d0", "#4d8f5b", "#7d8fb3")
DIVERGED, UNDECIDED = "#ffffff", "#000000"
MOST_NAMED = 8  # attractors, beyond which a legend would hide the picture
MARKS = "os^Dv<>p"


@dataclass(frozen=True)
class Plane:
    """Affine plane of states, x = origin + p along[0] + q along[1], with the coordinates of a lattice in it."""

    along: np.ndarray
    p: np.ndarray
    q: np.ndarray
    names: tuple[str, str]

    def coordinates(self, states: np.ndarray) -> np.ndarray:
        """Coordinates of any states, projected to the plane, (*, 2)."""
        return states @ self.along.T


def plane_of(basins: Basins) -> Plane | None:
    """The plane spanned by a lattice with two perpendicular axes; None if the initial states are not such a lattice."""
    x = array(basins.x0)
    if not basins.is_grid or x.ndim != 3 or min(x.shape[:2]) < 2:
        return None
    sides = np.stack([x[-1, 0] - x[0, 0], x[0, -1] - x[0, 0]])
    along = sides / np.linalg.norm(sides, axis=1, keepdims=True)
    if abs(along[0] @ along[1]) > 1e-6:
        return None
    return Plane(along, x[:, 0] @ along[0], x[0] @ along[1], (_name(along[0], "first"), _name(along[1], "second")))


def _name(direction: np.ndarray, place: str) -> str:
    ends = np.flatnonzero(np.abs(direction) > 1e-9)
    if len(ends) == 1 and direction[ends[0]] > 0:
        return f"state x{str(ends[0] + 1).translate(str.maketrans('0123456789', '₀₁₂₃₄₅₆₇₈₉'))}"
    return f"distance along the {place} axis of the grid"


def draw_basins(axes: Axes, basins: Basins, names: tuple[str, str] | None = None, *, legend: bool = True) -> None:
    """Draw each initial state in the colour of the attractor that it reaches, and the attractors, on a plane of initial states.

    Args:
        basins: the result to draw. If the initial states are not a plane lattice, they are points in their principal plane.
        names: labels of the two axes.
        legend: list the attractors with their shares below.
    """
    plane = plane_of(basins)
    if plane is None:
        _draw_scattered(axes, basins, names)
    else:
        colors, count = _colors(basins), len(basins.kind)
        fates = array(basins.fates).astype(int) + 1  # 0: undecided, then the attractors, then diverged
        norm = BoundaryNorm(np.arange(-0.5, count + 2), count + 2)
        look = {"cmap": ListedColormap([UNDECIDED, *colors, DIVERGED]), "norm": norm, "shading": "nearest", "rasterized": True}
        axes.pcolormesh(plane.p, plane.q, fates.T, gid="basins", **look)
        _draw_attractors(axes, basins, plane)
        axes.set(xlabel=(names or plane.names)[0], ylabel=(names or plane.names)[1])
        axes.set_aspect("equal" if 0.2 < np.ptp(plane.p) / np.ptp(plane.q) < 5 else "auto")
        axes.grid(False)
    if legend and len(basins.kind) <= MOST_NAMED:
        handles = _handles(basins)
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=1 if len(handles) < 5 else 2)


def draw_fractions(axes: Axes, basins: Basins) -> None:
    """Draw the share of each attractor with bars of ±2 standard errors, and the diverged and undecided shares."""
    colors = _colors(basins)
    share, error = array(basins.fractions), array(basins.stderr)
    rows = np.arange(len(share))
    axes.barh(rows, share, color=colors, edgecolor=INK, linewidth=0.6, xerr=BAR * error, ecolor=INK, gid="fractions")
    others = [("diverged", basins.diverged, DIVERGED), ("undecided", basins.undecided, UNDECIDED)]
    shown = [entry for entry in others if entry[1]]
    for row, (_, part, color) in enumerate(shown, len(rows)):
        axes.barh(row, part, color=color, edgecolor=INK, linewidth=0.6)
    few = len(share) <= MOST_NAMED
    names = [f"{i + 1}: {basins.kind[i]}" if few else str(i + 1) for i in rows] + [entry[0] for entry in shown]
    places = np.arange(len(names)) if few else np.unique(np.linspace(0, len(names) - 1, MOST_NAMED).astype(int))
    axes.set(yticks=places, yticklabels=[names[i] for i in places], ylim=(len(names) - 0.4, -0.6), xlim=(0, None))
    axes.set_xlabel("share of the initial states")


def _colors(basins: Basins) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(len(basins.kind))]


def _handles(basins: Basins) -> list[Patch]:
    shares = [(f"{basins.share(i)}  {basins.describe(i)}", color) for i, color in enumerate(_colors(basins))]
    shares += [(f"{basins.diverged:.3g}  diverged", DIVERGED)] * bool(basins.diverged)
    shares += [(f"{basins.undecided:.3g}  undecided", UNDECIDED)] * bool(basins.undecided)
    return [Patch(facecolor=color, edgecolor=INK, linewidth=0.6, label=label) for label, color in shares]


def _draw_attractors(axes: Axes, basins: Basins, plane: Plane) -> None:
    """Draw a marker at each fixed point, and the states of every other attractor, within the picture."""
    for i, (kind, orbit) in enumerate(zip(basins.kind, array(basins.orbits), strict=True)):
        states = plane.coordinates(orbit[-1:] if kind in RESTING else orbit)
        color, size = COLORS[i % len(COLORS)], 6 if kind in RESTING else 1.2
        edge = (
            {"markeredgecolor": "white", "markeredgewidth": 1.2}
            if kind in RESTING
            else {"markeredgecolor": "white", "markeredgewidth": 0.25}
        )
        axes.plot(
            *states.T,
            MARKS[i % len(MARKS)],
            color=INK if kind in RESTING else color,
            markersize=size,
            gid=f"attractor {i + 1}",
            **edge,
        )
    axes.set(xlim=_ends(plane.p), ylim=_ends(plane.q))


def _ends(values: np.ndarray) -> tuple[float, float]:
    half = abs(values[1] - values[0]) / 2
    return float(values.min() - half), float(values.max() + half)


def _draw_scattered(axes: Axes, basins: Basins, names: tuple[str, str] | None) -> None:
    x = array(basins.x0).reshape(-1, basins.x0.shape[-1])
    center, plane, share = principal_plane(x)
    at, fates = (x - center) @ plane, array(basins.fates).reshape(-1).astype(int)
    colors = np.array([*_colors(basins), DIVERGED, UNDECIDED])
    axes.scatter(*at.T, c=colors[fates], s=9, edgecolors=QUIET, linewidths=0.3, rasterized=True, gid="states")
    found = (f"principal component 1 of the initial states ({share[0]:.0%})", f"principal component 2 ({share[1]:.0%})")
    axes.set(xlabel=(names or found)[0], ylabel=(names or found)[1])


@styled
def basins_figure(basins: Basins, *, title: str = "") -> Figure:
    """Draw the map of a plane of initial states; otherwise, their principal plane and the share of each attractor."""
    if plane_of(basins) is not None:
        figure, ((axes,),) = canvas(width=5.4, height=5.2)
        draw_basins(axes, basins)
    else:
        figure, ((axes, right),) = canvas(1, 2, width=4.6, height=3.8)
        draw_basins(axes, basins, legend=False)
        draw_fractions(right, basins)
        right.set_title("Share of each attractor")
    axes.set_title(title or "Basins of attraction")
    text = "; ".join(f"{basins.share(i)} {basins.describe(i)}" for i in range(min(len(basins.kind), MOST_NAMED)))
    figure.set_label(
        f"Basins of {counted(len(basins.kind), 'attractor')} over {counted(basins.codes.numel(), 'state')}: {text or 'none'}."
    )
    return figure
