"""Fixed points by kind in their principal plane, and their multipliers with the unit circle."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from separatrix.analysis.fixed.fixed_points import FixedPoints
from separatrix.core.wording import counted
from separatrix.plot.runs import array
from separatrix.plot.style import FAINT, INK, QUIET, Series, canvas, nothing_to_show, series, styled

SIZE = 7
MOST_KINDS = 12  # beyond which a legend would hide the picture


def draw_points(axes: Axes, found: FixedPoints, path: Tensor | None = None) -> None:
    """Draw the points in the plane of their two leading principal components, one marker per kind; slow points as crosses.

    Args:
        found: the result to draw.
        path: states to draw faintly behind them, (time, *batch, dim).
    """
    states, slow = array(found.cycles), array(found.slow)
    if not len(states) and not len(slow):
        nothing_to_show(axes, "no point was found")
        return
    center, plane, share = principal_plane(np.concatenate([states.reshape(-1, states.shape[-1]), slow]))
    if path is not None:
        runs = (array(path).reshape(len(path), -1, states.shape[-1]) - center) @ plane
        axes.plot(runs[..., 0], runs[..., 1], color=FAINT, linewidth=0.5, alpha=0.5, gid="path", zorder=1)
    if len(slow):
        axes.plot(*((slow - center) @ plane).T, "x", color=QUIET, markersize=4, label="slow point", gid="slow", zorder=2)
    for number, kind in enumerate(kinds(found)):
        rows = [i for i, name in enumerate(found.kind) if name == kind]
        shown = (states[rows].reshape(-1, states.shape[-1]) - center) @ plane
        axes.plot(*shown.T, linestyle="", markersize=SIZE, label=kind, gid=kind, zorder=3, **looks(kind, number).marks)
    varies = share[0] > 0
    axes.set_xlabel(f"principal component 1 ({share[0]:.0%} of variance)" if varies else "from the point, in any direction")
    axes.set_ylabel(f"principal component 2 ({share[1]:.0%})" if varies else "in any other")
    placed = (np.concatenate([states.reshape(-1, states.shape[-1]), slow]) - center) @ plane
    for values, put in zip(placed.T, (axes.set_xlim, axes.set_ylim), strict=True):
        if path is None and np.ptp(values) < 1e-6 * max(1.0, np.abs(values).max()):
            put(values.mean() - 1, values.mean() + 1)
    if len(kinds(found)) <= MOST_KINDS:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def draw_multipliers(axes: Axes, found: FixedPoints) -> None:
    """Draw every multiplier in the complex plane, with the unit circle, inside which a direction attracts."""
    if not len(found.points):
        nothing_to_show(axes, "no point was found")
        return
    angle = np.linspace(0, 2 * math.pi, 400)
    axes.plot(np.cos(angle), np.sin(angle), color=INK, linewidth=1, gid="unit circle")
    values = found.multipliers.cpu().numpy()
    for number, kind in enumerate(kinds(found)):
        of_kind = values[[i for i, name in enumerate(found.kind) if name == kind]].reshape(-1)
        axes.plot(of_kind.real, of_kind.imag, linestyle="", markersize=4, gid=f"multipliers {kind}", **looks(kind, number).marks)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="Re μ", ylabel="Im μ")


def kinds(found: FixedPoints) -> list[str]:
    """The kinds that occur, the most attracting first."""
    return list(dict.fromkeys(found.kind))


def looks(kind: str, number: int) -> Series:
    """The style of a kind: filled markers for attracting points, open ones for all others."""
    return series(number)._replace(filled=kind.startswith("stable"))


def principal_plane(states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean, an orthonormal basis (dim, 2) of the leading principal plane, and the share of the variance of each axis.

    A state with one component has a second component of zero.
    """
    center = states.mean(0)
    _, sizes, axes = np.linalg.svd(np.concatenate([states - center, np.zeros((2, len(center)))]), full_matrices=False)
    plane, share = np.zeros((len(center), 2)), np.zeros(2)
    kept = min(2, len(sizes))
    plane[:, :kept] = axes[:kept].T
    total = (sizes**2).sum()
    share[:kept] = sizes[:kept] ** 2 / total if total > 0 else 0
    return center, plane, share


@styled
def fixed_points_figure(found: FixedPoints, *, path: Tensor | None = None, title: str = "") -> Figure:
    """Draw the points, and their multipliers with the unit circle."""
    figure, ((left, right),) = canvas(1, 2, width=4.6, height=3.8)
    draw_points(left, found, path)
    draw_multipliers(right, found)
    left.set_title(title or "Fixed points" if found.cycles.shape[1] == 1 else title or f"Cycles of period {found.cycles.shape[1]}")
    right.set_title("Multipliers and the unit circle")
    description = "; ".join(f"{found.kind.count(kind)} {kind}" for kind in kinds(found))
    figure.set_label(
        f"{counted(len(found.points), 'fixed point')} in their principal plane, and their multipliers: {description or 'none'}."
    )
    return figure
