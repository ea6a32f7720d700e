"""How many digits a computation keeps."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off, where the device has it at all: the one without numbers, "meta", has none."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def at_least_single(tensor: Tensor) -> Tensor:
    """In float32 where it has fewer digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def as_float64(weight: Tensor) -> Tensor:
    """The same numbers; a tensor of its own that no graph follows."""
    device = "cpu" if weight.device.type == "mps" else weight.device  # Metal has no float64
    return weight.detach().to(device).to(torch.float64)
