"""Measurements at each layer: sizes of outputs and gradients, mean growth of tangents, and singular values of the Jacobian."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from separatrix.analysis.depth.hooks import Call
from separatrix.analysis.depth.layers import Layer
from separatrix.analysis.depth.loss import Objective
from separatrix.analysis.depth.network import LayeredNetwork
from separatrix.analysis.depth.passes import Sizes, norm, sizes
from separatrix.analysis.depth.singular import Done, SingularValues, new_directions, refine
from separatrix.analysis.depth.sketch import MOST, Sketch
from separatrix.core.derivative import first_direction
from separatrix.core.orthonormal import resolution
from separatrix.core.randomness import torch_generator

WHOLE = 256  # input size up to which the whole Jacobian is cheaper than iterating at each layer
FRAME = 8  # random tangents, in addition to k; without singular values, at most so many
FEW = 4  # random tangents at first, without singular values
PRECISE = 0.1  # relative error of the gains up to which no more are needed
SWEEPS = 30  # maximum number of sweeps by default
SHARED = 2  # new directions that a layer brings into a shared subspace, for each singular value, as far as memory is planned
MOST_IMAGES = 60_000_000  # numbers in the images of such a subspace: 480 MB
MOST_NUMBERS = 20_000_000  # numbers in the tangents at all layers: 160 MB


@dataclass(frozen=True)
class Part:
    """Measurements of some items at one layer, (items, …); `active` (unit) over all of these items.

    If the singular values have not been computed, for lack of time, `is_left_out`, and they are NaN.
    """

    values: Tensor
    residual: Tensor
    gain: Tensor
    gain_stderr: Tensor
    activation: Tensor
    peak: Tensor
    gradient: Tensor
    underflow: Tensor
    parameter_gradient: Tensor
    active: Tensor
    alive: Tensor
    is_left_out: Tensor


@dataclass
class Chunk:
    """Items that are measured together, and what has been measured of them at each layer.

    Args:
        items: the items.
        each: sizes of outputs and gradients, for each item; none before the first pass.
        gains: ‖J‖_F/√d and its standard error at each layer, (items).
        guards: the items that are finite at each layer.
        images: the tangents pushed to each layer, if there is room for them until singular values are computed.
        found: layer ↦ its singular values, as far as they are known.
    """

    items: slice
    each: list[Sizes] = field(default_factory=list)
    gains: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    guards: "list[_Guard]" = field(default_factory=list)
    images: list[Tensor] | None = None
    found: dict[int, SingularValues] = field(default_factory=dict)


@dataclass(frozen=True)
class Layerwise:
    """Measurements of a network at chosen layers, with their options; without singular values, k is 0."""

    network: LayeredNetwork
    chosen: list[Layer]
    k: int
    sweeps: int | None
    tol: float
    seed: int
    objective: Objective
    changed: list[str] = field(default_factory=list)

    @property
    def dim(self) -> int:
        """Size of an input."""
        return self.network.source.shape[-1]

    @property
    def whole(self) -> bool:
        """Whether the whole Jacobian is computed."""
        return self.sweeps is None and self.dim <= WHOLE

    @cached_property
    def sketch(self) -> Sketch:
        """The sketch in which wide outputs are compared."""
        return Sketch(self.seed)

    @property
    def tangents(self) -> Tensor:
        """The frame pushed to all layers at once, (tangents, dim).

        It is the identity; or random vectors of unit variance; or, as the start of an iteration, an orthonormal basis of these.
        """
        return self._frame[0]

    @cached_property
    def _frame(self) -> tuple[Tensor, Tensor]:
        """The tangents, and the matrix that turns an orthonormal frame into random vectors of unit variance."""
        source = self.network.source
        if self.whole:
            return (identity := torch.eye(self.dim, dtype=source.dtype, device=source.device)), identity
        generator = torch_generator(self.seed, "tangents of a profile")
        count = min(self.k + FRAME, self.dim)
        random = torch.randn(count, self.dim, dtype=torch.float64, generator=generator).to(source)
        if not self.k:
            return random, random
        basis, mixture = torch.linalg.qr(random.mT)
        return basis.mT, mixture.mT

    @property
    def iterates(self) -> bool:
        """Whether singular values are found by iteration, after the first pass."""
        return self.k > 0 and not self.whole

    @cached_property
    def chunks(self) -> list[Chunk]:
        """As many items as fit into memory at a time."""
        each = len(self.tangents) * sum(layer.width if self.k else min(layer.width, MOST) for layer in self.chosen)
        size = max(1, MOST_NUMBERS // each)
        return [Chunk(slice(i, min(i + size, self.network.items))) for i in range(0, self.network.items, size)]

    @property
    def total(self) -> int:
        """Number of layers to be done in all chunks, with each kind of measurement."""
        return len(self.chunks) * len(self.chosen) * (2 if self.iterates else 1)

    def pace(self) -> float:
        """Seconds that one forward and one backward pass of one item take here."""
        begun = time.perf_counter()
        sizes(self.network, self.chosen, self.objective, 0)
        return time.perf_counter() - begun

    def measure(self) -> Iterator[Done]:
        """Measure chunk by chunk: what one pass gives, for all of them, and then singular values."""
        for chunk in self.chunks:
            self._pass(chunk)
            yield Done(len(self.chosen))
        if self.iterates:
            for chunk in self.chunks:
                yield from self._iterate(chunk)

    def _pass(self, chunk: Chunk) -> None:
        """Sizes and gains, and the singular values of whole Jacobians."""
        images = self._images(chunk.items, self._calls)
        each = [sizes(self.network, self.chosen, self.objective, item) for item in range(self.network.items)[chunk.items]]
        chunk.guards = [_Guard(torch.stack(alive)) for alive in zip(*(one.alive for one in each), strict=True)]
        images = [guard(image) for guard, image in zip(chunk.guards, images, strict=True)]
        chunk.gains = [self._gain(index, image) for index, image in enumerate(images)]
        if not self.iterates:
            for index, image in enumerate(images):
                values = torch.linalg.svdvals(image)[..., : self.k] if self.k else image[..., :0, 0]
                chunk.found[index] = SingularValues(values, torch.zeros_like(values))
        elif len(self.chunks) == 1:
            chunk.images = images
        chunk.each = each

    @cached_property
    def _calls(self) -> list[Call]:
        return [layer.call for layer in self.chosen]

    def _images(self, items: slice, calls: Sequence[Call]) -> list[Tensor]:
        """The tangents pushed to each layer, (items, tangents, width); without singular values, as many as the gains need."""
        frame, few = self.tangents, len(self.tangents) if self.k else FEW
        sketch = None if self.k else self.sketch
        images = self._first_images(frame[:few], items, calls, sketch)
        errors = [error / size for size, error in map(_frobenius_from_random, images)] if few < len(frame) else []
        if not any(bool((error > PRECISE).any()) for error in errors):
            return images
        z = self.network.source[items]
        more = self.network.push(z, frame[few:].expand(len(z), -1, -1), items, calls, sketch)
        return [torch.cat(pair, dim=-2) for pair in zip(images, more, strict=True)]

    def _first_images(self, frame: Tensor, items: slice, calls: Sequence[Call], sketch: Sketch | None) -> list[Tensor]:
        """The first tangents of some items pushed; those of the first items show how the network can be differentiated."""
        z = self.network.source[items]
        if items.start:
            return self.network.push(z, frame.expand(len(z), -1, -1), items, calls, sketch)
        trial = first_direction(z[:1])
        v = torch.cat([frame, trial]).expand(len(z), -1, -1)
        images = self.network.settled_push(v, items, calls, sketch, self.seed)
        last = self.chosen[-1]
        known = images[-1][:1, -1:] if images[-1].shape[-1] == last.width else None
        self.changed[:] = [self.network.changed_derivative(last, known)]
        return [image[..., :-1, :] for image in images]

    def _gain(self, index: int, image: Tensor) -> tuple[Tensor, Tensor]:
        """‖J‖_F/√d at a layer and its standard error, (items)."""
        width = self.chosen[index].width
        if self.whole:
            size, error = _frobenius(image)
        elif self.k:
            size, error = _frobenius_from_random(self._frame[1] @ image)
        else:
            size, error = _frobenius_from_random(image, image.shape[-1] < width)
        return size / width**0.5, error / width**0.5

    def part(self, chunk: Chunk, index: int) -> Part:
        """The measurements at one layer."""
        found = chunk.found.get(index)
        gain, stderr = chunk.gains[index]
        blank = gain.new_full((*gain.shape, 0), math.nan)
        values, residual = (blank, blank) if found is None else (_resolved(found.values, self.chosen[index].width), found.residual)
        values, residual = (nn.functional.pad(part, (0, self.k - part.shape[-1]), value=math.nan) for part in (values, residual))
        names = ("activation", "peak", "gradient", "underflow", "parameter_gradient")
        own = {name: torch.stack([getattr(one, name)[index] for one in chunk.each]) for name in names}
        active = torch.stack([one.active[index] for one in chunk.each]).any(0)
        left_out = torch.full_like(gain, found is None, dtype=torch.bool)
        return Part(values, residual, gain, stderr, **own, active=active, alive=chunk.guards[index].alive, is_left_out=left_out)

    def _iterate(self, chunk: Chunk) -> Iterator[Done]:
        """The singular values at each layer, by iteration."""
        traced, guards = self.network.traced(chunk.items, self._calls), chunk.guards
        start, z = self.tangents.expand(len(traced.z), -1, -1), traced.z.detach()

        def push(layers: Sequence[int], v: Tensor) -> list[Tensor]:
            pushed = self.network.push(z, v, chunk.items, [self._calls[layer] for layer in layers])
            return [guards[layer](image) for layer, image in zip(layers, pushed, strict=True)]

        def pull(layer: int, w: Tensor) -> Tensor:
            return guards[layer](traced.pull(layer, w))

        images = push(range(len(self.chosen)), start) if chunk.images is None else chunk.images
        chunk.images = None
        before: Tensor | None = None  # what the last layer of the group before amplifies
        for group in self._groups(len(traced.z)):
            frame, known = start, [images[layer] for layer in group]
            if before is not None and start.shape[-2] < self.dim:
                more = new_directions(start, before)
                frame = torch.cat([start, more], dim=-2)
                known = [torch.cat(pair, dim=-2) for pair in zip(known, push(group, more), strict=True)]
            counts = {layer: min(self.k, self.dim, self.chosen[layer].width) for layer in group}
            sweeps = SWEEPS if self.sweeps is None else self.sweeps
            shown = dict(zip(group, known, strict=True))
            before = yield from refine(push, pull, shown, frame, counts, chunk.found, sweeps=sweeps, tol=self.tol)

    def _groups(self, items: int) -> list[range]:
        """Layers that share a subspace: as many one after the other as fit into memory with the images of its directions."""
        ends, start = [], 0
        for end in range(1, len(self.chosen) + 1):
            layers = self.chosen[start : end + 1]
            directions = self.k + FRAME + SHARED * self.k * len(layers)
            if end == len(self.chosen) or items * directions * sum(layer.width for layer in layers) > MOST_IMAGES:
                ends.append(range(start, end))
                start = end
        return ends


def _resolved(values: Tensor, width: int) -> Tensor:
    """Singular values without those that are rounding errors, of a layer of that width."""
    return values.where(values > resolution(values.new_empty(0, width)) * values[..., :1], 0.0)


class _Guard:
    """Sets items that are not finite to zero, and keeps track of them."""

    def __init__(self, alive: Tensor) -> None:
        self.alive = alive

    def __call__(self, rows: Tensor) -> Tensor:
        """Guard rows of shape (items, rows, numbers)."""
        self.alive = self.alive & torch.isfinite(rows).all(-1).all(-1)
        return rows.detach().where(self.alive[:, None, None], 0.0)


def _frobenius(image: Tensor) -> tuple[Tensor, Tensor]:
    """‖J‖_F from the whole Jacobian, with a standard error of 0."""
    size = norm(image.flatten(-2))
    return size, torch.zeros_like(size)


# Note [Error of a gain from a few tangents]
# For Gaussian v, ‖J v‖² = Σ σ_i² χ²_1, so the mean over m tangents is distributed nearly as ‖J‖_F² χ²_N/N with N = m ν, where
# ν = (Σ σ²)²/Σ σ⁴ is the effective number of directions: 1 if one singular value dominates, and then the scatter of m squares says
# little about the error. But the inner products of the images know ν: with the Gram matrix G of m images,
#     E tr G² = m (m+1) Σ σ⁴ + m (Σ σ²)²,   E (tr G)² = 2 m Σ σ⁴ + m² (Σ σ²)²,
# and for a single direction the ν that solves these two is exactly 1. What is not yet known of 1/ν, its jackknife error over the
# tangents, is added to it. The true norm is the estimated one times √(N/χ²_N), whose root-mean-square distance from 1 is close to
# (1 + 3/N)/√(2N). Within two standard errors: 93–97 % of runs from 4 to 16 tangents, whether 1, 2, 5, 20 or all 300 directions
# are alike or σ_i falls like 1/i or i^(−1/2); less, down to 82 % at 4 tangents, if one direction has about as much of the sum as
# hundreds of small ones together, which few tangents may not show.


def _frobenius_from_random(image: Tensor, is_sketch: bool = False) -> tuple[Tensor, Tensor]:
    """‖J‖_F from E‖J v‖² = ‖J‖_F² over random v of unit variance, with its standard error.

    See Note [Error of a gain from a few tangents], and for a sketch of J v Note [Sketches].
    """
    scale, count = norm(image.flatten(-2)), image.shape[-2]
    gram = image / scale.where(scale > 0, 1.0)[..., None, None]
    gram = gram @ gram.mT  # of trace 1
    one_over_freedom = _concentration(gram) / count + (1 / MOST if is_sketch else 0)
    size = scale / count**0.5
    return size, size * (1 + 3 * one_over_freedom) * (one_over_freedom / 2).sqrt()


def _concentration(gram: Tensor) -> Tensor:
    """1/ν, the inverse of the effective number of directions, with its jackknife error added."""
    count = gram.shape[-1]
    if count < 3:
        return torch.ones_like(gram[..., 0, 0])
    squares, own = gram.square(), gram.diagonal(dim1=-2, dim2=-1)
    total, trace = squares.sum((-2, -1)), own.sum(-1)
    without = total[..., None] - 2 * squares.sum(-1) + own.square()
    one_less = _inverse_directions(without, trace[..., None] - own, count - 1)
    error = (one_less.var(-1, correction=0) * (count - 1)).sqrt()
    return (_inverse_directions(total, trace, count) + error).clamp(_TINY, 1.0)


def _inverse_directions(squares: Tensor, trace: Tensor, count: int) -> Tensor:
    """Σ σ⁴/(Σ σ²)² from tr G² and tr G of so many tangents."""
    fourth = (squares - trace.square() / count) / ((count + 2) * (count - 1))
    square = (trace.square() - 2 * count * fourth) / count**2
    return (fourth / square.clamp(min=_TINY)).clamp(0.0, 1.0)


_TINY = 1e-30
