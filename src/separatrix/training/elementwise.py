"""The derivative of a function that maps each number alone, along many tangents."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


def elementwise(f: Callable[..., Tensors], values: Tensors, tangents: Sequence[Tensor], pushed: Sequence[Tensor]) -> Tensors:
    """f(values); its derivative along tangents is added to `pushed`, one product for each slope and tangent.

    Each output has one slope by each input, number by number: the gradient of the sum of the output. Forward AD would repeat all
    operations of f for every tangent, each into new memory, which for large states takes longer than the operation.

    Args:
        f: maps tensors of one shape, each number alone, to tensors of that shape.
        values: its arguments, shape (*batch, m).
        tangents: of each argument, as rows, shape (*batch, k, m).
        pushed: for each output, where its tangents are added, shape (*batch, k, m).
    """
    keep = torch.is_grad_enabled() and any(value.requires_grad for value in (*values, *tangents))
    with torch.inference_mode(False), torch.enable_grad():
        inputs = [value if keep and value.requires_grad else value.detach().clone().requires_grad_() for value in values]
        outputs = f(*inputs)
        slopes = [
            torch.autograd.grad(output, inputs, torch.ones_like(output), retain_graph=True, create_graph=keep, allow_unused=True)
            for output in outputs
        ]
    for row, total in zip(slopes, pushed, strict=True):
        for slope, tangent in zip(row, tangents, strict=True):
            if slope is not None:
                total.addcmul_(slope[..., None, :], tangent)
    return outputs if keep else tuple(output.detach() for output in outputs)
