"""Finite-time exponents against closed forms, identities of area-preserving maps, exact arithmetic and dense Jacobians."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix import plot
from separatrix.core.tangent import jacobian


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(matrix: torch.Tensor) -> sx.Map:
    return sx.Map(lambda x: x @ matrix.mT, len(matrix))


class Kicked(sx.System):
    """The standard map on the plane, unwrapped, or its inverse."""

    def __init__(self, K: float = 1.3, back: bool = False) -> None:
        super().__init__(dim=2)
        self.K, self.back = K, back

    def step(self, x: torch.Tensor, n: int = 0) -> torch.Tensor:
        theta, p = x.unbind(-1)
        if self.back:
            theta = theta - p
            return torch.stack([theta, p - self.K * theta.sin()], dim=-1)
        p = p + self.K * theta.sin()
        return torch.stack([theta + p, p], dim=-1)


def swirl(x: torch.Tensor, n: int) -> torch.Tensor:
    """A time-dependent map of 5 numbers."""
    turn = torch.sin(torch.arange(25, dtype=x.dtype).reshape(5, 5) * (1 + 0.3 * n))
    return torch.tanh(x @ turn.mT) + 0.4 * x


def test_a_diagonal_map_has_the_logarithms_of_its_diagonal_however_far_they_are_apart():
    """σ_1/σ_4 is e^6,900 after 1,000 steps, and no product of the Jacobians holds it."""
    rates = torch.tensor([2.0, -0.5, -0.5, -4.9], dtype=torch.float64)
    field = sx.finite_time_lyapunov(
        linear(torch.diag(rates.flip(0).exp())), torch.zeros(3, 4, dtype=torch.float64), steps=1_000, k=4
    )
    assert torch.allclose(field.exponents, rates.expand(3, 4), rtol=0, atol=1e-12)


def test_a_power_of_a_matrix_has_the_singular_values_of_exact_arithmetic():
    """An integer matrix of determinant 1 to the 60th: its exact power, and its Gram matrix's eigenvalues by Newton's sums."""
    a, b = [[2, 1], [1, 1]], [[1, 0], [0, 1]]
    shear = [[1, 3], [0, 1]]
    m = [[sum(a[i][k] * shear[k][j] for k in range(2)) for j in range(2)] for i in range(2)]
    for _ in range(60):
        b = [[sum(m[i][k] * b[k][j] for k in range(2)) for j in range(2)] for i in range(2)]
    frobenius = sum(entry * entry for row in b for entry in row)  # σ² + 1/σ², an exact integer
    exact = math.log(frobenius) / 2
    field = sx.finite_time_lyapunov(linear(torch.tensor(m, dtype=torch.float64)), steps=60, k=2)
    assert (60 * field.exponents).tolist() == pytest.approx([exact, -exact], abs=1e-10)


@pytest.mark.parametrize("steps", [1, 7, 1_000_000 // 1_000])
def test_a_shear_stretches_by_arcsinh_of_half_its_length(steps):
    """The map (x, y) → (x + s y, y) n times: σ₁ = e^{arcsinh(n s / 2)}, σ₂ its inverse."""
    s = 0.7
    field = sx.finite_time_lyapunov(linear(torch.tensor([[1.0, s], [0.0, 1.0]], dtype=torch.float64)), steps=steps, k=2)
    exact = math.asinh(steps * s / 2) / steps
    assert field.exponents.tolist() == pytest.approx([exact, -exact], abs=1e-12)


def test_a_rotation_has_exponents_zero_although_all_its_singular_values_are_one():
    turn = torch.linalg.qr(normal(5, 5))[0]
    assert sx.finite_time_lyapunov(linear(turn), steps=50, k=5).exponents.abs().max() < 1e-14


def test_a_flow_is_counted_in_its_own_time():
    """ẋ = (a x, −b y) for a time T; RK4's error is below 1e-9."""
    saddle = sx.Flow(lambda x: x * torch.tensor([0.3, -0.8], dtype=x.dtype), 2, 0.05)
    field = sx.finite_time_lyapunov(saddle, normal(4, 2), steps=40, k=2)
    assert field.time.tolist() == pytest.approx([2.0] * 4)
    assert torch.allclose(field.exponents, torch.tensor([0.3, -0.8], dtype=torch.float64).expand(4, 2), atol=1e-7)


@pytest.mark.parametrize("every", [1, 3, 50])
def test_the_exponents_are_those_of_the_dense_jacobian(every):
    system, x0 = sx.Map(swirl, 5, time_dependent=True), normal(2, 3, 5)
    field = sx.finite_time_lyapunov(system, x0, steps=9, k=5, settle=2, every=every)

    def from_the_second(x):
        for n in range(2, 11):
            x = system.step(x, n)
        return x

    start = system.step(system.step(x0, 0), 1)
    dense = torch.linalg.svdvals(jacobian(from_the_second, start)).log() / 9
    assert torch.equal(field.x0, start)
    assert torch.allclose(field.exponents[..., :3], dense[..., :3], atol=1e-9)


def test_the_sum_of_all_is_the_mean_log_determinant():
    system, x0 = sx.Map(swirl, 5, time_dependent=True), normal(5)
    x, total = x0, 0.0
    for n in range(200):
        total += float(torch.linalg.slogdet(jacobian(lambda y, n=n: system.step(y, n), x))[1])
        x = system.step(x, n)
    field = sx.finite_time_lyapunov(system, x0, steps=200, k=5)
    assert float(field.exponents.sum()) == pytest.approx(total / 200, rel=1e-9)


def test_areas_that_are_kept_pair_the_exponents_and_turn_them_round_backwards():
    """σ₁ forward = 1/σ₂ forward = σ₁ backward from where it ended, while rounding does not part the two orbits."""
    x0 = sx.grid((0.1, 0.2), (6.0, 3.0), (6, 5))
    ahead = sx.finite_time_lyapunov(Kicked(), x0, steps=12, k=2)
    assert ahead.exponents.sum(-1).abs().max() < 1e-13
    end = sx.trajectory(Kicked(), x0, 12)[-1]
    back = sx.finite_time_lyapunov(Kicked(back=True), end, steps=12, k=2)
    assert torch.allclose(back.exponents, ahead.exponents, atol=1e-8)


def test_the_double_gyres_field_is_that_of_the_mirrored_gyre():
    """x → 2 − x turns sin ωt into −sin ωt."""
    gyre, x0 = sx.classic.double_gyre(), sx.grid((0.03, 0.04), (1.91, 0.97), (9, 6))
    mirrored = torch.stack([2 - x0[..., 0], x0[..., 1]], dim=-1)
    field = sx.finite_time_lyapunov(gyre, x0, steps=100, k=2)
    other = sx.finite_time_lyapunov(gyre.at(omega=-math.pi / 5), mirrored, steps=100, k=2)
    assert torch.allclose(field.exponents, other.exponents, atol=1e-9)
    assert field.exponents.sum(-1).abs().max() < 1e-6


def test_a_batch_is_a_loop_and_the_frame_does_not_matter():
    system, x0 = sx.Map(swirl, 5, time_dependent=True), normal(2, 3, 5)
    field = sx.finite_time_lyapunov(system, x0, steps=40, k=3)
    for i in range(2):
        for j in range(3):
            alone = sx.finite_time_lyapunov(system, x0[i, j], steps=40, k=3, seed=7)
            assert torch.allclose(alone.exponents, field.exponents[i, j], atol=1e-11)


def test_a_direction_that_is_erased_is_minus_infinity_and_the_others_stay_right():
    """The map x → A P x with a projection P: rank 2 of 3, and the two others are those of the plane's 2 × 2 matrix."""
    block = normal(2, 2, seed=3)
    matrix = torch.block_diag(block, torch.zeros(1, 1, dtype=torch.float64))
    field = sx.finite_time_lyapunov(linear(matrix), normal(3), steps=8, k=3)
    exact = torch.linalg.svdvals(torch.linalg.matrix_power(block, 8)).log() / 8
    assert torch.allclose(field.exponents[:2], exact, atol=1e-10)
    assert field.exponents[2] == -math.inf and field.status == "ok"


def test_a_state_that_diverges_is_blank_and_leaves_its_neighbours_alone():
    system = sx.Map(lambda x: x * x, 1)
    field = sx.finite_time_lyapunov(system, torch.tensor([[0.9], [1e6], [1.0]], dtype=torch.float64), steps=30)
    assert field.status.tolist() == ["ok", "diverged", "ok"]
    assert field.exponents[1].isnan().all()
    assert float(field.exponents[2, 0]) == pytest.approx(math.log(2), abs=1e-13)


def test_a_grid_has_its_first_coordinate_on_its_first_axis():
    points = sx.grid((0, -1), (2, 1), (3, 5))
    assert points.shape == (3, 5, 2) and points.dtype == torch.float64
    assert points[2, 0].tolist() == [2, -1] and points[1, 4].tolist() == [1, 1]
    with pytest.raises(sx.errors.InputError, match="got 1, 2 and 2"):
        sx.grid((0,), (1, 2), (3, 4))
    with pytest.raises(sx.errors.InputError, match="counts is 0"):
        sx.grid((0, 0), (1, 2), (3, 0))


@pytest.mark.parametrize(("bad", "named"), [({"k": 3}, "k is 3 but"), ({"k": 0}, "k is 0"), ({"steps": 0}, "steps is 0")])
def test_bad_arguments_are_refused_by_name(bad, named):
    with pytest.raises(sx.errors.InputError, match=named):
        sx.finite_time_lyapunov(Kicked(), **bad)


def test_a_field_is_saved_and_loaded(tmp_path):
    field = sx.finite_time_lyapunov(Kicked(), sx.grid((0, 0), (6, 6), (4, 3)), steps=5, k=2)
    again = sx.load(field.save(tmp_path / "field"))
    assert isinstance(again, sx.results.FiniteTimeField) and repr(again) == repr(field)
    assert torch.equal(again.exponents, field.exponents) and torch.equal(again.x0, field.x0)


def test_the_picture_is_the_field_on_its_coordinates():
    field = sx.finite_time_lyapunov(Kicked(), sx.grid((0, 1), (6, 4), (7, 5)), steps=5)
    figure = field.plot()
    (mesh,) = figure.findobj(lambda artist: artist.get_gid() == "field")
    assert torch.allclose(torch.as_tensor(mesh.get_array().filled()).reshape(7, 5), field.exponents[..., 0])
    assert figure.axes[1].get_ylabel() == "finite-time exponent λ₁ (nats per step)"
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("state x₁", "state x₂")
    scattered = sx.finite_time_lyapunov(Kicked(), normal(30, 2), steps=5).plot()
    assert sum(patch.get_height() for patch in scattered.axes[0].patches) == 30
    assert "<svg" in plot.svg(figure)


@pytest.mark.parametrize("widths", [(5, 2, 7), (2, 6, 3, 4), (6, 1, 8), (3, 8, 8, 2)])
def test_narrow_layers_erase_what_does_not_fit_and_keep_the_rest(widths):
    """Against the singular values of the dense Jacobian, from every step on; J has as many as the narrowest layer is wide."""
    for seed in range(5):
        torch.manual_seed(seed)
        network = nn.Sequential(*(part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.Tanh()))).double()
        x = torch.randn(4, widths[0], dtype=torch.float64)
        for settle in range(len(network)):
            rest = nn.Sequential(*list(network)[settle:])
            begun = nn.Sequential(*list(network)[:settle])(x).detach()
            dense = torch.linalg.svdvals(torch.func.vmap(torch.func.jacrev(rest))(begun)).detach()
            k = dense.shape[-1]
            rank = min([begun.shape[-1], *(part.out_features for part in rest.children() if isinstance(part, nn.Linear))])
            field = sx.finite_time_lyapunov(sx.Layers(network), x, settle=settle, k=k)
            assert set(field.status.tolist()) == {"ok"}
            expected = (dense.log() / len(rest))[:, :rank]
            assert torch.allclose(field.exponents[:, :rank], expected, rtol=0, atol=1e-10)
            assert torch.isneginf(field.exponents[:, rank:]).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_directions_erased_one_after_the_other_are_all_lost(dtype):
    """Projections off the third axis, then off the second: the product has rank 1."""

    def off(axis):
        return lambda x: x * torch.tensor([float(i != axis) for i in range(3)], dtype=x.dtype)

    field = sx.finite_time_lyapunov(sx.Layers([off(2), off(1), off(2)], shape=3), torch.ones(3, dtype=dtype), k=3)
    assert float(field.exponents[0]) == pytest.approx(0, abs=1e-6)
    assert torch.isneginf(field.exponents[1:]).all()


def test_what_decays_far_is_kept_when_another_direction_is_erased():
    """The diagonal (1, 1, 2⁻²⁰) seven times, then (1, 0, 1): the singular values are 1, 2⁻¹⁴⁰ and 0."""

    def scaled(*factors):
        return lambda x: x * torch.tensor(factors, dtype=x.dtype)

    stack = sx.Layers([*[scaled(1.0, 1.0, 2.0**-20)] * 7, scaled(1.0, 0.0, 1.0)], shape=3)
    logs = 8 * sx.finite_time_lyapunov(stack, torch.ones(3, dtype=torch.float64), k=3).exponents
    assert float(logs[0]) == pytest.approx(0, abs=1e-12)
    assert float(logs[1]) == pytest.approx(-140 * math.log(2), abs=1.5)
    assert torch.isneginf(logs[2])


@pytest.mark.parametrize(
    "box",
    [(0, 1, 5), (("a",), (1,), (2,)), ((0,), (math.nan,), (2,)), ((0,), (1,), (2.5,)), ((0,), (1,), (0,)), ((0, 0), (1,), (2,))],
)
def test_a_grid_refuses_bad_corners_and_counts(box):
    with pytest.raises(sx.errors.InputError, match=r"low|counts"):
        sx.grid(*box)


def test_throw_raises_for_a_state_that_diverges():
    """x' = x² overflows from 2 within 12 steps, and contracts from 0.5."""
    square, x0 = sx.Map(lambda x: x**2, 1), torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    assert sx.finite_time_lyapunov(square, x0, steps=20).status.tolist() == ["ok", "diverged"]
    with pytest.raises(sx.errors.DivergedError, match=r"1 of 2 items .*\(1,\)"):
        sx.finite_time_lyapunov(square, x0, steps=20, throw=True)


def test_no_states_are_refused():
    with pytest.raises(sx.errors.InputError, match=r"x0 .*shape \(0,"):
        sx.finite_time_lyapunov(sx.Layers(nn.Linear(3, 2)), torch.zeros(0, 3))


def test_a_grid_on_any_plane_is_drawn_as_a_map():
    axes = normal(2, 5)
    field = sx.finite_time_lyapunov(sx.Layers(nn.Linear(5, 3)), normal(5) + sx.grid((-1, -1), (1, 1), (6, 7)) @ axes)
    drawn = field.plot().axes[0]
    assert drawn.get_xlabel() == "distance along the grid's first side"
    low, high = drawn.get_xlim()
    assert high - low == pytest.approx(2 * float(axes[0].norm()) * 6 / 5, rel=1e-6)
