"""A forward pass with its autograd graph, along which cotangents and gradients are carried back."""

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
        z: the sources, (items, dim).
        values: each layer's output as rows, (items, width).
        edges: at which each was made.
        output: of the model.
    """

    z: Tensor
    values: list[Tensor]
    edges: list[GradientEdge | None]
    output: Tensor

    def pull(self, layer: int, w: Tensor) -> Tensor:
        """Cotangents carried back to the source: (items, k, width) → (items, k, dim)."""
        value, rows = self.values[layer], w.movedim(-2, 0).to(self.z.dtype)
        keep: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
        with plain_kernels():
            try:
                (back,) = torch.autograd.grad(value, self.z, rows, is_grads_batched=True, **keep)
            except (RuntimeError, NotImplementedError):  # an operator without a batched derivative: one row after the other
                back = torch.stack([_grad(value, self.z, row, **keep)[0] for row in rows])
        return back.movedim(0, -2)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient of a loss at each layer, in the layer's own shape."""
        wanted = [edge for edge in self.edges if edge is not None]
        with plain_kernels():
            found = _grad(loss, wanted, retain_graph=True, allow_unused=True)
        return [
            torch.zeros_like(value) if gradient is None else gradient for gradient, value in zip(found, self.values, strict=True)
        ]


def _grad(*given: Any, **options: Any) -> tuple[Tensor, ...]:
    """`torch.autograd.grad`; what a backward of the model's raises is said as such."""
    try:
        return torch.autograd.grad(*given, **options)
    except (RuntimeError, NotImplementedError) as error:
        raise no_derivative("the model", error) from error
