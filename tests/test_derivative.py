"""A derivative that the author of a network changed is refused; one that is the function's own never is, where it has one."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.errors import UnsupportedModuleError
from separatrix.tangent import check_derivative

STATES = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(3, 4)


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


W, V = weights(4, 4), weights(4, 4)


class Backwards(torch.autograd.Function):
    """A sine whose backward says something else."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad * (1 / (1 + ctx.saved_tensors[0].abs()) ** 2)


CHANGED = {
    "half detached": lambda x: torch.tanh(x @ W) + (x @ V).detach(),
    "all detached": lambda x: torch.tanh((x @ W).detach()) + 0 * x,
    "straight through a sign": lambda x: x @ W + (torch.sign(x @ W) - x @ W).detach(),
    "straight through rounding": lambda x: x + (torch.round(4 * x) / 4 - x).detach(),
    "reversed": lambda x: 2 * torch.tanh(x @ W).detach() - torch.tanh(x @ W),
    "a surrogate for a step": lambda x: torch.sigmoid(4 * x) + ((x > 0).double() - torch.sigmoid(4 * x)).detach(),
    "a backward of its own": Backwards.apply,
}


def relu_of_zeros(x):
    return torch.relu(x @ W) @ V


def long_chaos(x):
    for _ in range(200):
        x = 3.99 * x * (1 - x)
    return x


HONEST = {
    "smooth": (lambda x: torch.tanh(x @ W), STATES),
    "at a kink": (relu_of_zeros, torch.zeros(4, dtype=torch.float64)),
    "at a kink, float32": (lambda x: torch.relu(x @ W.float()) @ V.float(), torch.zeros(4)),
    "under no_grad, which forward mode goes through": (lambda x: 0.5 * x + torch.no_grad()(torch.sin)(x), STATES),
    "doubling": (lambda x: (2 * x) % 1, STATES.abs() / 2),
    "two hundred steps of chaos in one": (long_chaos, torch.full((1,), 0.3, dtype=torch.float64)),
    "rounded to float32 within": (lambda x: torch.tanh(x.float() @ W.float()).to(x.dtype), STATES),
    "stiff": (lambda x: torch.tanh(1e4 * x @ W), STATES),
    "small units": (lambda x: 1e-12 * torch.tanh(x / 1e-12 @ W), 1e-12 * STATES),
    "constant": (lambda x: x.detach() * 0 + 1, STATES),
    "overflows": (lambda x: torch.exp(1e3 * x), STATES.abs() + 1),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CHANGED)
def test_a_derivative_that_is_not_the_function_s_is_refused_by_name(name, dtype):
    def f(x):
        return CHANGED[name](x.double()).to(x.dtype)

    system = sx.Map(f if dtype == torch.float32 else CHANGED[name], 4)
    with pytest.raises(UnsupportedModuleError, match="is not that of the step"):
        sx.lyapunov_spectrum(system, STATES.to(dtype), steps=10)
    sx.trajectory(system, STATES.to(dtype), 10)  # needs no derivative


@pytest.mark.parametrize("name", HONEST)
def test_a_derivative_of_the_function_itself_is_taken(name):
    f, x = HONEST[name]
    check_derivative(f, x)


def test_the_field_of_a_flow_and_a_cell_and_every_block_are_held_to_it():
    changed, honest = CHANGED["half detached"], HONEST["smooth"][0]
    with pytest.raises(UnsupportedModuleError, match="is not that of the step"):
        sx.lyapunov_spectrum(sx.Flow(changed, 4, 0.01), STATES, steps=10)
    with pytest.raises(UnsupportedModuleError, match="is not that of the step"):
        sx.fixed_points(sx.Flow(changed, 4, 0.01), STATES)
    with pytest.raises(UnsupportedModuleError, match="is not that of the step"):
        sx.finite_time_lyapunov(sx.Layers([honest, honest, changed], shape=4), STATES)

    class Cell(nn.Module):
        input_size, hidden_size = 1, 4

        def forward(self, u, h):
            return torch.tanh(h) - (2 * h).detach() + u

    with pytest.raises(UnsupportedModuleError, match="is not that of the step"):
        sx.lyapunov_spectrum(sx.Recurrent(Cell(), torch.zeros(40, 1, dtype=torch.float64)), steps=10)


def test_a_pushforward_of_one_s_own_is_the_way_to_measure_with_it():
    """λ of x' = x + (round(x) − x), with the derivative 2 that its system gives: ln 2."""

    class Rounded(sx.System):
        def step(self, x, n=0):
            return torch.round(x)

        def pushforward(self, x, v, n=0):
            return self.step(x, n), 2 * v

    found = sx.lyapunov_spectrum(Rounded(1), torch.tensor([0.4]).double(), steps=20)
    assert float(found.exponents) == pytest.approx(math.log(2), rel=1e-12)
