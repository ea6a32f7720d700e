"""The Kaplan–Yorke dimension and the sum of positive exponents, by hand and by Monte Carlo."""

import math

import pytest
import torch
from torch import Tensor

from separatrix.analysis.lyapunov.kaplan_yorke import kaplan_yorke, positive_sum


def of(exponents: list[float] | Tensor, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Dimension and error of exponents that 20 equal blocks agree on."""
    exponents = torch.as_tensor(exponents, dtype=torch.float64)
    rates = exponents.where(exponents.isfinite(), 0.0).expand(20, *exponents.shape)
    return kaplan_yorke(exponents, rates, torch.ones(20, *exponents.shape[:-1], 1).double(), dim or exponents.shape[-1])


@pytest.mark.parametrize(
    ("exponents", "expected"),
    [
        ([0.5, 0.0, -1.0], 2.5),  # 2 + 0.5 / 1
        ([0.9056, 0.0, -14.5723], 2 + 0.9056 / 14.5723),  # the Lorenz attractor: 2.062
        ([0.0, -0.3], 1.0),  # a limit cycle
        ([0.0, 0.0, -1.0], 2.0),  # a torus
        ([-0.1, -0.2], 0.0),  # a fixed point
        ([0.2, 0.1], 2.0),  # it fills the space
        ([0.5, 0.2, -0.7], 3.0),  # an area- or volume-preserving map: the sum is 0
        ([0.4, -0.1, -0.1, -0.1, -0.4], 4 + 0.1 / 0.4),
        ([1.0, -math.inf], 1.0),  # erased directions end it
        ([1.0, 0.5, -2.0, -math.inf], 2.75),
        ([-math.inf, -math.inf], 0.0),
        ([0.3], 1.0),
        ([-0.3], 0.0),
    ],
)
def test_dimensions_by_hand(exponents, expected):
    """D = j + Σ_{i ≤ j} λ_i / |λ_{j+1}|, with j the last index whose partial sum is not negative."""
    dimension, error = of(exponents)
    assert float(dimension) == pytest.approx(expected, abs=1e-12)
    assert float(error) == pytest.approx(0.0, abs=1e-12)


def test_leading_exponents_that_do_not_reach_it_give_nan():
    """With k < dim the sum must turn negative within the k; else the dimension is unknown, and never a bound in disguise."""
    assert of([0.5, 0.1], dim=4)[0].isnan()
    assert of([0.5, 0.1], dim=4)[1].isnan()
    assert float(of([0.5, -1.0], dim=4)[0]) == pytest.approx(1.5)


def test_items_of_a_batch_are_apart():
    """One diverged item is NaN, its neighbours have their own j."""
    dimension, error = of(torch.tensor([[[0.5, 0.0, -1.0], [math.nan] * 3], [[-1.0, -2.0, -3.0], [1.0, -0.25, -1.0]]]).double())
    assert dimension.shape == error.shape == (2, 2)
    assert dimension[0, 1].isnan() and error[0, 1].isnan()
    assert dimension.flatten()[[0, 2, 3]].tolist() == pytest.approx([2.5, 0.0, 2.75])


def replicas(means: list[float], spread: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """4,000 runs of 64 independent blocks: their exponents, rates and durations."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 4000, len(means), dtype=torch.float64, generator=generator)
    noise = noise + 0.5 * noise[..., :1]  # exponents of a run are correlated with each other
    rates = torch.tensor(means).double() + torch.tensor(spread).double() * noise
    return rates.mean(0), rates, torch.ones(64, 4000, 1, dtype=torch.float64)


@pytest.mark.parametrize("means", [[0.9, 0.0, -14.6], [0.5, 0.3, -2.0], [0.4, -1.0, -3.0]])
def test_the_error_of_the_dimension_is_its_spread_over_runs(means):
    """The delta method against Monte Carlo: the root mean square of the errors is the spread of the dimensions, to 10 %."""
    exponents, rates, duration = replicas(means, [0.2, 0.15, 0.3])
    dimension, error = kaplan_yorke(exponents, rates, duration, 3)
    away = exponents.cumsum(-1).abs().amin(-1) > 0.05 if 0.0 not in means else torch.ones(4000, dtype=torch.bool)
    assert away.all()  # no replica changes j, where the dimension has a kink
    assert error.square().mean().sqrt().item() == pytest.approx(dimension.std().item(), rel=0.1)


def test_the_sum_of_positive_exponents_and_its_error():
    """Σ λ⁺ of all positive ones; its error is that of their sum, correlations included, to 10 %."""
    exponents, rates, duration = replicas([0.9, 0.5, -2.0], [0.2, 0.15, 0.3])
    total, error = positive_sum(exponents, rates, duration)
    assert torch.allclose(total, exponents[:, :2].sum(-1))
    assert error.square().mean().sqrt().item() == pytest.approx(total.std().item(), rel=0.1)
    nothing, none = positive_sum(-exponents.abs(), rates, duration)
    assert (nothing == 0).all() and (none == 0).all()
    assert positive_sum(torch.full((1, 2), math.nan).double(), rates[:, :1, :2], duration[:, :1])[0].isnan()
