"""Explicit Runge–Kutta methods, each by its tableau, with the exact derivative of the discrete step.

The derivative of a Runge–Kutta step along a tangent is the same method applied to the variational equation; its linear
combinations act on state and tangents apart, so that no dual number meets a plain one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from separatrix.solvers.solver import Slope, Solver, TangentSlope


@dataclass(frozen=True)
class ExplicitRungeKutta(Solver):
    r"""One step of size h:  k_i = f(x + h Σ_j a_ij k_j, t + c_i h),  x' = x + h Σ_i b_i k_i.

    Args:
        name: what users call it.
        order: of the local error, minus one.
        a: the strictly lower triangle, row by row; the first row is empty.
        b: the weights.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.1.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def step(self, field: Slope, x: Tensor, t: float, h: float) -> Tensor:
        """The state after one step, shape (*batch, dim)."""
        slopes: list[Tensor] = []
        for row in self.a:
            slopes.append(field(_combine(x, h, row, slopes), t + h * sum(row)))
        return _combine(x, h, self.b, slopes)

    def pushforward(self, field: TangentSlope, x: Tensor, v: Tensor, t: float, h: float) -> tuple[Tensor, Tensor]:
        """The state and the tangents, shape (*batch, k, dim), after one step."""
        slopes: list[Tensor] = []
        bends: list[Tensor] = []
        for row in self.a:
            slope, bend = field(_combine(x, h, row, slopes), _combine(v, h, row, bends), t + h * sum(row))
            slopes.append(slope)
            bends.append(bend)
        return _combine(x, h, self.b, slopes), _combine(v, h, self.b, bends)


def _combine(x: Tensor, h: float, weights: Sequence[float], slopes: list[Tensor]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = x.add(slope, alpha=h * weight)
    return x


euler = ExplicitRungeKutta("euler", 1, a=((),), b=(1.0,))
heun = ExplicitRungeKutta("heun", 2, a=((), (1.0,)), b=(0.5, 0.5))
midpoint = ExplicitRungeKutta("midpoint", 2, a=((), (0.5,)), b=(0.0, 1.0))
rk4 = ExplicitRungeKutta("rk4", 4, a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6))
