"""Batches of states: which of them a field can evaluate together, and in what layout."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from separatrix.flows.field import Field, WrappedField
from separatrix.flows.methods.solver import Slope, Time

MOST = 4096  # states per call: a hidden layer of 64 float64 numbers then fills two megabytes, which fit a cache

# Note [States together]
# After a run all states are known, so whatever must be recomputed at each state is computed for many of them at once. A field
# that depends only on a state and a time accepts any states in any number: they are packed, and items that took few steps cost
# little. A field with parameters for each item, which broadcast, accepts whole rows: several states of every item, along a
# leading axis. A field that holds data of each item in any other way is evaluated one row at a time. The kind of a field is
# tested near the start, at points that differ between items: with a few states out of order, then with two different rows, whose
# means differ too. A field whose velocities depend on the states of other items (a mean field, attention among items) passes that
# test; it is detected by moving some of the items, and evaluated one row at a time. Adaptive steps would mix its states at
# different times.


class Items(WrappedField):
    """A field on one batch axis, whatever the batch axes of the run; velocities have the dtype of the state.

    Args:
        field: any field.
        batch: the batch axes of the run, to which the item axis is unfolded; None leaves the states unchanged.
    """

    def __init__(self, field: Field, batch: tuple[int, ...] | None) -> None:
        super().__init__(field)
        self.batch = batch

    def inward(self, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        """States, (items, dim), and times, (items, 1), with the batch axes of the run; times without their last axis."""
        return self._unfolded(x), self._unfolded(t)[..., 0] if isinstance(t, Tensor) and t.ndim else t

    def outward(self, value: Tensor, like: Tensor) -> Tensor:
        """The value with one item axis again."""
        return value.reshape(like.shape).to(like.dtype)

    def _unfolded(self, x: Tensor) -> Tensor:
        if self.batch is None or x.shape[:-1] == self.batch:
            return x
        rows = -1 if self.batch else len(x)
        lead = self.batch if len(x) == _count(self.batch) else (rows, *self.batch)
        return x.reshape(*lead, x.shape[-1])


@dataclass(frozen=True)
class Group:
    """States that are computed together.

    Args:
        field: the field that evaluates them.
        rows: first row, and last row + 1.
        items: number of items in a row.
        row, item: indices of each state, shape (states).
        kept: mask of the states that are needed; None for all.
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
        """Entries of `along`, (rows, items), as a column in the dtype of `like`; 0 for padding."""
        found = self.of(along).to(like)
        return (found if self.kept is None else found.where(self.kept, 0.0))[:, None]

    def only(self, values: Tensor, otherwise: Tensor | float) -> Tensor:
        """The values, shape (states, dim), with something else in place of padding."""
        return values if self.kept is None else values.where(self.kept[:, None], otherwise)

    def scattered(self, jacobians: Tensor) -> Tensor:
        """Matrices of the states, (states, dim, dim), as (rows, items, dim, dim); the identity where there is no state."""
        first, end = self.rows
        identity = torch.eye(jacobians.shape[-1], dtype=jacobians.dtype, device=jacobians.device)
        if self.kept is not None:
            return jacobians.where(self.kept[:, None, None], identity).unflatten(0, (end - first, -1))
        found = identity.repeat(end - first, self.items, 1, 1)
        return found.index_put_((self.row - first, self.item), jacobians)


@dataclass(frozen=True)
class Together:
    """The states that a field accepts at once. See Note [States together].

    Args:
        field: the field.
        batch: the batch axes of the run.
        packs: it accepts any states in any number.
        stacks: it accepts several rows of the batch.
        mixes: the velocity of an item depends on the states of others.
    """

    field: Field
    batch: tuple[int, ...]
    packs: bool
    stacks: bool
    mixes: bool

    @classmethod
    @torch.no_grad()
    def probe(cls, field: Field, batch: tuple[int, ...], x: Tensor, times: Tensor) -> "Together":
        """Test a field near the states x, (items, dim), within the times, (times, items)."""
        flat, places, moments = Items(field, batch), near(x), within(times.to(x))
        try:
            here, there = (flat(place, t) for place, t in zip(places, moments, strict=True))
        except Exception:  # any error: the field does not accept columns of times, or other states
            return cls.alone(field, batch)
        x, t, both = (torch.cat(parts) for parts in (places, moments, (here, there)))
        few = _out_of_order(len(here), x.device)
        if not field.batch_shape and _takes(Items(field, None), x[few], t[few], both[few]):
            return cls(field, batch, True, True, False)
        mixes = mixed(flat, places, moments, (here, there))
        stacks = not mixes and _takes(flat, x, t, both)
        return cls(field, batch, False, stacks, mixes)

    @classmethod
    def alone(cls, field: Field, batch: tuple[int, ...]) -> "Together":
        """For a field that is only evaluated on its batch as it is."""
        return cls(field, batch, False, False, False)

    def over(self, field: Field) -> "Together":
        """The same for a field that differs only in its values."""
        return replace(self, field=field)

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
    """Ranges of rows, from last to first, of one row or of at most `most` states and `most_rows` rows; empty ones are skipped."""
    end = len(counts)
    while end:
        first, total = end - 1, counts[end - 1]
        while first and total + counts[first - 1] <= most and (most_rows is None or end - first < most_rows):
            first -= 1
            total += counts[first]
        if total:
            yield first, end
        end = first


def mixed(function: Slope, places: tuple[Tensor, Tensor], moments: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor]) -> bool:
    """Whether the value of an item depends on the states or times of others: tested by moving some of the items."""
    for some in _halves(len(places[0]), places[0].device):
        found = function(*(torch.where(some, *pair) for pair in (places, moments)))
        if not _same(found, values[0].where(some, values[1])):
            return True
    return False


def _takes(field: Items, x: Tensor, t: Tensor, wanted: Tensor) -> bool:
    """Whether a field returns the wanted velocities for these states."""
    try:
        return _same(field(x, t), wanted)
    except Exception:  # it holds data of other shapes, so it does not
        return False


def _same(found: Tensor, wanted: Tensor) -> bool:
    """Whether velocities agree up to the order of summation, where both are finite."""
    both = torch.isfinite(found) & torch.isfinite(wanted)
    scale = wanted.where(both, 0.0).abs().amax()
    return bool(((found - wanted).abs() <= ROUNDING[wanted.dtype] * scale).logical_or(~both).all())


def near(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two points near each of the states x, different for every number of every item."""
    count = torch.arange(x.numel(), dtype=x.dtype, device=x.device).reshape(x.shape)
    size = x.abs().amax()
    size = NEAR * size.where(size > 0, 1.0)
    return x + size * (1.7 * count + 1.0).cos(), x + size * (2.3 * count + 0.5).sin()


def _out_of_order(items: int, device: torch.device) -> Tensor:
    """A few of the states of both places, in another order and number than the items."""
    few = [items, *range(2 * items - 1, items, -1), 0][: 2 if items == 3 else 3]
    return torch.tensor(few, device=device)


def within(times: Tensor) -> tuple[Tensor, Tensor]:
    """Two times for every item, (items, 1) each, in the middle of the requested span; all different."""
    share = torch.arange(times.shape[1], dtype=times.dtype, device=times.device) * GOLDEN % 1.0
    first, last = times[0], times[-1]
    early, late = (torch.lerp(first, last, low + 0.2 * share)[:, None] for low in (0.2, 0.4))
    return early, late


def _halves(items: int, device: torch.device) -> list[Tensor]:
    """Masks of about half of the items, each (items, 1), such that nearly every two items are separated by one of them."""
    share = torch.arange(items, device=device)[:, None] * GOLDEN % 1.0
    return [(share * 2**bit).long() % 2 == 0 for bit in (1, 2, 3)] if items > 1 else []


ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-10}  # effect of another order of summation, relative to the largest velocity
NEAR = 0.1  # distance of the test points from the states, relative to the largest number of all states
GOLDEN = (5**0.5 - 1) / 2


def _count(batch: tuple[int, ...]) -> int:
    return torch.Size(batch).numel()
