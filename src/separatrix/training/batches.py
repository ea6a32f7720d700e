"""The data of each step as a function of the step."""

import functools
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.randomness import Draws
from separatrix.core.structure import mapped

ORDERS = 4  # orders of epochs that are kept


class Batches(nn.Module):
    r"""Mini-batches without replacement: step n takes batch i of epoch e,  n = e · per_epoch + i,  in an order of the epoch's own.

    A pure function of the step and the seed: `batches(n)` returns the inputs and targets of step n, in your own loop as in
    `sx.Training`. The last batch of an epoch holds what is left, as in a `DataLoader`.

    Args:
        inputs: what the model takes: a tensor, a tuple of positional arguments, or a dictionary of keyword arguments. The items
            are along axis 0 of every tensor.
        targets: what the loss takes beside the outputs: a tensor, or tensors in containers.
        size: number of items in a batch. If it is that of the data, each step takes all of them, in their order.
        seed: seed of the orders.
        first: number of steps taken before step 0, for a run that is measured from the middle.

    Raises:
        InputError: tensors of the data differ in their number of items, or size is not from 1 to that number.

    Example:
        >>> batches = sx.training.Batches(torch.arange(5.0), torch.arange(5.0), size=2)
        >>> [len(batches(n)[0]) for n in range(batches.per_epoch)]
        [2, 2, 1]
    """

    def __init__(self, inputs: Any, targets: Any, size: int, seed: int = 0, *, first: int = 0) -> None:
        super().__init__()
        self._keep(inputs, targets)
        self.items = self.count()
        self.size = check_whole("size", size, 1, self.items, way_out=f"The data has {self.items} items.")
        self.seed, self.first = check_seed(seed), check_whole("first", first, 0)

    @classmethod
    def whole(cls, inputs: Any, targets: Any) -> Self:
        """All data in each step; the items need not be along axis 0."""
        batches = object.__new__(cls)
        nn.Module.__init__(batches)
        batches._keep(inputs, targets)
        batches.items, batches.size, batches.seed, batches.first = 1, 1, 0, 0
        return batches

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.items // self.size)

    def forward(self, n: int) -> tuple[Any, Any]:
        """The inputs and targets of step n."""
        if self.per_epoch == 1:
            return self.everything()
        epoch, i = divmod(self.first + n, self.per_epoch)
        return self.taken(_order(self.seed, epoch, self.items)[i * self.size : (i + 1) * self.size])

    def everything(self) -> tuple[Any, Any]:
        """All inputs and targets."""
        return self._filled(lambda tensor: tensor)

    def taken(self, index: Tensor | slice) -> tuple[Any, Any]:
        """The items at an index."""
        return self._filled(lambda tensor: tensor[index.to(tensor.device) if isinstance(index, Tensor) else index])

    def count(self) -> int:
        """The number of items, which every tensor must have."""
        counts = {len(t) if t.ndim else 0: tuple(t.shape) for t in (self._buffers[name] for name in self.names) if t is not None}
        if len(counts) != 1 or 0 in counts:
            shapes = " and ".join(map(str, counts.values())) or "no tensors"
            raise InputError(
                f"the tensors of the data have shapes {shapes}; expected the same number of items along axis 0.\n"
                "Pass inputs and targets with one row per item, or the pair (inputs, targets) itself to take all data in each step."
            )
        return next(iter(counts))

    def _keep(self, inputs: Any, targets: Any) -> None:
        """Hold the tensors as buffers, so that they are cast and moved with the system, and their containers without them."""
        names = []

        def kept(tensor: Tensor) -> "_Place":
            names.append(f"data_{len(names)}")
            self.register_buffer(names[-1], tensor.detach(), persistent=False)
            return _Place(names[-1])

        self.containers = mapped(kept, mapped(lambda tensor: tensor, (inputs, targets), _read))
        self.names = tuple(names)

    def _filled(self, change: Any) -> tuple[Any, Any]:
        return mapped(change, self.containers, lambda leaf: change(self._buffers[leaf]) if isinstance(leaf, _Place) else leaf)


class _Place(str):
    """Name of the buffer that stands at this place in the containers of the data."""


def _read(leaf: Any) -> Any:
    return torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf


@functools.lru_cache(maxsize=ORDERS)
def _order(seed: int, epoch: int, items: int) -> Tensor:
    return Draws(seed, "order of an epoch", epoch).permutation(items)


def as_batches(data: Any) -> Batches:
    """The data that a training takes: batches as they are, a pair as all data in each step."""
    if isinstance(data, Batches):
        return data
    if isinstance(data, tuple | list) and len(data) == 2:
        return Batches.whole(*data)
    raise InputError(
        f"expected (inputs, targets) or sx.training.Batches as data, got {_words(data)}.\n"
        "Stack the items of a Dataset or a DataLoader into two tensors; Batches(inputs, targets, size) then makes the batches."
    )


def _words(data: Any) -> str:
    return f"a {type(data).__name__} of {len(data)}" if isinstance(data, tuple | list) else f"a {type(data).__name__}"
