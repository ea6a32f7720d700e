"""PyTorch's linear layers, read as matrices with a structure. See Note [Layout] in `pieces`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.bounds.operator_norm.changed import refuse_if_changed
from separatrix.bounds.operator_norm.convolution import Axis, Convolution
from separatrix.bounds.operator_norm.pieces import Copies, Diagonal, Piece, Turned
from separatrix.bounds.operator_norm.pooling import ADAPTIVE, AVERAGE, adaptive, average
from separatrix.core.checks import check_all_finite
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.precision import as_float64
from separatrix.core.twin import twin

Shape = tuple[int, ...]
CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
TRANSPOSED = {nn.ConvTranspose1d: 1, nn.ConvTranspose2d: 2, nn.ConvTranspose3d: 3}
NORMALISATIONS = {nn.BatchNorm1d: (1, 2), nn.BatchNorm2d: (3,), nn.BatchNorm3d: (4,), nn.SyncBatchNorm: (1, 2, 3, 4)}
"""Of how many axes an input may be, without its batch."""
UNCHANGED = (nn.Identity, nn.Flatten, nn.Unflatten)
SIZES = {1: "length", 2: "height, width", 3: "depth, height, width"}
BATCHES = (2, 3)
"""A layer that mixes the items of a batch does so in one of these, or fails."""


def layers_of(given: nn.Module | Sequence[Any]) -> list[nn.Module]:
    """One after the other, out of lists and `nn.Sequential`s.

    Raises:
        UnsupportedModuleError: a container that does more than run its layers one after the other.
    """
    if isinstance(given, nn.Sequential):
        refuse_if_changed(given, nn.Sequential)
    if isinstance(given, nn.Sequential) or not isinstance(given, nn.Module):
        return [layer for part in _parts(given) for layer in layers_of(part)]
    return [given]


def _parts(given: Any) -> Sequence[Any]:
    if isinstance(given, nn.Sequential | list | tuple):
        return list(given)
    raise UnsupportedModuleError(f"expected a layer or a list of layers, got a {type(given).__name__}.\nPass an nn.Module.")


def read(layer: nn.Module, shape: Shape) -> tuple[Piece | None, Shape]:
    """The layer's matrix (None for one that only renames) and the shape that it gives.

    Raises:
        UnsupportedModuleError: the layer is not known to be linear; or it changes its weights as it runs.
        ShapeError: it does not take this shape.
        InputError: its weights are not finite numbers.
    """
    for kinds, reader in READERS:
        kind = next((kind for kind in kinds if isinstance(layer, kind)), None)
        if kind is not None:
            _refuse_without_weights(layer)
            refuse_if_changed(layer, kind)
            return reader(layer, shape)
    raise UnsupportedModuleError(
        f"{type(layer).__name__} is not a supported linear layer.\n"
        "Supported are Linear, Conv1d … 3d, ConvTranspose1d … 3d, average pools, batch norm in evaluation mode, Identity, Flatten "
        "and Unflatten."
    )


def _refuse_without_weights(layer: nn.Module) -> None:
    name, held = type(layer).__name__, [*layer.parameters(), *layer.buffers()]
    if any(map(nn.parameter.is_lazy, held)):
        raise UnsupportedModuleError(f"this {name} has no weight yet, because it has not run.\nRun the network once.")
    if any(tensor.is_meta for name, tensor in layer.named_parameters() if name != "bias"):
        raise UnsupportedModuleError(f"the weights of this {name} are on the meta device, without values.\nLoad them first.")


def weight_of(layer: nn.Module) -> Tensor:
    """The weight as the layer uses it in eval, in float64."""
    weight = twin(layer).weight
    if weight.is_complex():
        raise UnsupportedModuleError(
            f"the weight of {type(layer).__name__} is {weight.dtype}, but the norm is that of real weights."
        )
    if not weight.numel():
        raise InputError(f"the weight of {type(layer).__name__} is empty, shape {tuple(weight.shape)}.\nPass another layer.")
    return _finite(as_float64(weight), f"the weight of {type(layer).__name__}")


def _finite(values: Tensor, name: str) -> Tensor:
    check_all_finite(name, values, "It has no norm.")
    return values


def _linear(layer: nn.Linear, shape: Shape) -> tuple[Piece, Shape]:
    weight = weight_of(layer)
    _expect(layer, shape, shape[-1] == weight.shape[1], f"(…, {weight.shape[1]})")
    matrix, places = Convolution(weight[None]), prod(shape[:-1])
    return matrix if places == 1 else Copies(matrix, places), (*shape[:-1], weight.shape[0])


def _convolution(layer: Any, shape: Shape) -> tuple[Piece, Shape]:
    weight = weight_of(layer)
    _expect_channels(layer, shape, weight.shape[1] * layer.groups, weight.ndim - 2)
    axes = tuple(_axis(layer, j, size, weight.shape[2 + j]) for j, size in enumerate(shape[1:]))
    if not all(map(_fits, axes)):
        raise ShapeError(_too_small(layer, shape))
    weight = weight.unflatten(0, (layer.groups, -1))
    return Convolution(weight, axes), (weight.shape[0] * weight.shape[1], *(axis.out for axis in axes))


def _fits(axis: Axis) -> bool:
    most = {"reflect": axis.size - 1, "circular": axis.size}.get(axis.mode, inf)
    return axis.size >= 1 and axis.out >= 1 and max(axis.before, axis.after) <= most


def _too_small(layer: nn.Module, shape: tuple[int, ...]) -> str:
    return (
        f"sizes {shape[1:]} are too small for {type(layer).__name__} with the kernel {layer.kernel_size}, "
        f"dilation {layer.dilation} and padding {layer.padding}.\nPass the shape that the layer has in the network."
    )


def _axis(layer: Any, j: int, size: int, k: int) -> Axis:
    s, d = _each(layer.stride, j), _each(layer.dilation, j)
    if layer.padding == "same":
        before = d * (k - 1) // 2
        after = d * (k - 1) - before
    else:
        before = after = 0 if layer.padding == "valid" else _each(layer.padding, j)
    return Axis(size, k, s, d, before, after, layer.padding_mode)


def _each(value: int | Sequence[int], j: int) -> int:
    """Of the axis j, where one number may stand for all axes."""
    given = (value,) if isinstance(value, int) else tuple(value)
    return int(given[j if len(given) > 1 else 0])


def _transposed(layer: Any, shape: Shape) -> tuple[Piece, Shape]:
    weight = weight_of(layer)
    _expect_channels(layer, shape, weight.shape[0], weight.ndim - 2)
    axes = tuple(_axis_of_outputs(layer, j, size, weight.shape[2 + j]) for j, size in enumerate(shape[1:]))
    if not all(axis.size >= 1 and axis.out >= size for axis, size in zip(axes, shape[1:], strict=True)):
        raise ShapeError(_too_small(layer, shape))
    axes = tuple(_cut(axis, size) for axis, size in zip(axes, shape[1:], strict=True))
    weight = weight.unflatten(0, (layer.groups, -1))
    return Turned(Convolution(weight, axes)), (weight.shape[0] * weight.shape[2], *(axis.size for axis in axes))


def _axis_of_outputs(layer: Any, j: int, size: int, k: int) -> Axis:
    s, d, p = (_each(value, j) for value in (layer.stride, layer.dilation, layer.padding))
    return Axis((size - 1) * s - 2 * p + d * (k - 1) + _each(layer.output_padding, j) + 1, k, s, d, p, p)


def _cut(axis: Axis, outputs: int) -> Axis:
    """So that the convolution has as many outputs as the transposed one has inputs; what more it could have is cut."""
    return replace(axis, after=axis.after - axis.stride * (axis.out - outputs))


def _normalisation(layer: Any, shape: Shape) -> tuple[Piece, Shape]:
    name = type(layer).__name__
    if layer.training or layer.running_var is None:
        why = "in training mode" if layer.training else "without running statistics"
        raise UnsupportedModuleError(
            f"{name} {why} divides by the statistics of the batch, and no bound holds for every batch.\n"
            "Call eval() first, with track_running_stats=True."
        )
    axes = next(axes for kind, axes in NORMALISATIONS.items() if isinstance(layer, kind))
    channels = len(layer.running_var)
    _expect(layer, shape, shape[0] == channels and len(shape) in axes, f"({channels}, …) of {' or '.join(map(str, axes))} axes")
    variance = _finite(as_float64(layer.running_var), f"the running variance of {name}")
    factors = (variance + layer.eps).rsqrt()
    factors = factors if layer.weight is None else factors * weight_of(layer)
    return Diagonal(_finite(factors, f"the scale of {name}"), prod(shape[1:])), shape


def _average(layer: nn.Module, shape: Shape) -> tuple[Piece, Shape]:
    d = next(d for kind, d in (AVERAGE | ADAPTIVE).items() if isinstance(layer, kind))
    _expect(layer, shape, len(shape) == d + 1, f"(channels, {SIZES[d]})")
    if getattr(layer, "divisor_override", None) == 0:
        raise InputError(f"{type(layer).__name__} divides by divisor_override = 0.\nPass another divisor, or None.")
    out = _shape_given(layer, shape)
    return (average if isinstance(layer, tuple(AVERAGE)) else adaptive)(layer, shape), out


def _unchanged(layer: nn.Module, shape: Shape) -> tuple[None, Shape]:
    return None, _shape_given(layer, shape)


def _shape_given(layer: nn.Module, shape: Shape) -> Shape:
    """By running a layer without weights on tensors without numbers."""
    try:
        outs = [tuple(layer(torch.empty(batch, *shape, device="meta")).shape) for batch in BATCHES]
    except (RuntimeError, IndexError, ValueError):
        outs = []
    out = outs[0][1:] if outs else ()
    if not out or 0 in out or outs != [(batch, *out) for batch in BATCHES]:
        raise ShapeError(f"{layer} does not take the shape {shape}.\nPass the shape of one input, without its batch.")
    return out


def _expect_channels(layer: Any, shape: Shape, channels: int, d: int) -> None:
    _expect(layer, shape, len(shape) == d + 1 and shape[0] == channels, f"({channels}, {SIZES[d]})")


def _expect(layer: nn.Module, shape: tuple[int, ...], fits: bool, wanted: str) -> None:
    if not fits:
        raise ShapeError(
            f"{type(layer).__name__} takes an input of shape {wanted}, but the shape is {tuple(shape)}.\n"
            "Pass the shape of one input, without its batch."
        )


READERS: tuple[tuple[tuple[type[nn.Module], ...], Callable[..., tuple[Piece | None, Shape]]], ...] = (
    ((nn.Linear,), _linear),
    (tuple(CONVOLUTIONS), _convolution),
    (tuple(TRANSPOSED), _transposed),
    (tuple(NORMALISATIONS), _normalisation),
    ((*AVERAGE, *ADAPTIVE), _average),
    (UNCHANGED, _unchanged),
)
