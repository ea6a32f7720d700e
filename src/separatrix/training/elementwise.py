"""The derivative of a function that maps each number alone, along many tangents."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


def elementwise(
    f: Callable[..., Tensors], values: Tensors, tangents: Tensors, pushed: Tensor, places: Sequence[slice], *, keeps_graph: bool
) -> Tensors:
    """f(values); its derivative along tangents is added to `pushed`, one product for each slope and tangent.

    Each output has one slope by each input, number by number: the gradient of the sum of the output. Forward AD would repeat all
    operations of f for every tangent, each into new memory, which for large states takes longer than the operation.

    Args:
        f: maps tensors of one shape, each number alone, to tensors of that shape.
        values: its arguments, shape (*batch, m).
        tangents: of each argument, as rows, shape (*batch, k, m).
        pushed: the tensor to which the tangents of the outputs are added, shape (*batch, k, dim).
        places: where those of each output lie along its last axis.
        keeps_graph: keep the graph of both, for derivatives of tangents.
    """
    with torch.inference_mode(False), torch.enable_grad():
        inputs = [value if keeps_graph and value.requires_grad else value.detach().clone().requires_grad_() for value in values]
        outputs = f(*inputs)
        slopes = [
            torch.autograd.grad(
                output, inputs, torch.ones_like(output), retain_graph=True, create_graph=keeps_graph, allow_unused=True
            )
            for output in outputs
        ]
    for row, place in zip(slopes, places, strict=True):
        for slope, tangent in zip(row, tangents, strict=True):
            if slope is not None:
                pushed[..., place].addcmul_(slope[..., None, :], tangent)
    return outputs if keeps_graph else tuple(output.detach() for output in outputs)
