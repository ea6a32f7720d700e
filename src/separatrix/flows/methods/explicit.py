"""Explicit Runge–Kutta methods, defined by their tableaus, with the exact derivative of the discrete step.

The derivative of a Runge–Kutta step along a tangent is the same method applied to the variational equation. State and tangents are
combined separately, so that no dual number meets a plain one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.flows.methods.solver import Slope, Solver, TangentSlope, Time, along_rows, moved


@dataclass(frozen=True)
class ExplicitRungeKutta(Solver):
    r"""One step of size h:  k_i = f(x + h Σ_j a_ij k_j, t + c_i h),  x' = x + h Σ_i b_i k_i.

    Args:
        name: name of the method.
        order: order of the local error, minus one.
        a: the strictly lower triangle, row by row; the first row is empty.
        b: the weights.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.1.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def step(self, field: Slope, x: Tensor, t: Time, h: Time) -> Tensor:
        return self.combine(x, h, self.b, self.slopes(field, x, t, h))

    def slopes(self, field: Slope, x: Tensor, t: Time, h: Time) -> list[Tensor]:
        """k_1 … k_s."""
        slopes: list[Tensor] = []
        for row in self.a:
            slopes.append(field(self.combine(x, h, row, slopes), t + h * sum(row)))
        return slopes

    def pushforward(self, field: TangentSlope, x: Tensor, v: Tensor, t: Time, h: Time) -> tuple[Tensor, Tensor]:
        slopes: list[Tensor] = []
        bends: list[Tensor] = []
        rows = along_rows(h)
        for row in self.a:
            slope, bend = field(self.combine(x, h, row, slopes), self.combine(v, rows, row, bends), t + h * sum(row))
            slopes.append(slope)
            bends.append(bend)
        return self.combine(x, h, self.b, slopes), self.combine(v, rows, self.b, bends)

    def amplification(self, z: Tensor) -> Tensor:
        """R(z) = 1 + z bᵀ(I − z A)⁻¹ 1,  a polynomial: the method applied to  ẋ = z x  from 1."""
        return self.step(lambda x, t: z * x, torch.ones_like(z), 0.0, 1.0)

    @staticmethod
    def combine(x: Tensor, h: Time, weights: Sequence[float], slopes: list[Tensor]) -> Tensor:
        """x + h Σ_i w_i k_i."""
        for weight, slope in zip(weights, slopes, strict=True):
            if weight:
                x = moved(x, h * weight, slope)
        return x


euler = ExplicitRungeKutta("euler", 1, a=((),), b=(1.0,))
heun = ExplicitRungeKutta("heun", 2, a=((), (1.0,)), b=(0.5, 0.5))
midpoint = ExplicitRungeKutta("midpoint", 2, a=((), (0.5,)), b=(0.0, 1.0))
rk4 = ExplicitRungeKutta("rk4", 4, a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6))
