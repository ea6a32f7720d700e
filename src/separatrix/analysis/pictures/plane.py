"""Planes through a state space: coordinates of states, and components of vectors in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from separatrix.core.checks import as_numbers, check_all_finite, check_whole
from separatrix.core.errors import InputError, ShapeError

PARALLEL = 1e-6  # sine of the angle below which two axes are parallel
SMALL = 256  # number of states, or of their components, up to which principal axes are computed by SVD
LEAST_SHARE = 1e-15  # share of the variance along the second axis below which states lie on a line
MOST_FOR_COMPONENTS = 10_000_000  # maximum size of the states from which a principal plane is computed

Spec = str | Sequence[int] | Sequence[Tensor]


@dataclass(frozen=True)
class Plane:
    """Plane of states  origin + a₁ axis₁ + a₂ axis₂  with coordinates (a₁, a₂).

    Args:
        origin: (dim).
        axes: (2, dim), rows.
        labels: names of the two coordinates.
    """

    origin: Tensor
    axes: Tensor
    labels: tuple[str, str]

    def states(self, places: Tensor) -> Tensor:
        """The states at coordinates, (*batch, 2) → (*batch, dim)."""
        return self.origin + places @ self.axes

    def places(self, x: Tensor) -> Tensor:
        """Coordinates of states, projected to the plane, (*batch, dim) → (*batch, 2)."""
        return self.components(x - self.origin)

    def components(self, v: Tensor) -> Tensor:
        """Components of vectors along the axes, (*batch, dim) → (*batch, 2); the rest of v is orthogonal to the plane."""
        return v @ torch.linalg.solve(self.axes @ self.axes.mT, self.axes).mT

    def share_outside(self, v: Tensor) -> Tensor:
        """‖component of v orthogonal to the plane‖ / ‖v‖, shape (*batch); 0 where v is 0."""
        outside = (v - self.components(v) @ self.axes).norm(dim=-1)
        return outside / v.norm(dim=-1).clamp(min=torch.finfo(v.dtype).tiny)


def plane_of(spec: Any, like: Tensor, settled: Tensor) -> Plane:
    """The plane of a specification.

    Args:
        spec: "principal", two components of the state, or an origin and two axes.
        like: a tensor with the state's dtype, device and last axis.
        settled: states, (count, dim), that define the principal plane; a plane of two components passes through their mean.
    """
    dim = like.shape[-1]
    if dim < 2:
        raise InputError(f"expected a state of at least 2 numbers, got {dim}.\nDraw an orbit_diagram, or its orbits over time.")
    spec = spec.tolist() if isinstance(spec, Tensor | np.ndarray) else spec
    if isinstance(spec, str):
        if spec != "principal":
            raise InputError(f"expected plane='principal', (i, j) or (origin, axis1, axis2), got {spec!r}.")
        return _of_numbers((0, 1), like, settled) if dim == 2 else _principal(settled)
    if isinstance(spec, Sequence) and len(spec) == 2:
        return _of_numbers(spec, like, settled)
    if isinstance(spec, Sequence) and len(spec) == 3:
        return _of_axes(spec, like)
    raise InputError(f"expected plane='principal', (i, j) or (origin, axis1, axis2), got a {type(spec).__name__}.")


def _of_numbers(pair: Sequence[Any], like: Tensor, settled: Tensor) -> Plane:
    dim, (i, j) = like.shape[-1], (check_whole("a component of the plane", value, 0, like.shape[-1] - 1) for value in pair)
    if i == j:
        raise InputError(f"expected two different components for the plane, got {i} and {j}.")
    origin = settled.mean(0) if len(settled) else torch.zeros_like(like).reshape(-1, dim)[0]
    axes = torch.eye(dim, dtype=like.dtype, device=like.device)[[i, j]]
    return Plane(origin - origin @ axes.mT @ axes, axes, (state_label(i), state_label(j)))


def _of_axes(spec: Sequence[Any], like: Tensor) -> Plane:
    dim, named = like.shape[-1], dict(zip(("the plane's origin", "axis 1", "axis 2"), spec, strict=True))
    origin, first, second = (_vector(name, value, like) for name, value in named.items())
    axes = torch.stack([first, second])
    lengths = axes.norm(dim=-1)
    if not bool((lengths > 0).all()):
        raise InputError(f"expected two axes of positive length, got {_in_words(lengths)} in {dim} components.")
    unit = axes / lengths[:, None]
    sine = float((1 - (unit[0] @ unit[1]).square()).clamp(min=0).sqrt())
    if sine < PARALLEL:
        raise InputError(f"the axes of the plane are parallel: the sine of their angle is {sine:.1g}.\nPass different directions.")
    return Plane(origin, axes, ("along axis 1", "along axis 2"))


def _vector(name: str, value: Any, like: Tensor) -> Tensor:
    vector = as_numbers(name, value, like.dtype).to(like.device)
    if vector.shape != like.shape[-1:]:
        raise ShapeError(f"expected {name} of shape {tuple(like.shape[-1:])}, got {tuple(vector.shape)}.")
    check_all_finite(name, vector, "")
    return vector


def _in_words(lengths: Tensor) -> str:
    first, second = lengths.tolist()
    return f"{first:.3g} and {second:.3g}"


def spans_plane(states: Tensor) -> bool:
    """Whether states, (count, dim ≥ 2), do not lie on a line, to rounding."""
    return len(states) > 2 and bool(principal_axes(states)[2][1] > LEAST_SHARE)


def _principal(settled: Tensor) -> Plane:
    if not len(settled):
        raise InputError("all orbits diverged, so there is no principal plane.\nPass plane=(i, j) or (origin, axis1, axis2).")
    states = settled[:: max(1, settled.numel() // MOST_FOR_COMPONENTS)]
    center, axes, share = principal_axes(states)
    if not share[1] > LEAST_SHARE:
        raise InputError(
            "the orbits and fixed points lie on a line or a point, so they do not span a principal plane.\n"
            "Pass initial states that differ more, plane=(i, j), or plane=(origin, axis1, axis2)."
        )
    first, second = (f"principal component {i + 1} ({float(share[i]):.0%} of variance)" for i in (0, 1))
    return Plane(center, axes, (first, second))


def principal_axes(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, two leading principal directions as rows, and their shares of the variance, of states (count, dim ≥ 2).

    The largest component of each direction is positive.
    """
    scaled, unit = in_own_unit(states)
    center = scaled.mean(0)
    spread = torch.cat([scaled - center, torch.zeros_like(states[:1]).expand(2, -1)])
    rows, variance = _by_svd(spread) if min(spread.shape) <= SMALL else _by_gram(spread)
    signs = rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    return center * unit, rows * signs, variance / spread.square().sum().clamp(min=torch.finfo(states.dtype).tiny)


def in_own_unit(values: Tensor, dims: int | tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """The values divided by the power of two close to the largest size along `dims` (default: all), and that power.

    NaN is ignored. The division is exact, and squares and sums of squares of the result neither over- nor underflow.
    """
    sizes = values.nan_to_num(nan=0.0).abs().amax(dims or tuple(range(values.ndim)), keepdim=True)
    unit = (sizes / (2 * sizes.frexp().mantissa)).where(sizes > 0, 1.0)
    return values / unit, unit if dims else unit.reshape(())


def _by_svd(spread: Tensor) -> tuple[Tensor, Tensor]:
    """The two leading right singular vectors, as rows, and their values squared."""
    _, sizes, rows = torch.linalg.svd(spread, full_matrices=False)
    return rows[:2], sizes[:2].square()


def _by_gram(spread: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the Gram matrix of the rows or of the columns, whichever is smaller: much faster, with half of the digits."""
    wide = spread.shape[1] > spread.shape[0]
    values, vectors = torch.linalg.eigh(spread @ spread.mT if wide else spread.mT @ spread)
    leading = vectors[:, -2:].flip(1)
    columns = torch.linalg.qr(spread.mT @ leading)[0] if wide else leading
    return columns.mT, values[-2:].flip(0).clamp(min=0)


def state_label(i: int) -> str:
    """The name of number i of a state."""
    return f"state x{str(i + 1).translate(str.maketrans('0123456789', '₀₁₂₃₄₅₆₇₈₉'))}"
