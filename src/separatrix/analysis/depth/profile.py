"""Depth is time: how tangents and gradients grow from layer to layer, in any feed-forward graph."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.analysis.depth.layers import Layer
from separatrix.analysis.depth.loss import Loss, Objective, objective
from separatrix.analysis.depth.network import LayeredNetwork
from separatrix.analysis.depth.singular import leading_singular_values
from separatrix.analysis.depth.traced import Traced
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.orthonormal import resolution
from separatrix.core.progress import watched
from separatrix.core.randomness import torch_generator, undisturbed
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, plain

WHOLE = 256  # numbers in an input up to which the whole Jacobian is cheaper than iterating at each layer
FRAME = 8  # tangents beyond the k wanted
SWEEPS = 12  # at most, by default
MOST_NUMBERS = 20_000_000  # in the tangents at all layers: 160 MB
FACTOR = 10  # of growth over the whole depth, beyond which a network is said to explode, or to vanish
NEAR = 2  # within which it is near-isometric


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DepthProfile(Result):
    r"""How far a change of the input reaches in depth: J_l = ∂y_l/∂x at each layer l, and the gradient that comes back to it.

    Args:
        layers: names, in the order in which they run; a further call of the same module is "name:2".
        kinds: the class of each.
        widths: (layer), d_l, numbers in each layer's output.
        cut: (layer), whether the whole signal passes through this layer.
        depth: (layer), how many such layers there are in the network up to this one, itself included.
        singular_values: (layer, *batch, k), σ_i(J_l), descending; NaN where a layer is too narrow to have so many.
        residual: (layer, *batch, k), ‖J v_i − σ_i u_i‖/σ_1: a true singular value lies within residual · σ_1. 0: whole Jacobian.
        gain: (layer, *batch), ‖J_l‖_F/√d_l from random tangents: the r.m.s. change of its numbers under a random change of all
            inputs, relative to theirs.
        gain_stderr: (layer, *batch), its standard error; 0 where the whole Jacobian was taken.
        gradient: (layer, *batch), ‖∂loss/∂y_l‖.
        exponents: (layer, *batch, k), ln σ_i / depth, on the layers through which the whole signal passes; else NaN.
        layer_codes: (layer, *batch), `Status` of each layer.
        dim: d_0, numbers in one input.
        model: class of the network.
        loss: what the gradient is of, in words.
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    widths: Tensor
    cut: Tensor
    depth: Tensor
    singular_values: Tensor
    residual: Tensor
    gain: Tensor
    gain_stderr: Tensor
    gradient: Tensor
    exponents: Tensor
    layer_codes: Tensor
    dim: int
    model: str
    loss: str

    layout: ClassVar[dict[str, str]] = {
        "widths": "layer",
        "cut": "layer",
        "depth": "layer",
        "singular_values": "layer batch k",
        "residual": "layer batch k",
        "gain": "layer batch",
        "gain_stderr": "layer batch",
        "gradient": "layer batch",
        "exponents": "layer batch k",
        "layer_codes": "layer batch",
    }
    units: ClassVar[dict[str, str]] = {
        "singular_values": "change of the layer per change of the input",
        "residual": "of the largest singular value",
        "gain": "r.m.s. change of a number of the layer per change of a number of the input",
        "gain_stderr": "as gain",
        "gradient": "loss per unit of the layer",
        "exponents": "nats per layer through which the whole signal passes",
    }

    @property
    def largest(self) -> Tensor:
        """σ_1 on the scale of `gain`, σ_1 √(min(d_0, d_l)/d_l), shape (layer, *batch): the most sensitive direction."""
        widths = self.widths.to(self.gain).reshape(-1, *[1] * len(self.batch))
        return self.singular_values[..., 0] * (widths.clamp(max=self.dim) / widths).sqrt()

    @property
    def last(self) -> int:
        """Index of the last layer through which the whole signal passes; of the last layer at all where there is none."""
        whole = self.cut.nonzero()[:, 0]
        return int(whole[-1]) if len(whole) else len(self.layers) - 1

    @property
    def verdicts(self) -> Any:
        """A word for each input: a string, or an array of them.

        By the gain at the last layer through which the whole signal passes: "vanishing" below 1/10, "contracting" below 1/2,
        "near-isometric" up to 2, "expanding" up to 10, "exploding" above; "uneven" where the gain is none of the extremes but
        the most sensitive direction grows more than tenfold; "unknown" where it diverged.
        """
        gain, largest = self.gain[self.last], self.largest[self.last]
        words = np.full(self.batch, "near-isometric", dtype="<U14")
        words[(gain > NEAR).cpu().numpy()] = "expanding"
        words[(gain < 1 / NEAR).cpu().numpy()] = "contracting"
        words[(largest > FACTOR).cpu().numpy()] = "uneven"
        words[(gain > FACTOR).cpu().numpy()] = "exploding"
        words[(gain < 1 / FACTOR).cpu().numpy()] = "vanishing"
        words[(gain.isnan() | (self.codes == Status.DIVERGED)).cpu().numpy()] = "unknown"
        return str(words) if words.ndim == 0 else words

    @property
    def verdict(self) -> str:
        """The word that most inputs have."""
        words, counts = np.unique(np.asarray(self.verdicts), return_counts=True)
        return str(words[counts.argmax()])

    @property
    def changed(self) -> str:
        """That the gradients are not those of what the network does, which its author changed; empty where they are."""
        return str(self.settings.get("changed", ""))

    def summary(self) -> str:
        """The verdict with its numbers, the gradient, and how sure they are."""
        count = self.codes.numel()
        whole = int(self.cut.sum())
        given, layers = f"{counted(count, 'input')} of {counted(self.dim, 'number')}", counted(len(self.layers), "layer")
        told = [
            f"unsure: {self.changed}" if self.changed else "",
            f"{self.model} in depth: {given}, {layers}, {whole} of which carry the whole signal",
            self._growth(),
            self._gradients(),
            self._certainty(),
        ]
        return "\n".join(line for line in told if line)

    def _growth(self) -> str:
        known = (self.codes != Status.DIVERGED).reshape(-1)
        if not known.any():
            return "unknown: every input diverged"
        gain = self.gain[self.last].reshape(-1)[known]
        largest = float(self.largest[self.last].reshape(-1)[known].median())
        share = f" for {int((np.asarray(self.verdicts) == self.verdict).sum())} of {self.codes.numel()} inputs"
        typical, steps = float(gain.median()), max(int(self.depth[self.last]), 1)
        rate = plain(math.log(typical) / steps) if typical > 0 else "−∞"
        where = "" if self.verdict not in ("vanishing", "exploding") else self._where()
        return (
            f"{self.verdict}{'' if self.codes.numel() == 1 else share}: a random change of the input is {plain(typical)} times as "
            f"large, number for number, at '{self.layers[self.last]}' ({_range(gain)}; {rate} nats per layer that carries the "
            f"whole signal), the most sensitive one {plain(largest)} times{where}"
        )

    def _where(self) -> str:
        """The first layer with the whole signal from which the median gain stays beyond the border."""
        median = self.gain.reshape(len(self.layers), -1).nanmedian(-1).values
        beyond = median < 1 / FACTOR if self.verdict == "vanishing" else median > FACTOR
        index = [i for i in range(len(self.layers)) if bool(self.cut[i])]
        first = next((i for i, j in enumerate(index) if bool(beyond[index[i:]].all())), None)
        return "" if first is None else f"; beyond a factor of {FACTOR} from '{self.layers[index[first]]}' on"

    def _gradients(self) -> str:
        median = self.gradient.reshape(len(self.layers), -1).nanmedian(-1).values
        first = int(self.cut.nonzero()[0]) if self.cut.any() else 0
        sizes = f"{plain(float(median[first]))} at '{self.layers[first]}', {plain(float(median[-1]))} at '{self.layers[-1]}'"
        return f"gradient of {self.loss}: {sizes}"

    def _certainty(self) -> str:
        lost = int((self.codes == Status.DIVERGED).sum())
        told = [f"{lost} of {self.codes.numel()} inputs diverged"] if lost else []
        if self.settings.get("method") == "whole Jacobian":
            return "; ".join(["singular values of the whole Jacobian", *told])
        worst = self.residual.nan_to_num(0.0).max()
        open_ends = int((self.layer_codes == Status.NOT_CONVERGED).sum())
        told += [f"{open_ends} of {self.layer_codes.numel()} spectra not converged"] if open_ends else []
        return "; ".join([f"singular values with residuals up to {plain(float(worst))} of the largest", *told])


@undisturbed()
def depth_profile(
    model: nn.Module,
    inputs: Any,
    *,
    k: int | None = None,
    layers: Sequence[str] | None = None,
    targets: Tensor | None = None,
    loss: Loss | None = None,
    origin: str | None = None,
    batch_axis: int | None = 0,
    sweeps: int | None = None,
    tol: float = 1e-2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    progress: bool = False,
) -> DepthProfile:
    r"""How tangents and gradients grow in the depth of any feed-forward network.

        J_l = ∂y_l/∂x,   σ_1 ≥ σ_2 ≥ … its singular values,   gain_l = ‖J_l‖_F/√d_l,   gradient_l = ‖∂loss/∂y_l‖

    for the output y_l, of d_l numbers, of each layer l, and each input x. A random network whose weights have variance 1/fan-in
    has a gain of 1 whatever its widths. A layer is *cut* when the whole signal passes through it (in a residual network, the sum
    behind a block and not what is inside); there J_l is a product over depth, and ln σ_i / depth a finite-time exponent.

    Args:
        model: any module; it is not changed, and runs in evaluation mode.
        inputs: what the model takes, batch and all: a tensor, an array, a tuple of several arguments, or a dict of named ones, of
            which the first floating-point one is x.
        k: number of leading singular values. Default: 8, or as many as an input has numbers.
        layers: names of modules. Default: all whose output is not simply that of a layer before it, and depends on the input.
        targets: for the loss: classes (whole numbers; cross-entropy) or values (squared error, their mean).
        loss: (output, targets), or (output) without targets, of one item at a time, to a number. Default without targets: the
            output's component along a random unit vector, so that the gradient at the output is 1.
        origin: name of a layer whose output is taken as x. Default: the inputs; for token indices, the first layer that turns
            them into floating-point numbers.
        batch_axis: along which the items of the inputs and of all layers lie; None when the inputs are one item. Of further
            arguments, items may lie along another axis, or an argument may be shared by all: that is found out by trying.
        sweeps: at most so many applications of J and Jᵀ, at least 2. Default: the whole Jacobian for inputs of up to 256 numbers,
            else 12.
        tol: residual below which singular values are converged.
        seed: of the random tangents and of the random loss.
        dtype: of the computation, float64 or float32.
        progress: show a progress bar.

    Returns:
        DepthProfile: `singular_values` (layer, *batch, k) with `residual`, `gain` with `gain_stderr`, `gradient`, `exponents`,
        `cut`, `verdicts`. An item whose spectra did not all reach `tol` is not_converged; one that overflows is diverged, and NaN
        from that layer on.

    Raises:
        InputError: a layer that does not exist, is not reached, or does not depend on the input; k too large; inputs that are not
            finite, or that the model cannot take; items that are not independent.
        UnsupportedModuleError: the model is no nn.Module, or no derivative goes through it.
    Limits: k random tangents do not show the leading singular values, hence the sweeps; singular values that lie close together
        take many of them. Those below rounding of the largest are 0. A sweep costs some k + 8 forward and as many backward passes
        up to each layer: name the layers of a large network. Holds k + 8 tangents at all layers of an item at once.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120; Pennington, Schoenholz & Ganguli 2017, arXiv:1711.04735.
    """
    k, sweeps = _check_counts(k, sweeps, tol, seed, dtype)
    network = LayeredNetwork(model, inputs, batch_axis=batch_axis, origin=origin, dtype=dtype)
    chosen = network.choose(layers)
    dim = network.source.shape[-1]
    most = max(min(dim, layer.width) for layer in chosen)
    if k is not None and k > most:
        raise InputError(f"k is {k} but no Jacobian here has more than {most} singular values.\nAsk for at most {most}.")
    k = min(8, most) if k is None else k
    network.settle_derivative([layer.call for layer in chosen], seed)
    run = _Run(network, chosen, k, sweeps, tol, seed, objective(targets, loss, network.source, seed, axis=network.axis))
    chunks = run.chunks()
    parts = list(watched(run.parts(chunks), len(chunks) * len(chosen), "Layers", progress))
    return _assemble(run, parts, len(chunks))


@dataclass(frozen=True)
class _Part:
    """One layer of some items: (items, …)."""

    values: Tensor
    residual: Tensor
    gain: Tensor
    gain_stderr: Tensor
    gradient: Tensor
    alive: Tensor
    steps: int = 1


@dataclass(frozen=True)
class _Run:
    """What is asked."""

    network: LayeredNetwork
    chosen: list[Layer]
    k: int
    sweeps: int | None
    tol: float
    seed: int
    objective: Objective

    @property
    def dim(self) -> int:
        """Numbers in an input."""
        return self.network.source.shape[-1]

    @property
    def whole(self) -> bool:
        """Whether the whole Jacobian is taken."""
        return self.sweeps is None and self.dim <= WHOLE

    @property
    def tangents(self) -> Tensor:
        """The frame that is pushed to all layers at once, (tangents, dim): the identity, or random ones of unit variance."""
        source = self.network.source
        if self.whole:
            return torch.eye(self.dim, dtype=source.dtype, device=source.device)
        generator = torch_generator(self.seed, "tangents of a profile")
        count = min(self.k + FRAME, self.dim)
        return torch.randn(count, self.dim, dtype=torch.float64, generator=generator).to(source)

    def chunks(self) -> list[slice]:
        """The items, as many at a time as fit."""
        each = len(self.tangents) * sum(layer.width for layer in self.chosen)
        size = max(1, MOST_NUMBERS // each)
        return [slice(i, min(i + size, self.network.items)) for i in range(0, self.network.items, size)]

    def parts(self, chunks: list[slice]) -> Iterator[_Part]:
        """Layer after layer, for one chunk of items after the other."""
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
    ) -> tuple[_Part, Tensor | None]:
        """One layer, and its right singular vectors, from which the next one's iteration begins: they turn little."""
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
        return _Part(values, residual, gain / width, error / width, gradient, guard.alive), right

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
    """Puts zeros where an item has left the finite numbers, and remembers which have."""

    def __init__(self, alive: Tensor) -> None:
        self.alive = alive

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows, shape (items, rows, numbers)."""
        self.alive = self.alive & torch.isfinite(rows).all(-1).all(-1)
        return rows.detach().where(self.alive[:, None, None], 0.0)


def _norm(rows: Tensor) -> Tensor:
    """Euclidean lengths along the last axis, without underflow in the squares."""
    size = rows.abs().amax(-1, keepdim=True)
    size = size.where(size > 0, 1.0)
    return size[..., 0] * torch.linalg.vector_norm(rows / size, dim=-1)


def _frobenius(image: Tensor) -> tuple[Tensor, Tensor]:
    """‖J‖_F from all of J."""
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


def _check_counts(k: int | None, sweeps: int | None, tol: float, seed: int, dtype: torch.dtype) -> tuple[int | None, int | None]:
    if k is not None and check_whole("k", k) < 1:
        raise InputError(f"k is {k}; at least 1 singular value is measured.")
    if sweeps is not None and check_whole("sweeps", sweeps) < 2:
        raise InputError(f"sweeps is {sweeps}; at least 2 are needed: random tangents do not show the leading singular values.")
    if not isinstance(tol, int | float) or not 0 < tol < 1:
        raise InputError(f"tol is {tol!r}; it is a residual between 0 and 1.")
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"dtype is {dtype}; profiles are float64 or float32.")
    check_seed(seed)
    return k, sweeps


def _assemble(run: _Run, parts: list[_Part], chunks: int) -> DepthProfile:
    """The parts of all chunks and layers as one result."""
    network, layers = run.network, run.chosen
    batch = () if network.axis is None else (network.items,)

    def together(name: str) -> Tensor:
        rows = [torch.cat([getattr(parts[c * len(layers) + i], name) for c in range(chunks)]) for i in range(len(layers))]
        stacked = torch.stack(rows).detach()
        return stacked.reshape(len(layers), *batch, *stacked.shape[2:])

    alive = together("alive")
    values, residual, gain, gain_stderr, gradient = (
        (part := together(name)).where(alive if part.ndim == alive.ndim else alive[..., None], torch.nan)
        for name in ("values", "residual", "gain", "gain_stderr", "gradient")
    )
    open_ends = (residual.nan_to_num(0.0) > run.tol).any(-1)
    codes = torch.where(alive, torch.where(open_ends, Status.NOT_CONVERGED, Status.OK), Status.DIVERGED).to(torch.int8)
    whole = [layer for layer in network.layers if layer.cut and not layer.alias]
    depth = torch.tensor([_depth_of(layer, network.layers, whole) for layer in layers])
    cut = torch.tensor([layer.cut for layer in layers])
    column = (-1, *[1] * (len(batch) + 1))
    exponents = values.log() / depth.clamp(min=1).reshape(column).to(values)
    return DepthProfile(
        codes=codes.amax(0),
        layers=tuple(layer.name for layer in layers),
        kinds=tuple(layer.kind for layer in layers),
        widths=torch.tensor([layer.width for layer in layers]),
        cut=cut,
        depth=depth,
        singular_values=values,
        residual=residual,
        gain=gain,
        gain_stderr=gain_stderr,
        gradient=gradient,
        exponents=exponents.where(cut.reshape(column).to(values.device), torch.nan),
        layer_codes=codes,
        dim=run.dim,
        model=network.model_name,
        loss=run.objective.words,
        settings=_settings(run),
    )


def _settings(run: _Run) -> dict[str, Any]:
    """What was asked, defaults filled in, and how it was done."""
    network = run.network
    return {
        "k": run.k,
        "sweeps": run.sweeps if run.sweeps is not None or run.whole else SWEEPS,
        "tol": run.tol,
        "seed": run.seed,
        "method": "whole Jacobian" if run.whole else "subspace iteration",
        "tangents": "reverse mode, twice" if network.by_autograd_only else "forward mode",
        "origin": network.origin[0] if network.origin else "the input",
        "batch_axis": network.axis,
        "dtype": str(network.source.dtype).removeprefix("torch."),
        "loss": run.objective.words,
        "changed": network.changed_derivative(run.chosen[-1]),
    }


def _depth_of(layer: Layer, layers: list[Layer], whole: list[Layer]) -> int:
    """How many layers with the whole signal have run once this one has."""
    place = layers.index(layer)
    return sum(layers.index(other) <= place for other in whole)


def _range(values: Tensor) -> str:
    if len(values) == 1:
        return "one input"
    return f"{plain(float(values.min()))} … {plain(float(values.max()))} over the inputs"
