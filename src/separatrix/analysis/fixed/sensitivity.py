"""Sensitivity of fixed points to the frozen input."""

import torch
from torch import Tensor

from separatrix.analysis.fixed.problem import Problem
from separatrix.core.driven import Driven
from separatrix.core.system import System
from separatrix.core.tangent import jacobian


def sensitivity(problem: Problem, system: System, points: Tensor, unit: float | Tensor, n: int) -> Tensor | None:
    """∂x*/∂u at each point, by the implicit function theorem on F(x, u) = x."""
    if not isinstance(system, Driven) or problem.is_flow or problem.is_wide or problem.period > 1 or not len(points):
        return None
    u = system.drive(n).to(points)
    if u.ndim != 1 or u.numel() == 0:
        return None
    along_input = jacobian(lambda w: system.advance(unit * points, w), u.expand(len(points), -1))
    along_input = along_input if isinstance(unit, float) else along_input / unit[:, None]
    solution, failed = torch.linalg.solve_ex(-problem.linearised(points)[1], along_input)
    solution = solution if isinstance(unit, float) else solution * unit[:, None]
    return solution.masked_fill((failed != 0)[:, None, None], torch.nan)
