"""The phase portrait on a plane: streamlines, nullclines, orbits, fixed points by kind, and the manifolds of saddles."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.transforms import ScaledTranslation

from separatrix.analysis.pictures.phase_portrait import PhasePortrait
from separatrix.plot.fixed_points import SIZE, kinds, looks
from separatrix.plot.runs import array
from separatrix.plot.style import INK, SERIES, TICKS, canvas, styled

STREAMS = LinearSegmentedColormap.from_list("streams", ["#dfe5ec", "#9db0c2", "#6f88a0"])  # slow is light
OUTSIDE = LinearSegmentedColormap.from_list("outside", ["#ffffff", "#b9a58f"])  # in the plane is white
ARROWS = 24  # along each axis, of a map's displacements
HALO = [Stroke(linewidth=4.0, foreground="white"), Normal()]
BELOW = -0.45  # inches from the panel to its legend
PANEL, ROUND = 4.0, 1.6  # inches: the width of the panel, and what stands above and below it
IN_PLANE = 1e-3  # relative to the window: a fixed point farther from the plane is drawn faint


def draw_phase_portrait(
    axes: Axes,
    portrait: PhasePortrait,
    *,
    names: tuple[str, str] | None = None,
    density: float = 1.3,
    orbits: bool = True,
    nullclines: bool = True,
    legend: bool = True,
) -> None:
    """Draw the portrait in one panel.

    Args:
        portrait: the result to draw.
        names: labels of the two axes. Default: `portrait.labels`.
        density: density of the streamlines.
        orbits, nullclines, legend: whether to draw them.
    """
    if portrait.axes.shape[1] > 2:
        _draw_share(axes, portrait)
    if portrait.is_flow:
        _draw_streams(axes, portrait, density)
    else:
        _draw_arrows(axes, portrait)
    if orbits:
        _draw_orbits(axes, portrait)
    if nullclines:
        _draw_nullclines(axes, portrait, names or portrait.labels)
    _draw_manifolds(axes, portrait)
    _draw_rest(axes, portrait)
    first, second = array(portrait.first), array(portrait.second)
    axes.set(xlim=(first[0], first[-1]), ylim=(second[0], second[-1]))
    axes.set_aspect("equal" if _is_equal(np.ptp(first), np.ptp(second)) else "auto")
    axes.set_xlabel(names[0] if names else portrait.labels[0])
    axes.set_ylabel(names[1] if names else portrait.labels[1])
    axes.grid(False)
    if legend:
        below = axes.transAxes + ScaledTranslation(0, BELOW, axes.figure.dpi_scale_trans)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=2, handlelength=3.2)


def _is_equal(first: float, second: float) -> bool:
    """Whether both axes can have the same scale, which would make very elongated windows too narrow."""
    return 0.4 < first / second < 2.5


def _draw_share(axes: Axes, portrait: PhasePortrait) -> None:
    """Draw the share of the field that leaves the plane as a tint."""
    shading = {"cmap": OUTSIDE, "vmin": 0, "vmax": 1, "shading": "gouraud", "rasterized": True, "zorder": 0}
    share = np.nan_to_num(array(portrait.leaving).T, nan=1.0)
    mesh = axes.pcolormesh(array(portrait.first), array(portrait.second), share, gid="leaving", **shading)
    bar = axes.figure.colorbar(mesh, cax=axes.inset_axes((1.03, 0, 0.035, 1)), ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0 %", "25 %", "50 %", "75 %", "100 %"])
    bar.set_label("share of the field that leaves the plane")
    bar.ax.tick_params(**TICKS)


def _draw_streams(axes: Axes, portrait: PhasePortrait, density: float) -> None:
    u, w = np.ma.masked_invalid(array(portrait.field)).transpose(2, 1, 0)
    first, second = (np.linspace(grid[0], grid[-1], len(grid)) for grid in (array(portrait.first), array(portrait.second)))
    pace = np.ma.filled(_ranks(np.hypot(u, w)), 0.0)
    look = {"color": pace, "cmap": STREAMS, "linewidth": 0.5 + 0.7 * pace, "arrowsize": 0.7, "arrowstyle": "-|>", "zorder": 1}
    axes.streamplot(first, second, u, w, density=density, **look)


def _draw_arrows(axes: Axes, portrait: PhasePortrait) -> None:
    """Draw the directions of a map's displacements as arrows of one length, shaded by the size of the displacement."""
    every = max(1, len(portrait.first) // ARROWS)
    at = slice(every // 2, None, every)
    u, w = np.ma.masked_invalid(array(portrait.field)[at, at]).transpose(2, 1, 0)
    size = np.ma.masked_equal(np.hypot(u, w), 0)
    look = {"cmap": STREAMS, "pivot": "mid", "scale": 1.15 * ARROWS, "width": 0.0028, "zorder": 1, "gid": "arrows"}
    spans = np.ptp(array(portrait.first)), np.ptp(array(portrait.second))
    look |= {"angles": "xy" if _is_equal(*spans) else "uv"}
    axes.quiver(array(portrait.first)[at], array(portrait.second)[at], u / size, w / size, _ranks(size), **look)


def _ranks(size: np.ma.MaskedArray) -> np.ma.MaskedArray:
    """Ranks scaled to 0 … 1, because the speeds of a portrait differ by orders of magnitude."""
    order = np.ma.filled(size, 0.0).ravel().argsort().argsort().reshape(size.shape)
    return np.ma.array(order / max(order.max(), 1), mask=np.ma.getmaskarray(size))


def _draw_orbits(axes: Axes, portrait: PhasePortrait) -> None:
    paths = array(portrait.orbits)
    paths = paths.reshape(len(paths), -1, 2)
    look = {"color": SERIES[0].color, "gid": "orbits", "zorder": 2}
    line, dots = {"linewidth": 0.8, "alpha": 0.55}, {"marker": ".", "markersize": 1.6, "linestyle": "", "alpha": 0.4}
    look |= line if portrait.is_flow else dots
    lines = axes.plot(paths[..., 0], paths[..., 1], rasterized=not portrait.is_flow, **look)
    lines[0].set_label("orbit" if len(lines) == 1 else "orbits")
    axes.plot(*paths[0].T, linestyle="", marker=".", markersize=3, color=SERIES[0].color, gid="starts", zorder=2)


def _draw_nullclines(axes: Axes, portrait: PhasePortrait, names: tuple[str, str]) -> None:
    for number, line in enumerate((portrait.nullcline_1, portrait.nullcline_2), 1):
        look = {"color": SERIES[number].color, "linestyle": SERIES[number].line, "linewidth": 1.9, "zorder": 3}
        label = f"nullcline of {names[number - 1].split(' (')[0]}" if len(line) else None
        axes.plot(*array(line).T, gid=f"nullcline {number}", label=label, **look)


def _draw_manifolds(axes: Axes, portrait: PhasePortrait) -> None:
    flat = portrait.axes.shape[1] == 2
    drawn = (
        ("unstable manifold", portrait.unstable, {"color": SERIES[3].color, "linestyle": SERIES[3].line, "linewidth": 1.3}),
        (
            "separatrix (stable manifold)" if flat else "stable manifold",
            portrait.stable,
            {"color": INK, "linewidth": 2.2, "path_effects": HALO},
        ),
    )
    for name, curves, look in drawn:
        for number, curve in enumerate(array(curves)):
            label = name if number == 0 else None
            axes.plot(*curve.T, gid=name.split(" (")[0], label=label, zorder=4, **look)


def _draw_rest(axes: Axes, portrait: PhasePortrait) -> None:
    """Draw the fixed points in the window by kind; those off the plane faintly."""
    places, away = array(portrait.rest_places), array(portrait.rest_away)
    low, high = (np.array([array(grid)[end] for grid in (portrait.first, portrait.second)]) for end in (0, -1))
    inside = ((places >= low) & (places <= high)).all(-1)
    off = away > IN_PLANE * np.hypot(*(high - low))
    names = np.array(portrait.rest.kind)
    for number, kind in enumerate(kinds(portrait.rest)):
        look = {**looks(kind, number).marks, "linestyle": "", "markersize": SIZE + 1.5, "markeredgewidth": 1.5, "zorder": 6}
        for rows, alpha, where in ((~off, 1.0, ""), (off, 0.6, ", off the plane")):
            shown = rows & inside & (names == kind)
            if shown.any():
                label = f"{shown.sum()} × {kind}{where}"
                axes.plot(*places[shown].T, gid=kind, label=label, alpha=alpha, clip_on=False, **look)


@styled
def phase_portrait_figure(portrait: PhasePortrait, *, names: tuple[str, str] | None = None, title: str = "") -> Figure:
    """Draw the portrait in one panel."""
    first, second = (np.ptp(array(grid)) for grid in (portrait.first, portrait.second))
    flat = max(first / second, 1.0) if _is_equal(first, second) else 1.0
    figure, ((axes,),) = canvas(width=6.4, height=PANEL / flat + ROUND)
    draw_phase_portrait(axes, portrait, names=names)
    axes.set_title(title)
    figure.set_label(portrait.summary().replace("\n", "; ") + ".")
    return figure
