"""Error bars and the drift test, on series whose truth is known."""

import math

import pytest
import torch
from torch import Tensor

from separatrix.analysis.run.statistics import drifts, standard_error


def white(length: int, copies: int, seed: int = 0) -> Tensor:
    return torch.randn(length, copies, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def autoregressive(phi: float, length: int, copies: int, seed: int = 0) -> Tensor:
    """x_{t+1} = φ x_t + √(1 − φ²) ξ_t, of unit variance."""
    noise, series = white(length, copies, seed), []
    x = noise[0]
    for kick in noise:
        series.append(x)
        x = phi * x + (1 - phi**2) ** 0.5 * kick
    return torch.stack(series)


def ones(series: Tensor) -> Tensor:
    return torch.ones(len(series), 1, dtype=torch.float64)


@pytest.mark.parametrize("length", [16, 40, 128, 250])
def test_independent_blocks_have_the_textbook_error(length):
    """σ/√n: the mean over 1,000 series is within 10 % of it, which guarding against correlation may cost."""
    series = 3 * white(length, 1000)
    assert standard_error(series, ones(series)).mean().item() == pytest.approx(3 / length**0.5, rel=0.1)


def test_the_error_of_independent_blocks_is_that_of_the_weighted_mean():
    """Blocks of unequal duration w, each of variance 1/w, have a mean of variance 1/Σw."""
    weight = torch.rand(20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).mul(4).exp()
    series = white(20, 1000) / weight.sqrt()
    assert standard_error(series, weight).mean().item() == pytest.approx(float(weight.sum()) ** -0.5, rel=0.1)
    assert standard_error(series, ones(series)).mean() > 1.3 * standard_error(series, weight).mean()  # that of a worse mean


def test_units_of_the_weights_do_not_matter():
    """Durations in seconds or in hours."""
    series, weight = white(100, 4), torch.rand(100, 1, dtype=torch.float64) + 0.5
    assert torch.allclose(standard_error(series, weight), standard_error(series, 3600 * weight), rtol=1e-12)


@pytest.mark.parametrize(("phi", "low", "high"), [(-0.5, 0.9, 1.25), (0.5, 0.8, 1.1), (0.8, 0.75, 1.1)])
def test_correlated_blocks_have_the_error_of_their_correlation_time(phi, low, high):
    """σ/√n √((1 + φ)/(1 − φ)), asymptotically; 255 blocks leave it between the given factors, and far from σ/√n."""
    series = autoregressive(phi, 255, 1000)
    exact = ((1 + phi) / (1 - phi) / 255) ** 0.5
    error = standard_error(series, ones(series)).median().item()
    assert low * exact < error < high * exact
    assert abs(math.log(error / exact)) < abs(math.log(255**-0.5 / exact)) / 2


@pytest.mark.parametrize(("phi", "length"), [(0.0, 40), (0.0, 250), (0.4, 250), (-0.4, 250)])
def test_the_truth_lies_within_two_errors_in_90_to_99_percent(phi, length):
    """200 replicas of a mixing series, whose true mean is 0."""
    series = autoregressive(phi, length, 200, seed=4)
    covered = (series.mean(0).abs() <= 2 * standard_error(series, ones(series))).double().mean()
    assert 0.90 <= covered <= 0.99


def test_fluctuations_that_telescope_are_bounded_not_resolved():
    """Differences y_{t+1} − y_t of noise have a mean of exact error √2/n; the bar says more than that, but under σ/√n.

    21 batches of 12 have means of variance 2/12², and two neighbours the covariance −1/12²: their sample variance is 22/21 of the
    former, and the bar's square  2 · 22 / (12² 21²)  in the mean, √22 times too wide a bar but for the 4 blocks that are left out.
    """
    y = white(257, 5000)
    series = y[1:] - y[:-1]
    error = standard_error(series, ones(series))
    assert 2**0.5 / 256 < error.median().item() < 0.5 * 2**0.5 / 256**0.5
    assert error.square().mean().item() == pytest.approx(2 * 22 / (12**2 * 21**2), rel=0.03)


def test_a_constant_has_no_error_and_too_few_blocks_have_none_to_give():
    """0 for a constant; NaN, and no drift, with fewer than 8 blocks."""
    constant = torch.full((50, 2), 0.3, dtype=torch.float64)
    assert standard_error(constant, ones(constant)).max() < 1e-16
    assert not drifts(constant, ones(constant)).any()
    assert standard_error(constant[:7], ones(constant[:7])).isnan().all()
    assert standard_error(constant[:8], ones(constant[:8])).isfinite().all()


def test_one_item_does_not_touch_another():
    """Any axes after the first, each on its own; a NaN stays where it is."""
    series = autoregressive(0.5, 100, 6).view(100, 2, 3)
    errors = standard_error(series, torch.ones(100, 1, 1, dtype=torch.float64))
    assert errors.shape == (2, 3)
    assert torch.allclose(errors[1, 2], standard_error(series[:, 1, 2:], torch.ones(100, 1).double())[0], rtol=1e-12)
    broken = series.clone()
    broken[50, 0, 0] = math.nan
    again = standard_error(broken, torch.ones(100, 1, 1, dtype=torch.float64))
    assert again[0, 0].isnan()
    assert torch.equal(again.flatten()[1:], errors.flatten()[1:])


@pytest.mark.parametrize("length", [16, 64, 200])
def test_a_stationary_series_rarely_drifts(length):
    """A 1 % test: at most 2.5 % false alarms in 4,000 stationary series, because the bar itself is uncertain."""
    series = white(length, 4000, seed=2)
    alarms = drifts(series, ones(series)).double().mean()
    assert 0.001 < alarms < 0.025


def test_many_comparisons_share_the_level():
    """Over 20 exponents at once, a stationary run is still called steady in at least 98 % of runs."""
    series = white(200, 20 * 500, seed=3).view(200, 500, 20)
    weight = torch.ones(200, 1, 1, dtype=torch.float64)
    alarms = drifts(series, weight, comparisons=20).any(-1).double().mean()
    assert alarms < 0.02


def test_a_step_or_a_trend_is_detected():
    """Halves that differ by 10 of their errors, or an equally large trend, are detected in at least 85 % of series."""
    series, length = white(200, 500), 200
    step = torch.where(torch.arange(length) < length // 2, -0.5, 0.5)[:, None]
    trend = torch.linspace(-1, 1, length, dtype=torch.float64)[:, None]
    for moved in (series + step, series + trend):
        told = drifts(moved, ones(moved)).double().mean()
        assert told > 0.85


@pytest.mark.parametrize("estimate", [standard_error, drifts])
@pytest.mark.parametrize("own", [1, 20_000], ids=["common durations", "own durations"])
def test_an_item_of_a_large_batch_has_the_answer_that_it_has_alone(estimate, own):
    random = torch.Generator().manual_seed(0)
    series = torch.randn(40, 20_000, 2, dtype=torch.float64, generator=random)
    series[:20, ::3] += 3.0  # a third of the items drifts
    weight = 0.5 + torch.rand(40, own, 1, dtype=torch.float64, generator=random)
    found = estimate(series, weight)
    assert found.shape == (20_000, 2)
    for i in (0, 1, 9_999, 19_998, 19_999):
        alone = estimate(series[:, i : i + 1], weight[:, :1] if own == 1 else weight[:, i : i + 1])
        torch.testing.assert_close(found[i : i + 1].double(), alone.double(), rtol=1e-12, atol=0)
