"""Orbits around a black hole in terms of the anomaly, and the gravitational waves that they emit.

In a `pushforward` the components of a state have shape (*batch, 1) and those of its tangents (*batch, k), so that they broadcast.
"""

import math

import torch
from torch import Tensor

from separatrix.core.components import along_tangents, components
from separatrix.core.errors import InputError
from separatrix.core.parametric import Number
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow

SAMPLES = 4  # needed for a second derivative at an end


class KeplerOrbit(Field):
    r"""The Newtonian orbit  χ̇ = φ̇ = (1 + e cos χ)² / (M p^{3/2}),  at the distance  r = p M / (1 + e cos χ).

    χ is the anomaly, which grows by 2π from periapsis to periapsis, and φ the angle in the plane; G = c = 1. The ellipse does not
    precess, and its period is  2π M (p / (1 − e²))^{3/2}.

    Args:
        p: semi-latus rectum, in units of M; a number, or a tensor that broadcasts against the batch.
        e: eccentricity, below 1; a number, or a tensor that broadcasts.
        mass: M; a number, or a tensor that broadcasts.
    Source: Kepler 1609; as the prior of Keith, Khadse & Field 2021, Phys. Rev. Research 3, 043101.
    """

    def __init__(self, p: Number = 100.0, e: Number = 0.5, mass: Number = 1.0) -> None:
        super().__init__()
        self.hold(p=p, e=e, mass=mass)

    def forward(self, x: Tensor, t: float) -> Tensor:
        speed = (1 + self.e * x[..., 0].cos()) ** 2 / (self.mass * self.p**1.5)
        return components(speed, speed)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, e, mass = map(along_tangents, (self.p, self.e, self.mass))
        chi = x[..., :1]
        pushed = -2 * e * chi.sin() * (1 + e * chi.cos()) / (mass * p**1.5) * v[..., 0]
        return self(x, t), components(pushed, pushed)


class SchwarzschildOrbit(Field):
    r"""The orbit of a test particle around a Schwarzschild black hole, in the time of a distant observer:

        χ̇ = N √(p − 6 − 2e cos χ) / (M p² d),   φ̇ = N / (M p^{3/2} d),   N = (p − 2 − 2e cos χ)(1 + e cos χ)²,   d² = (p − 2)² − 4e²

    at the distance r = p M / (1 + e cos χ); G = c = 1. From periapsis to periapsis φ grows by  4 √(p/a) K(4e/a),  a = p − 6 + 2e,
    with the complete elliptic integral K of parameter m = k²; that is  2π + 6π/p + O(1/p²).

    Args:
        p: semi-latus rectum, in units of M, above 6 + 2e for an orbit that does not plunge; a number, or a tensor that broadcasts
            against the batch.
        e: eccentricity, below 1; a number, or a tensor that broadcasts.
        mass: M; a number, or a tensor that broadcasts.
    Source: Cutler, Kennefick & Poisson 1994, Phys. Rev. D 50, 3816.
    """

    def __init__(self, p: Number = 100.0, e: Number = 0.5, mass: Number = 1.0) -> None:
        super().__init__()
        self.hold(p=p, e=e, mass=mass)

    def forward(self, x: Tensor, t: float) -> Tensor:
        p, e, c = self.p, self.e, x[..., 0].cos()
        turning = (p - 2 - 2 * e * c) * (1 + e * c) ** 2 / (self.mass * p**1.5 * ((p - 2) ** 2 - 4 * e**2) ** 0.5)
        return components(turning * ((p - 6 - 2 * e * c) / p) ** 0.5, turning)

    def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        p, e = along_tangents(self.p), along_tangents(self.e)
        velocity, c = self(x, t), x[..., :1].cos()
        bend = 2 * e / (1 + e * c) - 2 * e / (p - 2 - 2 * e * c)  # d ln φ̇ / d cos χ
        along = -x[..., :1].sin() * v[..., 0]  # tangents of cos χ
        rates = velocity[..., None, :].unbind(-1)
        return velocity, components(rates[0] * (bend - e / (p - 6 - 2 * e * c)) * along, rates[1] * bend * along)


def kepler_orbit(p: Number = 100.0, e: Number = 0.5, mass: Number = 1.0, *, dt: float = 100.0, method: str = "rk4") -> Flow:
    """The Newtonian elliptic orbit, starting at apoapsis.

    Example:
        >>> orbit = sx.classic.kepler_orbit(p=100.0, e=0.0)
        >>> print(f"{orbit.residual(torch.zeros(2))[1]:.4f}")  # the angular velocity of a circle, p^{−3/2}
        0.0010
    """
    return Flow(KeplerOrbit(p, e, mass), 2, dt, method=method, start=(math.pi, 0.0))


def schwarzschild_orbit(p: Number = 100.0, e: Number = 0.5, mass: Number = 1.0, *, dt: float = 100.0, method: str = "rk4") -> Flow:
    """The orbit of a test particle around a black hole, starting at apoapsis: a precessing ellipse.

    Example:
        >>> orbit = sx.classic.schwarzschild_orbit(p=100.0)
        >>> radial, angular = orbit.residual(torch.zeros(2))
        >>> bool(angular > radial)  # so that the ellipse turns
        True
    """
    return Flow(SchwarzschildOrbit(p, e, mass), 2, dt, method=method, start=(math.pi, 0.0))


def orbit_in_plane(x: Tensor, *, p: Number = 100.0, e: Number = 0.5, mass: Number = 1.0) -> Tensor:
    """Positions (r cos φ, r sin φ), shape (*batch, 2), of states (χ, φ), with r = p M / (1 + e cos χ).

    Args:
        x: states, shape (*batch, 2).
        p, e, mass: parameters of the orbit.

    Example:
        >>> start = torch.tensor([0.0, 0.0])  # at periapsis
        >>> sx.classic.orbit_in_plane(start, p=90.0, e=0.5)  # r = p / (1 + e)
        tensor([60., 0.])
    """
    chi, phi = x.unbind(-1)
    r = p * mass / (1 + e * chi.cos())
    return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)


def quadrupole_waveform(places: Tensor, dt: float) -> Tensor:
    r"""Gravitational waveform of a unit mass that moves in a plane, by the quadrupole formula:

        h₊ = 2√(π/5) (Ï₁₁ − Ï₂₂),   h× = −4√(π/5) Ï₁₂

    with the trace-free moment  I_ij = x_i x_j − δ_ij r²/3  and its second difference Ï at equally spaced times: central inside,
    and one-sided over four times at both ends, so that the error is O(dt²).

    Args:
        places: positions (x, y) at equally spaced times, shape (times, *batch, 2).
        dt: time between them.

    Returns:
        (h₊, h×), shape (times, *batch, 2), for unit mass and unit distance.

    Raises:
        InputError: there are fewer than 4 times.
    Source: Keith, Khadse & Field 2021, Phys. Rev. Research 3, 043101.

    Example:
        >>> time = torch.arange(0, 10, 0.01).double()
        >>> places = torch.stack([time.cos(), time.sin()], dim=-1)  # a circle
        >>> wave = sx.classic.quadrupole_waveform(places, 0.01)
        >>> print(f"{wave.abs().max():.2f}")  # 8 √(π/5)
        6.34
    """
    if len(places) < SAMPLES:
        raise InputError(f"expected at least {SAMPLES} consecutive positions, got {len(places)}.")
    x, y = places.unbind(-1)
    moments = torch.stack([x**2 - y**2, x * y], dim=-1)  # I₁₁ − I₂₂, in which the trace cancels, and I₁₂
    scale = 2 * math.sqrt(math.pi / 5)
    return second_difference(moments, dt) * moments.new_tensor([scale, -2 * scale])


def second_difference(values: Tensor, dt: float) -> Tensor:
    """Second derivatives of values at equally spaced times, (times, …), by differences."""
    first, last = ((2 * a - 5 * b + 4 * c - d)[None] for a, b, c, d in (values[:SAMPLES], values[-SAMPLES:].flip(0)))
    inner = values[2:] - 2 * values[1:-1] + values[:-2]
    return torch.cat([first, inner, last]) / dt**2
