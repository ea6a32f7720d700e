"""The classic systems against their formulas in NumPy, SciPy's integrators, elliptic functions and known fixed points."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import ellipj, ellipk

from separatrix.core.evolve import begin, trajectory
from separatrix.core.tangent import jacobian, pushforward
from separatrix.systems import classic


def lorenz63_rhs(t, s, sigma=10.0, rho=28.0, beta=8 / 3):
    x, y, z = s
    return [sigma * (y - x), x * (rho - z) - y, x * y - beta * z]


def rossler_rhs(t, s, a=0.2, b=0.2, c=5.7):
    x, y, z = s
    return [-y - z, x + a * y, b + z * (x - c)]


def lorenz96_rhs(t, s, forcing=8.0):
    n = len(s)
    return [(s[(i + 1) % n] - s[i - 2]) * s[i - 1] - s[i] + forcing for i in range(n)]


def pendulum_rhs(t, s, g=9.81, length=1.0):
    return [s[1], -g / length * math.sin(s[0])]


def double_pendulum_rhs(t, s, m1=1.0, m2=1.0, l1=1.0, l2=1.0, g=9.81):
    """The form of the textbooks that eliminates the accelerations by hand."""
    a, b, u, w = s
    d = a - b
    below = 2 * m1 + m2 - m2 * math.cos(2 * d)
    du = -g * (2 * m1 + m2) * math.sin(a) - m2 * g * math.sin(a - 2 * b)
    du -= 2 * math.sin(d) * m2 * (w * w * l2 + u * u * l1 * math.cos(d))
    dw = u * u * l1 * (m1 + m2) + g * (m1 + m2) * math.cos(a) + w * w * l2 * m2 * math.cos(d)
    return [u, w, du / (l1 * below), 2 * math.sin(d) * dw / (l2 * below)]


def double_pendulum_energy(x, m1, m2, l1, l2, g):
    a, b, u, w = x.unbind(-1)
    kinetic = (m1 + m2) / 2 * (l1 * u) ** 2 + m2 / 2 * (l2 * w) ** 2 + m2 * l1 * l2 * u * w * (a - b).cos()
    return kinetic - (m1 + m2) * g * l1 * a.cos() - m2 * g * l2 * b.cos()


UNEQUAL = {"m1": 0.7, "m2": 1.9, "l1": 1.3, "l2": 0.6, "g": 3.7}
FLOWS = {
    "lorenz63": (classic.lorenz63, lorenz63_rhs, {"sigma": 16.0, "rho": 45.92, "beta": 4.0}),
    "rossler": (classic.rossler, rossler_rhs, {"a": 0.15, "b": 0.3, "c": 10.0}),
    "lorenz96": (classic.lorenz96, lorenz96_rhs, {"forcing": 4.0}),
    "pendulum": (classic.pendulum, pendulum_rhs, {"g": 1.62, "length": 2.5}),
    "double_pendulum": (classic.double_pendulum, double_pendulum_rhs, UNEQUAL),
}


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("changed", [False, True], ids=["classic", "changed"])
def test_a_flow_follows_scipys_solution_of_the_textbook_equations(name, changed):
    build, rhs, parameters = FLOWS[name]
    parameters = parameters if changed else {}
    flow = build(**parameters, dt=0.0025)
    x0 = flow.initial_state()
    solved = solve_ivp(rhs, (0, 1), x0.numpy(), args=tuple(parameters.values()), rtol=1e-12, atol=1e-12).y[:, -1]
    assert trajectory(flow, x0, 400)[-1].numpy() == pytest.approx(solved, rel=1e-6, abs=1e-6)


def test_the_pendulum_is_jacobis_elliptic_function():
    """sin(θ/2) = k cd(√(g/l) t | k²) after a release at rest from θ₀, k = sin(θ₀/2)."""
    theta0, g, length, dt = 2.5, 9.81, 0.7, 0.002
    t = dt * np.arange(1501)
    k = math.sin(theta0 / 2)
    sn, cn, _, _ = ellipj(math.sqrt(g / length) * t + ellipk(k**2), k**2)
    x0 = torch.tensor([theta0, 0.0], dtype=torch.float64)
    orbit = trajectory(classic.pendulum(g, length, dt=dt), x0, 1500).numpy()
    assert t[-1] > 4 * ellipk(k**2) * math.sqrt(length / g)  # more than a period
    assert np.abs(orbit[:, 0] - 2 * np.arcsin(k * sn)).max() < 1e-8
    assert np.abs(orbit[:, 1] - 2 * k * math.sqrt(g / length) * cn).max() < 1e-7


def test_the_logistic_map_at_four_doubles_an_angle():
    """x_n = sin²(2ⁿ θ)."""
    theta = torch.linspace(0.1, 1.4, 7, dtype=torch.float64)
    orbit = trajectory(classic.logistic(4.0), theta.sin()[:, None] ** 2, 20)[..., 0]
    angles = theta * 2.0 ** torch.arange(21, dtype=torch.float64)[:, None]
    assert torch.allclose(orbit, angles.sin() ** 2, rtol=0, atol=1e-8)


def test_the_maps_take_the_steps_of_their_formulas():
    """Each against plain Python, at a state off every symmetry."""
    x, y, z = 0.37, -0.21, 0.64
    fold = (y + 0.35) * (1 - 2 * z)
    kicked = (5.1 + 2.2 * math.sin(1.3)) % (2 * math.pi)
    cases = [
        (classic.logistic(3.3), [x], [3.3 * x * (1 - x)]),
        (classic.henon(1.2, 0.25), [x, y], [1 - 1.2 * x * x + y, 0.25 * x]),
        (classic.standard_map(2.2), [1.3, 5.1], [(1.3 + kicked) % (2 * math.pi), kicked]),
        (
            classic.towel(3.7, 3.6),
            [x, y, z],
            [3.7 * x * (1 - x) - 0.05 * fold, 0.1 * (fold - 1) * (1 - 1.9 * x), 3.6 * z * (1 - z) + 0.2 * y],
        ),
    ]
    for system, before, after in cases:
        assert system.step(torch.tensor(before, dtype=torch.float64)).tolist() == pytest.approx(after, abs=1e-14)


@pytest.mark.parametrize("name", ["logistic", "henon", "standard_map", "towel", *FLOWS])
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_closed_form_tangents_are_the_automatic_ones(name, layout):
    """At random states and parameters, in both memory orders of a batch."""
    generator = torch.Generator().manual_seed(3)
    system = getattr(classic, name)()
    values = {p: 0.8 + 0.4 * torch.rand(5, dtype=torch.float64, generator=generator) for p in system.parameter_names}
    system = system.at(**{p: getattr(system, p, 1.0) * value for p, value in values.items()})
    x = system.initial_state((4, 5), seed=1) + torch.rand(4, 5, system.dim, dtype=torch.float64, generator=generator)
    v = torch.randn(4, 5, 3, system.dim, dtype=torch.float64, generator=generator)
    if layout == "planes":
        x, v = x.permute(2, 0, 1).contiguous().permute(1, 2, 0), v.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0)
    value, pushed = system.pushforward(x, v)
    wanted, automatic = pushforward(system.step, x, v)
    assert torch.equal(value, wanted)
    assert torch.allclose(pushed, automatic, rtol=1e-13, atol=1e-13 * float(automatic.abs().max()))


def test_henon_shrinks_areas_by_b_and_the_standard_map_keeps_them():
    x = torch.rand(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(2, dtype=torch.float64).expand(9, 2, 2)
    assert torch.allclose(torch.linalg.det(classic.henon(b=0.3).pushforward(x, eye)[1]), torch.tensor(-0.3).double())
    assert torch.allclose(torch.linalg.det(classic.standard_map().pushforward(6 * x, eye)[1]), torch.ones(9).double())


def test_the_standard_map_stays_on_its_torus():
    orbit = trajectory(classic.standard_map(10.0), None, 2000)
    assert orbit.min() >= 0 and orbit.max() < 2 * math.pi
    assert orbit.amax(0).tolist() == pytest.approx([2 * math.pi] * 2, abs=0.05)  # and goes all over it


@pytest.mark.parametrize(("name", "divergence"), [("lorenz63", -(10 + 1 + 8 / 3)), ("lorenz96", -40.0), ("pendulum", 0.0)])
def test_a_fields_divergence_is_the_constant_of_its_formula(name, divergence):
    flow = getattr(classic, name)()
    x = flow.initial_state((6,), seed=2)
    eye = torch.eye(flow.dim, dtype=torch.float64).expand(6, -1, -1)
    trace = flow.field.pushforward(x, eye, 0.0)[1].diagonal(dim1=-2, dim2=-1).sum(-1)
    assert torch.allclose(trace, torch.full((6,), divergence).double(), atol=1e-12)


def test_the_logistic_two_cycle_has_the_multiplier_4_plus_2r_minus_r_squared():
    r = 3.2
    low, high = ((1 + r + s * math.sqrt((r - 3) * (r + 1))) / (2 * r) for s in (-1, 1))
    system, v = classic.logistic(r), torch.ones(1, 1, dtype=torch.float64)
    x, v = system.pushforward(torch.tensor([low], dtype=torch.float64), v)
    assert x.item() == pytest.approx(high)
    x, v = system.pushforward(x, v)
    assert x.item() == pytest.approx(low)
    assert v.item() == pytest.approx(4 + 2 * r - r * r)


def test_lorenz_convection_rolls_lose_stability_at_hopfs_rho():
    """At ρ = σ (σ + β + 3)/(σ − β − 1) the equilibria ±(√(β(ρ−1)), √(β(ρ−1)), ρ−1) have a purely imaginary pair."""
    sigma, beta = 10.0, 8 / 3
    rho = sigma * (sigma + beta + 3) / (sigma - beta - 1)
    side = math.sqrt(beta * (rho - 1))
    rest = torch.tensor([[side, side, rho - 1], [-side, -side, rho - 1], [0, 0, 0]], dtype=torch.float64)
    flow = classic.lorenz63(sigma, rho, beta)
    assert flow.residual(rest).abs().max() < 1e-12
    eye = torch.eye(3, dtype=torch.float64)
    rates = torch.linalg.eigvals(flow.field.pushforward(rest[0], eye, 0.0)[1])
    pair = rates[rates.imag.abs() > 1e-9]
    assert pair.real.abs().max() < 1e-12
    assert pair.imag.abs().max() == pytest.approx(math.sqrt(2 * sigma * beta * (sigma + 1) / (sigma - beta - 1)))


def test_rossler_rests_where_its_quadratic_says():
    a, b, c = 0.2, 0.2, 5.7
    z = (c - math.sqrt(c * c - 4 * a * b)) / (2 * a)
    assert classic.rossler(a, b, c).residual(torch.tensor([a * z, -z, z], dtype=torch.float64)).abs().max() < 1e-14


def test_lorenz96_advection_keeps_energy_and_rests_at_the_forcing():
    """Σ x_i ẋ_i = −Σ x_i² + F Σ x_i."""
    x = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = classic.Lorenz96(8.0)
    power = (x * field(x, 0.0)).sum(-1)
    assert torch.allclose(power, -(x**2).sum(-1) + 8 * x.sum(-1))
    assert field(torch.full((12,), 8.0), 0.0).abs().max() == 0


def test_the_double_pendulum_swings_at_root_2_minus_root_2():
    """Small oscillations of equal pendulums: ω² = (g/l)(2 ± √2)."""
    g, length = 9.81, 0.8
    flow = classic.double_pendulum(l1=length, l2=length, g=g)
    hanging = jacobian(lambda x: flow.residual(x), torch.zeros(4, dtype=torch.float64))
    rates = torch.linalg.eigvals(hanging)
    assert rates.real.abs().max() < 1e-12
    wanted = sorted([math.sqrt(g / length * (2 + s * math.sqrt(2))) for s in (-1, 1)] * 2)
    assert sorted(rates.imag.abs().tolist()) == pytest.approx(wanted)


def test_the_double_pendulum_keeps_its_energy():
    flow = classic.double_pendulum(**UNEQUAL, dt=0.002)
    orbit = trajectory(flow, torch.tensor([2.0, -1.0, 0.5, 1.5], dtype=torch.float64), 1000)
    energy = double_pendulum_energy(orbit, **UNEQUAL)
    assert (energy - energy[0]).abs().max() < 1e-6 * energy[0].abs()


def test_a_light_lower_bob_leaves_the_upper_one_a_plane_pendulum():
    x0 = torch.tensor([1.0, 0.3, 0.0, 0.0], dtype=torch.float64)
    double = trajectory(classic.double_pendulum(m2=1e-12, l2=0.5), x0, 200)
    single = trajectory(classic.pendulum(), x0[::2], 200)
    assert torch.allclose(double[:, ::2], single, atol=1e-9)


@pytest.mark.parametrize("name", ["logistic", "henon", "towel", "lorenz63", "rossler"])
def test_a_system_starts_on_its_attractor(name):
    """A long orbit comes back to the start, nearer than a twentieth of the attractor's spread."""
    system = getattr(classic, name)()
    start = system.initial_state()
    if name == "rossler":  # its orbits part slowly
        system = classic.rossler(dt=0.1)
    orbit = trajectory(system, system.initial_state((500,), seed=1), 400, settle=1000).reshape(-1, system.dim)
    spread = orbit.std(0)
    assert ((orbit - start) / spread).norm(dim=-1).min() < 0.05


@pytest.mark.parametrize("name", ["standard_map", "lorenz96", "pendulum", "double_pendulum"])
def test_a_system_without_a_point_attractor_starts_in_motion(name):
    system = getattr(classic, name)()
    assert trajectory(system, None, 200).std(0).min() > 0.1


def test_a_grid_of_parameters_and_states_is_one_run():
    """3 values of ρ × 2 of σ × 4 states, against 24 runs of Python numbers."""
    rho, sigma = torch.tensor([20.0, 28.0, 100.0]).double(), torch.tensor([8.0, 10.0]).double()
    grid = classic.lorenz63(sigma[:, None, None], rho[:, None])
    x0 = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = torch.eye(3, dtype=torch.float64)[:2]
    front = begin(grid, x0).with_tangents(v.expand(2, 3, 4, 2, 3)).advance(5)
    assert front.x.shape == (2, 3, 4, 3)
    for i, j, s in np.ndindex(2, 3, 4):
        one = begin(classic.lorenz63(float(sigma[i]), float(rho[j])), x0[s]).with_tangents(v).advance(5)
        assert torch.allclose(front.x[i, j, s], one.x, rtol=1e-13)
        assert torch.allclose(front.v[i, j, s], one.v, rtol=1e-13)


@pytest.mark.parametrize("n", [4, 7, 40])
def test_lorenz96_has_as_many_sites_as_asked(n):
    flow = classic.lorenz96(n)
    x = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    assert flow.dim == n
    assert flow.residual(x).tolist() == pytest.approx(lorenz96_rhs(0, x.tolist()))
