"""Both ends of the spectrum of a symmetric operator."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.lanczos import Krylov, lanczos
from separatrix.core.randomness import Draws

LEAST, EVERY = 20, 5  # iterations before the first look at the residuals, and between two


@dataclass(frozen=True)
class Ends:
    """The k largest eigenvalues, descending, and the k smallest, ascending.

    Args:
        values, residuals: shape (2, k); NaN if the operator is not finite.
        vector: the leading vector, of length 1.
        products: number of products with the operator.
        converged: whether all residuals are below the tolerance.
    """

    values: Tensor
    residuals: Tensor
    vector: Tensor
    products: int
    converged: bool


def ends(operator: Callable[[Tensor], Tensor], like: Tensor, k: int, tol: float, max_steps: int, seed: int) -> Ends:
    """The ends of the spectrum of an operator on vectors of the shape of `like`, by Lanczos' iteration from a random start.

    Args:
        tol: residual at which an eigenvalue has converged, relative to the largest modulus.
    """
    steps = min(max_steps, like.numel())
    least = min(steps, max(LEAST, 2 * k))
    start = Draws(seed, "start of Lanczos").normal(like.numel()).to(like)
    for m, krylov in enumerate(lanczos(operator, start, steps), start=1):
        if not math.isfinite(krylov.alphas[-1] + krylov.betas[-1]):
            unknown = torch.full((2, k), torch.nan, dtype=torch.float64)
            return Ends(unknown, unknown, torch.full_like(like, torch.nan), m, False)
        if m == steps or (m >= least and m % EVERY == 0):
            found = _found(krylov, k, tol)
            if found.converged or m == steps:
                return found
    raise AssertionError("unreachable: the last iteration returns")


def _found(krylov: Krylov, k: int, tol: float) -> Ends:
    values, vectors, residuals = krylov.ritz()
    both = torch.stack([torch.arange(len(values) - 1, len(values) - 1 - k, -1), torch.arange(k)])
    converged = bool((residuals[both] <= tol * values.abs().max()).all())
    return Ends(values[both], residuals[both], krylov.vectors(vectors[:, -1:])[0], len(values), converged)
