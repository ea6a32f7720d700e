"""Leading singular values of a Jacobian that is available only as Jacobian–vector and vector–Jacobian products."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SingularTriplets:
    """Leading singular values and right vectors of J, with residuals.

    Args:
        values: (*batch, k), descending.
        residual: (*batch, k), ‖J v_i − σ_i u_i‖ / σ_1; a true singular value lies within residual · σ_1 of each σ_i.
        right: (*batch, k, dim), right singular vectors v_i as rows.
        sweeps: number of applications of J and Jᵀ.
    """

    values: Tensor
    residual: Tensor
    right: Tensor
    sweeps: int


def leading_singular_values(
    push: Product, pull: Product, image: Tensor, dim: int, *, k: int, sweeps: int, tol: float
) -> SingularTriplets:
    r"""The k leading singular values of J by block Lanczos iteration: subspace iteration with J and Jᵀ that keeps all subspaces.

    Each sweep pulls the new directions of the image back and takes the SVD of J on all directions so far (Rayleigh–Ritz). It
    converges like a polynomial of degree 2·sweeps rather than a power.

    Args:
        push: v ↦ J v, rows (*batch, p, dim) → (*batch, p, width).
        pull: w ↦ Jᵀ w, rows (*batch, q, width) → (*batch, q, dim).
        image: J times a frame that is at least partly random, (*batch, p, width), p ≥ k.
        dim: size of an input.
        k: number of singular values, at most min(dim, width).
        sweeps: maximum number of sweeps; at least two are taken unless one is exact.
        tol: residual at which to stop.

    Source: Golub, Luk & Overton 1981, ACM Trans. Math. Softw. 7, 149 (block Lanczos); Halko, Martinsson & Tropp 2011,
        SIAM Rev. 53, 217.
    """
    p, sweep = image.shape[-2], 0
    ranges = _Ranges.empty(image, dim)
    for sweep in range(1, sweeps + 1):
        ranges = ranges.widened(image, pull)
        left, values, right = ranges.triplets(p)
        image = push(right)
        residual = torch.linalg.vector_norm(image - values[..., None] * left, dim=-1) / values[..., :1]
        residual = residual.where(values[..., :1] > 0, 0.0)
        enough = sweep >= 2 and bool((residual[..., :k] <= tol).all())
        if enough or ranges.complete:
            break
    return SingularTriplets(values[..., :k], residual[..., :k], right[..., :k, :], sweep)


@dataclass(frozen=True)
class _Ranges:
    """A partial factorisation  left J = middle right,  where left and right have orthonormal rows.

    Args:
        left: (*batch, m, width).
        middle: (*batch, m, n).
        right: (*batch, n, dim).
    """

    left: Tensor
    middle: Tensor
    right: Tensor

    @staticmethod
    def empty(image: Tensor, dim: int) -> "_Ranges":
        """The factorisation with no rows."""
        return _Ranges(image[..., :0, :], image[..., :0, :0], image.new_zeros(*image.shape[:-2], 0, dim))

    @property
    def complete(self) -> bool:
        """Whether the left vectors span the whole image space."""
        return self.left.shape[-2] == self.left.shape[-1]

    def widened(self, image: Tensor, pull: Product) -> "_Ranges":
        """The factorisation extended by the image's new directions and by Jᵀ times these."""
        fresh = new_directions(self.left, image)
        pulled = pull(fresh)
        beyond = new_directions(self.right, pulled)
        known, new = pulled @ self.right.mT, pulled @ beyond.mT
        above = torch.cat([self.middle, self.middle.new_zeros(*self.middle.shape[:-1], beyond.shape[-2])], dim=-1)
        middle = torch.cat([above, torch.cat([known, new], dim=-1)], dim=-2)
        return _Ranges(torch.cat([self.left, fresh], dim=-2), middle, torch.cat([self.right, beyond], dim=-2))

    def triplets(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The leading left vectors, singular values and right vectors, vectors as rows."""
        u, values, vt = torch.linalg.svd(self.middle, full_matrices=False)
        return u.mT[..., :count, :] @ self.left, values[..., :count], vt[..., :count, :] @ self.right


def new_directions(basis: Tensor, rows: Tensor) -> Tensor:
    """Orthonormal rows, orthogonal to the basis, that extend it to a space containing the given rows, as far as there is room.

    Gram–Schmidt twice, which is enough (Giraud et al. 2005, Numer. Math. 101, 87) unless a row lies in the span of the basis. Then
    Householder QR of both together completes the basis with an arbitrary direction.
    """
    m, width = basis.shape[-2:]
    rest = rows[..., : width - m, :]
    for _ in range(2):
        rest = rest - (rest @ basis.mT) @ basis
    fresh = torch.linalg.qr(rest.mT)[0].mT
    if m and bool(((fresh @ basis.mT).abs() > _ORTHOGONAL * torch.finfo(rows.dtype).eps).any()):
        fresh = torch.linalg.qr(torch.cat([basis, rest], dim=-2).mT)[0].mT[..., m:, :]
    return fresh


_ORTHOGONAL = 1e3  # largest inner product of orthogonal directions, in roundings
