"""Solutions: states at the requested times, and how each item ended."""

import importlib
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from torch import Tensor

from separatrix.core.errors import InputError
from separatrix.core.result import Result, Status
from separatrix.core.structure import Nested
from separatrix.flows.states import Form


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Followed(Result):
    """Base of solutions. See `Solution` for the fields."""

    times: Tensor
    accepted: Tensor
    rejected: Tensor
    reached: Tensor
    why: tuple[str, ...] = ()

    layout: ClassVar[dict[str, str]] = {"times": "time batch", "accepted": "batch", "rejected": "batch", "reached": "batch"}
    units: ClassVar[dict[str, str]] = {"times": "time", "reached": "time"}

    def numbers_in_a_state(self) -> int:
        """Numbers in one state."""
        raise NotImplementedError

    def _remedy(self, status: Status) -> str:
        return "\n".join(self.why) or self.summary()

    def summary(self) -> str:
        count = self.codes.numel()
        items = f"{count} solution{'s' if count > 1 else ''} of {self.numbers_in_a_state()} numbers"
        steps = f"{int(self.accepted.amin())} to {int(self.accepted.amax())}" if self.batch else f"{int(self.accepted)}"
        tried = f", {int(self.rejected.sum())} rejected in all" if self.rejected.any() else ""
        answer = f"{items} at {len(self.times)} times by {self.settings['method']}: {steps} steps{tried}; {self.ended()}."
        return "\n".join((answer, *self.why))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Solution(Followed):
    """The solution of an initial value problem at the requested times.

    Args:
        times: the requested times, shape (times, *batch).
        states: shape (times, *batch, dim), differentiable; NaN from the time at which an item failed.
        accepted: number of accepted steps, shape (*batch).
        rejected: number of rejected steps, shape (*batch).
        reached: the time that each item reached, shape (*batch).
        why: for each kind of failure, a sentence that says what happened and what to do.
    """

    states: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.solution:solution_figure"
    layout: ClassVar[dict[str, str]] = {**Followed.layout, "states": "time batch state"}

    @property
    def last(self) -> Tensor:
        """The states at the last time, shape (*batch, dim)."""
        return self.states[-1]

    def numbers_in_a_state(self) -> int:
        return self.states.shape[-1]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StructuredSolution(Followed):
    """A `Solution` whose states are tuples, dictionaries, images or complex numbers, as x0 was.

    Args:
        vectors: the states packed, shape (times, *batch, dim).
        form: how they are packed. It is not saved: a loaded solution has `vectors` only.
    """

    vectors: Tensor
    form: Form | None = None

    layout: ClassVar[dict[str, str]] = {**Followed.layout, "vectors": "time batch state"}

    @classmethod
    def of(cls, found: Solution, form: Form) -> Self:
        """The same solution, with states of that form."""
        held = {f.name: getattr(found, f.name) for f in fields(found)}
        return cls(vectors=held.pop("states"), form=form, **held)

    @property
    def states(self) -> Nested:
        """The states in the form of x0, each tensor with a leading time axis; differentiable."""
        return self._form().unpack(self.vectors)

    @property
    def last(self) -> Nested:
        """The states at the last time, in the form of x0."""
        return self._form().unpack(self.vectors[-1])

    def plot(self) -> Any:
        """A figure of the packed states over time."""
        return importlib.import_module("separatrix.plot.solution").solution_figure(self)

    def numbers_in_a_state(self) -> int:
        return self.vectors.shape[-1]

    def _form(self) -> Form:
        if not isinstance(self.form, Form):
            raise InputError("the form of the states is not saved, and this solution was loaded.\nRead `vectors`.")
        return self.form
