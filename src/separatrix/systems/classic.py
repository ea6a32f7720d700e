"""Textbook systems with closed-form tangents: the oracles and examples of everything else.

In a `pushforward` the components of a state are (*batch, 1) and those of its tangents (*batch, k): they multiply.
"""

import math

from torch import Tensor

from separatrix.flow import Field, Flow
from separatrix.system import Number, System, along_tangents, components


class Logistic(System):
    r"""The logistic map  x → r x (1 − x).

    Args:
        r: number, or tensor that broadcasts against the batch.
    Source: May 1976, Nature 261, 459, eq. (3). Period doubling ends at r = 3.5699; λ = ln 2 at r = 4.
    """

    def __init__(self, r: Number = 3.9) -> None:
        super().__init__(dim=1, start=(0.4,))
        self.hold(r=r)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return along_tangents(self.r) * x * (1 - x)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        slope = along_tangents(self.r) * (1 - 2 * x)
        return self.step(x, n), slope[..., None] * v


class Henon(System):
    r"""The Hénon map  (p, q) → (1 − a p² + q, b p),  which contracts areas by b.

    Args:
        a, b: numbers, or tensors that broadcast against the batch.
    Source: Hénon 1976, Commun. Math. Phys. 50, 69, eq. (4). Classic chaos at a = 1.4, b = 0.3.
    """

    def __init__(self, a: Number = 1.4, b: Number = 0.3) -> None:
        super().__init__(dim=2, start=(0.942, -0.156))
        self.hold(a=a, b=b)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        p, q = x.unbind(-1)
        return components(1 - self.a * p**2 + q, self.b * p)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        slope = -2 * self.a * x[..., 0]
        dp, dq = v.unbind(-1)
        return self.step(x, n), components(slope[..., None] * dp + dq, along_tangents(self.b) * dp)


class StandardMap(System):
    r"""Chirikov's standard map  p' = p + K sin θ,  θ' = θ + p',  both modulo 2π: a kicked rotor, which keeps areas.

    The state is (θ, p), each in [0, 2π); the new angle uses the new momentum.

    Args:
        K: strength of the kick; number, or tensor that broadcasts against the batch.
    Source: Chirikov 1979, Phys. Rep. 52, 263, eq. (2.1.2). The last golden torus breaks at K = 0.9716 (Greene 1979);
        λ ≈ ln(K/2) for large K.
    """

    def __init__(self, K: Number = 5.0) -> None:
        super().__init__(dim=2, start=(0.3, 0.1))
        self.hold(K=K)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        theta, p = x.unbind(-1)
        p = p + self.K * theta.sin()
        return components(theta + p, p).remainder(2 * math.pi)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        kick = self.K * x[..., 0].cos()
        dtheta, dp = v.unbind(-1)
        dp = dp + kick[..., None] * dtheta
        return self.step(x, n), components(dtheta + dp, dp)


class Towel(System):
    r"""Rössler's folded-towel map, hyperchaotic: two positive exponents.

        x' = a x (1 − x) − 0.05 (y + 0.35)(1 − 2z)
        y' = 0.1 ((y + 0.35)(1 − 2z) − 1)(1 − 1.9 x)
        z' = b z (1 − z) + 0.2 y

    Args:
        a, b: heights of the two parabolas; numbers, or tensors that broadcast against the batch.
    Source: Rössler 1979, Phys. Lett. A 71, 155. Classic values a = 3.8, b = 3.78.
    """

    def __init__(self, a: Number = 3.8, b: Number = 3.78) -> None:
        super().__init__(dim=3, start=(0.138, 0.086, 0.930))
        self.hold(a=a, b=b)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        x, y, z = x.unbind(-1)
        fold = (y + 0.35) * (1 - 2 * z)
        return components(
            self.a * x * (1 - x) - 0.05 * fold,
            0.1 * (fold - 1) * (1 - 1.9 * x),
            self.b * z * (1 - z) + 0.2 * y,
        )

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        p, q, r = x[..., None, :].unbind(-1)
        dp, dq, dr = v.unbind(-1)
        a, b = along_tangents(self.a), along_tangents(self.b)
        fold, dfold = (q + 0.35) * (1 - 2 * r), (1 - 2 * r) * dq - 2 * (q + 0.35) * dr
        return self.step(x, n), components(
            a * (1 - 2 * p) * dp - 0.05 * dfold,
            0.1 * (1 - 1.9 * p) * dfold - 0.19 * (fold - 1) * dp,
            b * (1 - 2 * r) * dr + 0.2 * dq,
        )


class Lorenz63(Field):
    r"""Lorenz's convection  ẋ = σ (y − x),  ẏ = x (ρ − z) − y,  ż = x y − β z,  of constant divergence −(σ + 1 + β).

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
    r"""Rössler's band  ẋ = −y − z,  ẏ = x + a y,  ż = b + z (x − c).

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
    r"""Lorenz's ring of n sites  ẋ_i = (x_{i+1} − x_{i−2}) x_{i−1} − x_i + F,  of constant divergence −n.

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


class Pendulum(Field):
    r"""The plane pendulum  θ̈ = −(g / l) sin θ,  state (θ, ω), θ from the downward vertical.

    Args:
        g, length: gravity and the rod's length l; numbers, or tensors that broadcast against the batch.
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
    r"""Two point masses on massless rods, state (θ₁, θ₂, ω₁, ω₂), both angles from the downward vertical.

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
        beside = x[..., None, :]
        theta1, theta2, omega1, omega2 = beside.unbind(-1)
        dtheta1, dtheta2, domega1, domega2 = v.unbind(-1)
        sine, cosine, turn = (theta1 - theta2).sin(), (theta1 - theta2).cos(), dtheta1 - dtheta2
        a1, a2 = _double_pendulum_forces(beside, mu, l1, l2, g)
        db1 = -mu * l2 * omega2 * (2 * sine * domega2 + omega2 * cosine * turn) - g * theta1.cos() * dtheta1
        db2 = l1 * omega1 * (2 * sine * domega1 + omega1 * cosine * turn) - g * theta2.cos() * dtheta2
        da1, da2 = _solve_coupled(mu, cosine, db1 + mu * sine * turn * a2, db2 + sine * turn * a1)
        return self(x, t), components(domega1, domega2, da1 / l1, da2 / l2)

    @property
    def _share(self) -> Number:
        return self.m2 / (self.m1 + self.m2)


def _double_pendulum_forces(x: Tensor, mu: Number, l1: Number, l2: Number, g: Number) -> tuple[Tensor, Tensor]:
    """a₁ and a₂ of `DoublePendulum`."""
    theta1, theta2, omega1, omega2 = x.unbind(-1)
    delta = theta1 - theta2
    b1 = -mu * l2 * omega2**2 * delta.sin() - g * theta1.sin()
    b2 = l1 * omega1**2 * delta.sin() - g * theta2.sin()
    return _solve_coupled(mu, delta.cos(), b1, b2)


def _solve_coupled(mu: Number, cosine: Tensor, b1: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """a₁ + μ cos δ a₂ = b₁,  cos δ a₁ + a₂ = b₂;  the determinant is never 0, because μ < 1."""
    determinant = 1 - mu * cosine**2
    return (b1 - mu * cosine * b2) / determinant, (b2 - cosine * b1) / determinant


logistic = Logistic
henon = Henon
standard_map = StandardMap
towel = Towel


def lorenz63(sigma: Number = 10.0, rho: Number = 28.0, beta: Number = 8 / 3, *, dt: float = 0.01, method: str = "rk4") -> Flow:
    """Lorenz's convection of 1963: the butterfly."""
    return Flow(Lorenz63(sigma, rho, beta), 3, dt, method=method, start=(-2.90, -4.14, 16.69))


def rossler(a: Number = 0.2, b: Number = 0.2, c: Number = 5.7, *, dt: float = 0.02, method: str = "rk4") -> Flow:
    """Rössler's band: the simplest chaotic flow, one folded sheet."""
    return Flow(Rossler(a, b, c), 3, dt, method=method, start=(3.96, -3.20, 0.07))


def lorenz96(n: int = 40, forcing: Number = 8.0, *, dt: float = 0.02, method: str = "rk4") -> Flow:
    """Lorenz's ring of n sites: a model atmosphere whose chaos is extensive."""
    start = tuple(2.3 + 3.6 * math.sin(2.4 * i) for i in range(n))  # the attractor's mean and spread at F = 8
    return Flow(Lorenz96(forcing), n, dt, method=method, start=start)


def pendulum(g: Number = 9.81, length: Number = 1.0, *, dt: float = 0.01, method: str = "rk4") -> Flow:
    """The plane pendulum, which elliptic functions solve."""
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
    """Two pendulums on a string, released from the horizontal: chaos without friction."""
    return Flow(DoublePendulum(m1, m2, l1, l2, g), 4, dt, method=method, start=(math.pi / 2, math.pi / 2, 0.0, 0.0))
