"""Learned energies: gradients and Hessians in closed form against autograd, and the bound of the Hessian for all weights."""

import math

import pytest
import torch
from torch import Tensor

import separatrix as sx
from separatrix.testing.blocks import scrambled

DIM = 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def energies() -> list[torch.nn.Module]:
    built = [sx.nn.parts.Energy(DIM, 12), sx.nn.parts.Energy(DIM, 12, stiffest=0.7), sx.nn.parts.KineticEnergy(DIM)]
    return [scrambled(energy.double(), seed) for seed, energy in enumerate(built)]


def hessians(energy: torch.nn.Module, x: Tensor) -> Tensor:
    return torch.stack([torch.autograd.functional.hessian(energy, row) for row in x])


@pytest.mark.parametrize("energy", energies(), ids=["free", "bounded", "kinetic"])
def test_the_gradient_and_the_hessian_are_those_of_the_value(energy):
    x, v = 2 * normal(6, DIM).requires_grad_(), normal(6, 3, DIM, seed=1)
    (automatic,) = torch.autograd.grad(energy(x).sum(), x)
    form = energy.form()
    gradient, pushed = form.pushforward(x, v)
    assert torch.allclose(form.gradient(x), automatic, rtol=1e-12, atol=1e-13)
    assert torch.allclose(gradient, automatic, rtol=1e-12, atol=1e-13)
    assert torch.allclose(pushed, v @ hessians(energy, x), rtol=1e-11, atol=1e-12)


def test_the_value_is_the_sum_of_log_cosh_far_out_too():
    energy = scrambled(sx.nn.parts.Energy(1, 1).double(), 0)
    k, b, w = energy.k.item(), energy.b.item(), energy.w.item()
    assert energy(torch.tensor([0.3], dtype=torch.float64)).item() == pytest.approx(w * math.log(math.cosh(0.3 * k + b)), rel=1e-12)
    assert energy(torch.tensor([1e6], dtype=torch.float64)).item() == pytest.approx(w * (abs(1e6 * k + b) - math.log(2)), rel=1e-12)


@pytest.mark.parametrize("energy", energies(), ids=["free", "bounded", "kinetic"])
def test_the_bound_of_the_hessian_is_one(energy):
    bound = energy.form().stiffness().item()
    for size in (0.01, 0.3, 3.0):
        assert torch.linalg.matrix_norm(hessians(energy, size * normal(40, DIM, seed=2)), 2).max() <= bound * (1 + 1e-12)


def test_the_bound_of_the_hessian_is_attained():
    """At the origin of Σ w_i log cosh(k_i·x), w_i ≥ 0, the Hessian is Σ w_i k_i k_iᵀ itself."""
    energy = scrambled(sx.nn.parts.Energy(DIM, 12).double(), 0)
    with torch.no_grad():
        energy.b.zero_()
        energy.w.abs_()
    measured = torch.linalg.matrix_norm(hessians(energy, torch.zeros(1, DIM).double()), 2)
    assert energy.form().stiffness().item() == pytest.approx(measured.item(), rel=1e-12)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e4])
def test_no_weights_are_stiffer_than_asked(factor):
    energy = scrambled(sx.nn.parts.Energy(DIM, 12, stiffest=0.7).double(), 0)
    with torch.no_grad():
        energy.k.mul_(factor)
    assert 0 < energy.form().stiffness().item() < 0.7 * (1 + 1e-12)


def test_an_energy_without_terms_is_refused():
    with pytest.raises(sx.errors.InputError, match="dim is 0"):
        sx.nn.parts.Energy(0)
    with pytest.raises(sx.errors.InputError, match="hidden is 0"):
        sx.nn.parts.Energy(3, 0)


def test_weights_that_are_not_finite_give_no_number_and_no_bound():
    """As after a training that blew up: NaN, not an error from an eigenvalue routine."""
    x = normal(3, 4)
    for block in (sx.nn.Hamiltonian(4, hidden=8), sx.nn.SeparableHamiltonian(4, hidden=8), sx.nn.Gradient(4)):
        with torch.no_grad():
            for weights in block.double().parameters():
                weights.fill_(math.nan)
        assert block(x).isnan().all()
        assert block.guarantee.lipschitz == math.inf


def test_an_energy_of_limited_stiffness_in_half_precision_is_refused_in_one_line():
    with pytest.raises(sx.errors.InputError, match=r"float32 or float64.*bfloat16"):
        sx.nn.Hamiltonian(4).bfloat16()(torch.zeros(4, dtype=torch.bfloat16))
