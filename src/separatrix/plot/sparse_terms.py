"""The terms of a sparse symbolic function: the coefficient of each monomial, for every item."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.nn.fit.sparse_terms import SUBSCRIPTS, SparseTerms
from separatrix.plot.runs import alive, of_runs
from separatrix.plot.style import canvas, mark_zero, nothing_to_show, series, styled

APART = 0.16  # offset between the markers of successive outputs, relative to the distance between terms


def draw_sparse_terms(axes: Axes, found: SparseTerms) -> None:
    """Draw ξ of every term, one marker per item, one series per output."""
    if not alive(found).any():
        nothing_to_show(axes, "all functions became infinite or NaN")
        return
    rows = of_runs(found, found.coefficients)
    outputs, terms = rows.shape[-2:]
    mark_zero(axes)
    for i in range(outputs):
        places = [j + APART * (i - (outputs - 1) / 2) for j in range(terms)]
        for item, row in enumerate(rows[:, i]):
            label = f"f{str(i + 1).translate(SUBSCRIPTS)}" if item == 0 else None
            axes.plot(places, row, linestyle="", label=label, **series(i).marks)
    axes.set_xticks(range(terms), found.terms)
    axes.set(xlabel="term", ylabel="coefficient")
    axes.legend()


@styled
def sparse_terms_figure(found: SparseTerms) -> Figure:
    """Draw the coefficients of all terms."""
    figure, ((axes,),) = canvas(width=6.0)
    draw_sparse_terms(axes, found)
    figure.set_label(found.summary())
    return figure
