"""Stiff problems with published solutions, and gradients through them."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import separatrix as sx

DOUBLE = {"dtype": torch.float64}


class Robertson(nn.Module):
    """Three species whose rates differ by nine orders of magnitude."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([0.04, 1e4, 3e7], **DOUBLE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c = x.unbind(-1)
        slow, back, fast = self.rates[0] * a, self.rates[1] * b * c, self.rates[2] * b * b
        return torch.stack((back - slow, slow - back - fast, fast), -1)


def van_der_pol(x: torch.Tensor) -> torch.Tensor:
    a, b = x.unbind(-1)
    return torch.stack((b, 1000 * (1 - a * a) * b - a), -1)


def test_robertson_s_reaction_to_1e11():
    """Reference at 1e11: Mazzia & Magherini 2008, Test Set for IVP Solvers, release 2.4, problem ROBER."""
    exact = np.array([0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050])
    found = sx.solve(Robertson(), torch.tensor([1.0, 0, 0], **DOUBLE), [0, 1e11], method="rodas5p", rtol=1e-6)
    assert found.status == "ok" and np.abs(found.last.detach().numpy() / exact - 1).max() < 1e-4
    assert abs(float(found.last.sum()) - 1) < 1e-12


def radau(**asked) -> Any:
    """Van der Pol's oscillator at µ = 1000 from (2, 0) to t = 2000 by SciPy, at a much tighter tolerance."""

    def velocity(t: float, y: list[float]) -> list[float]:
        return [y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]]

    return solve_ivp(velocity, (0, 2000), [2.0, 0], method="Radau", rtol=1e-10, atol=1e-12, **asked)


def test_van_der_pol_s_oscillator_at_mu_1000_and_its_reference_by_radau():
    exact = radau(t_eval=[1000, 2000]).y.T
    found = sx.solve(van_der_pol, torch.tensor([2.0, 0], **DOUBLE), [0, 1000, 2000], method="rodas5p", rtol=1e-6)
    assert found.status == "ok" and np.abs(found.states[1:].numpy() / exact - 1).max() < 1e-4


def test_items_of_a_batch_take_their_own_steps_and_are_those_alone():
    x0 = torch.tensor([[2.0, 0.0], [0.1, 0.0], [-1.5, 0.3]], **DOUBLE)
    together = sx.solve(van_der_pol, x0, [0, 50.0], method="rodas5p")
    assert len(together.accepted.unique()) > 1
    for i in range(3):
        alone = sx.solve(van_der_pol, x0[i], [0, 50.0], method="rodas5p")
        torch.testing.assert_close(together.last[i], alone.last, rtol=1e-8, atol=0)
        assert int(alone.accepted) == int(together.accepted[i])


def test_gradients_through_a_stiff_reaction_are_differences_of_tight_solutions():
    field, x0 = Robertson(), torch.tensor([1.0, 0, 0], **DOUBLE)
    settings = {"method": "rodas5p", "rtol": 1e-8}
    (by,) = torch.autograd.grad(sx.solve(field, x0, [0, 40.0], **settings).last[2], field.rates)

    def last(rates: list[float]) -> float:
        k1, k2, k3 = rates
        run = solve_ivp(
            lambda t, y: [k2 * y[1] * y[2] - k1 * y[0], k1 * y[0] - k2 * y[1] * y[2] - k3 * y[1] ** 2, k3 * y[1] ** 2],
            (0, 40),
            [1.0, 0, 0],
            method="Radau",
            rtol=1e-12,
            atol=1e-16,
        )
        return float(run.y[2, -1])

    rates = [0.04, 1e4, 3e7]
    for i, h in enumerate(1e-4 * rate for rate in rates):
        ahead, behind = (last([rate + sign * h * (i == j) for j, rate in enumerate(rates)]) for sign in (1, -1))
        assert float(by[i]) == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("rate", [1e2, 1e6])
def test_between_the_steps_a_very_stiff_solution_is_as_good_as_at_their_ends(rate):
    """Prothero and Robinson's ẋ = −λ(x − cos t) − sin t, solved by cos t: 81 times and an event; at 1e6 within some 16 steps."""

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -rate * (x - torch.cos(t)[..., None]) - torch.sin(t)[..., None]

    settings = {"method": "rodas5p", "rtol": 1e-6, "time_dependent": True}
    times = torch.linspace(0, 20, 81, **DOUBLE)
    found = sx.solve(field, torch.ones(1, **DOUBLE), times, **settings)
    assert (found.states[:, 0] - times.cos()).abs().max() < 1e-5
    hit = sx.solve_until(field, torch.ones(1, **DOUBLE), lambda x, t: x[..., 0] + 0.5, end=20.0, **settings)
    assert abs(float(hit.times) - 2 * np.pi / 3) < 1e-5


def test_the_adjoint_of_a_stiff_method_is_refused_by_name():
    with pytest.raises(sx.errors.InputError, match="checkpoint"):
        sx.solve(van_der_pol, torch.ones(2, **DOUBLE, requires_grad=True), [0, 1.0], method="rodas5p", gradient="adjoint")


def test_an_event_of_a_stiff_field_is_found():
    """The first jump of the oscillator, by SciPy."""

    def crossed(t: float, y: list[float]) -> float:
        return y[0]

    crossed.terminal = True
    run = radau(events=crossed)
    found = sx.solve_until(
        van_der_pol, torch.tensor([2.0, 0], **DOUBLE), lambda x: x[..., 0], end=2000.0, method="rodas5p", rtol=1e-8
    )
    assert float(found.times) == pytest.approx(float(run.t_events[0][0]), rel=1e-7)
