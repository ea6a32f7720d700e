"""States and tangents by component, for steps and pushforwards in closed form."""

from collections.abc import Sequence

import torch
from torch import Tensor


def components(*parts: Tensor) -> Tensor:
    """A state from its components, or tangents from theirs: each (*batch) or (*batch, k) → (*batch[, k], dim).

    Example:
        >>> sx.parts.components(torch.zeros(5), torch.ones(5)).shape
        torch.Size([5, 2])
    """
    return stack_batch_last(parts, dim=-1)


def along_tangents(parameter: float | Tensor) -> float | Tensor:
    """A parameter of shape (*batch), ready to multiply components of tangents, (*batch, k).

    Example:
        >>> sx.parts.along_tangents(torch.zeros(5)).shape, sx.parts.along_tangents(0.3)
        (torch.Size([5, 1]), 0.3)
    """
    return parameter[..., None] if isinstance(parameter, Tensor) else parameter


def stack_batch_last(parts: Sequence[Tensor], dim: int) -> Tensor:
    """`torch.stack` at a negative `dim`, with the batch axes innermost in memory.

    A batch of small states is then a structure of arrays: each component's slice is contiguous, and elementwise work on it runs
    at the speed of the vector unit.
    """
    turned = torch.broadcast_tensors(*parts)
    if turned[0].ndim > 1:
        turned = [part.permute(tuple(reversed(range(part.ndim)))) for part in turned]
    stacked = torch.stack(turned, dim=-1 - dim)
    return stacked.permute(tuple(reversed(range(stacked.ndim))))


def batch_innermost(x: Tensor) -> Tensor:
    """The same numbers with the batch axes innermost in memory; no copy where they already are."""
    turned = tuple(reversed(range(x.ndim)))
    return x.permute(turned).contiguous().permute(turned)
