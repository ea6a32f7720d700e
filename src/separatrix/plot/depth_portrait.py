"""Networks in depth: one with its verdict, or a comparison of several."""

import textwrap
from collections.abc import Mapping

from matplotlib.figure import Figure

from separatrix.analysis.depth.profile import DepthProfile
from separatrix.plot.depth import depth_figure, draw_gains
from separatrix.plot.style import canvas, styled
from separatrix.portrait.depth import DepthPortrait


@styled
def depth_portrait_figure(portrait: DepthPortrait) -> Figure:
    """Draw the profile under the verdict."""
    figure = depth_figure(portrait.profile)
    words = textwrap.fill(f"{portrait.model} – {portrait.verdict}", int(12 * figure.get_figwidth()))
    figure.suptitle(words, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    figure.set_label(f"Portrait of {portrait.model}. {portrait.verdict}.")
    return figure


@styled
def compare_depths(profiles: Mapping[str, DepthProfile], *, width: float = 9.2) -> Figure:
    """Draw gains and gradients of several networks over relative depth, side by side.

    Args:
        profiles: the profiles by name.
        width: width of the figure, inches.
    """
    figure, ((left, right),) = canvas(1, 2, width=width / 2, height=3.3)
    draw_gains(left, dict(profiles))
    draw_gains(right, dict(profiles), gradient=True)
    left.set_title("Changes of the input, forward")
    right.set_title("Gradients, backward")
    description = "; ".join(f"{name}: {profile.verdict}" for name, profile in profiles.items())
    figure.set_label(f"Gain and gradient norm over the depth of each network. {description}.")
    return figure
