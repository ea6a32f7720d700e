"""Lattices, forced flows, delays and neurons against closed forms, symmetries and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.special import ellipj, lambertw

import separatrix as sx
from separatrix.core.tangent import jacobian, pushforward
from separatrix.systems import classic

NEW = ["coupled_logistic", "coupled_doubling", "duffing", "double_gyre", "magnetic_pendulum", "fitzhugh_nagumo", "mackey_glass"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NEW)
def test_closed_form_tangents_are_the_automatic_ones(name):
    """At random states, parameters and instants."""
    generator = torch.Generator().manual_seed(3)
    system = getattr(classic, name)()
    values = {p: 0.8 + 0.4 * torch.rand(5, dtype=torch.float64, generator=generator) for p in system.parameter_names}
    names = [p for p in values if p != "power"]  # a fractional power of a negative number would be NaN
    system = system.at(**{p: getattr(system, p, 1.0) * values[p] for p in names})
    x = system.initial_state((4, 5), seed=1) + torch.rand(4, 5, system.dim, dtype=torch.float64, generator=generator)
    v = torch.randn(4, 5, 3, system.dim, dtype=torch.float64, generator=generator)
    for n in (0, 77):
        value, pushed = system.pushforward(x, v, n)
        wanted, automatic = pushforward(lambda y, n=n: system.step(y, n), x, v)
        assert torch.allclose(value, wanted, rtol=1e-14, atol=1e-14)
        assert torch.allclose(pushed, automatic, rtol=1e-13, atol=1e-13 * float(automatic.abs().max()))


# ---------------------------------------------------------------- lattices


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 0.7])
def test_a_doubling_lattice_has_the_exponents_of_a_circulant(epsilon):
    """λ_j = ln 2 + ln |1 − ε + ε cos(2πj/n)|, to rounding, over any number of steps."""
    n = 7
    exact = math.log(2) + np.log(np.abs(1 - epsilon + epsilon * np.cos(2 * np.pi * np.arange(n) / n)))
    x, q, total = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.eye(n).double(), 0.0
    system = classic.coupled_doubling(n, epsilon)
    for _ in range(20):
        x, q = system.pushforward(x, q)
        total = total + torch.linalg.slogdet(q)[1]
        q = torch.linalg.qr(q.mT)[0].mT
    assert float(total) / 20 == pytest.approx(exact.sum(), abs=1e-12)
    one_step = torch.linalg.svdvals(jacobian(system.step, x)).log()
    assert sorted(one_step.tolist()) == pytest.approx(sorted(exact), abs=1e-12)
    spectrum = sx.lyapunov_spectrum(system, steps=400, settle=2_000)
    assert spectrum.exponents.tolist() == pytest.approx(sorted(exact, reverse=True), abs=1e-9)


def test_a_logistic_lattice_takes_the_step_of_its_formula():
    x, a, epsilon = normal(6), 1.7, 0.25
    f = [1 - a * float(s) ** 2 for s in x]
    wanted = [(1 - epsilon) * f[i] + epsilon / 2 * (f[i - 1] + f[(i + 1) % 6]) for i in range(6)]
    assert classic.coupled_logistic(6, a, epsilon).step(x).tolist() == pytest.approx(wanted, abs=1e-14)


def test_uncoupled_sites_are_logistic_maps_and_equal_sites_stay_equal():
    x = torch.tensor([0.1, -0.5, 0.9], dtype=torch.float64)
    apart = sx.trajectory(classic.coupled_logistic(3, 1.9, 0.0), x, 10)
    single = sx.trajectory(sx.Map(lambda y: 1 - 1.9 * y**2, 1), x[:, None], 10)[..., 0]
    assert torch.allclose(apart, single, atol=1e-12)
    together = sx.trajectory(classic.coupled_logistic(4, 1.9, 0.4), torch.full((4,), 0.1, dtype=torch.float64), 10)
    assert torch.allclose(together, single[:, :1].expand(-1, 4), atol=1e-12)


# ---------------------------------------------------------------- forced flows


def test_an_unforced_frictionless_duffing_oscillator_keeps_its_energy():
    flow = classic.duffing(delta=0.0, gamma=0.0, dt=0.005)
    q, u = sx.trajectory(flow, torch.tensor([[1.5, 0.3], [0.2, 0.1]], dtype=torch.float64), 4_000).unbind(-1)
    energy = u**2 / 2 - q**2 / 2 + q**4 / 4
    assert (energy - energy[0]).abs().max() < 1e-9


def test_a_hard_duffing_spring_is_jacobis_cn():
    """q̈ + α q + β q³ = 0 from rest at q₀:  q = q₀ cn(Ω t | m),  Ω² = α + β q₀²,  m = β q₀² / (2Ω²)."""
    alpha, beta, q0, dt = 0.7, 1.3, 0.9, 0.005
    frequency = math.sqrt(alpha + beta * q0**2)
    t = dt * np.arange(2001)
    exact = q0 * ellipj(frequency * t, beta * q0**2 / (2 * frequency**2))[1]
    flow = classic.duffing(delta=0.0, alpha=alpha, beta=beta, gamma=0.0, dt=dt)
    orbit = sx.trajectory(flow, torch.tensor([q0, 0.0], dtype=torch.float64), 2000)
    assert np.abs(orbit[:, 0].numpy() - exact).max() < 1e-9


def test_a_linear_forced_duffing_oscillator_responds_with_its_transfer_function():
    """β = 0: after the transient  q = Re[γ e^{iωt} / (α − ω² + iδω)]."""
    delta, alpha, gamma, omega, dt = 1.0, 2.0, 0.4, 1.7, 0.01
    flow = classic.duffing(delta, alpha, 0.0, gamma, omega, dt=dt)
    orbit = sx.trajectory(flow, None, 1_000, settle=6_000)
    t = dt * np.arange(6_000, 7_001)
    exact = (gamma * np.exp(1j * omega * t) / (alpha - omega**2 + 1j * delta * omega)).real
    assert np.abs(orbit[:, 0].numpy() - exact).max() < 1e-8


def test_duffings_exponents_sum_to_minus_the_friction_and_it_is_chaotic():
    flow = classic.duffing(dt=0.05)
    spectrum = sx.lyapunov_spectrum(flow, flow.initial_state((32,)), steps=4_000, settle=1_000).pooled()
    assert float(spectrum.exponents.sum()) == pytest.approx(-0.3, abs=1e-4)
    assert spectrum.exponents[0] > 5 * spectrum.stderr[0]


def double_gyre_velocity(t, s, A=0.1, epsilon=0.25, omega=math.pi / 5):
    """The velocity by numerical differentiation of the published streamfunction."""

    def psi(x, y):
        swing = epsilon * math.sin(omega * t)
        return A * math.sin(math.pi * (swing * x * x + (1 - 2 * swing) * x)) * math.sin(math.pi * y)

    h = 1e-5
    return [-(psi(s[0], s[1] + h) - psi(s[0], s[1] - h)) / (2 * h), (psi(s[0] + h, s[1]) - psi(s[0] - h, s[1])) / (2 * h)]


def test_the_double_gyre_is_the_flow_of_its_streamfunction():
    solved = solve_ivp(double_gyre_velocity, (0, 20), [1.1, 0.3], rtol=1e-10, atol=1e-10).y[:, -1]
    orbit = sx.trajectory(classic.double_gyre(dt=0.04), torch.tensor([1.1, 0.3], dtype=torch.float64), 500)
    assert (orbit[-1] - torch.tensor(solved)).abs().max() < 1e-6


def test_the_double_gyre_keeps_areas_and_its_box():
    flow = classic.double_gyre()
    x = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 1.0])
    eye = torch.eye(2, dtype=torch.float64).expand(20, 2, 2)
    for t in (0.0, 1.7, 6.0):
        assert flow.field.pushforward(x, eye, t)[1].diagonal(dim1=-2, dim2=-1).sum(-1).abs().max() < 1e-14
    exponents = sx.lyapunov_spectrum(flow, x, steps=1_000, settle=0).exponents
    assert exponents.sum(-1).abs().max() < 1e-6
    walls = torch.tensor([[0.0, 0.3], [2.0, 0.6], [0.4, 0.0], [1.3, 1.0]], dtype=torch.float64)
    orbit = sx.trajectory(flow, walls, 200)
    assert orbit[:, 0, 0].abs().max() < 1e-14 and (orbit[:, 1, 0] - 2).abs().max() < 1e-12
    assert orbit[:, 2, 1].abs().max() < 1e-14 and (orbit[:, 3, 1] - 1).abs().max() < 1e-12


# ---------------------------------------------------------------- a pendulum over magnets


def test_the_magnetic_pendulum_looks_the_same_after_a_third_of_a_turn():
    angle = 2 * math.pi / 3
    plane = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    turn = torch.block_diag(plane, plane)
    field, x = classic.MagneticPendulum(), normal(9, 4)
    assert torch.allclose(field(x @ turn.T, 0.0), field(x, 0.0) @ turn.T, atol=1e-13)


def test_the_magnetic_pendulum_rests_near_each_magnet_and_falls_to_one_of_them():
    """On a magnet's own ray the balance of forces is one equation in the distance, which SciPy solves."""
    gamma, d, omega = 1.0, 0.3, 0.5
    others = math.cos(2 * math.pi / 3)

    def balance(r):
        side = (1 + r * r - 2 * r * others + d * d) ** -1.5
        return -(omega**2) * r + gamma * (1 - r) * ((1 - r) ** 2 + d * d) ** -1.5 + 2 * gamma * (others - r) * side

    r = brentq(balance, 0.8, 1.1, xtol=1e-14)
    angles = 2 * math.pi / 3 * torch.arange(3, dtype=torch.float64)
    rest = torch.stack([r * angles.cos(), r * angles.sin(), 0 * angles, 0 * angles], dim=-1)
    flow = classic.magnetic_pendulum(dt=0.05)
    assert flow.residual(rest).abs().max() < 1e-12
    assert (torch.linalg.eigvals(jacobian(flow.residual, rest)).real < 0).all()
    ends = sx.trajectory(flow, flow.initial_state((12,), seed=0), 3_200, every=3_200)[-1]
    assert torch.cdist(ends, rest).min(-1).values.max() < 1e-5


# ---------------------------------------------------------------- a neuron


def test_fitzhugh_and_nagumos_neuron_fires_where_the_trace_at_rest_is_positive():
    """At rest at v*: I = v³/3 − v + (v + a)/b;  trace 1 − v² − εb,  determinant ε (1 − b (1 − v²))."""
    a, b, epsilon = 0.7, 0.8, 0.08
    hopf = math.sqrt(1 - epsilon * b)
    for v, fires in ((-hopf - 0.05, False), (-hopf + 0.05, True)):
        flow = classic.fitzhugh_nagumo(v**3 / 3 - v + (v + a) / b, dt=0.2)
        rest = torch.tensor([v, (v + a) / b], dtype=torch.float64)
        matrix = jacobian(flow.residual, rest)
        assert flow.residual(rest).abs().max() < 1e-14
        assert float(matrix.trace()) == pytest.approx(1 - v * v - epsilon * b, abs=1e-13)
        assert float(torch.linalg.det(matrix)) == pytest.approx(epsilon * (1 - b * (1 - v * v)), abs=1e-13)
        swing = sx.trajectory(flow, rest + 0.01, 500, settle=5_000)[:, 0]
        assert (float(swing.max() - swing.min()) > 1) is fires


# ---------------------------------------------------------------- a delay


def test_mackey_and_glasss_equilibrium_has_the_rates_of_its_characteristic_equation():
    """At x* = 1, β = 2γ:  s = −γ + b e^{−sτ},  b = γ (2 − p)/2,  so  s = −γ + W_k(b τ e^{γτ})/τ;  Heun's error falls as dt²."""
    gamma, power, tau = 0.1, 10.0, 17.0
    b = gamma * (2 - power) / 2
    roots = [-gamma + lambertw(b * tau * np.exp(gamma * tau), k) / tau for k in range(-3, 4)]
    exact = max(roots, key=lambda s: s.real)
    gaps = []
    for dt in (0.2, 0.1):
        system = classic.mackey_glass(2 * gamma, gamma, power, tau=tau, dt=dt)
        rest = torch.ones(system.dim, dtype=torch.float64)
        assert system.residual(rest).abs().max() < 1e-15
        multipliers = torch.linalg.eigvals(jacobian(system.step, rest)).numpy()
        leading = np.log(multipliers[np.abs(multipliers).argmax()]) / system.dt
        gaps.append(abs(complex(leading.real, abs(leading.imag)) - complex(exact.real, abs(exact.imag))))
    assert gaps[1] < 1e-4
    assert gaps[0] / gaps[1] == pytest.approx(4, abs=0.2)


def test_mackey_and_glasss_first_stretch_is_the_solution_by_steps():
    """On 0 ≤ t ≤ τ with a constant past c:  x = x∞ + (c − x∞) e^{−γt},  x∞ = β c / (γ (1 + c^p))."""
    system, c = classic.mackey_glass(dt=0.05), 1.2
    past = torch.full((system.dim,), c, dtype=torch.float64)
    orbit = sx.trajectory(system, past, system.dim - 1)[:, -1].numpy()
    end = 0.2 * c / (0.1 * (1 + c**10))
    t = system.dt * np.arange(system.dim)
    assert np.abs(orbit - (end + (c - end) * np.exp(-0.1 * t))).max() < 1e-5


def test_mackey_and_glass_at_17_are_weakly_chaotic():
    """λ₁ = 0.0051 ± 0.0002 by an independent run of Heun's method, dt = 0.1."""
    system = classic.mackey_glass()
    spectrum = sx.lyapunov_spectrum(system, system.initial_state((24,)), k=2, steps=20_000, settle=10_000, every=50).pooled()
    assert abs(float(spectrum.exponents[0]) - 0.0051) < 3 * math.hypot(float(spectrum.stderr[0]), 0.0002)
    assert abs(float(spectrum.exponents[1])) < 5e-4


def test_a_delay_shorter_than_half_a_step_is_refused():
    with pytest.raises(sx.errors.InputError, match=r"a delay of 0.01 .* steps of 0.1"):
        classic.mackey_glass(tau=0.01)


def test_a_pendulum_swings_over_whole_magnets():
    for magnets in (0, 2.5):
        with pytest.raises(sx.errors.InputError, match=f"magnets is {magnets}"):
            sx.classic.magnetic_pendulum(magnets=magnets)
