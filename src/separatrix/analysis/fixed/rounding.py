"""What rounding does to a zero: how far it may move it, and where it only seems to be one."""

import torch
from torch import Tensor

from separatrix.analysis.fixed.krylov import gmres
from separatrix.analysis.fixed.newton import ROUNDINGS, Zeros
from separatrix.analysis.fixed.problem import Problem

FAR, AUDIBLE = 1e3, 1e-3  # times the guess's size, and its residual: farther out, a zero must stand out more from rounding


def errors(matrix: Tensor, points: Tensor) -> Tensor:
    """What rounding in the residual moves a point by, to first order: ‖ |J⁻¹| ε (|x| + |J| |x|) ‖∞."""
    inverse, failed = torch.linalg.inv_ex(matrix)
    size = points.double().abs()
    rounding = torch.finfo(points.dtype).eps * (size + (matrix.abs() @ size[..., None])[..., 0])
    moved = (inverse.abs() @ rounding[..., None])[..., 0].amax(-1)
    return torch.where((failed == 0) & torch.isfinite(moved), moved, torch.inf)


def errors_by_products(problem: Problem, points: Tensor) -> Tensor:
    """The same with one random choice of rounding's signs in place of all: |J⁻¹ (± ε |x|)|, an estimate."""
    signs = torch.randint(0, 2, points.shape, generator=torch.Generator().manual_seed(0)).to(points) * 2 - 1
    rounding = torch.finfo(points.dtype).eps * points.abs().amax(-1, keepdim=True) * signs
    return gmres(lambda v: problem.pushed(points, v), rounding).abs().amax(-1).double()


def is_isolated(errors: Tensor, points: Tensor, distinct: float) -> Tensor:
    """Whether each point's place is known to better than `distinct`."""
    return errors <= distinct * points.abs().amax(-1).clamp(min=1)


def drowned(problem: Problem, starts: Tensor, ends: Zeros) -> Tensor:
    """Which ends are so far out that rounding there drowns such a residual as the guess had: what seems zero may not be."""
    size = ends.x.abs().amax(-1)
    rounding = ROUNDINGS * torch.finfo(size.dtype).eps * size
    seen = problem.residual(starts).abs().amax(-1)
    return (size > FAR * starts.abs().amax(-1).clamp(min=1)) & (rounding > AUDIBLE * seen)
