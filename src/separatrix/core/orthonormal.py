"""Orthonormal frames of tangents, with the logarithms of the diagonal of R.

The method depends on the device and size of the frame. All methods return Q with R_ii > 0, so they agree to rounding error.
"""

import torch
from torch import Tensor

from separatrix.core.components import stack_batch_last

SMALL, MANY = 4, 16  # at least MANY frames of at most SMALL tangents are orthonormalised in closed form


def orthonormalise(v: Tensor) -> tuple[Tensor, Tensor]:
    r"""Q and log R_ii of the frame v, by QR of its transpose:  vᵀ = Qᵀ R.

    Args:
        v: tangents as rows, shape (*batch, k, dim), k ≤ dim.

    Returns:
        Orthonormal rows, same shape, and log R_ii, shape (*batch, k): −∞ if a tangent lies in the span of those above it, to
        rounding error. A frame with a number that is not finite becomes NaN; the other frames are unaffected.
    """
    length = lengths(v)
    finite = torch.isfinite(length).all(-1)
    all_finite = bool(finite.all())
    if not all_finite:
        v, length = v.where(finite[..., None, None], 0.0), length.where(finite[..., None], 0.0)
    q, r = _factor(v, length)
    log_r = r.where(r > resolution(v) * length, 0.0).log()
    if not all_finite:
        q, log_r = q.where(finite[..., None, None], torch.nan), log_r.where(finite[..., None], torch.nan)
    return q, log_r


def _factor(v: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    k, states = v.shape[-2], v.shape[:-2].numel()
    if k <= SMALL and states >= MANY:
        return gram_schmidt(v, length)
    return cholesky_qr(v, length) if v.is_cuda else householder(v)


def lengths(v: Tensor) -> Tensor:
    """Euclidean lengths along the last axis; `vector_norm` is ten times slower if the batch is innermost in memory."""
    return v.square().sum(-1).sqrt()


def resolution(v: Tensor) -> float:
    """Ratio of R_ii to the length of the tangent, below which the tangent is numerically in the span of those above it."""
    return 8 * v.shape[-1] ** 0.5 * torch.finfo(v.dtype).eps


def householder(v: Tensor) -> tuple[Tensor, Tensor]:
    """QR by LAPACK: `v.mT` is column-major, as LAPACK requires, and Qᵀ has contiguous rows."""
    q, r = torch.linalg.qr(v.mT)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(diagonal < 0, -1.0, 1.0).to(v.dtype)
    return q.mT * sign[..., None], diagonal * sign


def gram_schmidt(v: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Modified Gram–Schmidt, each tangent projected twice (orthogonal to rounding: Giraud et al. 2005, Numer. Math. 101, 87).

    A tangent in the span of the rows above it is replaced by a direction orthogonal to them, as in Householder QR.
    """
    rows: list[Tensor] = []
    diagonal: list[Tensor] = []
    for i, row in enumerate(v.unbind(-2)):
        rest = _without(_without(row, rows), rows)
        r = lengths(rest)
        dependent = r <= resolution(v) * length[..., i]
        diagonal.append(r)
        if bool(dependent.any()):
            rest = rest.where(~dependent[..., None], _fresh_direction(row, rows))
            r = lengths(rest)
        rows.append(rest / r[..., None])
    return stack_batch_last(rows, dim=-2), torch.stack(diagonal, dim=-1)


def cholesky_qr(v: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky-QR, applied twice, for devices on which batched Householder QR is a loop over matrices.

    The Gram matrix squares the condition number, so the factorisation fails above 1e8 in float64. Frames that fail, or whose Q
    is not orthonormal after the second pass, are recomputed by Householder QR.
    Source: Yamamoto et al. 2015, ETNA 44, 306.
    """
    if v.ndim == 2:  # the mask of failed frames needs a batch axis
        q, r = cholesky_qr(v[None], length[None])
        return q[0], r[0]
    scale = length.where(length > 0, 1.0)
    first, r1, bad1 = _cholesky_pass(v / scale[..., None])
    q, r2, bad2 = _cholesky_pass(first)
    gram = q @ q.mT - torch.eye(v.shape[-2], dtype=v.dtype, device=v.device)
    off = gram.abs().amax(dim=(-2, -1))
    bad = bad1 | bad2 | ~(off < 1e3 * torch.finfo(v.dtype).eps)
    r = r1.diagonal(dim1=-2, dim2=-1) * r2.diagonal(dim1=-2, dim2=-1) * scale
    if bool(bad.any()):
        q_again, r_again = householder(v[bad])
        q, r = q.index_put((bad,), q_again), r.index_put((bad,), r_again)
    return q, r


def _cholesky_pass(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lower, info = torch.linalg.cholesky_ex(v @ v.mT)
    return torch.linalg.solve_triangular(lower, v, upper=False), lower, info != 0


def _without(row: Tensor, rows: list[Tensor]) -> Tensor:
    for q in rows:
        row = row - (q * row).sum(-1, keepdim=True) * q
    return row


def _fresh_direction(row: Tensor, rows: list[Tensor]) -> Tensor:
    """The coordinate axis that is farthest from the span of the rows, orthogonalised against them."""
    covered = sum((q * q for q in rows), start=torch.zeros_like(row))
    axis = torch.nn.functional.one_hot(covered.argmin(-1), row.shape[-1]).to(row.dtype)
    return _without(_without(axis, rows), rows)
