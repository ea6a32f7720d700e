"""Finding the recurrent part of a user's model, and what reaches it."""

import numpy as np
import pytest
import torch
from torch import nn

from separatrix.analyze.core import find_core
from separatrix.errors import InputError, ShapeError, UnsupportedModuleError


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
        (nn.GRU(3, 4), torch.zeros(0, 3), None, ShapeError, "empty"),
        (nn.GRU(3, 4), torch.full((5, 3), torch.nan), None, InputError, "15 numbers out of 15"),
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


def test_packed_sequences_are_refused_with_the_way_out():
    class Packing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(2, 3)

        def forward(self, x):
            return self.rnn(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2])))

    with pytest.raises(InputError, match="packed sequence"):
        find_core(Packing(), torch.zeros(4, 2, 2))
