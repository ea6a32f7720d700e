"""The equations of a branch, scaled by the size of its states, and Newton's method for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.branches.conserved import Totals
from separatrix.analysis.branches.knob import Knob
from separatrix.core.system import System
from separatrix.core.tangent import pushforward

NEWTON = 12  # maximum number of Newton steps from a predicted point; if that is not enough, the prediction was too far off
ROUNDINGS = 8  # a residual below this many roundings of an equation's terms is zero, whatever the tolerance
STANDING = 1e-8  # Newton step, in the branch's units, and residual below which a residual that no longer falls is rounding error

# Note [Units of a branch]
# A branch is a curve in (x, p), and its arc length needs a unit for each component. The unit of p is the length of the range. The
# unit of x_i is the largest |x_i| among the first point and the points that Newton's method finds from it at other parameters; it
# grows where the branch outgrows it. Components that are 0 at all of these points, as on the symmetric branch of a symmetric
# system, take the largest unit of the others: nothing on that branch depends on it. Convergence is tested for each equation
# separately, relative to the size of its terms Σ |∂G_i/∂z_j| |z_j|, so that neither the unit of x_i nor that of time matters.


class Local(NamedTuple):
    """The equations of the system and of the totals at a point, with their derivatives.

    Args:
        g: values, (equation).
        slope: derivatives with respect to z, (equation, dim + 1), rows normalised.
        size: largest |g|, each relative to the size of its equation's terms.
        own: ∂G/∂x of the system alone, (dim, dim).
        basis: orthonormal rows, (dim − totals, dim), along which no total changes.
        reduced: `own` and the derivative with respect to q in that basis, (dim − totals, dim − totals + 1), rows normalised.
        lengths: lengths of the rows of `reduced` before normalisation, (dim − totals).
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
        """∂G/∂x in the basis."""
        return self.basis @ self.own @ self.basis.mT

    def across(self, change: Tensor) -> Tensor:
        """A change of G in the basis, scaled like the rows of `reduced`."""
        return _over(self.basis @ change, self.lengths)

    def within(self, tangent: Tensor) -> Tensor:
        """A tangent of the branch in the basis and q."""
        return torch.cat([self.basis @ tangent[:-1], tangent[-1:]])


@dataclass(frozen=True, eq=False)
class Equations:
    """Equations  G(z) = 0  and  W x = c  for z = (x / scale, q); q runs from 0 at the start of the range to 1 at its stop.

    Args:
        system: the system frozen in time; an iterate for cycles.
        continuous: whether G is the field of a flow.
        knob: what the parameter sets; None if it sets the first total.
        start, span: start and signed length of the range.
        scale: (dim). See Note [Units of a branch].
        tol: tolerance of a residual.
        totals: conserved quantities. See Note [Totals].
        values: values at which the totals are held, (total).
        has_tangents: whether the system defines its own pushforward; if not, one pass differentiates by x and q together.
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
        """The state x of z."""
        return self.scale * z[..., :-1]

    def value(self, z: Tensor) -> Tensor:
        """The value of the parameter at z."""
        return self.start + self.span * z[..., -1]

    def at(self, x: Tensor, q: float) -> Tensor:
        """z of a state and a fraction q of the range."""
        return torch.cat([x / self.scale, x.new_tensor([q])])

    def in_scale(self, scale: Tensor) -> "Equations":
        """The same equations with another scale."""
        return replace(self, scale=scale)

    def system_at(self, p: Tensor) -> System:
        """The system at a value of the parameter."""
        return self.system if self.knob is None else self.knob.set(self.system, p)

    def __call__(self, z: Tensor) -> Tensor:
        """G, in units of the state, (dim)."""
        return self.system_at(self.value(z)).residual(self.state(z)) / self.scale

    def linear(self, z: Tensor) -> Local:
        """The equations and their derivatives at z."""
        x, p = self.state(z), self.value(z)
        g, slope = self._of_the_system(z)
        own, by_q = slope[:, :-1], slope[:, -1]
        terms = slope[:, :-1].abs() @ z[:-1].abs() + by_q.abs()
        if not self.continuous:
            terms = terms + z[:-1].abs()
        errors, weights, target_slopes = self._totals(x, p)
        total_terms = weights.abs() @ z[:-1].abs() + self.values.abs() + target_slopes.abs()
        size = float(_over(torch.cat([g, errors]).abs(), torch.cat([terms, total_terms])).amax())
        basis = torch.linalg.svd(weights)[2][len(weights) :] if len(weights) else torch.eye(len(x)).to(own)
        shift = torch.linalg.pinv(weights) @ target_slopes if len(weights) else torch.zeros_like(x)
        reduced = basis @ torch.cat([own @ basis.mT, (own @ shift + by_q)[:, None]], dim=1)
        if self.totals.function is not None:  # G is orthogonal to its gradient everywhere, DG only where G = 0
            g, slope = basis @ g, basis @ slope
        g, slope = torch.cat([g, errors]), torch.cat([slope, torch.cat([weights, -target_slopes[:, None]], dim=1)])
        rows, lengths = slope.abs().sum(-1), reduced.abs().sum(-1)
        return Local(_over(g, rows), _over(slope, rows[:, None]), size, own, basis, _over(reduced, lengths[:, None]), lengths)

    def _totals(self, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Errors of the totals, their gradients with respect to z, and the derivatives of their targets with respect to q."""
        if not len(self.totals):
            return x[:0], x.new_zeros(0, len(x)), x[:0]
        targets, target_slopes = self.values, torch.zeros_like(self.values)
        if self.knob is None:
            targets = torch.cat([p.reshape(1), self.values[1:]])
            target_slopes[0] = self.span
        return self.totals.of(x) - targets, self.totals.rows(x) * self.scale, target_slopes

    def _of_the_system(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """G and its derivatives with respect to z."""
        if not self.has_tangents:
            g, rows = pushforward(self, z, torch.eye(len(z), dtype=z.dtype, device=z.device))
            return g, rows.mT
        x, p = self.state(z), self.value(z)
        g, rows = self.system_at(p).residual_pushforward(x, torch.diag(self.scale))
        along = p.new_full((1, 1), self.span)
        by_q = pushforward(lambda one: self.system_at(one[0]).residual(x), p[None], along)[1][0]
        return g / self.scale, torch.cat([rows.mT, by_q[:, None]], dim=1) / self.scale[:, None]

    def bends(self, z: Tensor, along: Tensor, local: Local) -> tuple[Tensor, Tensor, Tensor]:
        """Second and third derivative of G along a direction of x at constant totals, and the mixed derivative with q."""
        way, up = torch.cat([along, along.new_zeros(1)]), torch.zeros_like(z)
        up[-1] = 1
        second, third = _derivative(self, z, way, way), _derivative(self, z, way, way, way)
        if self.totals.function is not None:
            curvature = _derivative(lambda y: self.totals.of(self.state(y)), z, way, way)
            second = second - local.own @ torch.linalg.pinv(self.totals.rows(self.state(z)) * self.scale) @ curvature
        return second, third, _derivative(self, z, way, up)

    def correct(self, z: Tensor, plane: Tensor, most: int = NEWTON) -> "Found | None":
        """Solve the equations by Newton's method in the hyperplane through z with normal `plane`; None if it does not converge."""
        last, step = torch.inf, torch.full_like(z, torch.inf)
        for count in range(most + 1):
            local = self.linear(z)
            if not (torch.isfinite(local.g).all() and torch.isfinite(local.slope).all()):
                return None
            stalled = last / 2 <= local.size <= STANDING and bool(step.abs().amax() <= STANDING * z.abs().amax().clamp(min=1))
            if local.size <= max(self.tol, ROUNDINGS * torch.finfo(z.dtype).eps) or stalled:
                return Found(z, local)
            if count < most:
                step = solve(torch.cat([local.slope, plane[None]]), torch.cat([-local.g, z.new_zeros(1)]))
                z, last = z + step, local.size
        return None


def _derivative(function: Callable[[Tensor], Tensor], z: Tensor, *ways: Tensor) -> Tensor:
    """Repeated derivative of a function, along each direction in turn."""
    for way in ways:
        function = _along(function, way)
    return function(z)


def _along(function: Callable[[Tensor], Tensor], way: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda y: torch.func.jvp(function, (y,), (way,))[1]


def _over(values: Tensor, size: Tensor) -> Tensor:
    return values / torch.where(size > 0, size, 1.0)


class Found(NamedTuple):
    """A point of the branch and the equations at it."""

    z: Tensor
    local: Local


class Grown(NamedTuple):
    """A point and its tangent after a change of units."""

    z: Tensor
    tangent: Tensor


def in_other_units(z: Tensor, tangent: Tensor, old: Tensor, new: Tensor) -> Grown:
    """Convert a point and its unit tangent from the units `old` to the units `new`."""
    ratio = torch.cat([old / new, torch.ones_like(z[-1:])])
    tangent = ratio * tangent
    return Grown(ratio * z, tangent / torch.linalg.vector_norm(tangent))


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve a linear system: by least squares if it is overdetermined, with least norm if it is singular, as at a branch point."""
    if matrix.shape[0] == matrix.shape[1]:
        answer, failed = torch.linalg.solve_ex(matrix, right)
        if not int(failed) and torch.isfinite(answer).all():
            return answer
    return torch.linalg.pinv(matrix) @ right
