"""The loss of one item, whose gradient a profile measures at each layer."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.checks import as_numbers, check_all_finite
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.randomness import torch_generator
from separatrix.core.wording import counted

IGNORED = -100  # the class that F.cross_entropy ignores
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss of one item, and a description of it."""

    of_item: Callable[[Tensor, int], Tensor]
    words: str


def objective(targets: Any, loss: Loss | None, source: Tensor, seed: int, *, axis: int | None) -> Objective:
    """The loss of one item.

    Args:
        targets: classes or values, one per item, or None.
        loss: function (output, targets), or (output) without targets, that returns a number; None for the default.
        source: the network's inputs, (items, dim), whose dtype and device are used.
        seed: seed of the random component of the output that is the loss without targets.
        axis: batch axis of the output; None if the inputs are one item and the targets have no batch axis.
    """
    if targets is None and loss is None:
        return Objective(_Component(seed), "the output's component along a random unit vector")
    if loss is not None:
        _check_takes(loss, ("output",) if targets is None else ("output", "targets"))
    if loss is not None and targets is None:
        return Objective(lambda output, i: _number(loss(output[None])), f"the loss {_name(loss)}")
    values = as_numbers("targets", targets, None).to(source.device)
    values = values[None] if axis is None else values
    if values.ndim == 0 or len(values) != len(source):
        raise ShapeError(
            f"expected one target for each of {counted(len(source), 'input')}, got targets of shape {tuple(values.shape)}.\n"
            "Pass one target per input along axis 0, or the target of the one input with batch_axis=None."
        )
    values = values.to(source.dtype) if values.is_floating_point() else values
    if values.is_floating_point():
        check_all_finite("targets", values, "")
    if loss is not None:
        return Objective(lambda output, i: _number(loss(output[None], values[i : i + 1])), f"the loss {_name(loss)}")
    if values.is_floating_point():
        return Objective(lambda output, i: _mean_squared_error(output, values[i]), "the mean squared error")
    return Objective(lambda output, i: _cross_entropy(output, values[i].long(), i, axis), "the cross-entropy")


def _check_takes(loss: Loss, names: tuple[str, ...]) -> None:
    """Refuse a loss that cannot be called with that many arguments; some builtins do not say what they take."""
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*names)
    except TypeError as error:
        with_targets = len(names) > 1
        raise InputError(
            f"the loss {_name(loss)} cannot be called with ({', '.join(names)}): {error}.\n"
            + (
                "Leave targets out, or pass loss=function(output, targets)."
                if with_targets
                else "Pass targets, or loss=function(output)."
            )
        ) from None


def _mean_squared_error(output: Tensor, values: Tensor) -> Tensor:
    if output.shape != values.shape:
        raise ShapeError(
            f"the output of an item has shape {tuple(output.shape)}, its target {tuple(values.shape)}.\n"
            "Pass targets of the output's shape, whole numbers for classes, or a loss."
        )
    return (output - values).square().mean()


def _cross_entropy(output: Tensor, classes: Tensor, item: int, axis: int | None) -> Tensor:
    """`F.cross_entropy` of one item, with the axes of its scores in PyTorch's order, or with the classes last if that cannot be."""
    found = _in_torch_order(output, classes, axis)
    if found is None:
        raise ShapeError(
            f"the output of an item, of shape {tuple(output.shape)}, cannot be the class scores of its target, of shape "
            f"{tuple(classes.shape)}.\n"
            "Pass one class per item, or one per position with scores (batch, classes, positions); floating-point targets for "
            "the squared error; or a loss."
        )
    scores, classes = found
    used, count = classes != IGNORED, scores.shape[1]
    wrong = classes[used & ((classes < 0) | (classes >= count))]
    if wrong.numel():
        raise ShapeError(
            f"a target is class {int(wrong[0])}, but the scores of an item, of shape {tuple(output.shape)}, have {count} classes.\n"
            f"Count classes from 0 ({IGNORED}: ignored), or pass a loss: loss=function(output, targets)."
        )
    if not used.any():
        raise InputError(
            f"every target of input {item} is {IGNORED}, which the cross-entropy ignores, so its loss is 0/0.\nLeave it out."
        )
    return nn.functional.cross_entropy(scores, classes)


def _in_torch_order(output: Tensor, classes: Tensor, axis: int | None) -> tuple[Tensor, Tensor] | None:
    """Scores (items, classes, *positions) and targets (items, *positions), as `F.cross_entropy` takes them; None if impossible."""
    if output.ndim == 0:
        return None
    first, last = output.shape[1:] == classes.shape, output.shape[:-1] == classes.shape
    if axis is None and output.ndim > 1:  # one item: F.cross_entropy would be given the whole output
        if (output.shape[0], *output.shape[2:]) == tuple(classes.shape):
            return output, classes
    elif first and last and output.ndim > 1 and axis:
        raise ShapeError(
            f"the class axis is ambiguous: the output of an item has shape {tuple(output.shape)}, its target "
            f"{tuple(classes.shape)}.\n"
            "Pass a loss: loss=function(output, targets)."
        )
    if first:
        return output[None], classes[None]
    return (output.movedim(-1, 0)[None], classes[None]) if last else None


class _Component:
    """⟨output, w⟩ with a random unit vector w."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, output: Tensor, i: int) -> Tensor:
        generator = torch_generator(self.seed, "cotangent of a loss")
        w = torch.randn(output.numel(), dtype=torch.float64, generator=generator)
        return (output.reshape(-1) * (w / w.norm()).to(output)).sum()


def _number(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(f"the loss of one item must be one number that depends on the output, got {what}.")
    return value.reshape(())


def _name(loss: Any) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
