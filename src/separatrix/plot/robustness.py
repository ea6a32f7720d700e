"""Accuracy against the size of the perturbation: certified below, empirical above, and the true accuracy between them."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.bounds.robustness.robustness import Robustness
from separatrix.core.errors import InputError
from separatrix.core.wording import counted, plain
from separatrix.plot.runs import array
from separatrix.plot.style import BAR, INK, canvas, series, styled

FINE = 401  # points of a certified curve


def draw_robustness(axes: Axes, found: Robustness, *, name: str = "", number: int = 0) -> None:
    """Draw empirical accuracy at its radii and, if there is one, the certified curve; bands and bars are ±2 standard errors."""
    look = series(number)
    prefix = f"{name}, " if name else ""
    radii = np.append(0.0, array(found.radii))
    left = np.append(found.clean, array(found.empirical_accuracy))
    bars = 100 * BAR * array(found.stderr(torch.from_numpy(left)))
    axes.errorbar(radii, 100 * left, bars, linestyle=look.line, label=f"{prefix}under attack", gid="empirical", **look.marks)
    if found.has_certificate:
        fine = torch.linspace(0, float(found.radii[-1]), FINE, dtype=torch.float64)
        share = found.certified_at(fine)
        error = 100 * BAR * array(found.stderr(share))
        middle = 100 * array(share)
        axes.fill_between(array(fine), middle - error, middle + error, color=look.color, alpha=0.18, linewidth=0)
        axes.plot(array(fine), middle, color=look.color, linewidth=2.4, label=f"{prefix}certified", gid="certified")


def finish(axes: Axes) -> None:
    """Set the labels, and show the whole range of shares."""
    axes.set(xlabel="largest perturbation ε (ℓ₂, the inputs' unit)", ylabel="accuracy (%)", ylim=(-2, 102))
    axes.set_yticks(np.arange(0, 101, 20))
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xlim(left=0)
    axes.legend()


@styled
def compare_robustness(named: Mapping[str, Robustness], *, width: float = 6.4) -> Figure:
    """Draw several classifiers in one picture, distinguished by marker, line and lightness."""
    if not named:
        raise InputError("expected at least 1 result to compare, got 0.")
    figure, ((axes,),) = canvas(width=width, height=4.0)
    for number, (name, found) in enumerate(named.items()):
        draw_robustness(axes, found, name=name, number=number)
    finish(axes)
    figure.set_label(" ".join(_told(found, f"{name}: " if name else "") for name, found in named.items()))
    return figure


@styled
def robustness_figure(found: Robustness) -> Figure:
    """Draw the two curves of one classifier."""
    return compare_robustness({"": found})


def _told(found: Robustness, prefix: str) -> str:
    last, left = float(found.radii[-1]), float(found.empirical_accuracy[-1])
    proven = f", {float(found.certified_accuracy[-1]):.0%} certified" if found.has_certificate else ""
    return (
        f"{prefix}of {counted(found.count, 'image')}, {found.clean:.0%} are classified correctly; within ε = {plain(last)} "
        f"{left:.0%} under attack{proven}."
    )
