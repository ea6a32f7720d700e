"""Orthonormal frames of tangents, with the logarithms of R's diagonal.

The method is picked by where and how large the frame is; all give Q with R_ii > 0 (so they agree to rounding).
"""

import torch
from torch import Tensor

from separatrix.core.components import stack_batch_last

SMALL, MANY = 4, 16  # frames of at most SMALL tangents, at least MANY of them, are orthonormalised in closed form


def orthonormalise(v: Tensor) -> tuple[Tensor, Tensor]:
    r"""Q and log R_ii of the frame v, by QR of its transpose:  vᵀ = Qᵀ R.

    Args:
        v: tangents as rows, shape (*batch, k, dim), k ≤ dim.

    Returns:
        Orthonormal rows, same shape, and log R_ii, shape (*batch, k): −∞ where a tangent lies, to rounding, in the span
        of those above it. A frame with a number that is not finite comes back as NaN, its neighbours untouched.
    """
    length = lengths(v)
    finite = torch.isfinite(length).all(-1)
    whole = bool(finite.all())
    if not whole:
        v, length = v.where(finite[..., None, None], 0.0), length.where(finite[..., None], 0.0)
    q, r = _factor(v, length)
    log_r = r.where(r > resolution(v) * length, 0.0).log()
    if not whole:
        q, log_r = q.where(finite[..., None, None], torch.nan), log_r.where(finite[..., None], torch.nan)
    return q, log_r


def _factor(v: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    k, states = v.shape[-2], v.shape[:-2].numel()
    if k <= SMALL and states >= MANY:
        return gram_schmidt(v, length)
    return cholesky_qr(v, length) if v.is_cuda else householder(v)


def lengths(v: Tensor) -> Tensor:
    """Euclidean lengths along the last axis; `vector_norm` is ten times slower where the batch is innermost in memory."""
    return v.square().sum(-1).sqrt()


def resolution(v: Tensor) -> float:
    """R_ii over its tangent's length, under which the tangent cannot be told from a combination of those above it."""
    return 8 * v.shape[-1] ** 0.5 * torch.finfo(v.dtype).eps


def householder(v: Tensor) -> tuple[Tensor, Tensor]:
    """LAPACK's QR. `v.mT` is column-major as LAPACK wants it, and Qᵀ comes back with contiguous rows."""
    q, r = torch.linalg.qr(v.mT)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(diagonal < 0, -1.0, 1.0).to(v.dtype)
    return q.mT * sign[..., None], diagonal * sign


def gram_schmidt(v: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Modified Gram–Schmidt, each tangent projected twice (orthogonal to rounding: Giraud et al. 2005, Numer. Math. 101, 87).

    A tangent without a direction of its own is replaced by an axis orthogonal to the rows above it, as Householder would.
    """
    rows: list[Tensor] = []
    diagonal: list[Tensor] = []
    for i, row in enumerate(v.unbind(-2)):
        rest = _without(_without(row, rows), rows)
        r = lengths(rest)
        lost = r <= resolution(v) * length[..., i]
        diagonal.append(r)
        if bool(lost.any()):
            rest = rest.where(~lost[..., None], _fresh_direction(row, rows))
            r = lengths(rest)
        rows.append(rest / r[..., None])
    return stack_batch_last(rows, dim=-2), torch.stack(diagonal, dim=-1)


def cholesky_qr(v: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky-QR twice, for devices on which batched Householder QR is a loop over matrices.

    The Gram matrix squares the condition number, so that the factorisation fails from 1e8 on in float64. Frames that fail, or
    whose Q is not orthonormal after the second pass, are done again by Householder.
    Source: Yamamoto et al. 2015, ETNA 44, 306.
    """
    if v.ndim == 2:  # a mask over no batch axes could not pick out the frames that fail
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
    """The coordinate axis that is farthest from the rows, projected off them."""
    covered = sum((q * q for q in rows), start=torch.zeros_like(row))
    axis = torch.nn.functional.one_hot(covered.argmin(-1), row.shape[-1]).to(row.dtype)
    return _without(_without(axis, rows), rows)
