"""The blocks of a run in bounded memory."""

import pytest
import torch

from separatrix.analysis.run.tally import MOST, Tally
from separatrix.analysis.run.tangent_run import Block


def tally_of(lengths: list[int]) -> tuple[Tally, torch.Tensor]:
    """A tally of blocks of the given lengths, with random logs, and the logs' sum."""
    logs = torch.randn(len(lengths), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tally = Tally()
    for log, length in zip(logs, lengths, strict=True):
        tally.add(Block(log, 0.5 * length, length))
    return tally, logs.sum(0)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000, 5000])
@pytest.mark.parametrize("length", [1, 50])
def test_every_step_is_in_one_of_at_most_256_blocks(count, length):
    """Sums of logs, of time and of steps are those of all that was added, however often neighbours were joined."""
    tally, total = tally_of([length] * count)
    rates, duration = tally.series()
    assert len(rates) == min(len(rates), MOST) and len(rates) >= min(count, MOST // 2)
    assert torch.allclose((rates * duration).sum(0), total, rtol=0, atol=1e-10)
    assert duration.sum().item() == pytest.approx(0.5 * length * count, rel=1e-12)
    assert tally.steps == length * count


@pytest.mark.parametrize("length", [1, 50, 1000])
def test_blocks_stay_of_like_length(length):
    """Whatever the QR interval: an error bar from 256 blocks of which four hold half the run would be that of four."""
    tally, _ = tally_of([length] * 3000)
    _, duration = tally.series()
    effective = duration.sum() ** 2 / duration.square().sum()
    assert effective > 0.9 * len(duration)


def test_an_interval_that_settles_keeps_most_blocks_alike():
    """Strides 1, 2, 4, … 64 and then 64 for long, as "auto" takes them."""
    tally, total = tally_of([1, 2, 4, 8, 16, 32] + [64] * 3000)
    rates, duration = tally.series()
    assert duration.sum() ** 2 / duration.square().sum() > 0.9 * len(duration)
    assert torch.allclose((rates * duration).sum(0), total, rtol=0, atol=1e-10)


def test_rates_are_per_time_and_batches_keep_their_axes():
    """Logs (batch, k) over a time of each item's own: rates (block, batch, k), durations (block, batch, 1)."""
    tally = Tally()
    for _ in range(3):
        tally.add(Block(torch.tensor([[2.0, 4.0], [3.0, 6.0]]).double(), torch.tensor([2.0, 3.0]).double(), 1))
    rates, duration = tally.series()
    assert rates.shape == (3, 2, 2)
    assert duration.shape == (3, 2, 1)
    assert rates[0].tolist() == [[1.0, 2.0], [1.0, 2.0]]
