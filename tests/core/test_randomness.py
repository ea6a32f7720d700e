"""Random numbers by key and counter: seeds, purposes and steps that do not meet, and the distributions they promise."""

import math

import pytest
import torch

import separatrix as sx
from separatrix.core.randomness import Draws, drawing, normal_at, torch_generator

SEEDS = (0, 1, 2, 2**31, 2**32, 2**32 + 1, 2**62, 2**63 - 1)


def test_no_two_seeds_steps_or_purposes_share_a_number():
    """Two of 48,000 random numbers of 53 bits meet with a chance of 1e-7; streams that are shifted would meet by hundreds."""
    drawn = [
        Draws(seed, purpose, step).uniform(1000) for seed in SEEDS for purpose in ("noise", "stream") for step in (0, 1, 1_000_003)
    ]
    numbers = torch.cat(drawn)
    assert len(numbers.unique()) == len(numbers)


def test_torchs_generators_differ_where_only_the_upper_half_of_the_seed_does():
    """`torch.Generator().manual_seed` takes 32 bits: 0 and 2**32 are one seed to it."""
    assert torch.equal(*(torch.rand(3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 2**32)))
    drawn = torch.stack([torch.rand(1000, generator=torch_generator(seed, "x"), dtype=torch.float64) for seed in SEEDS])
    assert len(drawn.unique()) == drawn.numel()


def test_the_draws_have_the_moments_that_they_promise():
    """Each mean lies within 5 standard errors of the distribution's."""
    count = 200_000
    draws = Draws(7, "moments")
    normal, uniform, whole = draws.normal(count), draws.uniform(count), draws.integers(10, count).double()
    native = torch.randn(count, generator=torch_generator(7, "moments"), dtype=torch.float64)
    for numbers in (normal, native):
        for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
            spread = math.sqrt({1: 1.0, 2: 2.0, 3: 15.0, 4: 96.0}[power])
            assert float((numbers**power).mean()) == pytest.approx(moment, abs=5 * spread / count**0.5)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=5 / 12**0.5 / count**0.5)
    assert float(whole.mean()) == pytest.approx(4.5, abs=5 * 8.25**0.5 / count**0.5)
    assert sorted(draws.permutation(9).tolist()) == list(range(9))
    across = torch.stack([normal_at(7, "moments", n, 2) for n in range(20_000)])  # the first numbers of neighbouring steps
    assert across.mean(0).abs().max() < 5 / 20_000**0.5
    assert (across[1:] * across[:-1]).mean(0).abs().max() < 5 / 20_000**0.5


def test_the_quick_way_gives_the_same_numbers():
    for seed, step in ((0, 0), (2**40, 3), (5, 2**33)):
        assert torch.equal(normal_at(seed, "noise", step, 5), Draws(seed, "noise", step).normal(5))


def test_global_generators_are_left_as_they_were():
    before = torch.get_rng_state()
    with drawing(3, "x", 1):
        first = torch.rand(4)
    with pytest.raises(ValueError, match="inside"), drawing(3, "x", 1):
        assert torch.equal(torch.rand(4), first)
        raise ValueError("inside")
    assert torch.equal(torch.get_rng_state(), before)


def test_every_seed_is_a_realisation_of_its_own():
    """N15: seeds 0 and 2**32 were one orbit, and step n of seed s was step n − 1,000,003 of seed s + 1."""
    noisy = [sx.Noisy(sx.Map(lambda x: 0 * x, 8), 1.0, seed=seed) for seed in SEEDS]
    x = torch.zeros(8, dtype=torch.float64)
    kicks = torch.stack([system.kick(x, n) for system in noisy for n in (0, 1, 1_000_003, 2_000_006)])
    assert len(kicks.unique()) == kicks.numel()
    streams = [sx.Stream(torch.zeros(1000, 1, 1), copies=64, seed=seed) for seed in SEEDS]
    places = torch.stack([stream.draw(place) for stream in streams for place in (0, 1, 1_000_003)]).double()
    apart = (places[:, None] == places).double().mean(-1) - torch.eye(len(places), dtype=torch.float64)
    assert apart.abs().max() < 0.1  # of 64 places among 1000, two draws share one in a thousand


def test_noise_stream_and_start_of_one_seed_are_independent():
    noise = torch.stack([normal_at(0, "noise", n, 1) for n in range(2000)])[:, 0]
    stream = sx.Stream(torch.zeros(1000, 1, 1), copies=1, seed=0)
    places = torch.cat([stream.draw(n) for n in range(2000)]).double()
    start = sx.Recurrent(torch.nn.RNNCell(1, 2000)).initial_state(seed=0)
    for a, b in ((noise, places), (noise, start), (places, start)):
        correlation = torch.corrcoef(torch.stack([a, b]))[0, 1]
        assert correlation.abs() < 5 / 2000**0.5
