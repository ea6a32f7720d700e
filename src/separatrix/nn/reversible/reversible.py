"""Reversible networks: no activation is stored, because each is computed again from the network's output."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.replay import Call, Surroundings, called, differentiable
from separatrix.nn.reversible.lattice import Digits, Lattice, as_fraction, check_bits
from separatrix.nn.shift import shifted_along

Pair = tuple[Tensor, Tensor]

# Note [Bit by bit]
# In floats the way back is no way back: a sum is rounded, and v = (v' − (1 − γ) f(x)) / γ multiplies what was lost by 1/γ at
# each layer, 10⁴⁵ in 1,000 layers at γ = 0.9. So a pass whose gradient is asked keeps its state on a lattice of whole numbers,
# where each layer is undone without an error (see `lattice`): the activations that come back are those that went, bit for bit, and
# the gradients are those of stored activations. At the end of the way back it is held to the input; a layer that gave other numbers
# the second time is an error, never a wrong gradient. Numbers that left the lattice do not come back: where a gradient is asked
# through them, it is NaN. Passes without a gradient run in floats.


@dataclass(frozen=True)
class Leap:
    """A layer's step of a pair,  b ← γ b + s f(a),  then  a ← a + b  where it drifts, else  (a, b) ← (b, a).

    Args:
        gamma: γ.
        scale: s.
        drifts: see above.
    """

    gamma: Fraction
    scale: float
    drifts: bool

    def step(self, module: nn.Module, a: Tensor, b: Tensor) -> Pair:
        """By its definition."""
        f = checked(called(module, a), a, module)
        return self.coupled(a, float(self.gamma) * b + self.scale * f.to(b.dtype))

    def back(self, module: nn.Module, a: Tensor, b: Tensor) -> Pair:
        """The pair that `step` takes to (a, b), but for rounding."""
        a, b = self.uncoupled(a, b)
        f = checked(called(module, a), a, module)
        return a, (b - self.scale * f.to(b.dtype)) / float(self.gamma)

    def pushforward(self, module: nn.Module, a: Pair, b: Pair) -> tuple[Pair, Pair]:
        """The step of states and of their tangents, rows of shape (*batch, k, dim)."""
        f, along = shifted_along(module, *a)
        values = self.coupled(a[0], float(self.gamma) * b[0] + self.scale * f)
        tangents = self.coupled(a[1], float(self.gamma) * b[1] + self.scale * along)
        return (values[0], tangents[0]), (values[1], tangents[1])

    def coupled(self, a: Tensor, b: Tensor) -> Pair:
        """What follows the change of b."""
        return (a + b, b) if self.drifts else (b, a)

    def uncoupled(self, a: Tensor, b: Tensor) -> Pair:
        """The other way."""
        return (a - b, b) if self.drifts else (b, a)

    def growth(self, modules: Iterable[nn.Module]) -> Tensor | None:
        """M ≥ 0 with  (‖δa'‖, ‖δb'‖) ≤ M (‖δa‖, ‖δb‖)  through all layers; None where a layer has no factor."""
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
    """A pass through all layers on the lattice, of which the way back computes the activations again. See Note [Bit by bit]."""

    @staticmethod
    def forward(ctx: Any, leap: Leap, lattice: Lattice, calls: list[Call], a0: Tensor, b0: Tensor, *weights: Tensor) -> Pair:
        """The pair behind the last layer; NaN where a number left the lattice."""
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
        """Gradients of the pair and of all weights, layer by layer from the last one."""
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
        if astray.any():  # where they have a part in what is asked, it is not known
            reached = astray & (asked | moves(grad_a, grad_b))
            grad_a, grad_b = (gradient.masked_fill(reached, torch.nan) for gradient in (grad_a, grad_b))
            sums.spoil(reached.any())
        return None, None, None, grad_a, grad_b, *map(sums.get, range(len(weights)))


class Sums(dict[int, Tensor]):
    """Gradients of weights by their place, of all layers that share them."""

    def add(self, places: Sequence[int], parts: Sequence[Tensor | None]) -> None:
        """Those of one layer."""
        for i, part in zip(places, parts, strict=True):
            if part is not None:
                self[i] = self[i] + part if i in self else part

    def spoil(self, where: Tensor) -> None:
        """Make them NaN where one number says so."""
        self.update({i: total.masked_fill(where, torch.nan) for i, total in self.items()})


class Couplings(nn.Module):
    """Layers that each move one half of a pair by a function of the other.

    Args:
        leap: how.
        layers: the functions.
        bits: of the lattice, behind the point.
        recompute: whether activations are computed again on the way back.
    """

    def __init__(self, leap: Leap, layers: Iterable[nn.Module], *, bits: int | None, recompute: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.leap, self.bits, self.recompute = leap, check_bits(bits), recompute

    def run(self, a: Tensor, b: Tensor) -> Pair:
        """The pair behind all layers."""
        if not a.is_floating_point():
            raise InputError(f"the state is of {a.dtype}; it is of floating-point numbers.")
        if self.recompute and torch.is_grad_enabled() and not transformed(a, b):
            return self._recomputed(a, b)
        for layer in self.layers:
            a, b = self.leap.step(layer, a, b)
        return a, b

    def undo(self, a: Tensor, b: Tensor) -> Pair:
        """The pair before all layers, but for rounding."""
        for layer in reversed(self.layers):
            a, b = self.leap.back(layer, a, b)
        return a, b

    def along(self, a: Pair, b: Pair) -> tuple[Pair, Pair]:
        """The pair behind all layers, and its tangents."""
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
        """What `print` shows between the parentheses."""
        told = [] if self.bits is None else [f"bits={self.bits}"]
        return ", ".join([*told, *([] if self.recompute else ["recompute=False"])])


class Momentum(Couplings):
    r"""A momentum residual network:  v ← γ v + (1 − γ) f(x),  x ← x + v  for each of its modules f; v starts at 0.

    It is a residual network whose steps have inertia, and follows  (1/(1 − γ)) ẍ + ẋ = f(x)  where a residual network follows
    ẋ = f(x). Each layer can be undone, so no activation is stored: the backward pass computes them again from the output, for one
    more forward pass of work, and for sums of whole numbers, so that gradients are those of stored activations however deep the
    network is. Between the passes it holds x and v as 64-bit numbers, and log2(1/γ) bits for each number of v and layer, which is
    what γ v loses: at γ = 0.9 that is 0.152, 64 bits in each 390 layers.

    Args:
        modules: one f for each layer, which keep the shape: of vectors, of images, of anything.
        gamma: γ, above 0 and at most 1; a fraction with a denominator of at most 1,000 is taken for it. At 1, v stays 0.
        bits: behind the point of the whole numbers. Default: 40, so numbers are kept to 9e-13 and below 4e6; in float64 48, to
            4e-15 and below 16,000.
        recompute: False stores activations, as any network does.

    Raises:
        InputError: γ is out of range, or there is no module.
        ShapeError: a module changes the shape.
        UnsupportedModuleError: a module gave other numbers when it was called again; gradients would go by other ways than
            through its value; or gradients of gradients were asked. All these take recompute=False.
    Limits: where a number leaves the lattice, its item becomes NaN, and so do gradients through it. A module may draw random
        numbers (its draws are repeated: 5 kB a layer on a CPU) and write to its buffers (they are written once, and kept), but not
        to its input; what else it remembers between calls must not change its value. Gradients go to the input and to what the
        modules own; other ways are refused. Without gradients, in `torch.compile`, in `torch.export` and in transforms such as
        `torch.func.vmap` it runs in floats and stores what those store; compile the modules f instead.
    Source: Sander, Ablin, Blondel & Peyré 2021, ICML, arXiv:2102.07870; the store of lost digits: Maclaurin, Duvenaud & Adams
        2015, ICML, arXiv:1502.03492.
    """

    def __init__(
        self, modules: Iterable[nn.Module], *, gamma: float = 0.9, bits: int | None = None, recompute: bool = True
    ) -> None:
        fraction = as_fraction(gamma)
        layers = several("a momentum network", modules)
        super().__init__(Leap(fraction, float(1 - fraction), drifts=True), layers, bits=bits, recompute=recompute)

    @property
    def gamma(self) -> float:
        """γ."""
        return float(self.leap.gamma)

    def forward(self, x: Tensor) -> Tensor:
        """The state x behind the last layer, of the shape of the input."""
        return self.advance(x)[0]

    def advance(self, x: Tensor, v: Tensor | None = None) -> Pair:
        """The whole state (x, v) behind the last layer; v starts at 0 by default."""
        check_pair(x, v)
        return self.run(x, torch.zeros_like(x) if v is None else v)

    def inverse(self, x: Tensor, v: Tensor) -> Pair:
        """The state (x, v) that the network takes to this one, in floats: what is lost in them grows by 1/γ a layer."""
        check_pair(x, v)
        return self.undo(x, v)

    @property
    def guarantee(self) -> Guarantee:
        """A Lipschitz factor of x ↦ x', where all f have one."""
        growth = self.leap.growth(self.layers)
        return Guarantee() if growth is None else Guarantee(lipschitz=float(growth[0, 0]))

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return ", ".join(filter(None, [f"gamma={self.gamma:g}", super().extra_repr()]))


class Reversible(Couplings):
    r"""A reversible residual network:  y₁ = x₁ + f(x₂),  y₂ = x₂ + g(y₁)  for each pair of modules, on the two halves of x.

    Each layer is undone by subtracting what it added, so no activation is stored: the backward pass computes them again from
    the output, for one more forward pass of work. That is done in whole numbers, so that they come back bit for bit, and what is
    held between the passes does not grow with depth. Volumes are kept, det ∂y/∂x = 1. With f of velocities and g of positions it is
    the symplectic Euler method.

    Args:
        f, g: as many modules each, which keep the shape of a half: of vectors, of images, of anything.
        axis: that is halved. Default: 1, the channels of images (items, channels, H, W) and the numbers of vectors (items, dim).
        bits, recompute: as of `Momentum`.

    Raises:
        InputError: there is no module, or f and g differ in number.
        ShapeError: the axis is of odd length, or not there; a module changes the shape.
        UnsupportedModuleError: as of `Momentum`.
    Limits: as of `Momentum`.
    Source: Gomez, Ren, Urtasun & Grosse 2017, NeurIPS, arXiv:1707.04585; couplings: Dinh, Krueger & Bengio 2015, arXiv:1410.8516.
    """

    def __init__(
        self,
        f: Iterable[nn.Module],
        g: Iterable[nn.Module],
        *,
        axis: int = 1,
        bits: int | None = None,
        recompute: bool = True,
    ) -> None:
        firsts, seconds = several("a reversible network", f), several("a reversible network", g)
        if len(firsts) != len(seconds):
            raise InputError(f"a reversible network has as many f as g, not {len(firsts)} and {len(seconds)}.")
        layers = (module for both in zip(firsts, seconds, strict=True) for module in both)
        super().__init__(Leap(Fraction(1), 1.0, drifts=False), layers, bits=bits, recompute=recompute)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """The halves behind the last layer, put together, of the shape of the input."""
        first, second = halved(x, self.axis)
        second, first = self.run(second, first)
        return torch.cat([first, second], dim=self.axis)

    def inverse(self, y: Tensor) -> Tensor:
        """What the network takes to y, in floats, to rounding."""
        first, second = halved(y, self.axis)
        second, first = self.undo(second, first)
        return torch.cat([first, second], dim=self.axis)

    @property
    def guarantee(self) -> Guarantee:
        """Volumes are kept; and a Lipschitz factor, where all modules have one."""
        return of_pair(self, 0.0)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return ", ".join(filter(None, [f"axis={self.axis}", super().extra_repr()]))


def of_pair(couplings: Couplings, log_det: float) -> Guarantee:
    """Of a map of both halves: the norm of a matrix that bounds both differences bounds that of the pair."""
    growth = couplings.leap.growth(couplings.layers)
    lipschitz = math.inf if growth is None else float(torch.linalg.matrix_norm(growth, 2))
    return Guarantee(lipschitz=lipschitz, log_det=log_det)


def several(what: str, modules: Iterable[nn.Module]) -> list[nn.Module]:
    """One or more modules as a list."""
    if isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList | nn.Sequential):
        raise InputError(f"{what} is made of a list of modules, not of a {type(modules).__name__}.\nPut it into a list.")
    found = list(modules)
    if not found:
        raise InputError(f"{what} has at least 1 module, not 0.")
    for module in found:
        if not isinstance(module, nn.Module):
            raise InputError(f"{what} is made of modules, not of {module!r}.")
    return found


def halved(x: Tensor, axis: int) -> Pair:
    """Both halves along an axis."""
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"the halves lie along axis {axis}, which a tensor of shape {tuple(x.shape)} does not have.")
    if x.shape[axis] % 2:
        raise ShapeError(
            f"axis {axis} of a tensor of shape {tuple(x.shape)} has {x.shape[axis]} numbers, which are no two equal halves.\n"
            "Give the network an even number of channels."
        )
    first, second = x.chunk(2, dim=axis)
    return first, second


def checked(f: Any, x: Tensor, module: nn.Module) -> Tensor:
    """What a module gave, of the shape that it was given: another would be broadcast."""
    shape = tuple(f.shape) if isinstance(f, Tensor) else f"of a {type(f).__name__}"
    if shape != tuple(x.shape):
        raise ShapeError(
            f"{type(module).__name__} takes a tensor of shape {tuple(x.shape)} to {shape}.\n"
            "A layer that can be undone keeps the shape: change it between networks."
        )
    return f


def check_pair(x: Tensor, v: Tensor | None) -> None:
    """Refuse a velocity of another shape."""
    if v is not None and v.shape != x.shape:
        raise ShapeError(f"x has shape {tuple(x.shape)} but its velocity has {tuple(v.shape)}.")


def check_single(twice: bool) -> None:
    """Refuse gradients of gradients."""
    if twice:
        raise UnsupportedModuleError("gradients of gradients were asked of what stores no activations.\nTake recompute=False.")


def check_return(lattice: Lattice, came: Pair, went: Pair, lost: Tensor) -> Tensor:
    """Where the way back does not end where the way began, which only numbers that left the lattice are allowed."""
    astray = (came[0] != lattice.nearest(went[0])) | (came[1] != lattice.nearest(went[1]))
    if astray.any() and not lost.any():
        raise UnsupportedModuleError(
            "a layer gave other numbers when it was called again, so that the activations that came back are not those that went.\n"
            "Take out what it remembers between calls, ask for deterministic kernels, or build the network with recompute=False."
        )
    return astray


def moves(grad_a: Tensor, grad_b: Tensor) -> Tensor:
    """Where a gradient of the pair is not 0."""
    return (grad_a != 0) | (grad_b != 0)


def pulled_back(f: Tensor, inputs: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs of a layer, None for those that it does not use."""
    if not f.requires_grad:
        return (None,) * len(inputs)
    return torch.autograd.grad(f, inputs, gradient.to(f.dtype), allow_unused=True)


def transformed(*tensors: Tensor) -> bool:
    """Whether a compiler or a transform looks on, which would not see what happens on the way back; or there are no numbers."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return any(tensor.is_meta or forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
