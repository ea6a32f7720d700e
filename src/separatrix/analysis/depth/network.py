"""The layers of a network with any graph, as functions of its input."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from separatrix.analysis.depth.checks import AGREEMENT, check_model, checked_items
from separatrix.analysis.depth.hooks import Call, floating
from separatrix.analysis.depth.layers import Layer, choose, joins, layers_of
from separatrix.analysis.depth.record import Record, Recorder
from separatrix.analysis.depth.source import find_source
from separatrix.analysis.depth.traced import Traced
from separatrix.core.derivative import changed_derivative
from separatrix.core.errors import InputError
from separatrix.core.randomness import torch_generator
from separatrix.core.tangent import RUNGS, climb, plain_kernels
from separatrix.core.wrappers import bare


class LayeredNetwork:
    """A model and its inputs, with its layers and the derivatives of their outputs by the source.

    Args:
        model: any module.
        inputs: arguments of the model: a tensor, an array, a tuple of several, a dict of named ones, or an `Arguments`.
        batch_axis: batch axis of the inputs and of every layer's output; None if the inputs are one item.
        origin: layer whose output is the source of the Jacobians, or None for the model's first floating-point argument.
        dtype: dtype of the computation.
    """

    def __init__(self, model: nn.Module, inputs: Any, *, batch_axis: int | None, origin: str | None, dtype: torch.dtype) -> None:
        model = bare(model)
        check_model(model)
        self.recorder = Recorder(model, inputs, batch_axis, dtype)
        self.model_name, self.axis, self.items = self.recorder.model_name, batch_axis, self.recorder.items
        self._source = find_source(self.recorder, origin)
        self._rung = 0
        first = self.trace(slice(0, 1))
        self._check_connected(first)
        self.layers = checked_items(self, layers_of(first), first)

    @property
    def source(self) -> Tensor:
        """The variable of the Jacobians, one row per item, (items, dim)."""
        return self._source.rows

    @property
    def origin(self) -> Call | None:
        """The layer whose output is the source; None if the source is an argument of the model."""
        return self._source.call

    def choose(self, layers: Sequence[str] | str | None) -> list[Layer]:
        """All calls of the layers of these names; by default all layers but aliases and those without a Jacobian."""
        return choose(self.layers, layers, self.recorder.names, self.model_name)

    def record(self, items: slice) -> Record:
        """The outputs of every call for some items, without a graph."""
        with plain_kernels(), torch.no_grad(), self.recorder.explained():
            return self._pass(self.source[items], items)

    def trace(self, items: slice) -> Record:
        """The outputs of every call for some items, with the autograd graph."""
        with plain_kernels(), torch.enable_grad():
            z = self._leaf(items)
            with self.recorder.explained():
                return self._pass(z, items)

    def traced(self, items: slice, calls: Sequence[Call]) -> Traced:
        """One pass with its autograd graph, for pulling cotangents back."""
        with plain_kernels(), torch.enable_grad():
            z = self._leaf(items)
            record = self._pass(z, items, calls)
            found = {one.call: one for one in record.made}
            values = [self.rows(found[call].value, len(z)) for call in calls]
            result = floating(record.output)
        if result is None:
            raise InputError("the model returned a floating-point tensor in one forward pass but not in another.")
        return Traced(z, values, [found[call].edge for call in calls], result)

    def push(self, z: Tensor, v: Tensor, items: slice, calls: Sequence[Call]) -> list[Tensor]:
        """Tangents pushed to several layers at once: (items, k, dim) → for each call (items, k, width)."""
        widths: list[int] = []

        def all_layers(at: Tensor) -> Tensor:
            found = {one.call: one.value for one in self._pass(at, items, calls, early=True).made}
            rows = [self.rows(found[call], len(at)) for call in calls]
            widths[:] = [row.shape[-1] for row in rows]
            return torch.cat(rows, dim=-1)

        with torch.no_grad():
            _, pushed, self._rung = climb(all_layers, z, v, self._rung)
        return list(pushed.split(widths, dim=-1))

    def rows(self, value: Tensor | None, items: int) -> Tensor:
        """A layer's output with one row per item, (items, width)."""
        if value is None:
            raise InputError("a layer returned a floating-point tensor in one forward pass but not in another.")
        if self.axis is None:
            return value.reshape(1, -1)
        if self.axis == 0:
            return value.reshape(items, -1)
        return value.movedim(self.axis, 0).reshape(value.shape[self.axis], -1)

    @property
    def by_autograd_only(self) -> bool:
        """Whether tangents are pushed by double reverse mode."""
        return self._rung == len(RUNGS) - 1

    def settle_derivative(self, calls: Sequence[Call], seed: int) -> None:
        """Use reverse mode for tangents too if forward mode gives another derivative: if ⟨w, J v⟩ ≠ ⟨Jᵀ w, v⟩.

        Forward mode differentiates operations under `torch.no_grad`, reverse mode does not.
        """
        first, generator = slice(0, 1), torch_generator(seed, "check of derivatives")
        z = self.source[first]
        v = torch.randn(1, 1, z.shape[-1], dtype=torch.float64, generator=generator).to(z)
        traced = self.traced(first, calls)
        for i, pushed in enumerate(self.push(z, v, first, calls)):
            w = torch.randn(pushed.shape, dtype=torch.float64, generator=generator).to(z)
            back = traced.pull(i, w)
            apart = (w * pushed).sum() - (v * back).sum()
            if apart.abs() > AGREEMENT * (w.norm() * pushed.norm() + v.norm() * back.norm()):
                self._rung = len(RUNGS) - 1

    def changed_derivative(self, layer: Layer) -> str:
        """A warning if autograd's derivative at a layer is not that of the layer's output, or empty. See `changed_derivative`."""
        first = slice(0, 1)

        def value(z: Tensor) -> Tensor:
            return self.rows(self._pass(z, first, [layer.call], early=True).made[0].value, len(z))

        with plain_kernels():
            changed = changed_derivative(value, self.source[first], lambda z, v: self.push(z, v, first, [layer.call])[0])
        if changed is None:
            return ""
        return (
            f"gradients are not the derivatives of the network: along one direction the derivative of a component of "
            f"'{layer.name}' is {changed[0]:.3g} by autograd but {changed[1]:.3g} by finite differences (detach, no_grad, "
            "straight-through)"
        )

    def _pass(self, z: Tensor, items: slice, calls: Sequence[Call] | None = None, *, early: bool = False) -> Record:
        """A pass starting from the sources z, (items, dim). See `Recorder.record`."""
        arguments, value = self.recorder.item_axes.take(items), self._source.shaped(z)
        if self.origin is None:
            arguments[self._source.index] = value
        injected = None if self.origin is None else (self.origin, value)
        return self.recorder.record(arguments, calls=calls, early=early, injected=injected, z=z)

    def _leaf(self, items: slice) -> Tensor:
        return self.source[items].detach().clone().requires_grad_()

    def _check_connected(self, first: Record) -> None:
        """Refuse a network whose output does not depend differentiably on the source."""
        result = floating(first.output)
        if result is None:
            output = first.output
            what = type(output).__name__ if not isinstance(output, Tensor) else f"tensor of {output.dtype}".replace("torch.", "")
            raise InputError(f"expected {self.model_name} to return a floating-point tensor, got a {what}.")
        end = get_gradient_edge(result) if result.requires_grad else None
        if end is None or not joins(end, get_gradient_edge(first.z).node):
            raise InputError(f"the output of {self.model_name} does not depend on its input, as far as autograd can see.")
