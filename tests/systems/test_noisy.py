"""Noise that is one realisation for all."""

import math

import pytest
import torch

import separatrix as sx


def ornstein_uhlenbeck(dt: float = 0.01, scale: float = 0.5) -> sx.Noisy:
    """ẋ = −x with noise."""
    return sx.Noisy(sx.Flow(lambda x: -x, 1, dt), scale)


def test_noise_keeps_the_promises_of_a_system():
    sx.testing.check_system(sx.Noisy(sx.classic.henon(), 0.001))
    sx.testing.check_system(sx.Noisy(sx.classic.lorenz63(), 0.1, seed=3))


def test_all_copies_get_the_same_kick_and_another_seed_another():
    system, other = sx.Noisy(sx.Map(lambda x: 0 * x, 2), 1.0), sx.Noisy(sx.Map(lambda x: 0 * x, 2), 1.0, seed=1)
    kicks = system.step(torch.zeros(5, 2, dtype=torch.float64), 7)
    assert (kicks == kicks[0]).all()
    assert torch.equal(kicks[0], system.step(torch.zeros(2, dtype=torch.float64), 7))
    assert not torch.equal(kicks[0], system.step(torch.zeros(2, dtype=torch.float64), 8))
    assert not torch.equal(kicks[0], other.step(torch.zeros(2, dtype=torch.float64), 7))


@pytest.mark.parametrize("dt", [0.02, 0.005])
def test_the_stationary_variance_of_an_ornstein_uhlenbeck_process_does_not_depend_on_the_step(dt):
    """ẋ = −x + 0.5 ξ has the variance 0.5²/2, to O(dt); 5 correlated standard errors: σ² √(2/T) with T = 1,000."""
    orbit = sx.trajectory(ornstein_uhlenbeck(dt), torch.zeros(1, dtype=torch.float64), round(1000 / dt), settle=round(10 / dt))
    assert float(orbit.var()) == pytest.approx(0.125, abs=5 * 0.125 * math.sqrt(2 / 1000) + dt)


def test_additive_noise_leaves_a_linear_systems_exponents_as_they_are():
    weight = torch.tensor([[0.5, 1.0], [0.0, -0.8]], dtype=torch.float64)
    spectrum = sx.lyapunov_spectrum(sx.Noisy(sx.Map(lambda x: x @ weight.mT, 2), 1.0), steps=2000)
    torch.testing.assert_close(spectrum.exponents, torch.tensor([0.8, 0.5], dtype=torch.float64).log(), atol=2e-3, rtol=0)


def test_contracting_copies_under_one_noise_meet():
    """Distances shrink by e^{−t}, whatever the noise: from 10 to 10 e^{−30} in 30 units of time."""
    x0 = torch.tensor([[-5.0], [5.0]], dtype=torch.float64)
    end = sx.trajectory(ornstein_uhlenbeck(), x0, 3000)[-1]
    assert float((end[1] - end[0]).abs()) < 11 * math.exp(-30)
    assert float(end.abs().max()) > 1e-3  # where they meet is not the rest point


def test_the_scale_may_be_a_grid():
    system = sx.Noisy(sx.Map(lambda x: 0 * x, 2), torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    kicks = sx.trajectory(system, torch.zeros(2, dtype=torch.float64), 1)[-1]
    torch.testing.assert_close(kicks, kicks[1] * torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64))


def test_a_negative_scale_is_refused():
    with pytest.raises(sx.InputError, match="scale is -1"):
        sx.Noisy(sx.classic.henon(), -1.0)
