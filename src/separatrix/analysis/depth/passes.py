"""One forward and one backward pass of each input: sizes of the outputs and of the gradients at each layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.analysis.depth.layers import Layer
from separatrix.analysis.depth.loss import Objective
from separatrix.analysis.depth.network import LayeredNetwork


@dataclass(frozen=True)
class Sizes:
    """What one forward and one backward pass of one input give.

    Args:
        activation: (layer), root mean square of the output.
        peak: (layer), largest number of the output.
        gradient: (layer), ‖∂loss/∂y‖.
        underflow: (layer), share of the numbers of this gradient that float16 rounds to 0.
        parameter_gradient: (layer), ‖∂loss/∂θ‖ over the parameters of the layer; NaN if it has none.
        alive: (layer), whether the output is finite.
        active: for each layer, which units have an output other than 0, (unit).
    """

    activation: Tensor
    peak: Tensor
    gradient: Tensor
    underflow: Tensor
    parameter_gradient: Tensor
    alive: Tensor
    active: list[Tensor]


def sizes(network: LayeredNetwork, layers: Sequence[Layer], objective: Objective, item: int) -> Sizes:
    """The measurements of one item."""
    calls = [layer.call for layer in layers]
    own = [network.recorder.parameters_of(layer.call[0]) for layer in layers]
    unique = list({id(parameter): parameter for group in own for parameter in group}.values())
    traced = network.traced(slice(item, item + 1), calls)
    output = traced.output[None] if network.axis is None else traced.output.movedim(network.axis, 0)
    with torch.enable_grad():
        loss = objective.of_item(output[0], item)
    at_layers, of_parameters = traced.gradients(loss, unique)
    norms = {id(p): norm(g.reshape(-1)) for p, g in zip(unique, of_parameters, strict=True)}
    gradients = [network.rows(gradient, 1)[0] for gradient in at_layers]
    values = [value.detach()[0] for value in traced.values]
    missing = traced.z.new_tensor(math.nan)
    return Sizes(
        activation=torch.stack([norm(value) / max(len(value), 1) ** 0.5 for value in values]),
        peak=torch.stack([value.abs().amax() for value in values]),
        gradient=torch.stack([norm(row) for row in gradients]),
        underflow=torch.stack([_lost(row) for row in gradients]),
        parameter_gradient=torch.stack([norm(torch.stack([norms[id(p)] for p in group])) if group else missing for group in own]),
        alive=torch.stack([value.isfinite().all() for value in values]),
        active=[_active(layer, value) for layer, value in zip(layers, values, strict=True)],
    )


def norm(rows: Tensor) -> Tensor:
    """Euclidean norms along the last axis, without underflow in the squares."""
    size = rows.abs().amax(-1, keepdim=True)
    size = size.where(size > 0, 1.0)
    return size[..., 0] * torch.linalg.vector_norm(rows / size, dim=-1)


def _lost(gradient: Tensor) -> Tensor:
    """Share of the numbers that float16 rounds to 0."""
    return ((gradient != 0) & (gradient.to(torch.float16) == 0)).to(gradient).mean()


def _active(layer: Layer, value: Tensor) -> Tensor:
    """Which units of a layer have an output other than 0 somewhere: its channels or its features."""
    shaped = value.reshape(layer.shape)
    if shaped.ndim == 0:
        return (shaped != 0).reshape(1)
    axis = max(layer.unit_axis, -shaped.ndim)
    return (shaped != 0).movedim(axis, 0).flatten(1).any(1) if shaped.ndim > 1 else shaped != 0
