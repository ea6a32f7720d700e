"""The running layers, compared with the matrices they were read as and with the proven bounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.nn.utils.parametrize import is_parametrized

from separatrix.bounds.operator_norm.pieces import Piece, image, length, multiplications, size_of
from separatrix.bounds.operator_norm.rounding import SAFETY, TINY, gamma
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.twin import twin

SCALES = (1e-6, 1.0, 1e3, 1e6)
"""Of the inputs at which layers are run: what changes with the size of its input is not linear."""
SMALL = 1 << 14
"""Entries up to which the whole matrix is measured, by running the layers on unit vectors."""
WORK, FEWEST, MOST = 1.5e8, 3, 16
"""Multiplications that a search in a larger one takes, about, and its steps."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Measured:
    """A large and a small quotient ‖Ax‖ / ‖x‖, with their possible rounding errors."""

    largest: float
    smallest: float
    rounding: float


@dataclass(frozen=True)
class Running:
    """Layers as they run, in float64 and in eval, on a batch of inputs.

    Args:
        whole: all of them, in their containers.
        linear: the same without biases and means.
        each: one by one.
        sizes: of each, at least the norm of its matrix's absolute values.
        shape: of one input.
        device: of the weights.
    """

    whole: Run
    linear: Run
    each: list[nn.Module]
    sizes: list[float]
    shape: tuple[int, ...]
    device: torch.device

    def zero(self) -> Tensor:
        """The input 0."""
        return torch.zeros(1, *self.shape, dtype=torch.float64, device=self.device)

    def normal(self, *scales: float) -> list[Tensor]:
        """Random inputs of these sizes."""
        generator = torch_generator(0, "inputs of layers")
        drawn = torch.randn(len(scales), 1, *self.shape, dtype=torch.float64, device="cpu", generator=generator).to(self.device)
        return [scale * one for scale, one in zip(scales, drawn, strict=True)]


def running(given: Any, layers: list[nn.Module], readings: Sequence[Piece | None], shape: tuple[int, ...]) -> Running:
    """The layers, and what they were read as, ready to run."""
    tensors = [tensor for layer in layers for tensor in (*layer.parameters(), *layer.buffers()) if not tensor.is_meta]
    device = next((tensor.device for tensor in tensors if tensor.device.type != "mps"), torch.device("cpu"))
    sizes = [1.0 if piece is None else size_of(piece) for piece in readings]
    each = [_double(layer, device) for layer in layers]
    return Running(_runnable(given, device), _runnable(given, device, constants=False), each, sizes, shape, device)


def _runnable(given: Any, device: torch.device, *, constants: bool = True) -> Run:
    if isinstance(given, nn.Module):
        return _double(given, device) if constants else _without_constants(_double(given, device))
    parts = [_runnable(part, device, constants=constants) for part in given]

    def run(x: Tensor) -> Tensor:
        for part in parts:
            x = part(x)
        return x

    return run


def _double(module: nn.Module, device: torch.device) -> nn.Module:
    """Its twin in float64; parametrised weights are first made as the layer makes them, in its own precision."""
    moved = device if any(tensor.device.type == "mps" for tensor in module.parameters()) else None  # Metal has no float64
    double = twin(module, dtype=torch.float64, device=moved, detach=True)
    if not any(map(is_parametrized, module.modules())):
        return double
    for layer, made in zip(list(twin(module, detach=True).modules()), list(double.modules()), strict=True):
        if is_parametrized(layer):
            names = dict(layer.get_submodule("parametrizations").named_children())
            weights = {name: getattr(layer, name).detach().to(device, torch.float64) for name in names}
            made.__class__ = type(made).__bases__[0]
            made._modules.pop("parametrizations")
            made._buffers |= weights
    return double


def _without_constants(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if layer._buffers.pop("bias", None) is not None or layer._parameters.get("bias") is not None:
            layer._parameters["bias"] = None
        if layer._buffers.get("running_mean") is not None:
            layer._buffers["running_mean"] = torch.zeros_like(layer._buffers["running_mean"])
    return module


def refuse_unless_as_read(layers: Running, pieces: list[Piece]) -> None:
    """Refuse layers that, run at random inputs of many sizes, do not do what their matrices do, up to a constant.

    Raises:
        UnsupportedModuleError: they do something else.
        ShapeError: they do not run on this shape.
        InputError: a constant that is not finite.
    """
    origin = _origin(layers)
    constants = _rounding(layers, layers.zero())
    for x in layers.normal(*SCALES):
        wanted = x.flatten(1)
        for piece in pieces:
            wanted = image(piece, wanted)
        _compare(layers.whole(x) - origin, wanted, x, constants + _rounding(layers, x))
        _compare(layers.linear(x), wanted, x, _rounding(layers, x, of_constants=False))


def _origin(layers: Running) -> Tensor:
    try:
        origin = layers.whole(layers.zero())
    except (RuntimeError, ValueError, IndexError) as error:
        names, reason = ", ".join(type(layer).__name__ for layer in layers.each), str(error).splitlines()[:1]
        raise ShapeError(
            f"{names} cannot run on an input of shape {layers.shape}: {''.join(reason)}\n"
            "Pass the shape that the layers have in the network, without its batch."
        ) from error
    if not bool(torch.isfinite(origin).all()):
        raise InputError("the layers carry the input 0 to numbers that are not finite: a bias or a mean is not.\nMend the weights.")
    return origin


def _rounding(layers: Running, x: Tensor, *, of_constants: bool = True) -> float:
    """What float64 can add to the image of x, layer by layer: each rounds what it gives, and stretches what those before did."""
    total, terms = length(x), x.numel()
    for layer, size in zip(layers.each, layers.sizes, strict=True):
        total *= size
        if of_constants:
            x = layer(x)
            total, terms = total + length(x), max(terms, x.numel())
    return SAFETY * len(layers.each) * gamma(terms + 64) * total + TINY


def _compare(found: Tensor, wanted: Tensor, x: Tensor, rounding: float) -> None:
    if not bool(torch.isfinite(wanted).all()):  # weights at the end of float64: nothing to compare
        return
    apart = length(found.flatten(1).to(wanted) - wanted) if found.numel() == wanted.numel() else inf
    if not apart <= rounding:
        raise UnsupportedModuleError(
            f"the layers do not compute what their weights say: at a random input of norm {length(x):.2g} their output differs by "
            f"{apart:.2g} from that of their matrices, of norm {length(wanted):.2g}.\nPass plain PyTorch layers."
        )


def measured(layers: Running, pieces: list[Piece]) -> Measured | None:
    """By exact singular vectors of a small matrix, by power iteration on a large one; None outside float64."""
    inputs, outputs = prod(layers.shape), layers.whole(layers.zero()).numel()
    found = _of_matrix(layers, outputs) if inputs * outputs <= SMALL else _by_power_iteration(layers, pieces)
    quotients = [length(layers.linear(v)) / length(v) for v in found]
    if not quotients or not max(quotients) < inf:
        return None
    rounding = SAFETY * len(layers.each) * gamma(inputs + outputs + 64) * prod(layers.sizes) + TINY
    return Measured(max(quotients), 0.0 if outputs < inputs else min(quotients), rounding)


def _of_matrix(layers: Running, outputs: int) -> list[Tensor]:
    """The first and the last right singular vector."""
    n = prod(layers.shape)
    basis = torch.eye(n, dtype=torch.float64, device=layers.device).view(n, *layers.shape)
    matrix = layers.linear(basis).reshape(n, outputs).T
    largest = float(matrix.abs().max())
    if not 0 < largest < inf:
        return [basis[:1]] if largest == 0 else []
    vectors = torch.linalg.svd(matrix / largest, full_matrices=False)[2]
    return [vectors[j].view(1, *layers.shape) for j in (0, -1)]


def _by_power_iteration(layers: Running, pieces: list[Piece]) -> list[Tensor]:
    (x,) = layers.normal(1.0)
    adjoint = vjp(layers.linear, x)[1]
    steps = int(WORK / sum(map(multiplications, pieces)))
    for _ in range(min(MOST, max(FEWEST, steps))):
        (moved,) = adjoint(layers.linear(x / length(x)))
        if not 0 < length(moved) < inf:
            break
        x = moved
    return [x / length(x)]
