"""Gradient networks: steps along the gradient of a learned potential."""

import math

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice, check_whole
from separatrix.flows.methods import RUNGE_KUTTA, ExplicitRungeKutta
from separatrix.nn.block import Block
from separatrix.nn.energy import Ridges
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import Guarantee


class Gradient(Block):
    r"""A gradient layer, one step of  ẋ = ∇U(x) = Aᵀ D tanh(A x + b)  with  U(x) = Σᵢ dᵢ ln cosh(aᵢᵀx + bᵢ).

    The Jacobian of the field is the symmetric Hessian AᵀD diag(1 − tanh²)A of U. Since 0 ≤ 1 − tanh² ≤ 1, it lies between
    −N = −Aᵀ|D₋|A and P = AᵀD₊A, where D₋ and D₊ are the negative and positive parts of D. The Euler step x' = x + h ∇U(x) therefore
    has the Lipschitz factor

        L = max(1 + h ‖P‖₂, h ‖N‖₂ − 1),

    and is non-expansive if D ≤ 0 and h ‖N‖₂ ≤ 2. For other methods L follows from the stages with ‖∇²U‖ ≤ max(‖P‖₂, ‖N‖₂) and is
    larger.

    Args:
        dim: numbers in the state; shape (*batch, dim) → (*batch, dim).
        hidden: rows of A. Default: 2 · dim.
        dt: h, the step size.
        method: "euler" as in the formula, "midpoint" or "heun" (order 2), or "rk4" (order 4).
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: hidden is less than 1, method is unknown, or dt is not positive.

    Source: Celledoni, Murari, Owren, Schönlieb & Sherry 2023, SIAM J. Sci. Comput. 45(6), arXiv:2210.02373.

    Example:
        >>> layer, x = sx.nn.Gradient(3).double(), torch.randn(3).double()
        >>> jacobian = torch.func.jacrev(layer)(x)
        >>> torch.allclose(jacobian, jacobian.T)  # ∇U has a symmetric Jacobian
        True
        >>> bool(torch.linalg.matrix_norm(jacobian, 2) <= layer.guarantee.lipschitz)
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int | None = None,
        dt: float = 1.0,
        method: str = "euler",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        hidden = 2 * dim if hidden is None else hidden
        check_whole("hidden", hidden, 1)
        check_choice("method", method, RUNGE_KUTTA)
        super().__init__(dim, dt=dt)
        self.method = method
        factory = Factory(device=device, dtype=dtype)
        self.inner = nn.Linear(dim, hidden, **factory)
        self.scale = nn.Parameter(torch.empty(hidden, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A and b as in PyTorch's linear layers, D uniform on ±1."""
        self.inner.reset_parameters()
        nn.init.uniform_(self.scale, -1, 1)

    def form(self) -> Ridges:
        """U at the present weights."""
        return Ridges(self.inner.weight, self.inner.bias, self.scale)

    def potential(self, x: Tensor) -> Tensor:
        """U(x), shape (*batch)."""
        return self.form().value(x)

    def field(self, x: Tensor, t: float = 0.0) -> Tensor:
        """The velocity ∇U(x), shape (*batch, dim)."""
        return self.form().gradient(x)

    def field_pushforward(self, x: Tensor, v: Tensor, t: float = 0.0) -> tuple[Tensor, Tensor]:
        """The velocity, and its derivative along tangents, shape (*batch, k, dim)."""
        return self.form().pushforward(x, v)

    def flow(self, x: Tensor, h: float | Tensor) -> Tensor:
        """The state a time h later, shape (*batch, dim); h may be a tensor."""
        return self._solver.step(lambda y, t: h * self.field(y), x, 0.0, 1.0)

    def flow_pushforward(self, x: Tensor, v: Tensor, h: float | Tensor) -> tuple[Tensor, Tensor]:
        """The state and its tangents, shape (*batch, k, dim), a time h later."""

        def slope(y: Tensor, u: Tensor, t: float) -> tuple[Tensor, Tensor]:
            velocity, bend = self.field_pushforward(y, u)
            return h * velocity, h * bend

        return self._solver.pushforward(slope, x, v, 0.0, 1.0)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state a time dt later."""
        return self.flow(x, self.dt)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The state and its tangents a time dt later, in closed form."""
        return self.flow_pushforward(x, v, self.dt)

    @property
    def guarantee(self) -> Guarantee:
        """The Lipschitz factor, from the exact norms of P and N."""
        with torch.no_grad():
            bounds = self.form().double().curvatures().nan_to_num(math.inf, math.inf)  # if the weights are not finite
        up, down = (self.dt * bounds).tolist()
        if self.method == "euler":
            return Guarantee(lipschitz=max(1 + up, down - 1))
        return Guarantee(lipschitz=_expansion(self._solver, max(up, down)))

    @property
    def _solver(self) -> ExplicitRungeKutta:
        return RUNGE_KUTTA[self.method]


def _expansion(method: ExplicitRungeKutta, rate: float) -> float:
    """The Lipschitz factor of a unit step of a field with Lipschitz factor `rate`, stage by stage."""
    stages: list[float] = []
    for row in method.a:
        stages.append(rate * (1 + sum(abs(a) * stage for a, stage in zip(row, stages, strict=True))))
    return 1 + sum(abs(b) * stage for b, stage in zip(method.b, stages, strict=True))
