"""Neural ODEs as layers and as flows."""

import pytest
import torch
from torch import nn

import separatrix as sx


def field() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def test_a_neural_ode_is_a_layer_with_its_fields_parameters():
    layer = sx.nn.NeuralODE(field(), method="dopri5", rtol=1e-9, atol=1e-10)
    assert len(list(layer.parameters())) == 4
    x = torch.randn(3, 5, 2, dtype=torch.float64)
    near = sx.nn.NeuralODE(layer.field.module, dt=0.01)(x)
    assert (layer(x) - near).abs().max() < 1e-8
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_a_linear_fields_exponents_are_its_eigenvalues():
    linear = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-0.1, 0.0], [0.3, -0.5]]))
    flow = sx.nn.NeuralODE(linear, time=1.0)
    spectrum = sx.lyapunov_spectrum(flow, torch.ones(2, dtype=torch.float64), steps=400, settle=800)
    assert torch.allclose(spectrum.exponents, torch.tensor([-0.1, -0.5], dtype=torch.float64), atol=1e-6)


def test_a_width_that_cannot_be_told_is_asked_for():
    with pytest.raises(sx.InputError, match="Pass dim"):
        sx.nn.NeuralODE(nn.Tanh())
    with pytest.raises(sx.InputError, match="positive time"):
        sx.nn.NeuralODE(field(), time=0.0)


def test_a_refined_layer_takes_equal_steps_whatever_the_one_by_tolerance_did():
    layer, x = sx.nn.NeuralODE(field(), method="dopri5"), torch.randn(3, 2, dtype=torch.float64)
    assert layer.by_tolerance
    fine, rough = layer.refined(4), layer.refined(1, method="euler")
    torch.testing.assert_close(fine(x), layer(x), rtol=0, atol=1e-5)
    assert 1e-4 < (rough(x) - layer(x)).abs().max() < 0.1 and layer.by_tolerance
