"""Steps as programs of scalars: the same numbers and the same derivatives as the step, or no program."""

import copy
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jacrev
from torch.utils._python_dispatch import _disable_current_modes

import separatrix as sx
from separatrix.core import prepared
from separatrix.core.evolve import begin
from separatrix.core.scalar_program import NotStraight, compiled
from separatrix.core.scalar_record import recorded

W = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def lorenz_by_columns(x):
    a, b, c = x.unbind(-1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


def lorenz_in_place(x):
    out = torch.zeros_like(x)
    out[..., 0] = 10.0 * (x[..., 1] - x[..., 0])
    out[..., 1] = x[..., 0] * (28.0 - x[..., 2]) - x[..., 1]
    out[..., 2] = x[..., 0] * x[..., 1]
    out[..., 2] -= 8 / 3 * x[..., 2]
    return out


def lorenz_96(x):
    return (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + 8.0


def central_force(x):
    return -x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) ** 3


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3, bias=False), nn.Sigmoid())

    def forward(self, x):
        return self.layers(x)


STRAIGHT = {
    "by columns": lorenz_by_columns,
    "in place": lorenz_in_place,
    "rolled": lorenz_96,
    "a network": Network().double(),
    "a product": lambda x: torch.tanh(x @ W.T) - 0.5 * x,
    "einsum": lambda x: torch.einsum("ij,...j->...i", W, x).sin(),
    "a norm": central_force,
    "a cross product": lambda x: torch.linalg.cross(x, W[0].expand_as(x)),
    "means and sums": lambda x: x - x.mean(-1, keepdim=True) + x.sum(-1, keepdim=True) / 7,
    "indexed": lambda x: x[..., [1, 2, 0]] * 0.5 + x.flip(-1) ** 2,
    "concatenated": lambda x: torch.cat([x[..., 1:], x[..., :1].exp() - 1], -1),
    "transcendental": lambda x: torch.cos(x) * torch.exp(-(x**2)) + torch.log1p(x * x) + torch.atan(x) * x.sinh(),
    "powers": lambda x: x**3 - x.reciprocal() + (x * x + 1).sqrt() + (2 + x * x) ** 1.7 - 1 / (1 + x.square()),
    "a remainder": lambda x: (3 * x.sin() - 7 * x) % 1.3 + (x % -0.4) * x,
    "split": lambda x: torch.cat([x.split(2, -1)[1] * x.chunk(3, -1)[0], x.split([1, 2], -1)[1].cos()], -1),
    "an infinite constant": lambda x: x + 1 / (1 + x * 0 + float("inf")),
    "constants": lambda x: torch.full_like(x, 2.0) - torch.ones(3, dtype=x.dtype) * x.tan(),
}


@pytest.mark.parametrize("function", STRAIGHT.values(), ids=STRAIGHT)
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_a_program_is_the_function_and_its_derivative(function, batch):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(*batch, 3, dtype=torch.float64, generator=generator) + 0.3
    v = torch.randn(*batch, 2, 3, dtype=torch.float64, generator=generator)
    program, results, _ = recorded(function, x)
    run, _ = compiled(program, results, x[..., 0].numel(), 2)
    elsewhere = x.flip(-1) + 0.2  # not where it was recorded
    found = prepared._run(run, elsewhere, v, 1)
    rows = elsewhere.reshape(-1, 3)
    jacobian = torch.stack([jacrev(lambda y: function(y[None])[0])(row) for row in rows]).detach()
    torch.testing.assert_close(found[0], function(elsewhere).detach(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found[1].reshape(-1, 2, 3), v.reshape(-1, 2, 3) @ jacobian.mT, rtol=1e-12, atol=1e-12)


def in_numpy(x):
    return torch.from_numpy(np.sin(x.numpy()))


STATEFUL = torch.zeros(3, dtype=torch.float64)


class Tagged(torch.Tensor):
    """A class of the user's."""


def past_modes(x):
    with _disable_current_modes():
        return x * 2 if x.max() < 9 else x


def past_functions(x):
    with torch._C.DisableTorchFunction():
        return x * 2 if x.numpy().max() < 9 else x


def in_a_thread(x):
    with ThreadPoolExecutor(1) as pool:
        return x * 2 if pool.submit(lambda: float(x.max())).result() < 9 else x


@torch.jit.script
def scripted(x):
    return x * 2 if bool(x.max() < 9) else x


CROOKED = {
    "a branch": lambda x: x if x[..., 0].sum() > 0 else -x,
    "a branch on a list": lambda x: x if x.tolist()[0] else -x,
    "an item": lambda x: x * x[..., 0].sum().item(),
    "a float": lambda x: x * float(x.flatten()[0]),
    "NumPy": in_numpy,
    "an array": lambda x: torch.as_tensor(np.asarray(x)) * 2,
    "a choice": lambda x: torch.where(x > 0, x, 2 * x),
    "a kink": lambda x: x.abs(),
    "another kink": torch.relu,
    "an unknown operator": torch.erf,
    "a sort": lambda x: x.sort(-1).values,
    "single precision": lambda x: x.float().double() * 2,
    "memory": lambda x: STATEFUL.copy_(x) + 0,
    "memory for a result": lambda x: torch.mul(x, 2, out=STATEFUL) + 0,
    "data": lambda x: x * 2 if x.data.max() < 9 else x,
    "a copy": lambda x: x * 2 if copy.deepcopy(x).max() < 9 else x,
    "a new tensor": lambda x: x * 2 if torch.tensor([x.flatten()[0], 0.0]).max() < 9 else x,
    "a parameter": lambda x: x * 2 if nn.Parameter(x.detach()).max() < 9 else x,
    "a tensor of another class": lambda x: x * 2 if x.as_subclass(Tagged).max() < 9 else x,
    "bytes": lambda x: x * 2 if len(pickle.dumps(x)) < 9 else x,
    "memory shared": lambda x: x * 2 if np.from_dlpack(x.detach()).max() < 9 else x,
    "text": lambda x: x * 2 if "9" in str(x) else x,
    "past the modes": past_modes,
    "past the functions": past_functions,
    "in a thread": in_a_thread,
    "in TorchScript": scripted,
}


@pytest.mark.parametrize("function", CROOKED.values(), ids=CROOKED)
def test_what_is_no_straight_sequence_of_known_operators_has_no_program(function):
    x = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    assert prepared._program(sx.Map(function, 3), x, None, 0) is None
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert STATEFUL.isfinite().all()


def test_the_numbers_of_the_state_are_not_there_while_a_step_is_recorded():
    """By whatever way a step came to read them, it would read NaN."""
    read = []

    def step(x):
        with torch._C._DisableTorchDispatch():
            read.append(torch.utils.dlpack.from_dlpack(torch._C._to_dlpack(x)).clone())
        return x * 2

    recorded(step, torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert read[0].isnan().all()


def test_items_that_depend_on_each_other_have_no_program():
    program, results, _ = recorded(lambda x: x - x.mean(0), torch.rand(2, 3, dtype=torch.float64))
    with pytest.raises(NotStraight):
        compiled(program, results, 2, 0)


@pytest.fixture
def unprepared(monkeypatch):
    """A function that runs another one without programs."""

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(prepared, "AFTER", {False: math.inf, True: math.inf})
            return function()

    return run


def test_a_prepared_run_has_the_exponents_and_the_states_of_an_unprepared_one(unprepared):
    flow, x0 = sx.Flow(lorenz_by_columns, 3, 0.01), torch.tensor([[1.0, 2.0, 20.0], [-3.0, 1.0, 25.0]], dtype=torch.float64)
    slow = unprepared(lambda: sx.trajectory(flow, x0, 300))
    torch.testing.assert_close(sx.trajectory(flow, x0, 300), slow, rtol=1e-9, atol=1e-9)
    spectra = [run(lambda: sx.lyapunov_spectrum(flow, x0, steps=200, settle=50)) for run in (unprepared, lambda f: f())]
    torch.testing.assert_close(spectra[0].exponents, spectra[1].exponents, rtol=1e-8, atol=1e-8)
    assert spectra[0].history_time.tolist() == spectra[1].history_time.tolist()


def test_a_prepared_run_diverges_at_the_same_step(unprepared):
    squaring, x0 = sx.Map(lambda x: x * x, 1), torch.tensor([[1.0 + 1e-70], [0.5]], dtype=torch.float64)
    growing = sx.Map(lambda x: x * 1.5, 1)
    for system in (squaring, growing):
        fast, slow = (run(lambda s=system: sx.trajectory(s, x0, 2_500)) for run in (lambda f: f(), unprepared))
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=0, equal_nan=True)


class Pulsed(sx.Flow):
    """A field that changes at step 30, which the class does not say."""

    def during(self, n):
        field = self.field
        return field if n < 30 else type(field)(lambda x: -2 * x)


@pytest.mark.parametrize("until", [50, 1_500])
def test_a_step_that_depends_on_the_step_is_taken_as_it_is(until):
    flow = Pulsed(lambda x: -x, 1, 0.1)
    found = sx.trajectory(flow, torch.ones(1).double(), until)[-1]
    euler = (1 - 0.1 + 0.005 - 0.1**3 / 6 + 0.1**4 / 24) ** 30 * (1 - 0.2 + 0.02 - 0.2**3 / 6 + 0.2**4 / 24) ** (until - 30)
    assert float(found) == pytest.approx(euler, rel=1e-9)


class Slowing(sx.Map):
    """A map whose steps take longer and longer."""

    def elapsed(self, x, n=0):
        return 1.0 + n


def test_a_step_whose_time_varies_is_taken_as_it_is():
    spectrum = sx.lyapunov_spectrum(Slowing(lambda x: x / 2, 1), torch.ones(1).double(), steps=99, settle=0)
    assert float(spectrum.history_time[-1]) == 99 * 100 / 2
    assert float(spectrum.exponents) == pytest.approx(-99 * math.log(2) / 4950)


@pytest.mark.parametrize("late", [lambda x: 0.9 * x, lambda x: x if x.sum() > 0 else -x])
def test_a_function_that_changes_during_a_run_is_refused(late):
    now = [lambda x: 0.999 * x]
    front = begin(sx.Map(lambda x: now[0](x), 1), torch.ones(1).double()).advance(300).advance(200)
    assert float(front.x) == pytest.approx(0.999**500, rel=1e-12)
    now[0] = late
    with pytest.raises(
        sx.errors.InputError, match=r"from the same state it went to 0.4717\d+, then to 0.4\d+.*\n.*function of \(x, n\)"
    ):
        front.advance(2 * prepared.OFTEN)


def test_a_system_that_was_copied_from_a_run_with_other_parameters_is_another_system():
    front = begin(sx.Flow(lambda x: -x, 1, 0.1), torch.ones(1).double()).advance(300).advance(1)
    half = replace(front, system=front.system.refined(2)).advance(20)
    decay = 1 - 0.05 + 0.05**2 / 2 - 0.05**3 / 6 + 0.05**4 / 24
    assert float(half.x / front.x) == pytest.approx(decay**20, rel=1e-12)
    assert copy.deepcopy(front.system).step(torch.ones(1)) < 1  # a copy has no programs, which could not be copied


class Bent(sx.Field):
    """Growth  ẋ = x  with a derivative of its own choice, 1 − x⁴, which is the true one as long as x is small."""

    time_dependent = False

    def forward(self, x, t):
        return 1.0 * x

    def pushforward(self, x, v, t):
        return self(x, t), (1 - x**4)[..., None, :] * v


def test_a_derivative_in_closed_form_is_recorded_as_it_is():
    flow, x0 = sx.Flow(Bent(), 1, 0.1, method="euler"), torch.full((1,), 1e-6, dtype=torch.float64)
    spectrum = sx.lyapunov_spectrum(flow, x0, steps=150, settle=0)
    slopes = 1 + 0.1 * (1 - (1e-6 * 1.1 ** np.arange(150)) ** 4)
    assert float(spectrum.exponents) == pytest.approx(np.log(slopes).mean() / 0.1, rel=1e-9)


def test_gradients_pass_through_a_trajectory_that_could_be_prepared():
    rate = torch.tensor(0.999, dtype=torch.float64, requires_grad=True)
    x0 = torch.ones(1, dtype=torch.float64)
    sx.trajectory(sx.Map(lambda x: rate * x, 1), x0, 400)[-1].sum().backward()
    assert float(rate.grad) == pytest.approx(400 * 0.999**399, rel=1e-12)
    x0.requires_grad_()
    sx.trajectory(sx.Map(lambda x: 0.999 * x, 1), x0, 400)[-1].sum().backward()
    assert float(x0.grad) == pytest.approx(0.999**400, rel=1e-12)
