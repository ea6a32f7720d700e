"""Leading singular values of large states, against closed forms, and against the whole Jacobian of small ones."""

import sys

import pytest
import torch

import separatrix as sx
from separatrix.analysis.run.tangent_run import random_frame
from separatrix.core import memory

DIM = 20_000


def diagonal(rates: torch.Tensor) -> sx.Map:
    return sx.Map(lambda x: rates * x, len(rates))


def test_a_diagonal_map_of_20_000_numbers_has_its_largest_rates():
    rates = torch.full((DIM,), 0.5).double()
    rates[[7, 1_234, 19_999]] = torch.tensor([1.5, 1.2, 0.9]).double()
    found = sx.gradient_propagation(diagonal(rates), torch.ones(DIM).double(), k=3, lags=(1, 4, 8))
    expected = torch.tensor([1.5, 1.2, 0.9]).double().log() * torch.tensor([[1.0], [4.0], [8.0]]).double()
    torch.testing.assert_close(found.log_singular_values, expected, rtol=0, atol=1e-2)
    assert found.status == "ok"
    field = sx.finite_time_lyapunov(diagonal(rates), torch.ones(DIM).double(), steps=4, k=2)
    torch.testing.assert_close(field.exponents, expected[0, :2], rtol=0, atol=1e-3)


def test_a_shift_of_20_000_numbers_is_an_isometry():
    shift, x0 = sx.Map(lambda x: x.roll(1, -1), DIM), torch.ones(DIM).double()
    found = sx.gradient_propagation(shift, x0, k=2, lags=(0, 3))
    torch.testing.assert_close(found.log_singular_values, torch.zeros(2, 2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.log_gain, torch.zeros(2).double(), rtol=0, atol=1e-12)
    spectrum = sx.lyapunov_spectrum(shift, x0, k=2, steps=20, settle=2)
    torch.testing.assert_close(spectrum.exponents, torch.zeros(2).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_directions_of_a_random_network_have_the_singular_values_of_its_whole_jacobian(monkeypatch, batch):
    generator = torch.Generator().manual_seed(0)
    weight = 1.5 * torch.randn(40, 40, dtype=torch.float64, generator=generator) / 40**0.5
    network, x0 = sx.Map(lambda x: torch.tanh(x @ weight.T), 40), torch.randn(*batch, 40, dtype=torch.float64, generator=generator)
    whole = sx.gradient_propagation(network, x0, k=2, lags=(1, 3, 12))
    field = sx.finite_time_lyapunov(network, x0, k=2, steps=5)
    for name in ("separatrix.analysis.gradients.propagation", "separatrix.analysis.lyapunov.finite_time"):
        monkeypatch.setattr(sys.modules[name], "WHOLE", 10)
    found = sx.gradient_propagation(network, x0, k=2, lags=(1, 3, 12))
    torch.testing.assert_close(found.log_singular_values, whole.log_singular_values, rtol=0, atol=1e-2)
    torch.testing.assert_close(found.log_gain, whole.log_gain, rtol=0, atol=0.8)  # of 16 random directions, near rank 1
    torch.testing.assert_close(sx.finite_time_lyapunov(network, x0, k=2, steps=5).exponents, field.exponents, rtol=0, atol=2e-3)


def test_what_does_not_fit_is_refused_before_it_is_allocated_with_the_bytes(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device="cpu": 2.0**30)
    large = sx.Map(lambda x: x, 10_000_000)
    with pytest.raises(sx.InputError, match=r"needs 22\.35 GiB, but 1 GiB"):
        sx.lyapunov_spectrum(large, torch.ones(10_000_000), k=200, steps=4)
    with pytest.raises(sx.InputError, match=r"Jacobian of 20,000 numbers needs 11\.92 GiB .* 4 GiB"):
        sx.finite_time_lyapunov(sx.Map(lambda x: x, DIM), torch.ones(DIM).double(), steps=4, k=DIM)


def test_the_first_tangents_do_not_depend_on_their_number():
    x = torch.zeros(50).double()
    torch.testing.assert_close(random_frame(x, 7, 3)[:4], random_frame(x, 4, 3), rtol=0, atol=1e-14)
