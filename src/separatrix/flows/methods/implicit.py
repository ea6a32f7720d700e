"""The implicit midpoint rule: symplectic on every Hamiltonian field, separable or not.

Its equation is solved by Newton's method without a graph; then a few steps with the matrix held fixed are taken with one, which
makes the derivatives those of the implicit function theorem.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.precision import without_autocast
from separatrix.flows.methods.solver import Slope, Solver, TangentSlope, Time, along_rows, moved, with_tangents

ROUNDINGS = 64  # units of rounding by which the equation may be off
STUCK = 2.0**-20  # damping at which Newton's method is at the rounding of the field, or lost
NEAR = 0.6  # the power of the tolerance at which Newton stops: its error squares, so the steps that follow end far below
UNROLLED = 8  # Newton steps in a compiled or exported graph, which cannot ask whether it has arrived

# Note [Derivatives of an equation's solution]
# Let m solve  G(m, x, θ) = 0  and let N = ∂G/∂m there, held fixed. One step  m ← m − N⁻¹ G(m, x, θ)  from the solution, whose
# graph is recorded, moves nothing and has the derivative −N⁻¹ ∂G of the implicit function theorem; each further step with the
# same N adds an order. Three are taken: first, second and third derivatives are exact, forward and reverse, and all that is
# differentiated is f itself. Fourth and higher ones are not those of the solution.
EXACT_DERIVATIVES = 3


@dataclass(frozen=True)
class ImplicitMidpoint(Solver):
    r"""One step of size h:  x' = x + h f(m, t + h/2),  m = (x + x')/2.

    m solves  G(m) = m − x − (h/2) f(m) = 0,  by Newton's method with the dense Jacobian A = Df(m) of each item, its step halved
    while |G| would not fall. An item that does not come to `tol` is NaN. Tangents are Cayley's,
    v' = (I − h A/2)⁻¹ (I + h A/2) v,  so that the step is symplectic where f is Hamiltonian, keeps every quadratic that f keeps,
    and its inverse is the step with −h. Derivatives are exact to the third, and wrong from the fourth on; see Note [Derivatives of
    an equation's solution].

    Args:
        name, order: as in `Solver`.
        tol: by which |G| may be off, relative to |x| + |h f(x)/2|; where the field's own rounding is more, to 1 + that. Default: 64
            roundings of the state's dtype.
        max_steps: of Newton, before an item is given up; 8 in a compiled graph.
    Source: Hairer, Lubich & Wanner 2006, Geometric Numerical Integration, II.1, IV.2.1, VI.4.
    """

    tol: float | None = None
    max_steps: int = 50

    def step(self, field: Slope, x: Tensor, t: Time, h: Time) -> Tensor:
        """The state after one step, shape (*batch, dim)."""
        return 2 * self._midpoint(with_tangents(field), x, t + h / 2, h / 2) - x

    def pushforward(self, field: TangentSlope, x: Tensor, v: Tensor, t: Time, h: Time) -> tuple[Tensor, Tensor]:
        """The state and the tangents, shape (*batch, k, dim), after one step."""
        m = self._midpoint(field, x, t + h / 2, h / 2)
        with without_autocast(x.device):
            _, matrix = _equation(field, x, m, t + h / 2, h / 2)
            w = torch.linalg.solve_ex(matrix, v, left=False).result
        return 2 * m - x, 2 * w - v

    def amplification(self, z: Tensor) -> Tensor:
        """R(z) = (1 + z/2)/(1 − z/2),  of modulus ≤ 1 in the whole left half plane and nowhere else."""
        return (1 + z / 2) / (1 - z / 2)

    def _midpoint(self, field: TangentSlope, x: Tensor, t: Time, half: Time) -> Tensor:
        """The solution m, which carries the derivatives by x and by all that f depends on; NaN where there is none."""
        tol = ROUNDINGS * torch.finfo(x.dtype).eps if self.tol is None else self.tol
        with without_autocast(x.device):
            with torch.no_grad():
                m, inverse, scale = (found.detach() for found in self._newton(field, x.detach(), t, half, tol**NEAR))
            for _ in range(EXACT_DERIVATIVES):
                gap = m - x - half * _value(field, m, t)
                m = m - _row_times(gap, inverse)
        solved = _size(gap.detach()) <= tol * scale
        return m.where(solved[..., None], torch.nan)

    def _newton(self, field: TangentSlope, x: Tensor, t: Time, half: Time, near: float) -> tuple[Tensor, Tensor, Tensor]:
        """A midpoint whose |G| is below `near`, (∂G/∂m)⁻¹ there, and what |G| is relative to; x and 0 where none is found."""
        m, damping, unrolled = x, torch.ones_like(x[..., 0]), torch.compiler.is_compiling() or x.is_meta
        gap, matrix = _equation(field, x, m, t, half)
        off = _size(gap)
        own = _size(x) + off
        scale = 1 + own
        for _ in range(UNROLLED if unrolled else self.max_steps):
            going = (off > near * own) & (damping > STUCK)  # not so of an item that was never finite
            if not unrolled and not bool(going.any()):
                break
            trial = m - damping[..., None] * _row_times(gap, torch.linalg.inv_ex(matrix).inverse)
            trial_gap, trial_matrix = _equation(field, x, trial, t, half)
            trial_off = _size(trial_gap)
            better = (trial_off < off) & going
            damping = torch.where(better, (2 * damping).clamp(max=1.0), damping / 2)
            m, gap = trial.where(better[..., None], m), trial_gap.where(better[..., None], gap)
            matrix, off = trial_matrix.where(better[..., None, None], matrix), trial_off.where(better, off)
        done, inverse = (off <= near * scale)[..., None], torch.linalg.inv_ex(matrix).inverse
        return m.where(done, x), inverse.where(done[..., None], 0.0), scale


def _equation(field: TangentSlope, x: Tensor, m: Tensor, t: Time, half: Time) -> tuple[Tensor, Tensor]:
    """G(m), and ∂G/∂m transposed: its rows are the images of unit vectors."""
    identity = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device).expand(*m.shape[:-1], -1, -1)
    slope, bend = field(m, identity, t)
    return moved(m - x, -half, slope), moved(identity, along_rows(-half), bend)


def _value(field: TangentSlope, x: Tensor, t: Time) -> Tensor:
    return field(x, x.new_zeros(*x.shape[:-1], 0, x.shape[-1]), t)[0]


def _row_times(row: Tensor, matrix: Tensor) -> Tensor:
    return (row[..., None, :] @ matrix)[..., 0, :]


def _size(gap: Tensor) -> Tensor:
    return gap.abs().amax(-1)


implicit_midpoint = ImplicitMidpoint("implicit_midpoint", 2)
