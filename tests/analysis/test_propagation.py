"""Growth of gradients over lags, in logarithms."""

import math

import pytest
import torch

import separatrix as sx


def test_a_diagonal_map_grows_as_its_largest_entry():
    """J_l = diag(2^l, 4^−l): σ₁ = 2^l and ‖J‖_F/√2 = √((4^l + 16^−l)/2)."""
    scale = torch.tensor([2.0, 0.25], dtype=torch.float64)
    result = sx.gradient_propagation(sx.Map(lambda x: scale * x, 2), torch.zeros(2, dtype=torch.float64), lags=(0, 1, 7))
    lags = torch.tensor([0.0, 1.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(result.log_norm, lags * math.log(2))
    torch.testing.assert_close(result.log_gain, ((4.0**lags + 16.0**-lags) / 2).log() / 2)


def test_ten_thousand_lags_neither_underflow_nor_overflow():
    for factor in (0.5, 2.0):
        system = sx.Map(lambda x, factor=factor: torch.sin(factor * x), 1)  # the multiplier at 0 is the factor
        result = sx.gradient_propagation(system, torch.zeros(1, dtype=torch.float64), lags=(10_000,))
        assert float(result.log_norm[0]) == pytest.approx(10_000 * math.log(factor), rel=1e-12)


def test_a_driven_networks_jacobian_is_that_of_pytorchs_own_forward_pass():
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(2, 3).double()
    inputs = torch.randn(6, 2, dtype=torch.float64)

    def forward(state):
        return torch.cat(lstm(inputs, (state[None, :3], state[None, 3:]))[1], dim=-1)[0]

    dense = torch.autograd.functional.jacobian(forward, torch.zeros(6, dtype=torch.float64))
    result = sx.gradient_propagation(sx.Recurrent(lstm, inputs), lags=(6,))
    assert float(result.log_norm[0]) == pytest.approx(float(torch.linalg.matrix_norm(dense, ord=2).log()), rel=1e-12)
    assert float(result.log_gain[0]) == pytest.approx(float((torch.linalg.matrix_norm(dense) / 6**0.5).log()), rel=1e-12)


def test_the_default_lags_end_at_the_horizon():
    torch.manual_seed(0)
    system = sx.Recurrent(torch.nn.GRU(2, 3), torch.randn(9, 2))
    assert sx.gradient_propagation(system).lags[-1] == 9
    assert sx.gradient_propagation(system, settle=4).lags[-1] == 5


def test_lags_that_do_not_increase_are_refused():
    with pytest.raises(sx.InputError, match="increasing"):
        sx.gradient_propagation(sx.Map(torch.sin, 1), lags=(3, 3))
