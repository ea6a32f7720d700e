"""The implicit midpoint rule: its order, Cayley's transform, what it keeps, derivatives of the equation's solution, and failure."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ellipj, ellipk
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.tangent import jacobian
from separatrix.flows.methods import ImplicitMidpoint, implicit_midpoint

STEPS = np.array([32, 64, 128, 256])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotor(x: Tensor) -> Tensor:
    """Euler's equations of a free rigid body, which keep |x|² and Σ a_i x_i², with moments of inertia 1, 2, 3."""
    p, q, r = x.unbind(-1)
    return torch.stack([-q * r / 6, 2 * p * r / 3, -p * q / 2], dim=-1)


def coupled(x: Tensor) -> Tensor:
    """The field of H = ½ p²(1 + q²) + ½ q²,  which is not separable."""
    q, p = x.unbind(-1)
    return torch.stack([p * (1 + q * q), -q - p * p * q], dim=-1)


def implicit(field: nn.Module | object, dim: int, dt: float) -> sx.Flow:
    return sx.Flow(field, dim, dt, method="implicit_midpoint")


@pytest.mark.parametrize("end", [3.0, -3.0])
def test_the_pendulum_is_followed_at_second_order_forwards_and_backwards(end):
    """Against sin(q/2) = k sn(t + K)."""
    k, errors = math.sin(1.0), []
    sn, cn, _, _ = ellipj(end + ellipk(k * k), k * k)
    exact = torch.tensor([2 * math.asin(k * sn), 2 * k * cn], dtype=torch.float64)
    field = sx.classic.pendulum(1.0, 1.0).field
    for steps in STEPS:
        x = torch.tensor([2.0, 0.0], dtype=torch.float64)
        for _ in range(steps):
            x = implicit_midpoint.step(field, x, 0.0, end / steps)
        errors.append(float((x - exact).abs().max()))
    assert -np.polyfit(np.log(STEPS), np.log(errors), 1)[0] == pytest.approx(2, abs=0.05)


def test_a_field_that_depends_on_time_is_read_in_the_middle():
    """ẋ = g(t) is the midpoint rule of quadrature, exact for straight lines, and off by h³/12 for t² each step."""
    for power, off in ((1, 0.0), (2, 0.5**3 / 12)):
        flow = sx.Flow(lambda x, t, n=power: 0 * x + t**n, 1, 0.5, method="implicit_midpoint", time_dependent=True)
        orbit = sx.trajectory(flow, torch.zeros(1, dtype=torch.float64), 4)
        assert orbit[-1].item() == pytest.approx(2 ** (power + 1) / (power + 1) - 4 * off, abs=1e-14)


def test_a_linear_step_is_cayleys_transform_however_long_it_is():
    a, h = normal(5, 5), 3.0
    identity = torch.eye(5, dtype=torch.float64)
    cayley = torch.linalg.solve(identity - h / 2 * a, identity + h / 2 * a)
    flow = implicit(lambda x: x @ a.T, 5, h)
    x = normal(7, 5, seed=1)
    assert torch.allclose(flow.step(x), x @ cayley.T, rtol=1e-11, atol=1e-12)
    assert torch.allclose(jacobian(flow, x), cayley.expand(7, 5, 5), rtol=1e-11, atol=1e-12)


def test_quadratic_invariants_are_kept_to_rounding():
    """Both invariants of the free rotor, over 100 steps; the explicit midpoint rule does not keep them."""
    moments = torch.tensor([1.0, 0.5, 1 / 3], dtype=torch.float64)
    x0 = normal(10, 3)
    last = {m: sx.trajectory(sx.Flow(rotor, 3, 0.1, method=m), x0, 100)[-1] for m in ("implicit_midpoint", "midpoint")}
    for weights in (torch.ones(3, dtype=torch.float64), moments):
        kept = ((last["implicit_midpoint"] ** 2 - x0**2) * weights).sum(-1)
        lost = ((last["midpoint"] ** 2 - x0**2) * weights).sum(-1)
        assert kept.abs().max() < 1e-12 * float((x0**2).sum(-1).max())
        assert lost.abs().max() > 1e-5


def test_a_hamiltonian_step_is_symplectic_and_its_reverse_is_its_inverse():
    """To rounding, on a field that is not separable."""
    omega = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    flow, x = implicit(coupled, 2, 0.3), normal(50, 2)
    jac = jacobian(flow, x)
    assert (jac.mT @ omega @ jac - omega).abs().max() < 1e-13 * float(jac.norm(dim=(-2, -1)).max()) ** 2
    back = implicit_midpoint.step(lambda y, t: coupled(y), flow.step(x), 0.0, -0.3)
    assert torch.allclose(back, x, rtol=0, atol=1e-13)


def test_closed_form_tangents_are_those_of_the_step():
    flow, x, v = sx.classic.double_pendulum(dt=0.05, method="implicit_midpoint"), normal(6, 4), normal(6, 3, 4, seed=1)
    value, pushed = flow.pushforward(x, v)
    h = 1e-5
    near = [(flow.step(x + h * w) - flow.step(x - h * w)) / (2 * h) for w in v.unbind(-2)]
    assert torch.allclose(value, flow.step(x), rtol=1e-14)
    assert torch.allclose(pushed, torch.stack(near, -2), rtol=1e-7, atol=1e-7)  # a difference at ε^(1/3)


def test_gradients_by_state_and_weights_are_exact_to_the_second_order():
    """Through the equation's solution, not through Newton's steps; in reverse and in forward mode."""
    torch.manual_seed(0)
    weight, x = normal(3, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()

    def stepped(y: Tensor, w: Tensor) -> Tensor:
        return implicit_midpoint.step(lambda z, t: torch.tanh(z @ w.T), y, 0.0, 0.4)

    assert torch.autograd.gradcheck(stepped, (x, weight), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(stepped, (x, weight))


def test_the_first_three_derivatives_are_those_of_the_solution():
    """ẋ = x² with h = ½:  x' = 4 − 4√(1 − x) − x;  by reverse and by forward mode, one over the other."""
    x = torch.tensor([[-1.0], [0.1], [0.6]], dtype=torch.float64, requires_grad=True)
    root = 1 - x.detach()
    exact = [2 * root**-0.5 - 1, root**-1.5, 1.5 * root**-2.5]

    def stepped(y: Tensor) -> Tensor:
        return implicit_midpoint.step(lambda z, t: z * z, y, 0.0, 0.5)

    back, forward = stepped(x), stepped
    for derivative in exact:
        (back,) = torch.autograd.grad(back.sum(), x, create_graph=True)
        forward = along_ones(forward)
        assert torch.allclose(back, derivative, rtol=1e-12)
        assert torch.allclose(forward(x.detach()), derivative, rtol=1e-12)


def along_ones(function):
    return lambda x: torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]


def test_a_pushforward_can_be_trained_through():
    """d/dw of the Cayley factor (1 + hw/2)/(1 − hw/2) of ẋ = w x is h / (1 − hw/2)²."""
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    _, pushed = implicit_midpoint.pushforward(lambda x, v, t: (w * x, w * v), one[0], one, 0.0, 0.5)
    pushed.sum().backward()
    assert w.grad.item() == pytest.approx(0.5 / (1 - 0.25 * 0.7) ** 2, rel=1e-12)


def test_an_item_without_a_solution_is_nan_and_leaves_its_neighbours_and_their_gradients_alone():
    """ẋ = x² from x > 1/(2h): h m²/2 − m + x = 0 has no real root."""
    x = torch.tensor([[0.3], [2.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    after = implicit_midpoint.step(lambda y, t: y * y, x, 0.0, 0.5)
    m = (1 - (1 - x.detach()[::2]).sqrt()) / 0.5  # the smaller root at h = 1/2
    assert after[1].isnan().all()
    assert torch.allclose(after[::2], 2 * m - x[::2], rtol=1e-13)
    after.nan_to_num(0.0).sum().backward()
    assert x.grad.isfinite().all() and x.grad[1] == 0
    alone = implicit_midpoint.step(lambda y, t: y * y, x[:1], 0.0, 0.5)
    assert torch.equal(alone, after[:1])


def test_a_run_goes_on_without_the_item_that_failed():
    flow = implicit(lambda y: y * y, 1, 0.5)
    orbit = sx.trajectory(flow, torch.tensor([[0.01], [2.0]], dtype=torch.float64), 5)
    assert orbit[:, 0].isfinite().all() and orbit[1:, 1].isnan().all()


def test_newton_is_damped_where_a_full_step_overshoots():
    """A field with a steep front, from far away: G is monotone, so there is one solution, which damping finds."""
    flow = implicit(lambda x: -torch.atan(50 * x), 1, 2.0)
    x = torch.tensor([[0.9], [-3.0], [1.2]], dtype=torch.float64)
    m = (flow.step(x) + x) / 2
    assert torch.allclose(m + torch.atan(50 * m), x, rtol=0, atol=1e-13)


def test_too_few_steps_give_nan_rather_than_a_worse_number():
    hasty = ImplicitMidpoint("hasty", 2, max_steps=1)
    assert hasty.step(lambda y, t: coupled(y), normal(3, 2), 0.0, 0.3).isnan().all()
