"""A derivative that the author of a network changed is refused; one that is the function's own never is, where it has one."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.derivative import check_derivative, on_a_kink
from separatrix.core.errors import UnsupportedModuleError

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
    with pytest.raises(UnsupportedModuleError, match="derivative of the step is not"):
        sx.lyapunov_spectrum(system, STATES.to(dtype), steps=10)
    sx.trajectory(system, STATES.to(dtype), 10)  # needs no derivative


@pytest.mark.parametrize("name", HONEST)
def test_a_derivative_of_the_function_itself_is_taken(name):
    f, x = HONEST[name]
    check_derivative(f, x)


def test_the_field_of_a_flow_and_a_cell_and_every_block_are_held_to_it():
    changed, honest = CHANGED["half detached"], HONEST["smooth"][0]
    with pytest.raises(UnsupportedModuleError, match="derivative of the field is not"):
        sx.lyapunov_spectrum(sx.Flow(changed, 4, 0.01), STATES, steps=10)
    with pytest.raises(UnsupportedModuleError, match="derivative of the field is not"):
        sx.fixed_points(sx.Flow(changed, 4, 0.01), STATES)
    with pytest.raises(UnsupportedModuleError, match="derivative of the step is not"):
        sx.finite_time_lyapunov(sx.Layers([honest, honest, changed], shape=4), STATES)

    class Cell(nn.Module):
        input_size, hidden_size = 1, 4

        def forward(self, u, h):
            return torch.tanh(h) - (2 * h).detach() + u

    with pytest.raises(UnsupportedModuleError, match="derivative of the step is not"):
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


KINKED = {
    "a ReLU of zeros": (relu_of_zeros, torch.zeros(4, dtype=torch.float64)),
    "a leaky one": (lambda x: nn.functional.leaky_relu(x @ W, 0.2), torch.zeros(3, 4, dtype=torch.float64)),
    "the top of a tent": (lambda x: 1 - (2 * x - 1).abs(), torch.full((1,), 0.5, dtype=torch.float64)),
    "in float32": (lambda x: torch.relu(x), torch.zeros(2)),
    "on a slope": (lambda x: 3 * x + (x - 0.3).abs(), torch.full((1,), 0.3, dtype=torch.float64)),
}
SMOOTH = {
    **HONEST,
    "bent": (lambda x: 100 * x**2 + x, torch.zeros(2, dtype=torch.float64)),
    "a sine of a thousand": (lambda x: torch.sin(1e3 * x), STATES),
    "off": (lambda x: torch.relu(x - 1), torch.zeros(2, dtype=torch.float64)),
    "on": (torch.relu, torch.full((2,), 0.1, dtype=torch.float64)),
}
for name in ("at a kink", "at a kink, float32"):
    del SMOOTH[name]


@pytest.mark.parametrize("name", KINKED)
def test_a_kink_is_found_at_the_very_state(name):
    assert bool(on_a_kink(*KINKED[name], 1.0).all())


@pytest.mark.parametrize("name", SMOOTH)
def test_no_kink_is_seen_where_there_is_a_derivative(name):
    assert not bool(on_a_kink(*SMOOTH[name], 1.0).any())


@pytest.mark.parametrize(
    "f", [lambda x: 1.5 * x.abs(), lambda x: torch.relu(2 * x) - torch.relu(-3 * x), lambda x: torch.relu(1.2 * x)]
)
def test_a_fixed_point_on_a_kink_has_no_kind_and_a_spectrum_from_there_is_not_ok(f):
    """All three repel, at least to one side; automatic differentiation makes them stable."""
    found = sx.fixed_points(sx.Map(f, 1))
    assert found.kind[found.points[:, 0].abs().argmin()] == "on a kink"
    assert bool(found.multipliers[found.points[:, 0].abs().argmin()].isnan().all())
    spectrum = sx.lyapunov_spectrum(sx.Map(f, 1), torch.zeros(1, dtype=torch.float64), steps=50)
    assert spectrum.status == "not_converged" and "on a kink" in spectrum.notes[0]


def test_a_derivative_is_held_against_the_function_in_every_run_number_by_number():
    """What a review found: parameters that change it, one number of many, small steps, large batches, compiled systems."""

    class Switch(sx.System):
        def __init__(self, a=0.5):
            super().__init__(2)
            self.hold(a=a)

        def step(self, x, n=0):
            y = torch.tanh(x)
            return 0.9 * y.detach() + 0.1 * y if self.a > 1 else y

    switch, x = Switch(), STATES[:, :2]
    sx.lyapunov_spectrum(switch, x, steps=5)
    with pytest.raises(UnsupportedModuleError, match="derivative of the step is not"):
        sx.lyapunov_spectrum(switch.at(a=2.0), x, steps=5)
    wide = weights(200, 200) / 14

    def one_detached(x):
        y = torch.tanh(x @ wide)
        return torch.cat([y[..., :1].detach(), y[..., 1:]], -1)

    grid = sx.Map(lambda x: x / 2 + (torch.round(64 * x) / 64 - x).detach(), 4)
    small = sx.Map(lambda x: x + 1e-3 * (torch.tanh(x @ W).detach() - x), 4)
    for system, at in (
        (sx.Map(one_detached, 200), weights(200)),
        (grid, weights(1000, 4)),
        (small, STATES),
        (sx.Compiled(sx.Map(CHANGED["half detached"], 4)), STATES),
    ):
        with pytest.raises(UnsupportedModuleError, match="derivative of the step is not"):
            sx.lyapunov_spectrum(system, at, k=1, steps=5)


def test_states_beside_the_domain_of_a_step_cost_no_run():
    """A step that raises outside of [0, 1], from its edge and towards it; a look-up in a table; a map of whole numbers."""

    def guarded(x):
        if bool((x < 0).any() or (x > 1).any()):
            raise ValueError("outside")
        return (x + 0.3 * (1.05 - x)).clamp(0, 1)

    assert sx.lyapunov_spectrum(sx.Map(guarded, 1), torch.tensor([0.3]).double(), steps=50).steps == 50
    assert sx.trajectory(sx.Map(guarded, 1), torch.tensor([[0.3], [1.0]]).double(), 5).shape == (6, 2, 1)
    table = torch.arange(21.0, dtype=torch.float64)
    assert sx.trajectory(sx.Map(lambda x: table[x.long()], 1), torch.full((4, 1), 20.0).double(), 3).shape == (4, 4, 1)


def test_float32_networks_with_many_kinks_are_on_none():
    generator = torch.Generator().manual_seed(0)
    w = (2 / 512) ** 0.5 * torch.randn(512, 512, generator=generator)
    b = 0.1 * torch.randn(512, generator=generator)
    found = sx.lyapunov_spectrum(
        sx.Map(lambda x: torch.relu(x @ w.to(x.dtype) + b.to(x.dtype)), 512), torch.rand(8, 512), k=1, steps=20
    )
    assert not any("kink" in note for note in found.notes)


def test_tangents_can_be_traced_and_have_no_numbers_on_meta():
    system, x, v = sx.Map(torch.tanh, 4), STATES, torch.ones(3, 2, 4, dtype=torch.float64)
    assert system.pushforward(x.to("meta"), v.to("meta"))[1].shape == v.shape
    traced = torch.jit.trace(lambda x, v: system.pushforward(x, v)[1], (x, v), check_trace=False)
    torch.testing.assert_close(traced(x, v), system.pushforward(x, v)[1])


def test_a_derivative_that_is_cut_later_in_a_run_is_not_ok():
    def late(x, n):
        y = torch.tanh(x @ W)
        return 0.9 * y.detach() + 0.1 * y if n > 5 else y

    found = sx.lyapunov_spectrum(sx.Map(late, 4, time_dependent=True), STATES, steps=20)
    assert set(found.status) == {"not_converged"} and "at the end of the run the automatic derivative" in found.notes[0]
    before = sx.lyapunov_spectrum(sx.Map(late, 4, time_dependent=True), STATES, steps=4, settle=0)
    assert not any("at the end" in note for note in before.notes)
