"""Device and dtype of new parameters, as the keyword arguments of PyTorch's layers."""

from typing import TypedDict

import torch
from torch.types import Device


class Factory(TypedDict, total=False):
    """Keyword arguments of `torch.empty`, `nn.Linear` and all modules of `sx.nn` that make parameters."""

    device: Device
    dtype: torch.dtype | None
