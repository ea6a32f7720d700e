"""The Levenberg–Marquardt method for networks with a few thousand parameters and as many or fewer residuals."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

EASIER, HARDER = 0.2, 4.0  # factors of the damping after a successful and a failed step
LEAST = 50  # rounding errors: smaller damping, relative to JJᵀ, has no effect
MOST = 1e6  # maximum damping relative to JJᵀ; its steps are negligible


class Problem(Protocol):
    """Residuals r(θ) and their Jacobian."""

    def residuals(self, theta: Tensor) -> Tensor:
        """The residuals r, shape (m,)."""
        ...

    def linearised(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The residuals r and ∂r/∂θ, shape (m, parameters)."""
        ...


@dataclass(frozen=True)
class Iterate:
    """The state of the method after a step.

    Args:
        theta: θ, shape (parameters,).
        distance: |r|.
        loss: |r|² + decay |θ|²; NaN if its derivative is not finite.
        lowered: whether the step lowered the loss; if not, theta is unchanged.
        flat: whether the residuals are nonzero but their derivatives with respect to all parameters vanish.
        steps: 1, or 0 for the start.
    """

    theta: Tensor
    distance: float
    loss: float
    lowered: bool = True
    flat: bool = False
    steps: int = 1


FREEST = 1e-6  # minimum damping, relative to JJᵀ, of parameters without decay beside others with decay; avoids a singular system


def levenberg_marquardt(
    problem: Problem, theta: Tensor, *, decay: float, damping: float, max_steps: int, free: int = 0
) -> Iterator[Iterate]:
    r"""Levenberg–Marquardt steps for  L(θ) = |r(θ)|² + ρ |θ|²,  each the minimum of a quadratic model with damping λ:

        min_δ  |r + J δ|² + ρ |θ + δ|² + λ |δ|²     ⇒     δ = −(ρ/c) θ − Jᵀ (J Jᵀ + c)⁻¹ (r − (ρ/c) J θ),   c = ρ + λ

    The factorised matrix is m × m for any number of parameters. λ is relative to the mean of the diagonal of JJᵀ. The last `free`
    entries of θ have no decay: their columns of J are weighted by c/λ.
    Yields the start, then each step; the last has lowered = False if no damping lowers the loss.
    Source: Levenberg 1944, Quart. Appl. Math. 2, 164; Marquardt 1963, J. SIAM 11, 431.
    """
    r = problem.residuals(theta)
    kept = theta.new_ones(len(theta))
    kept[len(theta) - free :] = 0.0
    loss = _loss(r, kept * theta, decay)
    yield Iterate(theta, float(r.norm()), loss, steps=0)
    for _ in range(max_steps):
        r, jacobian = problem.linearised(theta)
        gram, free_gram = (part @ part.mT for part in (jacobian, jacobian[:, len(theta) - free :]))
        if not torch.isfinite(gram).all():
            yield Iterate(theta, float(r.norm()), math.nan, lowered=False)
            return
        if not gram.any() and r.any():
            yield Iterate(theta, float(r.norm()), loss, lowered=False, flat=True)
            return
        scale = float(gram.diagonal().mean()) or 1.0
        while True:
            more = (decay + damping * scale) / (max(damping, FREEST) * scale) - 1 if decay else 0.0
            weight = 1 + more * (1 - kept)
            trial = theta + _step(r, jacobian, gram + more * free_gram, kept * theta, decay, damping * scale, weight)
            trial_r = problem.residuals(trial)
            trial_loss = _loss(trial_r, kept * trial, decay)
            if trial_loss < loss or damping > MOST:
                break
            damping *= HARDER
        if not trial_loss < loss:
            yield Iterate(theta, float(r.norm()), loss, lowered=False)
            return
        theta, loss, damping = trial, trial_loss, max(EASIER * damping, LEAST * torch.finfo(theta.dtype).eps)
        yield Iterate(theta, float(trial_r.norm()), loss)


def _step(r: Tensor, jacobian: Tensor, gram: Tensor, theta: Tensor, decay: float, damping: float, weight: Tensor) -> Tensor:
    """The minimiser δ of the damped model."""
    c = decay + damping
    shift = -(decay / c) * theta
    matrix = gram + c * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return shift - weight * (jacobian.mT @ torch.linalg.solve(matrix, r + jacobian @ shift))


def _loss(r: Tensor, theta: Tensor, decay: float) -> float:
    return float(r @ r + decay * (theta @ theta))
