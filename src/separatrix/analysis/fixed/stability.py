"""Eigenvalues at fixed points, their kinds, and the accuracy of their positions."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.kinds import BORDER, kind_of
from separatrix.analysis.fixed.problem import Problem
from separatrix.analysis.fixed.rounding import errors, errors_by_products
from separatrix.core.derivative import on_a_kink
from separatrix.core.twin import twin

KINK = "on a kink"  # the kind of a point without a derivative


class Stability(NamedTuple):
    """Eigenvalues of several points, |μ| descending, their kinds, and the accuracy of their positions.

    Args:
        multipliers, rates, frequencies: (point, eigenvalue).
        kind: one per point.
        errors: (point), displacement by rounding.
        time: (point), the time that F^p takes there.
    """

    multipliers: Tensor
    rates: Tensor
    frequencies: Tensor
    kind: list[str]
    errors: Tensor
    time: Tensor

    def without(self, kinked: Tensor) -> "Stability":
        """The same with NaN eigenvalues for points on a kink, which have no derivative."""
        if not bool(kinked.any()):
            return self
        nan, rows = torch.nan, kinked[:, None]
        values = torch.complex(*(part.masked_fill(rows, nan) for part in (self.multipliers.real, self.multipliers.imag)))
        kind = [KINK if is_kinked else name for name, is_kinked in zip(self.kind, kinked.tolist(), strict=True)]
        rates, frequencies = self.rates.masked_fill(rows, nan), self.frequencies.masked_fill(rows, nan)
        return self._replace(multipliers=values, rates=rates, frequencies=frequencies, kind=kind)

    def only(self, which: Tensor) -> "Stability":
        """Some of the points, by their indices."""
        kind = [self.kind[i] for i in which.tolist()]
        return Stability(*(kind if part is self.kind else part[which] for part in self))


def stability_of(problem: Problem, points: Tensor) -> Stability:
    """The stability of each point; only from the leading eigenvalues for a wide system."""
    if not len(points):
        none = torch.zeros_like(points, dtype=torch.float64)
        return Stability(none.to(torch.complex128), none, none, [], none[:, 0], none[:, 0])
    time = problem.time(points)
    values, moved = _eigenvalues(problem, points)
    of_one = _of_flow if problem.is_flow else _of_map
    return Stability(*of_one(problem, values, time[:, None], BORDER[points.dtype], points.shape[-1]), moved, time)


def kinked(problem: Problem, points: Tensor, size: float) -> Tensor:
    """Which points lie on a kink of the residual, tested in float64 with steps relative to `size`."""
    exact = problem if points.dtype == torch.float64 else problem._replace(system=twin(problem.system, dtype=torch.float64))
    return on_a_kink(exact.residual, points.double(), size)


def _eigenvalues(problem: Problem, points: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the derivative, unordered, and the errors of the points, which follow from the same matrix."""
    if problem.is_wide:
        return problem.leading(points), errors_by_products(problem, points)
    matrix = problem.linearised(points)[1].double()
    one = torch.eye(points.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.eigvals(matrix if problem.is_flow else matrix + one), errors(matrix, points)


def _of_flow(problem: Problem, values: Tensor, time: Tensor, border: float, dim: int) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Multipliers, rates, frequencies and kinds from the eigenvalues λ of a field."""
    values = values / problem.pace
    values = values.gather(-1, values.real.argsort(dim=-1, descending=True, stable=True))
    size = values.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    kind = [kind_of(one.real, one.imag, border, dim) for one in values / size]
    return (values * time).exp(), values.real.clone(), values.imag.clone(), kind


def _of_map(problem: Problem, values: Tensor, time: Tensor, border: float, dim: int) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Multipliers, rates, frequencies and kinds from the eigenvalues μ of the derivative of a map."""
    values = values.gather(-1, values.abs().argsort(dim=-1, descending=True, stable=True))
    growth, angle = values.abs().log(), values.angle()
    turning = values.imag / values.abs().clamp(min=torch.finfo(torch.float64).tiny)
    kind = [kind_of(one, turn, border, dim) for one, turn in zip(growth, turning, strict=True)]
    return values, growth / time, angle / time, kind
