"""Leapfrog and Yoshida's composition: orders, exact symplectic tangents, reversal, two clocks, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ellipj, ellipk
from torch import Tensor

import separatrix as sx
from separatrix.core.tangent import jacobian
from separatrix.flows.methods import SOLVERS, leapfrog, yoshida4

ORDERS = {"leapfrog": 2, "yoshida4": 4}
STEPS = np.array([32, 64, 128, 256])
OMEGA = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)


def swing(x: Tensor) -> Tensor:
    """The pendulum  q̈ = −sin q."""
    q, p = x.unbind(-1)
    return torch.stack([p, -q.sin()], dim=-1)


def released(q0: float, t: float) -> Tensor:
    """The pendulum released at rest from q0: sin(q/2) = k sn(t + K), p = 2k cn(t + K), k = sin(q0/2)."""
    k = math.sin(q0 / 2)
    sn, cn, _, _ = ellipj(t + ellipk(k * k), k * k)
    return torch.tensor([2 * math.asin(k * sn), 2 * k * cn], dtype=torch.float64)


def order(errors: list[float]) -> float:
    return -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


def random_states(count: int, dim: int) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ORDERS)
@pytest.mark.parametrize("end", [3.0, -3.0])
def test_the_pendulum_is_followed_at_the_order_forwards_and_backwards(method, end):
    """Against its elliptic functions; a step of negative length goes back in time."""
    errors = []
    for steps in STEPS:
        x = torch.tensor([2.0, 0.0], dtype=torch.float64)
        for _ in range(steps):
            x = SOLVERS[method].step(lambda y, t: swing(y), x, 0.0, end / steps)
        errors.append(float((x - released(2.0, end)).abs().max()))
    assert order(errors) == pytest.approx(ORDERS[method], abs=0.1)


@pytest.mark.parametrize("method", ORDERS)
def test_a_force_that_depends_on_time_keeps_the_order(method):
    """q̈ = −q + cos 2t from (1, 0):  q = (4/3) cos t − (1/3) cos 2t.  And ṙ = s cos t, where the velocity depends on time."""

    def field(x: Tensor, t: float) -> Tensor:
        q, r, p, s = x.unbind(-1)
        return torch.stack([p, s * math.cos(t), -q + math.cos(2 * t), 0 * r], dim=-1)

    end, errors = 2.0, []
    exact = torch.tensor(
        [
            4 / 3 * math.cos(end) - math.cos(2 * end) / 3,
            math.sin(end),
            -4 / 3 * math.sin(end) + 2 / 3 * math.sin(2 * end),
            1.0,
        ],
        dtype=torch.float64,
    )
    for steps in STEPS:
        flow = sx.Flow(field, 4, end / steps, method=method, time_dependent=True)
        last = sx.trajectory(flow, torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64), int(steps))[-1]
        errors.append(float((last - exact).abs().max()))
    assert order(errors) == pytest.approx(ORDERS[method], abs=0.1)


def test_a_leapfrog_step_of_an_oscillator_is_its_matrix():
    """Kick, drift, kick by hand for q̈ = −q:  [[1 − h²/2, h], [−h + h³/4, 1 − h²/2]]."""
    h = 0.7
    wanted = torch.tensor([[1 - h * h / 2, h], [-h + h**3 / 4, 1 - h * h / 2]], dtype=torch.float64)
    flow = sx.Flow(lambda x: x @ OMEGA.T, 2, h, method="leapfrog")
    assert torch.allclose(jacobian(flow, torch.zeros(2, dtype=torch.float64)), wanted, atol=1e-15)


@pytest.mark.parametrize("method", ORDERS)
def test_the_step_is_symplectic_and_its_reverse_is_its_inverse(method):
    flow, x = sx.Flow(swing, 2, 0.9, method=method), random_states(20, 2)
    jac = jacobian(flow, x)
    assert (jac.mT @ OMEGA @ jac - OMEGA).abs().max() < 1e-14 * float(jac.norm(dim=(-2, -1)).max()) ** 2
    back = SOLVERS[method].step(lambda y, t: swing(y), flow.step(x), 0.0, -0.9)
    assert torch.allclose(back, x, atol=1e-14)


def test_yoshidas_weights_cancel_the_third_order():
    """Σ w = 1 and Σ w³ = 0 are the conditions of order 4 for a symmetric composition."""
    assert sum(yoshida4.weights) == pytest.approx(1.0, abs=1e-15)
    assert sum(w**3 for w in yoshida4.weights) == pytest.approx(0.0, abs=1e-14)
    assert leapfrog.moves == [(0.5, 1.0), (0.5, 0.0)]
    for method in (leapfrog, yoshida4):
        assert [sum(part) for part in zip(*method.moves, strict=True)] == pytest.approx([1.0, 1.0])


def test_leapfrog_keeps_its_modified_energy_so_that_the_true_one_does_not_drift():
    """H + h² (p² cos q / 12 − sin² q / 24) is kept to O(h⁴) (Hairer, Lubich & Wanner 2006, IX.3), the energy H itself to O(h²)."""
    changes = []
    for h in (0.2, 0.1):
        flow = sx.classic.pendulum(1.0, 1.0, dt=h, method="leapfrog")
        q, p = sx.trajectory(flow, torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64), 2000).unbind(-1)
        energy = p**2 / 2 - q.cos()
        modified = energy + h**2 * (p**2 * q.cos() / 12 - q.sin() ** 2 / 24)
        changes.append([float((kept - kept[0]).abs().max()) for kept in (energy, modified)])
    assert changes[0][0] / changes[1][0] == pytest.approx(4, rel=0.05)
    assert changes[0][1] / changes[1][1] == pytest.approx(16, rel=0.1)


def test_a_field_that_is_not_separable_is_refused_where_a_run_begins():
    with pytest.raises(sx.errors.InputError, match=r"leapfrog .*ṗ changes by .* only p"):
        sx.trajectory(sx.classic.double_pendulum(method="leapfrog"), steps=1)
    twisted = sx.Flow(lambda x: torch.stack([x[..., 0] * x[..., 1], -x[..., 0]], -1), 2, 0.1, method="yoshida4")
    with pytest.raises(sx.errors.InputError, match=r"yoshida4 .*q̇ changes by .* only q"):
        sx.lyapunov_spectrum(twisted, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("scale", "x0", "friction"),
    [
        (1e-10, 1.0, lambda t: 0.1),  # a slow field in the units that it is given in
        (1.0, 1e12, lambda t: 0.1),  # states beside which a move by 1 is nothing
        (1.0, 1e-12, lambda t: 0.1),
        (1.0, 1.0, lambda t: min(t, 1.0)),  # friction that is 0 as the run begins
    ],
)
def test_friction_is_seen_whatever_the_units_and_whenever_it_sets_in(scale, x0, friction):
    def damped(x: Tensor, t: float) -> Tensor:
        q, p = x.unbind(-1)
        return scale * torch.stack([p, -q - friction(t) * p], -1)

    flow = sx.Flow(damped, 2, 0.1, method="leapfrog", time_dependent=True)
    with pytest.raises(sx.errors.InputError, match=r"ṗ changes by .* only p"):
        sx.trajectory(flow, torch.tensor([x0, 0.0], dtype=torch.float64), 3)


def test_separable_fields_are_followed_whatever_their_units():
    """Kepler's, a stiff spring in float32, a force that is defined on one side only, and a state at rest."""

    def kepler(x: Tensor) -> Tensor:
        q, p = x.chunk(2, -1)
        return torch.cat([p, -q / q.norm(dim=-1, keepdim=True) ** 3], -1)

    def spring(x: Tensor) -> Tensor:
        return torch.stack([x[..., 1], -1e6 * x[..., 0]], -1)

    def one_sided(x: Tensor) -> Tensor:
        return torch.stack([x[..., 1], -x[..., 0].log()], -1)

    runs = [
        (kepler, 0.01, torch.tensor([1e6, 0.0, 0.0, 1e-3]).double()),
        (kepler, 1e-9, torch.tensor([1e-6, 0.0, 0.0, 1e3]).double()),
        (spring, 1e-4, torch.tensor([100.0, 0.0])),
        (one_sided, 0.1, torch.tensor([1.5, 0.0]).double()),
        (swing, 0.1, torch.zeros(2).double()),
    ]
    for field, dt, x0 in runs:
        assert sx.trajectory(sx.Flow(field, len(x0), dt, method="leapfrog"), x0, 3).isfinite().all()


def test_an_odd_state_is_refused_in_one_line():
    with pytest.raises(sx.errors.ShapeError, match="3 numbers"):
        sx.Flow(torch.sin, 3, 0.1, method="leapfrog")


def test_a_section_of_a_flow_asks_for_a_separable_field_too():
    """How sections follow these methods within a step is in tests/systems/test_section.py."""
    with pytest.raises(sx.errors.InputError, match="leapfrog"):
        sx.trajectory(sx.Section(sx.classic.double_pendulum(method="leapfrog"), 0), steps=1)
