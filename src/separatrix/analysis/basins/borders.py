"""Borders between labels on a lattice: the error of a fraction, the basin entropy, and the dimension of the border."""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_SHIFTS = 3  # least number of points for a slope


class BasinEntropy(NamedTuple):
    r"""Basin entropy, the uncertainty about the attractor of a state in nats, over boxes with `box` states on each side.

        S_b = ⟨S⟩ over all boxes,  S_bb = ⟨S⟩ over the boxes with more than one label,  S = −Σ_j p_j ln p_j

    Args:
        value: S_b; 0 if there is one label, ln(number of labels) if they are mixed at random.
        stderr: standard deviation of S_b over all offsets of the boxes.
        boundary: S_bb; NaN if no box has more than one label.
        boundary_stderr: standard deviation of S_bb over all offsets of the boxes.
        box: states on each side of a box.
    """

    value: float
    stderr: float
    boundary: float
    boundary_stderr: float
    box: int

    @property
    def is_fractal(self) -> bool:
        """S_bb > ln 2 beyond 2 standard errors; a smooth border, where few boxes have more than two labels, stays below that."""
        return self.boundary - 2 * self.boundary_stderr > math.log(2)


class UncertaintyExponent(NamedTuple):
    r"""Uncertainty exponent α of  f(ε) ∝ ε^α,  the share of pairs of states at a distance ε whose labels differ.

    Args:
        value: α; 1 for a smooth border, 0 if a more precise state does not make its attractor more certain.
        stderr: standard error of the slope of ln f over ln ε, from the residuals of the fit.
        shifts: ε, in lattice steps.
        shares: f(ε).
        dimension: dimension of the border, D − α on a lattice of D axes.
    """

    value: float
    stderr: float
    shifts: tuple[int, ...]
    shares: tuple[float, ...]
    dimension: float


def is_lattice(x: Tensor) -> bool:
    """Whether states (*batch, dim) form a lattice, with equal steps along each batch axis."""
    axes = [axis for axis in range(x.ndim - 1) if x.shape[axis] > 1]
    steps = [x.diff(dim=axis) for axis in axes]
    if not (axes and x.numel()):
        return False
    rounding = 1e3 * torch.finfo(x.dtype).eps * x.abs().flatten(0, -2).amax(0)
    firsts = [step.flatten(0, -2)[0] for step in steps]
    even = all(bool(((step - first).abs() <= rounding).all()) for step, first in zip(steps, firsts, strict=True))
    return even and all(bool((first.abs() > rounding).any()) for first in firsts)


def binomial_errors(fractions: Tensor, count: int) -> Tensor:
    """Standard errors of fractions of states drawn at random."""
    return (fractions * (1 - fractions) / count).sqrt()


def lattice_errors(labels: Tensor, groups: int) -> Tensor:
    """Standard errors of fractions of a lattice: a cell crossed by a border counts fully or not at all, with variance 1/12."""
    return (
        torch.tensor([math.sqrt(_crossed(labels == group) / 12) for group in range(groups)], dtype=torch.float64) / labels.numel()
    )


def _crossed(inside: Tensor) -> float:
    """Number of cells that the border of a set crosses: half of those with a neighbour on the other side."""
    edge = torch.zeros_like(inside)
    for axis in range(inside.ndim):
        differs = inside.narrow(axis, 1, inside.shape[axis] - 1) ^ inside.narrow(axis, 0, inside.shape[axis] - 1)
        edge.narrow(axis, 1, differs.shape[axis]).logical_or_(differs)
        edge.narrow(axis, 0, differs.shape[axis]).logical_or_(differs)
    return float(edge.sum()) / 2


def entropy_of(labels: Tensor, box: int) -> BasinEntropy:
    """Basin entropies of labels on a lattice with any number of axes; negative labels are ignored."""
    decided = _in_boxes(labels >= 0, box)
    windows = torch.zeros_like(decided)
    for label in labels[labels >= 0].unique().tolist():
        p = _in_boxes(labels == label, box) / decided.clamp(min=1)
        windows = windows - torch.special.xlogy(p, p)
    values, boundaries = [], []
    for offsets in itertools.product(range(box), repeat=labels.ndim):
        at = tuple(slice(offset, None, box) for offset in offsets)
        boxes = windows[at][decided[at] > 0]
        if boxes.numel():
            values.append(boxes.mean())
            boundaries.append(boxes[boxes > 0].mean())
    value, error = _mean_and_spread(values)
    boundary, boundary_error = _mean_and_spread([one for one in boundaries if not one.isnan()])
    return BasinEntropy(value, error, boundary, boundary_error, box)


def _in_boxes(chosen: Tensor, box: int) -> Tensor:
    """Number of chosen states in the box that begins at each position."""
    counts = chosen.double()
    for axis in range(chosen.ndim):
        counts = counts.unfold(axis, box, 1).sum(-1)
    return counts


def _mean_and_spread(values: list[Tensor]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
    stacked = torch.stack(values)
    return float(stacked.mean()), float(stacked.std(correction=0))


def uncertainty_of(labels: Tensor) -> UncertaintyExponent:
    """Uncertainty exponent of labels on a lattice, from shifts of 1, 2, 4, … steps along each axis, up to an eighth of it."""
    axes = [axis for axis in range(labels.ndim) if labels.shape[axis] > 1]
    longest = min(labels.shape[axis] for axis in axes) // 8
    shifts = [2**i for i in range(longest.bit_length()) if 2**i <= longest]
    shares = [sum(_share_apart(labels, axis, shift) for axis in axes) / len(axes) for shift in shifts]
    usable = [(math.log(shift), math.log(share)) for shift, share in zip(shifts, shares, strict=True) if share > 0]
    slope, error = _slope(usable) if len(usable) >= LEAST_SHIFTS else (math.nan, math.nan)
    return UncertaintyExponent(slope, error, tuple(shifts), tuple(shares), len(axes) - slope)


def _share_apart(labels: Tensor, axis: int, shift: int) -> float:
    """Share of the pairs at a shift along an axis, both with a label, whose labels differ."""
    length = labels.shape[axis] - shift
    one, other = labels.narrow(axis, 0, length), labels.narrow(axis, shift, length)
    decided = (one >= 0) & (other >= 0)
    return float(((one != other) & decided).sum()) / max(int(decided.sum()), 1)


def _slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    x, y = torch.tensor(points, dtype=torch.float64).unbind(-1)
    x = x - x.mean()
    slope = (x * y).sum() / x.square().sum()
    rest = y - y.mean() - slope * x
    error = (rest.square().sum() / max(len(x) - 2, 1) / x.square().sum()).sqrt()
    return float(slope), float(error)
