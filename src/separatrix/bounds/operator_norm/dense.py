"""All singular values of a small matrix."""

import torch
from torch import Tensor

from separatrix.bounds.operator_norm.rounding import SAFETY, UNIT, Extremes


def by_singular_values(matrix: Tensor, method: str) -> Extremes:
    r"""The extremes over a batch of matrices (*batch, rows, columns), by an SVD of each.

        |σ̂_i − σ_i| ≤ c · rows · columns · u · ‖A‖_F

    Source: Golub & Kahan's reduction by Householder reflections is backward stable with γ̃ of order rows · columns · u in the
    Frobenius norm (Higham 2002, Accuracy and Stability, theorem 19.4), and singular values move by no more than the matrix (Weyl).
    """
    values = torch.linalg.svdvals(matrix)
    rows, columns = matrix.shape[-2:]
    frobenius = torch.linalg.vector_norm(matrix, dim=(-2, -1)).max()
    slack = SAFETY * rows * columns * UNIT * float(frobenius)
    largest, smallest = float(values[..., 0].max()), float(values[..., -1].min())
    return Extremes(largest, largest, smallest, method).widened(slack)
