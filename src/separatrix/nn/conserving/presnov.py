"""Presnov's decomposition of a field into a gradient and a part along spheres, and networks that alternate the two."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice, check_positive, check_whole
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
from separatrix.nn.factory import Device, Factory


@dataclass(frozen=True)
class Presnov:
    r"""A decomposition of a field,  f = ∇U + X_S  with  xᵀ X_S(x) = 0;  returned by `presnov`.

    The integrals are Gauss–Legendre sums. For any number of nodes `gradient` is the gradient of `potential`, and `sphere` is
    orthogonal to x, both to rounding; `defect` is the quadrature error of their sum.

    Args:
        field: f.
        nodes: n, number of quadrature nodes.

    Example:
        >>> parts = sx.nn.presnov(lambda x: x.roll(1, -1) + x**3)
        >>> x = torch.randn(5, 3).double()
        >>> bool((x * parts.sphere(x)).sum(-1).abs().max() < 1e-10)
        True
        >>> torch.allclose(parts.gradient(x) + parts.sphere(x), x.roll(1, -1) + x**3)
        True
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
        """S(x) = ∫₀¹ t (Df(t x) − Df(t x)ᵀ) dt with X_S(x) = S(x) x, for `separatrix.flows.methods.cayley_midpoint`."""
        t, weights, points = self._ray(x)
        turn = jacobian(self._f, points)
        return Dense(((weights * t)[..., None] * (turn - turn.mT)).sum(0))

    def defect(self, x: Tensor) -> Tensor:
        """f(x) − ∇U(x) − X_S(x), the error of the quadrature of ∫₀¹ d(t f(t x)), shape (*batch, dim)."""
        return self._f(x) - self.gradient(x) - self.sphere(x)

    def _f(self, x: Tensor) -> Tensor:
        value = self.field(x, 0.0)
        if value.shape != x.shape:
            raise ShapeError(f"expected a velocity of the shape of the states, {tuple(x.shape)}, got {tuple(value.shape)}.")
        return value

    def _ray(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes and weights on [0, 1], shape (node, 1, …), and the states t x, shape (node, *batch, dim)."""
        t, weights = (x.new_tensor(column).reshape(-1, *[1] * x.ndim) for column in np.polynomial.legendre.leggauss(self.nodes))
        t, weights = (t + 1) / 2, weights / 2
        return t, weights, t * x


def presnov(field: Callable[[Tensor], Tensor] | System, *, nodes: int = 16) -> Presnov:
    r"""Presnov's decomposition of a field into a gradient and a field along the spheres about the origin.

        f = ∇U + X_S,   U(x) = ∫₀¹ xᵀ f(t x) dt,   xᵀ X_S(x) = 0

    The parts are unique, U up to a constant; for f(x) = B x they are the symmetric and the skew-symmetric part of B. The integrals
    are sums over n Gauss–Legendre nodes, exact for polynomial fields of degree up to 2n − 1. Otherwise the error is
    n!⁴ / ((2n + 1) (2n)!³) times the 2n-th derivative in t of the integrand at some t; it decreases exponentially in n for analytic
    fields. `defect` measures it.

    Args:
        field: x ↦ f(x), differentiable, on states of shape (*batch, dim), independently for each state. A module is used through a
            twin. A `Flow` contributes its field at time 0, a map its displacement F(x) − x.
        nodes: n, at least 1.

    Returns:
        Presnov with the functions `potential`, `gradient`, `sphere`, `skew` and `defect` of states.

    Raises:
        InputError: nodes is not an integer of at least 1.

    Limits: for a field with kinks, such as a ReLU network, the error decreases only as a power of 1 / n. Source: Tudoran 2017,
    arXiv:1711.11268 (existence and uniqueness for C¹ fields); named Presnov decomposition and used for networks
        by Celledoni et al. 2023, arXiv:2210.02373.

    Example:
        >>> matrix = torch.tensor([[1.0, 2.0], [0.0, 3.0]]).double()
        >>> parts = sx.nn.presnov(lambda x: x @ matrix.T)
        >>> x = torch.randn(2).double()
        >>> torch.allclose(parts.gradient(x), x @ (matrix + matrix.T) / 2)
        True
    """
    check_whole("nodes", nodes, 1)
    if isinstance(field, System):
        field = field.residual
    own = as_field(field)
    return Presnov(twin(own) if isinstance(field, nn.Module) else own, nodes)


class PresnovNetwork(Block):
    r"""A network that alternates gradient and sphere-preserving flows, block i for a share αᵢ of the time, Σ αᵢ = 1:

        x ↦ Ψ_m(… Ψ_1(x)),   Ψ_i = Φ_∇Uᵢ^{αᵢh/2} ∘ Φ_Sᵢ^{αᵢh} ∘ Φ_∇Uᵢ^{αᵢh/2},   h = dt

    The gradient flows are those of `Gradient` with the midpoint method, the others those of `SpherePreserving`. Both are of
    second order, so Ψ_i is the flow of ∇Uᵢ + Sᵢ(x)x over the time αᵢ h up to O((αᵢ h)³). The shares are a softmax of
    parameters, so they stay positive with sum 1. A negative share would be a positive share of the field −f, which a block can
    represent.

    Args:
        dim: numbers in the state, at least 2; shape (*batch, dim) → (*batch, dim).
        blocks: number of Ψ_i, with equal initial shares; or the initial shares, positive numbers that are normalised to sum 1.
        hidden: rows of each A.
        planes: rows of each L and R.
        dt: h, the time of all blocks together.
        splitting: a name in `SPLITTINGS`: "strang" (order 2), or "lie" (order 1), Φ_Sᵢ^{αᵢh} ∘ Φ_∇Uᵢ^{αᵢh}.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: there is no block, a share is not positive, splitting is unknown, or dt is not positive.
        ShapeError: dim is 1.

    Limits: the network has no guarantee. Flows are homeomorphisms and cannot fold; to approximate a map that folds, pad the state
        with zeros and project at the end.
    Source: Celledoni et al. 2023, arXiv:2210.02373; the splitting as Hairer, Lubich & Wanner 2006, II.5.

    Example:
        >>> network = sx.nn.PresnovNetwork(3, blocks=(1.0, 3.0))
        >>> network(torch.randn(5, 3)).shape, network.shares.detach()
        (torch.Size([5, 3]), tensor([0.2500, 0.7500]))
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
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shares = _shares(blocks)
        check_choice("splitting", splitting, SPLITTINGS)
        super().__init__(dim, dt=dt)
        self.splitting = splitting
        factory = Factory(device=device, dtype=dtype)
        self.spheres = nn.ModuleList(SpherePreserving(dim, planes=planes, **factory) for _ in shares)
        self.gradients = nn.ModuleList(Gradient(dim, hidden=hidden, method="midpoint", **factory) for _ in shares)
        self.log_shares = nn.Parameter(torch.tensor(shares, **factory).log())

    @property
    def shares(self) -> Tensor:
        """The shares αᵢ, shape (blocks)."""
        return torch.softmax(self.log_shares, 0)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """All blocks in order."""
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
        raise InputError(f"blocks is {blocks}; expected at least 1 block.")
    for i, share in enumerate(shares):
        check_positive(f"the share of block {i}", share)
    return [share / sum(shares) for share in shares]
