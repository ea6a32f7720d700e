"""The recurrent core of a model: the part, its inputs, and how it is called."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from separatrix.core.errors import InputError
from separatrix.portrait.feedback import Feedback
from separatrix.systems.recurrent.standard_network import describe

NONE = Feedback("none")


@dataclass(frozen=True)
class Core:
    """Recurrent part of a model.

    Args:
        module: the part itself, in a form that `sx.Recurrent` takes.
        name: its name in the model; empty if the model is the core.
        inputs: the inputs that reach it, shape (time, sequences, inputs), or None.
        lengths: (sequences), the lengths of the sequences if they differ; shorter ones are padded with zeros.
        start: (sequences, dim), the initial states that the model supplies, if they are not zero.
        state: for a custom cell, an example of its state without batch axes.
        calls: number of its calls in one forward pass of the model.
        read: how these calls were combined: along time if the state was carried from one to the next, otherwise as sequences.
        described: description of the part, if its form is not the user's.
        feedback: whether its inputs depend on its own earlier states.
    """

    module: nn.Module
    name: str
    inputs: Tensor | None
    lengths: Tensor | None = None
    start: Tensor | None = None
    state: Any = None
    calls: int = 1
    read: Literal["along time", "as further sequences"] = "along time"
    described: str = ""
    feedback: Feedback = NONE

    @property
    def label(self) -> str:
        """A description of the core: GRU(28 → 64) at 'encoder.rnn'."""
        return (self.described or describe(self.module)) + (f" at '{self.name}'" if self.name else "")

    @property
    def sequences(self) -> Tensor:
        """The inputs; raises InputError if there are none."""
        if self.inputs is None:
            raise InputError(f"the {self.label} has no inputs.")
        return self.inputs

    @property
    def is_started(self) -> bool:
        """Whether the model supplies a nonzero initial state."""
        return self.start is not None
