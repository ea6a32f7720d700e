"""The largest singular value from below, without a matrix."""

import torch
from torch import Tensor
from torch.func import vjp

from separatrix.nn.norms.convolution import Convolution
from separatrix.nn.norms.rounding import SAFETY, UNIT, gamma

STEPS, PATIENCE = 300, 3
SETTLED = 1e-9
"""The estimate has settled when it rises by less, relatively, PATIENCE times in turn."""


def from_below(convolution: Convolution, *, seed: int = 0, steps: int = STEPS) -> float:
    r"""A proven lower bound ‖Av‖ / ‖v‖, by Lanczos' iteration on AᵀA or AAᵀ from a random vector.

    Source: Golub & Van Loan 2013, Matrix Computations, §10.1; all earlier directions are taken out of each new one, twice.
    """
    adjoint = vjp(convolution, torch.zeros(1, *convolution.in_shape).to(convolution.weight))[1]
    vector = _ritz_vector(lambda v: adjoint(convolution(v[None]))[0][0], convolution, seed, steps)
    if vector is None:
        return 0.0
    ratio = float(convolution(vector[None]).norm() / vector.norm())
    terms = convolution.weight[0, 0].numel() + 2 * vector.numel() ** 0.5
    return max(0.0, ratio * (1 - SAFETY * gamma(vector.numel())) - SAFETY * gamma(terms) * convolution.absolute_norm())


def _ritz_vector(gram, convolution: Convolution, seed: int, steps: int) -> Tensor | None:
    shape, like = convolution.in_shape, convolution.weight
    v = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(like)
    basis, alphas, betas, best, calm = [(v / v.norm()).flatten()], [], [], 0.0, 0
    for _ in range(min(steps, v.numel())):
        w = gram(basis[-1].view(shape)).flatten()
        alphas.append(float(w @ basis[-1]))
        past = torch.stack(basis)
        for _ in range(2):
            w = w - (past @ w) @ past
        value = _tridiagonal(alphas, betas)[0][-1]
        calm = calm + 1 if value <= best * (1 + SETTLED) else 0
        best = max(best, float(value))
        norm = float(w.norm())
        if calm >= PATIENCE or norm <= 100 * UNIT * max(best, 1e-300) or best == 0.0:
            break
        betas.append(norm)
        basis.append(w / norm)
    if best <= 0.0:
        return None
    weights = _tridiagonal(alphas, betas[: len(alphas) - 1])[1][:, -1]
    return (weights.to(like) @ torch.stack(basis[: len(alphas)])).view(shape)


def _tridiagonal(alphas: list[float], betas: list[float]) -> tuple[Tensor, Tensor]:
    matrix = torch.diag(torch.tensor(alphas, dtype=torch.float64))
    off = torch.tensor(betas[: len(alphas) - 1], dtype=torch.float64)
    return torch.linalg.eigh(matrix + torch.diag(off, 1) + torch.diag(off, -1))
