"""Pendulums.

In a `pushforward` the components of a state have shape (*batch, 1) and those of its tangents (*batch, k), so that they broadcast.
"""

import math

from torch import Tensor

from separatrix.core.checks import check_whole
from separatrix.core.components import along_tangents, components
from separatrix.core.parametric import Number
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow


class Pendulum(Field):
    r"""The plane pendulum  θ̈ = −(g / l) sin θ,  state (θ, ω), θ from the downward vertical.

    Args:
        g, length: gravity and the length l of the rod; numbers, or tensors that broadcast against the batch.
    Released at rest from θ₀ it moves as  sin(θ/2) = k cd(√(g/l) t | k²),  k = sin(θ₀/2).
    Source: Landau & Lifshitz, Mechanics, §11.
    """

    def __init__(self, g: Number = 9.81, length: Number = 1.0) -> None:
        super().__init__()
        self.hold(g=g, length=length)

    def forward(self, x: Tensor, t: float) -> Tensor:
        theta, omega = x.unbind(-1)
        return components(omega, -self.g / self.length * theta.sin())

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        stiffness = self.g / self.length * x[..., 0].cos()
        dtheta, domega = v.unbind(-1)
        return self(x, t), components(domega, -stiffness[..., None] * dtheta)


class DoublePendulum(Field):
    r"""The double pendulum, two point masses on massless rods, state (θ₁, θ₂, ω₁, ω₂), both angles from the downward vertical.

    With δ = θ₁ − θ₂, μ = m₂/(m₁ + m₂) and the unknowns a_i = l_i ω̇_i:

        a₁ + μ cos δ a₂ = −μ l₂ ω₂² sin δ − g sin θ₁
        cos δ a₁ + a₂   =    l₁ ω₁² sin δ − g sin θ₂

    Tangents solve the same two equations, differentiated:  M da = db − dM a.

    Args:
        m1, m2, l1, l2, g: masses, lengths, gravity; numbers, or tensors that broadcast against the batch.
    Source: Landau & Lifshitz, Mechanics, §5, problem 1 (the Lagrangian). Chaotic when released from the horizontal.
    """

    def __init__(self, m1: Number = 1.0, m2: Number = 1.0, l1: Number = 1.0, l2: Number = 1.0, g: Number = 9.81) -> None:
        super().__init__()
        self.hold(m1=m1, m2=m2, l1=l1, l2=l2, g=g)

    def forward(self, x: Tensor, t: float) -> Tensor:
        a1, a2 = _double_pendulum_forces(x, self._share, self.l1, self.l2, self.g)
        return components(x[..., 2], x[..., 3], a1 / self.l1, a2 / self.l2)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        mu, l1, l2, g = map(along_tangents, (self._share, self.l1, self.l2, self.g))
        row = x[..., None, :]
        theta1, theta2, omega1, omega2 = row.unbind(-1)
        dtheta1, dtheta2, domega1, domega2 = v.unbind(-1)
        sine, cosine, turn = (theta1 - theta2).sin(), (theta1 - theta2).cos(), dtheta1 - dtheta2
        a1, a2 = _double_pendulum_forces(row, mu, l1, l2, g)
        db1 = -mu * l2 * omega2 * (2 * sine * domega2 + omega2 * cosine * turn) - g * theta1.cos() * dtheta1
        db2 = l1 * omega1 * (2 * sine * domega1 + omega1 * cosine * turn) - g * theta2.cos() * dtheta2
        da1, da2 = _solve_coupled(mu, cosine, db1 + mu * sine * turn * a2, db2 + sine * turn * a1)
        return self(x, t), components(domega1, domega2, da1 / l1, da2 / l2)

    @property
    def _share(self) -> Number:
        return self.m2 / (self.m1 + self.m2)


def _double_pendulum_forces(x: Tensor, mu: Number, l1: Number, l2: Number, g: Number) -> tuple[Tensor, Tensor]:
    """a₁ and a₂ in `DoublePendulum`."""
    theta1, theta2, omega1, omega2 = x.unbind(-1)
    delta = theta1 - theta2
    b1 = -mu * l2 * omega2**2 * delta.sin() - g * theta1.sin()
    b2 = l1 * omega1**2 * delta.sin() - g * theta2.sin()
    return _solve_coupled(mu, delta.cos(), b1, b2)


def _solve_coupled(mu: Number, cosine: Tensor, b1: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """a₁ + μ cos δ a₂ = b₁,  cos δ a₁ + a₂ = b₂;  the determinant is never 0, because μ < 1."""
    determinant = 1 - mu * cosine**2
    return (b1 - mu * cosine * b2) / determinant, (b2 - cosine * b1) / determinant


class MagneticPendulum(Field):
    r"""The magnetic pendulum, swinging over magnets on the unit circle, state (x, y, ẋ, ẏ), r = (x, y):

        r̈ = −ω² r − α ṙ + γ Σ_i (r_i − r) / (|r_i − r|² + d²)^{3/2},     r_i at the angles 2πi/m

    Args:
        magnets: m, the number of magnets.
        gamma: strength of each magnet; a number, or a tensor that broadcasts against the batch.
        d: height of the bob above the magnets; a number, or a tensor that broadcasts.
        alpha, omega: friction and natural frequency of the pendulum; numbers, or tensors that broadcast.
    Source: Peitgen, Jürgens & Saupe 1992, Chaos and Fractals, 12.8. It comes to rest near one of the magnets.
    """

    def __init__(self, magnets: int = 3, gamma: Number = 1.0, d: Number = 0.3, alpha: Number = 0.2, omega: Number = 0.5) -> None:
        super().__init__()
        check_whole("magnets", magnets, 1)
        self.places = tuple((math.cos(2 * math.pi * i / magnets), math.sin(2 * math.pi * i / magnets)) for i in range(magnets))
        self.hold(gamma=gamma, d=d, alpha=alpha, omega=omega)

    def forward(self, x: Tensor, t: float) -> Tensor:
        p, q, u, w = x.unbind(-1)
        pull = self.omega**2
        fp, fq = -pull * p - self.alpha * u, -pull * q - self.alpha * w
        for px, py in self.places:
            to_p, to_q = px - p, py - q
            near = self.gamma * (to_p**2 + to_q**2 + self.d**2) ** -1.5
            fp, fq = fp + near * to_p, fq + near * to_q
        return components(u, w, fp, fq)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, q, _, _ = x[..., None, :].unbind(-1)
        dp, dq, du, dw = v.unbind(-1)
        gamma, d, alpha, omega = map(along_tangents, (self.gamma, self.d, self.alpha, self.omega))
        fp, fq = -(omega**2) * dp - alpha * du, -(omega**2) * dq - alpha * dw
        for px, py in self.places:
            square = (px - p) ** 2 + (py - q) ** 2 + d**2
            near, turn = gamma * square**-1.5, 3 * gamma * square**-2.5 * ((px - p) * dp + (py - q) * dq)
            fp, fq = fp - near * dp + turn * (px - p), fq - near * dq + turn * (py - q)
        return self(x, t), components(du, dw, fp, fq)


def pendulum(g: Number = 9.81, length: Number = 1.0, *, dt: float = 0.01, method: str = "rk4") -> Flow:
    """The plane pendulum, whose solution is an elliptic function.

    Example:
        >>> pendulum = sx.classic.pendulum()
        >>> pendulum.residual(torch.tensor([torch.pi / 2, 0.0]))  # released from the horizontal, it falls
        tensor([ 0.0000, -9.8100])
    """
    return Flow(Pendulum(g, length), 2, dt, method=method, start=(2.0, 0.0))


def double_pendulum(
    m1: Number = 1.0,
    m2: Number = 1.0,
    l1: Number = 1.0,
    l2: Number = 1.0,
    g: Number = 9.81,
    *,
    dt: float = 0.01,
    method: str = "rk4",
) -> Flow:
    """The double pendulum, released from the horizontal: chaos without friction.

    Example:
        >>> pendulum = sx.classic.double_pendulum()
        >>> pendulum.residual(torch.zeros(4)).abs().max().item()  # it hangs at rest
        0.0
    """
    return Flow(DoublePendulum(m1, m2, l1, l2, g), 4, dt, method=method, start=(math.pi / 2, math.pi / 2, 0.0, 0.0))


def magnetic_pendulum(
    magnets: int = 3,
    gamma: Number = 1.0,
    d: Number = 0.3,
    alpha: Number = 0.2,
    omega: Number = 0.5,
    *,
    dt: float = 0.02,
    method: str = "rk4",
) -> Flow:
    """The magnetic pendulum over three magnets, released at rest: a small change decides over which one it comes to rest.

    Example:
        >>> pendulum = sx.classic.magnetic_pendulum()
        >>> pendulum.residual(torch.zeros(4).double()).abs().max().item() < 1e-12  # the three magnets pull alike
        True
    """
    return Flow(MagneticPendulum(magnets, gamma, d, alpha, omega), 4, dt, method=method, start=(1.5, 1.1, 0.0, 0.0))
