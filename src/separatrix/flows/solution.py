"""What following an equation gives: states at the asked times, and how each item fared."""

import importlib
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from torch import Tensor

from separatrix.core.errors import InputError
from separatrix.core.result import Result
from separatrix.core.structure import Nested
from separatrix.flows.states import Form


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Followed(Result):
    """How the items of an initial value problem fared; the fields are those of `Solution`."""

    times: Tensor
    accepted: Tensor
    rejected: Tensor
    reached: Tensor
    why: tuple[str, ...] = ()

    layout: ClassVar[dict[str, str]] = {"times": "time batch", "accepted": "batch", "rejected": "batch", "reached": "batch"}
    units: ClassVar[dict[str, str]] = {"times": "time", "reached": "time"}

    def numbers_in_a_state(self) -> int:
        """How many there are."""
        raise NotImplementedError

    def summary(self) -> str:
        """The answer in words."""
        count = self.codes.numel()
        items = f"{count} solution{'s' if count > 1 else ''} of {self.numbers_in_a_state()} numbers"
        steps = f"{int(self.accepted.amin())} to {int(self.accepted.amax())}" if self.batch else f"{int(self.accepted)}"
        tried = f", {int(self.rejected.sum())} rejected in all" if self.rejected.any() else ""
        answer = f"{items} at {len(self.times)} times by {self.settings['method']}: {steps} steps{tried}; {self.ended()}."
        return "\n".join((answer, *self.why))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Solution(Followed):
    """The solution of an initial value problem at the asked times.

    Args:
        times: where it was asked, shape (times, *batch).
        states: shape (times, *batch, dim), differentiable; NaN from where an item failed.
        accepted: steps taken, shape (*batch).
        rejected: steps tried and not taken, shape (*batch).
        reached: the time up to which each item was followed, shape (*batch).
        why: of every kind of failure that there was, what happened and what to do, in words.
    """

    states: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.solution:solution_figure"
    layout: ClassVar[dict[str, str]] = {**Followed.layout, "states": "time batch state"}

    @property
    def last(self) -> Tensor:
        """The states at the last asked time, shape (*batch, dim)."""
        return self.states[-1]

    def numbers_in_a_state(self) -> int:
        """The length of the last axis."""
        return self.states.shape[-1]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StructuredSolution(Followed):
    """A `Solution` whose states are tuples, dictionaries, images or complex numbers, as x0 was.

    Args:
        vectors: the states packed, shape (times, *batch, dim).
        form: how they are packed; not saved, so that a solution that was loaded has vectors only.
    """

    vectors: Tensor
    form: Form | None = None

    layout: ClassVar[dict[str, str]] = {**Followed.layout, "vectors": "time batch state"}

    @classmethod
    def of(cls, found: Solution, form: Form) -> Self:
        """The same solution, in that form."""
        held = {f.name: getattr(found, f.name) for f in fields(found)}
        return cls(vectors=held.pop("states"), form=form, **held)

    @property
    def states(self) -> Nested:
        """As x0, each tensor with the axis of times in front; differentiable."""
        return self._form().unpack(self.vectors)

    @property
    def last(self) -> Nested:
        """The states at the last asked time, as x0."""
        return self._form().unpack(self.vectors[-1])

    def plot(self) -> Any:
        """The vectors over time."""
        return importlib.import_module("separatrix.plot.solution").solution_figure(self)

    def numbers_in_a_state(self) -> int:
        """The length of the packed vector."""
        return self.vectors.shape[-1]

    def _form(self) -> Form:
        if not isinstance(self.form, Form):
            raise InputError("this solution was loaded, and how its states were made up is not saved.\nRead its vectors.")
        return self.form
