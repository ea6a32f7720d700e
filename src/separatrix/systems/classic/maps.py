"""Maps, and lattices of coupled maps.

In a `pushforward` the components of a state have shape (*batch, 1) and those of its tangents (*batch, k), so that they broadcast.
"""

import math

import torch
from torch import Tensor

from separatrix.core.components import along_tangents, components
from separatrix.core.parametric import Number
from separatrix.core.system import System


class Logistic(System):
    r"""The logistic map  x → r x (1 − x).

    Args:
        r: a number, or a tensor that broadcasts against the batch.
    Source: May 1976, Nature 261, 459, eq. (3). Period doubling ends at r = 3.5699; λ = ln 2 at r = 4.

    Example:
        >>> full = sx.classic.logistic(4.0)
        >>> sx.lyapunov_spectrum(full, torch.tensor([0.75]).double(), steps=50).exponents  # ln 2
        tensor([0.6931], dtype=torch.float64)
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

    Example:
        >>> spectrum = sx.lyapunov_spectrum(sx.classic.henon(), steps=100)
        >>> print(f"{spectrum.exponents.sum():.4f}")  # ln 0.3
        -1.2040
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
    r"""Chirikov's standard map  p' = p + K sin θ,  θ' = θ + p',  both modulo 2π: a kicked rotor, which preserves area.

    The state is (θ, p), each in [0, 2π); the new angle uses the new momentum.

    Args:
        K: strength of the kick; a number, or a tensor that broadcasts against the batch.
    Source: Chirikov 1979, Phys. Rep. 52, 263, eq. (2.1.2). The last golden torus breaks at K = 0.9716 (Greene 1979);
        λ ≈ ln(K/2) for large K.

    Example:
        >>> spectrum = sx.lyapunov_spectrum(sx.classic.standard_map(), steps=100)
        >>> print(f"{spectrum.exponents.sum().abs():.6f}")  # the area is preserved
        0.000000
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
    r"""Rössler's folded-towel map, which is hyperchaotic (two positive exponents).

        x' = a x (1 − x) − 0.05 (y + 0.35)(1 − 2z)
        y' = 0.1 ((y + 0.35)(1 − 2z) − 1)(1 − 1.9 x)
        z' = b z (1 − z) + 0.2 y

    Args:
        a, b: heights of the two parabolas; numbers, or tensors that broadcast against the batch.
    Source: Rössler 1979, Phys. Lett. A 71, 155. Classic values a = 3.8, b = 3.78.

    Example:
        >>> spectrum = sx.lyapunov_spectrum(sx.classic.towel(), steps=200)
        >>> (spectrum.exponents > 0).tolist()
        [True, True, False]
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


class CoupledLattice(System):
    r"""Ring of n equal maps, each coupled to its two neighbours:  x_i' = (1 − ε) f(x_i) + ε/2 (f(x_{i−1}) + f(x_{i+1})).

    A subclass defines f and f'.

    Args:
        n: number of sites.
        epsilon: coupling, 0 … 1; a number, or a tensor that broadcasts against the batch.
        start: the initial state.
    """

    def __init__(self, n: int, epsilon: Number, start: tuple[float, ...]) -> None:
        super().__init__(dim=n, start=start)
        self.hold(epsilon=epsilon)

    def local(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and f' at each site, both with the shape of x."""
        raise NotImplementedError(f"{type(self).__name__} does not define local(x).")

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return _coupled(self.local(x)[0], along_tangents(self.epsilon))

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        value, slope = self.local(x)
        epsilon = along_tangents(self.epsilon)
        return _coupled(value, epsilon), _coupled(slope[..., None, :] * v, along_tangents(epsilon))


def _coupled(f: Tensor, epsilon: Number) -> Tensor:
    return (1 - epsilon) * f + epsilon / 2 * (f.roll(1, -1) + f.roll(-1, -1))


class CoupledLogistic(CoupledLattice):
    r"""Kaneko's ring of logistic maps  x_i' = (1 − ε) f(x_i) + ε/2 (f(x_{i−1}) + f(x_{i+1})),  f(x) = 1 − a x².

    Args:
        n: sites.
        a: height of the parabola; number, or tensor that broadcasts against the batch.
        epsilon: coupling ε, 0 … 1; a number, or a tensor that broadcasts.
    Source: Kaneko 1984, Prog. Theor. Phys. 72, 480. Without coupling, a = 2 has λ = ln 2 at every site.

    Example:
        >>> ring = sx.classic.coupled_logistic(4, a=2.0)
        >>> x = torch.full((4,), 0.5)
        >>> torch.equal(ring.step(x), x)  # 1 − 2 · 0.5² = 0.5 at every site
        True
    """

    def __init__(self, n: int = 16, a: Number = 1.8, epsilon: Number = 0.3) -> None:
        super().__init__(n, epsilon, start=_uneven(n))
        self.hold(a=a)

    def local(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = along_tangents(self.a)
        return 1 - a * x**2, -2 * a * x


class CoupledDoubling(CoupledLattice):
    r"""Ring of doubling maps  x_i' = (1 − ε) f(x_i) + ε/2 (f(x_{i−1}) + f(x_{i+1})),  f(x) = 2x mod 1.

    Its Jacobian is the same circulant matrix everywhere, so every exponent is known:

        λ_j = ln 2 + ln |1 − ε + ε cos(2πj/n)|,   j = 0 … n − 1

    Args:
        n: number of sites.
        epsilon: coupling ε, 0 … 1; a number, or a tensor that broadcasts against the batch.
    Source: Kaneko 1984, Prog. Theor. Phys. 72, 480 (the lattice). Its exponents are the logarithms of a circulant's eigenvalues.

    Example:
        >>> ring = sx.classic.coupled_doubling(4, epsilon=0.3)
        >>> sx.lyapunov_spectrum(ring, steps=50).exponents  # ln 2 (1, 0.7, 0.7, 0.4)
        tensor([ 0.6931,  0.3365,  0.3365, -0.2231], dtype=torch.float64)
    """

    def __init__(self, n: int = 8, epsilon: Number = 0.3) -> None:
        super().__init__(n, epsilon, start=tuple(0.5 + 0.4 * value for value in _uneven(n)))

    def local(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (2 * x).remainder(1.0), torch.full_like(x, 2.0)


def _uneven(n: int) -> tuple[float, ...]:
    """Values at the sites without any symmetry, within ±0.9."""
    return tuple(0.9 * math.sin(2.4 * i + 0.7) for i in range(n))


logistic = Logistic
henon = Henon
standard_map = StandardMap
towel = Towel
coupled_logistic = CoupledLogistic
coupled_doubling = CoupledDoubling
