"""Recurrent networks as systems: against the modules' own forward passes and autograd's dense Jacobians."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from separatrix.core.errors import HorizonError, InputError, ShapeError, UnsupportedModuleError
from separatrix.core.evolve import begin, trajectory
from separatrix.systems.drives import Constant, Sequential, Stream
from separatrix.systems.recurrent.cells import MANY_TANGENTS, through
from separatrix.systems.recurrent.recurrent import Recurrent
from separatrix.testing import check_module_untouched, check_system

INPUTS, HIDDEN, STEPS = 3, 5, 200

LAYERED = {
    "rnn tanh": (nn.RNN, {}),
    "rnn relu": (nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "lstm projected": (nn.LSTM, {"proj_size": 2}),
}
CELLS = {
    "rnn cell tanh": (nn.RNNCell, {}),
    "rnn cell relu": (nn.RNNCell, {"nonlinearity": "relu"}),
    "gru cell": (nn.GRUCell, {}),
    "lstm cell": (nn.LSTMCell, {}),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(name: str, seed: int = 0, gain: float = 2.0, **options) -> nn.Module:
    """A module in float32 whose weights are twice PyTorch's default, so that its states move."""
    kind, own = {**LAYERED, **CELLS}[name]
    torch.manual_seed(seed)
    module = kind(INPUTS, HIDDEN, **own, **options)
    for weight in module.parameters():
        weight.data.mul_(gain if "relu" not in name else 1.0)
    return module


def as_tuple(state) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def random_state(module: nn.Module, *batch: int, seed: int = 7) -> tuple[Tensor, ...]:
    """h, or (h, c), in the shapes that the module takes."""
    layers = () if isinstance(module, nn.RNNCellBase) else (module.num_layers,)
    widths = [getattr(module, "proj_size", 0) or HIDDEN, HIDDEN][: 2 if isinstance(module, nn.LSTM | nn.LSTMCell) else 1]
    return tuple(0.5 * normal(*layers, *batch, width, seed=seed + i) for i, width in enumerate(widths))


def own_forward(module: nn.Module, u: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Outputs and last state of the module itself, in float64 and evaluation mode; inputs and outputs with time first."""
    reference = copy.deepcopy(module).to(u.dtype).eval()
    state = tuple(part.to(u.dtype) for part in state)
    if isinstance(module, nn.RNNCellBase):
        outputs = []
        for one in u:
            state = as_tuple(reference(one, state if len(state) > 1 else state[0]))
            outputs.append(state[0])
        return torch.stack(outputs), state
    first = module.batch_first and u.ndim == 3
    out, last = reference(u.transpose(0, 1) if first else u, state if len(state) > 1 else state[0])
    return out.transpose(0, 1) if first else out, as_tuple(last)


def assert_is_its_own_forward(module: nn.Module, batch: tuple[int, ...] = (4,), dtype=torch.float64, atol=1e-12) -> None:
    u, state = normal(STEPS, *batch, INPUTS).to(dtype), random_state(module, *batch)
    given = u.transpose(0, 1) if getattr(module, "batch_first", False) and batch else u
    system = Recurrent(module, given)
    orbit = trajectory(system, system.pack(*state).to(dtype), STEPS)
    outputs, last = own_forward(module, u, state)
    hidden = as_tuple(system.unpack(orbit[1:]))[0]
    assert torch.allclose(hidden if isinstance(module, nn.RNNCellBase) else hidden[-1], outputs, rtol=0, atol=atol)
    for found, wanted in zip(as_tuple(system.unpack(orbit[-1])), last, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", LAYERED)
def test_a_layered_network_is_its_own_forward(name, layers, bias):
    assert_is_its_own_forward(build(name, num_layers=layers, bias=bias))


@pytest.mark.parametrize("name", LAYERED)
@pytest.mark.parametrize(("batch_first", "batch"), [(True, (4,)), (True, ()), (False, ())], ids=str)
def test_inputs_come_in_the_modules_own_convention(name, batch_first, batch):
    assert_is_its_own_forward(build(name, num_layers=2, batch_first=batch_first), batch)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("batch", [(4,), ()], ids=["batch", "single"])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_its_own_forward(name, batch, bias):
    assert_is_its_own_forward(build(name, bias=bias), batch)


@pytest.mark.parametrize("name", ["rnn tanh", "gru", "lstm"])
def test_dropout_is_off_even_while_the_module_trains(name):
    module = build(name, num_layers=3, dropout=0.6).train()
    assert_is_its_own_forward(module)
    assert module.training


@pytest.mark.parametrize("name", ["rnn tanh", "gru", "lstm", "lstm cell"])
def test_in_float32_it_is_its_own_forward_to_rounding(name):
    """At PyTorch's default weights these networks contract, so that 200 steps pile up a few roundings of 6e-8."""
    assert_is_its_own_forward(build(name, gain=1.0), dtype=torch.float32, atol=2e-6)


@pytest.mark.parametrize("name", ["gru", "lstm", "rnn cell tanh"])
def test_a_float32_network_runs_in_float64_when_its_state_is(name):
    """With its own weights, each exactly a float64 number, and no rounding to float32 between."""
    system = Recurrent(build(name), normal(20, INPUTS))
    assert trajectory(system, None, 20).dtype == torch.float64


def dense_jacobian(module: nn.Module, x: Tensor, u: Tensor, create_graph: bool = False) -> Tensor:
    """∂(state after)/∂(state) of the module's own step, by autograd: h of all layers, then c of all layers."""
    reference = module if create_graph else copy.deepcopy(module).double().eval()
    shapes = [part.shape for part in random_state(module)]

    def step(x: Tensor) -> Tensor:
        parts = x.split([shape.numel() for shape in shapes])
        state = tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        state = state if len(state) > 1 else state[0]
        after = reference(u, state) if isinstance(module, nn.RNNCellBase) else reference(u[None], state)[1]
        return torch.cat([part.reshape(-1) for part in as_tuple(after)])

    return torch.autograd.functional.jacobian(step, x, create_graph=create_graph)


@pytest.mark.parametrize("k", [MANY_TANGENTS - 1, MANY_TANGENTS], ids=["few tangents", "many tangents"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", LAYERED)
def test_tangents_of_a_layered_network_are_autograds_dense_jacobian(name, layers, k):
    """On the whole state: for an LSTM h and c of every layer, each acting on the other."""
    module = build(name, num_layers=layers)
    system = Recurrent(module, normal(3, INPUTS))
    x, v = 0.5 * normal(4, system.dim, seed=1), normal(4, k, system.dim, seed=2)
    _, pushed = begin(system, x).system.pushforward(x, v, 2)
    for i in range(4):
        jacobian = dense_jacobian(module, x[i], normal(3, INPUTS)[2])
        assert torch.allclose(pushed[i], v[i] @ jacobian.T, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("k", [2, MANY_TANGENTS])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CELLS)
def test_tangents_of_a_cell_are_autograds_dense_jacobian(name, bias, k):
    module = build(name, bias=bias)
    system = Recurrent(module, constant=normal(INPUTS))
    x, v = 0.5 * normal(system.dim, seed=1), normal(k, system.dim, seed=2)
    _, pushed = begin(system, x).system.pushforward(x, v)
    assert torch.allclose(pushed, v @ dense_jacobian(module, x, normal(INPUTS)).T, rtol=1e-12, atol=1e-13)


def test_an_lstms_tangents_reach_from_the_cell_to_the_hidden_state():
    """∂h'/∂c = o (1 − tanh² c') f is not zero: half of the state must not be left out."""
    module = build("lstm")
    system = begin(Recurrent(module), 0.5 * normal(2 * HIDDEN)).system
    _, pushed = system.pushforward(0.5 * normal(2 * HIDDEN), torch.eye(2 * HIDDEN, dtype=torch.float64))
    for half in (pushed[:HIDDEN], pushed[HIDDEN:]):
        assert half[:, :HIDDEN].abs().max() > 0.01 and half[:, HIDDEN:].abs().max() > 0.01


@pytest.mark.parametrize("name", ["rnn tanh", "gru", "lstm", "lstm projected", "lstm cell"])
@pytest.mark.parametrize("k", [3, MANY_TANGENTS])
def test_tangents_can_be_differentiated_by_the_modules_own_parameters(name, k):
    """Against autograd through the dense Jacobian of the module's own step."""
    module = build(name).double()
    system, u = Recurrent(module, constant=normal(INPUTS)), normal(INPUTS)
    x, v, w = 0.5 * normal(system.dim, seed=1), normal(k, system.dim, seed=2), normal(k, system.dim, seed=3)
    (w * begin(system, x).system.pushforward(x, v)[1]).sum().backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    (w * (v @ dense_jacobian(module, x, u, create_graph=True).T)).sum().backward()
    for name, p in module.named_parameters():
        assert torch.allclose(found[name], p.grad, rtol=1e-10, atol=1e-12), name


def test_gradients_of_a_float64_run_reach_float32_parameters():
    module = build("gru")
    system = Recurrent(module, normal(5, INPUTS))
    trajectory(system, None, 5)[-1].sum().backward()
    reference = copy.deepcopy(module).double()
    reference.zero_grad()
    reference(normal(5, INPUTS))[1].sum().backward()
    assert module.weight_hh_l0.grad.dtype == torch.float32
    assert torch.allclose(module.weight_hh_l0.grad.double(), reference.weight_hh_l0.grad, rtol=1e-6)


@pytest.mark.parametrize("k", [1, MANY_TANGENTS - 1, MANY_TANGENTS, 30])
@pytest.mark.parametrize("carry", [True, False], ids=["carry", "no carry"])
@pytest.mark.parametrize("gates", [1, 3])
@pytest.mark.parametrize("networks", [(), (4,)], ids=["one", "ensemble"])
def test_a_sum_over_gates_is_the_same_either_way(k, carry, gates, networks):
    """Σ_g c_g ∘ (W_g v) + carry ∘ v, written out with einsum."""
    v, weight = normal(2, 4, k, 6), normal(*networks, gates * 6, 6, seed=1)
    c, kept = normal(gates, 2, 4, 6, seed=2), normal(2, 4, 6, seed=3)
    stacked = weight.reshape(*networks, gates, 6, 6).expand(4, gates, 6, 6)
    wanted = torch.einsum("gbni,ngij,bnkj->bnki", c, stacked, v) + (kept[..., None, :] * v if carry else 0)
    found = through(v, weight, tuple(c), carry=kept if carry else None)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-13)


class Leaky(nn.Module):
    """h' = (1 − leak) h + leak tanh(W h + U u), signature (u, h) → h."""

    def __init__(self, leak: float = 0.3) -> None:
        super().__init__()
        self.input_size, self.hidden_size = INPUTS, HIDDEN
        self.leak = nn.Parameter(torch.tensor(leak))
        self.from_input, self.from_state = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return (1 - self.leak) * h + self.leak * torch.tanh(self.from_state(h) + self.from_input(u))


class WithOutput(Leaky):
    """Signature (u, h) → (out, h)."""

    def forward(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = super().forward(u, h)
        return h.sum(-1, keepdim=True), h


class TwoPart(nn.Module):
    """A fast and a slow part, signature (u, (fast, slow)) → (fast, slow), the slow one a 2 × 2 matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = INPUTS
        self.mix = nn.Linear(INPUTS + 3, 3)

    def forward(self, u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        fast, slow = state
        fast = torch.tanh(self.mix(torch.cat([u, fast], -1))) + 0.1 * slow.sum((-2, -1))[..., None]
        return fast, 0.9 * slow + 0.1 * fast[..., :2, None] * fast[..., None, 1:]


class TwoPartWithOutput(TwoPart):
    """Signature (u, (fast, slow)) → (out, (fast, slow))."""

    def forward(self, u, state):
        after = super().forward(u, state)
        return after[0].sum(-1), after


EXAMPLE = (torch.zeros(3), torch.zeros(2, 2))


@pytest.mark.parametrize("kind", [Leaky, WithOutput])
def test_a_cell_of_ones_own_is_stepped_by_its_own_call(kind):
    torch.manual_seed(0)
    cell, u, h = kind(), normal(30, 4, INPUTS), normal(4, HIDDEN)
    orbit = trajectory(Recurrent(cell, u), h, 30)
    reference = copy.deepcopy(cell).double()
    for n in range(30):
        h = reference(u[n], h) if kind is Leaky else reference(u[n], h)[1]
        assert torch.allclose(orbit[n + 1], h, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", [TwoPart, TwoPartWithOutput])
def test_a_cells_state_may_be_a_tuple_of_tensors(kind):
    torch.manual_seed(0)
    cell, u = kind(), normal(20, 4, INPUTS)
    system = Recurrent(cell, u, state=EXAMPLE)
    assert system.dim == 7
    state = (normal(4, 3), normal(4, 2, 2))
    assert all(torch.equal(a, b) for a, b in zip(system.unpack(system.pack(state)), state, strict=True))
    orbit = trajectory(system, system.pack(*state), 20)
    reference = copy.deepcopy(cell).double()
    for n in range(20):
        state = reference(u[n], state) if kind is TwoPart else reference(u[n], state)[1]
    for found, wanted in zip(system.unpack(orbit[-1]), state, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("kind", "state"), [(Leaky, None), (WithOutput, None), (TwoPartWithOutput, EXAMPLE)])
def test_a_cell_of_ones_own_conforms_alone_and_in_an_ensemble(kind, state):
    torch.manual_seed(0)
    check_system(Recurrent(kind(), normal(9, 2, INPUTS), state=state))
    check_system(Recurrent([kind() for _ in range(3)], normal(9, 2, INPUTS), state=state))


class WithTangents(Leaky):
    """The same with its own tangents, and a count of how often they were asked for: of the class, since twins own their lists."""

    asked = 0

    def pushforward(self, u: Tensor, h: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        WithTangents.asked += 1
        after = self.forward(u, h)
        value = (after - (1 - self.leak) * h) / self.leak
        pushed = (1 - value * value)[..., None, :] * (v @ self.from_state.weight.mT)
        return after, (1 - self.leak) * v + self.leak * pushed


class Changed(WithTangents):
    """A subclass whose step is another, so that the tangents it inherits are not its own."""

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return 0.5 * super().forward(u, h)


class Stacked(nn.Module):
    """A layer of two cells that reads (batch, time, inputs), with its step told; its state is (cells, batch, hidden)."""

    batch_first = True

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size = INPUTS, HIDDEN
        self.cells = nn.ModuleList([nn.GRUCell(INPUTS, HIDDEN), nn.GRUCell(HIDDEN, HIDDEN)])

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        h, step, outputs = sequence.new_zeros(2, len(sequence), HIDDEN), self.as_cell(), []
        for u in sequence.unbind(1):
            h = step(u, h)
            outputs.append(h[-1])
        return torch.stack(outputs, 1), h

    def as_cell(self) -> nn.Module:
        return Both(self.cells)


class Both(nn.Module):
    """The two cells' step."""

    def __init__(self, cells: nn.ModuleList) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        first = self.cells[0](u, h[0])
        return torch.stack([first, self.cells[1](first, h[1])])

    def example_state(self) -> Tensor:
        return torch.zeros(2, HIDDEN)


def test_a_cell_s_own_tangents_are_used_alone_and_in_an_ensemble():
    torch.manual_seed(0)
    cells, start = [WithTangents() for _ in range(3)], WithTangents.asked
    check_system(Recurrent(cells[0], normal(9, 2, INPUTS)))
    check_system(Recurrent(cells, normal(9, 2, INPUTS)))
    before = WithTangents.asked
    assert before > start
    Recurrent(cells[0], normal(9, INPUTS)).pushforward(normal(HIDDEN), normal(4, HIDDEN))
    assert WithTangents.asked == before + 1


def test_tangents_of_a_step_that_was_changed_since_are_not():
    torch.manual_seed(0)
    changed, hooked, before = Changed(), WithTangents(), WithTangents.asked
    hooked.register_forward_hook(lambda module, inputs, out: 0.5 * out)
    for cell in (changed, hooked):
        check_system(Recurrent(cell, normal(9, 2, INPUTS)))
        assert WithTangents.asked == before


def test_a_layer_of_ones_own_is_measured_by_the_step_it_tells():
    torch.manual_seed(0)
    layers = [Stacked(), Stacked()]
    sequence = normal(2, 9, INPUTS)
    system = Recurrent(layers[0], sequence)
    check_system(system)
    check_system(Recurrent(layers, sequence))
    assert system.horizon == 9 and system.dim == 2 * HIDDEN
    orbit = trajectory(system, None, 9)
    last = layers[0].double()(sequence)[1]
    assert torch.allclose(system.unpack(orbit[-1]), last, rtol=0, atol=1e-13)
    assert torch.allclose(system.pack(last), orbit[-1], rtol=0, atol=1e-13)


ENSEMBLES = {
    "gru": lambda seed: build("gru", seed, num_layers=2),
    "lstm": lambda seed: build("lstm", seed, num_layers=2),
    "lstm projected": lambda seed: build("lstm projected", seed),
    "lstm cell": lambda seed: build("lstm cell", seed, bias=False),
    "rnn batch first": lambda seed: build("rnn tanh", seed, batch_first=True),
    "own cell": lambda seed: (torch.manual_seed(seed), WithOutput())[1],
}


@pytest.mark.parametrize("k", [2, MANY_TANGENTS])
@pytest.mark.parametrize("batch", [(), (4,)], ids=["single", "batch"])
@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_is_a_loop_over_its_networks(name, batch, k):
    """All read the same inputs; the networks' axis is the last of the batch."""
    modules = [ENSEMBLES[name](seed) for seed in range(3)]
    u = normal(10, *batch, INPUTS)
    u = u.transpose(0, 1) if batch and getattr(modules[0], "batch_first", False) else u
    system = Recurrent(modules, u)
    x0, v = 0.3 * normal(*batch, 3, system.dim), normal(*batch, 3, k, system.dim, seed=1)
    front = begin(system, x0).with_tangents(v).advance(10)
    assert front.x.shape == (*batch, 3, system.dim)
    for i, module in enumerate(modules):
        one = begin(Recurrent(module, u), x0[..., i, :]).with_tangents(v[..., i, :, :]).advance(10)
        assert torch.allclose(front.x[..., i, :], one.x, rtol=0, atol=1e-13)
        assert torch.allclose(front.v[..., i, :, :], one.v, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["gru", "own cell"])
def test_an_ensemble_reads_an_endless_stream_alike(name):
    modules = [ENSEMBLES[name](seed) for seed in range(3)]
    stream = Stream(normal(5, 6, INPUTS), copies=4)
    orbit = trajectory(Recurrent(modules, stream), None, 20)
    assert orbit.shape[:-1] == (21, 4, 3)
    for i, module in enumerate(modules):
        assert torch.allclose(orbit[:, :, i], trajectory(Recurrent(module, stream), None, 20), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["gru", "own cell"])
def test_gradients_reach_every_network_of_an_ensemble(name):
    modules = [ENSEMBLES[name](seed) for seed in range(3)]
    u = normal(4, INPUTS)
    trajectory(Recurrent(modules, u), None, 4)[-1].square().sum().backward()
    for module in modules:
        found = [p.grad.clone() for p in module.parameters()]
        module.zero_grad()
        trajectory(Recurrent(module, u), None, 4)[-1].square().sum().backward()
        for grad, p in zip(found, module.parameters(), strict=True):
            assert torch.allclose(grad, p.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [*LAYERED, *CELLS])
def test_a_run_leaves_the_module_as_it_was(name):
    options = {"num_layers": 2, "dropout": 0.3} if name in LAYERED else {}
    module = build(name, **options).train()

    def run() -> None:
        system = Recurrent(module, normal(6, INPUTS))
        begin(system).with_tangents(normal(2, system.dim)).advance(6)
        begin(system, torch.zeros(system.dim)).advance(6)

    check_module_untouched(module, run)


def test_an_optimisers_step_is_seen_by_the_system():
    module = build("gru")
    system = Recurrent(module, normal(3, INPUTS))
    before = trajectory(system, None, 3)
    module.weight_hh_l0.data.mul_(0.5)
    assert torch.equal(trajectory(system, None, 3), trajectory(Recurrent(module, normal(3, INPUTS)), None, 3))
    assert not torch.equal(trajectory(system, None, 3), before)


def test_weights_are_parameters_that_at_replaces():
    """A sweep over the gain of the recurrent weights, in one run."""
    module, gains = build("rnn tanh"), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    weight = module.weight_hh_l0.detach().double()
    grid = Recurrent(module, normal(8, INPUTS)).at(weight_hh_l0=gains[:, None, None] * weight)
    orbit = trajectory(grid, torch.zeros(HIDDEN, dtype=torch.float64), 8)
    for i, gain in enumerate(gains):
        one = Recurrent(module, normal(8, INPUTS)).at(weight_hh_l0=gain * weight)
        assert torch.allclose(orbit[:, i], trajectory(one, torch.zeros(HIDDEN).double(), 8), rtol=0, atol=1e-14)


def test_the_horizon_is_the_length_of_the_inputs():
    system = Recurrent(build("gru"), normal(7, INPUTS))
    assert system.horizon == 7
    with pytest.raises(HorizonError, match=r"8 steps .* 7\b"):
        trajectory(system, None, 8)
    with pytest.raises(HorizonError, match="step 7 was requested, but the inputs have 7 steps"):
        system.drive(7)


def test_inputs_without_end_have_no_horizon():
    assert Recurrent(build("gru"), constant=torch.ones(INPUTS)).horizon is None
    assert Recurrent(build("gru"), Stream(normal(5, 6, INPUTS))).horizon is None
    assert Recurrent(build("gru")).horizon is None


def test_a_constant_input_is_read_at_every_step_and_none_is_zeros():
    module, value = build("gru"), normal(INPUTS)
    x0 = normal(HIDDEN)
    constant = trajectory(Recurrent(module, constant=value), x0, 9)
    assert torch.equal(constant, trajectory(Recurrent(module, value.expand(9, INPUTS)), x0, 9))
    assert torch.equal(trajectory(Recurrent(module), x0, 9), trajectory(Recurrent(module, torch.zeros(9, 3)), x0, 9))


def test_a_frozen_network_keeps_one_input():
    module, u, x0 = build("lstm"), normal(6, INPUTS), normal(2 * HIDDEN)
    frozen = Recurrent(module, u).frozen(4)
    assert torch.equal(trajectory(frozen, x0, 9), trajectory(Recurrent(module, constant=u[4]), x0, 9))


def test_a_stream_plays_whole_sequences_one_after_the_other():
    """Each number of the data says which sequence and time it is."""
    data = torch.arange(5.0)[:, None] * 100 + torch.arange(6.0)
    stream = Stream(data[..., None], copies=50, seed=3)
    played = torch.stack([stream(n)[:, 0] for n in range(6 * 40)]).reshape(40, 6, 50)
    assert torch.equal(played % 100, torch.arange(6.0)[:, None].expand(40, 6, 50))
    which = (played / 100).floor()
    assert torch.equal(which, which[:, :1].expand_as(which))
    counts = which[:, 0].flatten().long().bincount(minlength=5)
    assert (counts - 400).abs().max() < 5 * math.sqrt(400 * 0.8)  # uniform draws: 5 standard deviations


def test_a_stream_can_be_replayed_from_anywhere():
    data = normal(5, 6, INPUTS)
    stream, other = Stream(data, copies=3, seed=1), Stream(data, copies=3, seed=1)
    forwards = [stream(n) for n in range(30)]
    assert all(torch.equal(other(n), forwards[n]) for n in reversed(range(30)))
    assert not torch.equal(Stream(data, copies=3, seed=2)(0), forwards[0])


def test_a_stream_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    Stream(normal(5, 6, INPUTS))(100)
    assert torch.equal(before, torch.get_rng_state())


def test_a_driven_network_starts_at_zero_and_one_without_inputs_does_not():
    assert Recurrent(build("gru"), normal(5, INPUTS)).initial_state((2,)).abs().max() == 0
    for module in (build("gru"), [build("gru", 0), build("gru", 1)]):
        start = Recurrent(module).initial_state((400,), seed=1)
        assert start.min() >= -1 and start.max() <= 1
        assert start.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.05)


def test_states_pack_to_vectors_hidden_first_then_cell_layer_by_layer():
    module = build("lstm", num_layers=2)
    h, c = random_state(module, 4)
    system = Recurrent(module)
    assert torch.equal(system.pack(h, c), torch.cat([h[0], h[1], c[0], c[1]], -1))
    assert torch.equal(system.pack((h, c)), system.pack(h, c))
    again = system.unpack(system.pack(h, c))
    assert torch.equal(again[0], h) and torch.equal(again[1], c)


def test_other_drives_may_be_given():
    module, u, x0 = build("gru"), normal(5, 2, INPUTS), torch.zeros(HIDDEN)
    for drive, given in ((Sequential(u), {"inputs": u}), (Constant(u[0]), {"constant": u[0]})):
        assert torch.equal(trajectory(Recurrent(module, drive), x0, 5), trajectory(Recurrent(module, **given), x0, 5))


def test_inputs_may_be_numpy_arrays_lists_or_integers():
    module = build("gru")
    whole = torch.arange(12).reshape(4, 3)
    wanted = trajectory(Recurrent(module, whole.double()), None, 4)
    for given in (whole, whole.numpy(), whole.tolist(), whole.numpy().astype(np.float64)):
        assert torch.equal(trajectory(Recurrent(module, given), None, 4), wanted)


class Bare(nn.Module):
    """Neither hidden_size nor input_size."""

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return h


class NoCell(nn.Module):
    """Takes one argument."""

    hidden_size = HIDDEN

    def forward(self, u: Tensor) -> Tensor:
        return u


class Shrinking(nn.Module):
    """Returns a state of another width."""

    hidden_size, input_size = HIDDEN, INPUTS

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return h[..., 1:]


def poisoned(name: str, parameter: str) -> nn.Module:
    module = build(name)
    getattr(module, parameter).data.reshape(-1)[0] = math.nan
    return module


NAN_INPUTS = torch.zeros(4, INPUTS).index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(math.nan))


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: Recurrent(build("gru", bidirectional=True)), UnsupportedModuleError, "is bidirectional"),
        (lambda: Recurrent(nn.Linear(3, 3), normal(4, 3)), UnsupportedModuleError, "hidden_size, got a Linear"),
        (lambda: Recurrent(Bare()), UnsupportedModuleError, r"sx.Recurrent\(cell, state="),
        (lambda: Recurrent(NoCell()), UnsupportedModuleError, "failed on a batch of 1 .* TypeError"),
        (lambda: Recurrent(Shrinking()), ShapeError, "expected Shrinking to return a state of shapes"),
        (lambda: Recurrent(torch.tanh), UnsupportedModuleError, "expected an nn.Module, got a builtin"),
        (lambda: Recurrent([]), InputError, "at least 1 network"),
        (lambda: Recurrent([build("gru"), build("lstm")]), UnsupportedModuleError, "of one kind of network, got GRU, LSTM"),
        (lambda: Recurrent([nn.GRU(3, 4), nn.GRU(3, 5)]), ShapeError, "equal shapes"),
        (lambda: Recurrent([nn.GRU(3, 4), nn.GRU(3, 4, num_layers=2)]), ShapeError, "equal shapes"),
        (lambda: Recurrent([Leaky(), TwoPart()]), UnsupportedModuleError, "of one kind"),
        (
            lambda: Recurrent(build("gru"), pack_sequence([torch.ones(3, 3), torch.ones(2, 3)])),
            InputError,
            r"sx.Stream\(sequences\)",
        ),
        (lambda: Recurrent(build("gru"), [torch.ones(3, 3), torch.ones(2, 3)]), InputError, "2 sequences have 2 to 3 steps"),
        (
            lambda: Stream([torch.ones(3, 3), torch.ones(2, 2)]),
            ShapeError,
            "sequence 1 has 2 numbers per step, but sequence 0 has 3",
        ),
        (lambda: Stream([torch.ones(3, 3), torch.full((2, 3), torch.nan)]), InputError, "6 of 6 numbers of sequence 1"),
        (lambda: Stream(normal(4, 3, 3), lengths=[3, 2, 1]), InputError, "each of the 4 sequences, got 3"),
        (lambda: Stream(normal(2, 3, 3), lengths=[3, 4]), InputError, "a length is 4, but .* 3 steps"),
        (lambda: Recurrent(build("gru"), normal(4, 7)), ShapeError, r"7 numbers per step but this GRU\(3 → 5\) takes 3"),
        (lambda: Recurrent(build("gru"), normal(4, 2, 2, 3)), ShapeError, "4 axes"),
        (lambda: Recurrent(build("gru"), normal(3)), ShapeError, "1 axes"),
        (lambda: Recurrent(build("gru"), torch.zeros(0, 3)), ShapeError, "are empty"),
        (lambda: Recurrent(build("gru"), NAN_INPUTS), InputError, r"1 of 12 numbers .* first at \[2, 1\]"),
        (lambda: Recurrent(build("gru"), constant=[math.inf, 0, 0]), InputError, "not finite"),
        (lambda: Recurrent(build("gru"), np.array([["a", "b", "c"]])), InputError, "cannot be read as numbers"),
        (lambda: Recurrent(build("gru"), [["a", "b", "c"]]), InputError, "cannot be read as numbers"),
        (lambda: Recurrent(build("gru"), np.array([[None, 1, 2]])), InputError, "cannot be read as numbers"),
        (lambda: Recurrent(build("gru"), torch.zeros(4, 3, dtype=torch.complex64)), InputError, "real numbers"),
        (lambda: Recurrent(build("gru"), normal(4, 3), constant=normal(3)), InputError, "got both"),
        (lambda: Recurrent(poisoned("gru", "weight_hh_l0")), InputError, "weight_hh_l0 has 1 numbers out of 75"),
        (lambda: Recurrent(poisoned("lstm cell", "bias_ih")), InputError, "bias_ih has 1 numbers out of 20"),
        (lambda: Stream(normal(4, 3)), ShapeError, r"\(count, time, inputs\), got \(4, 3\)"),
        (lambda: Stream(normal(4, 3, 3), copies=0), InputError, "copies is 0"),
        (lambda: Recurrent(build("lstm")).pack(torch.zeros(1, 5)), ShapeError, r"2 tensors \(hidden and cell\), got 1"),
        (lambda: Recurrent(build("gru")).pack(torch.zeros(1, 4)), ShapeError, "4 numbers but this GRU.* has 5"),
        (lambda: Recurrent(TwoPart(), state=EXAMPLE).pack(torch.zeros(3)), ShapeError, "consists of 2 tensors, got 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(make, error, told):
    with pytest.raises(error, match=told):
        make()


def test_a_state_of_the_hidden_width_alone_is_refused_for_an_lstm():
    with pytest.raises(ShapeError, match="the state has 5 numbers but this Recurrent has 10"):
        begin(Recurrent(build("lstm")), torch.zeros(HIDDEN))


def test_batches_of_inputs_and_states_broadcast():
    module, u = build("gru"), normal(6, 4, INPUTS)
    assert Recurrent(module, u).batch_shape == (4,)
    orbit = trajectory(Recurrent(module, u), normal(7, 1, HIDDEN), 6)
    assert orbit.shape == (7, 7, 4, HIDDEN)
    assert torch.allclose(orbit[:, 2, 3], trajectory(Recurrent(module, u[:, 3]), normal(7, 1, HIDDEN)[2, 0], 6), atol=1e-14)


@pytest.mark.parametrize("name", [*LAYERED, *CELLS])
def test_a_recurrent_network_conforms(name):
    check_system(Recurrent(build(name), normal(9, 2, INPUTS) if name in LAYERED else normal(9, INPUTS)))


def test_an_ensemble_conforms():
    check_system(Recurrent([build("lstm", seed) for seed in range(4)], normal(9, 2, INPUTS)))


def test_an_ensemble_whose_plain_attributes_differ_is_refused():
    class Leaky(nn.Module):
        hidden_size = 2

        def __init__(self, rate: float) -> None:
            super().__init__()
            self.rate = rate

        def forward(self, u, state):
            return (1 - self.rate) * state

    with pytest.raises(UnsupportedModuleError, match=r"differ in the plain attribute rate: 0.1, 0.2.*\n.*register_buffer"):
        Recurrent([Leaky(0.1), Leaky(0.2)])


def normed(module: nn.Module, name: str) -> Tensor:
    """The weight g v / |v|, row by row, after both were moved."""
    nn.utils.parametrizations.weight_norm(module, name)
    g, v = getattr(module.parametrizations, name).parameters()
    g.data.mul_(1.5)
    return g * v / v.norm(dim=1, keepdim=True)


def normed_by_hook(module: nn.Module, name: str) -> Tensor:
    """The same, as torch did it before; what the hook last left is stale."""
    nn.utils.weight_norm(module, name)
    g, v = getattr(module, f"{name}_g"), getattr(module, f"{name}_v")
    g.data.mul_(1.5)
    return g * v / v.norm(dim=1, keepdim=True)


def pruned(module: nn.Module, name: str) -> Tensor:
    """The weight w ∘ mask, the half of the weights that are the smallest masked."""
    nn.utils.prune.l1_unstructured(module, name, amount=0.5)
    original, mask = getattr(module, f"{name}_orig"), getattr(module, f"{name}_mask")
    assert mask.mean() == pytest.approx(0.5, abs=0.02)
    original.data.mul_(1.5)
    return original * mask


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [normed, normed_by_hook, pruned])
@pytest.mark.parametrize(("name", "weight"), [("gru", "weight_hh_l0"), ("lstm cell", "weight_hh")])
def test_a_weight_that_torch_makes_of_others_is_the_one_measured(name, weight, make):
    """Against a plain module loaded with the weight by its formula; gradients reach what the formula is of."""
    module, plain = build(name), build(name)
    made = make(module, weight)
    getattr(plain, weight).data.copy_(made.detach())
    u = normal(20, INPUTS)
    orbit, wanted = trajectory(Recurrent(module, u), None, 20), trajectory(Recurrent(plain, u), None, 20)
    assert torch.allclose(orbit, wanted, rtol=0, atol=1e-6)
    assert Recurrent(module).network.label == Recurrent(plain).network.label
    orbit[-1].sum().backward()
    wanted[-1].sum().backward()
    leaves = [p for key, p in module.named_parameters() if weight in key]
    by_formula = torch.autograd.grad(made, leaves, getattr(plain, weight).grad)
    for leaf, expected in zip(leaves, by_formula, strict=True):
        assert torch.allclose(leaf.grad, expected, rtol=1e-4, atol=1e-5)


def test_building_a_system_does_not_move_a_spectral_norm():
    module = build("gru").train()
    nn.utils.parametrizations.spectral_norm(module, "weight_hh_l0")
    system = check_module_untouched(module, lambda: Recurrent(module))
    assert torch.linalg.matrix_norm(system.network.weight_hh_l0, 2).item() == pytest.approx(1, abs=0.1)


def test_parametrised_networks_make_an_ensemble():
    modules = [build("gru", seed) for seed in range(2)]
    for module in modules:
        nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    orbit = trajectory(Recurrent(modules, normal(6, INPUTS)), None, 6)
    for i in range(2):
        assert torch.allclose(orbit[:, i], trajectory(Recurrent(build("gru", i), normal(6, INPUTS)), None, 6), atol=1e-6)


class LazyCell(nn.Module):
    """Its weight's width is known from the first call on."""

    hidden_size = HIDDEN

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.LazyLinear(HIDDEN)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.mix(torch.cat([u, h], -1)))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nn.GRU(3, 5, device="meta"), "weight_ih_l0 is on the meta device, .*\n.*to_empty"),
        (lambda: nn.LSTMCell(3, 5, device="meta"), "weight_ih is on the meta device"),
        (lambda: Leaky().to("meta"), "is on the meta device"),
        (LazyCell, "mix.weight is lazy and not initialised yet.\nCall the module once"),
    ],
)
def test_a_module_without_numbers_is_refused_in_words(make, told):
    with pytest.raises(UnsupportedModuleError, match=told):
        Recurrent(make())


class HalvingCell(nn.GRUCell):
    """Half of what the GRU cell gives."""

    def forward(self, input: Tensor, hx: Tensor) -> Tensor:
        return 0.5 * super().forward(input, hx)


class HalvingLongCell(nn.LSTMCell):
    """Half of what the LSTM cell gives."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = super().forward(input, hx)
        return 0.5 * h, 0.5 * c


class HalvingLayer(nn.GRU):
    """Half of what the GRU gives."""

    def forward(self, input, hx=None):
        out, h = super().forward(input, hx)
        return 0.5 * out, 0.5 * h


def hooked(kind: type[nn.Module], before: bool) -> nn.Module:
    torch.manual_seed(0)
    module = kind(INPUTS, HIDDEN)
    if before:
        module.register_forward_pre_hook(lambda _, given: (2 * given[0], *given[1:]))
    else:
        module.register_forward_hook(lambda _, __, out: 0.5 * out)
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: HalvingCell(INPUTS, HIDDEN),
        lambda: HalvingLongCell(INPUTS, HIDDEN),
        lambda: hooked(nn.GRUCell, before=False),
        lambda: hooked(nn.GRUCell, before=True),
    ],
    ids=["forward", "forward of an LSTM cell", "hook", "pre-hook"],
)
def test_a_cell_with_a_forward_or_hooks_of_its_own_is_stepped_by_its_own_call(make):
    cell, u = make(), normal(10, 2, INPUTS)
    system = Recurrent(cell, u)
    orbit = trajectory(system, None, 10)
    reference, state = copy.deepcopy(cell).double(), system.unpack(torch.zeros(2, system.dim, dtype=torch.float64))
    for one in u:
        state = reference(one, state)
    assert torch.allclose(orbit[-1], system.pack(state), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: HalvingLayer(INPUTS, HIDDEN), "HalvingLayer has a forward of its own"),
        (lambda: hooked(nn.GRU, before=False), "GRU has a forward hook"),
        (lambda: hooked(nn.GRU, before=True), "GRU has a forward pre-hook"),
        (lambda: [build("gru"), hooked(nn.GRU, before=False)], "GRU has a forward hook"),
    ],
)
def test_a_layer_with_a_forward_or_hooks_of_its_own_is_refused(make, told):
    with pytest.raises(UnsupportedModuleError, match=told):
        Recurrent(make())


def test_a_subclass_that_leaves_the_forward_alone_is_measured_in_closed_form():
    class Named(nn.GRU):
        def __init__(self) -> None:
            super().__init__(INPUTS, HIDDEN)
            self.head = nn.Linear(HIDDEN, 2)

    torch.manual_seed(0)
    assert_is_its_own_forward(Named())


@pytest.mark.parametrize("make", [lambda: build("gru"), lambda: build("lstm cell"), Leaky, lambda: [Leaky(), Leaky()]])
def test_a_step_by_hand_casts_the_weights_to_the_states_dtype(make):
    torch.manual_seed(0)
    system = Recurrent(make(), normal(4, INPUTS))
    x = system.initial_state(tuple(system.batch_shape))
    v = torch.eye(system.dim, dtype=torch.float64).expand(*x.shape, system.dim)
    front = begin(system, x).with_tangents(v).advance(1)
    value, pushed = system.pushforward(x, v)
    assert value.dtype == pushed.dtype == torch.float64
    assert torch.equal(system.step(x), front.x) and torch.equal(value, front.x)
    assert torch.equal(pushed, front.v)
    assert system.step(x.float()).dtype == torch.float32
