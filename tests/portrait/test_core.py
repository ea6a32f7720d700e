"""Finding the recurrent part of a user's model, and what reaches it."""

import numpy as np
import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.evolve import trajectory
from separatrix.portrait.find_core import find_core
from separatrix.portrait.regime import along, regime_of


class Reader(nn.Module):
    """Embedding → GRU → head, as text models are built."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.rnn = nn.GRU(4, 6, batch_first=True, dropout=0.5, num_layers=2)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0][:, -1])


class Stepper(nn.Module):
    """A cell in a loop of the model's own."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 5)
        self.cell = cell

    def forward(self, x):
        state = torch.zeros(x.shape[1], 7)
        for u in self.encode(x):
            state = self.cell(u, state)
        return state


class LeakyCell(nn.Module):
    """A cell that is not PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(5 + 7, 7)

    def forward(self, u, state):
        return 0.9 * state + 0.1 * torch.tanh(self.mix(torch.cat([u, state], -1)))


def test_what_reaches_the_core_is_what_the_layers_before_it_make():
    model, tokens = Reader().train(), torch.randint(0, 11, (5, 9))
    core = find_core(model, tokens)
    assert core.name == "rnn"
    assert core.module is model.rnn
    assert torch.equal(core.inputs, model.embedding(tokens).transpose(0, 1))
    assert model.training
    assert not model.rnn._forward_pre_hooks


def test_a_cell_called_in_a_loop_is_captured_step_by_step():
    model, x = Stepper(nn.GRUCell(5, 7)), torch.randn(12, 2, 3)
    core = find_core(model, x)
    assert core.calls == 12
    torch.testing.assert_close(core.inputs, model.encode(x))


def test_a_cell_of_the_users_own_is_measured_when_it_is_named():
    model, x = Stepper(LeakyCell()), torch.randn(12, 2, 3)
    core = find_core(model, x, module="cell")
    assert core.state.shape == (7,)
    torch.testing.assert_close(core.inputs, model.encode(x))


def test_a_recurrent_module_is_its_own_core():
    x = torch.randn(4, 10, 3)
    assert torch.equal(find_core(nn.GRU(3, 5, batch_first=True), x).inputs, x.transpose(0, 1))
    assert find_core(nn.GRU(3, 5), np.zeros((10, 3))).inputs.shape == (10, 1, 3)


def test_whole_numbers_go_as_floats_to_a_model_without_embedding():
    model = nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 5))
    assert find_core(model, torch.ones(8, 2, 3, dtype=torch.int64)).inputs.shape == (8, 2, 4)


@pytest.mark.parametrize(
    ("model", "inputs", "module", "error", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), None, None, UnsupportedModuleError, "no recurrent part.*Linear, ReLU"),
        (nn.ModuleList([nn.GRU(2, 2), nn.LSTM(2, 2)]), None, None, UnsupportedModuleError, r"2 recurrent parts: 0 = GRU.*--module"),
        (Reader(), None, "rnm", InputError, "no module named 'rnm'.\nIts modules: rnn"),
        (nn.GRU(3, 4), torch.zeros(5, 2), None, ShapeError, "2 numbers per step but this .* takes 3"),
        (nn.GRU(3, 4), torch.zeros(2, 2, 5, 3), None, ShapeError, "4 axes"),
        (nn.GRU(3, 4), torch.zeros(0, 3), None, InputError, "empty"),
        (nn.GRU(3, 4), torch.full((5, 3), torch.nan), None, InputError, "15 of 15 numbers"),
        (Reader(), torch.full((2, 3), 99), None, InputError, "Reader failed on inputs of shape .*IndexError"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(model, inputs, module, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        find_core(model, inputs, module)


def test_a_core_that_the_inputs_never_reach_is_named():
    class Detour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(2, 2)
            self.skip = nn.Linear(2, 2)

        def forward(self, x):
            return self.skip(x)

    with pytest.raises(InputError, match="never reached 'rnn'"):
        find_core(Detour(), torch.zeros(4, 2))


class Twice(nn.Module):
    """Calls its layer on the two halves of the inputs, as `between` tells."""

    def __init__(self, between: str, layer: type[nn.Module] = nn.GRU) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = layer(3, 5)
        self.between = between

    def forward(self, x):
        first, second = x.chunk(2)
        state = self.rnn(first)[1]
        if self.between == "carried":
            return self.rnn(second, state)
        if self.between == "by name":
            return self.rnn(hx=state, input=second)
        if self.between == "zeroed in place":
            for part in state if isinstance(state, tuple) else (state,):
                part.zero_()
            return self.rnn(second, state)
        if self.between == "shorter":
            return self.rnn(second[1:])
        if self.between == "fewer":
            return self.rnn(second[:, 1:])
        return self.rnn(second)


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("between", ["carried", "by name"])
def test_calls_that_carry_the_state_are_one_sequence(layer, between):
    x = torch.randn(8, 2, 3)
    core = find_core(Twice(between, layer), x)
    assert torch.equal(core.inputs, x)
    assert (core.calls, core.read) == (2, "along time")


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("between", ["nothing", "zeroed in place"])
def test_calls_that_do_not_carry_the_state_are_further_sequences(layer, between):
    x = torch.randn(8, 2, 3)
    core = find_core(Twice(between, layer), x)
    assert torch.equal(core.inputs, torch.cat(x.chunk(2), dim=1))
    assert "called 2 times in one forward pass, read as further sequences" in regime_of(core, 4, 0).words


def test_a_cell_that_two_sequences_take_turns_in_is_read_as_two():
    class Turns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(3, 5)

        def forward(self, x):
            states = [None, None]
            for u in x:
                states = [self.cell(part, state) for part, state in zip(u.chunk(2), states, strict=True)]
            return states

    x = torch.randn(6, 4, 3)
    core = find_core(Turns(), x)
    assert torch.equal(core.inputs, x)
    assert (core.calls, core.read) == (12, "as further sequences")


def test_how_often_a_cell_was_called_is_told():
    core = find_core(Stepper(nn.GRUCell(5, 7)), torch.randn(12, 2, 3))
    assert "called 12 times in one forward pass, read along time" in regime_of(core, 4, 0).words


@pytest.mark.parametrize(
    ("between", "told"),
    [("shorter", "runs of different lengths: 3, 4 steps"), ("fewer", "calls 'rnn' with different batch sizes: 1, 2")],
)
def test_calls_that_do_not_fit_together_are_refused(between, told):
    with pytest.raises(InputError, match=told):
        find_core(Twice(between), torch.randn(8, 2, 3))


def test_a_model_that_changes_the_state_between_the_calls_of_its_cell_is_refused():
    class Halving(Stepper):
        def forward(self, x):
            state = torch.zeros(x.shape[1], 7)
            for u in self.encode(x):
                state = 0.5 * self.cell(u, state)
            return state

    with pytest.raises(InputError, match=r"(?s)12 times, in 12 runs.*changes the state in between.*as a cell"):
        find_core(Halving(nn.GRUCell(5, 7)), torch.randn(12, 2, 3))


def test_a_state_that_is_masked_between_the_calls_is_one_that_no_call_returned():
    """Where every item is kept, the state goes on unchanged: runs of several steps, of different length."""

    class Masked(Stepper):
        def forward(self, x, mask):
            state = torch.zeros(x.shape[1], 7)
            for u, keep in zip(self.encode(x), mask, strict=True):
                state = keep * self.cell(u, state) + (1 - keep) * state
            return state

    mask = (torch.arange(6)[:, None, None] < torch.tensor([6, 3, 4])[:, None]).float()
    with pytest.raises(InputError, match=r"6 times, in 3 runs .*changes the state in between"):
        find_core(Masked(nn.GRUCell(5, 7)), (torch.randn(6, 3, 3), mask))


class Lowered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(2, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def test_what_was_exported_or_quantised_is_refused_as_such():
    x = torch.randn(4, 9, 2)
    exported = torch.export.export(Lowered().eval(), (x,)).module()
    quantised = Lowered()
    quantised.rnn = torch.ao.nn.quantized.dynamic.LSTM(2, 5)
    for model, told in ((exported, "computes aten.lstm"), (quantised, "computes a quantised LSTM at 'rnn'")):
        with pytest.raises(UnsupportedModuleError, match=f"{told}(?s:.*)Pass the module that it was made from"):
            sx.analyze(model, x, steps=50)


def test_an_unknown_name_is_answered_with_all_that_there_are():
    with pytest.raises(InputError, match="Its modules: rnn, head"):
        find_core(Lowered(), None, "nope")


def test_a_layer_with_a_forward_of_its_own_is_not_told_to_remove_a_hook():
    class Doubled(nn.LSTM):
        def forward(self, x, hx=None):
            return super().forward(2 * x, hx)

    with pytest.raises(UnsupportedModuleError, match=r"a forward of its own(?s:.*)\nWrite the step"):
        sx.Recurrent(Doubled(2, 3), torch.randn(9, 2))


def test_a_compiled_cell_is_refused_as_compiled():
    with pytest.raises(UnsupportedModuleError, match="is compiled by TorchScript and does not run in float64"):
        sx.Recurrent(torch.jit.script(nn.GRUCell(2, 3)), torch.randn(50, 2))


def test_more_steps_than_a_sequence_has_are_refused_with_what_analyze_takes():
    with pytest.raises(sx.errors.HorizonError, match=r"steps 50 = 50 .* the sequence has 1 step(?s:.*)several sequences"):
        sx.analyze(nn.GRU(2, 4, batch_first=True), torch.randn(1, 1, 2), steps=50)


def test_arguments_by_name_are_told_apart_by_name():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = LeakyCell()

        def forward(self, x):
            state = torch.zeros(x.shape[1], 7)
            for u in x:
                state = self.cell(state=state, u=u)
            return state

    x = torch.randn(12, 2, 5)
    core = find_core(Named(), x, module="cell")
    assert torch.equal(core.inputs, x)
    assert core.state.shape == (7,)


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (6, "the model's initial state is used for the finite-time exponents only"),
        (1200, "each starts from the initial state that the model supplies"),
    ],
)
def test_what_an_initial_state_of_the_models_own_is_used_for_is_told(length, told):
    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 5)
            self.start = nn.Parameter(torch.zeros(1, 1, 5))

        def forward(self, x):
            return self.rnn(x, self.start.expand(1, x.shape[1], 5).contiguous())

    model, x = Started(), torch.randn(length, 4, 3)
    assert "initial state" not in regime_of(find_core(model, x), 4, 0).words
    model.start.data.fill_(0.1)
    core = find_core(model, x)
    assert torch.equal(core.start, torch.full((4, 5), 0.1))
    assert told in regime_of(core, 4, 0).words


def test_a_cell_of_ones_own_that_is_the_model_takes_one_sequence_or_several():
    cell = LeakyCell()
    cell.input_size, cell.hidden_size = 5, 7
    x = torch.randn(300, 2, 5)
    assert torch.equal(find_core(cell, x).inputs, x)
    assert torch.equal(find_core(cell, x[:, 0]).inputs, x[:, :1])
    assert regime_of(find_core(cell, x[:, 0]), 4, 0).kind == "sequence"


def test_a_hooked_cell_is_captured_before_its_hook_and_measured_with_it():
    """The hook doubles the inputs; what is captured is not doubled, so that it is not doubled twice."""
    model, x = Stepper(nn.GRUCell(5, 7)), torch.randn(12, 2, 3)
    model.cell.register_forward_pre_hook(lambda _, given: (2 * given[0], *given[1:]))
    core = find_core(model, x)
    torch.testing.assert_close(core.inputs, model.encode(x))
    orbit = trajectory(along(core, core.inputs), torch.zeros(7), 12)
    torch.testing.assert_close(orbit[-1], model(x))


class OwnForward(nn.GRU):
    """A layer whose forward is its own."""

    def forward(self, input, hx=None):
        out, h = super().forward(input, hx)
        return 0.5 * out, 0.5 * h


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        (torch.tanh, None, UnsupportedModuleError, "expected an nn.Module, got tanh.*\nPass one module.*wrap"),
        ([nn.GRU(3, 5)], None, UnsupportedModuleError, "expected an nn.Module, got list.*wrap"),
        (nn.Sequential(OwnForward(3, 5)), torch.zeros(4, 3), UnsupportedModuleError, "OwnForward has a forward of its own"),
        (nn.Sequential(nn.GRU(3, 5, device="meta")), torch.zeros(4, 3), UnsupportedModuleError, "meta device"),
        (Reader(), np.array([["a", "b"]]), InputError, "cannot be read as numbers"),
        (Reader(), np.array([[None, 1]]), InputError, "expected tensors"),
        (Reader(), {"tokens": 1}, InputError, "tokens = 1"),
    ],
)
def test_what_is_no_model_or_no_numbers_is_refused_in_words(model, inputs, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        find_core(model, inputs)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_layer_of_ours_is_found_and_read_as_pytorch_s_are(batch_first):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Linear(3, 4)
            self.rnn = sx.nn.LEM(4, 6, 2, batch_first=batch_first)

        def forward(self, x):
            return self.rnn(self.encode(x), (torch.ones(2, 5, 6), torch.ones(2, 5, 6)))[0]

    model, x = Model(), torch.randn(5, 9, 3)
    core = find_core(model, x if batch_first else x.transpose(0, 1))
    assert (core.name, core.is_started, core.calls) == ("rnn", True, 1)
    assert torch.allclose(core.inputs, model.encode(x).transpose(0, 1))
    regime = regime_of(core, 3, 0)
    assert regime.kind == "stream" and regime.system.dim == 2 * 2 * 6
    assert along(core, core.inputs).horizon == 9


def test_a_cell_of_ours_in_a_loop_is_found_without_being_named():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = sx.nn.CoRNNCell(3, 7)

        def forward(self, x):
            state = None
            for u in x:
                state = self.cell(u, state)
            return state[0]

    core = find_core(Model(), torch.randn(9, 5, 3))
    assert (core.name, core.calls, core.read, core.inputs.shape) == ("cell", 9, "along time", (9, 5, 3))
    assert regime_of(core, 3, 0).system.dim == 14


def test_several_parts_of_ours_are_listed_but_not_the_cells_of_a_layer():
    model = nn.Sequential(sx.nn.CoRNN(3, 5, 2), nn.GRU(5, 5))
    with pytest.raises(UnsupportedModuleError, match="2 recurrent parts: 0 = CoRNN, 1 = GRU"):
        find_core(model, torch.randn(9, 5, 3))
