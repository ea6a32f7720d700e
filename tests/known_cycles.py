"""Flows whose cycles, periods and Floquet multipliers are known in closed form."""

from torch import Tensor

from separatrix.core.components import along_tangents, components
from separatrix.flows.field import Field


class Hopf(Field):
    """ż = (μ + iω) z − |z|² z: a cycle of radius √μ and period 2π/ω, whose neighbours approach it by e^{−2μ} a unit of time."""

    def __init__(self, mu: float | Tensor = 0.3, omega: float | Tensor = 2.0) -> None:
        super().__init__()
        self.hold(mu=mu, omega=omega)

    def forward(self, x: Tensor, t: float) -> Tensor:
        p, q = x.unbind(-1)
        growth = self.mu - p**2 - q**2
        return components(growth * p - self.omega * q, self.omega * p + growth * q)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, q = x[..., None, :].unbind(-1)
        dp, dq = v.unbind(-1)
        growth, turn = along_tangents(self.mu) - p**2 - q**2, along_tangents(self.omega)
        shrink = 2 * (p * dp + q * dq)
        return self(x, t), components(growth * dp - turn * dq - shrink * p, turn * dp + growth * dq - shrink * q)


class Twisted(Field):
    """A cycle of radius 1 and period 2π in the plane z = 0, whose neighbours turn half around it each time.

    In the frame that turns by half the angle θ, the distances across obey  ȧ = μ a − a |w|²,  ḃ = −b − b |w|²:  the multipliers
    are −e^{2πμ} and −e^{−2π}, and at μ = 0 the period doubles.
    """

    def __init__(self, mu: float | Tensor = -0.1) -> None:
        super().__init__()
        self.hold(mu=mu)

    def forward(self, x: Tensor, t: float) -> Tensor:
        p, q, z = x.unbind(-1)
        r = (p**2 + q**2).sqrt()
        cosine, sine, out = p / r, q / r, r - 1
        mean, half, bend = (self.mu - 1) / 2, (self.mu + 1) / 2, out**2 + z**2
        along = (mean - bend + half * cosine) * out + (half * sine - 0.5) * z
        up = (half * sine + 0.5) * out + (mean - bend - half * cosine) * z
        return components(along * cosine - q, along * sine + p, up)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, q, z = x[..., None, :].unbind(-1)
        dp, dq, dz = v.unbind(-1)
        r, mu = (p**2 + q**2).sqrt(), along_tangents(self.mu)
        cosine, sine, out = p / r, q / r, r - 1
        mean, half, bend = (mu - 1) / 2, (mu + 1) / 2, out**2 + z**2
        dr = cosine * dp + sine * dq
        dcosine, dsine, dbend = (dp - cosine * dr) / r, (dq - sine * dr) / r, 2 * (out * dr + z * dz)
        along = (mean - bend + half * cosine) * out + (half * sine - 0.5) * z
        dalong = (mean - bend + half * cosine) * dr + (half * dcosine - dbend) * out + (half * sine - 0.5) * dz + half * dsine * z
        dup = (half * sine + 0.5) * dr + half * dsine * out + (mean - bend - half * cosine) * dz - (dbend + half * dcosine) * z
        return self(x, t), components(dalong * cosine + along * dcosine - dq, dalong * sine + along * dsine + dp, dup)
