"""Inputs of a core in the calls of a forward pass, as sequences: read, joined along time, and stacked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from separatrix.core.arguments import Arguments
from separatrix.core.errors import InputError, ShapeError
from separatrix.portrait.core import Core
from separatrix.portrait.recognition import is_batch_first, parameters, reads_sequences
from separatrix.portrait.recording import Call
from separatrix.portrait.runs import is_zero, same_state
from separatrix.systems.recurrent.recurrent import Recurrent
from separatrix.systems.recurrent.standard_network import describe


@dataclass(frozen=True)
class Sequences:
    """Sequences that reach a core, (time, sequences, inputs), and their lengths if they differ."""

    values: Tensor
    lengths: Tensor | None = None


@dataclass(frozen=True)
class Read:
    """Inputs of the core in one forward pass, and the initial states that it received, or None."""

    values: Tensor
    lengths: Tensor | None
    start: Tensor | None


def piece_of(core: nn.Module, part: nn.Module, values: Any) -> Sequences:
    """The inputs of one call, (time, sequences, inputs)."""
    if isinstance(values, PackedSequence):
        padded, lengths = pad_packed_sequence(values)
        return Sequences(padded, lengths)
    if not isinstance(values, Tensor):
        raise InputError(f"expected a tensor as the input of the core, got a {type(values).__name__}.")
    if reads_sequences(core):
        return Sequences(_time_first(core, part, values))
    if values.ndim not in (1, 2):
        raise ShapeError(
            f"the {describe(part)} receives inputs of shape {tuple(values.shape)}, {values.ndim} axes.\n"
            "The inputs of a cell must have shape (batch, inputs) or (inputs)."
        )
    return Sequences(values.reshape(1, -1, values.shape[-1]))


def _time_first(core: nn.Module, part: nn.Module, values: Tensor) -> Tensor:
    """The inputs of a recurrent layer, or of a cell step by step, as (time, sequences, inputs)."""
    if values.ndim not in (2, 3):
        raise ShapeError(
            f"the inputs have {values.ndim} axes, shape {tuple(values.shape)}, but a {describe(part)} takes 2 or 3.\n"
            "Pass (time, inputs), or with a batch axis where the module takes it."
        )
    if 0 in values.shape:
        raise ShapeError(f"the inputs are empty: shape {tuple(values.shape)}.")
    width = getattr(core, "input_size", None)
    if isinstance(width, int) and values.shape[-1] != width:
        raise ShapeError(
            f"the inputs have {values.shape[-1]} numbers per step but this {describe(part)} takes {width}.\n"
            f"Pass (time, {width}), or with a batch axis where the module takes it."
        )
    if values.ndim == 2:
        return values[:, None]
    return values.transpose(0, 1) if is_batch_first(core) else values


def joined(run_pieces: list[list[Sequences]]) -> tuple[Tensor, Tensor | None]:
    """The pieces of each run joined along time, with the runs stacked, and the lengths of packed sequences."""
    if any(piece.lengths is not None for run in run_pieces for piece in run):
        if any(len(run) > 1 for run in run_pieces):
            raise InputError(
                "the core reads packed sequences in several pieces that carry the state.\nPass each sequence in one piece."
            )
        singles = [run[0] for run in run_pieces]
        length = max(len(one.values) for one in singles)
        values = torch.cat([pad(one.values, (0, 0, 0, 0, 0, length - len(one.values))) for one in singles], dim=1)
        return values, torch.cat([_lengths(Read(one.values, one.lengths, None)) for one in singles])
    return torch.cat([torch.cat([piece.values for piece in run]) for run in run_pieces], dim=1), None


def check_pieces(name: str, runs: list[list[Call]], pieces: list[list[Sequences]]) -> None:
    """Raise an error for calls that are neither one run along time nor several runs of equal length."""
    batches = sorted({piece.values.shape[1] for run in pieces for piece in run})
    if len(batches) > 1:
        raise InputError(
            f"one forward pass calls '{name}' with different batch sizes: {listed(batches)}.\n"
            "Pass inputs for which all calls have the same batch size, such as sequences of equal length."
        )
    lengths = [sum(len(piece.values) for piece in run) for run in pieces]
    first = runs[0][0].state
    if len(runs) > 1 and any(not is_zero(run[0].state) and not same_state(run[0].state, first) for run in runs):
        raise InputError(
            f"one forward pass calls '{name}' {sum(map(len, runs))} times, in {len(runs)} runs that start from states that no call "
            "returned: the model changes the state in between.\n"
            "Write the whole step, including this change, as a cell (u, state) → state, and measure that."
        )
    if len(set(lengths)) > 1:
        raise InputError(
            f"one forward pass calls '{name}' for runs of different lengths: {listed(sorted(set(lengths)))} steps.\n"
            "Pass inputs for which they are equal, or measure the part by itself: sx.Recurrent(part, its inputs)."
        )


def merged(core: Core, passes: list[Read]) -> Core:
    """The core with the sequences of all passes stacked."""
    length = max(len(one.values) for one in passes)
    values = torch.cat([pad(one.values, (0, 0, 0, 0, 0, length - len(one.values))) for one in passes], dim=1)
    lengths = torch.cat([_lengths(one) for one in passes])
    started = any(one.start is not None for one in passes)
    start = torch.cat([_started(one, passes) for one in passes]) if started else None
    return replace(core, inputs=values, lengths=None if bool((lengths == length).all()) else lengths, start=start)


def _lengths(one: Read) -> Tensor:
    whole = torch.full((one.values.shape[1],), len(one.values))
    return whole if one.lengths is None else one.lengths


def _started(one: Read, passes: list[Read]) -> Tensor:
    """The initial states of a pass; zeros if it received none."""
    like = next(other.start for other in passes if other.start is not None)
    return like.new_zeros(one.values.shape[1], like.shape[-1]) if one.start is None else one.start


def read_by_itself(core: nn.Module, arguments: Arguments) -> Read:
    """The sequences, and the state if there is one, passed to a model that is its own core."""
    values = (*arguments.args, *arguments.kwargs.values())
    named = {name: values[i] for i, name in enumerate(parameters(core)[: len(values)])} if not arguments.kwargs else {}
    first = next(iter(named.values()), None) if named else values[0]
    read = piece_of(core, core, first) if isinstance(first, PackedSequence) else Sequences(_time_first(core, core, first))
    state = values[1] if len(values) > 1 else None
    start = None if state is None or is_zero(state) else packed(Recurrent(core), state)
    return Read(read.values, read.lengths, start)


def packed(system: Recurrent, state: Any) -> Tensor:
    """A module's state, alone or of several parts, as states of the system, (sequences, dim)."""
    parts = tuple(state) if isinstance(state, tuple | list) else (state,)
    return system.pack(*parts).reshape(-1, system.dim)


def listed(values: Sequence[object], most: int = 8) -> str:
    """The first values in words, separated by commas."""
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")
