"""The loss whose gradient a profile follows back through a network, of one item at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.errors import InputError, ShapeError
from separatrix.randomness import torch_generator
from separatrix.wording import counted

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss of one item, and what it is in words."""

    of_item: Callable[[Tensor, int], Tensor]
    words: str


def objective(targets: Any, loss: Loss | None, source: Tensor, seed: int, *, batched: bool) -> Objective:
    """The loss of one item from what the user gave.

    Args:
        targets: classes or values, one an item, or None.
        loss: (output, targets), or (output) without targets, to a number; None for the default of each kind of target.
        source: the network's inputs, (items, dim), whose dtype and device are used.
        seed: of the random component that is the loss where nothing was given.
        batched: whether targets have an axis of items.
    """
    if targets is None and loss is None:
        return Objective(_Component(seed), "the output's component along a random unit vector")
    if loss is not None and targets is None:
        return Objective(lambda output, i: _number(loss(output[None])), f"the loss {_name(loss)}")
    try:
        values = torch.as_tensor(targets).to(source.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"targets cannot be read as numbers: {str(error).splitlines()[0]}") from None
    values = values if batched else values[None]
    if values.ndim == 0 or len(values) != len(source):
        raise ShapeError(
            f"targets of shape {tuple(values.shape)} are not one for each of the {counted(len(source), 'input')}.\n"
            "Pass one target an input, along the first axis; with batch_axis=None, that of the one input."
        )
    values = values.to(source.dtype) if values.is_floating_point() else values
    if values.is_floating_point() and not torch.isfinite(values).all():
        raise InputError(f"targets have {int((~torch.isfinite(values)).sum())} numbers that are not finite.")
    if loss is not None:
        return Objective(lambda output, i: _number(loss(output[None], values[i : i + 1])), f"the loss {_name(loss)}")
    if values.is_floating_point():
        return Objective(lambda output, i: _mean_squared_error(output, values[i]), "the mean squared error")
    return Objective(lambda output, i: _cross_entropy(output, values[i].long()), "the cross-entropy")


def _mean_squared_error(output: Tensor, values: Tensor) -> Tensor:
    if output.shape != values.shape:
        raise ShapeError(
            f"an item's output has shape {tuple(output.shape)} but its target {tuple(values.shape)}.\n"
            "Pass targets of the output's shape, whole numbers for classes, or a loss of your own."
        )
    return (output - values).square().mean()


def _cross_entropy(output: Tensor, classes: Tensor) -> Tensor:
    """Of one item: scores (classes), (positions, classes), or (classes, *positions) as PyTorch has it for images."""
    if output.ndim == 2 and output.shape[:1] == classes.shape:
        output = output.mT
    if output.ndim == 0 or output.shape[1:] != classes.shape or not 0 <= int(classes.min()) <= int(classes.max()) < len(output):
        raise ShapeError(
            f"an item's output of shape {tuple(output.shape)} does not hold the scores of its target, of shape "
            f"{tuple(classes.shape)} with classes up to {int(classes.max())}.\n"
            "Pass one class an item (or a position) from 0 on, floating-point targets for a squared error, or a loss of your own."
        )
    return nn.functional.cross_entropy(output[None], classes[None])


class _Component:
    """⟨output, w⟩ with a random unit vector w of the item's own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, output: Tensor, i: int) -> Tensor:
        generator = torch_generator(self.seed, "cotangent of a loss")
        w = torch.randn(output.numel(), dtype=torch.float64, generator=generator)
        return (output.reshape(-1) * (w / w.norm()).to(output)).sum()


def _number(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(f"the loss of one item is {what}; it must be one number that depends on the output.")
    return value.reshape(())


def _name(loss: Any) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
