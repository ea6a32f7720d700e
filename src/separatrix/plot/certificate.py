"""A certificate: the factor of each layer, the bound from the input to its output, and the measured lower bound."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.bounds.certificate.certificate import Certificate
from separatrix.core.wording import plain
from separatrix.plot.style import INK, NOTE, QUIET, SERIES, canvas, nothing_to_show, styled

MOST_BARS = 36  # beyond, only the largest factors are drawn
LONGEST = 26  # letters of a layer's name
ROOM = 1.35  # factor between the ends of the axis and what is drawn


def draw_certificate(axes: Axes, found: Certificate) -> None:
    """Draw factors as bars from 1, layers from top to bottom; the bound so far as a line; and the measured lower bound as another.

    A layer without a bound has neither bar nor line; its name says so.
    """
    if not found.names:
        nothing_to_show(
            axes, f"the layers cannot be inspected: {found.unknown[0]}" if found.unknown else "no layer changes anything"
        )
        return
    chosen = _chosen(found)
    factors, reach = found.factors.numpy()[chosen], found.reach.numpy()[chosen]
    place, known = np.arange(len(chosen)), np.isfinite(factors) & (factors > 0)
    bars, line = SERIES[4], SERIES[0]
    axes.barh(
        place[known], factors[known] - 1, left=1, height=0.62, color=bars.color, gid="factors", label="the layer's own factor"
    )
    joins = ~known & np.isfinite(reach)
    unknown = ~np.isfinite(factors) & ~joins
    drawn = np.isfinite(reach) & (reach > 0)
    axes.plot(reach[drawn], place[drawn], linestyle=line.line, label="bound from the input to here", zorder=3, **line.marks)
    if found.lower > 0:
        measured = SERIES[1]
        axes.axvline(
            found.lower, color=measured.color, linestyle=measured.line, label=f"measured lower bound: {plain(found.lower)}"
        )
    axes.axvline(1, color=INK, linewidth=1, gid="one")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: plain(value))
    axes.set_xlim(*_range([*factors[known], *reach[drawn], *([found.lower] if found.lower > 0 else []), 1.0]))
    names = [_short(found.names[i]) + ("  (no bound)" if unknown[n] else "") for n, i in enumerate(chosen)]
    axes.set_yticks(place, names, fontsize=7)
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel("Lipschitz factor (change of the output per change of the input)")
    axes.set_ylabel("layer, from first to last")
    left_out = len(found.names) - len(chosen)
    if left_out:
        axes.text(
            1.0, 1.01, f"{left_out} layers with factors closer to 1 are not drawn", ha="right", transform=axes.transAxes, **NOTE
        )


def _chosen(found: Certificate) -> np.ndarray:
    """Indices of the layers to draw: all, or those whose factors are furthest from 1."""
    factors = found.factors.numpy()
    if len(factors) <= MOST_BARS:
        return np.arange(len(factors))
    with np.errstate(divide="ignore"):
        weight = np.abs(np.log(np.nan_to_num(factors, nan=1.0, posinf=math.inf)))
    return np.sort(np.argsort(-weight, kind="stable")[:MOST_BARS])


def _range(values: list[float]) -> tuple[float, float]:
    return min(values) / ROOM, max(values) * ROOM


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST // 2] + "…" + name[-(LONGEST - LONGEST // 2 - 1) :]


@styled
def certificate_figure(found: Certificate, *, title: str = "") -> Figure:
    """The layers, with the two numbers above them."""
    rows = min(len(found.names), MOST_BARS)
    figure, ((axes,),) = canvas(width=6.6, height=float(np.clip(0.21 * rows + 1.6, 2.6, 9.0)))
    draw_certificate(axes, found)
    bound = f"at most {plain(found.bound)}" if found.is_bounded else "no bound"
    axes.set_title(title or f"{found.model}: {bound}, at least {plain(found.lower)}")
    if axes.axison:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, labelcolor=INK, edgecolor=QUIET)
    figure.set_label(f"Lipschitz factors of the layers of {found.model}: {bound}, at least {plain(found.lower)}.")
    return figure
