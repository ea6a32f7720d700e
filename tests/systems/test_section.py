"""Poincaré sections: where and when a flow comes back, and how its neighbours do, against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import ellipk
from torch import Tensor, nn

import separatrix as sx
from known_cycles import Hopf, Twisted
from separatrix.core.components import components
from separatrix.core.derived import Derived
from separatrix.flows.events.crossing import next_crossing

OMEGA = 1.7
ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4, "leapfrog": 2, "yoshida4": 4, "implicit_midpoint": 2}


def oscillator(dt: float = 0.01, method: str = "rk4") -> sx.Flow:
    """q̈ = −ω² q."""
    return sx.Flow(lambda x: components(x[..., 1], -(OMEGA**2) * x[..., 0]), 2, dt, method=method, start=(1.0, 0.3))


def swing(dt: float, method: str = "rk4") -> sx.Flow:
    """A pendulum θ̈ = −sin θ."""
    return sx.Flow(lambda x: components(x[..., 1], -x[..., 0].sin()), 2, dt, method=method, start=(1.0, 0.0))


def lorenz(x: Tensor) -> Tensor:
    p, q, r = x.unbind(-1)
    return components(10 * (q - p), p * (28 - r) - q, p * q - 8 / 3 * r)


def order(steps: list[int], errors: list[float]) -> float:
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_an_oscillator_comes_back_after_its_period_to_where_it_was():
    section = sx.Section(oscillator(0.005), 0)
    x = column(0.5, 1.0, 3.0)
    torch.testing.assert_close(section.step(x), x, rtol=1e-9, atol=0)
    torch.testing.assert_close(section.elapsed(x), torch.full((3,), 2 * math.pi / OMEGA, dtype=torch.float64), rtol=1e-9, atol=0)


def test_a_pendulum_returns_after_four_times_the_elliptic_integral():
    """θ̈ = −sin θ, released at θ₀: the period is 4 K(sin θ₀/2); it passes θ = 0 at the speed 2 sin θ₀/2."""
    k = torch.tensor([0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    section = sx.Section(swing(0.005), 0)
    expected = torch.from_numpy(4 * ellipk(k.numpy() ** 2))
    torch.testing.assert_close(section.elapsed(2 * k[:, None]), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", ORDERS)
def test_the_return_converges_at_the_solver_s_order_in_place_and_time(method):
    """Closed forms: the pendulum's period, and the speed, which it keeps."""
    k, steps = 0.6, [40, 80, 160, 320]
    times, places = [], []
    for count in steps:
        section = sx.Section(swing(8.0 / count, method), 0)
        x = torch.tensor([2 * k], dtype=torch.float64)
        times.append(abs(float(section.elapsed(x)) - 4 * ellipk(k**2)))
        places.append(abs(float(section.step(x)) - 2 * k))
    assert order(steps, times) == pytest.approx(ORDERS[method], abs=0.35)
    assert order(steps, places) > ORDERS[method] - 0.35  # energy may be kept better than the order


def test_a_crossing_is_on_the_solver_s_own_orbit_and_on_the_plane():
    """Whole steps of the flow and one of the length that is left, taken by a flow of that dt, end there."""
    flow = sx.Flow(lorenz, 3, 0.01, start=(1.0, 2.0, 20.0))
    section = sx.Section(flow, normal=(0.3, -0.2, 1.0), offset=25.0)
    u = sx.trajectory(section, None, 3)[-1]
    time, x = float(section.elapsed(u)), section.embed(u)
    whole = int(time / 0.01)
    for _ in range(whole):
        x = flow.step(x)
    x = sx.Flow(lorenz, 3, time - whole * 0.01).step(x)
    assert abs(float(x @ torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)) - 25) < 1e-10
    torch.testing.assert_close(section.embed(section.step(u)), x, rtol=0, atol=1e-10)


def test_the_map_is_that_of_an_independent_integrator_with_events():
    """SciPy's DOP853 at 1e-13, Lorenz's z = 27 upwards; RK4 at dt = 0.001 is off by less than 1e-8 over one return."""
    section = sx.Section(sx.Flow(lorenz, 3, 0.001), 2, offset=27.0)
    u = torch.tensor([12.7, 17.3], dtype=torch.float64)

    def slope(t, y):
        return lorenz(torch.from_numpy(y)).numpy()

    def event(t, y):
        return y[2] - 27

    event.terminal, event.direction = True, 1
    fine = {"method": "DOP853", "rtol": 1e-13, "atol": 1e-13}
    away = solve_ivp(slope, (0, 0.1), [12.7, 17.3, 27.0], **fine).y[:, -1]
    found = solve_ivp(slope, (0.1, 5), away, events=event, **fine)
    np.testing.assert_allclose(section.step(u).numpy(), found.y_events[0][0][:2], atol=1e-8)
    assert float(section.elapsed(u)) == pytest.approx(found.t_events[0][0], abs=1e-9)


def test_the_derivative_of_a_linear_flow_s_return_is_the_projected_exponential():
    """DF = P (1 − f nᵀ / n·f) e^{Aτ}, with f = A x at the crossing."""
    a = torch.tensor([[-0.1, -2.0, 0.0], [2.0, -0.1, 0.5], [0.3, 0.0, -0.4]], dtype=torch.float64)
    section = sx.Section(sx.Flow(lambda x: x @ a.mT, 3, 0.002), 1, offset=0.1)
    u = torch.tensor([2.0, 0.3], dtype=torch.float64)
    after, rows = section.pushforward(u, torch.eye(2, dtype=torch.float64))
    f = a @ section.embed(after)
    projected = torch.eye(3, dtype=torch.float64) - torch.outer(f, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)) / f[1]
    wanted = (projected @ torch.linalg.matrix_exp(a * section.elapsed(u)))[[0, 2]][:, [0, 2]]
    torch.testing.assert_close(rows.mT, wanted, rtol=0, atol=1e-9)


def test_an_axis_keeps_the_other_components_in_their_order():
    section = sx.Section(sx.Flow(lorenz, 3, 0.01), 1, offset=5.0)
    assert section.embed(torch.tensor([1.0, 3.0], dtype=torch.float64)).tolist() == [1.0, 5.0, 3.0]
    assert section.project(torch.tensor([1.0, 9.0, 3.0], dtype=torch.float64)).tolist() == [1.0, 3.0]
    assert torch.equal(section.unpack(torch.ones(2).double()), section.embed(torch.ones(2).double()))


@pytest.mark.parametrize("normal", [(1.0, 2.0, -2.0), (0.0, 0.0, -3.0), (1e-9, 1.0, 0.0)])
def test_the_coordinates_of_a_plane_are_orthonormal_and_on_it(normal):
    section = sx.Section(sx.Flow(lorenz, 3, 0.01), normal=normal, offset=4.0)
    n, u = (
        torch.tensor(normal, dtype=torch.float64),
        torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    x = section.embed(u)
    torch.testing.assert_close(x @ n, torch.full((5,), 4.0, dtype=torch.float64), rtol=1e-14, atol=0)
    torch.testing.assert_close(section.project(x), u, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.cdist(x, x), torch.cdist(u, u), rtol=1e-12, atol=1e-12)


def test_a_rotation_of_the_space_changes_no_return_time_and_no_multiplier():
    """The plane n·x = c of ẋ = f(x) and Rn·x = c of ẋ = R f(Rᵀx) are one section."""
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    plain = sx.Section(sx.Flow(lorenz, 3, 0.01), 2, offset=27.0)
    turned = sx.Section(sx.Flow(lambda x: lorenz(x @ rotation) @ rotation.mT, 3, 0.01), normal=rotation[:, 2], offset=27.0)
    u = torch.tensor([12.7, 17.3], dtype=torch.float64)
    w = turned.project(plain.embed(u) @ rotation.mT)
    assert float(turned.elapsed(w)) == pytest.approx(float(plain.elapsed(u)), abs=1e-10)
    jacobians = [s.pushforward(y, torch.eye(2, dtype=torch.float64))[1] for s, y in ((plain, u), (turned, w))]
    assert torch.linalg.svdvals(jacobians[0])[0] == pytest.approx(float(torch.linalg.svdvals(jacobians[1])[0]), rel=1e-9)


def test_the_start_is_no_crossing_and_the_direction_is_kept():
    """Upwards through q = 0 once a period, downwards half a period later; a start that leaves downwards rises half a period on."""
    period, up, down = 2 * math.pi / OMEGA, column(1.0), column(-1.0)
    sections = {direction: sx.Section(oscillator(), 0, direction=direction) for direction in (1, -1, 0)}
    for direction, start, share in ((1, up, 1), (-1, down, 1), (1, down, 0.5), (-1, up, 0.5), (0, up, 0.5), (0, down, 0.5)):
        assert float(sections[direction].elapsed(start)) == pytest.approx(share * period, rel=1e-8)
    torch.testing.assert_close(sections[0].step(up), down, rtol=0, atol=1e-8)


def test_a_crossing_at_the_very_end_of_a_step_counts_once():
    """ẋ = 1, ẏ = 1 modulo nothing: a clock whose hand g = sin is 0 after whole steps; here a triangle wave of exact numbers."""
    clock = sx.Flow(lambda x: torch.stack([torch.ones_like(x[..., 0]), 0 * x[..., 1]], dim=-1), 2, 0.25, start=(-1.0, 0.0))
    found = next_crossing(
        clock, sx.Section(clock, 0).plane, column(-1.0) * torch.ones(2).double(), direction=1, max_steps=10, leaving=False
    )
    assert found.time.tolist() == [1.0]


def test_the_exponents_of_a_section_are_the_flow_s_without_its_zero():
    """On the twisted cycle the flow's are 0, μ and −1."""
    section = sx.Section(sx.Flow(Twisted(-0.1), 3, 0.1, start=(1.01, 0.0, 0.0)), 1)
    spectrum = sx.lyapunov_spectrum(section, steps=20, settle=20)
    assert spectrum.exponents.tolist() == pytest.approx([-0.1, -1.0], abs=2e-4)


def test_a_chaotic_section_parts_neighbours_as_fast_as_the_flow():
    """Lorenz's λ₁ along z = 27 and along the flow, 16 runs each."""
    flow = sx.classic.lorenz63()
    section = sx.Section(flow, 2, offset=27.0)
    cut = sx.lyapunov_spectrum(section, section.initial_state((16,)), k=1, steps=40, settle=10).pooled()
    whole = sx.lyapunov_spectrum(flow, flow.initial_state((16,)), k=1, steps=3_000, settle=500).pooled()
    error = math.hypot(float(cut.stderr[0]), float(whole.stderr[0]))
    assert abs(float(cut.exponents[0] - whole.exponents[0])) < 4 * error < 0.2


class Unclocked(Derived):
    """The same map, a unit of time each step."""

    def elapsed(self, x: Tensor, n: int = 0) -> float:
        return 1.0


def test_exponents_per_return_are_those_per_time_times_the_mean_return_time():
    section = sx.Section(sx.classic.lorenz63(dt=0.02), 2, offset=27.0)
    start = sx.trajectory(section, None, 3)[-1]
    per_time, per_return = (sx.lyapunov_spectrum(s, start, steps=20, settle=0, every=1) for s in (section, Unclocked(section)))
    mean = sum(float(section.elapsed(u)) for u in sx.trajectory(section, start, 19)) / 20
    torch.testing.assert_close(per_time.exponents * mean, per_return.exponents, rtol=1e-10, atol=0)


def test_gradients_reach_the_parameters_through_the_return_and_its_time():
    """The cycle of the Hopf normal form: T = 2π/ω, so dT/dω = −2π/ω² and d²T/dω² = 4π/ω³; dF/dr = e^{−4πμ/ω}."""
    omega = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    section = sx.Section(sx.Flow(Hopf(omega=omega), 2, 0.01), 1)
    x = torch.tensor([math.sqrt(0.3)], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(section.elapsed(x), omega, create_graph=True)
    (second,) = torch.autograd.grad(first, omega)
    assert float(first.detach()) == pytest.approx(-2 * math.pi / 4, rel=1e-7)
    assert float(second) == pytest.approx(4 * math.pi / 8, rel=1e-6)
    (slope,) = torch.autograd.grad(section.step(x), x)
    assert float(slope) == pytest.approx(math.exp(-4 * math.pi * 0.3 / 2), rel=1e-7)


class Counting(Hopf):
    """Says how often it was asked."""

    calls = 0

    def forward(self, x: Tensor, t: float) -> Tensor:
        Counting.calls += 1
        return super().forward(x, t)


def test_the_return_time_of_a_state_just_stepped_costs_nothing():
    section, x = sx.Section(sx.Flow(Counting(), 2, 0.05), 1), column(0.6, 0.7)
    v = torch.ones(2, 1, 1, dtype=torch.float64)
    for first, then in ((section.step, section.elapsed), (section.elapsed, section.step)):
        y = x.clone()
        first(y)
        before = Counting.calls
        then(y)
        assert Counting.calls == before
    y = x.clone()
    section.pushforward(y, v)
    before = Counting.calls
    time = section.elapsed(y)
    assert Counting.calls == before
    torch.testing.assert_close(time, sx.Section(sx.Flow(Hopf(), 2, 0.05), 1).elapsed(x), rtol=0, atol=1e-12)


def test_what_is_remembered_is_forgotten_when_anything_it_came_from_changes():
    """Other parameters, a state or a weight changed in place, a result written to: the answer is the one of now."""
    section, x = sx.Section(sx.Flow(Hopf(), 2, 0.05), 1), column(0.6)
    period = float(section.elapsed(x))
    assert float(section.at(omega=4.0).elapsed(x)) == pytest.approx(period / 2, rel=1e-4)
    section.step(x).mul_(0)
    assert float(section.step(x)) > 0.5
    x.add_(0.1)
    assert torch.equal(section.step(x), section.step(x.clone()))
    layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        turning = sx.Section(sx.Flow(layer, 2, 0.01), 1)
        assert float(turning.elapsed(x)) == pytest.approx(2 * math.pi, rel=1e-8)
        layer.weight.mul_(2)
        assert float(turning.elapsed(x)) == pytest.approx(math.pi, rel=1e-6)


def test_the_twisted_field_s_tangents_are_those_of_forward_ad():
    x, v = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = Twisted(-0.1)
    torch.testing.assert_close(
        field.pushforward(x, v[:, None], 0.0)[1][:, 0], torch.func.jvp(lambda y: field(y, 0.0), (x,), (v,))[1]
    )


@pytest.mark.parametrize("direction", [1, 0])
def test_a_section_conforms(direction):
    sx.testing.check_system(
        sx.Section(sx.Flow(Hopf(), 2, 0.1, start=(0.7, 0.2)), 1, offset=0.1, direction=direction, max_steps=100)
    )


def test_an_oblique_section_with_closed_form_tangents_conforms():
    sx.testing.check_system(sx.Section(sx.classic.lorenz63(dt=0.02), normal=(0.1, 0.2, 1.0), offset=25.0, max_steps=200))


def test_an_offset_for_each_item_is_a_section_for_each():
    offsets = torch.tensor([20.0, 25.0, 30.0], dtype=torch.float64)
    flow = sx.Flow(lorenz, 3, 0.01, start=(1.0, 2.0, 20.0))
    together = sx.trajectory(sx.Section(flow, 2, offset=offsets), None, 3)
    for i, offset in enumerate(offsets.tolist()):
        alone = sx.trajectory(sx.Section(flow, 2, offset=offset), sx.Section(flow, 2, offset=offsets).initial_state((3,))[i], 3)
        torch.testing.assert_close(together[:, i], alone, rtol=0, atol=1e-9)


def escaping(x: Tensor) -> Tensor:
    """q̈ = −q + q²: what passes q = 0 faster than 1/√3 leaves the well and never comes back."""
    return components(x[..., 1], x[..., 0] ** 2 - x[..., 0])


def test_an_item_that_never_returns_is_nan_from_there_on_and_disturbs_no_other():
    section, x = sx.Section(sx.Flow(escaping, 2, 0.05), 0, max_steps=500), column(0.3, 0.9, 0.5)  # a turn is some 130 steps
    orbit = sx.trajectory(section, x, 4)
    assert torch.isfinite(orbit[:, [0, 2]]).all()
    assert torch.isnan(orbit[1:, 1]).all()
    torch.testing.assert_close(orbit[:, [0, 2]], sx.trajectory(section, x[[0, 2]], 4), rtol=0, atol=1e-13)
    spectrum = sx.lyapunov_spectrum(section, x, steps=10, settle=2)
    assert spectrum.status.tolist()[1] == "diverged" and int(spectrum.failed_at[1]) == 0
    assert "diverged" not in (spectrum.status.tolist()[0], spectrum.status.tolist()[2])


def test_a_section_never_crossed_is_one_line_with_the_range_that_is():
    with pytest.raises(
        sx.errors.InputError, match=r"n·x = 3 was not crossed upwards: from the flow's start, n·x stayed within -1\.\d+ … 1\."
    ):
        sx.lyapunov_spectrum(sx.Section(oscillator(), 0, offset=3.0, max_steps=1_000))
    with pytest.raises(sx.errors.InputError, match=r"was not crossed upwards: from x0, n·x stayed within -?\d.*\nMove the offset"):
        sx.trajectory(sx.Section(sx.Flow(lambda x: -x, 2, 0.1), 0, offset=3.0, max_steps=500), torch.ones(1).double(), 2)


def test_a_field_that_depends_on_time_is_refused_with_the_way_out():
    with pytest.raises(sx.errors.InputError, match=r"depends on time: .*\n.*sx.Stroboscopic"):
        sx.trajectory(sx.Section(sx.classic.duffing(), 0), torch.ones(1).double(), 2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "either axis or normal, got neither"),
        ({"axis": 0, "normal": (1.0, 0.0)}, "got both"),
        ({"axis": 2}, "axis is 2; .* 0 to 1"),
        ({"axis": 0.5}, "axis is 0.5"),
        ({"normal": (1.0, 0.0, 0.0)}, r"normal has shape \(3,\)"),
        ({"normal": (0.0, 0.0)}, "finite and nonzero"),
        ({"normal": (math.nan, 1.0)}, "finite and nonzero"),
        ({"normal": "x"}, "normal cannot be read"),
        ({"axis": 0, "offset": math.nan}, "offset is nan"),
        ({"axis": 0, "direction": 2}, "direction is 2"),
        ({"axis": 0, "max_steps": 0}, "max_steps is 0"),
    ],
)
def test_a_plane_that_is_none_is_refused_in_one_line(options, told):
    with pytest.raises(sx.SeparatrixError, match=told):
        sx.Section(oscillator(), **options)


def test_only_a_flow_of_two_numbers_or_more_has_sections():
    with pytest.raises(sx.errors.UnsupportedModuleError, match=r"a section .* Henon"):
        sx.Section(sx.classic.henon(), 0)
    with pytest.raises(sx.errors.ShapeError, match="at least 2 components; this one has 1"):
        sx.Section(sx.Flow(torch.sin, 1, 0.1), 0)
