"""Precision of computations."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context that disables autocast; the meta device has no autocast to disable."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def at_least_single(tensor: Tensor) -> Tensor:
    """The tensor, in float32 if its own precision is lower."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def as_float64(weight: Tensor) -> Tensor:
    """The weight in float64, detached from the graph."""
    device = "cpu" if weight.device.type == "mps" else weight.device  # Metal has no float64
    return weight.detach().to(device).to(torch.float64)
