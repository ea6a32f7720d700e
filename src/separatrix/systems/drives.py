"""Inputs as functions of the step: a sequence, a constant, or an endless stream of sequences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, unpack_sequence

from separatrix.core.checks import as_inputs, check_whole
from separatrix.core.errors import HorizonError, InputError, ShapeError
from separatrix.core.parametric import Parametric
from separatrix.core.randomness import Draws

END = 2**63 - 1  # later than any step

# Note [Sequences of unequal length]
# If all sequences have one length T, step n of every copy lies in place n // T of its stream. Otherwise each copy keeps its own
# count: place p starts at the sum of the lengths of the sequences drawn for the places before it. The starts are stored as far
# as they have been needed, so that going back is a search and going on costs one draw per sequence.


class Drive(Parametric):
    """Input u(n) as a function of the step, shape (*batch, inputs), for n = 0, 1, … horizon − 1; endless if horizon is None."""

    horizon: int | None = None

    def forward(self, n: int) -> Tensor:
        """The input of step n."""
        raise NotImplementedError


class Constant(Drive):
    """Constant input, the same at every step.

    Args:
        value: the input, shape (*batch, inputs).
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.hold(rank=1, constant=value)

    constant: Tensor

    def forward(self, n: int) -> Tensor:
        """The value."""
        return self.constant


class Sequential(Drive):
    """Finite input sequence, one per batch item.

    Args:
        values: the sequences, shape (time, *batch, inputs).
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values, persistent=False)
        self.horizon = len(values)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The sequences' batch axes."""
        return tuple(self.values.shape[1:-1])

    values: Tensor

    def forward(self, n: int) -> Tensor:
        """The n-th input."""
        if n >= self.horizon:
            raise HorizonError(
                f"step {n} was requested, but the inputs have {self.horizon} steps.\nPass longer inputs, or an sx.Stream."
            )
        return self.values[n]


class Stream(Drive):
    r"""Endless random stream of a data set's sequences, one after the other: a stationary drive.

    Each copy reads a sequence drawn uniformly with replacement to its end, then draws the next one; the state of the network is
    carried over. The input of step n is a function of n and the seed, so a run can be replayed. The sequences may differ in length.

    Args:
        sequences: shape (count, time, inputs); a list of sequences (time, inputs) of any lengths; or a `PackedSequence`.
        copies: number of independent streams, the batch of the run.
        seed: seed of the draws.
        lengths: for padded sequences, shape (count, time, inputs): the number of steps of each. Padding is ignored and may be NaN.

    Raises:
        ShapeError: the sequences have the wrong rank, differ in the number of inputs per step, or have an empty axis.
        InputError: a length is out of range, or an input is not finite.

    Example:
        >>> stream = sx.Stream(torch.randn(10, 20, 3), copies=4)
        >>> stream(1_000).shape, torch.equal(stream(1_000), stream(1_000))
        (torch.Size([4, 3]), True)
    """

    def __init__(self, sequences: Any, copies: int = 16, seed: int = 0, *, lengths: Any = None) -> None:
        super().__init__()
        parts = sequence_list(sequences, lengths)
        check_whole("copies", copies, 1)
        self.register_buffer("values", torch.cat(parts), persistent=False)
        self.lengths = torch.tensor([len(part) for part in parts])
        self.copies = copies
        self.seed = seed
        self._drawn: tuple[int, Tensor] | None = None
        self._length = len(parts[0]) if len({len(part) for part in parts}) == 1 else None
        self._course = _Course(copies, self.lengths)

    values: Tensor

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(copies,)."""
        return (self.copies,)

    @property
    def sequences(self) -> list[Tensor]:
        """The sequences, each (time, inputs)."""
        return list(self.values.split(self.lengths.tolist()))

    def forward(self, n: int) -> Tensor:
        """The inputs of step n, shape (copies, inputs)."""
        if self._length is not None:
            place, t = divmod(n, self._length)
            return self.values.unflatten(0, (-1, self._length))[self.draw(place), t]
        return self.values[self._course.rows(n, self.draw).to(self.values.device)]  # See Note [Sequences of unequal length]

    def draw(self, place: int) -> Tensor:
        """Index of the sequence that each copy reads in the given place of its stream, shape (copies,)."""
        drawn = self._drawn
        if drawn is None or drawn[0] != place:
            index = Draws(self.seed, "stream", place).integers(len(self.lengths), self.copies)
            self.__dict__["_drawn"] = drawn = (place, index.to(self.values.device))
        return drawn[1]


class _Course:
    """The steps at which the copies of a stream start their sequences, as needed. See Note [Sequences of unequal length].

    Args:
        copies: number of copies.
        lengths: lengths of the sequences, which are concatenated along the rows.
    """

    def __init__(self, copies: int, lengths: Tensor) -> None:
        self.lengths = lengths
        self.places = 0  # number of known places
        self.index = torch.zeros(copies, 1, dtype=torch.long)
        self.starts = torch.full((copies, 1), END)
        self.next = torch.zeros(copies, dtype=torch.long)  # the step at which the first unknown place starts
        self.current = (0, 0, self.next)  # first step, end, and the value of row − step between them

    def rows(self, n: int, draw: Callable[[int], Tensor]) -> Tensor:
        """The row that each copy reads at step n, shape (copies,)."""
        first, end, ahead = self.current
        if not first <= n < end:
            while int(self.next.min()) <= n:
                self._go_on(draw(self.places).cpu())
            place = torch.searchsorted(self.starts, torch.full((len(self.starts), 1), n), right=True) - 1
            index, start = self.index.gather(1, place)[:, 0], self.starts.gather(1, place)[:, 0]
            ahead = (self.lengths.cumsum(0) - self.lengths)[index] - start
            self.current = (int(start.max()), int((start + self.lengths[index]).min()), ahead)
        return ahead + n

    def _go_on(self, index: Tensor) -> None:
        """Add one place for every copy."""
        if self.places == self.starts.shape[1]:
            self.index = torch.cat([self.index, torch.zeros_like(self.index)], dim=1)
            self.starts = torch.cat([self.starts, torch.full_like(self.starts, END)], dim=1)
        self.index[:, self.places], self.starts[:, self.places] = index, self.next
        self.next = self.next + self.lengths[index]
        self.places += 1


class Shared(Drive):
    """Inputs of another drive, shared by every network of an ensemble: adds an axis of length 1 after the batch axes.

    Args:
        drive: any drive.
    """

    def __init__(self, drive: Drive) -> None:
        super().__init__()
        self.drive = drive
        self.horizon = drive.horizon

    @property
    def batch_shape(self) -> torch.Size:
        """The drive's batch axes, and an axis for the networks."""
        return torch.Size((*self.drive.batch_shape, 1))

    def forward(self, n: int) -> Tensor:
        """The n-th input, shape (*batch, 1, inputs)."""
        return self.drive(n).unsqueeze(-2)


class First(Drive):
    """Inputs of the first copy of another drive, without a batch axis.

    Args:
        drive: any drive with one batch axis.
    """

    def __init__(self, drive: Drive) -> None:
        super().__init__()
        self.drive = drive
        self.horizon = drive.horizon

    @property
    def batch_shape(self) -> torch.Size:
        """Empty: a single input."""
        return torch.Size()

    def forward(self, n: int) -> Tensor:
        """The n-th input, shape (inputs)."""
        return self.drive(n)[0]


def sequence_list(sequences: Any, lengths: Any = None) -> list[Tensor]:
    """A list of sequences (time, inputs), from a padded tensor with lengths, a list, or a packed sequence."""
    if isinstance(sequences, Tensor) and sequences.is_nested:
        sequences = list(sequences.unbind())
    if isinstance(sequences, PackedSequence) or is_listed(sequences):
        if lengths is not None:
            raise InputError("lengths cannot be combined with a list of sequences or a packed sequence.\nOmit lengths.")
        listed = unpack_sequence(sequences) if isinstance(sequences, PackedSequence) else sequences
        parts = [as_inputs(f"sequence {i}", part) for i, part in enumerate(listed)]
        _check_parts(parts)
        return parts
    padded = torch.as_tensor(sequences) if lengths is not None else as_inputs("the sequences", sequences)
    if padded.ndim != 3 or 0 in padded.shape:
        raise ShapeError(
            f"expected sequences of shape (count, time, inputs), got {tuple(padded.shape)}.\n"
            "Pass sequences of unequal length as a list, each (time, inputs)."
        )
    if lengths is None:
        return list(padded)
    cut = [sequence[:length] for sequence, length in zip(padded, _checked(lengths, padded), strict=True)]
    return [as_inputs(f"sequence {i}", part) for i, part in enumerate(cut)]


def is_listed(values: Any) -> bool:
    """Whether a value is a list or tuple of sequences, each (time, inputs), rather than of numbers or rows."""
    if not isinstance(values, list | tuple):
        return False
    return any(isinstance(part, Tensor | np.ndarray) and part.ndim > 1 for part in values) or _is_ragged(values)


def _is_ragged(values: Any) -> bool:
    """Whether nested lists of numbers are sequences of unequal length."""
    try:
        widths = {len(row) for part in values for row in part}
        return len({len(part) for part in values}) > 1 and len(widths) == 1
    except TypeError:  # numbers, which have no length
        return False


def _check_parts(parts: list[Tensor]) -> None:
    for i, part in enumerate(parts):
        if part.ndim != 2 or 0 in part.shape:
            raise ShapeError(f"sequence {i} has shape {tuple(part.shape)}; expected (time, inputs).")
        if part.shape[1] != parts[0].shape[1]:
            raise ShapeError(
                f"sequence {i} has {part.shape[1]} numbers per step, but sequence 0 has {parts[0].shape[1]}.\n"
                "All sequences of a stream must have the same number."
            )


def _checked(lengths: Any, padded: Tensor) -> list[int]:
    """The lengths of padded sequences: one integer for each, from 1 to the padded length."""
    count, most, _ = padded.shape
    given = torch.as_tensor(lengths).reshape(-1).tolist()
    if len(given) != count:
        raise InputError(f"expected one length for each of the {count} sequences, got {len(given)}.")
    wrong = next((length for length in given if length != int(length) or not 1 <= length <= most), None)
    if wrong is not None:
        raise InputError(f"a length is {wrong}, but the padded sequences have {most} steps; expected an integer 1 … {most}.")
    return [int(length) for length in given]
