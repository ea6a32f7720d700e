"""What is followed to an event: items that begin somewhere and some time, and end some time."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from separatrix.core.checks import as_numbers
from separatrix.core.errors import InputError, ShapeError


class Problem(NamedTuple):
    """Items that begin somewhere, some time, and end some time; those that cannot begin are stood in for by one that can.

    Args:
        x0: shape (items, dim).
        begin, end: times, shape (items), float64.
        given: which items are not stood in for.
        finite: which began at finite numbers.
    """

    x0: Tensor
    begin: Tensor
    end: Tensor
    given: Tensor
    finite: Tensor

    @classmethod
    def of(cls, x0: Tensor, start: Any, stop: Any) -> "Problem":
        """Of what users give."""
        items = x0.reshape(-1, x0.shape[-1])
        begin, end = (times_of_items(name, value, x0) for name, value in (("start", start), ("end", stop)))
        finite = torch.isfinite(items).all(-1) & torch.isfinite(begin)
        if not bool(torch.isfinite(end).all()):
            raise InputError("end is not finite; it is the time up to which an event is looked for.")
        late = finite & (end < begin)
        if bool(late.any()):
            raise InputError(
                f"end is {float(end[late][0]):g}, before the start at {float(begin[late][0]):g}.\n"
                "Both are times, not lengths of time: pass end=start + how long to look."
            )
        given = finite & (end > begin)
        some = int(given.to(torch.int8).argmax()) if bool(given.any()) else None
        parts = (items, begin, end)
        blank = (torch.zeros_like(items[:1]), torch.zeros_like(begin[:1]), torch.ones_like(end[:1]))
        stand_in = blank if some is None else tuple(part[some : some + 1].detach() for part in parts)
        kept = (part.where(given.reshape(-1, *[1] * (part.ndim - 1)), other) for part, other in zip(parts, stand_in, strict=True))
        return cls(*kept, given, finite)


def times_of_items(name: str, value: Any, x0: Tensor) -> Tensor:
    """A time of each item, float64, shape (items)."""
    batch = x0.shape[:-1]
    time = value if isinstance(value, Tensor) else as_numbers(name, value)
    time = time.to(x0.device, torch.float64)
    if time.ndim and time.shape != batch:
        raise ShapeError(
            f"{name} has shape {tuple(time.shape)}, but x0 has the batch {tuple(batch)}.\nPass a number, or one for each item."
        )
    return time.expand(batch).reshape(-1)
