"""Zeros of many residuals at once, by Newton's method with Levenberg–Marquardt damping where the residual does not fall."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Residual = Callable[[Tensor], Tensor]
Linearised = Callable[[Tensor], tuple[Tensor, Tensor]]
Landed = Callable[[Tensor, Tensor, float], "tuple[Tensor, Zeros | None]"]

FIRST_DAMPING = 1e-4  # relative to the mean square of the Jacobian's columns
NO_DAMPING = 1e-6  # below this the step is an undamped Newton step
MOST_DAMPING = 1e12  # above this no step reduces the residual, and the item is given up
ROUNDINGS = 8  # residuals below this many rounding errors of ‖J‖ ‖x‖ count as zero, whatever the tolerance
STANDING = 1e-6  # relative slope of ‖r‖ below which an item is at a local minimum
TINY = 1e-12  # length below which a row of J counts as zero
VAGUE = 1e-6  # relative displacement that must change every equation by more than rounding
PATIENCE = 10  # steps within which ‖r‖ must halve, unless the search is patient


@dataclass(frozen=True)
class Zeros:
    """The ends of the items of a batch.

    Args:
        x: the state.
        size: ‖r‖∞ there.
        is_zero: whether the residual counts as zero.
        vague: whether an equation r_i = 0 also holds, to rounding, at a distance from x.
        slope: relative slope of ‖r‖.
    """

    x: Tensor
    size: Tensor
    is_zero: Tensor
    vague: Tensor
    slope: Tensor

    @classmethod
    def joined(cls, parts: "Sequence[Zeros]") -> "Zeros":
        """The items of all parts, in order."""
        return cls(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))

    @classmethod
    def none(cls, like: Tensor) -> "Zeros":
        """An empty batch with the dtype and width of these states."""
        empty = like[:0]
        return cls(empty, empty[:, 0], empty[:, 0] > 0, empty[:, 0] > 0, empty[:, 0])

    def only(self, which: Tensor) -> "Zeros":
        """Some of the items."""
        return Zeros(*(value[which] for value in vars(self).values()))

    def replaced(self, at: Tensor, by: "Zeros") -> "Zeros":
        """All items, those at the given indices replaced."""
        return Zeros(*(mine.index_copy(0, at, other) for mine, other in zip(vars(self).values(), vars(by).values(), strict=True)))


def find_zeros(
    residual: Residual,
    linearised: Linearised,
    x: Tensor,
    *,
    tol: float,
    max_steps: int,
    patient: bool = True,
    even: bool = True,
    landed: Landed | None = None,
) -> Zeros:
    """Solve r(x) = 0 from every item of x, shape (items, dim), independently.

    A step d solves (JᵀW²J + μ s) d = −JᵀW² r, with s the mean square of the columns of WJ. The damping μ is reduced when the linear
    model predicts well; at μ = 0 the step is J d = −r. W divides each equation by the length of its row of J, so that slow
    components (an almost closed gate) count as much as fast ones.

    Args:
        residual: x ↦ r(x).
        linearised: x ↦ r(x), J(x), shapes (items, dim) and (items, dim, dim).
        tol: ‖r‖∞ that counts as zero, or the rounding error if that is larger.
        max_steps: maximum number of steps tried.
        patient: continue as long as ‖r‖ falls; otherwise give up items whose ‖W r‖ does not halve within 10 steps.
        even: W as above; otherwise W = 1, and items without a zero end at a local minimum of ‖r‖.
        landed: x, r(x), tol ↦ the items that converge to a known zero, and their ends.
    """
    items, at = torch.arange(len(x), device=x.device), Linear.at(linearised, x)
    damping, mark = torch.full_like(at.size, FIRST_DAMPING), torch.full_like(at.size, torch.inf)
    retired: list[tuple[Tensor, Zeros]] = []
    for count in range(max_steps + 1):
        weights = at.weights if even else torch.ones_like(at.r)
        right = weights * at.r
        gradient = at.along(weights * right)
        resting = gradient.norm(dim=-1) * at.scale < STANDING * right.square().sum(-1)
        left = at.is_zero(tol) | ~at.finite | resting | (damping > MOST_DAMPING)
        if not patient and count % PATIENCE == 0:
            size = right.norm(dim=-1)
            left |= size > mark / 2
            mark = size
        left |= count == max_steps
        known, zeros = landed(at.x, at.r, tol) if landed else (torch.zeros_like(left), None)
        if zeros is not None:
            retired.append((items[known], zeros))
            left &= ~known
        if left.any():
            retired.append((items[left], _ended(residual, at.only(left), tol)))
        if (left | known).any():
            on = ~(left | known)
            items, at, damping, mark = items[on], at.only(on), damping[on], mark[on]
            weights, right, gradient = weights[on], right[on], gradient[on]
        if not len(items):
            break
        move = _step(at, weights, gradient, damping)
        trial = at.x + move
        gain = _gain(right, weights * (at.r + at.pushed(move)), weights * residual(trial))
        damping = _adapted(damping, gain)
        at = at.moved(linearised, trial, gain > 0)
    order = torch.cat([which for which, _ in retired]).argsort()
    return Zeros.joined([ends for _, ends in retired]).only(order)


@dataclass(frozen=True)
class Linear:
    """States with their residual, its Jacobian, and the 1-norm of each row of the Jacobian."""

    x: Tensor
    r: Tensor
    jacobian: Tensor
    length: Tensor

    @classmethod
    def at(cls, linearised: Linearised, x: Tensor) -> "Linear":
        """The linear model at x."""
        r, jacobian = linearised(x)
        return cls(x, r, jacobian, jacobian.abs().sum(-1))

    @property
    def size(self) -> Tensor:
        """‖r‖∞."""
        return self.r.abs().amax(-1)

    @property
    def scale(self) -> Tensor:
        """max(1, ‖x‖)."""
        return self.x.norm(dim=-1).clamp(min=1)

    @property
    def finite(self) -> Tensor:
        """Whether r and J are finite."""
        return torch.isfinite(self.r + self.length).all(-1)

    @property
    def weights(self) -> Tensor:
        """One over the length of each row of J, so that every equation has the same weight; 1 for a row of zeros."""
        return torch.where(self.length > TINY, 1 / self.length.clamp(min=TINY), 1.0)

    def along(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        return (w[:, None] @ self.jacobian)[:, 0]

    def pushed(self, v: Tensor) -> Tensor:
        """J v."""
        return (self.jacobian @ v[..., None])[..., 0]

    def slope(self) -> Tensor:
        """‖∇ ln‖r‖‖ max(1, ‖x‖): relative decrease of ‖r‖ over a displacement of the size of the state, to first order."""
        return self.along(self.r).norm(dim=-1) * self.scale / self.r.square().sum(-1)

    def is_zero(self, tol: float) -> Tensor:
        """Whether every |r_i| ≤ tol min(1, ‖J_i‖), so that slow motion does not count as zero, or is within rounding."""
        return self.finite & (self.r.abs() <= allowed(tol, self.x, self.length)).all(-1)

    def vague(self) -> Tensor:
        """Whether an equation holds, to rounding, even if its component moves by a relative 1e-6."""
        rounding = torch.finfo(self.x.dtype).eps * self.x.abs()
        return (rounding > VAGUE * self.x.abs().amax(-1, keepdim=True).clamp(min=1) * self.length).any(-1)

    def only(self, which: Tensor) -> "Linear":
        """Some of the items."""
        return self if which.all() else Linear(*(value[which] for value in vars(self).values()))

    def joined(self, other: "Linear") -> "Linear":
        """These items followed by others."""
        return Linear(*(torch.cat(parts) for parts in zip(vars(self).values(), vars(other).values(), strict=True)))

    def moved(self, linearised: Linearised, trial: Tensor, accepted: Tensor) -> "Linear":
        """The items, with those accepted moved to their trial states."""
        if accepted.all():
            return Linear.at(linearised, trial)
        if not accepted.any():
            return self
        new, where = Linear.at(linearised, trial[accepted]), accepted.nonzero()[:, 0]
        return Linear(
            *(old.index_copy(0, where, value) for old, value in zip(vars(self).values(), vars(new).values(), strict=True))
        )


def allowed(tol: float, x: Tensor, length: Tensor) -> Tensor:
    """The largest |r_i| that counts as zero: tol, times the row length of J if that is below 1, or the rounding error."""
    rounding = ROUNDINGS * torch.finfo(x.dtype).eps * (1 + length.amax(-1)) * x.abs().amax(-1)
    return torch.maximum(tol * length.clamp(max=1), rounding[:, None])


def _step(at: Linear, weights: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    """The damped step; if J is singular, the undamped step is not finite and will be rejected."""
    newton = damping < NO_DAMPING
    move = torch.full_like(at.r, torch.nan)
    if newton.any():
        move[newton] = solved(at.jacobian[newton], -at.r[newton, :, None])[..., 0]
    damped = ~newton
    if damped.any():
        matrix = weights[damped, :, None] * at.jacobian[damped]
        gram = matrix.mT @ matrix
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        diagonal += damping[damped, None] * diagonal.mean(-1, keepdim=True)
        factor, failed = torch.linalg.cholesky_ex(gram)
        factor.masked_fill_((failed != 0)[:, None, None], torch.nan)
        move[damped] = torch.cholesky_solve(-gradient[damped, :, None], factor)[..., 0]
    return move


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solutions of M x = b, (items, dim, columns); NaN where M is singular."""
    solution, failed = torch.linalg.solve_ex(matrix, right)
    return solution.masked_fill((failed != 0)[:, None, None], torch.nan)


def _gain(before: Tensor, predicted: Tensor, after: Tensor) -> Tensor:
    """Decrease of ‖r‖² relative to the prediction of the linear model; −1 if it rises or is not finite."""
    start = before.square().sum(-1)
    expected = start - predicted.square().sum(-1)
    gain = (start - after.square().sum(-1)) / expected
    return gain.where((expected > 0) & (gain > 0) & torch.isfinite(gain), -1.0)


def _adapted(damping: Tensor, gain: Tensor) -> Tensor:
    """Less damping if the model predicts well, more if it does not; an undamped step returns to the initial damping."""
    lower = torch.where(damping < NO_DAMPING, 0.0, damping / 10)
    higher = torch.where(damping < NO_DAMPING, FIRST_DAMPING, damping * 5)
    return torch.where(gain > 0.75, lower, torch.where(gain > 0.25, damping, higher))


def _ended(residual: Residual, at: Linear, tol: float) -> Zeros:
    """The ends of items; zeros take one more Newton step if ‖r‖∞ does not rise."""
    zero, x, size = at.is_zero(tol), at.x.clone(), at.size
    if zero.any():
        near = x[zero] + solved(at.jacobian[zero], -at.r[zero, :, None])[..., 0]
        now = residual(near).abs().amax(-1)
        better = (now <= size[zero]) & torch.isfinite(near).all(-1)
        x[zero] = near.where(better[:, None], x[zero])
        size[zero] = now.where(better, size[zero])
    return Zeros(x, size, zero, at.vague(), at.slope())
