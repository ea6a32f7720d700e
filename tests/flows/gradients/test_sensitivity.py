"""Derivatives by parameters against closed forms, backpropagation and finite differences."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.flows.gradients import sensitivity

DOUBLE = {"dtype": torch.float64}


class Decay(nn.Module):
    """ẋ = −θ x."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, **DOUBLE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.rate * x


class Forced(nn.Module):
    """ẋ = a cos(b t) − x in every component, with both parameters in each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.7, **DOUBLE)), nn.Parameter(torch.tensor(1.3, **DOUBLE))

    def forward(self, x: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
        return self.a * torch.cos(self.b * torch.as_tensor(t))[..., None] - x


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def by_backpropagation(field: nn.Module, x0: torch.Tensor, times: torch.Tensor, **options) -> torch.Tensor:
    """∂x/∂θ row by row, (numbers, parameters)."""
    states = sx.solve(field, x0, times, **options).states
    rows = [torch.autograd.grad(one, list(field.parameters()), retain_graph=True, allow_unused=True) for one in states.flatten()]
    zeros = [torch.zeros_like(p) for p in field.parameters()]
    return torch.stack(
        [torch.cat([(g if g is not None else z).flatten() for g, z in zip(row, zeros, strict=True)]) for row in rows]
    )


def test_the_derivative_of_a_decay_is_minus_t_times_itself_to_the_methods_order():
    """∂/∂θ e^{−θt} = −t e^{−θt}."""
    times = torch.tensor([0.0, 0.5, 2.0], **DOUBLE)
    exact = -times * torch.exp(-0.8 * times)
    for method, order in (("euler", 1), ("midpoint", 2), ("rk4", 4)):
        errors = []
        for dt in (0.1, 0.05):
            rows = sx.sensitivities(Decay(0.8), torch.ones(1, **DOUBLE), times, dt=dt, method=method)[1]
            assert rows.shape == (3, 1, 1)
            errors.append(float((rows[:, 0, 0] - exact).abs().max()))
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_the_derivative_is_that_of_the_discrete_solution_to_rounding(method):
    field, x0 = network(), torch.randn(3, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    times = torch.tensor([0.0, 0.3, 1.0, 1.1], **DOUBLE)
    states, rows = sx.sensitivities(field, x0, times, dt=0.2, method=method)
    torch.testing.assert_close(states, sx.solve(field, x0, times, dt=0.2, method=method).states, rtol=1e-13, atol=1e-14)
    wanted = by_backpropagation(field, x0, times, dt=0.2, method=method).reshape(4, 3, 2, -1).mT
    assert rows.shape == (4, 3, 27, 2) and not rows.requires_grad
    torch.testing.assert_close(rows, wanted, rtol=1e-11, atol=1e-12)


def test_it_holds_for_each_items_own_times_and_for_fields_of_time():
    field, x0 = Forced(), torch.tensor([[0.2, 0.1], [1.0, -1.0]], **DOUBLE)
    times = torch.tensor([[0.0, 1.0], [0.5, 1.2], [2.0, 4.0]], **DOUBLE)
    states, rows = sx.sensitivities(field, x0, times, dt=0.05, time_dependent=True)
    h = 1e-6
    for place, parameter in enumerate((field.a, field.b)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * h
            ends.append(sx.sensitivities(field, x0, times, dt=0.05, time_dependent=True)[0])
            with torch.no_grad():
                parameter -= sign * h
        torch.testing.assert_close(rows[..., place, :], (ends[0] - ends[1]) / (2 * h), rtol=0, atol=1e-8)
    assert states.shape == (3, 2, 2)


def test_a_shared_weight_counts_once_and_a_frozen_one_not_at_all():
    layer = nn.Linear(2, 2).double()
    shared = nn.Sequential(layer, nn.Tanh(), layer)
    x0, times = torch.tensor([0.3, -0.4], **DOUBLE), torch.tensor([0.0, 1.0], **DOUBLE)
    rows = sx.sensitivities(shared, x0, times, dt=0.25)[1]
    wanted = by_backpropagation(shared, x0, times, dt=0.25, method="rk4")
    torch.testing.assert_close(rows[1].mT, wanted[2:], rtol=1e-11, atol=1e-13)
    layer.bias.requires_grad_(False)
    torch.testing.assert_close(sx.sensitivities(shared, x0, times, dt=0.25)[1], rows[:, :4])


def test_steps_linearised_in_parts_are_those_linearised_together(monkeypatch):
    field, x0, times = network(), torch.tensor([0.3, -0.4], **DOUBLE), torch.tensor([0.0, 1.0], **DOUBLE)
    whole = sx.sensitivities(field, x0, times, dt=0.1)[1]
    monkeypatch.setattr(sensitivity, "MOST_NUMBERS", 150)
    torch.testing.assert_close(sx.sensitivities(field, x0, times, dt=0.1)[1], whole, rtol=1e-12, atol=1e-14)


def test_the_module_is_used_in_the_states_dtype_and_left_as_it_was():
    field = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in field.state_dict().items()}
    rows = sx.sensitivities(field, torch.ones(2, **DOUBLE), [0.0, 0.5], dt=0.1)[1]
    again = sx.sensitivities(field, torch.ones(2, **DOUBLE), [0.0, 0.5], dt=0.1)[1]
    assert rows.dtype == torch.float64 and torch.equal(rows, again) and field.training
    assert all(torch.equal(value, before[name]) and value.dtype == torch.float32 for name, value in field.state_dict().items())


def test_bad_input_is_told_in_one_line():
    x0 = torch.ones(2, **DOUBLE)
    with pytest.raises(sx.errors.InputError, match="'leapfrog'"):
        sx.sensitivities(network(), x0, [0.0, 1.0], dt=0.1, method="leapfrog")
    with pytest.raises(sx.errors.InputError, match="parameter"):
        sx.sensitivities(lambda x: -x, x0, [0.0, 1.0], dt=0.1)
    with pytest.raises(sx.errors.InputError, match="times"):
        sx.sensitivities(network(), x0, [0.0, 1.0, 0.5], dt=0.1)
    with pytest.raises(sx.errors.ShapeError, match="velocities of shape"):
        sx.sensitivities(nn.Linear(2, 3).double(), x0, [0.0, 1.0], dt=0.1)
