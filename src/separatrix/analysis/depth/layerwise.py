"""Measurements at each layer: singular values of the Jacobian, mean growth of tangents, and norm of the gradient."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from separatrix.analysis.depth.layers import Layer
from separatrix.analysis.depth.loss import Objective
from separatrix.analysis.depth.network import LayeredNetwork
from separatrix.analysis.depth.singular import leading_singular_values
from separatrix.analysis.depth.traced import Traced
from separatrix.core.orthonormal import resolution
from separatrix.core.randomness import torch_generator

WHOLE = 256  # input size up to which the whole Jacobian is cheaper than iterating at each layer
FRAME = 8  # tangents in addition to k
SWEEPS = 12  # maximum number of sweeps by default
MOST_NUMBERS = 20_000_000  # numbers in the tangents at all layers: 160 MB


@dataclass(frozen=True)
class Part:
    """Measurements of some items at one layer, (items, …)."""

    values: Tensor
    residual: Tensor
    gain: Tensor
    gain_stderr: Tensor
    gradient: Tensor
    alive: Tensor
    steps: int = 1


@dataclass(frozen=True)
class Layerwise:
    """Measurements of a network at chosen layers, with their options."""

    network: LayeredNetwork
    chosen: list[Layer]
    k: int
    sweeps: int | None
    tol: float
    seed: int
    objective: Objective

    @property
    def dim(self) -> int:
        """Size of an input."""
        return self.network.source.shape[-1]

    @property
    def whole(self) -> bool:
        """Whether the whole Jacobian is computed."""
        return self.sweeps is None and self.dim <= WHOLE

    @property
    def tangents(self) -> Tensor:
        """The frame pushed to all layers at once, (tangents, dim): the identity, or random vectors of unit variance."""
        source = self.network.source
        if self.whole:
            return torch.eye(self.dim, dtype=source.dtype, device=source.device)
        generator = torch_generator(self.seed, "tangents of a profile")
        count = min(self.k + FRAME, self.dim)
        return torch.randn(count, self.dim, dtype=torch.float64, generator=generator).to(source)

    def chunks(self) -> list[slice]:
        """Slices of as many items as fit into memory at a time."""
        each = len(self.tangents) * sum(layer.width for layer in self.chosen)
        size = max(1, MOST_NUMBERS // each)
        return [slice(i, min(i + size, self.network.items)) for i in range(0, self.network.items, size)]

    def parts(self, chunks: list[slice]) -> Iterator[Part]:
        """The measurements at each layer, for one chunk of items after the other."""
        calls = [layer.call for layer in self.chosen]
        for items in chunks:
            z = self.network.source[items]
            frame = self.tangents
            images = self.network.push(z, frame.expand(len(z), *frame.shape), items, calls)
            traced = self.network.traced(items, calls)
            gradients = self._gradient_norms(traced, items)
            right = None
            for index, image in enumerate(images):
                part, right = self._part(index, items, image, traced, gradients[index], right)
                yield part

    def _part(
        self, index: int, items: slice, image: Tensor, traced: Traced, gradient: Tensor, before: Tensor | None
    ) -> tuple[Part, Tensor | None]:
        """Measurements at one layer, and its right singular vectors, from which the iteration at the next layer starts."""
        guard = _Guard(torch.isfinite(traced.values[index]).all(-1))
        image = guard(image)
        gain, error = (_frobenius, _frobenius_from_random)[not self.whole](image)
        if self.whole:
            values = torch.linalg.svdvals(image)
            values, residual, right = values[..., : self.k], torch.zeros_like(values[..., : self.k]), None
        else:
            layer, z = self.chosen[index], self.network.source[items]

            def push(v: Tensor) -> Tensor:
                return guard(self.network.push(z, v, items, [layer.call])[0])

            if before is not None:
                image = torch.cat([push(before), image[..., : self.k + FRAME - before.shape[-2], :]], dim=-2)
            found = leading_singular_values(
                push,
                lambda w: guard(traced.pull(index, w)),
                image[..., : min(self.dim, layer.width), :],
                self.dim,
                k=min(self.k, self.dim, layer.width),
                sweeps=SWEEPS if self.sweeps is None else self.sweeps,
                tol=self.tol,
            )
            values, residual, right = found.values, found.residual, found.right
        values = values.where(values > resolution(image) * values[..., :1], 0.0)
        pad = (0, self.k - values.shape[-1])
        values, residual = (nn.functional.pad(part, pad, value=math.nan) for part in (values, residual))
        width = self.chosen[index].width ** 0.5
        return Part(values, residual, gain / width, error / width, gradient, guard.alive), right

    def _gradient_norms(self, traced: Traced, items: slice) -> list[Tensor]:
        output, network = traced.output, self.network
        first = range(network.items)[items].start
        moved = output[None] if network.axis is None else output.movedim(network.axis, 0)
        with torch.enable_grad():
            losses = [self.objective.of_item(item, first + i) for i, item in enumerate(moved)]
            total = torch.stack(losses).sum()
        rows = [network.rows(gradient, len(traced.z)) for gradient in traced.gradients(total)]
        return [_norm(row) for row in rows]


class _Guard:
    """Sets items that are not finite to zero, and keeps track of them."""

    def __init__(self, alive: Tensor) -> None:
        self.alive = alive

    def __call__(self, rows: Tensor) -> Tensor:
        """Guard rows of shape (items, rows, numbers)."""
        self.alive = self.alive & torch.isfinite(rows).all(-1).all(-1)
        return rows.detach().where(self.alive[:, None, None], 0.0)


def _norm(rows: Tensor) -> Tensor:
    """Euclidean norms along the last axis, without underflow in the squares."""
    size = rows.abs().amax(-1, keepdim=True)
    size = size.where(size > 0, 1.0)
    return size[..., 0] * torch.linalg.vector_norm(rows / size, dim=-1)


def _frobenius(image: Tensor) -> tuple[Tensor, Tensor]:
    """‖J‖_F from the whole Jacobian, with a standard error of 0."""
    norm = _norm(image.flatten(-2))
    return norm, torch.zeros_like(norm)


def _frobenius_from_random(image: Tensor) -> tuple[Tensor, Tensor]:
    """‖J‖_F from E‖J v‖² = ‖J‖_F² over random v of unit variance, with its standard error."""
    lengths = _norm(image)
    scale = lengths.amax(-1, keepdim=True)
    scale = scale.where(scale > 0, 1.0)
    squares = (lengths / scale).square()
    norm = squares.mean(-1).sqrt()
    count = squares.shape[-1]
    error = squares.std(-1) / count**0.5 / (2 * norm.clamp(min=1e-30)) if count > 1 else torch.full_like(norm, math.nan)
    return norm * scale[..., 0], error * scale[..., 0]
