"""A portrait in one figure: spectrum, gradient propagation, convergence with its check, and the phase portrait."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from separatrix.plot.check import check_figure
from separatrix.plot.convergence import convergence_figure, draw_convergence
from separatrix.plot.finite_time import finite_time_figure
from separatrix.plot.plane import draw_plane, plane_figure
from separatrix.plot.propagation import draw_propagation, propagation_figure
from separatrix.plot.runs import of_runs
from separatrix.plot.spectrum import draw_spectrum, finish, runs_in_words
from separatrix.plot.style import canvas, nothing_to_show, styled
from separatrix.portrait.portrait import RecurrentPortrait

UNIT = "nats per step"


@styled
def portrait_figure(portrait: RecurrentPortrait) -> Figure:
    """Draw the four most informative pictures of a network under its verdict."""
    figure, ((top_left, top_right), (low_left, low_right)) = canvas(2, 2, width=5.0, height=3.7)
    figure.suptitle(
        textwrap.fill(f"{portrait.model} – {portrait.verdict}", 110), x=0.01, ha="left", fontsize=10.5, fontweight="bold"
    )
    _spectrum(top_left, portrait)
    _convergence(low_left, portrait)
    _propagation(top_right, portrait)
    _plane(low_right, portrait)
    titles = ("Spectrum", "Gradient propagation", "Convergence", "Phase portrait")
    for axes, title in zip((top_left, top_right, low_left, low_right), titles, strict=True):
        axes.set_title(title)
    figure.set_label(f"Portrait of {portrait.model}. {portrait.verdict}.")
    return figure


def attractors_shown(portrait: RecurrentPortrait) -> Tensor | None:
    """The attractor of each run of the phase portrait, if there is more than one; otherwise None."""
    groups, plane = portrait.groups, portrait.plane
    if groups is None or plane is None or portrait.regime not in ("autonomous", "closed loop") or int(groups.max()) < 1:
        return None
    return groups[: plane.shape[1]]


def panel_figures(portrait: RecurrentPortrait, title: str = "") -> dict[str, Figure]:
    """What was measured of one portrait as separate figures: convergence, check, propagation, plane, finite_time."""
    rate, error = portrait.lambda_1
    kept = portrait.counted.cpu().numpy()
    figures = {
        "convergence": convergence_figure(portrait.spectrum, mean=portrait.pooled, kept=kept, unit=UNIT, title=title),
    }
    if portrait.spectrum.check is not None:
        figures["check"] = check_figure(portrait.spectrum, title=title)
    if portrait.propagation is not None:
        figures["propagation"] = propagation_figure(portrait.propagation, rate=rate, title=title)
    if portrait.plane is not None and portrait.explained is not None:
        figures["plane"] = plane_figure(portrait.plane, portrait.explained, attractors_shown(portrait), title=title)
    if portrait.finite_time is not None:
        steps = portrait.finite_time_steps
        figures["finite_time"] = finite_time_figure(portrait.finite_time, steps, rate=rate, error=error, title=title)
    return figures


def _spectrum(axes: Axes, portrait: RecurrentPortrait) -> None:
    if portrait.pooled.runs == 0:
        nothing_to_show(axes, "all runs diverged: there is no spectrum")
        return
    runs = of_runs(portrait.spectrum, portrait.spectrum.exponents, kept=portrait.counted.cpu().numpy())
    draw_spectrum(axes, portrait.pooled, runs, name=runs_in_words(portrait.pooled))
    finish(axes, UNIT)
    axes.legend()


def _propagation(axes: Axes, portrait: RecurrentPortrait) -> None:
    if portrait.propagation is None:
        nothing_to_show(axes, f"not measured: {portrait.ended}")
    else:
        draw_propagation(axes, portrait.propagation, portrait.lambda_1[0])


def _plane(axes: Axes, portrait: RecurrentPortrait) -> None:
    if portrait.plane is None or portrait.explained is None:
        nothing_to_show(axes, f"not measured: {portrait.ended}")
    else:
        draw_plane(axes, portrait.plane, portrait.explained, attractors_shown(portrait))


def _convergence(axes: Axes, portrait: RecurrentPortrait) -> None:
    if portrait.pooled.runs == 0:
        nothing_to_show(axes, "all runs diverged: nothing converges")
        return
    draw_convergence(axes, portrait.spectrum, portrait.pooled, unit=UNIT, kept=portrait.counted.cpu().numpy())
