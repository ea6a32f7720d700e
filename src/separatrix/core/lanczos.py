"""Lanczos' iteration with full reorthogonalisation, for a symmetric operator that is only applied to vectors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.randomness import Draws

INVARIANT = 100  # β in units of the last place of the largest number, up to which it is rounding


@dataclass(frozen=True)
class Krylov:
    """What some steps of the iteration found:  A Q = Q T + β q eᵀ,  with Q orthonormal and T tridiagonal.

    Args:
        basis: the rows of Qᵀ, shape (steps, dim).
        alphas, betas: the diagonal of T, and what lies beside it; the last β is that of the next step.
    """

    basis: Tensor
    alphas: list[float]
    betas: list[float]

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues of T, ascending, shape (steps); their vectors as columns; and the residuals ‖A v − θ v‖ = |β s|.

        An eigenvalue of A lies within the residual of each.
        """
        matrix = torch.diag(torch.tensor(self.alphas, dtype=torch.float64))
        off = torch.tensor(self.betas[:-1], dtype=torch.float64)
        values, vectors = torch.linalg.eigh(matrix + torch.diag(off, 1) + torch.diag(off, -1))
        return values, vectors, self.betas[-1] * vectors[-1].abs()

    def vectors(self, columns: Tensor) -> Tensor:
        """Vectors of A, as rows, from columns of coordinates in the basis, shape (steps, count)."""
        return columns.mT.to(self.basis) @ self.basis


def lanczos(operator: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Iterator[Krylov]:
    """The factorisation after each of at most `steps` steps, at most the length of the start vector.

    Where the vectors found span an invariant subspace, β is 0, and the next vector is a random one that is orthogonal to it.

    Source: Golub & Van Loan 2013, Matrix Computations, §10.1, each direction made orthogonal, twice, to all before it.
    """
    steps = min(steps, start.numel())
    basis = start.new_zeros(steps, start.numel())
    basis[0] = start / start.norm()
    alphas: list[float] = []
    betas: list[float] = []
    for n in range(steps):
        found = basis[: n + 1]
        along, w = _orthogonal(operator(basis[n]), found)
        alphas.append(float(along[n]))
        betas.append(float(w.norm()))
        if betas[n] <= INVARIANT * torch.finfo(w.dtype).eps * max(map(abs, alphas + betas)):
            betas[n] = 0.0
        yield Krylov(found, alphas, betas)
        if n + 1 < steps:
            if betas[n] == 0:
                w = _orthogonal(Draws(0, "a direction beyond an invariant subspace", n).normal(start.numel()).to(w), found)[1]
            basis[n + 1] = w / w.norm()


def _orthogonal(w: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The components of a vector along orthonormal rows, and the vector without them."""
    along = found @ w
    w = w - along @ found
    return along, w - (found @ w) @ found
