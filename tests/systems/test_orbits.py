"""Orbits about a black hole against the geodesic's own constants, elliptic integrals and Kepler's laws; their waves by hand."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import ellipk

import separatrix as sx
from separatrix.core.tangent import jacobian, pushforward
from separatrix.systems import classic

PAIRS = [(100.0, 0.5), (12.0, 0.3), (8.0, 0.0), (30.0, 0.8)]


def circle(count: int = 40) -> torch.Tensor:
    return torch.linspace(0, 2 * math.pi, count, dtype=torch.float64)


def states(chi: torch.Tensor) -> torch.Tensor:
    return torch.stack([chi, torch.zeros_like(chi)], dim=-1)


@pytest.mark.parametrize(("p", "e"), PAIRS)
def test_a_geodesic_has_the_energy_and_angular_momentum_of_its_turning_points(p, e):
    """Per unit time t:  φ̇ = (L/E)(1 − 2M/r)/r²  and  (dr/dt)² = (1 − 2M/r)² (1 − (1 − 2M/r)(1 + L²/r²)/E²),  from the metric."""
    mass = 1.7
    chi = circle()
    r = p * mass / (1 + e * chi.cos())
    lapse = 1 - 2 * mass / r
    energy2 = ((p - 2) ** 2 - 4 * e**2) / (p * (p - 3 - e**2))
    momentum2 = p**2 * mass**2 / (p - 3 - e**2)
    chi_dot, phi_dot = classic.SchwarzschildOrbit(p, e, mass)(states(chi), 0.0).unbind(-1)
    torch.testing.assert_close(phi_dot, math.sqrt(momentum2 / energy2) * lapse / r**2, rtol=1e-12, atol=0)
    radial2 = lapse**2 * (1 - lapse * (1 + momentum2 / r**2) / energy2)
    r_dot = r**2 / (p * mass) * e * chi.sin() * chi_dot
    torch.testing.assert_close(r_dot**2, radial2, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("p", "e"), PAIRS)
def test_periapsis_advances_by_an_elliptic_integral(p, e):
    field = classic.SchwarzschildOrbit(p, e)

    def turning(chi: float) -> float:
        chi_dot, phi_dot = field(states(torch.tensor(chi, dtype=torch.float64)), 0.0).tolist()
        return phi_dot / chi_dot

    a = p - 6 + 2 * e
    exact = 4 * math.sqrt(p / a) * ellipk(4 * e / a)
    assert quad(turning, 0, 2 * math.pi, epsabs=1e-12)[0] == pytest.approx(exact, rel=1e-10)
    if e:
        period = quad(lambda chi: 1 / float(field(states(torch.tensor(chi, dtype=torch.float64)), 0.0)[0]), 0, 2 * math.pi)[0]
        times = torch.tensor([0.0, period], dtype=torch.float64)
        last = sx.solve(field, torch.zeros(2, dtype=torch.float64), times, method="rk4", dt=period / 800).last
        assert last.tolist() == pytest.approx([2 * math.pi, exact], abs=3e-6 if e > 0.7 else 1e-7)


def test_far_away_the_advance_is_that_of_mercury_and_then_none():
    """4 √(p/a) K(4e/a) = 2π + 6π/p + O(1/p²): measured on the flow, once around."""
    for p, rest in ((1e3, 1.0), (1e4, 1.0), (1e5, 1.0)):
        kepler, field = classic.KeplerOrbit(p, 0.4), classic.SchwarzschildOrbit(p, 0.4)
        chi_dot, phi_dot = field(states(circle()[:-1]), 0.0).unbind(-1)
        advance = 2 * math.pi * float((phi_dot / chi_dot).mean()) - 2 * math.pi  # the trapezoidal rule on a circle
        assert abs(advance - 6 * math.pi / p) < rest * 300 / p**2
        newton = kepler(states(circle()[:-1]), 0.0)
        assert float((field(states(circle()[:-1]), 0.0) / newton - 1).abs().max()) < 10 / p


def test_kepler_s_orbit_closes_after_his_period():
    p, e, mass = 20.0, 0.6, 2.0
    period = 2 * math.pi * mass * (p / (1 - e**2)) ** 1.5
    flow = classic.kepler_orbit(p, e, mass, dt=period / 1000)
    end = sx.trajectory(flow, steps=1000)[-1] - flow.initial_state()
    assert end.tolist() == pytest.approx([2 * math.pi, 2 * math.pi], abs=1e-7)  # RK4 at 1,000 steps a period


@pytest.mark.parametrize("kind", [classic.KeplerOrbit, classic.SchwarzschildOrbit])
def test_closed_form_tangents_are_the_automatic_ones(kind):
    generator = torch.Generator().manual_seed(0)
    field = kind(20 + torch.rand(5, dtype=torch.float64, generator=generator), torch.linspace(0, 0.9, 5).double(), 1.3)
    x = 3 * torch.randn(4, 5, 2, dtype=torch.float64, generator=generator)
    v = torch.randn(4, 5, 3, 2, dtype=torch.float64, generator=generator)
    value, pushed = field.pushforward(x, v, 0.0)
    wanted, automatic = pushforward(lambda y: field(y, 0.0), x, v)
    torch.testing.assert_close(value, wanted, rtol=1e-13, atol=0)
    torch.testing.assert_close(pushed, automatic, rtol=1e-12, atol=1e-16)


def test_a_circular_orbit_s_wave_has_twice_its_frequency():
    """I₁₁ − I₂₂ = r² cos 2φ, so  h₊ = −8√(π/5) r²ω² cos 2φ  and  h× = +8√(π/5) r²ω² sin 2φ,  both to O(dt²)."""
    r, omega = 3.0, 0.7
    sizes = []
    for dt in (0.02, 0.01):
        phi = omega * dt * torch.arange(300, dtype=torch.float64)
        wave = classic.quadrupole_waveform(r * torch.stack([phi.cos(), phi.sin()], dim=-1), dt)
        scale = 8 * math.sqrt(math.pi / 5) * r**2 * omega**2
        exact = scale * torch.stack([-(2 * phi).cos(), (2 * phi).sin()], dim=-1)
        sizes.append((wave - exact).abs().amax(-1))
    for place in (slice(1, 100), slice(0, 1)):  # central, and to one side
        assert float(sizes[0][place].max() / sizes[1][place].max()) == pytest.approx(4, rel=0.25)
    assert sizes[1].max() < 1e-3 * scale


def test_a_wave_is_differentiated_from_a_parabola_without_error():
    t = 0.1 * torch.arange(6, dtype=torch.float64)
    wave = classic.quadrupole_waveform(torch.stack([t, torch.ones_like(t)], dim=-1), 0.1)  # I₁₁ − I₂₂ = t² − 1, I₁₂ = t
    torch.testing.assert_close(wave[:, 0], torch.full_like(t, 4 * math.sqrt(math.pi / 5)), rtol=1e-11, atol=0)
    assert wave[:, 1].abs().max() < 1e-11
    with pytest.raises(sx.errors.InputError, match="at least 4 consecutive positions"):
        classic.quadrupole_waveform(torch.zeros(3, 2), 0.1)


def test_an_orbit_lies_on_its_ellipse():
    chi = circle()
    x, y = classic.orbit_in_plane(torch.stack([chi, chi], dim=-1), p=10.0, e=0.6, mass=2.0).unbind(-1)
    r = torch.hypot(x, y)
    torch.testing.assert_close(r, 20 - 0.6 * x, rtol=1e-12, atol=0)  # r = pM − e x


def test_prey_and_predators_keep_volterra_s_constant_and_rest_where_both_are_fed():
    alpha, beta, gamma, delta = 1.1, 0.7, 0.5, 0.9
    flow = classic.lotka_volterra(alpha, beta, gamma, delta, dt=0.005)
    rest = torch.tensor([delta / gamma, alpha / beta], dtype=torch.float64)
    assert flow.residual(rest).abs().max() < 1e-15
    x, y = sx.trajectory(flow, torch.tensor([[0.5, 2.0], [3.0, 0.4]], dtype=torch.float64), 3000).unbind(-1)
    constant = gamma * x - delta * x.log() + beta * y - alpha * y.log()
    assert (constant - constant[0]).abs().max() < 1e-8  # RK4 at 0.005
    turning = torch.linalg.eigvals(jacobian(flow.residual, rest))
    assert turning.imag.abs().tolist() == pytest.approx([math.sqrt(alpha * delta)] * 2, rel=1e-12)


def test_prey_s_tangents_are_the_automatic_ones():
    field = classic.LotkaVolterra(1.1, torch.tensor([0.7, 0.2], dtype=torch.float64), 0.5, 0.9)
    random = torch.Generator().manual_seed(0)
    x, v = (torch.rand(3, 2, *shape, dtype=torch.float64, generator=random) for shape in ((2,), (4, 2)))
    torch.testing.assert_close(field.pushforward(x, v, 0.0), pushforward(lambda y: field(y, 0.0), x, v))
