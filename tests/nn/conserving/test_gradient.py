"""Gradient layers: the field is the slope of its potential, its Jacobian symmetric, its Lipschitz factor true and tight."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import separatrix as sx
from separatrix.core.tangent import jacobian, pushforward
from separatrix.testing.blocks import scrambled, trained


def layer(dim: int, seed: int = 0, **options) -> sx.nn.Gradient:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sx.nn.Gradient(dim, **options).double()


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_field_is_the_gradient_of_the_potential_and_of_its_formula():
    block = scrambled(layer(5), 1)
    x = (3 * states(20, 5)).requires_grad_()
    (slope,) = torch.autograd.grad(block.potential(x).sum(), x)
    torch.testing.assert_close(block.field(x), slope, rtol=0, atol=1e-12)
    a, b, d = block.inner.weight, block.inner.bias, block.scale
    torch.testing.assert_close(block.potential(x), (d * torch.log(torch.cosh(x @ a.mT + b))).sum(-1), rtol=0, atol=1e-11)
    for one in x.detach():
        torch.testing.assert_close(block.field(one), a.mT @ torch.diag(d) @ torch.tanh(a @ one + b), rtol=0, atol=1e-12)
    far = block.potential(torch.full((5,), 1e6, dtype=torch.float64))  # where cosh overflows
    assert torch.isfinite(far)


def test_the_jacobian_of_the_field_is_symmetric_at_random_weights_and_after_training():
    for change in (lambda kept, _: kept, scrambled, trained):
        block = change(layer(6), 2)
        hessian = jacobian(block.field, states(10, 6)).detach()
        torch.testing.assert_close(hessian, hessian.mT, rtol=0, atol=1e-13 * float(hessian.abs().max()))


def test_the_layer_is_an_euler_step_of_its_field():
    block, x = layer(4, dt=0.3), states(9, 4)
    torch.testing.assert_close(block(x), x + 0.3 * block.field(x), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_one_step_has_the_order_of_its_method(method, order):
    block, x = scrambled(layer(3, method=method), 0), states(3)
    steps, errors = np.array([1 / 32, 1 / 64, 1 / 128, 1 / 256]), []

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        return block.field(torch.from_numpy(y)).detach().numpy()

    for h in steps:
        exact = solve_ivp(slope, (0, h), x.numpy(), method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
        errors.append(np.linalg.norm(block.flow(x, float(h)).detach().numpy() - exact))
    few = slice(0, 2) if order == 4 else slice(None)  # the errors of the shorter steps of RK4 are rounding
    assert np.polyfit(np.log(steps[few]), np.log(errors[few]), 1)[0] == pytest.approx(order + 1, abs=0.2)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_its_tangents_are_those_of_the_automatic_derivative(method):
    block, x, v = scrambled(layer(4, method=method, dt=0.4), 5), states(6, 4), states(6, 3, 4, seed=1)
    value, pushed = block.pushforward(x, v)
    expected = pushforward(block.step, x, v)
    torch.testing.assert_close(value, expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(pushed, expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
def test_its_lipschitz_factor_holds(method):
    sx.testing.check_block(layer(6, method=method, dt=0.5))


@pytest.mark.parametrize("sign", [1, -1])
def test_its_lipschitz_factor_is_reached_where_all_units_are_steepest(sign):
    """At Ax + b = 0 the slopes are 1 and J = I + h AᵀDA, whose norm is 1 + h ‖A‖² for D = I and |1 − h ‖A‖²| or less for −I."""
    block = layer(4, dt=3.0)
    with torch.no_grad():
        block.inner.bias.zero_()
        block.scale.fill_(sign)
    gram = block.inner.weight.mT @ block.inner.weight
    jac = torch.eye(4) + 3 * sign * gram
    size = float(torch.linalg.eigvalsh(gram.detach())[-1])
    assert block.guarantee.lipschitz == pytest.approx(max(1.0, 3 * size - 1) if sign < 0 else 1 + 3 * size, rel=1e-12)
    torch.testing.assert_close(jacobian(block, torch.zeros(4).double()), jac, rtol=0, atol=1e-12)
    if sign > 0:
        assert float(torch.linalg.matrix_norm(jac.detach(), 2)) == pytest.approx(block.guarantee.lipschitz, rel=1e-12)


def test_a_descent_by_steps_that_are_short_enough_does_not_expand():
    """D ≤ 0 and h ‖A‖² ‖D‖ ≤ 2."""
    block = layer(4)
    with torch.no_grad():
        block.scale.fill_(-1)
        block.inner.weight.mul_((2 / torch.linalg.matrix_norm(block.inner.weight, 2) ** 2).sqrt())
    assert block.guarantee.lipschitz == pytest.approx(1, abs=1e-12)


def test_bad_input_is_told_in_a_line():
    with pytest.raises(sx.errors.InputError, match="hidden is 0"):
        sx.nn.Gradient(3, hidden=0)
    with pytest.raises(sx.errors.InputError, match=r"method is 'rk5'.*euler"):
        sx.nn.Gradient(3, method="rk5")
    with pytest.raises(sx.errors.InputError, match="dt is 0"):
        sx.nn.Gradient(3, dt=0)
