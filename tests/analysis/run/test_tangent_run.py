"""A run with tangents is immutable: advancing it returns a new one."""

import math
from dataclasses import replace

import pytest
import torch

import separatrix as sx
from separatrix.analysis.run.tangent_run import TangentRun, random_frame, settled, stretches
from separatrix.core.evolve import begin

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
