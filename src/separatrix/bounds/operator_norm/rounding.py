"""The effect of rounding on a proof, in float64."""

from dataclasses import dataclass, replace

from torch import Tensor

UNIT = 2.0**-53
"""The unit round-off u of float64: a result of one operation is exact up to a factor 1 ± u."""
SAFETY = 10.0
"""Times the constants of the textbook bounds: for libraries that multiply by a rounded reciprocal, or by the inverse of a
diagonal block, where the textbook divides."""

TINY = 1e-290
"""More than what numbers that have lost digits, near the smallest of float64, can be wrong by."""


@dataclass(frozen=True)
class Extremes:
    """Proven bounds of the singular values of a matrix.

    Args:
        upper, lower: an interval that contains the largest one.
        smallest: a lower bound of the min(rows, columns)-th; None if nothing is proven.
        method: method of the proof, as text.
    """

    upper: float
    lower: float
    smallest: float | None
    method: str

    def widened(self, slack: float) -> "Extremes":
        """For a matrix at most `slack` away in the 2-norm (Weyl)."""
        smallest = None if self.smallest is None else max(0.0, self.smallest - slack)
        return replace(self, upper=(self.upper + slack) * (1 + 4 * UNIT), lower=max(0.0, self.lower - slack), smallest=smallest)


def gamma(n: float) -> float:
    """γ_n = nu / (1 − nu), the relative error of a sum of n products (Higham 2002, lemma 3.1)."""
    return n * UNIT / (1 - n * UNIT)


def absolute_norm(matrix: Tensor) -> float:
    """√(‖B‖₁ ‖B‖_∞) ≥ ‖|B|‖₂, the most over a batch: what elementwise relative errors are measured by."""
    size = matrix.abs()
    rows, columns = size.sum(-1).amax(-1), size.sum(-2).amax(-1)
    return float((rows * columns).sqrt().max())
