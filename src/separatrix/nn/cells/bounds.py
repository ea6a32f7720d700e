"""Proven bounds on the growth of perturbations in one step, hence on all Lyapunov exponents.

If the singular values of every step's Jacobian lie in [s, S], in some fixed norm, all exponents lie in [ln s, ln S].
"""

import math

import torch
from torch import Tensor

from separatrix.flows.methods import ExplicitRungeKutta


def between(least: float, largest: float) -> tuple[float, float]:
    """[ln s, ln S]; −inf if a direction may be lost."""
    return (math.log(least) if least > 0 else -math.inf), (math.log(largest) if largest > 0 else -math.inf)


def around_one(change: float) -> tuple[float, float]:
    """Bounds on exponents for Jacobians I + E with ‖E‖ ≤ change."""
    return between(1 - change, 1 + change)


def change_of_step(solver: ExplicitRungeKutta, length: float) -> float:
    """A bound on ‖E‖ in the Jacobian I + E of a Runge–Kutta step; `length` is h times the Lipschitz factor of the field.

    The Jacobian of each stage satisfies  ‖K_i‖ ≤ 1 + length Σ_j |a_ij| ‖K_j‖  in units of that factor.
    """
    sizes: list[float] = []
    for row in solver.a:
        sizes.append(1 + length * sum(abs(weight) * size for weight, size in zip(row, sizes, strict=True)))
    return length * sum(abs(weight) * size for weight, size in zip(solver.b, sizes, strict=True))


def norm(matrix: Tensor) -> float:
    """‖A‖₂, the largest singular value."""
    return float(torch.linalg.matrix_norm(matrix.double(), ord=2))


def singular_range(matrix: Tensor) -> tuple[float, float]:
    """The smallest and the largest singular value of a square matrix."""
    values = torch.linalg.svdvals(matrix.double())
    return float(values[-1]), float(values[0])
