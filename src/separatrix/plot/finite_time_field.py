"""Finite-time exponents as a field: a heat map over a grid of states, a histogram over any other batch."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.analysis.lyapunov.finite_time import FiniteTimeField
from separatrix.core.wording import counted, plain
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import SERIES, TICKS, canvas, nothing_to_show, styled

MAP = "cividis"  # perceptually uniform, with the same order of lightness in grey and for colour-blind readers
RANGE = (0.5, 99.9)  # percentiles that span the colours; the pointed ends of the bar stand for values beyond
STRAIGHT = 1e-5  # relative to the side of a grid: deviation of its points allowed for float32's rounding
FLAT = 1e-9  # nats per unit time: a field whose values differ by less has one colour


def draw_finite_time_field(axes: Axes, field: FiniteTimeField, i: int = 0, names: tuple[str, str] | None = None) -> None:
    """Draw λ_{i+1} over the two coordinates in which a grid of states varies; a histogram if the states are not such a grid.

    Args:
        field: the result to draw; states that diverged are left blank.
        i: index of the exponent, 0 for the leading one.
        names: labels of the two coordinates. Default: x₁, x₂, … by their index in the state.
    """
    if not alive(field).any():
        nothing_to_show(axes, "all runs diverged")
        return
    plane = _plane(array(field.x0)) or _oblique(array(field.x0))
    if plane is None:
        _draw_histogram(axes, field, i)
        return
    across, up, labels = plane
    values = array(field.exponents[..., i])
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, RANGE) if len(finite) else (0.0, 1.0)
    if high - low < FLAT:
        low, high = low - FLAT, high + FLAT
    shading = {"cmap": MAP, "vmin": low, "vmax": high, "shading": "nearest", "rasterized": True}
    mesh = axes.pcolormesh(across, up, np.ma.masked_invalid(values), gid="field", **shading)
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    extend = beyond[bool((values < low).any()), bool((values > high).any())]
    bar = axes.figure.colorbar(mesh, ax=axes, extend=extend, pad=0.02, shrink=0.85)
    bar.set_label(f"finite-time exponent {_name(i)} (nats per {field.clock})")
    bar.ax.tick_params(**TICKS)
    axes.set_xlabel(names[0] if names else labels[0])
    axes.set_ylabel(names[1] if names else labels[1])
    axes.set_aspect("equal" if 0.2 < np.ptp(across) / np.ptp(up) < 5 else "auto")
    axes.grid(False)


Plane = tuple[np.ndarray, np.ndarray, tuple[str, str]]


def _plane(x: np.ndarray) -> Plane | None:
    """The two coordinates of a grid: one varies along the first batch axis only, one along the second only."""
    if x.ndim != 3 or min(x.shape[:2]) < 2:
        return None
    first, second = (np.flatnonzero(np.ptp(x, axis=axis).max(0) > 0) for axis in (0, 1))
    if not len(first) == len(second) == 1 or first[0] == second[0]:
        return None
    p, q = int(first[0]), int(second[0])
    return x[..., p], x[..., q], (f"state x{_below(p + 1)}", f"state x{_below(q + 1)}")


def _oblique(x: np.ndarray) -> Plane | None:
    """Distances along the sides of a grid whose points lie at equal distances on a parallelogram, in whatever direction."""
    if x.ndim != 3 or min(x.shape[:2]) < 2:
        return None
    s, t = np.meshgrid(*(np.linspace(0, 1, count) for count in x.shape[:2]), indexing="ij")
    first, second = x[-1, 0] - x[0, 0], x[0, -1] - x[0, 0]
    flat = x[0, 0] + s[..., None] * first + t[..., None] * second
    along, beside = np.linalg.norm(first), np.linalg.norm(second)
    if np.abs(x - flat).max() > STRAIGHT * max(along, beside) or min(along, beside) == 0:
        return None
    return s * along, t * beside, ("distance along the grid's first side", "distance along its second side")


def _draw_histogram(axes: Axes, field: FiniteTimeField, i: int) -> None:
    data = of_runs(field, field.exponents)[:, i]
    data = data[np.isfinite(data)]
    if not len(data):
        nothing_to_show(axes, "all exponents are −∞")
        return
    bins = int(np.clip(np.sqrt(len(data)), 5, 40))
    span = (data.min() - 1e-6, data.max() + 1e-6)
    axes.hist(data, bins=bins, range=span, color=SERIES[0].color, edgecolor="white", linewidth=0.5, gid="histogram")
    axes.set(xlabel=f"finite-time exponent {_name(i)} (nats per {field.clock})", ylabel="states (count)")


def _name(i: int) -> str:
    return f"λ{_below(i + 1)}"


def _below(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


@styled
def finite_time_field_figure(field: FiniteTimeField, *, i: int = 0, title: str = "") -> Figure:
    """Draw the field of one exponent."""
    figure, ((axes,),) = canvas(width=6.0)
    draw_finite_time_field(axes, field, i)
    known = of_runs(field, field.exponents)[:, i]
    description = f", {plain(known.min())} … {plain(known.max())} nats per {field.clock}" if len(known) else ""
    axes.set_title(title)
    figure.set_label(f"Finite-time exponent {_name(i)} of {counted(field.codes.numel(), 'state')}{description}.")
    return figure
