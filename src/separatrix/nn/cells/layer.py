"""Layers of cells that process sequences as PyTorch's recurrent layers do, and their single step as a cell."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from separatrix.core.checks import check_number, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.wording import counted
from separatrix.nn.cells.cell import OdeCell, Parts, State, as_parts, check_dtype, joined


class OdeLayer(nn.Module):
    """A stack of cells with the signature of `nn.GRU`, forward(input, hx) → (output, h_n), input (time, batch, input_size).

    The output is the first part (h or y) of the last layer, (time, batch, hidden_size). h_n holds the final states of all layers,
    (num_layers, batch, hidden_size), as a pair (y_n, z_n) if the state has two parts.

    Args:
        cells: cells of equal hidden size; the first reads the input.
        batch_first: use (batch, time, …) for input and output; h_n keeps its axes.
        dropout: probability of a zero between layers, in training.

    Raises:
        InputError: dropout is outside of [0, 1).
    """

    def __init__(self, cells: Sequence[OdeCell], *, batch_first: bool, dropout: float) -> None:
        check_number("dropout", dropout, 0, 1, "[)")
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.input_size, self.hidden_size, self.num_layers = cells[0].input_size, cells[0].hidden_size, len(cells)
        self.bias, self.batch_first, self.dropout = cells[0].bias, batch_first, dropout

    def forward(self, input: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        """The output of the last layer at every step, and the final state of all layers; hx defaults to zero."""
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
        """One step of all layers, (input, state) → state, sharing the weights."""
        return StackedCell(self)

    def zero_state(self, batch: tuple[int, ...] = ()) -> State:
        """The zero initial state, (num_layers, *batch, hidden_size) per part."""
        return self.stacked([as_parts(cell.zero_state(batch)) for cell in self.cells])

    def split(self, state: State) -> list[Parts]:
        """The parts of each layer."""
        return list(zip(*(part.unbind(0) for part in as_parts(state)), strict=True))

    def stacked(self, states: Sequence[Parts]) -> State:
        """The inverse of `split`."""
        return joined(tuple(torch.stack(part) for part in zip(*states, strict=True)))

    def _check(self, input: Tensor | PackedSequence) -> None:
        if isinstance(input, PackedSequence):
            raise InputError(
                f"{type(self).__name__} expects a tensor, got a PackedSequence.\n"
                "Pad the sequences and read each output at its own length; later steps do not affect earlier outputs."
            )
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size or not self._length(input):
            batched = f"(batch, time, {self.input_size})" if self.batch_first else f"(time, batch, {self.input_size})"
            raise ShapeError(
                f"{type(self).__name__} expects inputs of shape {batched} or (time, {self.input_size}), got {tuple(input.shape)}."
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
            count = counted(self.cells[0].parts, "tensor")
            raise ShapeError(f"{type(self).__name__} expects a state of {count} of shape {wanted}, got {shapes}.")
        for part in parts:
            check_dtype(self.cells[0], "a state", part)
        return hx

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        said = [f"{self.input_size}, {self.hidden_size}", f"num_layers={self.num_layers}"]
        return ", ".join(said + ["batch_first=True"] * self.batch_first + [f"dropout={self.dropout:g}"] * (self.dropout > 0))


class StackedCell(nn.Module):
    """One step of all cells of a layer, without dropout; the state has the shape of h_n, (num_layers, *batch, hidden_size).

    Args:
        layer: the layer, whose weights are shared.
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
        """The state of all layers a step later and its tangents, (num_layers, *batch, k, hidden_size)."""
        after, pushed, moved = [], [], None
        for cell, own, v in zip(self.layer.cells, self.layer.split(state), self.layer.split(tangents), strict=True):
            new, w = cell.pushforward(input, joined(own), joined(v), moved)
            after.append(as_parts(new))
            pushed.append(as_parts(w))
            input, moved = after[-1][0], pushed[-1][0]
        return self.layer.stacked(after), self.layer.stacked(pushed)

    def example_state(self) -> State:
        """A state without batch axes, as `sx.Recurrent` requires."""
        return self.layer.zero_state()


def run(cell: OdeCell, sequence: Tensor, state: Parts) -> tuple[Tensor, Parts]:
    """A cell along a sequence (time, *batch, input_size): the first part after every step, and the final state."""
    matrices, outputs = cell.matrices(), []
    for drive in cell.drive(sequence).unbind(0):
        state = cell.step(drive, state, matrices)
        outputs.append(state[0])
    return torch.stack(outputs), state


def layers_of(make: Callable[[int], OdeCell], input_size: int, hidden_size: int, num_layers: int) -> list[OdeCell]:
    """The cells of a stack: the first reads the input, each other cell reads the one below."""
    check_whole("num_layers", num_layers, 1, error=ShapeError)
    return [make(input_size if i == 0 else hidden_size) for i in range(num_layers)]
