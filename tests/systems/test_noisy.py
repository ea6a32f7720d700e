"""Noise that is one realisation for all."""

import math

import pytest
import torch

import separatrix as sx


def ornstein_uhlenbeck(dt: float = 0.01, scale: float = 0.5, dim: int = 1) -> sx.Noisy:
    """ẋ = −x with noise of its own in each number."""
    return sx.Noisy(sx.Flow(lambda x: -x, dim, dt), scale)


class Growth(sx.System):
    """x ← a x, each step a time dt."""

    def __init__(self, a: float, dt: float = 1.0) -> None:
        super().__init__(1, dt=dt)
        self.a = a

    def step(self, x, n=0):
        return self.a * x

    def pushforward(self, x, v, n=0):
        return self.a * x, self.a * v


class DoubleWell(sx.System):
    """ẋ = x − x³ by Euler steps of 0.05."""

    def __init__(self) -> None:
        super().__init__(1, dt=0.05)

    def step(self, x, n=0):
        return x + self.dt * (x - x**3)

    def pushforward(self, x, v, n=0):
        return self.step(x, n), v * (1 + self.dt * (1 - 3 * x**2))[..., None, :]


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
    """ẋ = −x + 0.5 ξ has the variance 0.5²/2, to O(dt); 5 correlated standard errors: σ² √(2/T) with T = 50 × 20 numbers."""
    system = ornstein_uhlenbeck(dt, dim=50)
    orbit = sx.trajectory(system, torch.zeros(50, dtype=torch.float64), round(20 / dt), settle=round(10 / dt))
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
    assert float(end.abs().max()) > 1e-3  # where they meet is not the fixed point


def test_the_scale_may_be_a_grid():
    system = sx.Noisy(sx.Map(lambda x: 0 * x, 2), torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    kicks = sx.trajectory(system, torch.zeros(2, dtype=torch.float64), 1)[-1]
    torch.testing.assert_close(kicks, kicks[1] * torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64))


def test_a_negative_scale_is_refused():
    with pytest.raises(sx.errors.InputError, match="scale of the noise is -1"):
        sx.Noisy(sx.classic.henon(), -1.0)


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(sx.errors.InputError, match="scale of the noise is nan"):
        sx.Noisy(sx.classic.henon(), math.nan)


@pytest.mark.parametrize(("a", "sigma"), [(0.5, 0.3), (0.9, 1.0), (2.0, 0.5)])
def test_multiplicative_noise_has_the_mean_logarithm_of_its_factor_as_exponent(a, sigma):
    """x' = (a + σ ξ) x: λ = E ln|a + σ ξ|, the integral by SciPy; 4 standard errors of 2,500 independent steps."""
    from scipy.integrate import quad
    from scipy.stats import norm

    parts = [quad(lambda z: norm.pdf(z) * math.log(abs(a + sigma * z)), *ends)[0] for ends in ((-9, -a / sigma), (-a / sigma, 9))]
    square = [
        quad(lambda z: norm.pdf(z) * math.log(abs(a + sigma * z)) ** 2, *ends)[0] for ends in ((-9, -a / sigma), (-a / sigma, 9))
    ]
    exact, spread = sum(parts), math.sqrt(sum(square) - sum(parts) ** 2)
    system = sx.Noisy(Growth(a), lambda x: sigma * x)
    found = sx.lyapunov_spectrum(system, torch.zeros(1, dtype=torch.float64), steps=2_500, settle=0)
    assert float(found.exponents[0]) == pytest.approx(exact, abs=4 * spread / math.sqrt(2_500))


def test_geometric_brownian_motion_grows_at_its_drift_less_half_its_variance():
    """ẋ = 0.1 x + 0.5 x ξ (Itô): λ = 0.1 − 0.5²/2, to O(dt) = 0.1 · 0.1; 4 standard errors 0.5/√T at T = 300."""
    system = sx.Noisy(Growth(1 + 0.1 * 0.1, dt=0.1), lambda x: 0.5 * x)
    found = sx.lyapunov_spectrum(system, torch.zeros(1, dtype=torch.float64), steps=3_000, settle=0)
    assert float(found.exponents[0]) == pytest.approx(0.1 - 0.125, abs=4 * 0.5 / math.sqrt(300) + 0.01)


def test_multiplicative_noise_keeps_the_promises_of_a_system():
    sx.testing.check_system(sx.Noisy(sx.classic.henon(), lambda x: 0.01 * torch.sin(x)))


def test_noise_makes_one_response_of_two():
    """Crauel & Flandoli 1998: additive noise leaves no pitchfork; under one realisation all states meet."""
    calm = sx.echo_state(sx.Noisy(DoubleWell(), 0.0), spread=1.5, steps=2_000)
    noisy = sx.echo_state(sx.Noisy(DoubleWell(), 1.0), spread=1.5, steps=2_000)
    assert (calm.verdict, int(calm.responses)) == ("several responses", 2)
    assert float(calm.exponent) == pytest.approx(math.log(1 - 2 * 0.05) / 0.05, abs=1e-3)  # both wells: 1 − 3x² = −2
    assert noisy.verdict == "echo state"


def test_the_exponent_in_a_noisy_double_well_is_that_of_its_stationary_density():
    """λ = ∫ (1 − 3x²) ρ dx, ρ ∝ exp(−2V/σ²), V = x⁴/4 − x²/2; to the error bar and O(dt) = 0.05."""
    from scipy.integrate import quad

    def density(x):
        return math.exp(-2 * (x**4 / 4 - x**2 / 2))

    exact = quad(lambda x: (1 - 3 * x * x) * density(x), -6, 6)[0] / quad(density, -6, 6)[0]
    found = sx.lyapunov_spectrum(sx.Noisy(DoubleWell(), 1.0), steps=5_000, settle=200)
    assert float(found.exponents[0]) == pytest.approx(exact, abs=4 * float(found.stderr[0]) + 0.1 * abs(exact))


def test_what_is_no_noise_is_refused_in_words():
    with pytest.raises(sx.errors.InputError, match="scale of the noise is a str"):
        sx.Noisy(sx.classic.henon(), "loud")
    with pytest.raises(sx.errors.InputError, match="seed is"):
        sx.Noisy(sx.classic.henon(), 0.1, seed=0.5)
    with pytest.raises(sx.errors.UnsupportedModuleError, match="GRU"):
        sx.Noisy(torch.nn.GRU(2, 2), 0.1)
    wide = sx.Noisy(sx.classic.henon(), lambda x: torch.ones(3))
    with pytest.raises(sx.errors.ShapeError, match=r"states of shape \(2,\) to shape \(3,\)"):
        sx.trajectory(wide, None, 2)
