"""Depth as time: growth of tangents and gradients from layer to layer, in any feed-forward graph."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from separatrix.analysis.depth.layers import Layer
from separatrix.analysis.depth.layerwise import SWEEPS, WHOLE, Layerwise
from separatrix.analysis.depth.loss import Loss, objective
from separatrix.analysis.depth.network import LayeredNetwork
from separatrix.analysis.depth.result import DepthProfile
from separatrix.analysis.depth.statistics import STATISTICS
from separatrix.core.checks import check_choice, check_fraction, check_seed, check_whole
from separatrix.core.ending import ending, time_limit, why_ended
from separatrix.core.errors import InputError
from separatrix.core.progress import watched
from separatrix.core.randomness import undisturbed
from separatrix.core.result import Status
from separatrix.core.wording import counted, plain


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
    statistics: Literal["running", "batch"] = "running",
    sweeps: int | None = None,
    tol: float = 1e-2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    seconds: float | None = None,
    progress: bool = False,
    throw: bool = False,
) -> DepthProfile:
    r"""Growth of tangents and gradients with depth in any feed-forward network.

        J_l = ∂y_l/∂x,   σ_1 ≥ σ_2 ≥ … its singular values,   gain_l = ‖J_l‖_F/√d_l,   gradient_l = ‖∂loss/∂y_l‖

    for the output y_l of each layer l, of size d_l, and each input x. A random network whose weights have variance 1/fan-in has a
    gain of 1 at any width. A layer is a *cut* if the whole signal passes through it: in a residual network, the sum after a block
    but not the layers inside. There J_l is a product over depth, and ln σ_i / depth a finite-time Lyapunov exponent.

    One forward and one backward pass of each input give the sizes of activations and gradients, those of the parameters included,
    and a forward pass with a few random tangents gives the gains. Singular values are computed as well for inputs of up to 256
    numbers; for larger inputs, if `k` or `layers` or `sweeps` is given.

    Args:
        model: any module; it is not changed, and runs in evaluation mode.
        inputs: arguments of the model for a batch: a tensor, an array, a tuple of several arguments, or a dict of named ones. The
            first floating-point one is x.
        k: number of leading singular values. Default: 8, or all if there are fewer; none for inputs of more than 256 numbers,
            unless `layers` or `sweeps` is given.
        layers: names of modules. Default: all that depend on the input and do not just pass on another layer's output.
        targets: targets of the loss: classes (whole numbers; cross-entropy) or values (mean squared error).
        loss: function (output, targets), or (output) without targets, that returns one number for a batch of one item. Default
            without targets: the component of the output along a random unit vector, whose gradient at the output has norm 1.
        origin: name of a layer whose output is taken as x. Default: the inputs; for token indices, the first layer that turns
            them into floating-point numbers.
        batch_axis: batch axis of the inputs and of all layers, or None if the inputs are one item. Further arguments may have
            another batch axis or none; it is found by trial.
        statistics: what BatchNorm layers normalise with: their "running" statistics, as in evaluation mode, or those of this
            "batch" of inputs, as in training mode, held fixed. Before any training the running ones are mean 0 and variance 1,
            which normalise nothing; the result then says so.
        sweeps: maximum number of applications of J and Jᵀ, at least 2. Default: 30, or the whole Jacobian for inputs of up to 256
            numbers.
        tol: residual below which singular values have converged.
        seed: seed of the random tangents and of the random loss.
        dtype: dtype of the computation, float64 or float32.
        seconds: end early, after this time, with what is measured until then: sizes and gains come first, then singular values.
            Default: no limit.
        progress: show a progress bar.
        throw: raise instead of marking items `diverged` or `not_converged`.

    Returns:
        DepthProfile: `activation`, `gradient`, `parameter_gradient`, `dead_units`, `margin()`, `gain` with `gain_stderr`,
        `singular_values` (layer, *batch, k) with `residual` and `exponents` (or None), `cut`, `verdicts`. An item is
        `not_converged` if the residual at one of its layers exceeds `tol`. An item that overflows is `diverged`, and NaN from
        that layer on. After an early end, `left_out` names the layers without singular values, and inputs that were not reached
        are missing.

    Raises:
        InputError: a layer does not exist, is not reached or does not depend on the input; k is too large; the inputs are not
            finite or do not fit the model; items are not independent; or `seconds` is less than one pass of the inputs takes.
        UnsupportedModuleError: the model is not an nn.Module, or is not differentiable.
        DivergedError, NotConvergedError: with `throw=True`.
    Limits: singular values that lie close together take many sweeps. Those below rounding error of the largest are 0. A sweep
        costs about k forward and k backward passes for each layer, so name the layers of a large network. Stores the images of
        k + 8 tangents of an item at all layers, and of more at some of them. Overflow is seen in outputs of layers only.
    Source: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120; Pennington, Schoenholz & Ganguli 2017, arXiv:1711.04735.

    Example:
        >>> layers = [nn.Linear(4, 4, bias=False) for _ in range(3)]
        >>> for layer in layers:
        ...     _ = nn.init.eye_(layer.weight).data.mul_(0.5)
        >>> profile = sx.depth_profile(nn.Sequential(*layers), torch.ones(2, 4))
        >>> profile.gain[:, 0].tolist(), profile.verdict
        ([0.5, 0.25, 0.125], 'contracting')
    """
    k, sweeps = _check_counts(k, sweeps, tol, seed, dtype)
    check_choice("statistics", statistics, STATISTICS)
    network = LayeredNetwork(model, inputs, batch_axis=batch_axis, origin=origin, dtype=dtype, statistics=statistics)
    chosen = network.choose(layers)
    dim = network.source.shape[-1]
    most = max(min(dim, layer.width) for layer in chosen)
    if k is not None and k > most:
        raise InputError(f"k is {k}, but the Jacobians have at most {most} singular values.\nPass a k of at most {most}.")
    asked = k is not None or layers is not None or sweeps is not None or dim <= WHOLE
    k = (min(8, most) if asked else 0) if k is None else k
    run = Layerwise(network, chosen, k, sweeps, tol, seed, objective(targets, loss, network.source, seed, axis=network.axis))
    with nullcontext() if seconds is None else ending(seconds):
        _check_limit(run)
        done = sum(part.steps for part in watched(run.measure(), run.total, "Layers", progress, keeps=True))
        ended = why_ended() if done < run.total else ""
    settings = {**_settings(run, statistics), "seconds": seconds}
    return _assemble(run, ended, settings).or_raise(throw)


def _check_limit(run: Layerwise) -> None:
    """Refuse a time limit below what one pass of the first inputs takes."""
    limit, items = time_limit(), len(range(run.network.items)[run.chunks[0].items])
    if limit is not None and limit < (needed := run.pace() * items):
        raise InputError(
            f"seconds is {plain(limit)}, but one forward and one backward pass of {counted(items, 'input')} take about "
            f"{plain(float(f'{needed:.2g}'))} s here.\nPass more seconds, or fewer inputs."
        )


def _assemble(run: Layerwise, ended: str, settings: dict[str, Any]) -> DepthProfile:
    """One result from the parts of all chunks and layers."""
    network, layers = run.network, run.chosen
    rows = [[run.part(chunk, i) for chunk in run.chunks if chunk.each] for i in range(len(layers))]
    batch = () if network.axis is None else (sum(len(part.gain) for part in rows[0]),)

    def together(name: str) -> Tensor:
        stacked = torch.stack([torch.cat([getattr(part, name) for part in row]) for row in rows]).detach()
        return stacked.reshape(len(layers), *batch, *stacked.shape[2:])

    def measured(name: str) -> Tensor:
        part = together(name)
        return part.where(alive if part.ndim == alive.ndim else alive[..., None], torch.nan)

    alive = together("alive")
    values, residual = measured("values"), measured("residual")
    active = [torch.stack([part.active for part in row]).any(0) for row in rows]
    is_left_out = together("is_left_out")
    open_ends = (residual.nan_to_num(0.0) > run.tol).any(-1) | is_left_out
    codes = torch.where(alive, torch.where(open_ends, Status.NOT_CONVERGED, Status.OK), Status.DIVERGED).to(torch.int8)
    cuts = [layer for layer in network.layers if layer.cut and not layer.alias]
    depth = torch.tensor([_depth_of(layer, network.layers, cuts) for layer in layers])
    cut = torch.tensor([layer.cut for layer in layers])
    column = (-1, *[1] * (len(batch) + 1))
    exponents = (values.log() / depth.clamp(min=1).reshape(column).to(values)).where(
        cut.reshape(column).to(values.device), torch.nan
    )
    return DepthProfile(
        codes=codes.amax(0),
        layers=tuple(layer.name for layer in layers),
        kinds=tuple(layer.kind for layer in layers),
        widths=torch.tensor([layer.width for layer in layers]),
        cut=cut,
        depth=depth,
        has_weights=torch.tensor([layer.has_weights for layer in layers]),
        unit_count=torch.tensor([len(one) for one in active]),
        dead_units=torch.tensor([int((~one).sum()) for one in active]),
        **{name: measured(name) for name in ("activation", "peak", "gain", "gain_stderr", "gradient", "underflow")},
        parameter_gradient=measured("parameter_gradient"),
        **({"singular_values": values, "residual": residual, "exponents": exponents} if run.k else {}),
        layer_codes=codes,
        dim=run.dim,
        model=network.model_name,
        loss=run.objective.words,
        ended=ended,
        left_out=tuple(layer.name for layer, row in zip(layers, is_left_out, strict=True) if row.any()),
        settings=settings,
    )


def _settings(run: Layerwise, statistics: str) -> dict[str, Any]:
    """The options with their defaults filled in, and the methods used."""
    network = run.network
    return {
        "k": run.k or None,
        "sweeps": run.sweeps if run.sweeps is not None or run.whole or not run.k else SWEEPS,
        "tol": run.tol,
        "seed": run.seed,
        "method": "whole Jacobian" if run.whole else "subspace iteration" if run.k else "random tangents",
        "tangents": "reverse mode, twice" if network.by_autograd_only else "forward mode",
        "origin": network.origin[0] if network.origin else "the input",
        "batch_axis": network.axis,
        "dtype": str(network.source.dtype).removeprefix("torch."),
        "loss": run.objective.words,
        "statistics": statistics,
        "fresh": network.fresh,
        "inputs": network.items,
        "changed": "".join(run.changed),
    }


def _depth_of(layer: Layer, layers: list[Layer], cuts: list[Layer]) -> int:
    """Number of layers with the whole signal up to and including this layer."""
    place = layers.index(layer)
    return sum(layers.index(other) <= place for other in cuts)


def _check_counts(k: int | None, sweeps: int | None, tol: float, seed: int, dtype: torch.dtype) -> tuple[int | None, int | None]:
    if k is not None:
        check_whole("k", k, 1)
    if sweeps is not None:
        check_whole("sweeps", sweeps, 2)
    check_fraction("tol", tol)
    check_choice("dtype", dtype, (torch.float32, torch.float64))
    check_seed(seed)
    return k, sweeps
