"""Many states of a batch at once: which ones a field can be asked for together, and how they are laid out for it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.flow import Field
from separatrix.solvers.solver import Time

MOST = 4096  # states in one call: a hidden layer of 64 float64 numbers then fills two megabytes, which a cache holds

# Note [States together]
# The states of all steps are known once they have been taken, so what must be computed of each again is computed of many at once.
# A field that looks at nothing but a state and a time takes any of them, in any number: they are packed, and items that took few
# steps cost little. One with parameters of its own for each item, which broadcast, takes whole rows: several states of every item,
# on an axis in front. One that holds data of each item in any other way is asked for one row at a time. Which of these a field
# is, it is asked: by a number of states that is not the batch's, then by twice the batch.


class Items(Field):
    """A field on one batch axis, whatever the axes of the run.

    Args:
        field: any field.
        batch: the run's axes, to which rows of items are unfolded; None leaves the states as they come.
    """

    def __init__(self, field: Field, batch: tuple[int, ...] | None) -> None:
        super().__init__()
        self.field = field
        self.batch = batch

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity, (items, dim), in the dtype of the state."""
        return self.field(self._unfolded(x), self._unfolded(t)).reshape(x.shape).to(x.dtype)

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The field's own."""
        lead = self._unfolded(x).shape[:-1]
        value, pushed = self.field.pushforward(self._unfolded(x), v.reshape(*lead, *v.shape[1:]), self._unfolded(t))
        return value.reshape(x.shape).to(x.dtype), pushed.reshape(v.shape).to(v.dtype)

    def _unfolded(self, x: Time) -> Time:
        if self.batch is None or not isinstance(x, Tensor) or x.shape[:-1] == self.batch:
            return x
        rows = -1 if self.batch else len(x)
        lead = self.batch if len(x) == _count(self.batch) else (rows, *self.batch)
        return x.reshape(*lead, x.shape[-1])


@dataclass(frozen=True)
class Group:
    """States that are computed together.

    Args:
        field: what takes them.
        rows: the first of the rows and the one after the last.
        items: how many there are in a row.
        row, item: of each state, shape (states).
        kept: which of them were asked for; None for all.
    """

    field: Field
    rows: tuple[int, int]
    items: int
    row: Tensor
    item: Tensor
    kept: Tensor | None

    def of(self, along: Tensor) -> Tensor:
        """Entries of `along`, (rows, items, …)."""
        return along[self.row, self.item]

    def column(self, along: Tensor, like: Tensor) -> Tensor:
        """Entries of `along`, (rows, items), as a column in the dtype of `like`; 0 for what only fills."""
        found = self.of(along).to(like)
        return (found if self.kept is None else found.where(self.kept, 0.0))[:, None]

    def only(self, values: Tensor, otherwise: Tensor | float) -> Tensor:
        """The values, shape (states, dim), with something else for those that only fill."""
        return values if self.kept is None else values.where(self.kept[:, None], otherwise)

    def scattered(self, jacobians: Tensor) -> Tensor:
        """Matrices of the states, (states, dim, dim), as (rows, items, dim, dim); the identity where there is none."""
        first, end = self.rows
        identity = torch.eye(jacobians.shape[-1], dtype=jacobians.dtype, device=jacobians.device)
        if self.kept is not None:
            return jacobians.where(self.kept[:, None, None], identity).unflatten(0, (end - first, -1))
        found = identity.repeat(end - first, self.items, 1, 1)
        return found.index_put_((self.row - first, self.item), jacobians)


@dataclass(frozen=True)
class Together:
    """How many states a field takes at once. See Note [States together].

    Args:
        field: the field.
        batch: the run's axes.
        packs: it takes any states in any number.
        stacks: it takes several rows of the batch.
    """

    field: Field
    batch: tuple[int, ...]
    packs: bool
    stacks: bool

    @classmethod
    def probe(cls, field: Field, first: Tensor, batch: tuple[int, ...], x: Tensor, t: Tensor) -> "Together":
        """Ask a field, whose velocities at the states x, (items, dim), and the times t, (items), are `first`."""
        packs = not field.batch_shape and _takes(Items(field, None), first, x, t, 2 if len(x) == 3 else 3)
        return cls(field, batch, packs, packs or _takes(Items(field, batch), first, x, t, 2 * len(x)))

    def over(self, field: Field) -> "Together":
        """The same of a field that only has other numbers in it."""
        return Together(field, self.batch, self.packs, self.stacks)

    def groups(self, wanted: Tensor, *, most_rows: int | None = None) -> Iterator[Group]:
        """The wanted states, a mask of shape (rows, items), in groups of whole rows, the last ones first."""
        field = Items(self.field, None if self.packs else self.batch)
        items = wanted.shape[1]
        counts = (wanted.sum(1) if self.packs else wanted.any(1) * items).tolist()
        for first, end in _stretches(counts, MOST, most_rows if self.stacks else 1):
            if self.packs:
                row, item = wanted[first:end].nonzero(as_tuple=True)
                yield Group(field, (first, end), items, row + first, item, None)
            else:
                row = torch.arange(first, end, device=wanted.device).repeat_interleave(items)
                item = torch.arange(items, device=wanted.device).repeat(end - first)
                yield Group(field, (first, end), items, row, item, wanted[first:end].flatten())


def _stretches(counts: list[int], most: int, most_rows: int | None) -> Iterator[tuple[int, int]]:
    """Ranges of rows, from the last to the first, of at most so many states and rows, or of one row; those of none left out."""
    end = len(counts)
    while end:
        first, total = end - 1, counts[end - 1]
        while first and total + counts[first - 1] <= most and (most_rows is None or end - first < most_rows):
            first -= 1
            total += counts[first]
        if total:
            yield first, end
        end = first


@torch.no_grad()
def _takes(field: Items, first: Tensor, x: Tensor, t: Tensor, count: int) -> bool:
    """Whether a field gives each of `count` states, those of x over and over, the velocity that it has in the batch."""
    which = torch.arange(count, device=x.device) % len(x)
    try:
        found = field(x[which], t[which, None].to(x))
    except (RuntimeError, IndexError, ValueError):  # it holds data of other shapes: that is an answer
        return False
    wanted = first[which]
    scale = wanted.abs().nan_to_num().amax() * x.shape[-1]
    return bool(((found - wanted).abs() <= ROUNDING[x.dtype] * scale).logical_or(found.isnan()).all())


ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-10}  # what another order of summation may do, relative to the largest velocity


def _count(batch: tuple[int, ...]) -> int:
    return torch.Size(batch).numel()
