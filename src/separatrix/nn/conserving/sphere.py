"""Sphere-preserving networks: steps on spheres about the origin, which conserve the norm of the state."""

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import ShapeError
from separatrix.core.precision import without_autocast
from separatrix.flows.methods.cayley import Planes, Step, cayley, cayley_midpoint, longest_step, predicted, turned
from separatrix.nn.block import Block
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import NORM, Guarantee


class SpherePreserving(Block):
    r"""A sphere-preserving layer, a second-order step of  ẋ = S(x) x  with skew-symmetric S(x), which conserves ‖x‖.

        S(x) = A(x) − A(x)ᵀ,   A(x) = Lᵀ diag(tanh(W x + w)) R
        m = x + h/2 S(x) x,    x' = (I − h/2 S(m))⁻¹ (I + h/2 S(m)) x

    The Cayley transform of a skew-symmetric matrix is orthogonal, so ‖x'‖ = ‖x‖ for all weights and states, up to rounding. The
    state rotates in `planes` planes, each spanned by a row of L and a row of R, at rates that depend on the state. Every smooth
    field tangent to the spheres has the form S(x) x with smooth skew-symmetric S, and any continuous S is approximated on
    bounded sets as planes are added. If 2 · planes < dim, the step solves a linear system of size 2 · planes instead of dim.

    Args:
        dim: numbers in the state, at least 2; shape (*batch, dim) → (*batch, dim).
        planes: rows of L and R, and rows of W.
        dt: h, the step size.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: dim is 1.
        InputError: planes is less than 1, or dt is not positive.

    Limits: the step has no exact inverse and no proven Lipschitz factor: S depends on the state, so far from the origin nearby
        states can rotate at very different rates. Under autocast the step is computed in the dtype of the weights, to conserve the
        norm.
    Source: Celledoni, Murari, Owren, Schönlieb & Sherry 2023, SIAM J. Sci. Comput. 45(6), arXiv:2210.02373, for the field; the
        Cayley transform as Hairer, Lubich & Wanner 2006, Geometric Numerical Integration, IV.8.

    Example:
        >>> layer, x = sx.nn.SpherePreserving(3).double(), torch.randn(5, 3).double()
        >>> torch.allclose(layer(x).norm(dim=-1), x.norm(dim=-1))
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        planes: int = 16,
        dt: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if dim == 1:
            raise ShapeError("dim is 1; a sphere-preserving layer needs at least 2 numbers: on a line only ±x have the norm of x.")
        check_whole("planes", planes, 1)
        super().__init__(dim, dt=dt)
        factory = Factory(device=device, dtype=dtype)
        self.rates = nn.Linear(dim, planes, **factory)
        self.left, self.right = (nn.Parameter(torch.empty(planes, dim, **factory)) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All weights uniform in ±dim^(−1/2), as in PyTorch's linear layers."""
        self.rates.reset_parameters()
        bound = self.dim**-0.5
        for plane in (self.left, self.right):
            nn.init.uniform_(plane, -bound, bound)

    def skew(self, x: Tensor) -> Planes:
        """S(x) at states of shape (*batch, dim)."""
        return Planes(self.left, self.right, torch.tanh(self.rates(x)))

    def field(self, x: Tensor, t: float = 0.0) -> Tensor:
        """The velocity S(x) x, orthogonal to x, shape (*batch, dim)."""
        return self.skew(x).times(x[..., None, :])[..., 0, :]

    def flow(self, x: Tensor, h: Step) -> Tensor:
        """The state a time h later, shape (*batch, dim)."""
        with without_autocast(x.device):
            return cayley_midpoint(self.skew, self._wide(x), h)

    def flow_pushforward(self, x: Tensor, v: Tensor, h: Step) -> tuple[Tensor, Tensor]:
        """The state and its tangents, shape (*batch, k, dim), a time h later.

        From  y − x = h/2 S(m) (x + y)  follows  (I − h/2 S) (δy − δx) = h S δx + h/2 δS (x + y).
        """
        with without_autocast(x.device):
            x, v = self._wide(x), self._wide(v)
            bent = self._bent(x, v, x)
            first = self.skew(x)
            m, dm = predicted(first, x, h), v + h / 2 * (first.times(v) + bent)
            skew = self.skew(m)
            y, h = cayley(skew, x, h), longest_step(skew, h)
            return y, v + skew.solve(h * skew.times(v) + h / 2 * self._bent(m, dm, x + y), h / 2)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state a time dt later."""
        return self.flow(x, self.dt)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The state and its tangents a time dt later, in closed form."""
        return self.flow_pushforward(x, v, self.dt)

    @property
    def guarantee(self) -> Guarantee:
        """The norm is conserved."""
        return Guarantee(conserves=frozenset({NORM}))

    def _bent(self, x: Tensor, v: Tensor, u: Tensor) -> Tensor:
        """DS(x)[v] u for tangents v (*batch, k, dim) and a vector u (*batch, dim)."""
        slope = 1 - torch.tanh(self.rates(x)).square()
        return turned(self.left, self.right, slope[..., None, :] * (v @ self.rates.weight.mT), u[..., None, :])

    def _wide(self, x: Tensor) -> Tensor:
        """The state in at least the precision of the weights, which autocast may have lowered."""
        return x.to(torch.promote_types(x.dtype, self.left.dtype))
