"""Linear systems and eigenvalues from products alone, against dense ones."""

import numpy as np
import pytest
import torch
from torch import Tensor

from separatrix.analysis.fixed.krylov import gmres, leading_eigenvalues

F64 = torch.float64


def normal(count: int, dim: int, size: float = 1.0, seed: int = 0) -> Tensor:
    return size * torch.randn(count, dim, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_gmres_solves_what_a_dense_solver_does():
    matrix, right = torch.eye(30, dtype=F64) + normal(4 * 30, 30, 0.1).reshape(4, 30, 30), normal(4, 30, seed=1)
    solution = gmres(lambda v: (matrix @ v[..., None])[..., 0], right, tol=1e-12)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, right), rtol=0, atol=1e-9)


def test_leading_eigenvalues_are_those_of_the_dense_matrix():
    matrix = normal(80, 80, 80**-0.5)
    every = torch.linalg.eigvals(matrix).numpy()
    for which, rank in (("LM", np.abs), ("LR", np.real)):
        found = leading_eigenvalues(lambda v: matrix @ v, matrix[0], 6, which, seed=0).numpy()
        wanted = np.sort(rank(every))[::-1][:5]  # the sixth may be half of a pair
        np.testing.assert_allclose(np.sort(rank(found))[::-1][:5], wanted, atol=1e-10)


def test_a_matrix_of_zeros_and_one_of_rank_1_have_their_eigenvalues():
    nothing = leading_eigenvalues(torch.zeros_like, normal(1, 60)[0], 6, "LM", seed=0)
    assert nothing.tolist() == [0] * 6
    u = normal(1, 60)[0]
    one = leading_eigenvalues(lambda v: u * (u @ v), u, 6, "LM", seed=0)
    assert one.abs().nan_to_num(0).max().item() == pytest.approx(float(u @ u))
