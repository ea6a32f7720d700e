"""Presnov's decomposition of a field into a gradient and a part along spheres; and networks that take the two in turn."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, ShapeError
from separatrix.core.system import System
from separatrix.core.tangent import jacobian, pushforward
from separatrix.core.twin import twin
from separatrix.flows.field import Field, as_field
from separatrix.flows.methods import SPLITTINGS
from separatrix.flows.methods.cayley import Dense
from separatrix.nn.block import Block
from separatrix.nn.conserving.gradient_field import Gradient
from separatrix.nn.conserving.sphere import SpherePreserving


@dataclass(frozen=True)
class Presnov:
    r"""A field in two parts,  f = ∇U + X_S,  with xᵀ X_S(x) = 0; made by `presnov`.

    With Gauss–Legendre nodes tᵢ and weights wᵢ in the place of the integrals, `gradient` is the gradient of `potential` to rounding
    and `sphere` is orthogonal to x to rounding, however few the nodes; what they lack in f together is `defect`.

    Args:
        field: f.
        nodes: n, of the quadrature.
    """

    field: Field
    nodes: int

    def potential(self, x: Tensor) -> Tensor:
        """U(x) = ∫₀¹ xᵀ f(t x) dt, shape (*batch)."""
        _, weights, points = self._ray(x)
        return (weights * (x * self._f(points))).sum((0, -1))

    def gradient(self, x: Tensor) -> Tensor:
        """∇U(x) = ∫₀¹ f(t x) + t Df(t x)ᵀ x dt, shape (*batch, dim)."""
        t, weights, points = self._ray(x)
        value, back = torch.func.vjp(self._f, points)[:2]
        return (weights * (value + t * back(x.expand_as(points))[0])).sum(0)

    def sphere(self, x: Tensor) -> Tensor:
        """X_S(x) = ∫₀¹ t (Df(t x) − Df(t x)ᵀ) x dt, shape (*batch, dim)."""
        t, weights, points = self._ray(x)
        radii = x.expand_as(points)
        along = pushforward(self._f, points, radii[..., None, :])[1][..., 0, :]
        (back,) = torch.func.vjp(self._f, points)[1](radii)
        return (weights * t * (along - back)).sum(0)

    def skew(self, x: Tensor) -> Dense:
        """S(x) = ∫₀¹ t (Df(t x) − Df(t x)ᵀ) dt, of which X_S(x) = S(x) x: for `separatrix.flows.methods.cayley_midpoint`."""
        t, weights, points = self._ray(x)
        turn = jacobian(self._f, points)
        return Dense(((weights * t)[..., None] * (turn - turn.mT)).sum(0))

    def defect(self, x: Tensor) -> Tensor:
        """f(x) − ∇U(x) − X_S(x), the error of the quadrature of ∫₀¹ d(t f(t x)), shape (*batch, dim)."""
        return self._f(x) - self.gradient(x) - self.sphere(x)

    def _f(self, x: Tensor) -> Tensor:
        value = self.field(x, 0.0)
        if value.shape != x.shape:
            raise ShapeError(f"a field gives a velocity for each state, {tuple(x.shape)}, but this one gives {tuple(value.shape)}.")
        return value

    def _ray(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes and weights on [0, 1], shape (node, 1, …), and the states t x, (node, *batch, dim)."""
        t, weights = (x.new_tensor(column).reshape(-1, *[1] * x.ndim) for column in np.polynomial.legendre.leggauss(self.nodes))
        t, weights = (t + 1) / 2, weights / 2
        return t, weights, t * x


def presnov(field: Callable[[Tensor], Tensor] | System, *, nodes: int = 16) -> Presnov:
    r"""Presnov's decomposition of a field into a gradient and a field along the spheres about the origin.

        f = ∇U + X_S,   U(x) = ∫₀¹ xᵀ f(t x) dt,   xᵀ X_S(x) = 0

    Both parts are unique, U up to a constant, and where f(x) = B x they are the symmetric and the skew part of B. The integrals
    are sums over n Gauss–Legendre nodes, exact for fields that are polynomials of degree up to 2n − 1. For others the error is
    n!⁴ / ((2n + 1) (2n)!³) times the 2n-th derivative in t of the integrand at some t: it falls exponentially in n for analytic
    fields. `defect` measures it.

    Args:
        field: x ↦ f(x) on states of shape (*batch, dim), each state on its own, differentiable. A module is used through a twin; a
            `Flow` gives its field at time 0, and a map its displacement F(x) − x.
        nodes: n, at least 1.

    Returns:
        Presnov: `potential`, `gradient`, `sphere`, `skew` and `defect`, functions of states.

    Raises:
        InputError: fewer nodes than 1.

    Limits: a field with a kink, such as a ReLU network's, has an error that falls only as a power of 1 / n.
    Source: Tudoran 2017, arXiv:1711.11268 (every C¹ field has one such decomposition); called Presnov's and used for networks by
        Celledoni et al. 2023, arXiv:2210.02373.
    """
    if nodes < 1 or nodes != int(nodes):
        raise InputError(f"a quadrature has a whole number of nodes and at least 1 node, not {nodes}.")
    if isinstance(field, System):
        field = field.residual
    own = as_field(field)
    return Presnov(twin(own) if isinstance(field, nn.Module) else own, nodes)


class PresnovNetwork(Block):
    r"""Flows of gradient fields and sphere-preserving fields in turn, each block for a share αᵢ of the time, with Σ αᵢ = 1.

        x ↦ Ψ_m(… Ψ_1(x)),   Ψ_i = Φ_∇Uᵢ^{αᵢh/2} ∘ Φ_Sᵢ^{αᵢh} ∘ Φ_∇Uᵢ^{αᵢh/2},   h = dt

    The gradient fields are those of `Gradient` by the midpoint method, the others those of `SpherePreserving`; both are of second
    order, so that each Ψ_i is the flow of ∇Uᵢ + Sᵢ(x)x for the time αᵢ h up to (αᵢ h)³. The shares are learned as a softmax:
    positive and of sum 1 for all weights. A negative share would be a positive one of the field −f, which the block can have.

    Args:
        dim: numbers in the state, at least 2; shape (*batch, dim) → (*batch, dim).
        blocks: how many Ψ_i, of equal shares to begin with; or the shares, positive numbers that are scaled to sum 1.
        hidden: rows of each A.
        planes: rows of each L and R.
        dt: the time h of all blocks together.
        splitting: a name in `SPLITTINGS`: "strang", or "lie" of first order, Φ_Sᵢ^{αᵢh} ∘ Φ_∇Uᵢ^{αᵢh}.

    Raises:
        InputError: no block, a share that is not positive, an unknown splitting, or dt is not a positive number.
        ShapeError: dim is 1.

    Limits: nothing is guaranteed of the whole. Flows keep neighbours neighbours: a map that folds is reached in a state with room
        beside it, so pad the state with zeros, and project at the end.
    Source: Celledoni et al. 2023, arXiv:2210.02373; the splitting as Hairer, Lubich & Wanner 2006, II.5.
    """

    def __init__(
        self,
        dim: int,
        *,
        blocks: int | Sequence[float] = 4,
        hidden: int = 16,
        planes: int = 16,
        dt: float = 1.0,
        splitting: str = "strang",
    ) -> None:
        shares = _shares(blocks)
        if splitting not in SPLITTINGS:
            raise InputError(f"there is no splitting {splitting!r}; choose one of {', '.join(SPLITTINGS)}.")
        super().__init__(dim, dt=dt)
        self.splitting = splitting
        self.spheres = nn.ModuleList(SpherePreserving(dim, planes=planes) for _ in shares)
        self.gradients = nn.ModuleList(Gradient(dim, hidden=hidden, method="midpoint") for _ in shares)
        self.log_shares = nn.Parameter(torch.tensor(shares).log())

    @property
    def shares(self) -> Tensor:
        """The shares αᵢ, shape (blocks)."""
        return torch.softmax(self.log_shares, 0)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """All blocks, one after the other."""
        for gradient, sphere, h in self._parts():
            x = SPLITTINGS[self.splitting].step((gradient.flow, sphere.flow), x, h)
        return x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The state and its tangents after all blocks, in closed form."""
        for gradient, sphere, h in self._parts():
            flows = gradient.flow_pushforward, sphere.flow_pushforward
            x, v = SPLITTINGS[self.splitting].pushforward(flows, x, v, h)
        return x, v

    def _parts(self) -> Iterable[tuple[nn.Module, nn.Module, Tensor]]:
        return zip(self.gradients, self.spheres, (self.dt * self.shares).unbind(), strict=True)


def _shares(blocks: int | Sequence[float]) -> list[float]:
    shares = [1.0] * blocks if isinstance(blocks, int) else [float(share) for share in blocks]
    if not shares:
        raise InputError(f"a network has at least 1 block, not {blocks if isinstance(blocks, int) else 0}.")
    for i, share in enumerate(shares):
        if not 0 < share < float("inf"):
            raise InputError(f"the share of block {i} is {share:g}; a share of the time is a positive number.")
    return [share / sum(shares) for share in shares]
