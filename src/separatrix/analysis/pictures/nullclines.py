"""Where a function of the plane is zero: lines by marching squares, each vertex then brought onto the zero itself."""

from collections.abc import Callable

import contourpy
import numpy as np
import torch
from torch import Tensor

HALVINGS = 50  # of a grid's edge: to the last bit
ZERO = 1e-6  # of the largest value: a sign that changes with more left over is a jump, no zero
ON_GRID = 1e-9  # of an edge

Function = Callable[[Tensor], Tensor]


def zero_lines(function: Function, first: Tensor, second: Tensor, values: Tensor) -> Tensor:
    """The lines on which function(place) = 0, shape (vertex, 2), a row of NaN after each line; jumps are left out.

    Args:
        function: (count, 2) → (count).
        first, second: the grid's coordinates, (rows) and (columns), ascending.
        values: the function over the grid, (rows, columns).
    """
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
    """Each vertex moved along its grid edge to where the sign changes."""
    low, high = _edges(first, second, vertices)
    at_low, at_high = function(low), function(high)
    crosses = at_low * at_high < 0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        same = (function(middle) * at_low > 0)[:, None]
        low, high = middle.where(same, low), high.where(same, middle)
    return ((low + high) / 2).where(crosses[:, None], vertices)


def _edges(first: Tensor, second: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """The two ends of the grid edge on which each vertex lies; a vertex on a grid point is its own edge."""
    low, high = vertices.clone(), vertices.clone()
    for axis, grid in enumerate((first, second)):
        at = torch.searchsorted(grid.contiguous(), vertices[:, axis].contiguous()).clamp(1, len(grid) - 1)
        below, above = grid[at - 1], grid[at]
        near = torch.minimum((vertices[:, axis] - below).abs(), (above - vertices[:, axis]).abs())
        between = near > ON_GRID * (above - below)
        low[:, axis], high[:, axis] = below.where(between, vertices[:, axis]), above.where(between, vertices[:, axis])
    return low, high
