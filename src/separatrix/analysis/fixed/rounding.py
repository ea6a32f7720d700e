"""Effects of rounding on a zero: how far it may be displaced, and where it may be spurious."""

import torch
from torch import Tensor

from separatrix.analysis.fixed.krylov import gmres
from separatrix.analysis.fixed.newton import ROUNDINGS, Zeros
from separatrix.analysis.fixed.problem import Problem

FAR = 1e3  # relative to the size of the guess: farther out, a zero may be due to rounding
VISIBLE = 1e-3  # relative to the residual of the guess: there, rounding must be smaller than this


def errors(matrix: Tensor, points: Tensor) -> Tensor:
    """Displacement of a point by rounding of the residual, to first order: ‖ |J⁻¹| ε (|x| + |J| |x|) ‖∞."""
    inverse, failed = torch.linalg.inv_ex(matrix)
    size = points.double().abs()
    rounding = torch.finfo(points.dtype).eps * (size + (matrix.abs() @ size[..., None])[..., 0])
    moved = (inverse.abs() @ rounding[..., None])[..., 0].amax(-1)
    return torch.where((failed == 0) & torch.isfinite(moved), moved, torch.inf)


def errors_by_products(problem: Problem, points: Tensor) -> Tensor:
    """An estimate of the same with random signs of the rounding errors: |J⁻¹ (± ε |x|)|."""
    signs = torch.randint(0, 2, points.shape, generator=torch.Generator().manual_seed(0)).to(points) * 2 - 1
    rounding = torch.finfo(points.dtype).eps * points.abs().amax(-1, keepdim=True) * signs
    return gmres(lambda v: problem.pushed(points, v), rounding).abs().amax(-1).double()


def is_isolated(errors: Tensor, points: Tensor, distinct: float) -> Tensor:
    """Whether the position of each point is known to within `distinct`."""
    return errors <= distinct * points.abs().amax(-1).clamp(min=1)


def hidden_by_rounding(problem: Problem, starts: Tensor, ends: Zeros) -> Tensor:
    """Which ends are so far out that rounding there would hide a residual like that of the guess, so they may not be zeros."""
    size = ends.x.abs().amax(-1)
    rounding = ROUNDINGS * torch.finfo(size.dtype).eps * size
    residual = problem.residual(starts).abs().amax(-1)
    return (size > FAR * starts.abs().amax(-1).clamp(min=1)) & (rounding > VISIBLE * residual)
