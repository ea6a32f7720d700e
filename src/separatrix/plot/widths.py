"""The coordinate check: sizes of activations and of their change over the width, and the exponent of each layer."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from separatrix.analysis.along.widths import HALF_WAY, WidthScaling
from separatrix.analysis.depth.coordinates import CoordinateSizes
from separatrix.core.wording import counted
from separatrix.plot.depth import draw_range, name_layers, positive, width_of
from separatrix.plot.runs import array
from separatrix.plot.style import BAR, FAINT, QUIET, canvas, mark_zero, nothing_to_show, series, styled

FEW = 5  # layers with a line of their own; if there are more, those whose change depends most on the width


def draw_sizes(axes: Axes, found: WidthScaling, what: str = "change") -> None:
    """Draw the sizes at each layer over the width: the geometric mean over the networks, and the range of them.

    Args:
        axes: where to draw.
        found: the result to draw.
        what: "activation" or "change".
    """
    width, sizes = array(found.labels), array(getattr(found, what)).reshape(len(found.layers), len(found.labels), -1)
    logs = np.log(np.where((sizes > 0) & np.isfinite(sizes), sizes, np.nan))
    if np.isnan(logs).all():
        nothing_to_show(axes, f"no {what} is above 0")
        return
    chosen = _steepest(found)
    for i in sorted(range(len(found.layers)), key=lambda i: i in chosen):
        some = ~np.isnan(logs[i]).all(1)
        middle, low, high = (np.exp(of(logs[i][some], axis=1)) for of in (np.nanmean, np.nanmin, np.nanmax))
        if i not in chosen:
            axes.plot(width[some], middle, color=FAINT, linewidth=0.8, gid=f"layer {i}")
            continue
        look = series(chosen.index(i))
        axes.fill_between(width[some], low, high, color=look.color, alpha=0.15, linewidth=0)
        axes.plot(width[some], middle, linestyle=look.line, label=found.layers[i], gid=f"layer {i}", **look.marks)
    axes.set(xscale="log", yscale="log", xlabel="width")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(width, [f"{one:g}" for one in width])
    axes.set_ylabel("activations (r.m.s.)" if what == "activation" else f"change in {_steps(found)} (r.m.s.)")


def draw_exponents(axes: Axes, found: WidthScaling) -> None:
    """Draw both exponents of each layer with their error bars; in the grey band they count as 0."""
    place = np.arange(len(found.layers))
    for number, (name, (_, exponent, error)) in enumerate(zip(("activations", "change"), found.exponents, strict=True)):
        look, bar = series(number), BAR * np.nan_to_num(array(error))
        style = {"linestyle": "none", "elinewidth": 0.8, "label": name, "gid": name, **look.marks}
        axes.errorbar(place + (0.12 if number else -0.12), array(exponent), bar, **style)
    axes.axhspan(-HALF_WAY, HALF_WAY, color=QUIET, alpha=0.1, linewidth=0, gid="stable")
    mark_zero(axes)
    axes.set_ylabel("exponent of the width")
    axes.legend()
    name_layers(axes, found.layers)


@styled
def coordinate_sizes_figure(sizes: CoordinateSizes, *, title: str = "") -> Figure:
    """Draw the activations of networks of one width and their change over the layers: median over the networks, and their range."""
    figure, ((axes,),) = canvas(width=width_of(sizes.layers))
    known = [array(value).reshape(len(sizes.layers), -1) for value in (sizes.activation, sizes.change)]
    known = [positive(np.where(np.isfinite(values), values, np.nan)) for values in known]
    if np.isnan(known).all():
        nothing_to_show(axes, "no layer has a size above 0")
        return figure
    for number, (name, values) in enumerate(zip(("activations", f"change in {_steps(sizes)}"), known, strict=True)):
        draw_range(axes, np.arange(len(sizes.layers)), values, number, name)
    axes.set_yscale("log")
    axes.set_ylabel("size (r.m.s.)")
    axes.legend()
    axes.set_title(title)
    name_layers(axes, sizes.layers)
    figure.set_label(f"Activations over the layers and their change in {_steps(sizes)}.")
    return figure


def _steps(found: CoordinateSizes | WidthScaling) -> str:
    return f"{counted(found.steps, 'step')} of {found.optimizer}"


def _steepest(found: WidthScaling) -> list[int]:
    """The layers that have a line of their own, in their order."""
    steep = np.nan_to_num(np.abs(array(found.change_exponent)))
    return sorted(np.argsort(-steep, kind="stable")[:FEW].tolist())


@styled
def widths_figure(found: WidthScaling, *, title: str = "") -> Figure:
    """Draw activations, their change and the exponents side by side."""
    figure, ((left, middle, right),) = canvas(1, 3, width=4.0, height=3.6)
    draw_sizes(left, found, "activation")
    draw_sizes(middle, found, "change")
    draw_exponents(right, found)
    handles, names = middle.get_legend_handles_labels() if middle.axison else left.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower left", ncols=FEW)
    left.set_title(title)
    figure.set_label(f"Activations and their change over the width of a network: {found.verdict}.")
    return figure
