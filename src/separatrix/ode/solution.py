"""What following an equation gives: states at the asked times, and how each item fared."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from separatrix.result import Result


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Solution(Result):
    """The solution of an initial value problem at the asked times.

    Args:
        times: where it was asked, shape (times, *batch).
        states: shape (times, *batch, dim), differentiable; NaN from where an item failed.
        accepted: steps taken, shape (*batch).
        rejected: steps tried and not taken, shape (*batch).
        reached: the time up to which each item was followed, shape (*batch).
        why: of every kind of failure that there was, what happened and what to do, in words.
    """

    times: Tensor
    states: Tensor
    accepted: Tensor
    rejected: Tensor
    reached: Tensor
    why: tuple[str, ...] = ()

    layout: ClassVar[dict[str, str]] = {
        "times": "time batch",
        "states": "time batch state",
        "accepted": "batch",
        "rejected": "batch",
        "reached": "batch",
    }
    units: ClassVar[dict[str, str]] = {"times": "time", "reached": "time"}

    @property
    def last(self) -> Tensor:
        """The states at the last asked time, shape (*batch, dim)."""
        return self.states[-1]

    def summary(self) -> str:
        """The answer in words."""
        count = self.codes.numel()
        items = f"{count} solution{'s' if count > 1 else ''} of {self.states.shape[-1]} numbers"
        steps = f"{int(self.accepted.amin())} to {int(self.accepted.amax())}" if self.batch else f"{int(self.accepted)}"
        tried = f", {int(self.rejected.sum())} rejected in all" if self.rejected.any() else ""
        answer = f"{items} at {len(self.times)} times by {self.settings['method']}: {steps} steps{tried}; {self.ended()}."
        return "\n".join((answer, *self.why))
