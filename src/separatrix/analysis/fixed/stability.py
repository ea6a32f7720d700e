"""Eigenvalues at fixed points, the kinds that they make, and how well each point is placed."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.kinds import BORDER, kind_of
from separatrix.analysis.fixed.problem import Problem
from separatrix.analysis.fixed.rounding import errors, errors_by_products
from separatrix.core.derivative import on_a_kink
from separatrix.core.twin import twin

KINK = "on a kink"  # where there is no derivative


class Stability(NamedTuple):
    """Eigenvalues of several points, |μ| descending, the kinds they make, and how well the points are placed.

    Args:
        multipliers, rates, frequencies: (point, eigenvalue).
        kind: one for each point.
        errors: (point), by which rounding may have moved it.
        time: (point), that F^p takes there.
    """

    multipliers: Tensor
    rates: Tensor
    frequencies: Tensor
    kind: list[str]
    errors: Tensor
    time: Tensor

    def without(self, kinked: Tensor) -> "Stability":
        """The same without what points on a kink have not: a derivative, and so eigenvalues."""
        if not bool(kinked.any()):
            return self
        nan, there = torch.nan, kinked[:, None]
        values = torch.complex(*(part.masked_fill(there, nan) for part in (self.multipliers.real, self.multipliers.imag)))
        kind = [KINK if on_it else one for one, on_it in zip(self.kind, kinked.tolist(), strict=True)]
        rates, frequencies = self.rates.masked_fill(there, nan), self.frequencies.masked_fill(there, nan)
        return self._replace(multipliers=values, rates=rates, frequencies=frequencies, kind=kind)

    def only(self, which: Tensor) -> "Stability":
        """Some of the points, by their indices."""
        kind = [self.kind[i] for i in which.tolist()]
        return Stability(*(kind if part is self.kind else part[which] for part in self))


def stability_of(problem: Problem, points: Tensor) -> Stability:
    """The eigenvalues at each point; of a wide system the leading ones."""
    if not len(points):
        none = torch.zeros_like(points, dtype=torch.float64)
        return Stability(none.to(torch.complex128), none, none, [], none[:, 0], none[:, 0])
    time = problem.time(points)
    values, moved = _eigenvalues(problem, points)
    of_one = _of_flow if problem.is_flow else _of_map
    return Stability(*of_one(problem, values, time[:, None], BORDER[points.dtype], points.shape[-1]), moved, time)


def kinked(problem: Problem, points: Tensor, size: float) -> Tensor:
    """Which points lie on a kink of the residual, tried in float64 among states of that size."""
    exact = problem if points.dtype == torch.float64 else problem._replace(system=twin(problem.system, dtype=torch.float64))
    return on_a_kink(exact.residual, points.double(), size)


def _eigenvalues(problem: Problem, points: Tensor) -> tuple[Tensor, Tensor]:
    """Of a field's derivative or of a map's, in no order; and the errors of the points, which the same matrix tells."""
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
    """Multipliers, rates, frequencies and kinds from the eigenvalues μ of a map's derivative."""
    values = values.gather(-1, values.abs().argsort(dim=-1, descending=True, stable=True))
    growth, angle = values.abs().log(), values.angle()
    turning = values.imag / values.abs().clamp(min=torch.finfo(torch.float64).tiny)
    kind = [kind_of(one, turn, border, dim) for one, turn in zip(growth, turning, strict=True)]
    return values, growth / time, angle / time, kind
