"""Fixed points and cycles against closed forms, and against SciPy."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import root
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.derived import Frozen
from separatrix.core.system import System

F64 = torch.float64


def logistic(r: float) -> sx.Map:
    return sx.Map(lambda x: r * x * (1 - x), dim=1)


def henon(x: Tensor) -> Tensor:
    p, q = x.unbind(-1)
    return torch.stack([1 - 1.4 * p**2 + q, 0.3 * p], -1)


def lorenz(x: Tensor) -> Tensor:
    x, y, z = x.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


def linear(matrix: list[list[float]], *, flow: bool = False) -> sx.System:
    matrix = torch.tensor(matrix, dtype=F64)
    function = lambda x: x @ matrix.mT.to(x)  # noqa: E731
    return sx.Flow(function, dim=len(matrix), dt=0.1) if flow else sx.Map(function, dim=len(matrix))


def guesses(count: int, dim: int, size: float = 1.0, seed: int = 0) -> Tensor:
    return size * torch.randn(count, dim, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_a_linear_map_has_one_fixed_point_with_the_matrix_s_eigenvalues():
    matrix, shift = guesses(5, 5, 0.5), guesses(1, 5)[0]
    found = sx.fixed_points(sx.Map(lambda x: x @ matrix.mT + shift, dim=5), guesses(20, 5, 10.0))
    assert found.found_by.tolist() == [20]
    torch.testing.assert_close(found.points[0], torch.linalg.solve(torch.eye(5, dtype=F64) - matrix, shift), rtol=1e-12, atol=1e-12)
    wanted = np.sort_complex(torch.linalg.eigvals(matrix).numpy())
    np.testing.assert_allclose(np.sort_complex(found.multipliers[0].numpy()), wanted, atol=1e-12)
    torch.testing.assert_close(found.rates, found.multipliers.abs().log())


def test_the_logistic_map_has_its_fixed_points_and_its_2_cycle_with_their_multipliers():
    """Multipliers r and 2 − r of the fixed points, squared here; 4 + 2r − r² of the cycle (r + 1 ± √((r − 3)(r + 1))) / 2r."""
    r = 3.2
    found = sx.fixed_points(logistic(r), guesses(100, 1), period=2)
    by_period = {
        (int(period), round(float(x), 9)): i for i, (x, period) in enumerate(zip(found.points, found.minimal_period, strict=True))
    }
    assert len(found.points) == 3
    cycle = found.minimal_period.tolist().index(2)
    ends = [(r + 1 + sign * math.sqrt((r - 3) * (r + 1))) / (2 * r) for sign in (-1, 1)]
    assert sorted(found.cycles[cycle].flatten().tolist()) == pytest.approx(ends, abs=1e-13)
    assert complex(found.multipliers[cycle, 0]) == pytest.approx(4 + 2 * r - r**2, abs=1e-12)
    assert float(found.rates[cycle, 0]) == pytest.approx(math.log(0.16) / 2, abs=1e-11)
    zero, other = by_period[1, 0.0], by_period[1, round(1 - 1 / r, 9)]
    assert complex(found.multipliers[zero, 0]) == pytest.approx(r**2, abs=1e-11)
    assert complex(found.multipliers[other, 0]) == pytest.approx((2 - r) ** 2, abs=1e-11)
    assert [found.kind[i] for i in (cycle, zero, other)] == ["stable node", "unstable node", "unstable node"]


def test_a_3_cycle_is_born_stable_at_r_1_plus_the_root_of_8():
    """The two 3-cycles meet there with multiplier 1; just above, one is stable and one is not, and both are found."""
    found = sx.fixed_points(logistic(1 + math.sqrt(8) + 1e-3), period=3)
    cycles = [i for i, period in enumerate(found.minimal_period.tolist()) if period == 3]
    assert [found.kind[i] for i in cycles] == ["stable node", "unstable node"]
    below = sx.fixed_points(logistic(1 + math.sqrt(8) - 1e-3), period=3)
    assert set(below.minimal_period.tolist()) == {1}
    for i in cycles:
        product = math.prod((1 + math.sqrt(8) + 1e-3) * (1 - 2 * x) for x in found.cycles[i].flatten().tolist())
        assert complex(found.multipliers[i, 0]) == pytest.approx(product, abs=1e-10)


def test_henon_s_fixed_points_are_the_roots_of_the_quadratic():
    """1 − a p² + b p = p, and μ² + 2 a p μ − b = 0."""
    found = sx.fixed_points(sx.Map(henon, dim=2), guesses(50, 2))
    order = found.points[:, 0].argsort()
    p = [(-0.7 - math.sqrt(0.49 + 5.6)) / 2.8, (-0.7 + math.sqrt(0.49 + 5.6)) / 2.8]
    assert found.points[order].tolist() == [pytest.approx([x, 0.3 * x], abs=1e-13) for x in p]
    for i, x in zip(order.tolist(), p, strict=True):
        wanted = sorted(np.roots([1, 2.8 * x, -0.3]), key=abs, reverse=True)
        np.testing.assert_allclose(found.multipliers[i].numpy(), wanted, atol=1e-12)
        assert found.kind[i] == "saddle with 1 unstable direction"


def test_lorenz_s_fixed_points_have_the_field_s_eigenvalues_whatever_the_step():
    """λ³ + 41/3 λ² + 8(28 + 10)/3 λ + 1440 = 0 at C±; at the origin −8/3 and −11/2 ± √1201/2."""
    for dt in (0.01, 0.3):
        found = sx.fixed_points(sx.Flow(lorenz, dim=3, dt=dt, method="euler"), guesses(60, 3, 20.0))
        assert len(found.points) == 3
        c = math.sqrt(8 / 3 * 27)
        for x, values, kind in zip(found.points, found.eigenvalues, found.kind, strict=True):
            away = x.abs().max() > 1
            wanted = np.roots([1, 41 / 3, 8 / 3 * 38, 1440]) if away else [-8 / 3, *np.roots([1, 11, -270])]
            np.testing.assert_allclose(np.sort_complex(values.numpy()), np.sort_complex(np.asarray(wanted, complex)), atol=1e-10)
            if away:
                assert x.abs().tolist() == pytest.approx([c, c, 27], abs=1e-12)
            assert kind == ("saddle with 2 unstable directions" if away else "saddle with 1 unstable direction")
        torch.testing.assert_close(found.multipliers, (found.eigenvalues * dt).exp())


def test_a_bistable_unit_has_two_memories_and_a_border_between_them():
    found = sx.fixed_points(sx.Map(lambda x: torch.tanh(2 * x), dim=1), guesses(40, 1))
    memory = root(lambda x: np.tanh(2 * x) - x, 1.0, tol=1e-14).x[0]
    assert sorted(found.points.flatten().tolist()) == pytest.approx([-memory, 0, memory], abs=1e-13)
    assert found.kind == ("stable node", "stable node", "unstable node")
    assert float(found.multipliers[0, 0].real) == pytest.approx(2 * (1 - memory**2), abs=1e-12)


@pytest.mark.parametrize(
    ("matrix", "kind"),
    [
        ([[-1, 0], [0, -2]], "stable node"),
        ([[-1, 2], [-2, -1]], "stable focus"),
        ([[1, 0], [0, 2]], "unstable node"),
        ([[1, 2], [-2, 1]], "unstable focus"),
        ([[1, 0], [0, -2]], "saddle with 1 unstable direction"),
        ([[0, 2], [-2, 0]], "centre"),
        ([[1e-9, 0], [0, -2]], "undecided"),
    ],
)
def test_the_kinds_of_fixed_points_in_the_plane(matrix, kind):
    """A flow ẋ = A x, and the map exp(A/10) of the same kind."""
    flow = sx.fixed_points(linear(matrix, flow=True), guesses(5, 2))
    step = torch.linalg.matrix_exp(0.1 * torch.tensor(matrix, dtype=F64)).tolist()
    assert flow.kind == (kind,)
    if kind != "undecided":
        assert sx.fixed_points(linear(step), guesses(5, 2)).kind == (kind,)


def test_a_gru_s_fixed_points_are_those_that_scipy_finds():
    torch.manual_seed(3)
    module = nn.GRU(2, 6).double()
    for parameter in module.parameters():
        parameter.data *= 3
    system = sx.Recurrent(module, constant=torch.zeros(2, dtype=F64))
    found = sx.fixed_points(system, guesses(300, 6, 0.7))
    assert found.residuals.max() < 1e-12

    def gap(x: np.ndarray) -> np.ndarray:
        h = torch.from_numpy(x)[None, None]
        with torch.no_grad():
            return (module(torch.zeros(1, 1, 2, dtype=F64), h)[0] - h).flatten().numpy()

    solved = [root(gap, x, tol=1e-13) for x in guesses(40, 6, 0.7, seed=1).numpy()]
    solved = [one.x for one in solved if np.abs(one.fun).max() < 1e-11 and np.abs(one.x).max() < 1]  # a GRU's states are below 1
    assert len(solved) > 10
    for x in solved:
        assert np.abs(found.points.numpy() - x).max(1).min() < 1e-8


def test_the_input_is_frozen_at_step_n():
    """tanh(x + u_n) − x has its zero where atanh(x) − x = u_n."""
    inputs = torch.tensor([[0.0], [0.5], [-1.0]], dtype=F64)
    cell = nn.RNN(1, 1).double()
    for name, parameter in cell.named_parameters():
        parameter.data.fill_(0.0 if "bias" in name else 1.0)
    for n in (1, 2):
        found = sx.fixed_points(sx.Recurrent(cell, inputs), n=n)
        (x,) = found.points.flatten().tolist()
        assert math.atanh(x) - x == pytest.approx(float(inputs[n]), abs=1e-11)
    with pytest.raises(sx.errors.HorizonError, match=r"n is 3, but .* 0 … 2"):
        sx.fixed_points(sx.Recurrent(cell, inputs), n=3)


def test_guesses_that_converge_to_one_point_are_counted_together():
    found = sx.fixed_points(sx.Map(lambda x: torch.tanh(2 * x), dim=1), guesses(400, 1).reshape(20, 20, 1))
    assert len(found.points) == 3
    assert found.found_by.sum() == 400
    assert found.reached.shape == (20, 20, 1)
    gap = (found.reached[..., None, :] - found.points).abs().amax(-1).amin(-1)
    assert gap.max() < 1e-12


def test_a_failed_guess_is_counted_and_does_not_affect_the_others():
    start = torch.tensor([[0.3], [math.nan], [1e300], [0.6]], dtype=F64)
    found = sx.fixed_points(logistic(3.2), start)
    assert found.status.tolist() == ["ok", "diverged", "diverged", "ok"]
    assert found.found_by.sum() == 2
    assert "2 diverged" in repr(found)
    alone = sx.fixed_points(logistic(3.2), start[[0, 3]])
    assert torch.equal(alone.points, found.points)


def test_throw_raises_only_if_no_point_is_found():
    """x + 1 + x² has none; of the guesses for the logistic map some fail and others succeed."""
    start = torch.tensor([[0.3], [math.nan]], dtype=F64)
    assert len(sx.fixed_points(logistic(3.2), start, throw=True).points) == 1
    with pytest.raises(sx.errors.NotConvergedError, match="4 of 4 items"):
        sx.fixed_points(sx.Map(lambda x: x + 1 + x**2, 1), torch.zeros(4, 1, dtype=F64), throw=True)
    with pytest.raises(sx.errors.DivergedError, match="1 of 1 item"):
        sx.fixed_points(logistic(3.2), start[1:], throw=True)


def test_a_slow_point_is_not_reported_as_a_fixed_point():
    """The map x + ε + x² has no fixed point; |ε + x²| is least at 0."""
    found = sx.fixed_points(sx.Map(lambda x: x + 0.01 + x**2, dim=1), guesses(30, 1))
    assert len(found.points) == 0
    assert found.kind == ()
    assert set(np.unique(found.status)) <= {"not_converged"}
    assert found.slow.abs().max() < 1e-5
    assert found.slow_residuals.tolist() == pytest.approx([0.01], abs=1e-9)


@pytest.mark.parametrize(
    "drift", [lambda x: x + 0.3 - 0.5 / (2 * math.pi) * (2 * math.pi * x).sin(), lambda x: x + 1], ids=["beyond its lock", "shift"]
)
def test_a_residual_lost_to_rounding_far_out_is_not_a_fixed_point(drift):
    """A circle map has fixed points where sin 2πx = 2π 0.3 / 0.5: none. At x = 1e16, x + 0.3 rounds to x."""
    found = sx.fixed_points(sx.Map(drift, dim=1), guesses(16, 1))
    assert len(found.points) == 0 and set(found.status.tolist()) == {"not_converged"}


def test_a_point_far_out_that_stands_out_from_rounding_is_found():
    """1 / (1 − a)."""
    found = sx.fixed_points(sx.Map(lambda x: (1 - 1e-6) * x + 1, dim=1), guesses(16, 1))
    assert found.points.flatten().tolist() == pytest.approx([1e6], rel=1e-8)


def test_a_relu_network_s_point_is_exact_and_erased_directions_have_rate_minus_infinity():
    weight = torch.tensor([[0.5, -1.0], [0.0, 0.5]], dtype=F64)
    found = sx.fixed_points(sx.Map(lambda x: torch.relu(x @ weight.mT + torch.tensor([1.0, -1.0]).to(x)), dim=2), guesses(20, 2))
    assert found.points.tolist() == [pytest.approx([2.0, 0.0], abs=1e-14)]
    assert found.rates[0].tolist() == [pytest.approx(math.log(0.5)), -math.inf]


def test_float32_finds_the_same_points_to_its_own_precision():
    found = sx.fixed_points(sx.Map(henon, dim=2), guesses(50, 2).float())
    exact = sx.fixed_points(sx.Map(henon, dim=2), guesses(50, 2))
    assert found.points.dtype == torch.float32
    torch.testing.assert_close(found.points.double(), exact.points, rtol=0, atol=1e-5)
    assert found.kind == exact.kind


def test_the_module_and_the_generator_are_left_as_they_were(tmp_path):
    torch.manual_seed(0)
    module = nn.GRU(3, 5)
    before = torch.get_rng_state()
    found = sx.testing.check_module_untouched(module, lambda: sx.fixed_points(sx.Recurrent(module)))
    assert torch.equal(torch.get_rng_state(), before)
    again = sx.load(found.save(tmp_path / "points"))
    assert torch.equal(again.points, found.points)
    assert torch.equal(again.multipliers, found.multipliers)
    assert again.kind == found.kind
    assert again.slow.shape == found.slow.shape


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"period": 0}, "period is 0"),
        ({"guesses": torch.zeros(0, 2)}, r"there are no guesses: their shape is \(0, 2\)."),
        ({"guesses": "near 0"}, "guesses cannot be read as numbers"),
        ({"guesses": torch.zeros(4, 3)}, "the state has 3 numbers but this Map has 2"),
        ({"tol": -1.0}, "tol is -1.0"),
        ({"tol": "small"}, "tol is 'small'"),
        ({"path_steps": -1}, "path_steps is -1"),
        ({"n": -1}, "n is -1"),
    ],
)
def test_bad_input_is_refused_by_name(options, named):
    with pytest.raises(sx.SeparatrixError, match=named):
        sx.fixed_points(sx.Map(henon, dim=2), **options)


def test_a_period_for_a_flow_and_a_batch_of_systems_are_refused():
    with pytest.raises(sx.errors.InputError, match="period is 2"):
        sx.fixed_points(sx.Flow(lorenz, dim=3, dt=0.01), period=2)
    with pytest.raises(sx.errors.ShapeError, match=r"batch.* \(4,\)"):
        sx.fixed_points(sx.classic.henon(a=torch.linspace(1, 1.4, 4)))


def test_an_iterate_of_a_flow_is_a_map():
    """Its multipliers are those of the solver's step: exp(λ dt) to RK4's order."""
    found = sx.fixed_points(sx.Iterate(sx.Flow(lorenz, dim=3, dt=0.001), 1), guesses(20, 3, 20.0))
    flow = sx.fixed_points(sx.Flow(lorenz, dim=3, dt=0.001), guesses(20, 3, 20.0))
    torch.testing.assert_close(found.rates, flow.rates, rtol=1e-6, atol=1e-8)


def test_the_picture_shows_each_point_by_kind_and_every_multiplier():
    found = sx.fixed_points(sx.Flow(lorenz, dim=3, dt=0.1), guesses(60, 3, 20.0))
    figure = found.plot()
    left, right = figure.axes
    shown = {line.get_gid(): line.get_xydata() for axes in (left, right) for line in axes.lines}
    assert [len(shown[kind]) for kind in dict.fromkeys(found.kind)] == [2, 1]
    drawn = np.concatenate([shown[f"multipliers {kind}"] for kind in dict.fromkeys(found.kind)])
    wanted = found.multipliers.flatten().numpy()
    np.testing.assert_allclose(np.sort_complex(drawn @ [1, 1j]), np.sort_complex(wanted))
    # the three points lie in one plane, so that their distances in the picture are the true ones
    both = shown[found.kind[0]]
    assert np.linalg.norm(both[0] - both[1]) == pytest.approx(2 * math.sqrt(2 * 72), abs=1e-9)


def test_the_sensitivity_to_the_input_is_how_the_point_moves():
    """The point of a contracting network is a function of its input: its central difference."""
    torch.manual_seed(1)
    module = nn.GRU(2, 4).double()

    def at(u: Tensor) -> sx.results.FixedPoints:
        return sx.fixed_points(sx.Recurrent(module, constant=u), guesses(10, 4, 0.3))

    u, h = torch.tensor([0.3, -0.7], dtype=F64), 1e-5
    moved = [(at(u + h * e).points[0] - at(u - h * e).points[0]) / (2 * h) for e in torch.eye(2, dtype=F64)]
    torch.testing.assert_close(at(u).sensitivity[0], torch.stack(moved, -1), rtol=0, atol=1e-8)
    assert sx.fixed_points(sx.Map(henon, dim=2)).sensitivity is None


def test_paths_bring_nearly_every_guess_of_a_hard_network_to_a_point():
    """A symmetric tanh network at high gain, where Newton's method alone stalls; NumPy computes the residuals."""
    random = guesses(48, 48, seed=4)
    weight = 1.5 * (random + random.mT) / 96**0.5
    system, start = sx.Map(lambda x: torch.tanh(x @ weight.to(x)), dim=48), guesses(32, 48, seed=5)
    alone, found = sx.fixed_points(system, start, path_steps=0), sx.fixed_points(system, start)
    assert (found.codes == 0).sum() >= 30 > 2 * (alone.codes == 0).sum()
    left = np.tanh(found.points.numpy() @ weight.numpy()) - found.points.numpy()
    assert np.abs(left).max() < 1e-13
    assert found.isolated.all()
    gaps = (found.points[:, None] - found.points).abs().amax(-1) + torch.eye(len(found.points))
    assert gaps.min() > 1e-6


def test_a_path_leads_to_the_equilibrium_of_a_dissipative_flow():
    """Lorenz 1996 has an equilibrium where every component equals the forcing."""
    ring = sx.Flow(lambda x: (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + 8, dim=12, dt=0.01)
    found = sx.fixed_points(ring, guesses(24, 12, 5.0))
    assert (found.codes == 0).sum() >= 20
    assert any((point - 8).abs().max() < 1e-12 for point in found.points)


@pytest.mark.parametrize(("shut", "isolated"), [(15.0, True), (40.0, False)])
def test_an_almost_shut_gate_leaves_one_isolated_point_and_a_shut_one_none(shut, isolated):
    """h' = (1 − z) n + z h of a GRU has the only fixed point h = n, however close to 1 z is; if z rounds to 1, every h is one."""
    module = nn.GRU(1, 2).double()
    for parameter in module.parameters():
        parameter.data.zero_()
    module.bias_hh_l0.data[2:4] = shut
    module.bias_ih_l0.data[4:] = torch.tensor([0.5, -0.3], dtype=F64)
    found = sx.fixed_points(sx.Recurrent(module, constant=torch.zeros(1, dtype=F64)), guesses(20, 2, 0.5))
    assert found.isolated.all() == isolated
    if isolated:
        assert found.found_by.tolist() == [20]
        assert found.points[0].tolist() == pytest.approx([math.tanh(0.5), math.tanh(-0.3)], abs=1e-8)
        assert float(found.errors[0]) > (found.points[0] - torch.tensor([0.5, -0.3], dtype=F64).tanh()).abs().max()
    else:
        assert "not isolated" in repr(found)


def test_points_on_a_line_of_fixed_points_are_not_isolated():
    """(x, y) ↦ (x, y/2) has the line of fixed points y = 0."""
    found = sx.fixed_points(sx.Map(lambda x: x * torch.tensor([1.0, 0.5]).to(x), dim=2), guesses(6, 2))
    assert len(found.points) == 6
    assert found.points[:, 1].abs().max() < 1e-12
    assert not found.isolated.any()
    assert set(found.kind) == {"undecided"}
    assert "6 points not isolated" in repr(found)


def every_orbit(weight: Tensor, bias: Tensor, period: int) -> list[Tensor]:
    """The fixed points of F^period of x ↦ relu(W x + b): one linear system for each choice of active units at each step."""
    dim = len(bias)
    active = torch.tensor(list(itertools.product([0.0, 1.0], repeat=dim * period)), dtype=F64).reshape(-1, period, dim)
    matrix, shift = torch.eye(dim, dtype=F64).expand(len(active), dim, dim), torch.zeros(len(active), dim, dtype=F64)
    for on in active.unbind(1):
        matrix, shift = on[..., None] * (weight @ matrix), on * (shift @ weight.mT + bias)
    x, failed = torch.linalg.solve_ex(torch.eye(dim, dtype=F64) - matrix, shift)
    y, own = x, failed == 0
    for on in active.unbind(1):
        own &= ((y @ weight.mT + bias > 0) == (on > 0)).all(-1)
        y = torch.relu(y @ weight.mT + bias)
    return list(x[own])


@pytest.mark.parametrize(("seed", "dim", "gain", "period"), [(3, 10, 3.0, 1), (4, 8, 2.0, 1), (2, 5, 2.5, 2), (5, 5, 2.5, 2)])
def test_a_relu_network_s_points_are_those_of_all_its_linear_regions_exactly(seed, dim, gain, period):
    generator = torch.Generator().manual_seed(seed)
    weight = gain * torch.randn(dim, dim, dtype=F64, generator=generator) / dim**0.5
    bias = torch.randn(dim, dtype=F64, generator=generator)
    module = nn.RNN(1, dim, nonlinearity="relu").double()
    module.weight_hh_l0.data, module.bias_hh_l0.data = weight, bias
    module.bias_ih_l0.data.zero_()
    found = sx.fixed_points(sx.Recurrent(module, constant=torch.zeros(1, dtype=F64)), guesses(200, dim, 3.0), period=period)
    states, wanted = found.cycles.reshape(-1, dim), every_orbit(weight, bias, period)
    assert len(wanted) > 0
    for point in wanted:
        assert (states - point).abs().amax(-1).min() < 1e-12 * max(1.0, float(point.abs().max()))
    for state in states:
        assert min(float((state - point).abs().max()) for point in wanted) < 1e-12 * max(1.0, float(state.abs().max()))


@pytest.mark.parametrize(
    ("seed", "gain", "period"), [(9, 1.5, 1), (8, 5.0, 2), (1, 3.0, 2), (9, 1.5, 3), (0, 2.0, 3), (0, 3.0, 3), (0, 5.0, 3)]
)
def test_all_cycles_of_a_small_relu_network_are_found_by_default(seed, gain, period):
    """Guesses near the orbits of these networks of 3 units miss some; by default every orbit of every region is found."""
    generator = torch.Generator().manual_seed(seed)
    weight = gain * torch.randn(3, 3, dtype=F64, generator=generator) / 3**0.5
    bias = torch.randn(3, dtype=F64, generator=generator)
    found = sx.fixed_points(sx.Map(lambda x: torch.relu(x @ weight.mT + bias), 3), period=period)
    states, wanted = found.cycles.reshape(-1, 3), every_orbit(weight, bias, period)
    size = max(1.0, float(torch.stack(wanted).abs().max()))
    assert all((states - point).abs().amax(-1).min() < 1e-9 * size for point in wanted)
    assert all(min(float((state - point).abs().max()) for point in wanted) < 1e-9 * size for state in states)
    assert int(found.minimal_period.sum()) == len(wanted)
    assert found.index_sum == sum(sign_of(weight, bias, point, period) for point in wanted)
    assert found.index_expected is None and found.points_missing is None


def sign_of(weight: Tensor, bias: Tensor, x: Tensor, period: int) -> int:
    """The sign of det(1 − DF^p), from the regions that the orbit passes."""
    jacobian = torch.eye(3, dtype=F64)
    for _ in range(period):
        x = weight @ x + bias
        jacobian = (x > 0)[:, None] * (weight @ jacobian)
        x = torch.relu(x)
    return int(torch.linalg.det(torch.eye(3, dtype=F64) - jacobian).sign())


def doubling_tanh(w: float) -> sx.Recurrent:
    """The map h' = tanh(w h)."""
    rnn = nn.RNN(1, 1, bias=False).double()
    rnn.weight_hh_l0.data.fill_(w)
    return sx.Recurrent(rnn, constant=torch.zeros(1, dtype=F64))


def test_indices_add_up_to_one_in_a_ball_and_show_that_points_are_missing():
    """For w = 2: a saddle at 0 of index −1 between two nodes of index 1. For w = −2 the nodes are one 2-cycle."""
    found = sx.fixed_points(doubling_tanh(2.0))
    assert len(found.points) == 3 and (found.index_sum, found.index_expected, found.points_missing) == (1, 1, False)
    assert "Σ sign det(1 − DF) = 1, as expected" in found.summary()
    only = sx.fixed_points(doubling_tanh(2.0), torch.zeros(1, 1, dtype=F64))
    assert (only.index_sum, only.points_missing) == (-1, True)
    assert "points are missing: Σ sign det(1 − DF) = −1, expected 1" in only.summary()
    cycle = sx.fixed_points(doubling_tanh(-2.0), period=2)
    assert sorted(cycle.minimal_period.tolist()) == [1, 2] and cycle.index_sum == 1  # −1 + 2 · 1


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("period", [1, 2])
def test_indices_of_pytorchs_bounded_cells_add_up_to_one(kind, period):
    torch.manual_seed(2)
    module = kind(1, 3).double()
    for parameter in module.parameters():
        parameter.data *= 4
    found = sx.fixed_points(sx.Recurrent(module), period=period)
    assert found.points_missing is False
    assert sx.fixed_points(sx.Recurrent(nn.RNN(1, 3, nonlinearity="relu")), starts=8).index_expected is None


def test_indices_of_a_flow_are_signs_of_minus_its_field():
    """Lorenz at r = 28: (−1) at the origin, 1 at each of the two others, and an ellipsoid is entered from outside."""
    flow = sx.Flow(lorenz, dim=3, dt=0.01)
    flow.into_ball = True
    found = sx.fixed_points(flow)
    assert len(found.points) == 3 and (found.index_sum, found.points_missing) == (1, False)


@pytest.mark.parametrize("period", [2, 4])
def test_a_cycle_search_begins_from_the_points_of_its_divisors(period):
    """The fixed points of the logistic map at 3.5, found from guesses that lead to neither by F^p alone."""
    system = logistic(3.5)
    found = sx.fixed_points(system, torch.tensor([[0.0]], dtype=F64), period=period)
    assert 1 in found.minimal_period.tolist()
    by_default = sx.fixed_points(system, period=period)
    fixed = sorted(round(float(by_default.points[i, 0]), 9) for i, p in enumerate(by_default.minimal_period.tolist()) if p == 1)
    assert fixed == pytest.approx([0.0, 1 - 1 / 3.5], abs=1e-9)


def test_further_starts_do_not_report_a_shut_gate_far_out():
    torch.manual_seed(0)
    found = sx.fixed_points(sx.Recurrent(nn.GRU(2, 3)), period=4)
    assert len(found.points) == 1 and found.points_missing is False


@pytest.mark.parametrize("module", [nn.LSTM(2, 3), nn.GRU(2, 3, num_layers=2), nn.LSTM(2, 3, num_layers=2, proj_size=2)])
def test_a_packed_state_s_points_are_those_that_scipy_finds(module):
    """LSTM and stacked networks: the zeros of the module's own step on its own state, from other guesses."""
    module = copy.deepcopy(module).double()
    generator = torch.Generator().manual_seed(6)
    for parameter in module.parameters():
        parameter.data = 1.5 * torch.randn(parameter.shape, dtype=F64, generator=generator)
    u = torch.tensor([0.4, -0.2], dtype=F64)
    system = sx.Recurrent(module, constant=u)
    found = sx.fixed_points(system, guesses(100, system.dim, 0.7))

    def gap(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return (system.pack(module(u[None], system.unpack(torch.from_numpy(x)))[1]) - torch.from_numpy(x)).numpy()

    solved = [root(gap, x, tol=1e-13) for x in guesses(30, system.dim, 0.7, seed=1).numpy()]
    solved = [one.x for one in solved if np.abs(one.fun).max() < 1e-11]
    if isinstance(module, nn.GRU):
        solved = [x for x in solved if np.abs(x).max() < 1]  # a GRU's states are below 1; far out SciPy stops where all is flat
    assert len(solved) > 0
    for x in solved:
        assert np.abs(found.points.numpy() - x).max(1).min() < 1e-8
    for point in found.points.numpy():
        assert np.abs(gap(point)).max() < 1e-11


def test_a_custom_cell_s_point_is_its_closed_form():
    """Parts (a, b) ↦ (a + u) / 2 + (b, a) / 4 on a state of two parts: linear, so solved by hand."""

    class Cell(nn.Module):
        def forward(self, u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            a, b = state
            return a, ((a + u) / 2 + b / 4, b / 2 + a / 4)

    system = sx.Recurrent(Cell(), constant=torch.tensor([1.0], dtype=F64), state=(torch.zeros(1), torch.zeros(1)))
    found = sx.fixed_points(system, guesses(10, 2))
    assert found.points.tolist() == [pytest.approx([4 / 3, 2 / 3], abs=1e-14)]  # a/2 − b/4 = 1/2 and b/2 = a/4
    assert found.multipliers[0].real.tolist() == pytest.approx([0.75, 0.25], abs=1e-14)


@pytest.mark.parametrize("flow", [False, True])
def test_a_wide_network_of_rank_2_has_the_fixed_points_of_its_two_numbers(flow):
    """In U A tanh(Uᵀ x) with UᵀU = 1, z = Uᵀ x follows A tanh z; SciPy and NumPy give its zeros and eigenvalues."""
    frame = torch.linalg.qr(guesses(2_500, 2))[0]
    matrix = torch.tensor([[2.0, 0.3], [-0.2, 1.5]], dtype=F64)
    function = lambda x: torch.tanh(x @ frame) @ matrix.mT @ frame.mT  # noqa: E731
    system = sx.Flow(lambda x: function(x) - x, dim=2_500, dt=0.1) if flow else sx.Map(function, dim=2_500)
    found = sx.fixed_points(system, guesses(16, 2, 2.0, seed=2) @ frame.mT)
    assert len(found.points) > 3
    assert (found.codes == 0).all()
    assert found.isolated.all()
    for point, values, kind in zip(found.points, found.eigenvalues if flow else found.multipliers, found.kind, strict=True):
        z = root(lambda z: matrix.numpy() @ np.tanh(z) - z, (point @ frame).numpy(), tol=1e-14).x
        assert point.numpy() == pytest.approx(frame.numpy() @ z, abs=1e-11)
        wanted = np.linalg.eigvals(matrix.numpy() * (1 - np.tanh(z) ** 2))
        wanted = sorted(wanted.real, reverse=True)
        assert values[:2].real.tolist() == pytest.approx([x - flow for x in wanted], abs=1e-9)
        outwards = int(sum(x > 1 for x in wanted))
        assert kind == (
            "stable node" if not outwards else f"saddle with {outwards} unstable direction{'' if outwards == 1 else 's'}"
        )


@pytest.mark.parametrize("system", [sx.Flow(torch.ones_like, 2, 0.1), sx.Map(lambda x: x + 1.0, 2)])
def test_a_uniform_drift_has_no_fixed_point(system):
    """Paths go to where the drift is lost in the rounding of x, which is not a zero."""
    found = sx.fixed_points(system)
    assert len(found.points) == 0 and set(found.status.tolist()) == {"not_converged"}
    assert len(sx.phase_portrait(system, steps=50).rest.points) == 0


class Descent(System):
    """Gradient descent on x²/2 at rate 2.5 that defines its residual F(x) − x."""

    def __init__(self):
        super().__init__(dim=1, start=(0.3,))

    def step(self, x, n=0):
        return x - 2.5 * x

    def residual(self, x, n=0):
        return -2.5 * x


def test_a_map_that_defines_its_residual_is_not_a_flow():
    """The multiplier is 1 − 2.5, so that the point is unstable."""
    found = sx.fixed_points(Descent(), torch.ones(1, 1, dtype=torch.float64))
    assert found.multipliers[0, 0].real == pytest.approx(-1.5, abs=1e-12)
    assert "unstable" in found.kind[0] and float(found.rates[0, 0]) == pytest.approx(math.log(1.5), abs=1e-12)


class OwnFlow(System):
    """A flow of the author's own,  ẋ = −x/2,  by Euler's method."""

    continuous = True

    def __init__(self):
        super().__init__(dim=1, dt=0.1, start=(1.0,))

    def step(self, x, n=0):
        return x + self.dt * self.residual(x, n)

    def residual(self, x, n=0):
        return -0.5 * x


@pytest.mark.parametrize(
    "derived", [lambda s: s, lambda s: Frozen(s, 2), lambda s: sx.Noisy(s, 0.3)], ids=["own", "frozen", "noisy"]
)
def test_the_field_of_a_continuous_system_is_solved(derived):
    """The rate is −1/2, not ln(1 − 0.05) / 0.1; noise is no part of the field."""
    found = sx.fixed_points(derived(OwnFlow()), torch.ones(1, 1, dtype=torch.float64))
    assert float(found.points.abs().max()) < 1e-12
    assert float(found.rates[0, 0]) == pytest.approx(-0.5, abs=1e-12)
    with pytest.raises(sx.errors.InputError, match="period is"):
        sx.fixed_points(derived(OwnFlow()), period=2)


def test_a_noisy_map_is_frozen_with_the_noise_of_its_step():
    """x = x/2 + c has the solution 2c, with c the noise of step 3."""
    noisy = sx.Noisy(sx.Map(lambda x: x / 2, 2), 0.3, seed=1)
    kick = noisy.step(torch.zeros(2, dtype=torch.float64), 3)
    found = sx.fixed_points(noisy, torch.ones(1, 2, dtype=torch.float64), n=3)
    torch.testing.assert_close(found.points[0], 2 * kick, rtol=0, atol=1e-12)


@pytest.mark.parametrize("f", [lambda x: torch.tanh(torch.eye(2).double() @ x) + 0.1, lambda x: torch.stack([x[1], 0.5 * x[0]])])
def test_a_function_for_one_state_alone_is_refused_by_name(f):
    """Many guesses are followed at once, one guess alike."""
    for guesses in (torch.zeros(2).double(), torch.zeros(3, 2).double()):
        with pytest.raises((sx.errors.InputError, sx.errors.ShapeError), match=r"states of shape \(\d, 2\)"):
            sx.fixed_points(sx.Map(f, 2), guesses)
