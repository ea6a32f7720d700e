"""Which axis of its input a layer reads as time."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.systems.recurrent.silence import without_draws

STEPS, ITEMS = 4, 3  # of the trial input, so that its axes are told apart by their lengths


def reads_batch_first(layer: nn.Module) -> bool:
    """Whether a layer takes (batch, time, inputs): by its attribute `batch_first`, or by a trial where it has none.

    A change of the first entry along an axis reaches the outputs at later entries of that axis if and only if the axis is time:
    items of a batch do not depend on each other. A layer that shows neither is taken to read time first, as PyTorch's do.
    """
    declared, width = getattr(layer, "batch_first", None), getattr(layer, "input_size", None)
    if declared is not None or not isinstance(width, int):
        return bool(declared)
    trial = copy.deepcopy(layer).eval()
    like = next((p for p in trial.parameters() if p.is_floating_point()), torch.zeros(()))
    u = torch.randn(STEPS, ITEMS, width, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad(), without_draws():
        try:
            return not _carries_on(trial, u, 0) and _carries_on(trial, u, 1)
        except Exception:  # the user's code takes other inputs
            return False


def _carries_on(layer: nn.Module, u: Tensor, axis: int) -> bool:
    """Whether the outputs after the first entry along an axis change with that entry."""
    changed = u.clone()
    changed.select(axis, 0).add_(1.0)
    later = slice(1, None)
    one, other = (_outputs(layer(x)).movedim(axis, 0)[later] for x in (u, changed))
    return not torch.equal(one, other)


def _outputs(returned: Any) -> Tensor:
    """The outputs at each entry of both axes, which a layer returns alone or first."""
    return returned if isinstance(returned, Tensor) else returned[0]
