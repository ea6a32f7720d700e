"""Mass-preserving networks: exchange between the entries of a state, which conserves their sum."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor, nn

from separatrix.core.checks import as_numbers, check_choice, check_whole, refused
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.evolve import check_system_type
from separatrix.core.parametric import Number
from separatrix.core.system import System
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow
from separatrix.flows.methods import RUNGE_KUTTA
from separatrix.nn.activation import Activation, ActivationLike, as_activation, with_slope
from separatrix.nn.block import Block, Sequential
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import NORM, SUM, Guarantee, WeightedSum, guarantee_of, identity, product

# Note [Rank one is enough]
# A field g conserves the sum if 1ᵀg = 0, and each such field is (A − Aᵀ)1 with A = g 1ᵀ/d, a matrix of rank one. With a hidden
# layer, A = f 1ᵀ/d for a network f is therefore fully general: it gives f − mean f and needs d numbers instead of d².

# Note [Centred again]
# Large flows may cancel: flows of 1e8 around a cycle leave rounding of 1e-8 in each ẋ_i, and so in their sum. Subtracting the
# mean from the result makes the sum 0 to the rounding of ẋ itself, for all weights.


class Exchange(Field):
    r"""The field  ẋ = (A(x) − A(x)ᵀ) 1:  a_ij flows from x_j to x_i, so 1ᵀẋ = 0 for every A.

    Args:
        dim: d, numbers in the state.
        hidden: m units with  A = f 1ᵀ/d,  f = V Σ(Ux + u) + v,  see Note [Rank one is enough]; None for  vec A = Σ(Ux + u).
        activation: Σ.
        factory: device and dtype of the weights.
    """

    def __init__(self, dim: int, hidden: int | None, activation: Activation, **factory: Unpack[Factory]) -> None:
        super().__init__()
        self.dim, self.activation = dim, activation
        self.inner = nn.Linear(dim, dim**2 if hidden is None else hidden, **factory)
        self.outer = None if hidden is None else nn.Linear(hidden, dim, **factory)

    def forward(self, x: Tensor, t: float = 0.0) -> Tensor:
        """ẋ, shape (*batch, dim)."""
        units = self.activation(self.inner(x))
        return self._between(units if self.outer is None else self.outer(units), x)

    def pushforward(self, x: Tensor, v: Tensor, t: float = 0.0) -> tuple[Tensor, Tensor]:
        """ẋ and its derivative along tangents, shape (*batch, k, dim)."""
        units, slope = with_slope(self.activation, self.inner(x))
        bends = slope[..., None, :] * (v @ self.inner.weight.mT)
        if self.outer is None:
            return self._between(units, x), self._between(bends, v)
        return self._between(self.outer(units), x), self._between(bends @ self.outer.weight.mT, v)

    def matrix(self, x: Tensor) -> Tensor:
        """A(x), shape (*batch, dim, dim)."""
        units = self.activation(self.inner(x))
        if self.outer is None:
            return units.unflatten(-1, (self.dim, self.dim))
        return self.outer(units)[..., None].expand(*x.shape, self.dim) / self.dim

    def _between(self, flows: Tensor, like: Tensor) -> Tensor:
        """(A − Aᵀ) 1 from vec A or f, in the precision of the state, so that autocast does not affect the sum."""
        flows = flows.to(like.dtype)
        if self.outer is not None:
            return _centred(_centred(flows))
        a = flows.unflatten(-1, (self.dim, self.dim))
        return _centred((a - a.mT).sum(-1))


def _centred(f: Tensor) -> Tensor:
    """The deviation f − mean f; see Note [Centred again]."""
    return f - f.mean(-1, keepdim=True)


class MassPreserving(Block):
    r"""A mass-preserving layer, one step of  ẋ = (A(x) − A(x)ᵀ) 1  with  vec A(x) = Σ(Ux + u),  which conserves Σxᵢ.

    The entry a_ij is the flow from x_j to x_i, and 1ᵀẋ = 1ᵀA1 − 1ᵀAᵀ1 = 0 for every A. Since the sum is linear in x, each
    Runge–Kutta step x' = x + dt Σ_i b_i k_i with 1ᵀk_i = 0 conserves it as well, for every dt.

    In this formula A has d² entries and U has d³. With `hidden` = m units A is f(x) 1ᵀ/d with f = V Σ(Ux + u) + v instead, so
    ẋ = f − mean f with 2dm + d + m parameters. No generality is lost: every field whose entries sum to 0 has the form f − mean f.

    As a system the layer is the map of one step. `flow` is the `sx.Flow` of the field with steps dt; for example
    `sx.fixed_points(block.flow)` finds the equilibria of the field.

    Args:
        dim: d, numbers in the state.
        hidden: m, number of hidden units. Default: none, the formula above.
        dt: step size, in the time of the flow.
        method: a Runge–Kutta method of `SOLVERS`: "euler", "heun", "midpoint" or "rk4".
        activation: Σ, elementwise: a name such as "tanh", an `nn.Module` class or instance, or a function.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: method is not a Runge–Kutta method, the activation is unknown or not elementwise, dt is not positive, or hidden
            is less than 1.
    Limits: the sum is conserved to rounding relative to the largest intermediate Σ|xᵢ|: in float64 to 1e-14 through 100 layers and
        1e-12 over 10,000 steps. Entries may become negative; nothing else is conserved.
    Source: Celledoni, Murari, Owren, Schönlieb & Sherry 2023, SIAM J. Sci. Comput. 45, arXiv:2210.02373.

    Example:
        >>> layer, x = sx.nn.MassPreserving(3).double(), torch.rand(5, 3).double()
        >>> torch.allclose(layer(x).sum(-1), x.sum(-1))
        True
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        dt: float = 1.0,
        method: str = "euler",
        activation: ActivationLike = "tanh",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, dt=dt)
        _check_runge_kutta(method)
        function = as_activation(activation)
        if hidden is not None:
            check_whole("hidden", hidden, 1, way_out="Leave it out for vec A = Σ(Ux + u).")
        self.flow = Flow(Exchange(dim, hidden, function, device=device, dtype=dtype), dim, dt, method=method)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state after one step."""
        return self.flow.step(x, n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The exact derivative of the step."""
        return self.flow.pushforward(x, v, n)

    def matrix(self, x: Tensor) -> Tensor:
        """A(x), shape (*batch, dim, dim)."""
        return self.flow.field.matrix(x)

    @property
    def guarantee(self) -> Guarantee:
        """The sum is conserved."""
        return Guarantee(conserves=frozenset({SUM}))


class MassPreservingLift(Block):
    r"""A lift by zero padding,  x ↦ (x, 0),  which conserves the sum and the norm.

    Args:
        dim: numbers in the state.
        out: numbers in the output, out ≥ dim.

    Raises:
        ShapeError: out is less than dim.
    Source: as `MassPreserving`.

    Example:
        >>> sx.nn.parts.MassPreservingLift(2, 3)(torch.tensor([1.0, 2.0]))
        tensor([1., 2., 0.])
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out)
        if out < dim:
            raise ShapeError(
                f"expected out ≥ dim for a lift, got {dim} → {out}.\n"
                f"Use sx.nn.parts.MassPreservingProjection({dim}, {out}), which also conserves the sum."
            )

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """(x, 0)."""
        return nn.functional.pad(x, (0, self.out - self.dim))

    @property
    def guarantee(self) -> Guarantee:
        """Isometric; the sum is conserved."""
        return identity(self.dim) if self.out == self.dim else Guarantee(lipschitz=1.0, conserves=frozenset({SUM, NORM}))


class MassPreservingProjection(Block):
    r"""A projection on the first k entries,  x ↦ x_kept + (1/k) (Σ x_dropped) 1,  which conserves the sum.

    Each kept entry receives an equal share of the dropped ones. The singular values are 1 (k − 1 times) and √(d/k), along equal
    entries.

    Args:
        dim: d, numbers in the state.
        out: k, numbers in the output, out ≤ dim.

    Raises:
        ShapeError: out is more than dim.
    Source: as `MassPreserving`.

    Example:
        >>> sx.nn.parts.MassPreservingProjection(3, 2)(torch.tensor([1.0, 2.0, 4.0]))
        tensor([3., 4.])
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out)
        if out > dim:
            raise ShapeError(
                f"expected out ≤ dim for a projection, got {dim} → {out}.\nUse sx.nn.parts.MassPreservingLift({dim}, {out})."
            )

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The kept entries, each with its share of the dropped ones."""
        return x[..., : self.out] + x[..., self.out :].sum(-1, keepdim=True) / self.out

    @property
    def guarantee(self) -> Guarantee:
        """The sum is conserved; the Lipschitz factor is √(d/k)."""
        widened = Guarantee(lipschitz=(self.dim / self.out) ** 0.5, conserves=frozenset({SUM}))
        return identity(self.dim) if self.out == self.dim else widened


class Weighted(Block):
    r"""A block in other units,  x ↦ D⁻¹ f(D x)  with  D = diag(w):  if f conserves the sum, this conserves Σ wᵢxᵢ.

    For amounts x in mol and molar masses w, the conserved quantity is the mass. The log-determinant is that of f; the Lipschitz
    factor grows at most by max|w| / min|w|.

    Args:
        block: f with equal input and output width: a block, a network of blocks, or a layer such as `NeuralODE`.
        weights: w, one nonzero number per entry of the state.

    Raises:
        ShapeError: the number of weights differs from the width of the state, or the block changes the width.
        InputError: a weight is 0 or not finite.
        UnsupportedModuleError: the block is not a System.

    Example:
        >>> layer = sx.nn.parts.Weighted(sx.nn.MassPreserving(3), (18.0, 2.0, 32.0)).double()
        >>> weights, x = torch.tensor([18.0, 2.0, 32.0]).double(), torch.rand(3).double()
        >>> torch.allclose(weights @ layer(x), weights @ x)
        True
    """

    def __init__(self, block: System, weights: Sequence[float] | Tensor) -> None:
        check_system_type(block)
        layer = block.as_layer()
        super().__init__(block.dim, dt=layer.dt)
        self.horizon = layer.horizon
        w, out = as_numbers("weights", weights), layer.width(1)
        if out != block.dim:
            raise ShapeError(
                f"expected a block with equal input and output width, got {block.dim} → {out}.\n"
                f"End it with a block of output width {block.dim}."
            )
        if w.shape != (block.dim,):
            raise ShapeError(f"expected weights of shape ({block.dim},), one per entry of the state, got {tuple(w.shape)}.")
        if not (torch.isfinite(w) & (w != 0)).all():
            raise InputError(f"expected finite nonzero weights, got {w.tolist()}.\nRemove entries without weight from the state.")
        self.block = block
        self.weights = tuple(
            w.tolist()
        )  # Python numbers: a float32 buffer would be off by 1e-8 once the network is cast to float64

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """D⁻¹ f(D x)."""
        w = x.new_tensor(self.weights)
        return self.block.as_layer().step(x * w, n) / w

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The pushforward of the block in these units."""
        w = x.new_tensor(self.weights)
        y, pushed = self.block.as_layer().pushforward(x * w, v * w, n)
        return y / w, pushed / w

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The residual of the block in these units: a field, or F(x) − x."""
        w = x.new_tensor(self.weights)
        return self.block.as_layer().residual(x * w, n) / w

    def inverse(self, y: Tensor) -> Tensor:
        """The inverse of the block in these units."""
        if not isinstance(self.block, Block):
            raise UnsupportedModuleError(f"{type(self.block).__name__} has no exact inverse.")
        w = y.new_tensor(self.weights)
        return self.block.inverse(y * w) / w

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"{super().extra_repr()}, weights={self.weights}"

    @property
    def invertible(self) -> bool:
        """Whether the block is invertible."""
        return isinstance(self.block, Block) and self.block.invertible

    @property
    def continuous(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the block is a flow."""
        return self.block.as_layer().continuous

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """The noise of the block in these units."""
        w = x.new_tensor(self.weights)
        return self.block.as_layer().noise_of_step(x * w, n) / w

    @property
    def guarantee(self) -> Guarantee:
        """The guarantee of the block in these units."""
        own, sizes = guarantee_of(self.block), [abs(w) for w in self.weights]
        kept = frozenset(self._in_these_units(q) for q in own.conserves if q == SUM or isinstance(q, WeightedSum))
        return Guarantee(product(own.lipschitz, max(sizes) / min(sizes)), kept, own.log_det)

    def _in_these_units(self, kept: str | WeightedSum) -> WeightedSum:
        inner = kept.weights if isinstance(kept, WeightedSum) else (1.0,) * self.dim
        return WeightedSum(tuple(u * w for u, w in zip(inner, self.weights, strict=True)))


def mass_preserving_network(
    widths: Sequence[int],
    *,
    out: int | None = None,
    blocks: int = 3,
    hidden: int | None = 50,
    dt: float = 1.0,
    method: str = "euler",
    activation: ActivationLike = "tanh",
    weights: Sequence[float] | Tensor | None = None,
    device: Device = None,
    dtype: torch.dtype | None = None,
) -> Sequential | Weighted:
    r"""A network that conserves the sum: lifts and projections between widths, with mass-preserving layers at each width.

    Args:
        widths: numbers in the state at each width, first that of the input, such as (3, 10, 10, 15).
        out: numbers in the output. Default: as in the input, so that the network can be iterated.
        blocks: number of layers at each width after the first.
        hidden, dt, method, activation: options of each layer, see `MassPreserving`.
        weights: w, for a network that conserves Σ wᵢxᵢ instead, see `Weighted`.
        device, dtype: of the weights, as in PyTorch.

    Returns:
        Sequential, or Weighted if weights are given.

    Raises:
        InputError: there are fewer than two widths, blocks is less than 1, or `MassPreserving` refuses an option.
        ShapeError: the number of weights differs from the width of the state, or weights are given and out differs from the
            input width.
    Source: as `MassPreserving`; default widths, steps and hidden units follow its experiment with the SIR model.

    Example:
        >>> network, x = sx.nn.mass_preserving_network((3, 10)).double(), torch.rand(5, 3).double()
        >>> torch.allclose(network(x).sum(-1), x.sum(-1))
        True
    """
    if not isinstance(widths, Iterable):
        raise refused("widths", widths, "the width of the state, then those of the layers, such as (3, 10)")
    widths = [check_whole("a width", width) for width in widths]
    if len(widths) < 2:
        raise refused("widths", widths, "the width of the state, then those of the layers, such as (3, 10)")
    check_whole("blocks", blocks, 1)
    factory = Factory(device=device, dtype=dtype)
    layers: list[Block] = []
    for before, width in pairwise(widths):
        layers += _resized(before, width)
        layers += [MassPreserving(width, hidden, dt=dt, method=method, activation=activation, **factory) for _ in range(blocks)]
    network = Sequential(*layers, *_resized(widths[-1], widths[0] if out is None else out))
    return network if weights is None else Weighted(network, weights)


def _resized(dim: int, out: int) -> list[Block]:
    """The lift or projection between two widths, if they differ."""
    if out == dim:
        return []
    return [MassPreservingLift(dim, out) if out > dim else MassPreservingProjection(dim, out)]


def _check_runge_kutta(method: str) -> None:
    check_choice("method", method, RUNGE_KUTTA, way_out="Runge–Kutta methods conserve the sum.")
