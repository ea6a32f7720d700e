"""A forward pass with its autograd graph, for pulling back cotangents and gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from separatrix.core.tangent import no_derivative, plain_kernels


@dataclass(frozen=True)
class Traced:
    """A forward pass with its graph.

    Args:
        z: sources, (items, dim).
        values: output of each layer as rows, (items, width).
        edges: edges of the graph at which the outputs were made.
        output: output of the model.
    """

    z: Tensor
    values: list[Tensor]
    edges: list[GradientEdge | None]
    output: Tensor

    def pull(self, layer: int, w: Tensor) -> Tensor:
        """Cotangents pulled back to the source: (items, k, width) → (items, k, dim)."""
        value, rows = self.values[layer], w.movedim(-2, 0).to(self.z.dtype)
        keep: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
        with plain_kernels():
            if len(rows) == 1:
                return _grad(value, self.z, rows[0], **keep)[0][..., None, :]
            try:
                (back,) = torch.autograd.grad(value, self.z, rows, is_grads_batched=True, **keep)
            except (RuntimeError, NotImplementedError):  # an operator without a batched derivative: one row at a time
                back = torch.stack([_grad(value, self.z, row, **keep)[0] for row in rows])
        return back.movedim(0, -2)

    def pull_together(self, cotangents: Sequence[Tensor]) -> Tensor:
        """The sum of one cotangent of each layer, (items, width), pulled back to the source: (items, dim)."""
        with plain_kernels():
            keep: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
            return _grad(self.values, self.z, [w.to(self.z.dtype) for w in cotangents], **keep)[0]

    def gradients(self, loss: Tensor, parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The gradient of a loss at each layer, in the shape of its output, and that by each of the parameters."""
        edges = [edge for edge in self.edges if edge is not None]
        with plain_kernels():
            found = _grad(loss, [*edges, *parameters], allow_unused=True)
        places = [*self.values, *parameters]
        filled = [torch.zeros_like(place) if one is None else one for one, place in zip(found, places, strict=True)]
        return filled[: len(edges)], filled[len(edges) :]


def _grad(*given: Any, **options: Any) -> tuple[Tensor, ...]:
    """`torch.autograd.grad`, with errors in the model's backward pass reported as missing derivatives."""
    try:
        return torch.autograd.grad(*given, **options)
    except (RuntimeError, NotImplementedError) as error:
        raise no_derivative("the model", error) from error
