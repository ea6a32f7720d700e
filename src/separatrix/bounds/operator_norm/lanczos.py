"""The largest singular value from below, without a matrix."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp

from separatrix.bounds.operator_norm.convolution import Convolution
from separatrix.bounds.operator_norm.rounding import SAFETY, gamma
from separatrix.core.lanczos import lanczos
from separatrix.core.randomness import torch_generator

PHASES = ((torch.float32, 300, 1e-7), (torch.float64, 60, 1e-9))
"""Maximum number of steps and relative error of the estimate: first in single precision, in which convolutions are fast."""
COARSE, SHARE = 1e-5, 0.1
"""Slack above which an estimate need not be accurate, and the part of it that it may lack."""
EVERY = 5
"""Number of steps between two evaluations of the estimate."""


def from_below(convolution: Convolution, *, seed: int = 0, slack: float = 0.0) -> float:
    r"""A proven lower bound  ‖Av‖ / ‖v‖,  with v from Lanczos' iteration on AᵀA from a random start.

    Args:
        convolution: A.
        seed: seed of the start.
        slack: relative error that does not matter; a coarse one needs neither the last steps nor double precision.
    """
    start = torch.randn(
        convolution.in_shape, dtype=torch.float64, device="cpu", generator=torch_generator(seed, "start of Lanczos")
    )
    vector = start.to(convolution.weight)
    for dtype, steps, tol in PHASES if slack <= COARSE else ((torch.float32, PHASES[0][1], SHARE * slack),):
        vector = _leading(_gram(convolution, dtype), vector.to(dtype), steps, tol)
    vector = vector.to(convolution.weight)
    length = float(vector.norm())
    if not length > 0:
        return 0.0
    terms = convolution.weight[0, 0].numel() + vector.numel()
    ratio = float(convolution(vector[None]).norm()) / length
    return max(0.0, ratio - SAFETY * gamma(terms) * convolution.absolute_norm())


def _gram(convolution: Convolution, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """v ↦ AᵀA v."""
    zero = convolution.weight.new_zeros(1, *convolution.in_shape, dtype=dtype)
    adjoint = vjp(convolution, zero)[1]
    return lambda v: adjoint(convolution(v[None]))[0][0]


def _leading(gram: Callable[[Tensor], Tensor], start: Tensor, steps: int, tol: float) -> Tensor:
    """The leading Ritz vector; the start vector if it is mapped to 0."""
    steps = min(steps, start.numel())
    for n, krylov in enumerate(lanczos(lambda v: gram(v.view_as(start)).flatten(), start.flatten(), steps)):
        last = n == steps - 1 or krylov.betas[n] <= tol * max(krylov.alphas)
        if last or n % EVERY == EVERY - 1:
            values, vectors, residuals = krylov.ritz()
            if last or _error(values, float(residuals[-1])) <= tol * float(values[-1]):
                return krylov.vectors(vectors[:, -1:]).view_as(start)
    return start


def _error(values: Tensor, residual: float) -> float:
    """Error of the leading Ritz value: residual² over the gap to the next, at most the residual (Kato & Temple)."""
    gap = max(float(values[-1] - values[-2]), residual) if len(values) > 1 else residual
    return residual**2 / gap if gap > 0 else 0.0
