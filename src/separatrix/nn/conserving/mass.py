"""Mass-preserving networks: flows between the numbers of a state, whose sum stays what it is."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from separatrix.core.checks import as_numbers, check_whole
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.evolve import check_system_type
from separatrix.core.parametric import Number
from separatrix.core.system import System
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow
from separatrix.flows.methods import RUNGE_KUTTA
from separatrix.nn.activation import Activation, ActivationLike, as_activation, with_slope
from separatrix.nn.block import Block, Sequential
from separatrix.nn.guarantee import NORM, SUM, Guarantee, WeightedSum, guarantee_of, identity, product

# Note [Rank one is enough]
# A field g keeps the sum where 1ᵀg = 0, and each such field is (A − Aᵀ)1 with A = g 1ᵀ/d, a matrix of rank one. So with a hidden
# layer nothing is lost by A = f 1ᵀ/d for any network f: it gives f − mean f, at the price of d numbers where A has d².

# Note [Centred again]
# Large flows may cancel: numbers of 1e8 that go round in a circle leave 1e-8 of rounding in each ẋ_i, and so in their sum. Taking
# the mean off what is left over makes the sum 0 to the rounding of ẋ itself, whatever the weights are.


class Exchange(Field):
    r"""The field  ẋ = (A(x) − A(x)ᵀ) 1:  a_ij flows from x_j to x_i, so that 1ᵀẋ = 0 whatever A is.

    Args:
        dim: d, numbers in the state.
        hidden: None for  vec A = Σ(Ux + u);  else m units, with  A = f 1ᵀ/d,  f = V Σ(Ux + u) + v. See Note [Rank one is enough].
        activation: Σ.
    """

    def __init__(self, dim: int, hidden: int | None, activation: Activation) -> None:
        super().__init__()
        self.dim, self.activation = dim, activation
        self.inner = nn.Linear(dim, dim**2 if hidden is None else hidden)
        self.outer = None if hidden is None else nn.Linear(hidden, dim)

    def forward(self, x: Tensor, t: float = 0.0) -> Tensor:
        """ẋ, shape (*batch, dim)."""
        units = self.activation(self.inner(x))
        return self._between(units if self.outer is None else self.outer(units), x)

    def pushforward(self, x: Tensor, v: Tensor, t: float = 0.0) -> tuple[Tensor, Tensor]:
        """ẋ and its derivative along tangents, rows of shape (*batch, k, dim)."""
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
        """(A − Aᵀ) 1 of vec A or of f, in the state's own precision, so that autocast does not reach the sum."""
        flows = flows.to(like.dtype)
        if self.outer is not None:
            return _centred(_centred(flows))
        a = flows.unflatten(-1, (self.dim, self.dim))
        return _centred((a - a.mT).sum(-1))


def _centred(f: Tensor) -> Tensor:
    """Without its mean; see Note [Centred again]."""
    return f - f.mean(-1, keepdim=True)


class MassPreserving(Block):
    r"""One step of  ẋ = (A(x) − A(x)ᵀ) 1,  vec A(x) = Σ(Ux + u),  which keeps the sum of the state, Σxᵢ.

    a_ij is what flows from x_j to x_i. Nothing is lost on the way: 1ᵀẋ = 1ᵀA1 − 1ᵀAᵀ1 = 0 for every A. The sum is linear in x,
    so each Runge–Kutta step keeps it too, x' = x + dt Σ_i b_i k_i with 1ᵀk_i = 0, whatever dt is.

    The formula's A has d² numbers and U has d³. With `hidden` = m units A is f(x) 1ᵀ/d instead, f = V Σ(Ux + u) + v, so that
    ẋ = f − mean f, with 2dm + d + m numbers. That is as general: f − mean f is every field whose numbers add up to 0, and
    vec A = W Σ(Ux + u) + w gives the same fields whatever W is; the formula itself is W = I, with d² units.

    As a system it is the map of one step; `flow` is the flow of the field, an `sx.Flow` of steps dt, for what is asked of the
    field: its equilibria are `sx.fixed_points(block.flow)`.

    Args:
        dim: d, numbers in the state.
        hidden: m; None for the formula.
        dt: the step, in the flow's time.
        method: a Runge–Kutta method of `SOLVERS`: "euler", "heun", "midpoint" or "rk4".
        activation: Σ, a function of each number on its own, such as `torch.tanh`, `torch.relu` or an `nn.SiLU()`.

    Raises:
        InputError: the method is unknown, the activation mixes numbers, dt is not a positive number, or `hidden` is below 1.
    Limits: the sum is kept to rounding, relative to the largest Σ|xᵢ| on the way: in float64 to 1e-14 through 100 layers, to 1e-12
        over 10,000 steps. Single numbers may become negative, and nothing else is kept.
    Source: Celledoni, Murari, Owren, Schönlieb & Sherry 2023, SIAM J. Sci. Comput. 45, arXiv:2210.02373.
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        dt: float = 1.0,
        method: str = "euler",
        activation: ActivationLike = "tanh",
    ) -> None:
        super().__init__(dim, dt=dt)
        _check_runge_kutta(method)
        function = as_activation(activation)
        if hidden is not None and check_whole("hidden", hidden) < 1:
            raise InputError(f"hidden is {hidden}; a layer has at least 1 unit.\nLeave it out for vec A = Σ(Ux + u).")
        self.flow = Flow(Exchange(dim, hidden, function), dim, dt, method=method)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state after one step, with the same sum."""
        return self.flow.step(x, n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The exact derivative of the step."""
        return self.flow.pushforward(x, v, n)

    def matrix(self, x: Tensor) -> Tensor:
        """A(x), shape (*batch, dim, dim)."""
        return self.flow.field.matrix(x)

    @property
    def guarantee(self) -> Guarantee:
        """The sum is kept."""
        return Guarantee(conserves=frozenset({SUM}))


class MassPreservingLift(Block):
    r"""x ↦ (x, 0):  zeros behind the state, which keep its sum and its norm.

    Args:
        dim: numbers in the state.
        out: numbers in what it gives, at least as many.

    Raises:
        ShapeError: `out` is less than `dim`.
    Source: as `MassPreserving`.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out)
        if out < dim:
            raise ShapeError(
                f"a lift gives at least as many numbers as it takes, but {out} < {dim}.\n"
                f"Use sx.nn.MassPreservingProjection({dim}, {out}), which keeps the sum of what it drops."
            )

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state and zeros."""
        return nn.functional.pad(x, (0, self.out - self.dim))

    @property
    def guarantee(self) -> Guarantee:
        """An isometry that keeps the sum."""
        return identity(self.dim) if self.out == self.dim else Guarantee(lipschitz=1.0, conserves=frozenset({SUM, NORM}))


class MassPreservingProjection(Block):
    r"""x ↦ x_kept + (1/k) (Σ x_dropped) 1:  the first k numbers, each with an equal share of what is dropped.

    Its singular values are 1, k − 1 times, and √(d/k), along equal numbers.

    Args:
        dim: d, numbers in the state.
        out: k, how many are kept.

    Raises:
        ShapeError: `out` is more than `dim`.
    Source: as `MassPreserving`.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out)
        if out > dim:
            raise ShapeError(
                f"a projection gives at most as many numbers as it takes, but {out} > {dim}.\n"
                f"Use sx.nn.MassPreservingLift({dim}, {out})."
            )

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """What is kept, with its share."""
        return x[..., : self.out] + x[..., self.out :].sum(-1, keepdim=True) / self.out

    @property
    def guarantee(self) -> Guarantee:
        """The sum is kept; the norm grows at most by √(d/k)."""
        widened = Guarantee(lipschitz=(self.dim / self.out) ** 0.5, conserves=frozenset({SUM}))
        return identity(self.dim) if self.out == self.dim else widened


class Weighted(Block):
    r"""A block in other units,  x ↦ D⁻¹ f(D x),  D = diag(w):  where f keeps the sum, this keeps the weighted sum Σ wᵢxᵢ.

    With amounts x in mol and molar masses w, it is the mass that is kept. A log-determinant stays what it is; a Lipschitz factor
    grows at most by max|w| / min|w|.

    Args:
        block: f, which keeps the width: a block, a whole network of blocks, or a layer such as `NeuralODE`.
        weights: w, one number for each of the state's; not 0.

    Raises:
        ShapeError: there are more or fewer weights than numbers in the state, or the block changes the width.
        InputError: a weight is 0 or not finite.
        UnsupportedModuleError: the block is no System.
    """

    def __init__(self, block: System, weights: Sequence[float] | Tensor) -> None:
        check_system_type(block)
        layer = block.as_layer()
        super().__init__(block.dim, dt=layer.dt)
        self.horizon = layer.horizon
        w, out = as_numbers("weights", weights), layer.width(1)
        if out != block.dim:
            raise ShapeError(
                f"the block takes {block.dim} numbers and gives {out}: weights belong to states of one width.\n"
                f"End it with a block that gives {block.dim}."
            )
        if w.shape != (block.dim,):
            raise ShapeError(
                f"the state has {block.dim} numbers, but weights have shape {tuple(w.shape)}.\nGive one weight for each."
            )
        if not (torch.isfinite(w) & (w != 0)).all():
            raise InputError(f"weights are finite and not 0, unlike {w.tolist()}.\nLeave out of the state what has no weight.")
        self.block = block
        self.weights = tuple(
            w.tolist()
        )  # Python numbers: a float32 buffer would be off by 1e-8 once the network is cast to float64

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The block's step, in the state's own units."""
        w = x.new_tensor(self.weights)
        return self.block.as_layer().step(x * w, n) / w

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The block's own, likewise."""
        w = x.new_tensor(self.weights)
        y, pushed = self.block.as_layer().pushforward(x * w, v * w, n)
        return y / w, pushed / w

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The block's, likewise: a field's, or F(x) − x."""
        w = x.new_tensor(self.weights)
        return self.block.as_layer().residual(x * w, n) / w

    def inverse(self, y: Tensor) -> Tensor:
        """The block's, likewise."""
        if not isinstance(self.block, Block):
            raise UnsupportedModuleError(f"{type(self.block).__name__} has no exact inverse.")
        w = y.new_tensor(self.weights)
        return self.block.inverse(y * w) / w

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{super().extra_repr()}, weights={self.weights}"

    @property
    def invertible(self) -> bool:
        """Whether the block is."""
        return isinstance(self.block, Block) and self.block.invertible

    @property
    def continuous(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the block is."""
        return self.block.as_layer().continuous

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """The block's, likewise."""
        w = x.new_tensor(self.weights)
        return self.block.as_layer().noise_of_step(x * w, n) / w

    @property
    def guarantee(self) -> Guarantee:
        """What the block guarantees, in these units."""
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
) -> Sequential | Weighted:
    r"""A network that keeps the sum: lifts and projections from width to width, with steps of mass-preserving flows at each.

    Args:
        widths: numbers in the state, the first that of the input, such as (3, 10, 10, 15).
        out: numbers that it gives. Default: as many as it takes, so that the network is a map that can be iterated.
        blocks: steps at each width after the first.
        hidden, dt, method, activation: of each step, see `MassPreserving`.
        weights: w, for a network that keeps Σ wᵢxᵢ in the place of the sum, see `Weighted`.

    Returns:
        A `Sequential`; with weights, a `Weighted` one.

    Raises:
        InputError: fewer than two widths, or no blocks.
        ShapeError: weights of another length than the state, or of a network whose output is not as wide as its input.
    Source: as `MassPreserving`; widths, steps and hidden units as in its experiment with the SIR model.
    """
    if not isinstance(widths, Iterable):
        raise InputError(f"widths are those of all layers, the first that of the state, such as (3, 10), not {widths!r}.")
    widths = [check_whole("a width", width) for width in widths]
    if len(widths) < 2 or check_whole("blocks", blocks) < 1:
        raise InputError(
            f"a network has at least 2 widths and 1 block at each, not {len(widths)} and {blocks}.\n"
            "Give the width of the state, then those of its layers, such as (3, 10)."
        )
    layers: list[Block] = []
    for before, width in pairwise(widths):
        layers += _resized(before, width)
        layers += [MassPreserving(width, hidden, dt=dt, method=method, activation=activation) for _ in range(blocks)]
    network = Sequential(*layers, *_resized(widths[-1], widths[0] if out is None else out))
    return network if weights is None else Weighted(network, weights)


def _resized(dim: int, out: int) -> list[Block]:
    """What takes one width to another, where they differ."""
    if out == dim:
        return []
    return [MassPreservingLift(dim, out) if out > dim else MassPreservingProjection(dim, out)]


def _check_runge_kutta(method: str) -> None:
    if method not in RUNGE_KUTTA:
        raise InputError(
            f"method {method!r} is no Runge–Kutta method, and only those keep the sum.\nChoose one of {', '.join(RUNGE_KUTTA)}."
        )
