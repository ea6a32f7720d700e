"""Phase portraits against closed forms: nullclines, separatrices, manifolds of maps, planes in more dimensions."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.result import Status


def linear_flow(matrix: list[list[float]], dt: float = 0.02) -> sx.Flow:
    weights = torch.tensor(matrix, dtype=torch.float64)
    return sx.Flow(lambda x: x @ weights.mT, len(matrix), dt=dt)


def pendulum(x: Tensor) -> Tensor:
    """H = p²/2 − cos q."""
    q, p = x.unbind(-1)
    return torch.stack([p, -q.sin()], dim=-1)


def double_well(x: Tensor, friction: float = 0.0) -> Tensor:
    """H = p²/2 − q²/2 + q⁴/4."""
    q, p = x.unbind(-1)
    return torch.stack([p, q - q**3 - friction * p], dim=-1)


def known(places: Tensor) -> Tensor:
    return places[torch.isfinite(places).all(-1)]


SQUARE = {"low": (-2, -2), "high": (2, 2), "steps": 50, "resolution": 30}


def test_nullclines_of_a_linear_flow_are_lines_of_known_slope():
    portrait = sx.phase_portrait(linear_flow([[1.0, 2.0], [3.0, -0.7]]), **SQUARE)
    for line, slope in ((portrait.nullcline_1, -1 / 2), (portrait.nullcline_2, 3 / 0.7)):
        x, y = known(line).unbind(-1)
        assert len(x) > 15
        torch.testing.assert_close(y, slope * x, rtol=0, atol=1e-13)  # bisected to the last bit of numbers near 2


def test_nullclines_of_van_der_pol_are_its_cubic_and_its_axis():
    """Liénard's plane: ẋ = μ (x − x³/3 − y), ẏ = x/μ."""

    def field(s: Tensor) -> Tensor:
        return torch.stack([3 * (s[..., 0] - s[..., 0] ** 3 / 3 - s[..., 1]), s[..., 0] / 3], dim=-1)

    portrait = sx.phase_portrait(sx.Flow(field, 2, dt=0.02), low=(-2.5, -1.3), high=(2.5, 1.3), steps=50)
    x, y = known(portrait.nullcline_1).unbind(-1)
    assert float(x.min()) < -2.15 and float(x.max()) > 2.15
    torch.testing.assert_close(y, x - x**3 / 3, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        known(portrait.nullcline_2)[:, 0].abs().max(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_the_separatrix_of_the_pendulum_is_twice_the_cosine_of_half_the_angle():
    """It is p = ±2 cos(q/2), and its energy is 1: it begins 1e-4 windows off the saddle, which is wrong by the square of that."""
    portrait = sx.phase_portrait(sx.Flow(pendulum, 2, dt=0.01), low=(-4, -3), high=(4, 3), resolution=20, steps=600)
    for curves, saddles in ((portrait.stable, portrait.stable_of), (portrait.unstable, portrait.unstable_of)):
        of_window = portrait.rest_places[saddles, 0].abs() < 4
        torch.testing.assert_close(portrait.rest_places[saddles, 0][of_window].abs(), torch.full((4,), math.pi).double())
        q, p = known(curves[of_window]).unbind(-1)
        assert float(p.max()) == pytest.approx(2, abs=1e-4) and float(p.min()) == pytest.approx(-2, abs=1e-4)  # between steps
        torch.testing.assert_close(p.abs(), 2 * (q / 2).cos().abs(), rtol=0, atol=2e-7)
        torch.testing.assert_close(p**2 / 2 - q.cos(), torch.ones_like(q), rtol=0, atol=1e-9)


def test_both_manifolds_of_the_double_well_are_its_homoclinic_loops():
    """They are q = ±√2 sech t: of energy 0, turning at √2, once around and back to the saddle."""
    portrait = sx.phase_portrait(sx.Flow(double_well, 2, dt=0.02), low=(-2, -1.5), high=(2, 1.5), resolution=20, steps=600)
    assert portrait.rest.kind == ("centre", "centre", "saddle with 1 unstable direction")
    for curves in (portrait.stable, portrait.unstable):
        for branch in curves:
            q, p = known(branch).unbind(-1)
            energy = p**2 / 2 - q**2 / 2 + q**4 / 4
            torch.testing.assert_close(energy, torch.zeros_like(q), rtol=0, atol=1e-7)
            assert float(q.abs().max()) == pytest.approx(math.sqrt(2), abs=1e-4)
            assert float(branch[-200:].nan_to_num(9.0).norm(dim=-1).min()) < 0.01


def test_with_friction_the_separatrix_parts_the_two_wells():
    """States a little to either side of the stable manifold end in different wells."""
    system = sx.Flow(lambda x: double_well(x, 0.3), 2, dt=0.02)
    portrait = sx.phase_portrait(system, low=(-2, -1.5), high=(2, 1.5), resolution=20, steps=400)
    branch = known(portrait.stable[0])
    at = branch[(branch[:, 0].abs() < 1.5) & (branch[:, 1].abs() < 1.2)][300]
    normal = double_well(at, 0.3).flip(-1) * torch.tensor([1.0, -1.0])
    normal = normal / normal.norm()
    ends = sx.trajectory(system, torch.stack([at + 1e-3 * normal, at - 1e-3 * normal]), 4_000)[-1, :, 0]
    torch.testing.assert_close(
        ends.sort().values, torch.tensor([-1.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-4
    )  # e^(−0.15·80)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_manifolds_of_a_map_are_its_invariant_parabolas(sign):
    """(x, y) → (±2x, y/2 + x²): y = c x² is kept where 4c = c/2 + 1; the other manifold is x = 0."""

    def field(s: Tensor) -> Tensor:
        return torch.stack([sign * 2 * s[..., 0], s[..., 1] / 2 + s[..., 0] ** 2], dim=-1)

    portrait = sx.phase_portrait(sx.Map(field, 2), low=(-2, -2), high=(2, 2), steps=20, resolution=20)
    assert not portrait.is_flow
    both = known(portrait.unstable)
    x, y = both.unbind(-1)
    assert float(x.min()) < -2 and float(x.max()) > 2
    torch.testing.assert_close(y, 2 / 7 * x**2, rtol=0, atol=1e-6)
    x, y = known(portrait.stable).unbind(-1)
    assert float(y.min()) < -2 and float(y.max()) > 2
    torch.testing.assert_close(x, torch.zeros_like(x), rtol=0, atol=1e-9)


def test_the_stable_manifold_of_a_map_is_found_by_inverse_images():
    """(x, y) → (2x + y², y/2): x = c y² is kept where c/4 = 2c + 1."""

    def field(s: Tensor) -> Tensor:
        return torch.stack([2 * s[..., 0] + s[..., 1] ** 2, s[..., 1] / 2], dim=-1)

    portrait = sx.phase_portrait(sx.Map(field, 2), low=(-2, -2), high=(2, 2), steps=20, resolution=20)
    x, y = known(portrait.stable).unbind(-1)
    assert float(y.min()) < -1.9 and float(y.max()) > 1.9
    torch.testing.assert_close(x, -4 / 7 * y**2, rtol=0, atol=1e-6)


def test_the_manifold_of_a_slow_saddle_reaches_the_window_s_edge():
    """(x, y) → (1.03 x, 0.97 y): 311 steps from 1e-4 windows to one."""
    portrait = sx.phase_portrait(sx.Map(lambda x: x * torch.tensor([1.03, 0.97]).double(), 2), **SQUARE)
    for curves, axis in ((portrait.unstable, 0), (portrait.stable, 1)):
        places = known(curves)
        assert float(places[:, axis].abs().max()) > 2
        assert float(places[:, 1 - axis].abs().max()) < 1e-12


def test_fixed_points_have_the_kinds_of_their_jacobians():
    portrait = sx.phase_portrait(sx.Flow(lambda x: double_well(x, 0.3), 2, dt=0.02), **SQUARE)
    kinds = {round(float(place[0])): kind for place, kind in zip(portrait.rest_places, portrait.rest.kind, strict=True)}
    assert kinds == {-1: "stable focus", 1: "stable focus", 0: "saddle with 1 unstable direction"}
    assert float(portrait.rest_away.max()) == 0


def test_the_field_is_the_flow_s_and_has_its_divergence():
    """∂ẋ/∂x + ∂ẏ/∂y = −0.3, by differences that are exact: the field is of degree 3 in q alone, of degree 1 in p."""
    portrait = sx.phase_portrait(sx.Flow(lambda x: double_well(x, 0.3), 2, dt=0.02), **SQUARE)
    along_p = portrait.field[:, 1:, 1] - portrait.field[:, :-1, 1]
    slope = along_p / (portrait.second[1:] - portrait.second[:-1])
    torch.testing.assert_close(slope, torch.full_like(slope, -0.3), rtol=0, atol=1e-12)
    torch.testing.assert_close(portrait.field[..., 0], portrait.second.expand(30, 30), rtol=0, atol=1e-15)


def test_a_portrait_does_not_depend_on_the_solver():
    euler, rk4 = (sx.phase_portrait(sx.Flow(pendulum, 2, dt=0.01, method=name), **SQUARE) for name in ("euler", "rk4"))
    for name in ("field", "nullcline_1", "orbits", "stable", "rest_places"):
        torch.testing.assert_close(getattr(euler, name), getattr(rk4, name), rtol=0, atol=1e-9, equal_nan=True)


def test_the_share_that_leaves_a_plane_is_that_of_the_field():
    """ẋ = −x, ẏ = −y, ż = x − z over the plane z = 0: the share is |x| / √(2x² + y²)."""
    portrait = sx.phase_portrait(
        linear_flow([[-1.0, 0, 0], [0, -1, 0], [1, 0, -1]]), plane=((0.0,) * 3, (1.0, 0, 0), (0, 1.0, 0)), **SQUARE
    )
    x, y = torch.meshgrid(portrait.first, portrait.second, indexing="ij")
    torch.testing.assert_close(portrait.leaving, x.abs() / (2 * x**2 + y**2).sqrt(), rtol=0, atol=1e-14)
    torch.testing.assert_close(portrait.speed, (2 * x**2 + y**2).sqrt(), rtol=0, atol=1e-14)


def test_the_field_in_a_plane_of_skew_axes_is_along_these_axes():
    """ẋ = A x with two eigenvectors as axes: in their coordinates the field is diagonal."""
    first, second = torch.tensor([1.0, 2, 0, 1]).double(), torch.tensor([3.0, 2, 0, 0.5]).double()
    basis = torch.stack([first, second, *torch.eye(4, dtype=torch.float64)[2:]], dim=1)
    matrix = basis @ torch.diag(torch.tensor([-1.0, 0.5, -3, -4]).double()) @ torch.linalg.inv(basis)
    portrait = sx.phase_portrait(linear_flow(matrix.tolist()), plane=(torch.zeros(4), first, second), **SQUARE)
    a, b = torch.meshgrid(portrait.first, portrait.second, indexing="ij")
    torch.testing.assert_close(portrait.field, torch.stack([-a, b / 2], dim=-1), rtol=0, atol=1e-12)
    assert float(portrait.leaving.max()) < 1e-12
    torch.testing.assert_close(
        known(portrait.nullcline_1)[:, 0].abs().max(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_the_principal_plane_is_that_of_the_settled_orbits():
    """Two slow directions of a cycle in a rotated space of 6, four fast ones that die out: the plane is that of the cycle."""
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]

    def field(x: Tensor) -> Tensor:
        z = x @ turn
        p, q = z[..., 0], z[..., 1]
        grow = 1 - p**2 - q**2
        return torch.cat([torch.stack([p * grow - q, q * grow + p], dim=-1), -5 * z[..., 2:]], dim=-1) @ turn.mT

    x0 = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    portrait = sx.phase_portrait(sx.Flow(field, 6, dt=0.05), x0, steps=400, resolution=20)
    torch.testing.assert_close(portrait.axes @ portrait.axes.mT, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float((portrait.axes @ turn[:, 2:]).abs().max()) < 1e-8
    radius = (portrait.origin @ portrait.axes.mT + portrait.orbits[-1]).norm(dim=-1)
    torch.testing.assert_close(radius, torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-6)  # e^(−2·20) of it is left
    assert float(portrait.leaving.max()) < 1e-3
    assert all("principal component" in label for label in portrait.labels)


def test_a_network_is_frozen_at_the_input_of_step_n():
    """tanh(W h + V u_n + b) − h, u_n that of the step asked for."""
    torch.manual_seed(0)
    module, inputs = nn.RNN(3, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    portrait = sx.testing.check_module_untouched(
        module, lambda: sx.phase_portrait(sx.Recurrent(module, inputs), n=3, low=(-1, -1), high=(1, 1), resolution=12, steps=30)
    )
    h = torch.stack(torch.meshgrid(portrait.first, portrait.second, indexing="ij"), dim=-1)
    with torch.no_grad():
        drive = inputs[3] @ module.weight_ih_l0.mT + module.bias_ih_l0 + module.bias_hh_l0
        wanted = torch.tanh(h @ module.weight_hh_l0.mT + drive) - h
    torch.testing.assert_close(portrait.field, wanted, rtol=0, atol=1e-14)
    assert portrait.orbits.shape == (31, 16, 2)  # beyond the five inputs: the last is kept


def test_a_time_dependent_flow_is_frozen_at_its_time():
    portrait = sx.phase_portrait(sx.classic.duffing(dt=0.1), n=7, **SQUARE)
    q, u = torch.meshgrid(portrait.first, portrait.second, indexing="ij")
    wanted = 0.5 * math.cos(1.2 * 0.7) - 0.3 * u + q - q**3
    torch.testing.assert_close(portrait.field[..., 1], wanted, rtol=0, atol=1e-13)


def test_a_jump_is_not_a_nullcline():
    """F(x) − x = ±1 changes its sign at 0.3 without being zero."""

    def field(s: Tensor) -> Tensor:
        return torch.stack([s[..., 0] + torch.where(s[..., 0] > 0.3, 1.0, -1.0), s[..., 1] / 2], dim=-1)

    portrait = sx.phase_portrait(sx.Map(field, 2), **SQUARE)
    assert len(known(portrait.nullcline_1)) == 0
    assert float(known(portrait.nullcline_2)[:, 1].abs().max()) < 1e-12


def test_a_diverging_orbit_is_marked_and_leaves_the_others_alone():
    x0 = torch.tensor([[0.1, 0.1], [1e3, 1e3], [0.3, -0.2]], dtype=torch.float64)
    portrait = sx.phase_portrait(sx.classic.henon(), x0, steps=40)
    assert portrait.codes.tolist() == [Status.OK, Status.DIVERGED, Status.OK]
    assert bool(torch.isfinite(portrait.orbits[:, [0, 2]]).all()) and bool(portrait.orbits[-1, 1].isnan().all())
    assert float(portrait.first[0]) > -2 and float(portrait.first[-1]) < 2
    torch.testing.assert_close(portrait.orbits[:, 0], sx.trajectory(sx.classic.henon(), x0[0], 40), rtol=0, atol=0)
    with pytest.raises(sx.errors.DivergedError, match=r"1 of 3 items.*\(1,\)"):
        sx.phase_portrait(sx.classic.henon(), x0, steps=40, resolution=10, throw=True)


def test_a_default_window_holds_orbits_and_the_fixed_points_near_them():
    portrait = sx.phase_portrait(sx.classic.lorenz63(), plane=(0, 2), steps=500)
    assert len(portrait.rest.points) == 3
    for places in (portrait.orbits.reshape(-1, 2), portrait.rest_places):
        for axis, ends in enumerate((portrait.first, portrait.second)):
            assert float(ends[0]) <= float(places[:, axis].min()) and float(places[:, axis].max()) <= float(ends[-1])
    assert portrait.labels == ("state x₁", "state x₃")


def test_a_portrait_saves_and_loads(tmp_path):
    portrait = sx.phase_portrait(linear_flow([[-1.0, 0, 0], [0, -1, 0], [1, 0, 2]]), **SQUARE)
    again = sx.results.PhasePortrait.load(portrait.save(tmp_path / "portrait"))
    for name in portrait.layout:
        torch.testing.assert_close(getattr(again, name), getattr(portrait, name), rtol=0, atol=0, equal_nan=True)
    assert again.rest.kind == portrait.rest.kind and again.labels == portrait.labels and again.is_flow
    assert again.summary() == portrait.summary()
    assert "leaves the plane" in portrait.summary() and "saddle" in portrait.summary()
    assert portrait.to_dataset()["orbits"].dims[0] == "time"


def test_float32_states_give_a_float32_portrait():
    portrait = sx.phase_portrait(sx.Flow(pendulum, 2, dt=0.01), torch.tensor([[1.0, 0.0]]), **SQUARE)
    assert portrait.field.dtype == portrait.orbits.dtype == portrait.nullcline_1.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"plane": (0, 3)}, "plane is 3; .* 0 to 2"),
        ({"plane": (1, 1)}, "1 and 1"),
        ({"plane": (0, -1)}, "plane is -1; .* 0 to 2"),
        ({"plane": (0, 0.5)}, r"0\.5"),
        ({"plane": "tangent"}, "'tangent'"),
        ({"plane": 3}, "plane.* int"),
        ({"plane": ((0, 0, 0), (0, 0, 0), (0, 1, 0))}, "0 and 1 in 3"),
        ({"plane": ((0, 0, 0), (0, 2, 0), (0, -1, 0))}, "parallel.* 0"),
        ({"plane": ((0, 0, 0), (1, 0), (0, 1, 0))}, r"axis 1 .*\(3,\).*\(2,\)"),
        ({"plane": ((0, 0, math.nan), (1, 0, 0), (0, 1, 0))}, "1 of 3 .*origin"),
        ({"plane": (None, (1, 0, 0), (0, 1, 0))}, "origin .*None"),
        ({"resolution": 1}, "resolution is 1; .* 2"),
        ({"steps": 0}, "steps is 0; .* 1"),
        ({"settle": -1}, "settle is -1; .* 0"),
        ({"low": (0, 0, 0)}, r"low.*\(0, 0, 0\)"),
        ({"low": (0, math.nan)}, "low.*nan"),
        ({"high": 3}, "high.* 3"),
        ({"high": "ab"}, "high.* 'ab'"),
        ({"x0": "ab"}, "x0"),
        ({"guesses": torch.zeros(0, 3)}, "guesses"),
        ({"low": (1, 0), "high": (1, 1)}, "1 to 1"),
        ({"n": -1}, "n is -1"),
        ({"seed": -1}, "seed.* -1"),
    ],
)
def test_bad_input_is_refused_in_two_lines_at_most(options, numbers):
    with pytest.raises(sx.SeparatrixError, match=numbers) as error:
        sx.phase_portrait(linear_flow([[-1.0, 0, 0], [0, -1, 0], [1, 0, -1]]), **options)
    assert len(str(error.value).splitlines()) <= 2


def test_a_plane_may_be_a_tensor():
    system = linear_flow([[-1.0, 0, 0], [0, -1, 0], [1, 0, -1]])
    one, other = (
        sx.phase_portrait(system, plane=plane, **SQUARE) for plane in (torch.eye(3)[[2, 0, 1]], ((0, 0, 1), (1, 0, 0), (0, 1, 0)))
    )
    torch.testing.assert_close(one.field, other.field, rtol=0, atol=0)
    with pytest.raises(sx.errors.HorizonError, match="9"):
        sx.phase_portrait(sx.Recurrent(nn.RNN(3, 2), torch.zeros(5, 3)), n=9)


def test_systems_without_a_plane_are_refused():
    with pytest.raises(sx.errors.InputError, match=r"2 .*Logistic.* 1"):
        sx.phase_portrait(sx.classic.logistic())
    with pytest.raises(sx.errors.UnsupportedModuleError):
        sx.phase_portrait(nn.Linear(2, 2))
    with pytest.raises(sx.errors.ShapeError, match=r"\(2,\)"):
        sx.phase_portrait(sx.classic.henon(a=torch.tensor([1.0, 1.4])))
    with pytest.raises(sx.errors.InputError, match="principal plane"):
        sx.phase_portrait(linear_flow([[-1.0, 0, 0], [0, -1, 0], [0, 0, -1]]), torch.zeros(3, dtype=torch.float64))
