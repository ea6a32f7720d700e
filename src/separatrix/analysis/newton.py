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
TINY = 1e-12  # a row of J shorter than this is rounding
VAGUE = 1e-6  # relative distance at which an equation should notice
PATIENCE = 10  # steps in which ‖r‖ must halve where an item may be given up


@dataclass(frozen=True)
class Zeros:
    """Where each item of a batch ended.

    Args:
        x: its state.
        size: ‖r‖∞ there.
        is_zero: whether that is zero.
        vague: whether an equation r_i = 0 holds, to rounding, well beside x too.
        slope: relative slope of ‖r‖.
    """

    x: Tensor
    size: Tensor
    is_zero: Tensor
    vague: Tensor
    slope: Tensor

    def only(self, which: Tensor) -> "Zeros":
        """Some of the items."""
        return Zeros(*(value[which] for value in vars(self).values()))

    def replaced(self, at: Tensor, by: "Zeros") -> "Zeros":
        """All items, those at the given indices replaced."""
        return Zeros(*(mine.index_copy(0, at, other) for mine, other in zip(vars(self).values(), vars(by).values(), strict=True)))


def find_zeros(
    residual: Residual, linearised: Linearised, x: Tensor, *, tol: float, max_steps: int, patient: bool = True, even: bool = True
) -> Zeros:
    """Solve r(x) = 0 from every item of x, shape (items, dim), each on its own.

    A step d solves (JᵀW²J + μ s) d = −JᵀW² r, with s the mean square of (WJ)'s columns; μ falls where the linear model predicts
    well, and at 0 the step is J d = −r. W divides each equation by the length of its row of J, so that slow components (a gate
    almost shut) count as much as fast ones.

    Args:
        residual: x ↦ r(x).
        linearised: x ↦ r(x), J(x), shapes (items, dim) and (items, dim, dim).
        tol: ‖r‖∞ that counts as zero, or what rounding allows where that is more.
        max_steps: steps tried at most.
        patient: go on as long as ‖r‖ falls at all; otherwise give an item up whose ‖W r‖ does not halve in 10 steps.
        even: W as above; otherwise W = 1, and what is no zero ends at a local minimum of ‖r‖ itself.
    """
    x, (r, jacobian) = x.clone(), linearised(x)
    damping = torch.full_like(x[:, 0], FIRST_DAMPING)
    mark = torch.full_like(damping, torch.inf)
    for count in range(max_steps):
        active = ~(_is_zero(r, jacobian, x, tol) | (damping > MOST_DAMPING)) & _finite(r) & _finite(jacobian.flatten(1))
        if not patient and count % PATIENCE == 0:
            size = (_weights(jacobian, even) * r).norm(dim=-1)
            mark = torch.where(size <= mark / 2, size, -torch.inf)
        at = (active & (mark >= 0)).nonzero()[:, 0]
        weights = _weights(jacobian[at], even)
        matrix, right = weights[..., None] * jacobian[at], weights * r[at]
        moving = _slope(right, matrix, x[at]) >= STANDING
        at, weights, matrix, right = at[moving], weights[moving], matrix[moving], right[moving]
        if not len(at):
            break
        move = _step(matrix, right, damping[at])
        trial = x[at] + move
        gain = _gain(right, matrix, move, weights * residual(trial))
        damping[at] = _adapted(damping[at], gain)
        moved = at[gain > 0]
        if len(moved):
            x[moved] = trial[gain > 0]
            r[moved], jacobian[moved] = linearised(x[moved])
    is_zero = _is_zero(r, jacobian, x, tol)
    x, size = _polished(residual, x, r, jacobian, is_zero)
    return Zeros(x, size, is_zero, _vague(jacobian, x), _slope(r, jacobian, x))


def _weights(jacobian: Tensor, even: bool) -> Tensor:
    """One over the length of each row of J, so that every equation counts alike; a row of zeros has no say."""
    if not even:
        return torch.ones_like(jacobian[..., 0])
    length = jacobian.norm(dim=-1)
    return torch.where(length > TINY, 1 / length.clamp(min=TINY), 1.0)


def _step(jacobian: Tensor, r: Tensor, damping: Tensor) -> Tensor:
    """The damped step; where J has no inverse the undamped one is not finite, and is then refused."""
    newton = damping < NO_DAMPING
    move = torch.full_like(r, torch.nan)
    if newton.any():
        move[newton] = solved(jacobian[newton], -r[newton, :, None])[..., 0]
    damped = ~newton
    if damped.any():
        matrix, right = jacobian[damped], r[damped]
        gram = matrix.mT @ matrix
        gram.diagonal(dim1=-2, dim2=-1).add_((damping[damped] * _mean_square(matrix))[:, None])
        move[damped] = solved(gram, -(matrix.mT @ right[..., None]))[..., 0]
    return move


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solutions of M x = b, (items, dim, columns); NaN where M has no inverse."""
    solution, failed = torch.linalg.solve_ex(matrix, right)
    return solution.masked_fill((failed != 0)[:, None, None], torch.nan)


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
    near = x[is_zero] + solved(jacobian[is_zero], -r[is_zero, :, None])[..., 0]
    now = residual(near).abs().amax(-1)
    better = now <= size[is_zero]
    x[is_zero] = near.where(better[:, None], x[is_zero])
    size[is_zero] = now.where(better, size[is_zero])
    return x, size


def _is_zero(r: Tensor, jacobian: Tensor, x: Tensor, tol: float) -> Tensor:
    """Every |r_i| ≤ tol min(1, ‖J_i‖), so that a component which hardly moves is not taken for one at rest; or rounding's."""
    length = jacobian.abs().sum(-1)
    rounding = ROUNDINGS * torch.finfo(x.dtype).eps * (1 + length.amax(-1)) * x.abs().amax(-1)
    allowed = torch.maximum(tol * length.clamp(max=1), rounding[:, None])
    return _finite(r) & (r.abs() <= allowed).all(-1)


def _vague(jacobian: Tensor, x: Tensor) -> Tensor:
    rounding = torch.finfo(x.dtype).eps * x.abs()
    return (rounding > VAGUE * x.abs().amax(-1, keepdim=True).clamp(min=1) * jacobian.abs().sum(-1)).any(-1)


def _slope(r: Tensor, jacobian: Tensor, x: Tensor) -> Tensor:
    """‖∇ ln‖r‖‖ max(1, ‖x‖): the share of ‖r‖ that a move as long as the state takes away, to first order."""
    gradient = (jacobian.mT @ r[..., None])[..., 0].norm(dim=-1)
    return gradient * x.norm(dim=-1).clamp(min=1) / r.square().sum(-1)


def _mean_square(jacobian: Tensor) -> Tensor:
    return jacobian.square().sum((-2, -1)) / jacobian.shape[-1]


def _finite(x: Tensor) -> Tensor:
    return torch.isfinite(x).all(-1)
