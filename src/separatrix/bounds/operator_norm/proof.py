"""The cheapest proof of the norm of a convolution."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from separatrix.bounds.operator_norm.banded import Blocks, bound_of, grams
from separatrix.bounds.operator_norm.convolution import Axis, Convolution
from separatrix.bounds.operator_norm.dense import by_singular_values
from separatrix.bounds.operator_norm.lanczos import from_below
from separatrix.bounds.operator_norm.pieces import matrix_of
from separatrix.bounds.operator_norm.rounding import UNIT, Extremes, gamma
from separatrix.bounds.operator_norm.torus import Torus, excess_over, torus_of

SMALL = 1024
"""Matrices with a side up to this length are decomposed directly: an SVD takes a quarter of a second."""
MORE = 3.0
"""Growth of the margin above the estimate after each failure."""
TRIES = 2
"""Number of failures after which the next cheapest method is used."""


@dataclass(frozen=True)
class Effort:
    """Limits of a proof: what it may cost, and how tight it need be.

    Args:
        budget: maximum number of floating-point operations of one attempt.
        slack: relative excess over the norm that suffices.
    """

    budget: float
    slack: float


TIGHT = Effort(budget=2e12, slack=3e-6)
"""Some fifteen seconds on two cores for an attempt."""


def extremes_of(whole: Convolution, effort: Effort) -> Extremes:
    """The extremes of a convolution with weights of order one."""
    convolution = whole.reduced()
    found = _extremes_of_reduced(convolution, effort)
    skips = any(axis.out < axis.size for axis in whole.axes if axis.is_copied)  # places that a stride never reads
    return replace(found, smallest=0.0) if skips and convolution.rows > convolution.columns else found


def _extremes_of_reduced(convolution: Convolution, effort: Effort) -> Extremes:
    if convolution.groups * min(convolution.rows, convolution.columns) ** 3 <= SMALL**3:
        return by_singular_values(matrix_of(convolution), "SVD")
    if not convolution.axes:
        row = replace(convolution, weight=convolution.weight[..., None], axes=(Axis(1, 1),))
        frobenius = float(row.weight.norm()) * (1 + gamma(row.weight.numel()))
        return _between(row, None, from_below(row, slack=effort.slack), frobenius, "Frobenius bound", effort)
    toruses, repeats = _around(convolution)
    if repeats == 1 and all(bool(torus.inside.all()) for torus in toruses):
        return _exact(toruses)
    ceiling = max(torus.largest for torus in toruses) * repeats**0.5 * (1 + 8 * UNIT)
    lower = from_below(convolution, slack=effort.slack)
    return _between(convolution, toruses if repeats == 1 else None, lower, ceiling, "circular bound", effort)


def _exact(toruses: list[Torus]) -> Extremes:
    """The singular values of the torus, if they are those of the layer because nothing lies outside the torus.

    Source: Sedghi, Gupta & Long 2019, The singular values of convolutional layers, theorem 6.
    """
    slack = max(torus.slack for torus in toruses)
    largest = max(float(torus.singular_values.max()) for torus in toruses)
    smallest = min(float(torus.singular_values.min()) for torus in toruses)
    return Extremes(largest, largest, smallest, "Fourier").widened(slack)


def _around(convolution: Convolution) -> tuple[list[Torus], int]:
    """Tori that contain the layer, and ‖pad‖², if padding has to be applied first."""
    toruses = torus_of(convolution)
    if toruses is not None:
        return toruses, 1
    padded = tuple(Axis(axis.size + axis.before + axis.after, axis.kernel, axis.stride, axis.dilation) for axis in convolution.axes)
    return torus_of(replace(convolution, axes=padded)) or [], prod(map(_repeats, convolution.axes))


def _repeats(axis: Axis) -> int:
    """The maximum number of copies of one input position in the padded line."""
    shown = [axis.source(place) for place in range(axis.size + axis.before + axis.after)]
    return max(map(shown.count, range(axis.size)))


def _between(
    convolution: Convolution, toruses: list[Torus] | None, lower: float, ceiling: float, otherwise: str, effort: Effort
) -> Extremes:
    """The first number above the estimate that can be proven, otherwise the ceiling."""
    blocks = Blocks(min(grams(convolution), key=lambda one: one.flops))
    excess, attempt = effort.slack, 0
    while 0 < (trial := lower * (1 + excess)) < ceiling:  # a kernel that reads padding only may have a norm of 0
        ways = [way for way in _ways(blocks, toruses, trial) if way[2] <= effort.budget]
        if not ways:  # higher up it may cost less; a better estimate is of no use here
            excess *= MORE
            continue
        method, bound, _ = ways[min(attempt // TRIES, len(ways) - 1)]
        if (found := bound()) is not None:
            return Extremes(found, lower, None, method)
        attempt += 1
        lower, excess = _again(convolution, attempt, lower, excess, effort.slack)
    return Extremes(ceiling, lower, None, otherwise)


def _ways(blocks: Blocks, toruses: list[Torus] | None, trial: float) -> list[tuple[str, Callable[[], float | None], float]]:
    """(method, its bound or None, its cost), the cheapest first."""
    ways = [("Cholesky", lambda: bound_of(blocks, trial), blocks.gram.flops)]
    if toruses:
        ways.append(("torus", lambda: _by_toruses(toruses, trial), sum(torus.flops(trial) for torus in toruses)))
    return sorted(ways, key=lambda way: way[2])


def _again(convolution: Convolution, attempt: int, lower: float, excess: float, slack: float) -> tuple[float, float]:
    """A better estimate from another start or, if there is none, a larger margin."""
    better = from_below(convolution, seed=attempt, slack=slack)
    return (better, excess) if better > lower * (1 + excess) else (max(lower, better), MORE * excess)


def _by_toruses(toruses: list[Torus], trial: float) -> float | None:
    excesses = []
    for torus in toruses:
        excesses.append(excess_over(torus, trial))
        if excesses[-1] is None:
            return None
    return (trial + max(excesses)) * (1 + 4 * UNIT)
