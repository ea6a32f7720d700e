"""Compositions of the parts' flows: their order by regression, with flows that are exact, of second order, and of first."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from separatrix.core.tangent import pushforward
from separatrix.flows.methods import SOLVERS, SPLITTINGS, cayley_midpoint, lie, strang
from separatrix.flows.methods.cayley import Dense

STEPS = np.array([1 / 16, 1 / 32, 1 / 64, 1 / 128])
START = torch.tensor([0.8, -0.5, 0.3], dtype=torch.float64)


def skew(x: Tensor) -> Dense:
    """A rotation whose axis depends on the state."""
    a = torch.stack([x[..., 1] + 1, x[..., 2] ** 2, torch.sin(x[..., 0])], dim=-1)
    zero = torch.zeros_like(x[..., 0])
    rows = [(zero, -a[..., 2], a[..., 1]), (a[..., 2], zero, -a[..., 0]), (-a[..., 1], a[..., 0], zero)]
    return Dense(torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2))


def sphere(x: Tensor, t: float = 0.0) -> Tensor:
    return (skew(x).matrix @ x[..., None])[..., 0]


def gradient(x: Tensor, t: float = 0.0) -> Tensor:
    """The gradient of Σ sin xᵢ + x₁ x₂."""
    return torch.cos(x) + torch.stack([x[..., 1], x[..., 0], torch.zeros_like(x[..., 2])], dim=-1)


def exactly(field):
    """The flow of a field by SciPy, at tolerances of 1e-13."""

    def flow(x: Tensor, h: float) -> Tensor:
        def slope(t: float, y: np.ndarray) -> np.ndarray:
            return field(torch.from_numpy(y)).numpy()

        return torch.from_numpy(solve_ivp(slope, (0, h), x.numpy(), method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1])

    return flow


def by_cayley(x: Tensor, h: float) -> Tensor:
    return cayley_midpoint(skew, x, h)


def by_lie_euler(x: Tensor, h: float) -> Tensor:
    """On the sphere too, but of first order."""
    return (torch.matrix_exp(h * skew(x).matrix) @ x[..., None])[..., 0]


def by(method: str):
    return lambda x, h: SOLVERS[method].step(gradient, x, 0.0, h)


def order(step, steps: int | None = None) -> float:
    """The slope of the error of one step, or over a time of 1, against the step."""
    whole, errors = exactly(lambda x: gradient(x) + sphere(x)), []
    for h in STEPS:
        x, count = START, 1 if steps is None else round(steps / h)
        for _ in range(count):
            x = step(x, float(h))
        errors.append(float((x - whole(START, count * float(h))).norm()))
    return float(np.polyfit(np.log(STEPS), np.log(errors), 1)[0])


SECOND = by("midpoint"), by_cayley


def test_strang_has_a_local_error_of_third_order_and_a_global_one_of_second():
    assert order(lambda x, h: strang.step(SECOND, x, h)) == pytest.approx(3, abs=0.1)
    assert order(lambda x, h: strang.step(SECOND, x, h), steps=1) == pytest.approx(2, abs=0.1)
    assert order(lambda x, h: strang.step((exactly(gradient), exactly(sphere)), x, h)) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("flows", [(by("midpoint"), by_lie_euler), (by("euler"), by_cayley)], ids=["lie-euler", "euler"])
def test_a_flow_of_first_order_takes_strang_s_third_away(flows):
    assert order(lambda x, h: strang.step(flows, x, h)) == pytest.approx(2, abs=0.1)


def test_lie_s_splitting_is_of_first_order_even_with_exact_flows():
    assert order(lambda x, h: lie.step((exactly(gradient), exactly(sphere)), x, h)) == pytest.approx(2, abs=0.1)
    assert order(lambda x, h: lie.step(SECOND, x, h), steps=1) == pytest.approx(1, abs=0.1)


def test_strang_of_linear_parts_is_a_product_of_exponentials():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
    flows = [lambda x, h, m=m: x @ torch.matrix_exp(h * m).mT for m in (a, b)]
    half, whole = torch.matrix_exp(0.15 * a), torch.matrix_exp(0.3 * b)
    torch.testing.assert_close(strang.step(flows, START, 0.3), half @ whole @ half @ START, rtol=0, atol=1e-14)


def test_a_symmetric_splitting_of_exact_flows_is_its_own_inverse_with_time_turned_back():
    flows = [lambda x, h, m=m: x @ torch.matrix_exp(h * m).mT for m in (torch.diag(START), skew(START).matrix)]
    there = strang.step(flows, START, 0.4)
    torch.testing.assert_close(strang.step(flows, there, -0.4), START, rtol=0, atol=1e-14)
    assert float((lie.step(flows, lie.step(flows, START, 0.4), -0.4) - START).norm()) > 1e-3


@pytest.mark.parametrize("name", SPLITTINGS)
def test_shares_of_each_part_add_up_to_one_and_tangents_are_the_derivative(name):
    composition = SPLITTINGS[name]
    for part in (0, 1):
        assert sum(share for which, share in composition.stages if which == part) == 1
    x, v = START.expand(2, 3), torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    carried = [lambda x, v, h, flow=flow: pushforward(lambda y: flow(y, h), x, v) for flow in SECOND]
    value, pushed = composition.pushforward(carried, x, v, 0.2)
    expected = pushforward(lambda y: composition.step(SECOND, y, 0.2), x, v)
    torch.testing.assert_close(value, expected[0], rtol=0, atol=1e-15)
    torch.testing.assert_close(pushed, expected[1], rtol=0, atol=1e-13)
