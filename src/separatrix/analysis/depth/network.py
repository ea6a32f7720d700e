"""The layers of a network with any graph, as functions of its input."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from separatrix.analysis.depth.checks import AGREEMENT, check_model, checked_items, draws_at_random
from separatrix.analysis.depth.hooks import Call, floating
from separatrix.analysis.depth.layers import Layer, Paths, choose, layers_of
from separatrix.analysis.depth.record import Copy, Record, Recorder
from separatrix.analysis.depth.sketch import Sketch
from separatrix.analysis.depth.source import find_source
from separatrix.analysis.depth.statistics import fresh
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
        statistics: of BatchNorm layers, "running" or "batch".
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        *,
        batch_axis: int | None,
        origin: str | None,
        dtype: torch.dtype,
        statistics: str = "running",
    ) -> None:
        model = bare(model)
        check_model(model)
        self.recorder = Recorder(model, inputs, batch_axis, dtype, statistics)
        self.fresh = fresh(self.recorder.twin)
        self.model_name, self.axis, self.items = self.recorder.model_name, batch_axis, self.recorder.items
        self._source = find_source(self.recorder, origin)
        self._rung = 0
        self._seen: dict[Call, Tensor] = {}  # the outputs for a single item, which later passes must repeat
        first = self.trace(slice(0, 1))
        self._check_connected(first)
        self.layers = checked_items(self, layers_of(first, self.recorder), first)
        if self.items == 1:
            self._seen = {call: value.detach() for call, value in first.values().items()}

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
            self._check_repeated({call: found[call].value for call in calls})
            values = [self.rows(found[call].value, len(z)) for call in calls]
            result = floating(record.output)
        if result is None:
            raise InputError("the model returned a floating-point tensor in one forward pass but not in another.")
        return Traced(z, values, [found[call].edge for call in calls], result)

    def push(self, z: Tensor, v: Tensor, items: slice, calls: Sequence[Call], sketch: Sketch | None = None) -> list[Tensor]:
        """Tangents pushed to several layers at once: (items, k, dim) → for each call (items, k, width), or their sketches."""
        widths: list[int] = []

        def all_layers(at: Tensor) -> Tensor:
            def copied(value: Tensor) -> Tensor:
                return value.clone() if sketch is None else sketch(self.rows(value, len(at)))

            found = {one.call: one.value for one in self._pass(at, items, calls, early=True, copied=copied).made}
            values = [found[call] for call in calls]
            rows = [self.rows(value, len(at)) if sketch is None or value is None else value for value in values]
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

    def settled_push(self, v: Tensor, items: slice, calls: Sequence[Call], sketch: Sketch | None, seed: int) -> list[Tensor]:
        """`push` for the first items, by reverse mode if forward mode gives another derivative: if ⟨w, J v⟩ ≠ ⟨Jᵀ w, v⟩.

        Forward mode differentiates operations under `torch.no_grad`, reverse mode does not. One cotangent of all layers together
        is pulled back, in which they have equal weights.
        """
        generator, z = torch_generator(seed, "check of derivatives"), self.source[items]
        pushed = self.push(z, v, items, calls, sketch)
        images, along = [image[0, 0] for image in pushed], v[0, 0]
        draws = [torch.randn(len(image), dtype=torch.float64, generator=generator).to(z) for image in images]
        cotangents = [w / (w.norm() * image.norm()).clamp(min=1e-300) for w, image in zip(draws, images, strict=True)]
        traced = self.traced(slice(0, 1), calls)
        wide = cotangents
        if sketch is not None:
            wide = [sketch.back(w, value.shape[-1]) for w, value in zip(cotangents, traced.values, strict=True)]
        back = traced.pull_together([w[None] for w in wide])[0]
        forward = torch.stack([(w * image).sum() for w, image in zip(cotangents, images, strict=True)])
        if (forward.sum() - (along * back).sum()).abs() <= AGREEMENT * (len(calls) ** 0.5 + along.norm() * back.norm()):
            return pushed
        self._rung = len(RUNGS) - 1
        return self.push(z, v, items, calls, sketch)

    def changed_derivative(self, layer: Layer, pushed: Tensor | None = None) -> str:
        """A warning if autograd's derivative at a layer is not that of the layer's output, or empty. See `changed_derivative`.

        Args:
            layer: the layer.
            pushed: `first_direction` of the first item pushed to it, (1, 1, width), if that is known.
        """
        first, known = slice(0, 1), [] if pushed is None else [pushed]

        def push(z: Tensor, v: Tensor) -> Tensor:
            return known.pop() if known else self.push(z, v, first, [layer.call])[0]

        def value(z: Tensor) -> Tensor:
            return self.rows(self._pass(z, first, [layer.call], early=True).made[0].value, len(z))

        with plain_kernels():
            changed = changed_derivative(value, self.source[first], push)
        if changed is None:
            return ""
        return (
            f"gradients are not the derivatives of the network: along one direction the derivative of a component of "
            f"'{layer.name}' is {changed[0]:.3g} by autograd but {changed[1]:.3g} by finite differences (detach, no_grad, "
            "straight-through)"
        )

    def _pass(
        self,
        z: Tensor,
        items: slice,
        calls: Sequence[Call] | None = None,
        *,
        early: bool = False,
        copied: Copy = Tensor.clone,
    ) -> Record:
        """A pass starting from the sources z, (items, dim). See `Recorder.record`."""
        arguments, value = self.recorder.item_axes.take(items), self._source.shaped(z)
        if self.origin is None:
            arguments[self._source.index] = value
        injected = None if self.origin is None else (self.origin, value)
        return self.recorder.record(arguments, calls=calls, early=early, injected=injected, z=z, copied=copied)

    def _check_repeated(self, values: dict[Call, Tensor | None]) -> None:
        """Refuse a model whose passes of the same input differ."""
        for call, value in values.items():
            seen = self._seen.get(call)
            if seen is not None and value is not None and not torch.equal(seen, value):
                raise draws_at_random()

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
        if end is None or not Paths(end, get_gradient_edge(first.z).node).lead_from(end):
            raise InputError(f"the output of {self.model_name} does not depend on its input, as far as autograd can see.")
