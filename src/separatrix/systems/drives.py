"""Inputs as functions of the step: a sequence, a constant, an endless stream of sequences."""

from typing import Any

import torch
from torch import Tensor

from separatrix.errors import HorizonError, InputError, ShapeError
from separatrix.inputs import as_inputs
from separatrix.randomness import Draws
from separatrix.system import Parametric


class Drive(Parametric):
    """An input u(n), shape (*batch, inputs), for n = 0, 1, … horizon − 1 (None: without end)."""

    horizon: int | None = None

    def forward(self, n: int) -> Tensor:
        """The input of step n."""
        raise NotImplementedError


class Constant(Drive):
    """The same input at every step.

    Args:
        value: shape (*batch, inputs).
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.hold(rank=1, value=value)

    value: Tensor

    def forward(self, n: int) -> Tensor:
        """The value."""
        return self.value


class Sequential(Drive):
    """One input sequence for each batch item; it ends.

    Args:
        values: shape (time, *batch, inputs).
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
                f"step {n} was asked but the inputs have {self.horizon} steps.\nGive longer inputs, or an sx.Stream."
            )
        return self.values[n]


class Stream(Drive):
    r"""An endless random stream of a data set's sequences, one after the other: a stationary drive.

    Each copy reads a sequence drawn uniformly with replacement, then another, the network's state carried over. Step n's input
    is a function of n and the seed, so a run can be replayed.

    Args:
        sequences: shape (count, time, inputs).
        copies: how many independent streams, the run's batch.
        seed: of the draws.

    Raises:
        ShapeError: the sequences have another rank, or one of the axes is empty.
    """

    def __init__(self, sequences: Any, copies: int = 16, seed: int = 0) -> None:
        super().__init__()
        sequences = as_inputs(sequences, "the sequences")
        if sequences.ndim != 3 or 0 in sequences.shape:
            raise ShapeError(f"a stream needs sequences of shape (count, time, inputs), not {tuple(sequences.shape)}.")
        if copies < 1:
            raise InputError(f"a stream has at least 1 copy, not {copies}.")
        self.register_buffer("sequences", sequences, persistent=False)
        self.copies = copies
        self.seed = seed
        self._drawn: tuple[int, Tensor] | None = None

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(copies,)."""
        return (self.copies,)

    def forward(self, n: int) -> Tensor:
        """The inputs of step n, shape (copies, inputs)."""
        place, t = divmod(n, self.sequences.shape[1])
        return self.sequences[self.draw(place), t]

    def draw(self, place: int) -> Tensor:
        """Which sequence each copy reads in the given place of its stream, shape (copies,)."""
        drawn = self._drawn
        if drawn is None or drawn[0] != place:
            index = Draws(self.seed, "stream", place).integers(len(self.sequences), self.copies)
            self.__dict__["_drawn"] = drawn = (place, index.to(self.sequences.device))
        return drawn[1]


class Shared(Drive):
    """The inputs of another drive, read alike by every network of an ensemble: an axis of length 1 after the batch's.

    Args:
        drive: any drive.
    """

    def __init__(self, drive: Drive) -> None:
        super().__init__()
        self.drive = drive
        self.horizon = drive.horizon

    @property
    def batch_shape(self) -> torch.Size:
        """The drive's batch axes, and one for the networks."""
        return torch.Size((*self.drive.batch_shape, 1))

    def forward(self, n: int) -> Tensor:
        """The n-th input, shape (*batch, 1, inputs)."""
        return self.drive(n).unsqueeze(-2)


class First(Drive):
    """The inputs of another drive's first copy, without a batch axis.

    Args:
        drive: any drive with one batch axis.
    """

    def __init__(self, drive: Drive) -> None:
        super().__init__()
        self.drive = drive
        self.horizon = drive.horizon

    @property
    def batch_shape(self) -> torch.Size:
        """None: one drive."""
        return torch.Size()

    def forward(self, n: int) -> Tensor:
        """The n-th input, shape (inputs)."""
        return self.drive(n)[0]
