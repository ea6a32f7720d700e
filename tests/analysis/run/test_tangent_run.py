"""A run with tangents is immutable: advancing it returns a new one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.analysis.run.tangent_run import TangentRun, random_frame, settled, stretches
from separatrix.core.evolve import begin
from separatrix.core.orthonormal import LARGE

FACTORS = torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)


def start(every="auto") -> TangentRun:
    front = begin(sx.Map(lambda x: FACTORS * x, 3), torch.ones(3, dtype=torch.float64))
    return TangentRun.begin(front, random_frame(front.x, 3, 0), every)


def test_a_run_can_be_continued_from_any_of_its_records_repeatedly():
    run = start()
    frame = run.front.v.clone()
    first, second = (settled(run, 20) for _ in range(2))
    assert run.front.n == 0 and run.steps == 0 and torch.equal(run.front.v, frame) and not run.erased.any()
    assert first.front.n == 20
    assert torch.equal(first.front.v, second.front.v) and torch.equal(first.block.logs, second.block.logs)


def test_an_erased_direction_stays_so_until_all_are_counted_again():
    run = settled(start(), 5)
    assert run.erased.tolist() == [False, False, True]
    assert not run.with_all_directions().erased.any() and run.erased.any()


@pytest.mark.parametrize("every", [1, 7, 100])
def test_stretches_sum_to_the_growth_of_the_whole_run(every):
    """Σ log |R_ii| over aligned directions is the logarithm of the factors, whatever the interval."""
    run = replace(settled(start(1), 60), every=every)
    blocks = [after.block for after in stretches(run, 30)]
    assert sum(block.steps for block in blocks) == 30
    total = torch.stack([block.logs for block in blocks]).sum(0)
    assert total.tolist() == pytest.approx([30 * math.log(2), -30 * math.log(2), 0.0], abs=1e-9)


def by_numpy(weight: Tensor, x: Tensor, frame: Tensor, steps: int) -> np.ndarray:
    """Σ log |R_ii| of the map tanh(W x), a dense Jacobian and a QR a step."""
    w, x, q, logs = weight.numpy(), x.numpy(), frame.numpy().T, 0.0
    for _ in range(steps):
        x = np.tanh(w @ x)
        q, r = np.linalg.qr((1 - x * x)[:, None] * (w @ q))
        logs = logs + np.log(np.abs(np.diag(r)))
    return logs


@pytest.mark.parametrize("every", [1, 4, 30])
@pytest.mark.parametrize("k", [LARGE, 40])
def test_the_growth_of_a_large_frame_is_that_of_a_qr_a_step(every, k):
    """Between two QRs, large frames are factorised by elimination; some directions shrink to 1e-30 of others over the run."""
    weight = 1.5 / 40**0.5 * torch.randn(40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0 = torch.stack([torch.zeros(40), torch.linspace(-1, 1, 40)]).double()
    front = begin(sx.Map(lambda x: torch.tanh(x @ weight.T), 40), x0)
    run = TangentRun.begin(front, random_frame(front.x, k, 0), every)
    logs = torch.stack([after.block.logs for after in stretches(run, 30)]).sum(0)
    for item in range(2):
        assert logs[item].tolist() == pytest.approx(by_numpy(weight, x0[item], run.front.v[item], 30), abs=1e-7)


def test_a_large_singular_jacobian_erases_as_many_directions_as_it_lacks_in_rank():
    left, right = torch.randn(2, 40, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = left @ right.T / 20
    front = begin(sx.Map(lambda x: x @ matrix.T, 40), torch.ones(40, dtype=torch.float64))
    run = TangentRun.begin(front, random_frame(front.x, 40, 0), every=10).advanced(10)
    assert run.erased.tolist() == [False] * 33 + [True] * 7
    assert run.block.logs[:33].isfinite().all()
    gram = run.front.v @ run.front.v.mT
    assert torch.allclose(gram, torch.eye(40).double(), rtol=0, atol=1e-13)


def test_an_item_has_the_same_digits_alone_as_beside_a_steeper_one():
    """The QRs of a run follow from its length; those in between, from the steepest item, affect only rounding."""
    torch.manual_seed(0)
    gru = nn.GRU(3, LARGE).double()
    inputs = torch.randn(120, 2, 3, dtype=torch.float64)
    inputs[:, 1] *= 20
    alone, beside = (sx.lyapunov_spectrum(sx.Recurrent(gru, u), steps=100) for u in (inputs[:, :1], inputs))
    assert beside.exponents[1, -1] < 2 * beside.exponents[0, -1]
    assert torch.allclose(alone.exponents[0], beside.exponents[0], rtol=0, atol=1e-10)
    assert torch.allclose(alone.stderr[0], beside.stderr[0], rtol=0, atol=1e-10)
