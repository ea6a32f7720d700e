"""Reversible networks: activations are recomputed from the output of the network instead of stored."""

import math
from collections.abc import Iterable
from fractions import Fraction

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, ShapeError
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.reversible.couplings import Couplings, Leap, Pair
from separatrix.nn.reversible.lattice import as_fraction


class Momentum(Couplings):
    r"""A momentum residual network,  v ← γ v + (1 − γ) f(x),  x ← x + v  for each module f, with v = 0 initially.

    A residual network approximates ẋ = f(x); with momentum it approximates  (1/(1 − γ)) ẍ + ẋ = f(x).  Every layer is
    invertible, so no activations are stored: the backward pass recomputes them from the output, at the cost of one more forward
    pass. The state is kept in integers, so the gradients equal those of stored activations at any depth. Between the passes the
    network holds x and v as 64-bit integers, and log2(1/γ) bits per entry of v and layer that γ v would lose: 0.152 bits at γ =
    0.9, or 64 bits per 390 layers.

    Args:
        modules: one f per layer; each keeps the shape of its input, which may be vectors, images or any other tensor.
        gamma: γ, 0 < γ ≤ 1, rounded to a fraction with a denominator of at most 1,000. At 1, v stays 0.
        bits: fractional bits of the integers. Default: 40 (spacing 9e-13, numbers below 4e6); 48 in float64 (spacing 4e-15,
            numbers below 16,000).
        recompute: False stores activations, as an ordinary network does.

    Raises:
        InputError: gamma is out of range, or there is no module.
        ShapeError: a module changes the shape.
        UnsupportedModuleError: a module returned other numbers when called again, a gradient would not pass through its value, or
            second derivatives were requested. recompute=False supports all of these.
    Limits: if an entry leaves the range of the integers, its item becomes NaN, and so do gradients through it. A module may draw
        random numbers (the draws are repeated; 5 kB per layer on a CPU) and write to its buffers (once), but not to its input; any
        other state between calls must not change its value. Gradients reach the input and the tensors that the modules own.
        Without gradients, in `torch.compile`, in `torch.export` and under transforms such as `torch.func.vmap` the network runs in
        floats and stores what these store; compile the modules f instead.
    Source: Sander, Ablin, Blondel & Peyré 2021, ICML, arXiv:2102.07870; the store of lost digits: Maclaurin, Duvenaud & Adams
        2015, ICML, arXiv:1502.03492.

    Example:
        >>> network = sx.nn.Momentum([nn.Linear(4, 4), nn.Tanh()])
        >>> x = torch.randn(2, 4)
        >>> start, _ = network.inverse(*network.advance(x))
        >>> torch.allclose(start, x, atol=1e-5)
        True
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
        """The state x after the last layer, same shape as the input."""
        return self.advance(x)[0]

    def advance(self, x: Tensor, v: Tensor | None = None) -> Pair:
        """The state (x, v) after the last layer. Default: v = 0 initially."""
        check_pair(x, v)
        return self.run(x, torch.zeros_like(x) if v is None else v)

    def inverse(self, x: Tensor, v: Tensor) -> Pair:
        """The inverse of `advance`, in floats: rounding grows by 1/γ per layer."""
        check_pair(x, v)
        return self.undo(x, v)

    @property
    def guarantee(self) -> Guarantee:
        """The Lipschitz factor of x ↦ x', if every f has one."""
        growth = self.leap.growth(self.layers)
        return Guarantee() if growth is None else Guarantee(lipschitz=float(growth[0, 0]))

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return ", ".join(filter(None, [f"gamma={self.gamma:g}", super().extra_repr()]))


class Reversible(Couplings):
    r"""A reversible residual network,  y₁ = x₁ + f(x₂),  y₂ = x₂ + g(y₁)  for each pair of modules, on the two halves of x.

    Every layer is invertible by subtraction, so no activations are stored: the backward pass recomputes them from the output,
    at the cost of one more forward pass. It does so in integers, so they are recovered bit for bit, and the memory between the
    passes does not grow with depth. The network preserves volume, det ∂y/∂x = 1. With f(velocities) and g(positions) a layer is
    the symplectic Euler method.

    Args:
        f, g: the same number of modules each; every module keeps the shape of a half, which may be vectors, images or any other
            tensor.
        axis: axis that is halved. Default: 1, the channels of images (items, channels, H, W) or the entries of vectors (items,
            dim).
        bits, recompute: as for `Momentum`.

    Raises:
        InputError: there is no module, or f and g differ in number.
        ShapeError: the axis is missing or has odd length, or a module changes the shape.
        UnsupportedModuleError: as for `Momentum`.
    Limits: as for `Momentum`.
    Source: Gomez, Ren, Urtasun & Grosse 2017, NeurIPS, arXiv:1707.04585; couplings: Dinh, Krueger & Bengio 2015, arXiv:1410.8516.

    Example:
        >>> network = sx.nn.Reversible([nn.Linear(2, 2)], [nn.Tanh()])
        >>> x = torch.randn(5, 4)
        >>> torch.allclose(network.inverse(network(x)), x, atol=1e-5)
        True
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
            raise InputError(f"expected as many modules f as g, got {len(firsts)} and {len(seconds)}.")
        layers = (module for both in zip(firsts, seconds, strict=True) for module in both)
        super().__init__(Leap(Fraction(1), 1.0, drifts=False), layers, bits=bits, recompute=recompute)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """The state after the last layer, same shape as the input."""
        first, second = halved(x, self.axis)
        second, first = self.run(second, first)
        return torch.cat([first, second], dim=self.axis)

    def inverse(self, y: Tensor) -> Tensor:
        """The inverse in floats, up to rounding."""
        first, second = halved(y, self.axis)
        second, first = self.undo(second, first)
        return torch.cat([first, second], dim=self.axis)

    @property
    def guarantee(self) -> Guarantee:
        """Volume; and a Lipschitz factor, if every module has one."""
        return of_pair(self, 0.0)

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return ", ".join(filter(None, [f"axis={self.axis}", super().extra_repr()]))


def of_pair(couplings: Couplings, log_det: float) -> Guarantee:
    """The guarantee of a map of pairs: the norm of the 2 × 2 matrix that bounds both halves bounds the pair."""
    growth = couplings.leap.growth(couplings.layers)
    lipschitz = math.inf if growth is None else float(torch.linalg.matrix_norm(growth, 2))
    return Guarantee(lipschitz=lipschitz, log_det=log_det)


def several(what: str, modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules as a list of at least one."""
    if isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList | nn.Sequential):
        raise InputError(f"{what} expects a list of modules, got a {type(modules).__name__}.\nPass [module].")
    found = list(modules)
    if not found:
        raise InputError(f"{what} needs at least 1 module, got 0.")
    for module in found:
        if not isinstance(module, nn.Module):
            raise InputError(f"{what} expects modules, got {module!r}.")
    return found


def halved(x: Tensor, axis: int) -> Pair:
    """The two halves along an axis."""
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"axis is {axis}, but the state has shape {tuple(x.shape)}.")
    if x.shape[axis] % 2:
        raise ShapeError(
            f"expected an even length along axis {axis}, got {x.shape[axis]} in a state of shape {tuple(x.shape)}.\n"
            "Use an even number of channels, or pad the state."
        )
    first, second = x.chunk(2, dim=axis)
    return first, second


def check_pair(x: Tensor, v: Tensor | None) -> None:
    """Refuse a velocity of another shape."""
    if v is not None and v.shape != x.shape:
        raise ShapeError(f"expected v of the shape of x, {tuple(x.shape)}, got {tuple(v.shape)}.")
