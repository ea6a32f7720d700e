"""Event problems: items with initial conditions, start times and end times."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from separatrix.core.checks import as_numbers
from separatrix.core.errors import InputError, ShapeError


class Problem(NamedTuple):
    """Initial conditions, start times and end times. Items that cannot start are replaced by copies of one that can.

    Args:
        x0: shape (items, dim).
        begin, end: start and end times, shape (items), float64.
        given: mask of the items that were not replaced, shape (items).
        finite: mask of the items with a finite start, shape (items).
    """

    x0: Tensor
    begin: Tensor
    end: Tensor
    given: Tensor
    finite: Tensor

    @classmethod
    def of(cls, x0: Tensor, start: Any, stop: Any) -> "Problem":
        """The problem from the user's arguments, checked."""
        items = x0.reshape(-1, x0.shape[-1])
        begin, end = (times_of_items(name, value, x0) for name, value in (("start", start), ("end", stop)))
        finite = torch.isfinite(items).all(-1) & torch.isfinite(begin)
        if not bool(torch.isfinite(end).all()):
            raise InputError("expected a finite end time.\nPass the time up to which an event is searched.")
        late = finite & (end < begin)
        if bool(late.any()):
            raise InputError(
                f"expected end ≥ start, got end = {float(end[late][0]):g} and start = {float(begin[late][0]):g}.\n"
                "Both are times, not durations: pass end = start + duration."
            )
        given = finite & (end > begin)
        some = int(given.to(torch.int8).argmax()) if bool(given.any()) else None
        parts = (items, begin, end)
        blank = (torch.zeros_like(items[:1]), torch.zeros_like(begin[:1]), torch.ones_like(end[:1]))
        stand_in = blank if some is None else tuple(part[some : some + 1].detach() for part in parts)
        kept = (part.where(given.reshape(-1, *[1] * (part.ndim - 1)), other) for part, other in zip(parts, stand_in, strict=True))
        return cls(*kept, given, finite)


def times_of_items(name: str, value: Any, x0: Tensor) -> Tensor:
    """One time per item, float64, shape (items)."""
    batch = x0.shape[:-1]
    time = value if isinstance(value, Tensor) else as_numbers(name, value)
    time = time.to(x0.device, torch.float64)
    if time.ndim and time.shape != batch:
        raise ShapeError(
            f"{name} has shape {tuple(time.shape)}, but x0 has the batch {tuple(batch)}.\nPass one number, or one per item."
        )
    return time.expand(batch).reshape(-1)
