"""The equations of a branch, in the units of its own states, and Newton's method on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.branches.conserved import Totals
from separatrix.analysis.branches.knob import Knob
from separatrix.core.system import System
from separatrix.core.tangent import pushforward

NEWTON = 12  # corrections of a predicted point; one that needs more was predicted too far
ROUNDINGS = 8  # of the terms of an equation: a residual below is zero, whatever the tolerance
STANDING = 1e-8  # step of Newton's method, in the branch's units, and residual that are rounding's if the residual no longer falls

# Note [Units of a branch]
# A branch is a curve in (x, p), and its arc length needs a unit for each number. That of p is the range asked for. That of x_i is
# the largest |x_i| among the point to begin at and those that Newton's method finds from there at other parameters; where the
# branch grows beyond, the unit does. Numbers that are 0 at all of these, as on the rest branch of a symmetric system, take the
# largest unit of the others: nothing on that branch depends on it. Whether a point is one is asked of each equation by itself,
# against the size of its own terms Σ |∂G_i/∂z_j| |z_j|, so that neither the unit of x_i nor that of time plays a part.


class Local(NamedTuple):
    """The equations at a point, those of the system and those of the totals, and what belongs to them.

    Args:
        g: values, (equation).
        slope: derivatives by z, (equation, dim + 1), rows of one size.
        size: the largest |g| over the size of its own terms.
        own: ∂G/∂x of the system alone, (dim, dim).
        basis: orthonormal rows, (dim − totals, dim), along which no total changes.
        reduced: own and the derivative by q in that basis, (dim − totals, dim − totals + 1), rows of one size.
        lengths: of these rows before that, (dim − totals).
    """

    g: Tensor
    slope: Tensor
    size: float
    own: Tensor
    basis: Tensor
    reduced: Tensor
    lengths: Tensor

    @property
    def square(self) -> Tensor:
        """∂G/∂x along the basis."""
        return self.basis @ self.own @ self.basis.mT

    def across(self, change: Tensor) -> Tensor:
        """A change of G by the basis, weighted as the rows of `reduced`."""
        return _over(self.basis @ change, self.lengths)

    def within(self, tangent: Tensor) -> Tensor:
        """A tangent of the branch by the basis and q."""
        return torch.cat([self.basis @ tangent[:-1], tangent[-1:]])


@dataclass(frozen=True, eq=False)
class Equations:
    """G(z) = 0 and W x = c, for z = (x / scale, q), where q goes from 0 at the start of the range to 1 at its stop.

    Args:
        system: frozen in time; an iterate for cycles.
        continuous: whether G is a field.
        knob: what the parameter sets; None where it is the first of the totals.
        start, span: of the range.
        scale: (dim). See Note [Units of a branch].
        tol: as asked.
        totals: what is conserved. See Note [Totals].
        values: what the totals are to be, (total).
        has_tangents: whether the system has derivatives of its own; otherwise one pass differentiates by x and q together.
    """

    system: System
    continuous: bool
    knob: Knob | None
    start: float
    span: float
    scale: Tensor
    tol: float
    totals: Totals
    values: Tensor
    has_tangents: bool

    def state(self, z: Tensor) -> Tensor:
        """x of z."""
        return self.scale * z[..., :-1]

    def value(self, z: Tensor) -> Tensor:
        """The parameter's value."""
        return self.start + self.span * z[..., -1]

    def at(self, x: Tensor, q: float) -> Tensor:
        """z of a state and a share of the range."""
        return torch.cat([x / self.scale, x.new_tensor([q])])

    def in_scale(self, scale: Tensor) -> "Equations":
        """The same in other units of the state."""
        return replace(self, scale=scale)

    def system_at(self, p: Tensor) -> System:
        """The system at a value of the parameter."""
        return self.system if self.knob is None else self.knob.set(self.system, p)

    def __call__(self, z: Tensor) -> Tensor:
        """G, in units of the state, (dim)."""
        return self.system_at(self.value(z)).residual(self.state(z)) / self.scale

    def linear(self, z: Tensor) -> Local:
        """The equations and their derivatives, by the system's own tangents where it has some."""
        x, p = self.state(z), self.value(z)
        g, slope = self._of_the_system(z)
        own, by_q = slope[:, :-1], slope[:, -1]
        terms = slope[:, :-1].abs() @ z[:-1].abs() + by_q.abs()
        if not self.continuous:
            terms = terms + z[:-1].abs()
        off, weights, turned = self._totals(x, p)
        held = weights.abs() @ z[:-1].abs() + self.values.abs() + turned.abs()
        size = float(_over(torch.cat([g, off]).abs(), torch.cat([terms, held])).amax())
        basis = torch.linalg.svd(weights)[2][len(weights) :] if len(weights) else torch.eye(len(x)).to(own)
        leaning = torch.linalg.pinv(weights) @ turned if len(weights) else torch.zeros_like(x)
        reduced = basis @ torch.cat([own @ basis.mT, (own @ leaning + by_q)[:, None]], dim=1)
        if self.totals.function is not None:  # across its gradient G is 0 of itself, but its derivative only where G is 0
            g, slope = basis @ g, basis @ slope
        g, slope = torch.cat([g, off]), torch.cat([slope, torch.cat([weights, -turned[:, None]], dim=1)])
        even, lengths = slope.abs().sum(-1), reduced.abs().sum(-1)
        return Local(_over(g, even), _over(slope, even[:, None]), size, own, basis, _over(reduced, lengths[:, None]), lengths)

    def _totals(self, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By how much they are off, their gradients by z, and how they are turned with q."""
        if not len(self.totals):
            return x[:0], x.new_zeros(0, len(x)), x[:0]
        wanted, turned = self.values, torch.zeros_like(self.values)
        if self.knob is None:
            wanted = torch.cat([p.reshape(1), self.values[1:]])
            turned[0] = self.span
        return self.totals.of(x) - wanted, self.totals.rows(x) * self.scale, turned

    def _of_the_system(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """G and its derivatives by z."""
        if not self.has_tangents:
            g, rows = pushforward(self, z, torch.eye(len(z), dtype=z.dtype, device=z.device))
            return g, rows.mT
        x, p = self.state(z), self.value(z)
        g, rows = self.system_at(p).residual_pushforward(x, torch.diag(self.scale))
        along = p.new_full((1, 1), self.span)
        turned = pushforward(lambda one: self.system_at(one[0]).residual(x), p[None], along)[1][0]
        return g / self.scale, torch.cat([rows.mT, turned[:, None]], dim=1) / self.scale[:, None]

    def bends(self, z: Tensor, along: Tensor, local: Local) -> tuple[Tensor, Tensor, Tensor]:
        """How G bends along a direction of x while the totals are held, its third derivative, and how its slope goes with q."""
        way, up = torch.cat([along, along.new_zeros(1)]), torch.zeros_like(z)
        up[-1] = 1
        second, third = _derivative(self, z, way, way), _derivative(self, z, way, way, way)
        if self.totals.function is not None:
            gone = _derivative(lambda y: self.totals.of(self.state(y)), z, way, way)
            second = second - local.own @ torch.linalg.pinv(self.totals.rows(self.state(z)) * self.scale) @ gone
        return second, third, _derivative(self, z, way, up)

    def correct(self, z: Tensor, plane: Tensor, most: int = NEWTON) -> "Found | None":
        """Newton's method on G within the hyperplane through z across `plane`; None where it does not get there."""
        last, step = torch.inf, torch.full_like(z, torch.inf)
        for count in range(most + 1):
            local = self.linear(z)
            if not (torch.isfinite(local.g).all() and torch.isfinite(local.slope).all()):
                return None
            stands = last / 2 <= local.size <= STANDING and bool(step.abs().amax() <= STANDING * z.abs().amax().clamp(min=1))
            if local.size <= max(self.tol, ROUNDINGS * torch.finfo(z.dtype).eps) or stands:
                return Found(z, local)
            if count < most:
                step = solve(torch.cat([local.slope, plane[None]]), torch.cat([-local.g, z.new_zeros(1)]))
                z, last = z + step, local.size
        return None


def _derivative(function: Callable[[Tensor], Tensor], z: Tensor, *ways: Tensor) -> Tensor:
    """Along one way after another."""
    for way in ways:
        function = _along(function, way)
    return function(z)


def _along(function: Callable[[Tensor], Tensor], way: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda y: torch.func.jvp(function, (y,), (way,))[1]


def _over(values: Tensor, size: Tensor) -> Tensor:
    return values / torch.where(size > 0, size, 1.0)


class Found(NamedTuple):
    """A point of the branch, and the equations there."""

    z: Tensor
    local: Local


class Grown(NamedTuple):
    """A point in other units."""

    z: Tensor
    tangent: Tensor


def in_other_units(z: Tensor, tangent: Tensor, old: Tensor, new: Tensor) -> Grown:
    """A point and its tangent, of length 1, once the units of the state are others."""
    ratio = torch.cat([old / new, torch.ones_like(z[-1:])])
    tangent = ratio * tangent
    return Grown(ratio * z, tangent / torch.linalg.vector_norm(tangent))


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution; the least squares' one of more equations; the shortest where the matrix is singular, as at a branch point."""
    if matrix.shape[0] == matrix.shape[1]:
        answer, failed = torch.linalg.solve_ex(matrix, right)
        if not int(failed) and torch.isfinite(answer).all():
            return answer
    return torch.linalg.pinv(matrix) @ right
