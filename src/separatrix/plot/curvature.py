"""Curvature of a training: both ends of the spectrum with the threshold, and the weights that carry the leading direction."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.plot.runs import array
from separatrix.plot.style import INK, canvas, nothing_to_show, series, styled
from separatrix.training.result import Curvature

MOST = 8  # parameters that are drawn, those with the largest shares


def draw_ends(axes: Axes, found: Curvature) -> None:
    """Draw the eigenvalues at both ends with their residuals, those on mini-batches, and the threshold, for each item."""
    count = max(found.codes.numel(), 1)
    largest, smallest = (array(end).reshape(count, -1) for end in (found.largest, found.smallest))
    residuals = array(found.residuals).reshape(count, 2, -1)
    batches, thresholds = array(found.batch_largest).reshape(count, -1), array(found.threshold).reshape(count)
    at = np.arange(count)
    for number, (values, errors, name) in enumerate(
        ((largest, residuals[:, 0], "largest"), (smallest, residuals[:, 1], "smallest"))
    ):
        look = series(number)
        places = np.repeat(at[:, None], values.shape[1], 1)
        axes.errorbar(places.ravel(), values.ravel(), errors.ravel(), linestyle="none", label=name, gid=name, **look.marks)
    if batches.size:
        look = series(2)
        places = np.repeat(at[:, None] + 0.15, batches.shape[1], 1)
        axes.plot(
            places.ravel(), batches.ravel(), linestyle="none", label="largest on mini-batches", gid="mini-batches", **look.marks
        )
    axes.hlines(thresholds, at - 0.45, at + 0.45, color=INK, linewidth=1.2, label="threshold", gid="threshold")
    axes.axhline(0, color=INK, linewidth=0.6, gid="zero")
    axes.set_xticks(at if count > 1 else [])
    name = "Hessian" if np.isnan(found.epsilon) else "preconditioned Hessian"
    axes.set(xlabel="state" if count > 1 else "", ylabel=f"eigenvalue of the {name}", xlim=(-0.6, count - 0.4))
    axes.margins(y=0.08)
    axes.grid(axis="x", visible=False)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.14 if count > 1 else -0.02), ncols=4, columnspacing=1.0, handlelength=1.4
    )


def draw_shares(axes: Axes, found: Curvature) -> None:
    """Draw the parameters with the largest shares in the leading direction, for the first item of a batch."""
    leading = found.leading()[:MOST][::-1]
    axes.barh([name for name, _ in leading], [100 * share for _, share in leading], color=series(0).color, height=0.6, gid="shares")
    of = "leading direction of state 0" if found.batch else "leading direction"
    axes.set(xlabel=f"share of the {of} (%)", xlim=(0, 100))
    axes.grid(axis="y", visible=False)


@styled
def curvature_figure(found: Curvature, *, title: str = "") -> Figure:
    """Draw the ends of the spectrum beside the threshold."""
    figure, ((left, right),) = canvas(1, 2)
    if not np.isfinite(array(found.largest)).any():
        nothing_to_show(left, "the loss is not finite")
        nothing_to_show(right, "")
    else:
        draw_ends(left, found)
        draw_shares(right, found)
    left.set_title(title or ("" if found.batch else found.verdict))
    figure.set_label(f"Curvature of a training: {found.summary()}")
    return figure
