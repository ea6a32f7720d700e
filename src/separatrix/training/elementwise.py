"""The derivative of a function that maps each number alone, along many tangents."""

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


def elementwise(f: Callable[..., Tensors], values: Tensors, tangents: Tensors) -> tuple[Tensors, Tensors]:
    """f(values) and its derivative along tangents, whose cost is one product for each slope and tangent.

    Each output has one slope by each input, number by number: the gradient of the sum of the output. Forward AD would repeat all
    operations of f for every tangent.

    Args:
        f: maps tensors of one shape, each number alone, to tensors of that shape.
        values: its arguments, shape (*batch, m).
        tangents: of each argument, as rows, shape (*batch, k, m).
    """
    keep = torch.is_grad_enabled() and any(value.requires_grad for value in (*values, *tangents))
    with torch.inference_mode(False), torch.enable_grad():
        inputs = [value if keep and value.requires_grad else value.detach().clone().requires_grad_() for value in values]
        outputs = f(*inputs)
        slopes = [
            torch.autograd.grad(output, inputs, torch.ones_like(output), retain_graph=True, create_graph=keep, allow_unused=True)
            for output in outputs
        ]
    pushed = tuple(_along(row, tangents) for row in slopes)
    return outputs if keep else tuple(output.detach() for output in outputs), pushed


def _along(slopes: tuple[Tensor | None, ...], tangents: Tensors) -> Tensor:
    """The sum of slopes times tangents."""
    terms = [(slope[..., None, :], tangent) for slope, tangent in zip(slopes, tangents, strict=True) if slope is not None]
    if not terms:
        return torch.zeros_like(tangents[0])
    total = terms[0][0] * terms[0][1]
    for slope, tangent in terms[1:]:
        total.addcmul_(slope, tangent)  # in place: a new tensor of k tangents takes as long as the product
    return total
