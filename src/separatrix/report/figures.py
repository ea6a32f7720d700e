"""The report's figures, each with a caption that says how to read it."""

from collections.abc import Mapping
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from separatrix import plot
from separatrix.analyze.portrait import Portrait
from separatrix.plot.plane import FOLLOWED
from separatrix.plot.portrait import attractors_shown

WIDE = 9.2  # inches, of a figure as wide as the page

CAPTIONS = {
    "spectrum": (
        "Lyapunov spectrum",
        "Each point is the mean rate at which perturbations along one direction of the state grow (above 0) or fade (below 0). "
        "Only the first, λ₁, decides the side; bars show ± 2 standard errors, bands the spread over runs.",
    ),
    "convergence": (
        "Convergence",
        "Estimates of the three leading exponents as the run goes on; grey: λ₁ of each run. They should end flat inside their "
        "shaded band (the final value ± 2 standard errors): a slope at the right edge means that more steps are needed.",
    ),
    "check": (
        "Two-trajectory check",
        "λ₁ measured a second time without derivatives: two copies of the state start a tiny distance apart, and the rate at which "
        "they part is noted. Each point is a run; on the diagonal both methods agree. Bars: ± 2 standard errors.",
    ),
    "propagation": (
        "Gradient propagation",
        "How much a gradient (or a perturbation) has grown or faded after a number of steps; the right-hand scale gives the "
        "factor. Over long lags it follows the dashed line, whose slope is λ₁. Lines: median of the runs; bands: all of them.",
    ),
    "finite_time": (
        "Finite-time exponents",
        "What the network does within one sequence: the mean rate at which the largest perturbation grows from its first step to "
        "its last. It is not λ₁, which belongs to an endless run, and tends to lie above it: in an ordered network (λ₁ below 0) "
        "all perturbations fade in the long run, but the worst direction may grow over so few steps first (a non-normal "
        "transient). Gradients within a sequence feel this rate.",
    ),
    "plane": (
        "Phase portrait",
        "Settled states of up to 16 runs in the two directions in which they vary most, older ones fainter, equal scales. "
        f"The dark line follows one run for its last {FOLLOWED - 1} steps, from ○ to ●.",
    ),
}


class Section(NamedTuple):
    """One kind of figure: its heading, how to read it, and the drawings."""

    key: str
    heading: str
    caption: str
    drawings: list[Markup]


def border(portraits: Mapping[str, Portrait]) -> Markup:
    """λ₁ of every portrait on one line."""
    return _inline(plot.border_figure({name: portrait.lambda_1 for name, portrait in portraits.items()}, width=WIDE), "border")


def sections(portraits: Mapping[str, Portrait]) -> list[Section]:
    """All figures: the spectra in one comparison, the others one a portrait."""
    spectra = plot.compare_spectra(
        {name: portrait.pooled for name, portrait in portraits.items()}, unit="nats per step", width=WIDE
    )
    drawn: dict[str, list[Markup]] = {key: [] for key in CAPTIONS}
    drawn["spectrum"].append(_inline(spectra, "spectrum"))
    for number, (name, portrait) in enumerate(portraits.items()):
        for key, figure in plot.panel_figures(portrait, name).items():
            drawn[key].append(_inline(figure, f"{key}{number}"))
    told = {key: list(words) for key, words in CAPTIONS.items()}
    if any(attractors_shown(portrait) is not None for portrait in portraits.values()):
        told["plane"][1] += " Markers tell the attractors apart that initial states have reached."
    return [Section(key, *told[key], drawings) for key, drawings in drawn.items() if drawings]


def _inline(figure: Figure, prefix: str) -> Markup:
    return Markup(plot.svg(figure, prefix=prefix))
