"""The largest curvature at which an optimiser's step is stable, found from its own map."""

import math

import torch
from torch import Tensor
from torch.func import jacfwd

from separatrix.training.optimizers.rule import Rule, Settings

DECADES = 6  # powers of ten on both sides of 1 / rate that are searched
POINTS = 601
ROUNDING = 1e-11  # of a multiplier's modulus


def threshold(rule: Rule, o: Settings) -> float:
    r"""The largest h for which  p ↦ p − …  on the parabola ½ h p² is stable, with what the update is divided by held at 1.

        M(h) = ∂(p', s') / ∂(p, s) + h ∂(p', s') / ∂g,    h* = sup {h : all multipliers of M(h') lie in the unit disc for h' ≤ h}

    Infinity for a rate of 0. In the coordinates that the division makes, this is the threshold of each eigenvalue of the Hessian.
    Source: Cohen et al. 2022, arXiv 2207.14484 (Adam); for SGD 2 (1 + μ) / ((1 − τ) η).
    """
    own, to_gradient = _linearised(rule, o)
    unit = float(to_gradient.abs().max())
    if unit == 0:
        return math.inf
    grid = torch.logspace(-DECADES, DECADES, POINTS, dtype=torch.float64) / unit
    unstable = ~_is_stable(own, to_gradient, grid)
    if not bool(unstable.any()):
        return math.inf
    first = int(unstable.int().argmax())
    if first == 0:
        return 0.0
    low, high = float(grid[first - 1]), float(grid[first])
    while high - low > 4e-16 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (
            (middle, high) if bool(_is_stable(own, to_gradient, torch.tensor([middle], dtype=torch.float64))) else (low, middle)
        )
    return low


def _linearised(rule: Rule, o: Settings) -> tuple[Tensor, Tensor]:
    """The derivatives of (p', s') by (p, s) and by g at the bottom of the parabola."""
    names = rule.slots(o)
    o.scale = torch.ones_like

    def step(z: Tensor) -> Tensor:
        p, g, *slots = z.unbind()
        p, after = rule.update(p, g, dict(zip(names, slots, strict=True)), o)
        return torch.stack([p, *(after[name] for name in names)])

    whole = jacfwd(step)(torch.zeros(2 + len(names), dtype=torch.float64))
    return torch.cat([whole[:, :1], whole[:, 2:]], dim=-1), whole[:, 1]


def _is_stable(own: Tensor, to_gradient: Tensor, h: Tensor) -> Tensor:
    """Whether all multipliers lie in the unit disc, for each curvature."""
    matrices = own.repeat(len(h), 1, 1)
    matrices[:, :, 0] += h[:, None] * to_gradient
    return torch.linalg.eigvals(matrices).abs().amax(-1) <= 1 + ROUNDING
