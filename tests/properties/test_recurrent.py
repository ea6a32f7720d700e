"""Random recurrent networks against their own forward passes: exponents by dense QR, tangents by `torch.func`, states by runs."""

import copy
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import separatrix as sx
from properties.strategies import OWN, SEEDS, inputs_for, normal, own_cells, recurrent_modules, set_weights
from separatrix.analysis.run.tangent_run import random_frame


def flat(state: Any) -> Tensor:
    """A state without batch axes as a row: its tensors in their order."""
    if isinstance(state, tuple | list):
        return torch.cat([flat(part) for part in state])
    return state.reshape(-1)


def shaped(row: Tensor, like: Any) -> Any:
    """The inverse of `flat`."""
    if isinstance(like, tuple | list):
        parts = row.split([flat(part).numel() for part in like])
        return tuple(shaped(part, one) for part, one in zip(parts, like, strict=True))
    return row.reshape(like.shape)


def zero_state(module: nn.Module) -> Any:
    """Zeros in the shape that the module takes for one sequence."""
    if isinstance(module, OWN):
        return module.example_state() if hasattr(module, "example_state") else torch.zeros(module.hidden_size)
    layers = (module.num_layers,) if isinstance(module, nn.RNNBase) else ()
    h = torch.zeros(*layers, getattr(module, "proj_size", 0) or module.hidden_size)
    return (h, torch.zeros(*layers, module.hidden_size)) if isinstance(module, nn.LSTM | nn.LSTMCell) else h


def one_step(module: nn.Module, u: Tensor, state: Any) -> Any:
    """The module's own forward: of a layer a sequence of length one, of a cell a call."""
    if isinstance(module, nn.RNNBase):
        return module(u[None], state)[1]
    answer = module(u, state)
    return answer[1] if type(module).__name__ == "TupleCell" else answer


def own_map(module: nn.Module, u: Tensor) -> Any:
    """row ↦ row by the module's own forward in float64."""
    double, like = copy.deepcopy(module).double(), zero_state(module)
    return lambda row: flat(one_step(double, u, shaped(row, like)))


def some_modules() -> st.SearchStrategy:
    return st.one_of(recurrent_modules(), own_cells())


@given(some_modules(), SEEDS)
def test_the_pushforward_is_the_jacobian_of_the_module_s_own_forward(module, seed):
    """DF v against `torch.func.jacrev` of the module, at random states, for all standard basis vectors at once."""
    inputs = normal(seed, 3, module.input_size)
    system = sx.Recurrent(module, inputs)
    x = 0.7 * normal(seed + 1, system.dim)
    for n in range(3):
        value, pushed = system.pushforward(x, torch.eye(system.dim).double(), n)
        own = own_map(module, inputs[n])
        torch.testing.assert_close(value, own(x), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(pushed, torch.func.jacrev(own)(x).mT, rtol=1e-9, atol=1e-11)


@given(some_modules(), SEEDS, st.integers(1, 4))
def test_states_packed_and_unpacked_are_those_of_the_module_s_own_run(module, seed, batch):
    """A whole batch through the module, and step by step through the system: the same last state, both ways of packing."""
    time = 5
    inputs = inputs_for(module, time, (batch,), seed)
    steps = inputs.movedim(1, 0) if getattr(module, "batch_first", False) else inputs
    system = sx.testing.check_module_untouched(module, lambda: sx.Recurrent(module, inputs))
    states = [shaped(0.5 * normal(seed + i, system.dim), zero_state(module)) for i in range(batch)]
    x = torch.stack([flat(state) for state in states])
    for b in range(batch):
        row = x[b]
        for n in range(time):
            row = own_map(module, steps[n, b])(row)
        states[b] = row
    wanted = torch.stack(states)
    with torch.no_grad():
        for n in range(time):
            x = system.step(x, n)
    torch.testing.assert_close(x, wanted.detach(), rtol=1e-10, atol=1e-12)
    assert torch.equal(system.pack(system.unpack(x)), x)
    if isinstance(module, nn.RNNBase):
        _, own = copy.deepcopy(module).double()(inputs, shaped_batch(module, batch))
        run = torch.zeros(batch, system.dim).double()
        with torch.no_grad():
            for n in range(time):
                run = system.step(run, n)
        torch.testing.assert_close(system.pack(own).detach(), run, rtol=1e-10, atol=1e-12)


def shaped_batch(module: nn.Module, batch: int) -> Any:
    zero = zero_state(module)
    parts = zero if isinstance(zero, tuple) else (zero,)
    wide = tuple(part[:, None].expand(-1, batch, -1).double().contiguous() for part in parts)
    return wide if isinstance(zero, tuple) else wide[0]


def dense_exponents(module: nn.Module, inputs: Tensor, frame: Tensor) -> Tensor:
    """Exponents by QR of the dense Jacobian after every step along the module's own states, from the given first frame."""
    x, q, logs = torch.zeros(frame.shape[-1]).double(), frame.mT, torch.zeros(frame.shape[-2]).double()
    for u in inputs:
        own = own_map(module, u)
        q, r = torch.linalg.qr(torch.func.jacrev(own)(x).detach() @ q)
        logs += r.diagonal().abs().log()
        x = own(x).detach()
    return (logs / len(inputs)).sort(descending=True).values


@given(some_modules(), SEEDS, st.integers(1, 8))
def test_the_spectrum_is_that_of_dense_qr_along_the_same_inputs(module, seed, every):
    """The product of the R's diagonals does not depend on how often the frame is factored: equal to rounding, where above it."""
    inputs = normal(seed, 24, module.input_size)
    system = sx.Recurrent(module, inputs)
    spectrum = sx.lyapunov_spectrum(system, steps=24, settle=0, every=every, seed=seed)
    wanted = dense_exponents(module, inputs, random_frame(torch.zeros(system.dim).double(), system.dim, seed))
    seen = wanted > -8  # below, one block of steps leaves nothing of a direction in float64
    torch.testing.assert_close(spectrum.exponents[seen], wanted[seen], rtol=1e-6, atol=1e-7)
    assert bool((spectrum.exponents[~seen] < -7.9).all())


@given(st.sampled_from((nn.RNNCell, nn.GRUCell, nn.LSTMCell, nn.GRU, *OWN)), SEEDS, st.integers(1, 3))
def test_an_ensemble_is_its_networks_one_by_one(kind, seed, count):
    """Step, tangents and spectrum of a list of networks under common inputs."""
    with torch.random.fork_rng(devices=[]):
        modules = [set_weights(kind(2, 3), seed + 1000 * i, 1.5) for i in range(count)]
    inputs = normal(seed, 12, 2)
    together, single = sx.Recurrent(modules, inputs), [sx.Recurrent(module, inputs) for module in modules]
    x, v = normal(seed + 1, count, together.dim), normal(seed + 2, count, 2, together.dim)
    value, pushed = together.pushforward(x, v, 3)
    for i, one in enumerate(single):
        torch.testing.assert_close(together.step(x, 3)[i], one.step(x[i], 3), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(value[i], one.step(x[i], 3), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(pushed[i], one.pushforward(x[i], v[i], 3)[1], rtol=1e-10, atol=1e-12)


class Messy(nn.Module):
    """A network with everything that keeps state or draws: batch norm, dropout, spectral norm, in a random order."""

    def __init__(self, dim: int, kinds: list[str]) -> None:
        super().__init__()
        made = {
            "batch norm": lambda: nn.BatchNorm1d(dim),
            "dropout": lambda: nn.Dropout(0.5),
            "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(dim, dim)),
            "old spectral": lambda: nn.utils.spectral_norm(nn.Linear(dim, dim)),
            "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(dim, dim)),
            "linear": lambda: nn.Linear(dim, dim),
            "layer norm": lambda: nn.LayerNorm(dim),
        }
        self.parts = nn.ModuleList(made[kind]() for kind in kinds)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return torch.tanh(x)


KINDS = ("batch norm", "dropout", "spectral", "old spectral", "weight norm", "linear", "layer norm")


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), st.integers(2, 4), st.booleans(), st.sampled_from((1, 4)), SEEDS)
def test_a_module_is_untouched_and_measured_in_evaluation_mode(kinds, dim, training, every, seed):
    """Buffers, modes, gradients and values stay; the step is the module's own in evaluation mode; runs repeat to the last bit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Messy(dim, kinds)
        module(torch.randn(8, dim))  # statistics that are not the first ones
    module.train(training)
    x0 = 0.5 * normal(seed, 2, dim)

    def run() -> list[Tensor]:
        system = sx.Map(module, dim)
        spectra = [sx.lyapunov_spectrum(system, x0, steps=12, settle=2, every=every).exponents for _ in range(2)]
        return [*spectra, system.step(x0.float())]

    first, again, value = sx.testing.check_module_untouched(module, run)
    assert torch.equal(first.nan_to_num(), again.nan_to_num())
    torch.testing.assert_close(value, module.eval()(x0.float()), rtol=1e-5, atol=1e-6)
