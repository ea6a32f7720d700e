"""The stability region of a method, |R(z)| ≤ 1, and the eigenvalues of a field times the step."""

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from separatrix.analysis.stepping.stability_region import StabilityRegion
from separatrix.core.checks import check_choice
from separatrix.core.result import Status
from separatrix.flows.methods import SOLVERS
from separatrix.plot.style import FAINT, INK, NOTE, QUIET, TICKS, canvas, nothing_to_show, styled

POINTS = 301  # of the grid, along each side
MOST_DOTS = 6_000
ROOM = ((-3.4, 1.4), (-3.2, 3.2))  # part of the plane that is always in view; it contains the regions of explicit methods
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of |R|, from dark to light
SHADES = ListedColormap(["#b9cddb", "#c9d9e4", "#dae5ed", "#eaf1f5"])
DEPTH = ListedColormap(colormaps["plasma"](np.linspace(0, 0.86, 256)))  # of the dots, first to last; no yellow on white


def draw_region(axes: Axes, method: str, *, view: tuple[tuple[float, float], tuple[float, float]] = ROOM) -> None:
    """Draw the region |R(z)| ≤ 1, darker for smaller values, its border and, dashed, |R(z)| = |eᶻ|, the order star of the method.

    Args:
        axes: an empty panel.
        method: a name in `SOLVERS`.
        view: ends of the real and of the imaginary axis.
    """
    check_choice("method", method, SOLVERS)
    solver = SOLVERS[method]
    across, up = (np.linspace(*ends, POINTS) for ends in view)
    z = torch.tensor(across[None, :] + 1j * up[:, None])
    size = solver.amplification(z).abs().numpy()
    axes.axhline(0, color=FAINT, linewidth=0.7, zorder=0.5)
    axes.axvline(0, color=FAINT, linewidth=0.7, zorder=0.5)
    if solver.paired:
        reach = float(solver.stable_length(torch.tensor(1j)))
        axes.plot(
            [0, 0], [-reach, reach], color=INK, linewidth=3, solid_capstyle="butt", label="|R(z)| = 1", gid="border", zorder=1
        )
    else:
        axes.contourf(across, up, size, levels=LEVELS, cmap=SHADES, zorder=0)
        axes.contour(across, up, size, levels=[1.0], colors=INK, linewidths=1.3, zorder=1)
        star = np.log(size) - across[None, :]
        axes.contour(across, up, star, levels=[0.0], colors=QUIET, linewidths=0.7, linestyles="dashed", zorder=0.8)
        axes.plot([], [], color=INK, linewidth=1.3, label="|R(z)| = 1")
        axes.plot([], [], color=QUIET, linewidth=0.7, linestyle="dashed", label="|R(z)| = |eᶻ|")
    axes.legend(loc="lower left", handlelength=1.6)
    axes.set(xlim=view[0], ylim=view[1], xlabel="Re z", ylabel="Im z")
    axes.set_aspect("equal")
    axes.grid(False)


def draw_stability_region(axes: Axes, found: StabilityRegion, *, bar: bool = True) -> None:
    """Draw the region of the result's method and the eigenvalues z = dt λ, coloured by the time along the orbit.

    Args:
        axes: an empty panel.
        found: the result to draw; if there are many eigenvalues, evenly spaced ones.
        bar: draw a colour bar beside the panel.
    """
    z = found.z.cpu().numpy().reshape(len(found.times), -1)
    times = np.broadcast_to(found.times.cpu().numpy()[:, None], z.shape)
    z, times = z.ravel(), times.ravel()
    kept = np.flatnonzero(np.isfinite(z))
    if not len(kept):
        nothing_to_show(axes, "all runs diverged")
        return
    kept = kept[:: max(1, -(-len(kept) // MOST_DOTS))]
    draw_region(axes, found.method, view=_view(z[kept]))
    color = ScalarMappable(Normalize(0, max(float(times.max()), 1e-9)), DEPTH)
    dots = {"s": 6, "alpha": 0.7, "linewidths": 0, "zorder": 2, "gid": "eigenvalues"}
    axes.scatter(z[kept].real, z[kept].imag, c=times[kept], norm=color.norm, cmap=color.cmap, **dots)
    axes.set(xlabel="Re z,  z = dt λ", ylabel="Im z")
    if bar:
        legend = axes.figure.colorbar(color, ax=axes, pad=0.02, shrink=0.85)
        legend.set_label("time along the orbit")
        legend.ax.tick_params(**TICKS)


def _view(z: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """The view that contains the regions and all eigenvalues, symmetric about the real axis."""
    (left, right), (_, top) = ROOM
    high = 1.08 * max(top, float(np.abs(z.imag).max()))
    return (1.08 * min(left, float(z.real.min())), 1.08 * max(right, float(z.real.max()))), (-high, high)


@styled
def stability_region_figure(found: StabilityRegion) -> Figure:
    """Draw the region and the eigenvalues."""
    figure, ((axes,),) = canvas(width=4.6, height=4.6)
    draw_stability_region(axes, found)
    if axes.axison:
        axes.set_title(f"{found.method.replace('_', ' ')}, dt = {found.dt:.3g}")
        diverged = int((found.codes == Status.DIVERGED).sum())
        if diverged:
            axes.text(0.02, 0.02, f"{diverged} diverged", transform=axes.transAxes, **NOTE)
    figure.set_label(f"{found.summary()}.")
    return figure
