"""Limit cycles as fixed points of sections: periods, Floquet multipliers, branches and bifurcations."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import separatrix as sx
from known_cycles import Hopf, Twisted
from separatrix.core.components import components
from separatrix.flows.field import Field

VAN_DER_POL = 6.66328685932313  # period at μ = 1, after which SciPy's orbit below is back


class VanDerPol(Field):
    """ẍ = (1 − x²) ẋ − x."""

    def forward(self, x: Tensor, t: float) -> Tensor:
        p, q = x.unbind(-1)
        return components(q, (1 - p**2) * q - p)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, q = x[..., None, :].unbind(-1)
        dp, dq = v.unbind(-1)
        return self(x, t), components(dq, (1 - p**2) * dq - (2 * p * q + 1) * dp)


@pytest.mark.parametrize("mu", [0.1, 0.5])
def test_the_hopf_normal_form_s_cycle_has_its_radius_period_and_multiplier(mu):
    """√μ, 2π/ω and e^{−4πμ/ω}."""
    section = sx.Section(sx.Flow(Hopf(mu=mu), 2, 0.05), 1)
    found = sx.fixed_points(section, math.sqrt(mu) * torch.tensor([[0.8], [1.3]], dtype=torch.float64))
    assert found.points.flatten().tolist() == pytest.approx([math.sqrt(mu)], abs=1e-5)
    assert found.periods.tolist() == pytest.approx([math.pi], abs=1e-5)
    assert found.multipliers.flatten().real.tolist() == pytest.approx([math.exp(-2 * math.pi * mu)], rel=1e-4)
    assert found.rates.flatten().tolist() == pytest.approx([-2 * mu], rel=1e-4)
    assert found.kind == ("stable node",)


def test_van_der_pol_s_cycle_has_its_known_period_and_the_multiplier_of_its_divergence():
    """The nontrivial multiplier is exp ∮ (1 − x²) dt, here by SciPy along the cycle."""
    section = sx.Section(sx.Flow(VanDerPol(), 2, 0.05), 0)
    found = sx.fixed_points(section, torch.tensor([[1.5], [2.5]], dtype=torch.float64))
    assert found.periods.tolist() == pytest.approx([VAN_DER_POL], abs=1e-5)

    def slope(t, y):
        return [y[1], (1 - y[0] ** 2) * y[1] - y[0], 1 - y[0] ** 2]

    around = solve_ivp(slope, (0, VAN_DER_POL), [0.0, float(found.points), 0.0], "DOP853", rtol=1e-12, atol=1e-12)
    assert around.y[:2, -1].tolist() == pytest.approx([0.0, float(found.points)], abs=1e-5)
    assert float(found.multipliers.real) == pytest.approx(math.exp(around.y[2, -1]), abs=2e-6)


def test_the_period_converges_at_the_solver_s_order():
    steps, errors = [40, 80], []
    for count in steps:
        section = sx.Section(sx.Flow(VanDerPol(), 2, VAN_DER_POL / count / 1.03), 0)
        found = sx.fixed_points(section, torch.tensor([[2.1727]], dtype=torch.float64))
        errors.append(abs(float(found.periods) - VAN_DER_POL))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(4, abs=0.7)


def test_a_twisted_cycle_has_negative_multipliers():
    """−e^{2πμ} and −e^{−2π}."""
    section = sx.Section(sx.Flow(Twisted(-0.1), 3, 0.1), 1)
    found = sx.fixed_points(section, torch.tensor([[1.01, 0.01]], dtype=torch.float64))
    assert found.points[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    wanted = [-math.exp(-0.2 * math.pi), -math.exp(-2 * math.pi)]
    assert found.multipliers[0].real.tolist() == pytest.approx(wanted, abs=1e-4)
    assert found.periods.tolist() == pytest.approx([2 * math.pi], abs=1e-5)


def test_a_doubled_cycle_takes_twice_as_long_and_its_rates_know_it():
    """Beyond μ = 0 the twisted cycle has another beside it that closes after two turns."""
    section = sx.Section(sx.Flow(Twisted(0.05), 3, 0.1), 1)
    start = sx.trajectory(section, torch.tensor([1.1, 0.0], dtype=torch.float64), 1, settle=20)[-1]
    found = sx.fixed_points(section, start[None], period=2)
    assert sorted(found.minimal_period.tolist()) == [1, 2]  # the cycle itself closes after two turns as well
    doubled = found.minimal_period.tolist().index(2)
    assert float(found.periods[doubled]) == pytest.approx(4 * math.pi, rel=0.02)
    torch.testing.assert_close(found.rates[doubled], found.multipliers[doubled].abs().log() / found.periods[doubled])


@pytest.mark.long
def test_a_branch_of_cycles_doubles_its_period_where_it_should(monkeypatch):
    """The twisted cycle's leading multiplier is −e^{2πμ}: a flip at μ = 0, to the solver's error, near 2π h⁴ / 120.

    That is 4e-4, so that 8 bisections, of a step that is at most 0.1 in μ, are enough.
    """
    monkeypatch.setattr(import_module("separatrix.analysis.branches.continuation"), "BISECTIONS", 8)
    section = sx.Section(sx.Flow(Twisted(), 3, 0.3), 1)
    branch = sx.continuation(section, "mu", -0.1, 0.1, torch.tensor([1.0, 0.0], dtype=torch.float64), step_size=0.5)
    assert branch.kind == ("flip",)
    assert branch.bifurcations[0].parameter == pytest.approx(0, abs=1e-3)
    wanted = -(2 * math.pi * branch.parameters).exp()
    leading = branch.eigenvalues.real.gather(-1, branch.eigenvalues.abs().argmax(-1, keepdim=True))[:, 0]
    torch.testing.assert_close(leading, wanted, rtol=0, atol=5e-3)
    assert torch.equal(branch.stable, branch.parameters < branch.bifurcations[0].parameter)


def test_the_periods_of_a_map_s_cycles_are_their_steps_and_fixed_points_of_a_flow_have_none():
    found = sx.fixed_points(sx.classic.logistic(3.2), period=2)
    assert found.periods.tolist() == found.minimal_period.tolist()
    assert sx.fixed_points(sx.classic.lorenz63()).periods is None
