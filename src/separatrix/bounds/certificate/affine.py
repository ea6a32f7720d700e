"""Consecutive affine operators, converted back to PyTorch layers, so that one norm is computed for all of them together."""

from typing import Any

import torch
from torch import Tensor, nn

from separatrix.bounds.certificate.call import Active, Call, NoBoundError
from separatrix.bounds.operator_norm.operator_norm import OperatorNorm, operator_norm
from separatrix.core.errors import ContradictionError, SeparatrixError

CONVOLUTIONS = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}
TRANSPOSED = {
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "conv_transpose3d": nn.ConvTranspose3d,
}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
MODES = {"circular", "reflect", "replicate"}
AGREEMENT = 1e-9  # by which layers may differ from the operators they stand for, relative to the largest number: float64's sums


def affine_norm(calls: list[Call]) -> OperatorNorm | None:
    """The norm of consecutive operators; None if none of them is a matrix, or if PyTorch's layers do not reproduce them.

    Raises:
        NoBoundError: the weights are not finite.
    """
    shape = calls[0].active[0].shape
    layers = _layers(calls)
    held = [tensor for call in calls for tensor in call.values.values() if isinstance(tensor, Tensor)]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in held):
        raise NoBoundError("its weights are not finite")
    matrix = next((layer.weight for layer in layers if getattr(layer, "weight", None) is not None and layer.weight.ndim > 1), None)
    if matrix is None:
        return None
    rank = matrix.ndim  # of a batch of what the layers take
    if (len(shape) != rank and len(layers) > 1) or not _agree(layers, calls, shape):
        return None
    item = shape[-1:] if matrix.ndim == 2 else shape[len(shape) - rank + 1 :]
    try:
        return operator_norm(layers, item, budget=calls[0].effort.budget, slack=calls[0].effort.slack)
    except ContradictionError:
        raise
    except SeparatrixError as error:
        raise NoBoundError(str(error).splitlines()[0]) from error


def _layers(calls: list[Call]) -> list[nn.Module]:
    """The layers of a run, with paddings inside the convolutions that follow; empty if an operator is not a layer."""
    found = []
    for n, call in enumerate(calls):
        if is_padding(call) and n + 1 < len(calls):
            continue
        layer = as_layer(call, calls[n - 1] if n and is_padding(calls[n - 1]) else None)
        if layer is None:
            return []
        found.append(layer)
    return found


@torch.no_grad()
def _agree(layers: list[nn.Module], calls: list[Call], shape: tuple[int, ...]) -> bool:
    """Whether layers give the same values as the operators, up to a constant, at a random input."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(calls[0].device)
    of_operators, of_layers = [], []
    for start in (x, torch.zeros_like(x)):
        z = start
        for call in calls:
            z = call.run(z)[0]
        of_operators.append(z)
        of_layers.append(nn.Sequential(*layers)(start))
    wanted, found = of_operators[0] - of_operators[1], of_layers[0] - of_layers[1]
    return bool((wanted - found).abs().max() <= AGREEMENT * (of_layers[0].abs().max() + of_operators[0].abs().max()))


def as_layer(call: Call, before: Call | None = None) -> nn.Module | None:
    """The PyTorch layer that is equivalent to an affine operator, or None.

    Args:
        call: the operator.
        before: a padding that belongs to it, if there is one.
    """
    if not isinstance(call.first, Active) or len(call.active) != 1:
        return None
    if call.is_complex or any(tensor.is_complex() for tensor in call.held):
        return None
    if call.name == "linear":
        return _linear(call)
    if call.name in CONVOLUTIONS:
        return _convolution(call, before)
    if call.name in TRANSPOSED:
        return _transposed(call)
    if call.name == "_native_batch_norm_legit_no_training":
        return _batch_norm(call)
    if call.name in ("mul", "div", "add", "sub") and len(call.shape) > 1 and call.active[0].shape == call.shape:
        return _channelwise(call)
    return None


def is_padding(call: Call) -> bool:
    """Whether the next convolution can include it: the same on both sides, and of a kind that nn.ConvNd supports."""
    pads = call["pad"]
    return call.name == "pad" and call["mode"] in MODES and pads[::2] == pads[1::2]


def _linear(call: Call) -> nn.Module | None:
    weight = call["weight"].double()
    if weight.ndim != 2:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    return _with(layer, weight=weight)


def _convolution(call: Call, before: Call | None) -> nn.Module | None:
    weight, kind = call["weight"].double(), CONVOLUTIONS[call.name]
    padding, mode = call["padding"], "zeros"
    if before is not None:
        if any(padding) if not isinstance(padding, str) else True:
            return None
        padding, mode = list(reversed(before["pad"][::2])), before["mode"]
    padding = padding if isinstance(padding, str) else _each(padding, weight.ndim - 2)
    groups = int(call["groups"])
    shape = {
        "stride": _each(call["stride"], weight.ndim - 2),
        "dilation": _each(call["dilation"], weight.ndim - 2),
        "groups": groups,
    }
    layer = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        padding=padding,
        padding_mode=mode,
        bias=False,
        device="meta",
        **shape,
    )
    return _with(layer, weight=weight)


def _transposed(call: Call) -> nn.Module:
    weight, kind = call["weight"].double(), TRANSPOSED[call.name]
    groups, axes = int(call["groups"]), call["weight"].ndim - 2
    places = {name: _each(call[name], axes) for name in ("stride", "padding", "output_padding", "dilation")}
    layer = kind(weight.shape[0], weight.shape[1] * groups, weight.shape[2:], groups=groups, bias=False, device="meta", **places)
    return _with(layer, weight=weight)


def _batch_norm(call: Call) -> nn.Module | None:
    variance = call["running_var"].double()
    weight = torch.ones_like(variance) if call["weight"] is None else call["weight"].double()
    return _scaling(weight, variance, float(call["eps"]), len(call.shape))


def _channelwise(call: Call) -> nn.Module | None:
    """Multiplication by one number per channel, as a batch norm with mean 0 and variance 1."""
    channels, other = call.shape[1], call["other"]
    if call.name in ("add", "sub"):
        return nn.Identity()
    if call["rounding_mode"] is not None:
        return None
    numbers = torch.as_tensor(other, dtype=torch.float64, device=call.device)
    shape = (1,) * (len(call.shape) - numbers.ndim) + tuple(numbers.shape)
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    scale = numbers.reshape(shape)[0].reshape(-1).expand(channels)
    scale = 1 / scale if call.name == "div" else scale
    return _scaling(scale, None, 0.0, len(call.shape)) if bool(torch.isfinite(scale).all()) else None


def _scaling(weight: Tensor, variance: Tensor | None, eps: float, rank: int) -> nn.Module | None:
    if rank not in NORMS:
        return None
    layer = NORMS[rank](len(weight), eps=eps, device="meta").eval()
    ones, zeros = torch.ones_like(weight), torch.zeros_like(weight)
    return _with(layer, weight=weight, bias=zeros, running_mean=zeros, running_var=ones if variance is None else variance)


def _with(layer: nn.Module, **tensors: Tensor) -> nn.Module:
    """The layer with these tensors, as buffers, which keep them unchanged."""
    for name, tensor in tensors.items():
        layer._parameters.pop(name, None)
        layer._buffers[name] = tensor.detach()
    return layer


def _each(value: Any, axes: int) -> tuple[int, ...]:
    given = [int(one) for one in (value if isinstance(value, list | tuple) else [value])]
    return tuple(given * (axes if len(given) == 1 else 1))
