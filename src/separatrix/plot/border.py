"""The border: λ₁ of each network on one line, ordered to the left of zero and chaotic to the right."""

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.core.wording import measured
from separatrix.plot.style import BAR, INK, QUIET, canvas, series, styled


@styled
def border_figure(rates: Mapping[str, tuple[float, float]], *, unit: str = "nats per step", width: float = 7.4) -> Figure:
    """Draw each λ₁ with a bar of ±2 standard errors, and the border at zero between decaying and growing perturbations.

    Args:
        rates: name → (λ₁, its standard error).
        unit: unit of both.
    """
    figure, ((axes,),) = canvas(width=width, height=1.0 + 0.36 * len(rates))
    names = list(rates)
    for row, (rate, error) in enumerate(rates.values()):
        _draw_rate(axes, row, rate, error)
    axes.axvline(0, color=INK, linewidth=1.4, gid="zero")
    reach = 1.15 * max([abs(r) + BAR * _known(e) for r, e in rates.values() if math.isfinite(r)], default=1.0) or 1.0
    axes.set(xlim=(-reach, reach), ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)), yticklabels=names)
    axes.axvspan(0, reach, color=QUIET, alpha=0.1, linewidth=0, zorder=0)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.set_xlabel(f"λ₁ ({unit})")
    for x, words in ((0.25, "ordered: perturbations decay"), (0.75, "chaotic: perturbations grow")):
        axes.text(x, 1.02, words, transform=axes.transAxes, ha="center", va="bottom", color=QUIET, fontsize=8.5)
    figure.set_label("Order or chaos: " + "; ".join(f"{n}: λ₁ = {measured(*r)} {unit}" for n, r in rates.items()) + ".")
    return figure


def _draw_rate(axes: Axes, row: int, rate: float, error: float) -> None:
    look = series(row)
    if math.isfinite(rate):
        axes.errorbar(rate, row, xerr=BAR * _known(error), linestyle="", capsize=0, elinewidth=2, **{**look.marks, "markersize": 7})
        return
    words = "λ₁ = −∞" if rate == -math.inf else "diverged"
    axes.text(
        0.01, row, f"◀ {words}" if rate == -math.inf else words, transform=axes.get_yaxis_transform(), va="center", color=look.color
    )


def _known(error: float) -> float:
    return error if math.isfinite(error) else 0.0
