"""Zero lines of a function of the plane, by marching squares and bisection of each vertex."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

HALVINGS = 50  # bisections of a grid edge, down to rounding
ZERO = 1e-6  # relative to the largest value: a sign change with a larger remainder is a jump, not a zero
ON_GRID = 1e-9  # relative to an edge: a vertex this close to a grid point lies on it

Function = Callable[[Tensor], Tensor]


def zero_lines(function: Function, first: Tensor, second: Tensor, values: Tensor) -> Tensor:
    """Lines on which function(a₁, a₂) = 0, shape (vertex, 2), with a row of NaN after each line; without jumps.

    Args:
        function: (count, 2) → (count).
        first, second: coordinates of the grid, (rows) and (columns), ascending.
        values: the function on the grid, (rows, columns).
    """
    import contourpy

    known = np.ma.masked_invalid(values.cpu().double().numpy().T)
    lines = contourpy.contour_generator(first.cpu().numpy(), second.cpu().numpy(), known, name="serial").lines(0.0)
    if not lines:
        return torch.zeros(0, 2).to(values)
    broken = [np.concatenate([np.asarray(line), np.full((1, 2), np.nan)]) for line in lines]
    vertices = torch.from_numpy(np.concatenate(broken)).to(values)
    is_vertex = torch.isfinite(vertices).all(-1)
    refined = _bisected(function, first, second, vertices[is_vertex])
    largest = values[torch.isfinite(values)].abs().max()
    is_zero = function(refined).abs() <= ZERO * largest
    vertices[is_vertex] = refined.where(is_zero[:, None], torch.nan)
    return vertices


def _bisected(function: Function, first: Tensor, second: Tensor, vertices: Tensor) -> Tensor:
    """The vertices moved along their grid edges to the sign changes."""
    low, high = _edges(first, second, vertices)
    at_low, at_high = function(low), function(high)
    crosses = at_low * at_high < 0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        same = (function(middle) * at_low > 0)[:, None]
        low, high = middle.where(same, low), high.where(same, middle)
    return ((low + high) / 2).where(crosses[:, None], vertices)


def _edges(first: Tensor, second: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends of the grid edge on which each vertex lies; for a vertex on a grid point, that point twice."""
    low, high = vertices.clone(), vertices.clone()
    for axis, grid in enumerate((first, second)):
        at = torch.searchsorted(grid.contiguous(), vertices[:, axis].contiguous()).clamp(1, len(grid) - 1)
        below, above = grid[at - 1], grid[at]
        near = torch.minimum((vertices[:, axis] - below).abs(), (above - vertices[:, axis]).abs())
        between = near > ON_GRID * (above - below)
        low[:, axis], high[:, axis] = below.where(between, vertices[:, axis]), above.where(between, vertices[:, axis])
    return low, high
