"""Orthonormal frames of tangents, with the logarithms of the diagonal of R.

The method depends on the device and size of the frame. All methods return Q with R_ii > 0, so they agree to rounding error.
Between two orthonormal frames of a run, `eliminate` keeps a large frame well conditioned at a fraction of their price.
"""

import torch
from torch import Tensor

from separatrix.core.components import stack_batch_last

LONG = 2**16  # numbers of a tangent in float32 beyond which it is factorised in float64: LAPACK adds them up one by one
SMALL, MANY = 4, 16  # at least MANY frames of at most SMALL tangents are orthonormalised in closed form
LARGE, TALL = 32, 4  # elimination is faster than QR from LARGE tangents on, and takes more memory if dim > TALL · k

# Note [Elimination]
# QR of a run's frame serves two purposes: it measures log R_ii, and it keeps the tangents from aligning. For the second, any
# factorisation v = T W with a lower triangular T will do, since rows 1 … i of v and W span the same space. The logarithms of T_ii
# add to those of the next QR: the R of T W is T times that of W. Gaussian elimination of vᵀ with partial pivoting is such a
# factorisation: vᵀ = P L U, T = Uᵀ, W = (P L)ᵀ. Entries of W are at most 1, and its condition number is in practice below 10 k,
# however ill-conditioned v is. LU takes a quarter of the operations of QR, most of them in matrix products, and PyTorch spreads
# the frames of a batch over its threads, which it does not for QR: five times faster for 8 frames of 512 × 512 on two cores.
# Measured on frames of 512 × 512, with elimination as 1: Householder QR 5, also with its items over threads; Cholesky-QR 4 for one
# pass and 8 for the two that orthonormality takes, because triangular solves of a batch are slow.


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
    if v.is_cuda:
        return cholesky_qr(v, length)
    if v.dtype == torch.float32 and v.shape[-1] > LONG:
        q, r = householder(v.double())
        return q.to(v), r.to(v)
    return householder(v)


def eliminate(v: Tensor) -> tuple[Tensor, Tensor]:
    r"""W and log |T_ii| of the frame v = T W, with T lower triangular and W well conditioned. See Note [Elimination].

    A small frame, a tall one, or one on a GPU is orthonormalised, and then W = Q and T = Rᵀ.

    Args:
        v: tangents as rows, shape (*batch, k, dim), k ≤ dim.

    Returns:
        Rows that span what the rows of v span, same shape, and log |T_ii|, shape (*batch, k), with −∞ and NaN as in
        `orthonormalise`.
    """
    if not eliminates(v):
        return orthonormalise(v)
    length = lengths(v)
    factors, pivots, _ = torch.linalg.lu_factor_ex(v.mT)
    pivot = factors.diagonal(dim1=-2, dim2=-1).abs()
    rows = factors.mT.triu_(1)
    rows.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    place = _permutation(pivots, v.shape[-1])[..., None, :].expand_as(rows)
    log = pivot.where(pivot > resolution(v) * length, 0.0).log()
    return torch.empty_like(rows).scatter_(-1, place, rows), log.where(length.isfinite().all(-1, keepdim=True), torch.nan)


def eliminates(v: Tensor) -> bool:
    """Whether elimination is worthwhile for the frame v."""
    k, dim = v.shape[-2:]
    return k >= LARGE and dim <= TALL * k and not v.is_cuda and v.numel() > 0


def _permutation(pivots: Tensor, dim: int) -> Tensor:
    """The row of the matrix that each row of its LU factors comes from, (*batch, dim), from LAPACK's sequence of swaps."""
    orders = []
    for swaps in pivots.reshape(-1, pivots.shape[-1]).tolist():
        order = list(range(dim))
        for i, other in enumerate(swaps):
            order[i], order[other - 1] = order[other - 1], order[i]
        orders.append(order)
    return torch.tensor(orders).reshape(*pivots.shape[:-1], dim)


def lengths(v: Tensor) -> Tensor:
    """Euclidean lengths along the last axis; `vector_norm` is ten times slower if the batch is innermost in memory."""
    return v.square().sum(-1).sqrt()


def resolution(v: Tensor) -> float:
    """Ratio of R_ii to the length of the tangent, below which the tangent is numerically in the span of those above it."""
    summed = min(v.shape[-1], LONG) if v.dtype == torch.float32 else v.shape[-1]
    return 8 * summed**0.5 * torch.finfo(v.dtype).eps


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
