"""Orthonormal frames: each method against NumPy's QR and Gram determinants, and against frames without full rank."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from separatrix.core.orthonormal import (
    LARGE,
    MANY,
    SMALL,
    TALL,
    cholesky_qr,
    eliminate,
    gram_schmidt,
    householder,
    orthonormalise,
    resolution,
)

METHODS = {
    "householder": lambda v: householder(v),
    "gram_schmidt": lambda v: gram_schmidt(v, torch.linalg.vector_norm(v, dim=-1)),
    "cholesky_qr": lambda v: cholesky_qr(v, torch.linalg.vector_norm(v, dim=-1)),
}
SHAPES = [(3, 5), (4, 3, 5), (MANY, SMALL, 9), (2, MANY, 2, 2), (7, 12, 30), (20, 1, 6)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def numpy_qr(v: Tensor) -> tuple[Tensor, Tensor]:
    """Q as rows and the diagonal of R, its signs turned positive."""
    frames = v.reshape(-1, *v.shape[-2:]).double().numpy()
    pairs = [np.linalg.qr(frame.T) for frame in frames]
    signs = [np.sign(np.diag(r)) for _, r in pairs]
    q = np.stack([(q * sign).T for (q, _), sign in zip(pairs, signs, strict=True)])
    r = np.stack([np.abs(np.diag(r)) for _, r in pairs])
    return torch.from_numpy(q).reshape(v.shape), torch.from_numpy(r).reshape(v.shape[:-1])


def conditioned(condition: float, k: int, dim: int, count: int) -> Tensor:
    """Frames with singular values from 1 down to 1/condition."""
    left, right = torch.linalg.qr(normal(count, k, k))[0], torch.linalg.qr(normal(count, dim, k, seed=1))[0]
    return left @ torch.diag(torch.logspace(0, -math.log10(condition), k).double()) @ right.mT


def orthogonality(q: Tensor) -> float:
    return float((q @ q.mT - torch.eye(q.shape[-2], dtype=q.dtype)).abs().max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_agrees_with_numpys_qr(method, shape):
    v = normal(*shape)
    q, r = METHODS[method](v)
    wanted_q, wanted_r = numpy_qr(v)
    assert torch.allclose(q, wanted_q, rtol=0, atol=1e-12)
    assert torch.allclose(r, wanted_r, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_picked_method_agrees_with_numpys_qr(shape):
    v = normal(*shape)
    q, log_r = orthonormalise(v)
    wanted_q, wanted_r = numpy_qr(v)
    assert torch.allclose(q, wanted_q, rtol=0, atol=1e-12)
    assert torch.allclose(log_r, wanted_r.log(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_logarithms_sum_to_the_volume_of_the_frame(shape):
    """Σ log R_ii = ½ log det V Vᵀ."""
    v = normal(*shape)
    volume = 0.5 * torch.linalg.slogdet(v @ v.mT).logabsdet
    assert torch.allclose(orthonormalise(v)[1].sum(-1), volume, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_rows_do_not_depend_on_the_later_ones(method):
    v = normal(MANY, 4, 6)
    q, r = METHODS[method](v)
    few_q, few_r = METHODS[method](v[:, :2])
    assert torch.allclose(q[:, :2], few_q, atol=1e-12)
    assert torch.allclose(r[:, :2], few_r, rtol=1e-12)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10, 1e13])
@pytest.mark.parametrize("method", METHODS)
def test_frames_stay_orthonormal_however_ill_conditioned(method, condition):
    """Cholesky-QR cannot factor the Gram matrix from 1e8 on; those frames are done again by Householder."""
    v = conditioned(condition, k=4, dim=9, count=MANY)
    q, r = METHODS[method](v)
    assert orthogonality(q) < 1e-12
    assert torch.allclose(r.log(), numpy_qr(v)[1].log(), rtol=0, atol=1e-15 * condition + 1e-12)


def test_cholesky_does_only_the_failing_frames_again():
    good, bad = conditioned(10, 4, 9, 3), conditioned(1e12, 4, 9, 2)
    v = torch.cat([good[:1], bad, good[1:]])
    q, r = METHODS["cholesky_qr"](v)
    alone_q, alone_r = METHODS["cholesky_qr"](good)
    again_q, again_r = householder(bad)
    assert torch.equal(q[[1, 2]], again_q) and torch.equal(r[[1, 2]], again_r)
    assert torch.allclose(q[[0, 3, 4]], alone_q, atol=1e-14) and torch.allclose(r[[0, 3, 4]], alone_r, rtol=1e-13)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_cholesky_takes_any_batch_of_frames_that_fail(batch):
    v = torch.ones(*batch, 2, 3, dtype=torch.float64)
    q, r = METHODS["cholesky_qr"](v)
    assert q.shape == v.shape and r.shape == v.shape[:-1]
    assert orthogonality(q) < 1e-14
    assert torch.allclose(r[..., 0], torch.full(batch, math.sqrt(3)).double())


def test_cholesky_is_blind_to_the_lengths_of_the_tangents():
    v = normal(5, 3, 6)
    scale = torch.tensor([1e-140, 1e120, 1.0], dtype=torch.float64)
    q, r = METHODS["cholesky_qr"](v * scale[:, None])
    plain_q, plain_r = METHODS["cholesky_qr"](v)
    assert torch.allclose(q, plain_q, atol=1e-13)
    assert torch.allclose(r / scale, plain_r, rtol=1e-12)


def rank_deficient(count: int) -> Tensor:
    """Four rows of which the third is a combination of the first two, and the fourth is zero in the last frame."""
    v = normal(count, 4, 6)
    v[:, 2] = 2 * v[:, 0] - 3 * v[:, 1]
    v[-1, 3] = 0
    return v


@pytest.mark.parametrize("count", [2, MANY], ids=["householder", "gram_schmidt"])
def test_a_tangent_in_the_span_of_those_above_it_has_the_logarithm_minus_infinity(count):
    v = rank_deficient(count)
    q, log_r = orthonormalise(v)
    assert (log_r[:, 2] == -math.inf).all()
    assert log_r[-1, 3] == -math.inf
    assert torch.isfinite(log_r[:-1, [0, 1, 3]]).all()
    assert orthogonality(q) < 1e-12
    assert torch.allclose(log_r[:, :2], numpy_qr(v[:, :2])[1].log(), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_completes_a_frame_without_full_rank(method):
    q, r = METHODS[method](rank_deficient(MANY))
    assert orthogonality(q) < 1e-12
    assert (r[:, 2] <= resolution(q) * 20).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_frame_of_zeros_becomes_orthonormal(method):
    q, r = METHODS[method](torch.zeros(MANY, 3, 3, dtype=torch.float64))
    assert orthogonality(q) < 1e-14
    assert r.abs().max() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(3, 5, 6), (MANY, 3, 6)], ids=["householder", "gram_schmidt"])
def test_a_frame_that_is_not_finite_is_nan_and_its_neighbours_are_untouched(shape, bad):
    v = normal(*shape)
    clean_q, clean_log = orthonormalise(v)
    spoilt = v.clone()
    spoilt[1, 2, 3] = bad
    q, log_r = orthonormalise(spoilt)
    assert q[1].isnan().all() and log_r[1].isnan().all()
    others = [0, *range(2, shape[0])]
    assert torch.equal(q[others], clean_q[others]) and torch.equal(log_r[others], clean_log[others])


@pytest.mark.parametrize("scale", [1e-100, 1e100])
@pytest.mark.parametrize("count", [2, MANY], ids=["householder", "gram_schmidt"])
def test_lengths_near_the_ends_of_the_range_are_no_rank_loss(count, scale):
    v = normal(count, 3, 5)
    _, log_r = orthonormalise(scale * v)
    assert torch.allclose(log_r - math.log(scale), orthonormalise(v)[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("count", [2, MANY], ids=["householder", "gram_schmidt"])
def test_float32_frames_are_orthonormal_to_float32(count):
    v = normal(count, 4, 9).float()
    q, log_r = orthonormalise(v)
    assert q.dtype == log_r.dtype == torch.float32
    assert orthogonality(q) < 1e-6
    assert torch.allclose(log_r.double(), numpy_qr(v)[1].log(), atol=1e-5)


def test_a_single_frame_needs_no_batch():
    q, log_r = orthonormalise(torch.tensor([[3.0, 4.0], [4.0, -3.0]], dtype=torch.float64))
    assert torch.allclose(q, torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64))
    assert log_r.tolist() == pytest.approx([math.log(5)] * 2)


@pytest.mark.parametrize("shape", [(3, 4, 6), (MANY, 3, 6)], ids=["householder", "gram_schmidt"])
def test_the_gradient_of_the_volume_is_the_pseudoinverse(shape):
    """d(½ log det V Vᵀ)/dV = (V Vᵀ)⁻¹ V."""
    v = normal(*shape).requires_grad_()
    orthonormalise(v)[1].sum().backward()
    assert torch.allclose(v.grad, torch.linalg.solve(v @ v.mT, v), rtol=1e-9, atol=1e-11)


def graded(count: int) -> Tensor:
    """Rows of lengths 1 down to 1e-300."""
    return normal(count, LARGE, 40) * torch.logspace(0, -300, LARGE, dtype=torch.float64)[:, None]


def nearly_dependent(count: int) -> Tensor:
    """Every row is the first one up to 1e-6."""
    v = normal(count, LARGE, 40)
    return v[:, :1] + 1e-6 * v


FRAMES = {
    "square": lambda: normal(3, 64, 64),
    "wide": lambda: normal(2, 2, LARGE, 50),
    "one frame": lambda: normal(LARGE, LARGE),
    "ill-conditioned": lambda: conditioned(1e10, 40, 40, 2),
    "graded": lambda: graded(2),
    "nearly dependent": lambda: nearly_dependent(2),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_elimination_splits_a_triangle_off_and_leaves_well_conditioned_rows(frame):
    """v = T W with a lower triangular T: with unit rows, so that a graded frame does not hide what is above the diagonal."""
    v = FRAMES[frame]()
    w = eliminate(v)[0]
    k, unit = v.shape[-2], v / v.abs().amax(-1, keepdim=True)
    triangle = np.linalg.solve((w @ w.mT).numpy(), (w @ unit.mT).numpy())  # its transpose
    assert np.abs(np.tril(triangle, -1)).max() < 1e-10
    assert torch.linalg.cond(w).max() < 10 * k
    assert w.abs().max() == 1


@pytest.mark.parametrize("frame", FRAMES)
def test_the_logarithms_of_elimination_and_of_the_next_qr_sum_to_those_of_one_qr(frame):
    v = FRAMES[frame]()
    w, log = eliminate(v)
    lengths = v.abs().amax(-1)
    wanted_q, wanted_r = numpy_qr(v / lengths[..., None])
    q, r = numpy_qr(w)
    loss = float(1 / wanted_r.min())
    assert torch.allclose(log + r.log(), wanted_r.log() + lengths.log(), rtol=0, atol=1e-14 * loss + 1e-11)
    along = (q * wanted_q).sum(-1)  # ±1: elimination keeps the lines of the tangents, not their signs
    assert torch.allclose(along.abs(), torch.ones(()).double(), rtol=0, atol=1e-14 * loss + 1e-11)


@pytest.mark.parametrize("condition", [1, 1e8])
def test_elimination_finds_the_tangents_in_the_span_of_those_above_them(condition):
    v = conditioned(condition, LARGE, 40, 3)
    v[:, 20] = 2 * v[:, 3] - 3 * v[:, 19]
    v[-1, 30] = 0
    w, log = eliminate(v)
    assert (log[:, 20] == -math.inf).all() and log[-1, 30] == -math.inf
    assert torch.isfinite(log).sum() == log.numel() - 4
    assert torch.linalg.cond(w).max() < 10 * LARGE


def test_elimination_leaves_the_neighbours_of_a_frame_with_nan_alone():
    v = normal(3, LARGE, 40)
    clean_w, clean_log = eliminate(v)
    v[1, 2, 3] = math.nan
    w, log = eliminate(v)
    assert log[1].isnan().all()
    assert torch.equal(w[[0, 2]], clean_w[[0, 2]]) and torch.equal(log[[0, 2]], clean_log[[0, 2]])


def test_elimination_in_float32():
    v = normal(2, LARGE, 40)
    w, log = eliminate(v.float())
    assert w.dtype == log.dtype == torch.float32
    assert torch.allclose(log.double() + numpy_qr(w)[1].log(), numpy_qr(v)[1].log(), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 1, 5), (2, LARGE - 1, 40), (LARGE, TALL * LARGE + 1), (0, LARGE, 40)], ids=str)
def test_small_tall_and_missing_frames_are_orthonormalised_instead(shape):
    v = normal(*shape)
    w, log = eliminate(v)
    q, log_r = orthonormalise(v)
    assert torch.equal(w, q) and torch.equal(log, log_r)


def test_a_long_frame_in_single_precision_is_orthonormal_to_single_precision():
    """A million numbers a tangent, whose squares LAPACK would add up with an error of 1e-5."""
    v = torch.rand(3, 2**20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, logs = orthonormalise(v.float())
    torch.testing.assert_close(q.double() @ q.double().mT, torch.eye(3, dtype=torch.float64), rtol=0, atol=3e-7)
    torch.testing.assert_close(logs.double(), orthonormalise(v)[1], rtol=0, atol=1e-6)
