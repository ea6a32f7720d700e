"""The recurrent core of a model: the part, what reaches it, and how it is called."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from separatrix.core.errors import InputError
from separatrix.portrait.feedback import Feedback
from separatrix.systems.recurrent.standard_network import describe

NONE = Feedback("none")


@dataclass(frozen=True)
class Core:
    """The recurrent part of a model.

    Args:
        module: the part itself, in a form that `sx.Recurrent` takes.
        name: where in the model it sits; empty when the model is the core.
        inputs: what reaches it, shape (time, sequences, inputs), or None.
        lengths: (sequences), where sequences differ in length; those that are shorter are followed by zeros.
        start: (sequences, dim), the initial states that the model gives it, where they are not zero.
        state: for a cell that is not PyTorch's, an example of its state without batch axes.
        calls: how often one forward pass of the model called it.
        read: how those calls were put together: along time where the state was carried from one to the next, else as sequences.
        described: the part in words, where its form is not the user's.
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
        """The core in words: GRU(28 → 64) at 'encoder.rnn'."""
        return (self.described or describe(self.module)) + (f" at '{self.name}'" if self.name else "")

    @property
    def sequences(self) -> Tensor:
        """The inputs of a core that has any."""
        if self.inputs is None:
            raise InputError(f"nothing drives the {self.label}.")
        return self.inputs

    @property
    def is_started(self) -> bool:
        """Whether the model gives it an initial state that is not zero."""
        return self.start is not None
