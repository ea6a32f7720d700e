"""Zeros of many residuals at once: Newton's method, damped as by Levenberg and Marquardt where it does not go down."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Residual = Callable[[Tensor], Tensor]
Linearised = Callable[[Tensor], tuple[Tensor, Tensor]]
Landed = Callable[[Tensor, Tensor, float], "tuple[Tensor, Zeros | None]"]

FIRST_DAMPING = 1e-4  # relative to the mean square of the Jacobian's columns
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

    @classmethod
    def joined(cls, parts: "Sequence[Zeros]") -> "Zeros":
        """The items of all parts, one after the other."""
        return cls(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))

    @classmethod
    def none(cls, like: Tensor) -> "Zeros":
        """No items, of the kind of these states."""
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
        landed: x, r(x), tol ↦ which items are known to come to a zero, and those zeros.
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
    """States, the residual and its Jacobian there, and the length of each of its rows (1-norm)."""

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
        """Whether r and J are numbers."""
        return torch.isfinite(self.r + self.length).all(-1)

    @property
    def weights(self) -> Tensor:
        """One over the length of each row of J, so that every equation counts alike; a row of zeros has no say."""
        return torch.where(self.length > TINY, 1 / self.length.clamp(min=TINY), 1.0)

    def along(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        return (w[:, None] @ self.jacobian)[:, 0]

    def pushed(self, v: Tensor) -> Tensor:
        """J v."""
        return (self.jacobian @ v[..., None])[..., 0]

    def slope(self) -> Tensor:
        """‖∇ ln‖r‖‖ max(1, ‖x‖): the share of ‖r‖ that a move as long as the state takes away, to first order."""
        return self.along(self.r).norm(dim=-1) * self.scale / self.r.square().sum(-1)

    def is_zero(self, tol: float) -> Tensor:
        """Every |r_i| ≤ tol min(1, ‖J_i‖), so that a component that hardly moves is not taken for one at rest; or rounding's."""
        return self.finite & (self.r.abs() <= allowed(tol, self.x, self.length)).all(-1)

    def vague(self) -> Tensor:
        """Whether an equation does not notice, to rounding, that its component moves by a millionth."""
        rounding = torch.finfo(self.x.dtype).eps * self.x.abs()
        return (rounding > VAGUE * self.x.abs().amax(-1, keepdim=True).clamp(min=1) * self.length).any(-1)

    def only(self, which: Tensor) -> "Linear":
        """Some of the items."""
        return self if which.all() else Linear(*(value[which] for value in vars(self).values()))

    def joined(self, other: "Linear") -> "Linear":
        """These items and others after them."""
        return Linear(*(torch.cat(parts) for parts in zip(vars(self).values(), vars(other).values(), strict=True)))

    def moved(self, linearised: Linearised, trial: Tensor, accepted: Tensor) -> "Linear":
        """The items, those accepted at their trial states."""
        if accepted.all():
            return Linear.at(linearised, trial)
        if not accepted.any():
            return self
        new, where = Linear.at(linearised, trial[accepted]), accepted.nonzero()[:, 0]
        return Linear(
            *(old.index_copy(0, where, value) for old, value in zip(vars(self).values(), vars(new).values(), strict=True))
        )


def allowed(tol: float, x: Tensor, length: Tensor) -> Tensor:
    """The largest |r_i| of a zero: tol, for a component whose row of J is shorter than 1 as much less, or what rounding makes."""
    rounding = ROUNDINGS * torch.finfo(x.dtype).eps * (1 + length.amax(-1)) * x.abs().amax(-1)
    return torch.maximum(tol * length.clamp(max=1), rounding[:, None])


def _step(at: Linear, weights: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    """The damped step; where J has no inverse the undamped one is not finite, and is then refused."""
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
    """Solutions of M x = b, (items, dim, columns); NaN where M has no inverse."""
    solution, failed = torch.linalg.solve_ex(matrix, right)
    return solution.masked_fill((failed != 0)[:, None, None], torch.nan)


def _gain(before: Tensor, predicted: Tensor, after: Tensor) -> Tensor:
    """Decrease of ‖r‖² as a share of what the linear model predicts; −1 where it rises or is not a number."""
    start = before.square().sum(-1)
    hoped = start - predicted.square().sum(-1)
    gain = (start - after.square().sum(-1)) / hoped
    return gain.where((hoped > 0) & (gain > 0) & torch.isfinite(gain), -1.0)


def _adapted(damping: Tensor, gain: Tensor) -> Tensor:
    """Less where the model is good, more where it is bad; from Newton's own step back to where damping begins."""
    lower = torch.where(damping < NO_DAMPING, 0.0, damping / 10)
    higher = torch.where(damping < NO_DAMPING, FIRST_DAMPING, damping * 5)
    return torch.where(gain > 0.75, lower, torch.where(gain > 0.25, damping, higher))


def _ended(residual: Residual, at: Linear, tol: float) -> Zeros:
    """Where items end: zeros one Newton step further, if ‖r‖∞ does not rise by it."""
    zero, x, size = at.is_zero(tol), at.x.clone(), at.size
    if zero.any():
        near = x[zero] + solved(at.jacobian[zero], -at.r[zero, :, None])[..., 0]
        now = residual(near).abs().amax(-1)
        better = (now <= size[zero]) & torch.isfinite(near).all(-1)
        x[zero] = near.where(better[:, None], x[zero])
        size[zero] = now.where(better, size[zero])
    return Zeros(x, size, zero, at.vague(), at.slope())
