"""Couplings of two halves of a state: run, undone bit by bit, and differentiated by running back."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.nn.guarantee import guarantee_of
from separatrix.nn.replay import Call, Surroundings, called, differentiable
from separatrix.nn.reversible.lattice import Digits, Lattice, check_bits
from separatrix.nn.shift import shifted_along

Pair = tuple[Tensor, Tensor]

# Note [Bit by bit]
# Floats cannot be inverted exactly: sums are rounded, and v = (v' − (1 − γ) f(x)) / γ amplifies the rounding by 1/γ per layer, by
# 10⁴⁵ in 1,000 layers at γ = 0.9. A pass that needs gradients therefore keeps its state on a lattice of integers, where each layer
# is undone exactly (see `lattice`): the recomputed activations equal the original ones bit for bit, and the gradients are those of
# stored activations. At the end of the backward pass the result is compared with the input; a layer that returned other numbers the
# second time is an error, never a wrong gradient. Numbers that left the lattice cannot be recovered: gradients through them are
# NaN. Passes without gradients run in floats.


@dataclass(frozen=True)
class Leap:
    """One layer's update of a pair,  b ← γ b + s f(a),  followed by  a ← a + b  (drifting) or  (a, b) ← (b, a).

    Args:
        gamma: γ.
        scale: s.
        drifts: whether a ← a + b follows, instead of the exchange.
    """

    gamma: Fraction
    scale: float
    drifts: bool

    def step(self, module: nn.Module, a: Tensor, b: Tensor) -> Pair:
        """The update in floats."""
        f = checked(called(module, a), a, module)
        return self.coupled(a, float(self.gamma) * b + self.scale * f.to(b.dtype))

    def back(self, module: nn.Module, a: Tensor, b: Tensor) -> Pair:
        """The inverse of `step`, up to rounding."""
        a, b = self.uncoupled(a, b)
        f = checked(called(module, a), a, module)
        return a, (b - self.scale * f.to(b.dtype)) / float(self.gamma)

    def pushforward(self, module: nn.Module, a: Pair, b: Pair) -> tuple[Pair, Pair]:
        """The update of states and of tangents, shape (*batch, k, dim)."""
        f, along = shifted_along(module, *a)
        values = self.coupled(a[0], float(self.gamma) * b[0] + self.scale * f)
        tangents = self.coupled(a[1], float(self.gamma) * b[1] + self.scale * along)
        return (values[0], tangents[0]), (values[1], tangents[1])

    def coupled(self, a: Tensor, b: Tensor) -> Pair:
        """The drift or exchange after b has changed."""
        return (a + b, b) if self.drifts else (b, a)

    def uncoupled(self, a: Tensor, b: Tensor) -> Pair:
        """The inverse of `coupled`."""
        return (a - b, b) if self.drifts else (b, a)

    def growth(self, modules: Iterable[nn.Module]) -> Tensor | None:
        """M ≥ 0 with  (‖δa'‖, ‖δb'‖) ≤ M (‖δa‖, ‖δb‖)  over all layers; None if a layer has no Lipschitz factor."""
        total = torch.eye(2, dtype=torch.float64)
        couple = torch.tensor([[1.0, 1.0], [0.0, 1.0]] if self.drifts else [[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
        for module in modules:
            factor = guarantee_of(module).lipschitz
            if not math.isfinite(factor):
                return None
            kick = torch.tensor([[1.0, 0.0], [self.scale * factor, float(self.gamma)]], dtype=torch.float64)
            total = couple @ kick @ total
        return total


class Recomputed(torch.autograd.Function):
    """A pass through all layers on the lattice that recomputes activations in the backward pass; see Note [Bit by bit]."""

    @staticmethod
    def forward(ctx: Any, leap: Leap, lattice: Lattice, calls: list[Call], a0: Tensor, b0: Tensor, *weights: Tensor) -> Pair:
        """The pair after the last layer; NaN where a number left the lattice."""
        a, b, digits = lattice.nearest(a0), lattice.nearest(b0), Digits(leap.gamma)
        x, lost = lattice.floats(a), lattice.misses(a0) | lattice.misses(b0)
        for call in calls:
            f = checked(call.first(x.masked_fill(lost, torch.nan)), x, call.module).detach().to(lattice.dtype)
            a, b = leap.coupled(a, digits.shrink(b) + lattice.nearest(leap.scale * f))
            x = lattice.floats(a)
            lost = lost | lattice.misses(f) | lattice.misses(x)
        ctx.save_for_backward(a0, b0, a, b, lost, *digits.stores, *weights)
        ctx.leap, ctx.lattice, ctx.calls, ctx.products = leap, lattice, calls, digits.products
        return x.masked_fill(lost, torch.nan), lattice.floats(b).masked_fill(lost, torch.nan)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Gradients of the pair and of all weights, from the last layer to the first."""
        check_single(torch.is_grad_enabled())
        leap, lattice = ctx.leap, ctx.lattice
        a0, b0, a, b, lost, *kept = ctx.saved_tensors
        digits = Digits(leap.gamma, kept[: len(ctx.products)], list(ctx.products))
        weights, sums = kept[len(ctx.products) :], Sums()
        grad_a, grad_b = gradients
        asked = moves(grad_a, grad_b)
        for call in reversed(ctx.calls):
            a, b = leap.uncoupled(a, b)
            x, own = lattice.floats(a).requires_grad_(), [weights[i] for i in call.places]
            f = call.again(x, own)
            b = digits.grow(b - lattice.nearest(leap.scale * f.detach().to(lattice.dtype)))
            grad_a, grad_b = (grad_a, grad_b + grad_a) if leap.drifts else (grad_b, grad_a)
            along, *parts = pulled_back(f, (x, *own), leap.scale * grad_b)
            grad_a = grad_a if along is None else grad_a + along
            grad_b = float(leap.gamma) * grad_b
            sums.add(call.places, parts)
        astray = check_return(lattice, (a, b), (a0, b0), lost)
        if astray.any():  # gradients that involve these entries are unknown
            reached = astray & (asked | moves(grad_a, grad_b))
            grad_a, grad_b = (gradient.masked_fill(reached, torch.nan) for gradient in (grad_a, grad_b))
            sums.spoil(reached.any())
        return None, None, None, grad_a, grad_b, *map(sums.get, range(len(weights)))


class Sums(dict[int, Tensor]):
    """Gradients of weights by index, summed over the layers that share them."""

    def add(self, places: Sequence[int], parts: Sequence[Tensor | None]) -> None:
        """Add the gradients of one layer."""
        for i, part in zip(places, parts, strict=True):
            if part is not None:
                self[i] = self[i] + part if i in self else part

    def spoil(self, where: Tensor) -> None:
        """Set all gradients to NaN if the condition holds."""
        self.update({i: total.masked_fill(where, torch.nan) for i, total in self.items()})


class Couplings(nn.Module):
    """Layers that each move one half of a pair by a function of the other half.

    Args:
        leap: the update of a pair.
        layers: the functions.
        bits: fractional bits of the lattice.
        recompute: whether the backward pass recomputes activations.
    """

    def __init__(self, leap: Leap, layers: Iterable[nn.Module], *, bits: int | None, recompute: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.leap, self.bits, self.recompute = leap, check_bits(bits), recompute

    def run(self, a: Tensor, b: Tensor) -> Pair:
        """The pair after all layers."""
        if not a.is_floating_point():
            raise InputError(f"expected a floating-point state, got {a.dtype}.")
        if self.recompute and torch.is_grad_enabled() and not transformed(a, b):
            return self._recomputed(a, b)
        for layer in self.layers:
            a, b = self.leap.step(layer, a, b)
        return a, b

    def undo(self, a: Tensor, b: Tensor) -> Pair:
        """The inverse of `run` in floats, up to rounding."""
        for layer in reversed(self.layers):
            a, b = self.leap.back(layer, a, b)
        return a, b

    def along(self, a: Pair, b: Pair) -> tuple[Pair, Pair]:
        """The pair after all layers, and its tangents."""
        for layer in self.layers:
            a, b = self.leap.pushforward(layer, a, b)
        return a, b

    def _recomputed(self, a: Tensor, b: Tensor) -> Pair:
        surroundings, weights, calls = Surroundings(a.device), {}, []
        for layer in self.layers:
            own = differentiable(layer)
            for tensor in own.values():
                weights.setdefault(id(tensor), (len(weights), tensor))
            calls.append(Call(layer, surroundings, tuple(own), tuple(weights[id(tensor)][0] for tensor in own.values())))
        return Recomputed.apply(self.leap, Lattice.of(a, self.bits), calls, a, b, *(tensor for _, tensor in weights.values()))

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        shown = [] if self.bits is None else [f"bits={self.bits}"]
        return ", ".join([*shown, *([] if self.recompute else ["recompute=False"])])


def checked(f: Any, x: Tensor, module: nn.Module) -> Tensor:
    """The value of a module, after a check that it has the shape of its input: another shape would broadcast."""
    shape = tuple(f.shape) if isinstance(f, Tensor) else f"a {type(f).__name__}"
    if shape != tuple(x.shape):
        raise ShapeError(
            f"{type(module).__name__} maps a tensor of shape {tuple(x.shape)} to {shape}; a reversible layer keeps the shape.\n"
            "Change the shape between reversible networks."
        )
    return f


def check_single(twice: bool) -> None:
    """Refuse second derivatives."""
    if twice:
        raise UnsupportedModuleError("second derivatives need stored activations.\nPass recompute=False.")


def check_return(lattice: Lattice, came: Pair, went: Pair, lost: Tensor) -> Tensor:
    """Mask of entries whose recomputed input differs; only entries that left the lattice may differ."""
    astray = (came[0] != lattice.nearest(went[0])) | (came[1] != lattice.nearest(went[1]))
    if astray.any() and not lost.any():
        raise UnsupportedModuleError(
            "a layer returned other numbers when it was called again, so its activations cannot be recomputed.\n"
            "Remove state that it keeps between calls, enable deterministic kernels, or build the network with recompute=False."
        )
    return astray


def moves(grad_a: Tensor, grad_b: Tensor) -> Tensor:
    """Mask of entries with a nonzero gradient."""
    return (grad_a != 0) | (grad_b != 0)


def pulled_back(f: Tensor, inputs: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs of a layer, None for unused inputs."""
    if not f.requires_grad:
        return (None,) * len(inputs)
    return torch.autograd.grad(f, inputs, gradient.to(f.dtype), allow_unused=True)


def transformed(*tensors: Tensor) -> bool:
    """Whether a compiler or transform is active, which cannot see the backward pass, or the tensors hold no numbers."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return any(tensor.is_meta or forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
