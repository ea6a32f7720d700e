"""Flows: orders of convergence by regression, exact discrete derivatives, time, and equilibria."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from separatrix.core.components import components
from separatrix.core.errors import InputError
from separatrix.core.evolve import begin, trajectory
from separatrix.core.tangent import pushforward
from separatrix.flows.field import Field, FunctionField
from separatrix.flows.flow import Flow
from separatrix.flows.methods import SOLVERS
from separatrix.testing import check_module_untouched, check_system

ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}
PAIRS = {"dopri5": 5, "tsit5": 5, "rodas5p": 5}  # see tests/flows/methods/test_embedded.py
SYMPLECTIC = {"leapfrog": 2, "yoshida4": 4, "implicit_midpoint": 2}  # see tests/solvers
STEPS = np.array([16, 32, 64, 128])


class Swing(Field):
    """ẋ = (q, −stiffness sin p + cos t), a driven pendulum, with closed-form tangents."""

    def __init__(self, stiffness=1.7):
        super().__init__()
        self.hold(stiffness=stiffness)

    def forward(self, x: Tensor, t: float) -> Tensor:
        p, q = x.unbind(-1)
        return components(q, -self.stiffness * p.sin() + math.cos(t))

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        dp, dq = v.unbind(-1)
        return self(x, t), components(dq, -self.stiffness * x[..., :1].cos() * dp)


class AutomaticSwing(Swing):
    """The same, its tangents by forward AD."""

    pushforward = Field.pushforward


def modulated(x: Tensor, t: float) -> Tensor:
    """ẋ = x² cos t, solved by x₀ / (1 − x₀ sin t), whose derivative by x₀ is 1 / (1 − x₀ sin t)²."""
    return x**2 * math.cos(t)


def order(errors: list[float]) -> float:
    """The slope of log error over log step."""
    return -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


def test_the_table_of_solvers_is_complete():
    assert {name: method.order for name, method in SOLVERS.items()} == ORDERS | PAIRS | SYMPLECTIC
    assert all(method.name == name for name, method in SOLVERS.items())


@pytest.mark.parametrize("method", ORDERS)
def test_a_solver_converges_at_its_order_in_state_and_tangent(method):
    x0, end = torch.tensor([0.6], dtype=torch.float64), 1.5
    exact = 0.6 / (1 - 0.6 * math.sin(end))
    errors, tangent_errors = [], []
    for steps in STEPS:
        flow = Flow(modulated, 1, end / steps, method=method, time_dependent=True)
        front = begin(flow, x0).with_tangents(torch.ones(1, 1, dtype=torch.float64)).advance(int(steps))
        errors.append(abs(front.x.item() - exact))
        tangent_errors.append(abs(front.v.item() - (exact / 0.6) ** 2))
    assert order(errors) == pytest.approx(ORDERS[method], abs=0.15)
    assert order(tangent_errors) == pytest.approx(ORDERS[method], abs=0.2)


@pytest.mark.parametrize("method", ORDERS)
def test_a_linear_flows_step_is_the_truncated_exponential(method):
    """Σ_{j ≤ order} (h A)ʲ / j!, for every method whose stages are no more than its order."""
    a, h = torch.tensor([[0.1, -2.0, 0.3], [1.0, 0.2, 0.0], [0.5, 0.0, -1.0]], dtype=torch.float64), 0.3
    powers = [torch.linalg.matrix_power(h * a, j) / math.factorial(j) for j in range(ORDERS[method] + 1)]
    flow = Flow(lambda x: x @ a.T, 3, h, method=method)
    _, pushed = flow.pushforward(torch.rand(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    assert torch.allclose(pushed, sum(powers).T, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("method", ORDERS | SYMPLECTIC)
@pytest.mark.parametrize("field", [Swing, AutomaticSwing])
def test_the_tangents_are_those_of_the_discrete_step(method, field):
    """Of the discrete step, not of the exact flow: the step is far too long here."""
    flow = Flow(field(), 2, 0.9, method=method)
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = torch.randn(5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    value, pushed = flow.pushforward(x, v, 4)
    wanted, automatic = pushforward(lambda y: flow.step(y, 4), x, v)
    assert torch.allclose(value, wanted, rtol=1e-14)
    assert torch.allclose(pushed, automatic, rtol=1e-13)


@pytest.mark.parametrize("method", ORDERS | SYMPLECTIC)
def test_a_step_begins_at_n_dt(method):
    """One long run against two that share its clock."""
    flow = Flow(Swing(), 2, 0.2, method=method)
    x0 = torch.tensor([0.3, -0.4], dtype=torch.float64)
    orbit = trajectory(flow, x0, 6)
    x = orbit[3]
    for n in (3, 4, 5):
        x = flow.step(x, n)
    assert torch.equal(x, orbit[6])
    assert not torch.allclose(flow.step(orbit[3], 0), orbit[4])


def test_a_function_of_time_alone_is_integrated_by_simpsons_rule():
    """RK4 on ẋ = g(t) is Simpson's rule, exact for cubics."""
    flow = Flow(lambda x, t: 0 * x + 4 * t**3 - 3 * t**2, 1, 0.5, time_dependent=True)
    orbit = trajectory(flow, torch.zeros(1, dtype=torch.float64), 6)[:, 0]
    t = 0.5 * torch.arange(7, dtype=torch.float64)
    assert torch.allclose(orbit, t**4 - t**3, rtol=1e-13, atol=1e-13)


def test_the_residual_is_the_field_so_that_equilibria_do_not_depend_on_the_method():
    for method in ORDERS:
        flow = Flow(lambda x: x.sin(), 1, 0.7, method=method)
        assert flow.residual(torch.tensor([math.pi / 6], dtype=torch.float64)).item() == pytest.approx(0.5)
        assert flow.residual(torch.zeros(1)).item() == 0


def test_the_residual_of_step_n_is_the_field_at_its_time():
    """(q, −1.7 sin p + cos t) at t = 3 · 0.2."""
    found = Flow(Swing(), 2, 0.2).residual(torch.tensor([0.3, -0.4], dtype=torch.float64), 3)
    assert found.tolist() == pytest.approx([-0.4, -1.7 * math.sin(0.3) + math.cos(0.6)])


def test_the_clock_of_a_flow_is_its_step():
    flow = Flow(Swing(), 2, 0.25)
    assert (flow.dt, flow.elapsed(torch.zeros(2))) == (0.25, 0.25)
    assert begin(flow, torch.zeros(2)).advance(8).time == 2.0


def test_a_module_as_a_field_stays_as_it_was():
    module = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2)).train()
    flow = Flow(module, 2, 0.1)
    x = torch.rand(3, 2, dtype=torch.float64)
    after = check_module_untouched(module, lambda: begin(flow, x).advance(1).x)
    reference = nn.Sequential(module[0], module[2], module[3])
    again = torch.func.functional_call(reference, {k: p.double() for k, p in reference.named_parameters()}, (x,))
    assert torch.allclose(begin(Flow(module, 2, 0.1, method="euler"), x).advance(1).x, x + 0.1 * again, rtol=1e-14)
    assert after.dtype == torch.float64


def test_a_gradient_reaches_the_modules_parameters_through_a_run():
    """After one Euler step of ẋ = a x the state is (1 + h a) x₀; its derivative by a is h x₀."""
    module = nn.Linear(1, 1, bias=False)
    begin(Flow(module, 1, 0.5, method="euler"), torch.tensor([3.0], dtype=torch.float64)).advance(1).x.sum().backward()
    assert module.weight.grad.item() == pytest.approx(1.5)


def test_parameters_of_a_field_may_carry_a_batch():
    stiffness = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    x0, v = torch.tensor([0.3, -0.4], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    front = begin(Flow(AutomaticSwing(stiffness), 2, 0.1), x0).with_tangents(v.expand(3, 2, 2)).advance(7)
    for i, value in enumerate(stiffness.tolist()):
        one = begin(Flow(Swing(value), 2, 0.1), x0).with_tangents(v).advance(7)
        assert torch.allclose(front.x[i], one.x, rtol=1e-14)
        assert torch.allclose(front.v[i], one.v, rtol=1e-13)


@pytest.mark.parametrize("method", ORDERS | SYMPLECTIC)
def test_a_flow_conforms(method):
    check_system(Flow(AutomaticSwing(), 2, 0.1, method=method, start=(0.5, 1.0)))


def test_a_field_without_a_formula_says_so():
    with pytest.raises(NotImplementedError, match="forward"):
        Flow(Field(), 1, 0.1).step(torch.zeros(1))


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'rk45'.*'euler', 'heun', 'midpoint', 'rk4', 'dopri5'"):
        Flow(torch.sin, 1, 0.1, method="rk45")


@pytest.mark.parametrize("dt", [0, -0.1, math.inf, math.nan])
def test_a_step_that_is_no_positive_number_is_refused(dt):
    with pytest.raises(InputError, match=f"dt is {dt}"):
        Flow(torch.sin, 1, dt)


def test_a_function_field_differentiates_its_function():
    _, pushed = FunctionField(torch.sin).pushforward(torch.zeros(2).double(), torch.eye(2).double(), 0.0)
    assert torch.equal(pushed, torch.eye(2).double())


def test_a_refined_flow_takes_shorter_steps_of_the_same_field():
    """Two half steps of Euler's on ẋ = a x are (1 + a h/2)²; changes of the copy do not affect the flow."""
    flow = Flow(lambda x: -0.8 * x, 1, 0.5, method="euler")
    x = torch.ones(1, dtype=torch.float64)
    half, other = flow.refined(2), flow.refined(1, method="rk4")
    assert (half.dt, other.dt, flow.dt, flow.method) == (0.25, 0.5, 0.5, "euler")
    assert float(trajectory(half, x, 2)[-1]) == pytest.approx((1 - 0.2) ** 2, rel=1e-14)
    assert float(other.step(x)) == pytest.approx(sum((-0.4) ** j / math.factorial(j) for j in range(5)), rel=1e-14)
    turned = flow.refined(1)
    turned.field = FunctionField(lambda x: x)
    assert float(flow.step(x)) == pytest.approx(0.6)
    for factor in (0, 1.5):
        with pytest.raises(InputError, match="factor is"):
            flow.refined(factor)
    with pytest.raises(InputError, match=r"'rk45'"):
        flow.refined(method="rk45")


def test_parameters_of_a_refined_flow_can_be_replaced_without_the_other_s():
    swing, x = Flow(Swing(), 2, 0.1, time_dependent=True), torch.ones(2, dtype=torch.float64)
    before = swing.step(x)
    half = swing.refined(2)
    stiff = half.at(stiffness=5.0)
    assert torch.equal(swing.step(x), before) and not torch.equal(stiff.step(x), half.step(x))
