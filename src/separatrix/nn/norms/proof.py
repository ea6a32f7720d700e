"""The cheapest proof of the norm of a convolution."""

from dataclasses import replace
from math import prod

from separatrix.nn.norms.banded import Blocks, bound_below, grams, is_below
from separatrix.nn.norms.convolution import Axis, Convolution
from separatrix.nn.norms.dense import by_singular_values
from separatrix.nn.norms.lanczos import from_below
from separatrix.nn.norms.rounding import UNIT, Extremes
from separatrix.nn.norms.torus import Torus, excess_over, torus_of

SMALL = 1024
"""Matrices with a side up to this are taken apart whole: an SVD takes a quarter of a second."""
EXCESS = 1e-6
"""How much above the estimate a proof is tried first, relative to the norm; ten times more after each failure."""


def extremes_of(whole: Convolution, budget: float) -> Extremes:
    """Of a convolution whose weights are of size one; `budget` in floating-point operations for each attempt at a proof."""
    convolution = whole.reduced()
    if convolution.groups * min(convolution.rows, convolution.columns) <= SMALL:
        return by_singular_values(convolution.dense(), "SVD")
    if not convolution.axes:
        return by_singular_values(convolution.dense(), "SVD")
    toruses, repeats = _around(convolution)
    if all(bool(torus.inside.all()) for torus in toruses) and repeats == 1:
        return _exact(toruses)
    lower = from_below(convolution)
    ceiling = max(torus.largest for torus in toruses) * repeats**0.5 * (1 + 8 * UNIT)
    return _between(convolution, toruses if repeats == 1 else None, lower, ceiling, budget)


def _exact(toruses: list[Torus]) -> Extremes:
    """Where nothing is outside the torus, its singular values are those of the layer.

    Source: Sedghi, Gupta & Long 2019, The singular values of convolutional layers, theorem 6.
    """
    slack = max(torus.slack for torus in toruses)
    largest = max(float(torus.singular_values.max()) for torus in toruses)
    smallest = min(float(torus.singular_values.min()) for torus in toruses)
    return Extremes(largest, largest, smallest, "Fourier").widened(slack)


def _around(convolution: Convolution) -> tuple[list[Torus], int]:
    """Toruses that the layer is a piece of, and ‖pad‖², if the padding has to be done before them."""
    toruses = torus_of(convolution)
    if toruses is not None:
        return toruses, 1
    padded = tuple(Axis(axis.size + axis.before + axis.after, axis.kernel, axis.stride, axis.dilation) for axis in convolution.axes)
    return torus_of(replace(convolution, axes=padded)) or [], prod(map(_repeats, convolution.axes))


def _repeats(axis: Axis) -> int:
    """How often the padded line shows one place of the input, at most."""
    shown = [axis.source(place) for place in range(axis.size + axis.before + axis.after)]
    return max(map(shown.count, range(axis.size)))


def _between(convolution: Convolution, toruses: list[Torus] | None, lower: float, ceiling: float, budget: float) -> Extremes:
    """The first number above the estimate that can be proven, or else the ceiling."""
    gram = min(grams(convolution), key=lambda one: one.flops)
    excess, blocks = EXCESS, None
    while (trial := lower * (1 + excess)) < ceiling:
        around = sum(torus.flops(trial) for torus in toruses) if toruses else float("inf")
        if around <= min(budget, gram.flops):
            found = _by_toruses(toruses or [], trial)
            method = "torus"
        elif gram.flops <= budget:
            blocks = blocks or Blocks(gram)
            found = bound_below(gram, trial**2) if is_below(blocks, trial**2) else None
            method = "Cholesky"
        else:
            found, method = None, ""
        if found is not None:
            return Extremes(found, lower, None, method)
        excess *= 10
    return Extremes(ceiling, lower, None, "circular bound")


def _by_toruses(toruses: list[Torus], trial: float) -> float | None:
    total = 0.0
    for torus in toruses:
        excess = excess_over(torus, trial)
        if excess is None:
            return None
        total = max(total, excess)
    return (trial + total) * (1 + 4 * UNIT)
