"""PyTorch's linear layers, read as matrices with a structure."""

from dataclasses import dataclass, replace
from math import inf, prod

import torch
from torch import Tensor, nn

from separatrix.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.nn.norms.convolution import Axis, Convolution
from separatrix.nn.norms.pooling import ADAPTIVE, AVERAGE, Separable, adaptive, average
from separatrix.nn.norms.rounding import UNIT, Extremes
from separatrix.precision import as_float64
from separatrix.twin import twin

CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
TRANSPOSED = {nn.ConvTranspose1d: 1, nn.ConvTranspose2d: 2, nn.ConvTranspose3d: 3}
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
UNCHANGED = (nn.Identity, nn.Flatten, nn.Unflatten)
SIZES = {1: "length", 2: "height, width", 3: "depth, height, width"}


@dataclass(frozen=True)
class Diagonal:
    """Channel by channel a factor.

    Args:
        factors: shape (channels,).
        places: numbers in a channel.
    """

    factors: Tensor
    places: int = 1
    groups = 1

    @property
    def columns(self) -> int:
        """Numbers that it reads."""
        return len(self.factors) * self.places

    @property
    def rows(self) -> int:
        """Numbers that it gives."""
        return self.columns

    def dense(self) -> Tensor:
        """Its matrix."""
        return torch.diag(self.factors.repeat_interleave(self.places))

    def extremes(self) -> Extremes:
        """The largest and the smallest factor."""
        size = self.factors.abs()
        largest = float(size.max())
        return Extremes(largest, largest, float(size.min()), "diagonal").widened(8 * UNIT * largest)


@dataclass(frozen=True)
class Turned:
    """The transposed matrix of a convolution, which is what PyTorch calls a transposed convolution."""

    convolution: Convolution

    @property
    def groups(self) -> int:
        """Blocks that do not see each other."""
        return self.convolution.groups

    @property
    def columns(self) -> int:
        """Numbers that a group reads."""
        return self.convolution.rows

    @property
    def rows(self) -> int:
        """Numbers that a group gives."""
        return self.convolution.columns

    def dense(self) -> Tensor:
        """Its matrix, group by group."""
        return self.convolution.dense().mT


Piece = Convolution | Turned | Diagonal | Separable


def read(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Piece | None, tuple[int, ...]]:
    """The layer's matrix (None for one that only renames) and the shape that it gives.

    Raises:
        UnsupportedModuleError: the layer is not known to be linear; or it changes its weights as it runs.
        ShapeError: it does not take this shape.
        InputError: its weights are not finite numbers.
    """
    if isinstance(layer, NORMALISATIONS):
        return _normalisation(layer, shape), shape
    for kinds, reader in READERS:
        kind = next((kind for kind in kinds if isinstance(layer, kind)), None)
        if kind is not None:
            _refuse_if_lazy(layer)
            _refuse_if_changed(layer, kind)
            return reader(layer, shape)
    raise UnsupportedModuleError(
        f"{type(layer).__name__} is not a linear layer whose norm is known.\n"
        "Linear, Conv1d … 3d, ConvTranspose1d … 3d, average pools, batch-norm in eval, Identity and Flatten are."
    )


def _refuse_if_lazy(layer: nn.Module) -> None:
    if any(map(nn.parameter.is_lazy, layer.parameters())):
        raise UnsupportedModuleError(f"this {type(layer).__name__} has no weight yet: it has not run.\nRun the network once.")


def _refuse_if_changed(layer: nn.Module, kind: type[nn.Module]) -> None:
    own = [name for name in ("forward", "_conv_forward") if getattr(type(layer), name, None) is not getattr(kind, name, None)]
    hooks = [type(hook).__name__ for hook in (*layer._forward_pre_hooks.values(), *layer._forward_hooks.values())]
    if own or hooks:
        reason = f"runs {hooks[0]} around its forward" if hooks else f"has a {own[0]} of its own"
        raise UnsupportedModuleError(
            f"this {type(layer).__name__} {reason}, so that its weight alone does not say what it does.\n"
            "Use torch.nn.utils.parametrizations, or remove the hook."
        )


def weight_of(layer: nn.Module) -> Tensor:
    """The weight as the layer uses it in eval, in float64."""
    weight = twin(layer).weight
    if weight.is_complex():
        raise UnsupportedModuleError(
            f"the weight of {type(layer).__name__} is {weight.dtype}, but the norm is that of real weights."
        )
    return _finite(as_float64(weight), f"the weight of {type(layer).__name__}")


def _finite(values: Tensor, name: str) -> Tensor:
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise InputError(f"{name} has {bad} numbers out of {values.numel()} that are not finite, so that it has no norm.")
    return values


def _linear(layer: nn.Linear, shape: tuple[int, ...]) -> tuple[Piece, tuple[int, ...]]:
    _expect(layer, shape, len(shape) > 0 and shape[-1] == layer.in_features, f"(…, {layer.in_features})")
    weight = weight_of(layer)
    if len(shape) == 1:
        return Convolution(weight[None]), (weight.shape[0],)
    places = prod(shape[:-1])  # a copy at each place: channels are the last axis, which no other layer beside it shares
    copies = Convolution(weight[None, :, :, None], (Axis(places, 1),))
    return copies, (*shape[:-1], weight.shape[0])


def _convolution(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Piece, tuple[int, ...]]:
    d = len(layer.kernel_size)
    _expect(layer, shape, len(shape) == d + 1 and shape[0] == layer.in_channels, f"({layer.in_channels}, {SIZES[d]})")
    axes = tuple(_axis(layer, j, size) for j, size in enumerate(shape[1:]))
    if not all(map(_fits, axes)):
        raise ShapeError(_too_small(layer, shape))
    weight = weight_of(layer).unflatten(0, (layer.groups, -1))
    return Convolution(weight, axes), (weight.shape[0] * weight.shape[1], *(axis.out for axis in axes))


def _fits(axis: Axis) -> bool:
    most = {"reflect": axis.size - 1, "circular": axis.size}.get(axis.mode, inf)
    return axis.size >= 1 and axis.out >= 1 and max(axis.before, axis.after) <= most


def _too_small(layer: nn.Module, shape: tuple[int, ...]) -> str:
    return (
        f"sizes {shape[1:]} are too small for {type(layer).__name__} with the kernel {layer.kernel_size}, "
        f"dilation {layer.dilation} and padding {layer.padding}.\nPass the shape that the layer has in the network."
    )


def _axis(layer: nn.Module, j: int, size: int) -> Axis:
    k, s, d = layer.kernel_size[j], layer.stride[j], layer.dilation[j]
    if layer.padding == "same":
        before = d * (k - 1) // 2
        after = d * (k - 1) - before
    else:
        before = after = 0 if layer.padding == "valid" else layer.padding[j]
    return Axis(size, k, s, d, before, after, layer.padding_mode)


def _transposed(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Piece, tuple[int, ...]]:
    d = len(layer.kernel_size)
    _expect(layer, shape, len(shape) == d + 1 and shape[0] == layer.in_channels, f"({layer.in_channels}, {SIZES[d]})")
    axes = tuple(_axis_of_outputs(layer, j, size) for j, size in enumerate(shape[1:]))
    if not all(axis.size >= 1 and axis.out >= size for axis, size in zip(axes, shape[1:], strict=True)):
        raise ShapeError(_too_small(layer, shape))
    axes = tuple(_cut(axis, size) for axis, size in zip(axes, shape[1:], strict=True))
    weight = weight_of(layer).unflatten(0, (layer.groups, -1))
    return Turned(Convolution(weight, axes)), (weight.shape[0] * weight.shape[2], *(axis.size for axis in axes))


def _axis_of_outputs(layer: nn.Module, j: int, size: int) -> Axis:
    k, s, d, p = layer.kernel_size[j], layer.stride[j], layer.dilation[j], layer.padding[j]
    return Axis((size - 1) * s - 2 * p + d * (k - 1) + layer.output_padding[j] + 1, k, s, d, p, p)


def _cut(axis: Axis, outputs: int) -> Axis:
    """So that the convolution has as many outputs as the transposed one has inputs; what more it could have is cut."""
    return replace(axis, after=axis.after - axis.stride * (axis.out - outputs))


def _normalisation(layer: nn.Module, shape: tuple[int, ...]) -> Diagonal:
    name = type(layer).__name__
    if layer.training or layer.running_var is None:
        why = "in training mode" if layer.training else "without running statistics"
        raise UnsupportedModuleError(
            f"{name} {why} divides by the statistics of the batch, and no bound holds for every batch.\n"
            "Call eval() first, with track_running_stats=True."
        )
    _refuse_if_changed(layer, nn.modules.batchnorm._BatchNorm if name != "SyncBatchNorm" else nn.SyncBatchNorm)
    _expect(layer, shape, len(shape) >= 1 and shape[0] == layer.num_features, f"({layer.num_features}, …)")
    variance = _finite(as_float64(layer.running_var), f"the running variance of {name}")
    factors = (variance + layer.eps).rsqrt()
    return Diagonal(_finite(factors * weight_of(layer) if layer.affine else factors, f"the scale of {name}"), prod(shape[1:]))


def _average(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Piece, tuple[int, ...]]:
    d = next(d for kind, d in (AVERAGE | ADAPTIVE).items() if isinstance(layer, kind))
    _expect(layer, shape, len(shape) == d + 1, f"(channels, {SIZES[d]})")
    out = _shape_given(layer, shape)
    return (average if isinstance(layer, tuple(AVERAGE)) else adaptive)(layer, shape), out


def _unchanged(layer: nn.Module, shape: tuple[int, ...]) -> tuple[None, tuple[int, ...]]:
    return None, _shape_given(layer, shape)


def _shape_given(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """By running a layer without weights on a tensor without numbers."""
    try:
        batch, *out = layer(torch.empty(1, *shape, device="meta")).shape
    except (RuntimeError, IndexError, ValueError):
        batch, out = 0, ()
    if batch != 1:
        raise ShapeError(f"{layer} does not take the shape {shape}.\nPass the shape of one input, without its batch.")
    return tuple(out)


def _expect(layer: nn.Module, shape: tuple[int, ...], fits: bool, wanted: str) -> None:
    if not fits:
        raise ShapeError(
            f"{type(layer).__name__} takes an input of shape {wanted}, but the shape is {tuple(shape)}.\n"
            "Pass the shape of one input, without its batch."
        )


READERS = (
    ((nn.Linear,), _linear),
    (tuple(CONVOLUTIONS), _convolution),
    (tuple(TRANSPOSED), _transposed),
    ((*AVERAGE, *ADAPTIVE), _average),
    (UNCHANGED, _unchanged),
)
