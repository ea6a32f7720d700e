"""Autonomous flows.

In a `pushforward` the components of a state have shape (*batch, 1) and those of its tangents (*batch, k), so that they broadcast.
"""

import math

from torch import Tensor

from separatrix.core.components import along_tangents, components
from separatrix.core.parametric import Number
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow


class Lorenz63(Field):
    r"""The Lorenz system  ẋ = σ (y − x),  ẏ = x (ρ − z) − y,  ż = x y − β z,  of constant divergence −(σ + 1 + β).

    Args:
        sigma, rho, beta: numbers, or tensors that broadcast against the batch.
    Source: Lorenz 1963, J. Atmos. Sci. 20, 130, eqs. (25)–(27). Classic chaos at σ = 10, ρ = 28, β = 8/3.
    """

    def __init__(self, sigma: Number = 10.0, rho: Number = 28.0, beta: Number = 8 / 3) -> None:
        super().__init__()
        self.hold(sigma=sigma, rho=rho, beta=beta)

    def forward(self, x: Tensor, t: float) -> Tensor:
        x, y, z = x.unbind(-1)
        return components(self.sigma * (y - x), x * (self.rho - z) - y, x * y - self.beta * z)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, q, r = x[..., None, :].unbind(-1)
        dp, dq, dr = v.unbind(-1)
        sigma, rho, beta = map(along_tangents, (self.sigma, self.rho, self.beta))
        return self(x, t), components(sigma * (dq - dp), (rho - r) * dp - dq - p * dr, q * dp + p * dq - beta * dr)


class Rossler(Field):
    r"""The Rössler system  ẋ = −y − z,  ẏ = x + a y,  ż = b + z (x − c).

    Args:
        a, b, c: numbers, or tensors that broadcast against the batch.
    Source: Rössler 1976, Phys. Lett. A 57, 397, eq. (2). Classic chaos at a = b = 0.2, c = 5.7.
    """

    def __init__(self, a: Number = 0.2, b: Number = 0.2, c: Number = 5.7) -> None:
        super().__init__()
        self.hold(a=a, b=b, c=c)

    def forward(self, x: Tensor, t: float) -> Tensor:
        x, y, z = x.unbind(-1)
        return components(-y - z, x + self.a * y, self.b + z * (x - self.c))

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, _, r = x[..., None, :].unbind(-1)
        dp, dq, dr = v.unbind(-1)
        a, c = along_tangents(self.a), along_tangents(self.c)
        return self(x, t), components(-dq - dr, dp + a * dq, r * dp + (p - c) * dr)


class Lorenz96(Field):
    r"""The Lorenz 96 ring of n sites  ẋ_i = (x_{i+1} − x_{i−2}) x_{i−1} − x_i + F,  of constant divergence −n.

    Args:
        forcing: F; a number, or a tensor that broadcasts against the batch.
    Source: Lorenz 1996, Predictability: a problem partly solved, ECMWF Seminar I, 1. Classic chaos at n = 40, F = 8.
    """

    def __init__(self, forcing: Number = 8.0) -> None:
        super().__init__()
        self.hold(forcing=forcing)

    def forward(self, x: Tensor, t: float) -> Tensor:
        return (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + along_tangents(self.forcing)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        before, slope = x.roll(1, -1), x.roll(-1, -1) - x.roll(2, -1)
        pushed = (v.roll(-1, -1) - v.roll(2, -1)) * before[..., None, :] + slope[..., None, :] * v.roll(1, -1) - v
        return self(x, t), pushed


class FitzHughNagumo(Field):
    r"""The FitzHugh–Nagumo neuron  v̇ = v − v³/3 − w + I,  ẇ = ε (v + a − b w).

    Args:
        current: I, the input current; a number, or a tensor that broadcasts against the batch.
        a, b, epsilon: numbers, or tensors that broadcast against the batch.
    Its Jacobian has trace  1 − v² − ε b  and determinant  ε (1 − b (1 − v²));  the equilibrium loses stability to spiking where the
    trace is 0.
    Source: FitzHugh 1961, Biophys. J. 1, 445, eqs. (1)–(2), with v and I of opposite sign. It spikes at I = 0.5 and is at
        equilibrium at I = 0.
    """

    def __init__(self, current: Number = 0.5, a: Number = 0.7, b: Number = 0.8, epsilon: Number = 0.08) -> None:
        super().__init__()
        self.hold(current=current, a=a, b=b, epsilon=epsilon)

    def forward(self, x: Tensor, t: float) -> Tensor:
        v, w = x.unbind(-1)
        return components(v - v**3 / 3 - w + self.current, self.epsilon * (v + self.a - self.b * w))

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        slope = 1 - x[..., 0] ** 2
        dv, dw = v.unbind(-1)
        b, epsilon = map(along_tangents, (self.b, self.epsilon))
        return self(x, t), components(slope[..., None] * dv - dw, epsilon * (dv - b * dw))


class LotkaVolterra(Field):
    r"""The Lotka–Volterra equations of prey and predators  ẋ = α x − β x y,  ẏ = γ x y − δ y.

    Each orbit is a cycle around the equilibrium (δ/γ, α/β), along which  V = γ x − δ ln x + β y − α ln y  is conserved.

    Args:
        alpha, beta: growth rate of the prey and rate of predation; numbers, or tensors that broadcast against the batch.
        gamma, delta: growth rate of the predators per prey and their decay rate; numbers, or tensors that broadcast.
    Source: Lotka 1925, Elements of Physical Biology; Volterra 1926, Nature 118, 558.
    """

    def __init__(self, alpha: Number = 1.3, beta: Number = 0.9, gamma: Number = 0.8, delta: Number = 1.8) -> None:
        super().__init__()
        self.hold(alpha=alpha, beta=beta, gamma=gamma, delta=delta)

    def forward(self, x: Tensor, t: float) -> Tensor:
        x, y = x.unbind(-1)
        return components(self.alpha * x - self.beta * x * y, self.gamma * x * y - self.delta * y)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, q = x[..., None, :].unbind(-1)
        dp, dq = v.unbind(-1)
        alpha, beta, gamma, delta = map(along_tangents, (self.alpha, self.beta, self.gamma, self.delta))
        met = q * dp + p * dq
        return self(x, t), components(alpha * dp - beta * met, gamma * met - delta * dq)


def lorenz63(sigma: Number = 10.0, rho: Number = 28.0, beta: Number = 8 / 3, *, dt: float = 0.01, method: str = "rk4") -> Flow:
    """The Lorenz system of 1963, with the butterfly attractor.

    Example:
        >>> spectrum = sx.lyapunov_spectrum(sx.classic.lorenz63(), steps=100)
        >>> print(f"{spectrum.exponents.sum():.2f}")  # the divergence, −(10 + 1 + 8/3)
        -13.67
    """
    return Flow(Lorenz63(sigma, rho, beta), 3, dt, method=method, start=(-2.90, -4.14, 16.69))


def rossler(a: Number = 0.2, b: Number = 0.2, c: Number = 5.7, *, dt: float = 0.02, method: str = "rk4") -> Flow:
    """The Rössler system, whose chaotic attractor is a single folded band.

    Example:
        >>> found = sx.fixed_points(sx.classic.rossler(), torch.zeros(1, 3).double())
        >>> print(f"{found.points[0, 0]:.4f}")  # (c − √(c² − 4ab))/2
        0.0070
    """
    return Flow(Rossler(a, b, c), 3, dt, method=method, start=(3.96, -3.20, 0.07))


def lorenz96(n: int = 40, forcing: Number = 8.0, *, dt: float = 0.02, method: str = "rk4") -> Flow:
    """The Lorenz 96 ring of n sites, a model atmosphere with extensive chaos.

    Example:
        >>> ring = sx.classic.lorenz96(5, forcing=8.0)
        >>> ring.residual(torch.full((5,), 8.0)).abs().max().item()  # equilibrium at x = F
        0.0
    """
    start = tuple(2.3 + 3.6 * math.sin(2.4 * i) for i in range(n))  # the attractor's mean and spread at F = 8
    return Flow(Lorenz96(forcing), n, dt, method=method, start=start)


def fitzhugh_nagumo(
    current: Number = 0.5,
    a: Number = 0.7,
    b: Number = 0.8,
    epsilon: Number = 0.08,
    *,
    dt: float = 0.05,
    method: str = "rk4",
) -> Flow:
    """The FitzHugh–Nagumo neuron, spiking periodically.

    Example:
        >>> for current in (0.0, 0.5):  # at rest, and spiking
        ...     sx.fixed_points(sx.classic.fitzhugh_nagumo(current), torch.zeros(1, 2)).kind
        ('stable focus',)
        ('unstable focus',)
    """
    return Flow(FitzHughNagumo(current, a, b, epsilon), 2, dt, method=method, start=(-1.0, -0.5))


def lotka_volterra(
    alpha: Number = 1.3,
    beta: Number = 0.9,
    gamma: Number = 0.8,
    delta: Number = 1.8,
    *,
    dt: float = 0.02,
    method: str = "rk4",
) -> Flow:
    """The Lotka–Volterra equations: populations of prey and predators that oscillate.

    Example:
        >>> populations = sx.classic.lotka_volterra(1.0, 1.0, 1.0, 1.0)
        >>> populations.residual(torch.ones(2)).tolist()  # equilibrium at (δ/γ, α/β)
        [0.0, 0.0]
    """
    return Flow(LotkaVolterra(alpha, beta, gamma, delta), 2, dt, method=method, start=(0.5, 4.5))
