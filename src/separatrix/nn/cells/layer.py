"""Layers of cells: read a whole sequence, as PyTorch's recurrent layers do; and their single step, as a cell."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from separatrix.core.errors import InputError, ShapeError
from separatrix.nn.cells.cell import OdeCell, Parts, State, as_parts, check_dtype, check_size, joined


class OdeLayer(nn.Module):
    """Cells upon each other, reading (time, batch, inputs), as `nn.GRU`: forward(input, hx) → (output, h_n).

    Output is the last layer's first part (h, or y), (time, batch, hidden). h_n is each layer's last state, (layers, batch, hidden),
    a pair (y_n, z_n) of them where the state has two parts.

    Args:
        cells: of one hidden size, the first of which reads the input.
        batch_first: read and return (batch, time, …); h_n keeps its axes.
        dropout: probability of a zero in what a layer gives the next one, in training.
    """

    def __init__(self, cells: Sequence[OdeCell], *, batch_first: bool, dropout: float) -> None:
        if not 0 <= dropout < 1:
            raise InputError(f"dropout is a probability from 0 to below 1, not {dropout}.")
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.input_size, self.hidden_size, self.num_layers = cells[0].input_size, cells[0].hidden_size, len(cells)
        self.bias, self.batch_first, self.dropout = cells[0].bias, batch_first, dropout

    def forward(self, input: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        """What the last layer gives at every step, and the state of all after the last; it begins at hx, or at zero."""
        self._check(input)
        sequence = input.transpose(0, 1) if self.batch_first and input.ndim == 3 else input
        states = self.split(self._start(sequence) if hx is None else self._checked(hx, sequence))
        after = []
        for i, (cell, state) in enumerate(zip(self.cells, states, strict=True)):
            if i > 0:
                sequence = nn.functional.dropout(sequence, self.dropout, self.training)
            sequence, state = run(cell, sequence, state)
            after.append(state)
        output = sequence.transpose(0, 1) if self.batch_first and input.ndim == 3 else sequence
        return output, self.stacked(after)

    def as_cell(self) -> "StackedCell":
        """One step of all layers, (input, state) → state, with this layer's own weights."""
        return StackedCell(self)

    def zero_state(self, batch: tuple[int, ...] = ()) -> State:
        """Where a sequence begins, each part (layers, *batch, hidden)."""
        return self.stacked([as_parts(cell.zero_state(batch)) for cell in self.cells])

    def split(self, state: State) -> list[Parts]:
        """Each layer's parts."""
        return list(zip(*(part.unbind(0) for part in as_parts(state)), strict=True))

    def stacked(self, states: Sequence[Parts]) -> State:
        """The inverse of `split`."""
        return joined(tuple(torch.stack(part) for part in zip(*states, strict=True)))

    def _check(self, input: Tensor | PackedSequence) -> None:
        if isinstance(input, PackedSequence):
            raise InputError(
                f"{type(self).__name__} takes no packed sequence.\n"
                "Pad the sequences, and read each output at its own length: what comes later changes nothing before."
            )
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size or not self._length(input):
            batched = f"(batch, time, {self.input_size})" if self.batch_first else f"(time, batch, {self.input_size})"
            raise ShapeError(
                f"{type(self).__name__} takes inputs of shape {batched} or (time, {self.input_size}), not {tuple(input.shape)}."
            )
        check_dtype(self.cells[0], "an input", input)

    def _length(self, input: Tensor) -> int:
        return input.shape[1 if self.batch_first and input.ndim == 3 else 0]

    def _start(self, sequence: Tensor) -> State:
        return self.zero_state(sequence.shape[1:-1])

    def _checked(self, hx: State, sequence: Tensor) -> State:
        wanted = (self.num_layers, *sequence.shape[1:-1], self.hidden_size)
        parts = as_parts(hx)
        if len(parts) != self.cells[0].parts or any(part.shape != wanted for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            whole = f"{self.cells[0].parts} of shape {wanted}"
            raise ShapeError(f"{type(self).__name__}'s state is tensors, {whole} with this input, not {shapes}.")
        for part in parts:
            check_dtype(self.cells[0], "a state", part)
        return hx

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        said = [f"{self.input_size}, {self.hidden_size}", f"num_layers={self.num_layers}"]
        return ", ".join(said + ["batch_first=True"] * self.batch_first + [f"dropout={self.dropout:g}"] * (self.dropout > 0))


class StackedCell(nn.Module):
    """One step of a layer's cells, each reading what the one before gives; the state as the layer's h_n, (layers, *batch, hidden).

    Args:
        layer: whose cells, in evaluation mode: without dropout.
    """

    def __init__(self, layer: OdeLayer) -> None:
        super().__init__()
        self.layer = layer
        self.input_size, self.hidden_size = layer.input_size, layer.hidden_size

    def forward(self, input: Tensor, state: State) -> State:
        """The state of all layers a step later."""
        after = []
        for cell, own in zip(self.layer.cells, self.layer.split(state), strict=True):
            after.append(cell.step(cell.drive(input), own, cell.matrices()))
            input = after[-1][0]
        return self.layer.stacked(after)

    def pushforward(self, input: Tensor, state: State, tangents: State) -> tuple[State, State]:
        """The state of all layers a step later and its tangents, (layers, *batch, k, hidden)."""
        after, pushed, moved = [], [], None
        for cell, own, v in zip(self.layer.cells, self.layer.split(state), self.layer.split(tangents), strict=True):
            new, w = cell.pushforward(input, joined(own), joined(v), moved)
            after.append(as_parts(new))
            pushed.append(as_parts(w))
            input, moved = after[-1][0], pushed[-1][0]
        return self.layer.stacked(after), self.layer.stacked(pushed)

    def example_state(self) -> State:
        """A state without batch axes: what `sx.Recurrent` asks for."""
        return self.layer.zero_state()


def run(cell: OdeCell, sequence: Tensor, state: Parts) -> tuple[Tensor, Parts]:
    """A cell along a sequence, (time, *batch, inputs): the first part after every step, and all after the last."""
    matrices, outputs = cell.matrices(), []
    for drive in cell.drive(sequence).unbind(0):
        state = cell.step(drive, state, matrices)
        outputs.append(state[0])
    return torch.stack(outputs), state


def layers_of(make: Callable[[int], OdeCell], input_size: int, hidden_size: int, num_layers: int) -> list[OdeCell]:
    """The cells of a stack: the first reads the input, each other one the layer below."""
    check_size("num_layers", num_layers)
    return [make(input_size if i == 0 else hidden_size) for i in range(num_layers)]
