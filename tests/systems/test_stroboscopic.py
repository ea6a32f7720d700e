"""Stroboscopic maps: forced flows seen once a period, against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import separatrix as sx
from separatrix.core.components import components
from separatrix.core.parametric import Number
from separatrix.flows.field import Field

DELTA, STIFF, GAMMA = 0.3, 2.0, 0.7


class Forced(Field):
    """The linear oscillator  q̈ + δ q̇ + k q = γ cos ωt,  with its tangents."""

    def __init__(self, omega: Number = 1.1) -> None:
        super().__init__()
        self.hold(omega=omega)

    def forward(self, x: Tensor, t: Number) -> Tensor:
        angle = torch.as_tensor(self.omega * t, dtype=x.dtype)
        return components(x[..., 1], GAMMA * angle.cos() - DELTA * x[..., 1] - STIFF * x[..., 0])

    def pushforward(self, x: Tensor, v: Tensor, t: Number) -> tuple[Tensor, Tensor]:
        dq, du = v.unbind(-1)
        return self(x, t), components(du, -DELTA * du - STIFF * dq)


def steady(omega: float) -> tuple[float, float]:
    """The forced oscillation at t = 0: Re and −ω Im of  γ / (k − ω² + iδω)."""
    answer = GAMMA / (STIFF - omega**2 + 1j * DELTA * omega)
    return answer.real, -omega * answer.imag


def test_a_forced_linear_oscillator_has_its_steady_state_and_floquet_multipliers():
    """μ = exp(λ T), λ = −δ/2 ± i √(k − δ²/4)."""
    found = sx.fixed_points(sx.Stroboscopic(sx.Flow(Forced(), 2, 0.01), 2 * math.pi / 1.1), torch.zeros(1, 2).double())
    assert found.points[0].tolist() == pytest.approx(steady(1.1), abs=1e-8)
    period = 2 * math.pi / 1.1
    wanted = np.exp((-DELTA / 2 + 1j * math.sqrt(STIFF - DELTA**2 / 4)) * period)
    np.testing.assert_allclose(np.sort_complex(found.multipliers[0].numpy()), np.sort_complex([wanted, wanted.conj()]), atol=1e-8)
    assert found.rates[0].tolist() == pytest.approx([-DELTA / 2] * 2, abs=1e-8)
    assert float(found.periods) == pytest.approx(period, rel=1e-15)
    assert found.kind == ("stable focus",)


@pytest.mark.parametrize(("method", "wanted"), [("heun", 2), ("rk4", 4)])
def test_the_steady_state_converges_at_the_solver_s_order(method, wanted):
    steps, errors = [20, 40, 80, 160], []
    for count in steps:
        strobed = sx.Stroboscopic(sx.Flow(Forced(), 2, 2 * math.pi / 1.1 / count, method=method), frequency="omega")
        assert strobed.p == count
        x = sx.fixed_points(strobed, torch.zeros(1, 2).double()).points[0]
        errors.append(float((x - torch.tensor(steady(1.1), dtype=torch.float64)).norm()))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(wanted, abs=0.3)


def test_the_step_is_shortened_to_divide_the_period_and_the_map_is_the_flow_s_orbit():
    strobed = sx.Stroboscopic(sx.Flow(Forced(), 2, 0.5), 2 * math.pi / 1.1)
    assert strobed.p == 12  # ⌈5.712 / 0.5⌉
    fitted = sx.Flow(Forced(), 2, 2 * math.pi / 1.1 / 12)
    x = torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(strobed.step(x), sx.trajectory(fitted, x, 12)[-1], rtol=0, atol=1e-13)
    assert torch.equal(strobed.step(x, 5), strobed.step(x))


def test_a_batch_of_frequencies_is_a_resonance_curve():
    """Amplitude and phase of the steady state at 5 frequencies, each seen once its own period, in one run."""
    omega = torch.linspace(0.6, 2.2, 5, dtype=torch.float64)
    strobed = sx.Stroboscopic(sx.Flow(Forced(), 2, 0.05), frequency="omega").at(omega=omega)
    end = sx.trajectory(strobed, torch.zeros(5, 2, dtype=torch.float64), 60)[-1]
    wanted = torch.tensor([steady(w) for w in omega.tolist()], dtype=torch.float64)
    torch.testing.assert_close(end, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(strobed.elapsed(end), 2 * math.pi / omega)


def test_duffing_s_exponents_add_up_to_its_friction():
    """Its divergence is −δ everywhere."""
    strobed = sx.Stroboscopic(sx.classic.duffing(dt=0.05), frequency="omega")
    spectrum = sx.lyapunov_spectrum(strobed, steps=30, settle=5)
    assert float(spectrum.exponents.sum()) == pytest.approx(-0.3, abs=1e-6)


def test_a_stroboscopic_map_conforms():
    sx.testing.check_system(sx.Stroboscopic(sx.Flow(Forced(), 2, 0.2, start=(0.5, 0.1)), frequency="omega"))


def test_a_period_that_is_not_the_force_s_is_refused_also_when_the_force_changes_later():
    flow = sx.Flow(Forced(), 2, 0.05)
    with pytest.raises(sx.errors.InputError, match=r"with the period 1\.1: at t = .* changes by 0\.\d+ of its size(?s:.*)2π"):
        sx.trajectory(sx.Stroboscopic(flow, 1.1), None, 2)
    fixed = sx.Stroboscopic(flow, 2 * math.pi / 1.1)
    with pytest.raises(sx.errors.InputError, match=r"the period 5\.71199"):
        sx.trajectory(fixed.at(omega=1.3), None, 2)
    doubled = sx.trajectory(sx.Stroboscopic(flow, 4 * math.pi / 1.1), None, 3)
    torch.testing.assert_close(doubled, sx.trajectory(fixed, None, 6)[::2], rtol=0, atol=1e-6)


def test_an_autonomous_flow_is_seen_at_these_times():
    """ẋ = −x after T = 0.7: e^{−0.7}."""
    strobed = sx.Stroboscopic(sx.Flow(lambda x: -x, 1, 0.01), 0.7)
    assert float(strobed.step(torch.ones(1, dtype=torch.float64))) == pytest.approx(math.exp(-0.7), rel=1e-10)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "either period or frequency, got neither"),
        ({"period": 1.0, "frequency": "omega"}, "got both"),
        ({"period": -1.0}, r"period is -1\.0"),
        ({"period": math.nan}, "period is nan"),
        ({"period": "5"}, "period is '5'"),
        ({"frequency": "nu"}, "no parameter 'nu'; its parameters are: omega"),
    ],
)
def test_a_period_that_is_none_is_refused_in_one_line(options, told):
    with pytest.raises(sx.errors.InputError, match=told):
        sx.Stroboscopic(sx.Flow(Forced(), 2, 0.05), **options)


@pytest.mark.parametrize("omega", [0.0, -1.0])
def test_a_frequency_that_is_no_positive_number_is_refused(omega):
    with pytest.raises(sx.errors.InputError, match=r"omega is (0|-1).*must be positive"):
        sx.Stroboscopic(sx.Flow(Forced(omega), 2, 0.05), frequency="omega")


def test_only_a_flow_is_strobed():
    with pytest.raises(sx.errors.UnsupportedModuleError, match=r"a stroboscopic map .* Henon"):
        sx.Stroboscopic(sx.classic.henon(), 1.0)


def test_tangents_broadcast_over_a_batch_of_frequencies():
    omega = torch.tensor([0.8, 1.1], dtype=torch.float64)
    strobed = sx.Stroboscopic(sx.Flow(Forced(), 2, 0.1), frequency="omega").at(omega=omega)
    x, v = torch.ones(2, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    _, pushed = strobed.pushforward(x, v)
    determinant = torch.exp(-DELTA * 2 * math.pi / omega)
    torch.testing.assert_close(torch.linalg.det(pushed), determinant, rtol=3e-4, atol=0)
