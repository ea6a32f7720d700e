"""Periodically forced flows, whose field depends on time.

In a `pushforward` the components of a state have shape (*batch, 1) and those of its tangents (*batch, k), so that they broadcast.
"""

import math

from torch import Tensor

from separatrix.core.components import along_tangents, components
from separatrix.core.parametric import Number
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow


class Duffing(Field):
    r"""The forced Duffing oscillator  q̈ + δ q̇ + α q + β q³ = γ cos ωt,  state (q, q̇).

    Without friction and force it conserves  q̇²/2 + α q²/2 + β q⁴/4;  its divergence is −δ.

    Args:
        delta, alpha, beta: friction and the spring's linear and cubic stiffness; numbers, or tensors that broadcast.
        gamma, omega: amplitude and angular frequency of the force; numbers, or tensors that broadcast.
    Source: Guckenheimer & Holmes 1983, Nonlinear Oscillations, 2.2. Two wells at α < 0.
    """

    def __init__(
        self,
        delta: Number = 0.3,
        alpha: Number = -1.0,
        beta: Number = 1.0,
        gamma: Number = 0.5,
        omega: Number = 1.2,
    ) -> None:
        super().__init__()
        self.hold(delta=delta, alpha=alpha, beta=beta, gamma=gamma, omega=omega)

    def forward(self, x: Tensor, t: float) -> Tensor:
        q, u = x.unbind(-1)
        force = self.gamma * _sin(self.omega * t + math.pi / 2)
        return components(u, force - self.delta * u - (self.alpha + self.beta * q**2) * q)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        stiffness = self.alpha + 3 * self.beta * x[..., 0] ** 2
        dq, du = v.unbind(-1)
        return self(x, t), components(du, -stiffness[..., None] * dq - along_tangents(self.delta) * du)


class DoubleGyre(Field):
    r"""The double gyre, two vortices side by side whose boundary oscillates, with stream function ψ:

        ψ = A sin(π f) sin(π y),   f = ε sin(ωt) x² + (1 − 2ε sin(ωt)) x,   ẋ = −∂ψ/∂y,   ẏ = ∂ψ/∂x

    on [0, 2] × [0, 1]. It preserves area.

    Args:
        A, epsilon, omega: speed, amplitude and angular frequency of the oscillation; numbers, or tensors that broadcast against
            the batch.
    Source: Shadden, Lekien & Marsden 2005, Physica D 212, 271, section 6. Classic values A = 0.1, ε = 0.25, ω = 2π/10.
    """

    def __init__(self, A: Number = 0.1, epsilon: Number = 0.25, omega: Number = math.pi / 5) -> None:
        super().__init__()
        self.hold(A=A, epsilon=epsilon, omega=omega)

    def forward(self, x: Tensor, t: float) -> Tensor:
        p, q = x.unbind(-1)
        f, slope, _ = _bent(p, self.epsilon * _sin(self.omega * t))
        speed = math.pi * self.A
        return components(-speed * f.sin() * (math.pi * q).cos(), speed * slope * f.cos() * (math.pi * q).sin())

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, q = x.unbind(-1)
        f, slope, bend = _bent(p, self.epsilon * _sin(self.omega * t))
        strain, sine, speed = math.pi**2 * self.A, (math.pi * q).sin(), math.pi * self.A
        along = strain * slope * f.cos() * (math.pi * q).cos()
        across = strain * f.sin() * sine
        turn = speed * bend * f.cos() * sine - slope**2 * across
        dp, dq = v.unbind(-1)
        return self(x, t), components(across[..., None] * dq - along[..., None] * dp, turn[..., None] * dp + along[..., None] * dq)


def _bent(p: Tensor, a: Number) -> tuple[Tensor, Tensor, Number]:
    """π f, f' and f'' in `DoubleGyre` at x = p, with a = ε sin ωt."""
    return math.pi * (a * p + 1 - 2 * a) * p, 2 * a * p + 1 - 2 * a, 2 * a


def _sin(angle: Number) -> Number:
    return angle.sin() if isinstance(angle, Tensor) else math.sin(angle)


def duffing(
    delta: Number = 0.3,
    alpha: Number = -1.0,
    beta: Number = 1.0,
    gamma: Number = 0.5,
    omega: Number = 1.2,
    *,
    dt: float = 0.02,
    method: str = "rk4",
) -> Flow:
    """The Duffing oscillator, forced between its two wells.

    Example:
        >>> oscillator = sx.classic.duffing(delta=0.0, gamma=0.0)  # without friction and force
        >>> oscillator.residual(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])).abs().max().item()  # the two wells
        0.0
    """
    return Flow(Duffing(delta, alpha, beta, gamma, omega), 2, dt, method=method, start=(1.0, 0.0))


def double_gyre(
    A: Number = 0.1, epsilon: Number = 0.25, omega: Number = math.pi / 5, *, dt: float = 0.1, method: str = "rk4"
) -> Flow:
    """The double gyre: two vortices whose boundary oscillates and mixes the fluid.

    Example:
        >>> gyre = sx.classic.double_gyre()
        >>> velocity = gyre.residual(torch.tensor([[0.0, 0.3], [2.0, 0.3]]).double())
        >>> velocity[:, 0].abs().max().item() < 1e-12  # nothing crosses the walls x = 0 and x = 2
        True
    """
    return Flow(DoubleGyre(A, epsilon, omega), 2, dt, method=method, start=(1.0, 0.4))
