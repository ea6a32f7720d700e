"""Orders of convergence against closed-form flows, regression by numpy, and networks whose limit is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix import plot
from separatrix.flows.methods import SOLVERS

ANY_FIELD = ("euler", "heun", "midpoint", "rk4", "dopri5", "implicit_midpoint")


def growth(method: str, dt: float = 0.25) -> sx.Flow:
    """ẋ = x, whose solution is x₀ eᵗ."""
    return sx.Flow(lambda x: x, 1, dt, method=method)


def pendulum(method: str) -> sx.Flow:
    return sx.Flow(lambda x: torch.cat([x[..., 1:], -x[..., :1].sin()], -1), 2, 0.5, method=method)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


@pytest.mark.parametrize("method", ANY_FIELD)
def test_errors_are_those_of_the_closed_form_and_their_slope_is_the_order(method):
    found = sx.step_convergence(growth(method), ones(1), steps=8)
    factors = [float(SOLVERS[method].amplification(torch.tensor(0.25 / 2**j, dtype=torch.float64))) ** (8 * 2**j) for j in range(6)]
    wanted = np.abs(np.array(factors) - math.e**2)
    clear = found.fitted.numpy()
    np.testing.assert_allclose(found.errors.numpy()[clear], wanted[clear], rtol=0.1)  # ten times the limit's own error at least
    assert float(found.order) == pytest.approx(SOLVERS[method].order, abs=0.15)
    assert found.status == "ok" and found.nominal == SOLVERS[method].order and found.time == 2.0


@pytest.mark.parametrize("method", ["leapfrog", "yoshida4", "rk4"])
def test_a_pendulum_is_followed_at_each_method_s_order(method):
    found = sx.step_convergence(pendulum(method), torch.tensor([[1.0, 0.0], [2.0, 0.3]], dtype=torch.float64), steps=8)
    assert (found.order - SOLVERS[method].order).abs().max() < 0.3
    assert (np.asarray(found.status) == "ok").all()


def test_the_slope_and_its_error_are_those_of_least_squares():
    """Against numpy's covariance, on the four finest levels that are clear."""
    found = sx.step_convergence(pendulum("euler"), torch.tensor([1.0, 0.0], dtype=torch.float64), steps=8)
    rows = found.fitted.numpy()
    assert rows.sum() == 4 and rows[-1]
    x, y = np.log(found.dt.numpy()[rows]), np.log(found.errors.numpy()[rows])
    (slope, _), cov = np.polyfit(x, y, 1, cov=True)
    assert float(found.order) == pytest.approx(slope, abs=1e-12)
    assert float(found.order_stderr) == pytest.approx(math.sqrt(cov[0, 0]), rel=1e-9)
    np.testing.assert_allclose(found.slopes.numpy(), np.diff(np.log2(found.errors.numpy())) * -1, rtol=1e-12)


def test_a_network_of_jumping_layers_nears_the_product_of_their_exponentials():
    torch.manual_seed(0)
    layers = [nn.Linear(3, 3, bias=False).double() for _ in range(4)]
    model, x = sx.nn.ContinuousDepth(layers, end=4.0), torch.randn(6, 3, dtype=torch.float64)
    found = sx.step_convergence(model, x)
    limit = x
    for layer in layers:
        limit = limit @ torch.linalg.matrix_exp(layer.weight.detach()).T
    assert found.steps.tolist() == [4, 8, 16, 32, 64, 128]
    errors = torch.stack([(model.refined(2**j)(x).detach() - limit).norm(dim=-1) for j in range(6)])
    torch.testing.assert_close(found.errors, errors, rtol=1e-5, atol=1e-10)
    assert (found.order - 1).abs().max() < 0.1


def test_a_kink_in_time_reduces_the_order_of_a_higher_method_and_is_reported():
    """ẋ = |t − 1| of which a step looks across the kink: what RK4 is off by there is of order two at most."""

    def kinked(x: Tensor, t: float) -> Tensor:
        return torch.full_like(x, abs(t - 0.9876))

    found = sx.step_convergence(sx.Flow(kinked, 1, 0.4, time_dependent=True), ones(1), steps=5)
    assert found.status == "not_converged"
    assert not float(found.order) > 3.5


def test_no_order_is_fitted_to_rounding_errors():
    """dopri5 on ẋ = x is exact to rounding at once, so it has no order; float32 leaves fewer levels."""
    found = sx.step_convergence(growth("dopri5", 0.01), ones(1), steps=10)
    assert found.order.isnan() and found.status == "not_converged" and "no order" in found.summary()
    single = sx.step_convergence(growth("rk4"), ones(1).float(), steps=8)
    double = sx.step_convergence(growth("rk4"), ones(1), steps=8)
    assert int(single.fitted.sum()) < 3 < int((double.errors > 0).sum())


def test_a_limit_that_is_not_finite_is_diverged_and_its_neighbours_are_not():
    flow = sx.Flow(lambda x: x**2, 1, 0.25, method="rk4")  # 1 / (1/x₀ − t): infinite at t = 1/x₀
    found = sx.step_convergence(flow, torch.tensor([[0.2], [5.0]], dtype=torch.float64), steps=8)
    assert found.status.tolist() == ["ok", "diverged"]
    assert float(found.order[0]) == pytest.approx(4, abs=0.2)


def test_throw_raises_instead_of_marking():
    """1 / (1/x₀ − t) is infinite at t = 1/x₀; dopri5 on ẋ = x is exact to rounding, so that no order can be fitted."""
    with pytest.raises(sx.errors.DivergedError, match="1 of 2 items"):
        flow = sx.Flow(lambda x: x**2, 1, 0.25, method="rk4")
        sx.step_convergence(flow, torch.tensor([[0.2], [5.0]], dtype=torch.float64), steps=8, throw=True)
    with pytest.raises(sx.errors.NotConvergedError, match="1 of 1 item"):
        sx.step_convergence(growth("dopri5", 0.01), ones(1), steps=10, throw=True)


def test_systems_other_than_flows_are_refused():
    with pytest.raises(sx.errors.UnsupportedModuleError, match="expected a Flow, got a Henon"):
        sx.step_convergence(sx.classic.henon())
    with pytest.raises(sx.errors.InputError, match="halvings is 1"):
        sx.step_convergence(growth("euler"), halvings=1)
    with pytest.raises(sx.errors.HorizonError, match="= 11 steps"):
        sx.step_convergence(sx.nn.ContinuousDepth(nn.Linear(2, 2)), steps=11)


def test_the_picture_has_a_line_of_the_method_s_slope():
    found = sx.step_convergence(pendulum("heun"), torch.tensor([1.0, 0.0], dtype=torch.float64), steps=8)
    (axes,) = plot.step_convergence_figure(found).axes
    line = next(line for line in axes.lines if line.get_gid() == "slope 0")
    x, y = np.log(line.get_xdata()), np.log(line.get_ydata())
    assert np.polyfit(x, y, 1)[0] == pytest.approx(2, abs=1e-12)
    assert "heun: order" in axes.get_legend().get_texts()[0].get_text()
    with pytest.raises(sx.errors.InputError, match="at least 1 result to compare"):
        plot.compare_step_convergence({})
