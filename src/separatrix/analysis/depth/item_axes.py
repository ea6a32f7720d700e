"""The batch axis of each of a model's arguments."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.arguments import Arguments, arguments_of, side_by_side
from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.structure import leaves
from separatrix.core.tangent import plain_kernels

MOST_TRIED = 64  # combinations of batch axes that are tried

# Note [Where items lie]
# The caller names the batch axis of the first argument. Further arguments may have the same batch axis, another one (the initial
# state of a recurrent layer, whose first axis counts layers), or none (a mask, a scale). The output decides between them: the
# outputs of the first and the last item alone must equal the output of both together.


def one_call(model: nn.Module, inputs: Any, dtype: torch.dtype) -> Arguments:
    """The arguments of a single call of the model.

    Raises:
        InputError: the inputs are sequences of unequal length, or complex.
    """
    if isinstance(inputs, Arguments):
        return inputs
    calls = arguments_of(model, inputs, dtype=dtype)
    if len(calls) > 1:
        raise InputError(
            f"expected one batch of inputs, got {len(calls)} sequences of unequal length.\n"
            "Pass sequences of one length, or one of them."
        )
    if any(tensor.is_complex() for tensor in calls[0].tensors()):
        raise InputError("expected real inputs, got complex numbers.\nPass their real and imaginary parts.")
    return calls[0]


class ItemAxes:
    """The batch axis of each tensor of a model's arguments, None for a tensor that all items share.

    Args:
        model: any module, or its twin.
        given: its arguments.
        axis: batch axis of the first floating-point tensor; None if the arguments are one item.
    """

    def __init__(self, model: nn.Module, given: Arguments, axis: int | None) -> None:
        if axis is not None:
            check_whole("batch_axis", axis, 0, way_out="Pass None if the inputs are one item.")
        self.given = given
        tensors = given.tensors()
        self.axes: list[int | None] = [None] * len(tensors)
        self.count = 1
        if axis is None:
            return
        first = next((i for i, tensor in enumerate(tensors) if tensor.is_floating_point()), 0)
        self.count = tensors[first].shape[axis] if tensors[first].ndim > axis else 0
        if self.count == 0 or _is_packed(given):
            raise self._no_items(tensors, axis)
        choices = [[axis] if i == first else _candidates(tensor, axis, self.count) for i, tensor in enumerate(tensors)]
        ways = list(itertools.islice(itertools.product(*choices), MOST_TRIED))
        found = next((way for way in ways if self._are_items(model, list(way))), None) if len(tensors) > 1 else ways[0]
        if found is None and any(t.ndim > axis and t.shape[axis] != self.count for t in tensors):
            raise self._no_items(tensors, axis)
        self.axes = list(found or ways[0])

    def take(self, items: slice | Tensor) -> list[Tensor]:
        """Copies of the tensors, restricted to some of the items."""
        pairs = zip(self.given.tensors(), self.axes, strict=True)
        return [t.clone() if axis is None else t.movedim(axis, 0)[items].movedim(0, axis).clone() for t, axis in pairs]

    def _are_items(self, model: nn.Module, axes: list[int | None]) -> bool:
        """See Note [Where items lie]."""
        self.axes = axes
        last = self.count - 1
        if last == 0:
            return self._answer(model, slice(0, 1)) is not None
        answers = [self._answer(model, part) for part in (slice(0, 1), slice(last, last + 1), slice(0, last + 1, last))]
        if any(answer is None for answer in answers):
            return False
        return all(side_by_side(*parts) for parts in zip(*answers, strict=False) if parts[0].ndim)

    def _answer(self, model: nn.Module, items: slice) -> list[Tensor] | None:
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad(), plain_kernels():
                return leaves(self.given.with_tensors(self.take(items)).call(model))
        except Exception:  # raised by the user's code: this combination of axes is not the right one
            return None

    def _no_items(self, tensors: list[Tensor], axis: int) -> ShapeError:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        kind = "packed " if _is_packed(self.given) else ""
        return ShapeError(
            f"{kind}inputs of shape {shapes} have no common batch size along axis {axis}.\n"
            "Pass the batch axis as batch_axis, or batch_axis=None if the inputs are one item."
        )


def _is_packed(given: Arguments) -> bool:
    return "packed sequences" in given.shapes


def _candidates(tensor: Tensor, axis: int, count: int) -> list[int | None]:
    """Possible batch axes, the caller's first; None if all items share the tensor."""
    fits = [place for place in range(tensor.ndim) if tensor.shape[place] == count]
    return [*sorted(fits, key=lambda place: place != axis), None]
