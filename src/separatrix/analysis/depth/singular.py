"""Leading singular values of the Jacobians of several layers by one input, from Jacobian–vector and vector–Jacobian products."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.depth.passes import norm

Push = Callable[[Sequence[int], Tensor], list[Tensor]]
Pull = Callable[[int, Tensor], Tensor]

# Note [One subspace for all layers]
# Directions of the input that one layer amplifies are amplified by its neighbours, and a pushed tangent shows its image at all
# layers for the price of one. So all layers share one subspace of the input, spanned by a random frame to begin with. At each
# layer the SVD of J on the subspace gives triplets with J v = σ u (Rayleigh–Ritz), and one product with Jᵀ gives what is missing,
# Jᵀ u − σ v: its length is the residual, and its direction extends the subspace, for all layers. With one layer this is the block
# Lanczos method of Golub, Luk & Overton, whose error falls like a polynomial of degree 2·sweeps rather than like a power. Of many
# layers every sixth goes first: what it finds is nearly what the five before it need.


class SingularValues(NamedTuple):
    """Leading singular values of J, with residuals.

    Args:
        values: (*batch, k), descending.
        residual: (*batch, k), ‖Jᵀ u_i − σ_i v_i‖ / σ_1 with J v_i = σ_i u_i; a true singular value lies within residual · σ_1 of
            each σ_i.
    """

    values: Tensor
    residual: Tensor


class Done(NamedTuple):
    """A part of a profile: the number of layers that are done with it."""

    steps: int


def refine(
    push: Push,
    pull: Pull,
    images: Mapping[int, Tensor],
    basis: Tensor,
    counts: Mapping[int, int],
    found: dict[int, SingularValues],
    *,
    sweeps: int,
    tol: float,
) -> Generator[Done, None, Tensor]:
    r"""Find the leading singular values of the Jacobian of each layer, sweep by sweep. See Note [One subspace for all layers].

    Args:
        push: (layers, v) ↦ J v at these layers, rows (*batch, p, dim) → (*batch, p, width).
        pull: (layer, w) ↦ Jᵀ w, rows (*batch, q, width) → (*batch, q, dim).
        images: layer ↦ J times the basis, (*batch, p, width).
        basis: orthonormal rows that are at least partly random, (*batch, p, dim).
        counts: layer ↦ number of singular values, at most min(p, width).
        found: receives the singular values of each layer as far as they are known; an early end leaves them there.
        sweeps: maximum number of sweeps; at least two are taken unless the subspace is the whole space.
        tol: residual at which to stop.

    Yields:
        Done, after each sweep.

    Returns:
        The right singular vectors of the last layer as rows, (*batch, k, dim).

    Source: Golub, Luk & Overton 1981, ACM Trans. Math. Softw. 7, 149 (block Lanczos); Halko, Martinsson & Tropp 2011,
        SIAM Rev. 53, 217.
    """
    known, last = {layer: _Images(image) for layer, image in images.items()}, max(images)
    spread = sorted(images)[::-APART]
    between = [layer for layer in images if layer not in spread]
    amplified = basis
    for stage, waiting in ((sorted(spread), between), (between, [])):
        still_open = list(stage)
        for sweep in range(1, sweeps + 1):
            is_whole = basis.shape[-2] == basis.shape[-1]
            missing, count = [], len(still_open)
            for layer in list(still_open):
                left, values, right = known[layer].triplets(basis, counts[layer])
                rest = beyond(basis, pull(layer, left) - values[..., None] * right)
                rest = (rest / values[..., :1, None]).where(values[..., :1, None] > 0, 0.0)
                found[layer] = SingularValues(values, norm(rest))
                amplified = right if layer == last else amplified
                if is_whole or ((sweep > 1 or layer not in spread) and bool((found[layer].residual <= tol).all())):
                    still_open.remove(layer)
                else:
                    missing.append(rest)
            if not still_open or sweep == sweeps:
                yield Done(count)
                break
            yield Done(count - len(still_open))
            fresh = new_directions(basis, _distinct(torch.cat(missing, dim=-2), tol))
            basis = torch.cat([basis, fresh], dim=-2)
            shown = sorted([*still_open, *waiting])
            for layer, image in zip(shown, push(shown, fresh), strict=True):
                known[layer].extend(image)
    return amplified


class _Images:
    """J times the basis of a subspace at one layer, block by block as the subspace grew, with their inner products.

    Args:
        image: the first block, (*batch, p, width).
    """

    def __init__(self, image: Tensor) -> None:
        size = norm(image.flatten(-2))[..., None, None]
        self._size = size.where(size > 0, 1.0)
        self._blocks = [image / self._size]
        self._gram = self._blocks[0] @ self._blocks[0].mT

    def extend(self, image: Tensor) -> None:
        """Add the block of new directions."""
        block = image / self._size
        across = torch.cat([block @ known.mT for known in self._blocks], dim=-1)
        above = torch.cat([self._gram, across.mT], dim=-1)
        self._gram = torch.cat([above, torch.cat([across, block @ block.mT], dim=-1)], dim=-2)
        self._blocks.append(block)

    def triplets(self, basis: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The leading left vectors, singular values and right vectors of J on the subspace, vectors as rows.

        The SVD of many long rows is taken of their leading combinations, found from the inner products.
        """
        many = self._gram.shape[-1]
        if many > count + MORE and many * many * self._blocks[0][..., 0, :].numel() > LARGE:
            turn = torch.linalg.eigh(self._gram)[1].mT[..., -count - MORE :, :]
            parts = turn.split([block.shape[-2] for block in self._blocks], dim=-1)
            image = torch.stack([part @ block for part, block in zip(parts, self._blocks, strict=True)]).sum(0)
            basis = turn @ basis
        else:
            image = torch.cat(self._blocks, dim=-2)
        turn, values, left = torch.linalg.svd(image, full_matrices=False)
        return left[..., :count, :], (values * self._size[..., 0])[..., :count], (turn.mT @ basis)[..., :count, :]


def _distinct(rows: Tensor, tol: float) -> Tensor:
    """Combinations of rows that hold what is larger than a tenth of the tolerance: neighbouring layers often miss the same."""
    if tol < SHARP:
        return rows
    values, turn = torch.linalg.eigh(rows @ rows.mT)
    count = int((values > (tol / 10) ** 2).sum(-1).amax().clamp(min=1))
    return turn.mT[..., -count:, :] @ rows


def beyond(basis: Tensor, rows: Tensor) -> Tensor:
    """The part of the rows that is orthogonal to a basis. Gram–Schmidt twice (Giraud et al. 2005, Numer. Math. 101, 87)."""
    for _ in range(2):
        rows = rows - (rows @ basis.mT) @ basis
    return rows


def new_directions(basis: Tensor, rows: Tensor) -> Tensor:
    """Orthonormal rows, orthogonal to the basis, that extend it to a space containing the given rows, as far as there is room.

    If a row lies in the span of the basis, Householder QR of both together completes the basis with an arbitrary direction.
    """
    m, dim = basis.shape[-2:]
    rest = beyond(basis, rows[..., : dim - m, :])
    fresh = torch.linalg.qr(rest.mT)[0].mT
    if bool(((fresh @ basis.mT).abs() > _ORTHOGONAL * torch.finfo(rows.dtype).eps).any()):
        fresh = torch.linalg.qr(torch.cat([basis, rest], dim=-2).mT)[0].mT[..., m:, :]
    return fresh


APART = 6  # every how many layers the first stage takes one
MORE = 4  # combinations in addition to those that are wanted
LARGE = 2e7  # operations up to which an SVD is taken of all rows
SHARP = 1e-6  # tolerance below which all directions are kept
_ORTHOGONAL = 1e3  # largest inner product of orthogonal directions, in roundings
