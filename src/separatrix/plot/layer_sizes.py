"""A network in depth: gradients of its parameters, activations against what half precision holds, and dead units."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from separatrix.analysis.depth.result import DepthProfile
from separatrix.core.wording import counted
from separatrix.plot.depth import draw_range, name_layers, positive, width_of
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import FAINT, INK, NOTE, canvas, nothing_to_show, series, styled


def draw_parameter_gradients(axes: Axes, profile: DepthProfile) -> None:
    """Draw the norm of the gradient of the loss by the parameters of each layer with weights: median and range over the inputs."""
    own = np.flatnonzero(array(profile.has_weights)) if profile.has_weights is not None else np.arange(0)
    if not len(own):
        nothing_to_show(axes, "no layer has weights of its own")
        return
    values = positive(of_runs(profile, profile.parameter_gradient, 1))
    draw_range(axes, own, values[own], 1, f"gradient of {profile.loss}")
    axes.set_yscale("log")
    axes.set_ylabel("gradient by parameters ‖∂loss/∂θ‖")
    axes.legend()


def draw_magnitudes(axes: Axes, profile: DepthProfile, *, dtype: torch.dtype = torch.float16) -> None:
    """Draw the root mean square and the largest magnitude of each layer's output, below the largest number of a dtype."""
    place = np.arange(len(profile.layers))
    for number, (name, values) in enumerate((("root mean square", profile.activation), ("largest magnitude", profile.peak))):
        draw_range(axes, place, positive(of_runs(profile, values, 1)), number, name)
    most, kind = torch.finfo(dtype).max, str(dtype).removeprefix("torch.")
    axes.axhline(most, color=INK, linewidth=1, gid="limit")
    axes.annotate(f"largest number of {kind}", (0, most), (2, 2), textcoords="offset points", va="bottom", **NOTE)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_ylabel("size of activations")
    axes.legend()


def draw_dead_units(axes: Axes, profile: DepthProfile) -> None:
    """Draw the share of units of each layer that are 0 for all inputs, and that of its gradient which float16 rounds to 0."""
    place = np.arange(len(profile.layers))
    dead = array(profile.dead_units) / array(profile.unit_count)
    lost = np.nanmax(of_runs(profile, profile.underflow, 1), axis=1)
    axes.bar(place, dead, width=0.6, color=FAINT, label="units that are 0 for all inputs", gid="dead units")
    look = series(1)
    axes.plot(place, lost, linestyle="", label="numbers of its gradient that float16 rounds to 0", gid="underflow", **look.marks)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("share of the layer")
    axes.legend()


@styled
def layer_sizes_figure(profile: DepthProfile, *, title: str = "") -> Figure:
    """Draw the gradients of the parameters, the activations with their distance from overflow, and dead units, over the layers."""
    figure, axes = canvas(3, 1, width=width_of(profile.layers), height=2.7)
    known = profile.peak is not None and bool(alive(profile).any())
    for panel, draw in zip(axes[:, 0], (draw_parameter_gradients, draw_magnitudes, draw_dead_units), strict=True):
        if known:
            draw(panel, profile)
            name_layers(panel, profile.layers)
        else:
            nothing_to_show(panel, "all inputs diverged" if profile.peak is not None else "not measured")
    for panel in axes[:-1, 0]:
        panel.set_xlim(-0.6, len(profile.layers) - 0.4)
        panel.set_xlabel("")
        panel.tick_params(labelbottom=False)  # the names stand below
    axes[-1, 0].set_xlim(-0.6, len(profile.layers) - 0.4)
    axes[0, 0].set_title(title)
    where = f"{counted(len(profile.layers), 'layer')} of {title or profile.model}"
    figure.set_label(f"Gradients of parameters, sizes of activations and dead units over {where}.")
    return figure
