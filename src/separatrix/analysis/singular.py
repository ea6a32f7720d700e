"""Leading singular values of a Jacobian that is known only through its products with tangents and cotangents."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SingularTriplets:
    """Leading singular values, and how far each pair of vectors is from being one.

    Args:
        values: (*batch, k), descending.
        residual: (*batch, k), ‖J v_i − σ_i u_i‖ / σ_1; a true singular value lies within residual · σ_1 of each σ_i.
        sweeps: how often J and Jᵀ were applied.
    """

    values: Tensor
    residual: Tensor
    sweeps: int


def leading_singular_values(push: Product, pull: Product, image: Tensor, k: int, *, sweeps: int, tol: float) -> SingularTriplets:
    r"""The k leading singular values of J by subspace iteration with J, then Jᵀ, that forgets no subspace it has been in.

    Each sweep pulls the new directions U of the image back, Z = Jᵀ U, and takes the SVD of all Z so far: the best that the whole
    space knows (Rayleigh–Ritz). It converges like a polynomial of degree 2·sweeps instead of a power.

    Args:
        push: v ↦ J v, rows (*batch, p, dim) → (*batch, p, width).
        pull: w ↦ Jᵀ w, rows (*batch, q, width) → (*batch, q, dim).
        image: J times a random frame, (*batch, p, width), p ≥ k.
        k: how many are wanted, at most min(dim, width).
        sweeps: at most so many, and at least two unless one is exact.
        tol: residual at which to stop.

    Source: Golub, Luk & Overton 1981, ACM Trans. Math. Softw. 7, 149 (block Lanczos); Halko, Martinsson & Tropp 2011,
        SIAM Rev. 53, 217.
    """
    p, width = image.shape[-2:]
    basis, back = image[..., :0, :], None
    for sweep in range(1, sweeps + 1):
        fresh = new_directions(basis, image[..., : width - basis.shape[-2], :])
        pulled = pull(fresh)
        basis = torch.cat([basis, fresh], dim=-2)
        back = pulled if back is None else torch.cat([back, pulled], dim=-2)
        turn, values, right = torch.linalg.svd(back, full_matrices=False)
        values, left = values[..., :p], (turn.mT @ basis)[..., :p, :]
        image = push(right[..., :p, :])
        residual = torch.linalg.vector_norm(image - values[..., None] * left, dim=-1) / values[..., :1]
        residual = residual.where(values[..., :1] > 0, 0.0)
        complete = basis.shape[-2] == width
        if complete or (sweep >= 2 and bool((residual[..., :k] <= tol).all())):
            break
    return SingularTriplets(values[..., :k], residual[..., :k], sweep)


def new_directions(basis: Tensor, image: Tensor) -> Tensor:
    """Orthonormal rows orthogonal to those of the basis, whose span with it holds the image.

    Householder QR of both together: where the image brings nothing new, it completes the basis with any direction.
    """
    together = torch.cat([basis, image], dim=-2)
    return torch.linalg.qr(together.mT)[0].mT[..., basis.shape[-2] :, :]
