"""Zeros of many residuals at once: Newton's method, damped as by Levenberg and Marquardt where it does not go down."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Residual = Callable[[Tensor], Tensor]
Linearised = Callable[[Tensor], tuple[Tensor, Tensor]]

FIRST_DAMPING = 1e-2  # relative to the mean square of the Jacobian's columns
NO_DAMPING = 1e-6  # below this the step is Newton's own
MOST_DAMPING = 1e12  # above this no step goes down: the item stands where it can
ROUNDINGS = 8  # residuals below so many roundings of ‖J‖ ‖x‖ are zero, whatever the tolerance
STANDING = 1e-6  # relative slope of ‖r‖ below which an item is at a local minimum


@dataclass(frozen=True)
class Zeros:
    """Where each item of a batch ended: its state, ‖r‖∞ there, whether that is zero, and the relative slope of ‖r‖."""

    x: Tensor
    size: Tensor
    is_zero: Tensor
    slope: Tensor
    steps: Tensor


def find_zeros(residual: Residual, linearised: Linearised, x: Tensor, *, tol: float, max_steps: int) -> Zeros:
    """Solve r(x) = 0 from every item of x, shape (items, dim), each on its own.

    A step d solves (JᵀJ + μ s) d = −Jᵀ r, with s the largest mean square of J's columns so far (Moré 1978); μ falls where the
    linear model predicts well, and at 0 the step is J d = −r.

    Args:
        residual: x ↦ r(x).
        linearised: x ↦ r(x), J(x), shapes (items, dim) and (items, dim, dim).
        tol: ‖r‖∞ that counts as zero, or what rounding allows where that is more.
        max_steps: steps tried at most.
    """
    x, (r, jacobian) = x.clone(), linearised(x)
    damping, scale = torch.full_like(x[:, 0], FIRST_DAMPING), _mean_square(jacobian)
    steps = torch.zeros_like(damping, dtype=torch.int64)
    for _ in range(max_steps):
        active = ~(_is_zero(r, jacobian, x, tol) | (_slope(r, jacobian, x) < STANDING) | (damping > MOST_DAMPING))
        active &= _finite(r) & _finite(jacobian.flatten(1))
        if not active.any():
            break
        at = active.nonzero()[:, 0]
        move = _step(jacobian[at], r[at], damping[at], scale[at])
        trial = x[at] + move
        gain = _gain(r[at], jacobian[at], move, residual(trial))
        damping[at] = _adapted(damping[at], gain)
        steps[at] += 1
        moved = at[gain > 0]
        if len(moved):
            x[moved] = trial[gain > 0]
            r[moved], jacobian[moved] = linearised(x[moved])
            scale[moved] = torch.maximum(scale[moved], _mean_square(jacobian[moved]))
    is_zero = _is_zero(r, jacobian, x, tol)
    x, size = _polished(residual, x, r, jacobian, is_zero)
    return Zeros(x, size, is_zero, _slope(r, jacobian, x), steps)


def _step(jacobian: Tensor, r: Tensor, damping: Tensor, scale: Tensor) -> Tensor:
    """The damped step; where J has no inverse the undamped one is not finite, and is then refused."""
    newton = damping < NO_DAMPING
    move = torch.full_like(r, torch.nan)
    if newton.any():
        move[newton] = _solved(jacobian[newton], -r[newton])
    damped = ~newton
    if damped.any():
        matrix, right = jacobian[damped], r[damped]
        gram = matrix.mT @ matrix
        gram.diagonal(dim1=-2, dim2=-1).add_((damping * scale)[damped, None])
        move[damped] = _solved(gram, -(matrix.mT @ right[..., None])[..., 0])
    return move


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    solution, failed = torch.linalg.solve_ex(matrix, right)
    return solution.masked_fill((failed != 0)[:, None], torch.nan)


def _gain(r: Tensor, jacobian: Tensor, move: Tensor, after: Tensor) -> Tensor:
    """Decrease of ‖r‖² as a share of what the linear model predicts; −1 where it rises or is not a number."""
    before = r.square().sum(-1)
    predicted = before - (r + (jacobian @ move[..., None])[..., 0]).square().sum(-1)
    gain = (before - after.square().sum(-1)) / predicted
    return gain.where((predicted > 0) & _finite(after) & (gain > 0), -1.0)


def _adapted(damping: Tensor, gain: Tensor) -> Tensor:
    """Less where the model is good, more where it is bad; from Newton's own step back to where damping begins."""
    lower = torch.where(damping < NO_DAMPING, 0.0, damping / 10)
    higher = torch.where(damping < NO_DAMPING, FIRST_DAMPING, damping * 5)
    return torch.where(gain > 0.75, lower, torch.where(gain > 0.25, damping, higher))


def _polished(residual: Residual, x: Tensor, r: Tensor, jacobian: Tensor, is_zero: Tensor) -> tuple[Tensor, Tensor]:
    """One more Newton step from every zero, kept where ‖r‖∞ does not rise; states and ‖r‖∞."""
    size = r.abs().amax(-1)
    if not is_zero.any():
        return x, size
    near = x[is_zero] + _solved(jacobian[is_zero], -r[is_zero])
    now = residual(near).abs().amax(-1)
    better = now <= size[is_zero]
    x[is_zero] = near.where(better[:, None], x[is_zero])
    size[is_zero] = now.where(better, size[is_zero])
    return x, size


def _is_zero(r: Tensor, jacobian: Tensor, x: Tensor, tol: float) -> Tensor:
    rounding = ROUNDINGS * torch.finfo(x.dtype).eps * (1 + jacobian.abs().sum(-1).amax(-1)) * x.abs().amax(-1)
    return _finite(r) & (r.abs().amax(-1) <= rounding.clamp(min=tol))


def _slope(r: Tensor, jacobian: Tensor, x: Tensor) -> Tensor:
    """‖∇ ln‖r‖‖ max(1, ‖x‖): the share of ‖r‖ that a move as long as the state takes away, to first order."""
    gradient = (jacobian.mT @ r[..., None])[..., 0].norm(dim=-1)
    return gradient * x.norm(dim=-1).clamp(min=1) / r.square().sum(-1)


def _mean_square(jacobian: Tensor) -> Tensor:
    return jacobian.square().sum((-2, -1)) / jacobian.shape[-1]


def _finite(x: Tensor) -> Tensor:
    return torch.isfinite(x).all(-1)
