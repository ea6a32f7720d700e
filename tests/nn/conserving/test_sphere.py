"""Sphere-preserving layers: the norm is kept by all weights, the step is of second order, the small system is the large one."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

import separatrix as sx
from separatrix.core.tangent import jacobian, pushforward
from separatrix.flows.methods.cayley import Dense, Planes, cayley, cayley_midpoint
from separatrix.testing.blocks import scrambled, trained

STEPS = np.array([1 / 16, 1 / 32, 1 / 64, 1 / 128])  # rounding is far below the smallest error, 1e-8


def layer(dim: int, planes: int = 16, seed: int = 0, **options: float) -> sx.nn.SpherePreserving:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sx.nn.SpherePreserving(dim, planes=planes, **options).double()


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drift(x: Tensor, y: Tensor) -> float:
    """The largest relative change of the norm."""
    return (y.norm(dim=-1) / x.norm(dim=-1) - 1).abs().max().item()


def followed(field, x: Tensor, time: float) -> Tensor:
    """The state a time later, by SciPy's DOP853 at tolerances of 1e-13."""

    def slope(t, y):
        return field(torch.from_numpy(y)).detach().numpy()

    ends = [solve_ivp(slope, (0, time), one.numpy(), method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1] for one in x]
    return torch.from_numpy(np.stack(ends))


def slope_of(errors: list[float]) -> float:
    return float(np.polyfit(np.log(STEPS), np.log(errors), 1)[0])


def body(x: Tensor) -> Dense:
    """Euler's equations ẋ = x × ω of a rigid body with ω = (1, 1/2, 1/3) x: a turn about −ω."""
    p, q, r = (x * torch.tensor([1, 1 / 2, 1 / 3], dtype=x.dtype)).unbind(-1)
    zero = torch.zeros_like(p)
    rows = [(zero, r, -q), (-r, zero, p), (q, -p, zero)]
    return Dense(torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2))


@pytest.mark.parametrize(("dim", "planes"), [(2, 1), (3, 16), (40, 4)], ids=["a plane", "space", "few planes of many"])
@pytest.mark.parametrize("size", [1.0, 1e3], ids=["weights of order 1", "of order 1,000"])
def test_the_norm_is_kept_at_random_weights_and_after_training(dim, planes, size):
    x = states(64, dim)
    for change in (lambda kept, _: kept, scrambled, trained):
        block = change(layer(dim, planes), 1)
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.mul_(size)
            assert drift(x, block(x)) < 1e-14  # a few roundings


@pytest.mark.long
def test_the_norm_is_kept_over_ten_thousand_steps():
    for block, steps in ((layer(3), 10_000), (scrambled(layer(40, 4), 2), 2_000)):  # the dense system and the small one
        x = states(8, block.dim)
        y = x
        with torch.no_grad():
            for _ in range(steps):
                y = block(y)
        assert drift(x, y) < 1e-12
        assert float((y - x).abs().max()) > 0.1  # it went somewhere


def test_the_norm_is_kept_in_single_precision_and_under_autocast():
    block, x = layer(6).float(), states(64, 6).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.float32
    assert drift(x, y) < 1e-6 and torch.equal(y, block(x))
    half = layer(6).bfloat16()
    assert drift(x.bfloat16().double(), half(x.bfloat16()).double()) < 2 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e300])
def test_the_norm_is_kept_of_states_whose_squares_leave_the_range_of_numbers(size):
    x = states(64, 3)
    with torch.no_grad():
        assert drift(x, layer(3)(size * x) / size) < 1e-14
        assert drift(x.float(), layer(3).float()(1e-30 * x.float()) / 1e-30) < 1e-6


def test_many_layers_are_one_batch_of_layers_and_shapes_are_known_without_numbers():
    layers = [layer(4, seed=seed) for seed in range(3)]
    weights, buffers = stack_module_state(layers)
    empty, x = layer(4).to("meta"), states(5, 4)
    together = vmap(lambda own, kept: functional_call(empty, (own, kept), (x,)))(weights, buffers)
    torch.testing.assert_close(together, torch.stack([one(x) for one in layers]), rtol=0, atol=1e-14)
    assert empty(x.to("meta")).shape == x.shape


def test_the_origin_stays_and_has_a_derivative():
    block = layer(5)
    zero = torch.zeros(5, dtype=torch.float64)
    assert torch.equal(block(zero), zero)
    turn = torch.linalg.solve(torch.eye(5) - entries(block, zero) / 2, torch.eye(5) + entries(block, zero) / 2)
    torch.testing.assert_close(jacobian(block, zero), turn, rtol=0, atol=1e-14)
    torch.testing.assert_close(block.pushforward(zero, torch.eye(5).double())[1].mT, turn, rtol=0, atol=1e-14)


def entries(block: sx.nn.SpherePreserving, x: Tensor) -> Tensor:
    """S(x) = A − Aᵀ by its formula, for one state."""
    a = block.left.mT @ torch.diag(torch.tanh(block.rates.weight @ x + block.rates.bias)) @ block.right
    return (a - a.mT).detach()


@pytest.mark.parametrize(("dim", "planes"), [(4, 7), (30, 3)])
def test_the_step_is_its_formula(dim, planes):
    """By dense inverses of one state at a time, the small system and the dense one alike."""
    block, h = layer(dim, planes, dt=0.7), 0.7
    for x in states(5, dim):
        middle = entries(block, x + h / 2 * entries(block, x) @ x)
        one = torch.eye(dim, dtype=torch.float64)
        wanted = torch.linalg.inv(one - h / 2 * middle) @ (one + h / 2 * middle) @ x
        torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-13)
        torch.testing.assert_close(block.field(x), entries(block, x) @ x, rtol=0, atol=1e-13)


def test_the_small_system_is_the_dense_one():
    """Woodbury: also for planes that lie in each other, weights of 0, and several right-hand sides."""
    left, right, weights = states(4, 12), states(4, 12, seed=1), states(6, 4, seed=2)
    left[1], weights[:, 2] = left[0], 0.0
    planes, v = Planes(left, right, weights), states(6, 3, 12, seed=3)
    dense = planes.dense()
    assert torch.equal(dense.matrix, -dense.matrix.mT)
    torch.testing.assert_close(planes.times(v), dense.times(v), rtol=0, atol=1e-12)
    torch.testing.assert_close(planes.solve(v, 0.5), dense.solve(v, 0.5), rtol=0, atol=1e-12)
    exact = torch.linalg.solve(torch.eye(12) - 0.5 * dense.matrix, v.mT).mT
    torch.testing.assert_close(planes.solve(v, 0.5), exact, rtol=0, atol=1e-12)


def test_the_cayley_transform_is_orthogonal_before_any_length_is_mended():
    identity = torch.eye(12, dtype=torch.float64)
    for planes in (Planes(states(4, 12), states(4, 12, seed=1), states(4, seed=2)), Planes(*states(3, 9, 12)[:2], states(9))):
        turn = planes.solve(identity + 0.5 * planes.times(identity), 0.5)
        torch.testing.assert_close(turn @ turn.mT, identity, rtol=0, atol=1e-13)


def test_a_cayley_step_turns_the_plane_by_twice_an_arc_tangent():
    """S = ω (0 −1; 1 0):  the angle is 2 atan(h ω / 2)."""
    omega, h = 1.3, 0.6
    turn = Dense(omega * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64))
    x = cayley(turn, torch.tensor([[1.0, 0.0]], dtype=torch.float64), h)
    angle = 2 * math.atan(h * omega / 2)
    torch.testing.assert_close(x, torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dim", [3, 10])
def test_one_step_has_an_error_of_third_order_and_many_of_second(dim):
    block, x = scrambled(layer(dim, 3), 4), states(3, dim, seed=5) / dim
    with torch.no_grad():
        local = [float((block.flow(x, h) - followed(block.field, x, h)).norm()) for h in STEPS]
        end, total = followed(block.field, x, 1.0), []
        for h in STEPS:
            y = x
            for _ in range(round(1 / h)):
                y = block.flow(y, float(h))
            total.append(float((y - end).norm()))
    assert slope_of(local) == pytest.approx(3, abs=0.1)
    assert slope_of(total) == pytest.approx(2, abs=0.1)


def test_a_rigid_body_follows_scipy_and_keeps_its_momentum():
    """Its other invariant, the energy Σ xᵢ ωᵢ, is not kept exactly, but at second order it is kept well."""
    x = torch.tensor([[1.0, 0.2, -0.4], [0.1, 1.0, 0.1]], dtype=torch.float64)
    y, h = x, 0.005
    for _ in range(2_000):
        y = cayley_midpoint(body, y, h)
    exact = followed(lambda z: body(z).times(z[None])[0], x, 10.0)
    torch.testing.assert_close(y, exact, rtol=0, atol=1e-4)  # h² times the error's growth beside the unstable axis
    assert drift(x, y) < 1e-13
    inertia = torch.tensor([1, 1 / 2, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close((inertia * y**2).sum(-1), (inertia * x**2).sum(-1), rtol=0, atol=1e-4)


def test_the_velocity_is_orthogonal_to_the_state():
    block, x = scrambled(layer(7), 3), states(50, 7)
    velocity = block.field(x).detach()
    assert float((velocity * x).sum(-1).abs().max()) < 1e-13 * float(velocity.norm(dim=-1).max() * x.norm(dim=-1).max())


@pytest.mark.parametrize(("dim", "planes"), [(4, 6), (30, 3)])
def test_its_tangents_are_those_of_the_automatic_derivative(dim, planes):
    block, x, v = scrambled(layer(dim, planes, dt=0.4), 5), states(6, dim), states(6, 3, dim, seed=1)
    value, pushed = block.pushforward(x, v)
    expected = pushforward(block.step, x, v)
    torch.testing.assert_close(value, expected[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(pushed, expected[1], rtol=1e-11, atol=1e-11)


def test_a_network_of_such_layers_keeps_the_norm_and_says_so():
    network = sx.nn.Sequential(layer(5, seed=0), layer(5, seed=1), layer(5, seed=2))
    assert network.guarantee == sx.nn.Guarantee(conserves=frozenset({"norm"}))
    sx.testing.check_block(network)
    sx.testing.check_system(network)
    exponents = sx.lyapunov_spectrum(network, states(5), steps=200).exponents
    assert float(exponents.abs().min()) < 0.03  # along the state itself nothing grows: an error of 1 / steps


def test_bad_input_is_told_in_a_line():
    with pytest.raises(sx.errors.ShapeError, match="dim is 1"):
        sx.nn.SpherePreserving(1)
    with pytest.raises(sx.errors.InputError, match="planes is 0"):
        sx.nn.SpherePreserving(4, planes=0)
    for wrong in (0.0, -0.1, math.inf, math.nan):
        with pytest.raises(sx.errors.InputError, match=f"dt is {wrong}"):
            sx.nn.SpherePreserving(4, dt=wrong)


def test_jacobians_of_a_batch_are_right_in_every_mode():
    """vmap(jacfwd) too, under which PyTorch's own derivative of a linear solve is wrong."""
    for dim, planes in ((3, 16), (16, 2)):
        block, x = scrambled(layer(dim, planes), 0), states(4, dim)
        wanted = torch.stack([torch.autograd.functional.jacobian(block, row) for row in x])
        for mode in (torch.func.jacfwd, torch.func.jacrev):
            assert torch.allclose(vmap(mode(block))(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dim", "planes"), [(3, 16), (5, 2), (16, 2)])
@pytest.mark.parametrize("factor", [1e8, 1e50, 1e100, 1e160])
def test_weights_of_any_size_keep_the_norm_or_give_no_number(dim, planes, factor):
    """Where products overflow the state is NaN, and never one of another norm, such as 0."""
    block, x = layer(dim, planes), states(50, dim)
    with torch.no_grad():
        for weights in block.parameters():
            weights.mul_(factor)
        y = block(x)
    kept = (y.norm(dim=-1) / x.norm(dim=-1) - 1).abs() < 1e-14
    assert (kept | y.isnan().any(-1)).all()
    assert kept.all() or factor > 1e100


@pytest.mark.parametrize("factor", [1e8, 1e50, 1e100])
def test_a_turn_beyond_rounding_is_half_a_turn_about_the_axis(factor):
    """(1 + W) / (1 − W) → 2 n nᵀ − 1  for the matrix W of a long w = ‖w‖ n, to a few roundings of 1,024 / 1,024."""
    block, x = layer(3), states(50, 3)
    with torch.no_grad():
        for weights in block.parameters():
            weights.mul_(factor)
        y = block(x)
        for one, there in zip(x, y, strict=True):
            middle = entries(block, one + entries(block, one) @ one / 2)
            axis = torch.stack([middle[2, 1], middle[0, 2], middle[1, 0]])
            n = axis / axis.abs().max()
            n = n / n.norm()
            torch.testing.assert_close(there, 2 * n * (n @ one) - one, rtol=0, atol=0.02)


def test_tangents_of_a_turn_beyond_rounding_are_those_of_the_limit():
    """Where every unit is saturated the axis stands still, so that the tangents turn as the state does."""
    block, x, v = layer(3), states(20, 3), states(20, 2, 3, seed=1)
    with torch.no_grad():
        for weights in block.parameters():
            weights.mul_(1e30)
        y, pushed = block.pushforward(x, v)
        torch.testing.assert_close(y, block(x), rtol=0, atol=1e-14)
        torch.testing.assert_close(pushed.norm(dim=-1), v.norm(dim=-1), rtol=0.02, atol=0)
        torch.testing.assert_close((pushed * y[:, None]).sum(-1), (v * x[:, None]).sum(-1), rtol=0, atol=0.1)
