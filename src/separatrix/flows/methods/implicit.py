"""The implicit midpoint rule, symplectic for every Hamiltonian field, separable or not.

Newton's method solves its equation without a graph. A few further steps with the matrix held fixed are recorded, which gives the
derivatives of the implicit function theorem.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.precision import without_autocast
from separatrix.flows.methods.solver import Slope, Solver, TangentSlope, Time, along_rows, moved, with_tangents

ROUNDINGS = 64  # rounding errors within which the equation must hold
STUCK = 2.0**-20  # damping at which Newton's method has reached the rounding of the field, or has failed
NEAR = 0.6  # power of the tolerance at which Newton's method stops: its error squares, so the further steps end far below
UNROLLED = 8  # Newton steps in a compiled or exported graph, which cannot test for convergence

# Note [Derivatives of an equation's solution]
# Let m solve  G(m, x, θ) = 0,  and let N = ∂G/∂m there, held fixed. One recorded step  m ← m − N⁻¹ G(m, x, θ)  from the solution
# leaves m unchanged and has the derivative −N⁻¹ ∂G of the implicit function theorem; each further step with the same N adds an
# order. Three are taken: first, second and third derivatives are exact, forward and reverse, and only f itself is differentiated.
# Fourth and higher derivatives are wrong.
EXACT_DERIVATIVES = 3


@dataclass(frozen=True)
class ImplicitMidpoint(Solver):
    r"""One step of size h:  x' = x + h f(m, t + h/2),  m = (x + x')/2.

    m solves  G(m) = m − x − (h/2) f(m) = 0,  by Newton's method with the dense Jacobian A = Df(m) of each item and step halving
    while |G| does not decrease. An item that does not reach `tol` becomes NaN. Tangents follow Cayley's transform,
    v' = (I − h A/2)⁻¹ (I + h A/2) v,  so the step is symplectic if f is Hamiltonian, keeps every quadratic invariant of f, and has
    the step with −h as its inverse. Derivatives are exact up to the third and wrong from the fourth on; see Note [Derivatives of an
    equation's solution].

    Args:
        name, order: as in `Solver`.
        tol: tolerance of |G|, relative to |x| + |h f(x)/2|; relative to 1 + that if the rounding of the field is larger. Default:
            64 rounding errors of the state's dtype.
        max_steps: maximum number of Newton steps; 8 in a compiled graph.
    Source: Hairer, Lubich & Wanner 2006, Geometric Numerical Integration, II.1, IV.2.1, VI.4.
    """

    tol: float | None = None
    max_steps: int = 50

    def step(self, field: Slope, x: Tensor, t: Time, h: Time) -> Tensor:
        return 2 * self._midpoint(with_tangents(field), x, t + h / 2, h / 2) - x

    def pushforward(self, field: TangentSlope, x: Tensor, v: Tensor, t: Time, h: Time) -> tuple[Tensor, Tensor]:
        m = self._midpoint(field, x, t + h / 2, h / 2)
        with without_autocast(x.device):
            _, matrix = _equation(field, x, m, t + h / 2, h / 2)
            w = torch.linalg.solve_ex(matrix, v, left=False).result
        return 2 * m - x, 2 * w - v

    def amplification(self, z: Tensor) -> Tensor:
        """R(z) = (1 + z/2)/(1 − z/2),  with |R| ≤ 1 in the left half-plane and nowhere else."""
        return (1 + z / 2) / (1 - z / 2)

    def _midpoint(self, field: TangentSlope, x: Tensor, t: Time, half: Time) -> Tensor:
        """The solution m, with derivatives in x and in all that f depends on; NaN if there is none."""
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
        """A midpoint with |G| below `near`, (∂G/∂m)⁻¹ there, and the scale of |G|; x and 0 if none is found."""
        m, damping, unrolled = x, torch.ones_like(x[..., 0]), torch.compiler.is_compiling() or x.is_meta
        gap, matrix = _equation(field, x, m, t, half)
        off = _size(gap)
        own = _size(x) + off
        scale = 1 + own
        for _ in range(UNROLLED if unrolled else self.max_steps):
            going = (off > near * own) & (damping > STUCK)  # false for an item that was never finite
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
    """G(m), and the transpose of ∂G/∂m: its rows are the images of unit vectors."""
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
