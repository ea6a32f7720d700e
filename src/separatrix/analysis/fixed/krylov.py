"""Zeros and leading eigenvalues from Jacobian–vector products, for systems too wide for dense Jacobians."""

from collections.abc import Callable

import numpy as np
import scipy
import torch
from torch import Tensor

from separatrix.analysis.fixed.newton import ROUNDINGS, Zeros

Residual = Callable[[Tensor], Tensor]
Pushed = Callable[[Tensor, Tensor], Tensor]

BASIS = 40  # maximum number of Krylov vectors in one linear solve
FORCING = 1e-2  # relative residual at which a linear solve stops
DECREASE = 1e-4  # minimum share of the predicted decrease (Armijo)
SHORTEST = 1e-6  # share of a Newton step below which an item is given up


def find_zeros_by_products(residual: Residual, pushed: Pushed, x: Tensor, *, tol: float, max_steps: int) -> Zeros:
    """Solve r(x) = 0 from every item of x by Newton's method with GMRES, halving each step until ‖r‖ falls.

    Args:
        residual: x ↦ r(x), (items, dim).
        pushed: (x, v) ↦ J(x) v, both (items, dim).
        tol: ‖r‖∞ that counts as zero, or the rounding error if that is larger.
        max_steps: maximum number of Newton steps.
    """
    x, r = x.clone(), residual(x)
    left = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(max_steps):
        left &= ~_is_zero(r, x, tol) & torch.isfinite(r).all(-1)
        at = left.nonzero()[:, 0]
        if not len(at):
            break
        here = x[at]
        move = gmres(lambda v, here=here: pushed(here, v), -r[at])
        x[at], r[at], fell = _shortened(residual, here, r[at], move)
        left[at] = fell
    slope = torch.full_like(r[:, 0], torch.nan)  # would need Jᵀ, so there are no slow points
    zero = _is_zero(r, x, tol)
    return Zeros(x, r.abs().amax(-1), zero, torch.zeros_like(zero), slope)


def gmres(product: Callable[[Tensor], Tensor], right: Tensor, tol: float = FORCING) -> Tensor:
    """Approximate solutions of A z = b for all items, (items, dim): minimum of ‖A z − b‖ over at most 40 Krylov vectors.

    Source: Saad & Schultz 1986, SIAM J. Sci. Stat. Comput. 7, 856; classical Gram–Schmidt, twice.
    """
    size = right.norm(dim=-1, keepdim=True)
    basis = [right / size.clamp(min=torch.finfo(right.dtype).tiny)]
    columns: list[Tensor] = []
    weights = torch.zeros_like(right[:, :0])
    for _ in range(min(BASIS, right.shape[-1])):
        new, held = product(basis[-1]), torch.stack(basis, dim=-2)
        shares = (held @ new[..., None])[..., 0]
        new = new - (shares[:, None] @ held)[:, 0]
        again = (held @ new[..., None])[..., 0]
        new = new - (again[:, None] @ held)[:, 0]
        length = new.norm(dim=-1, keepdim=True)
        columns.append(torch.cat([shares + again, length], dim=-1))
        basis.append(new / length.clamp(min=torch.finfo(right.dtype).tiny))
        weights, missed = _least_squares(columns, size)
        if bool((missed <= tol * size[:, 0]).all()):
            break
    return (weights[:, None] @ torch.stack(basis[:-1], dim=-2))[:, 0]


def leading_eigenvalues(product: Callable[[Tensor], Tensor], like: Tensor, count: int, which: str, seed: int) -> Tensor:
    """Eigenvalues of v ↦ A v by implicitly restarted Arnoldi steps (ARPACK), complex; NaN for those that did not converge.

    Args:
        product: v ↦ A v, (dim) ↦ (dim).
        like: a state, (dim), for its dtype and device.
        count: number of eigenvalues.
        which: "LM" for the largest modulus, "LR" for the largest real part.
        seed: seed of the first vector.
    """

    def matvec(v: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(np.ascontiguousarray(v.reshape(-1))).to(like)).double().cpu().numpy()

    dim = like.shape[-1]
    start = np.random.default_rng(seed).standard_normal(dim)
    linalg = scipy.sparse.linalg
    operator = linalg.LinearOperator((dim, dim), matvec=matvec, dtype=np.float64)
    try:
        values = linalg.eigs(operator, k=count, which=which, v0=start, return_eigenvectors=False, ncv=min(dim, max(40, 4 * count)))
    except linalg.ArpackNoConvergence as partial:
        values = partial.eigenvalues
    except linalg.ArpackError:  # raised for A = 0, which maps the random start to zero
        values = np.full(0 if matvec(start).any() else count, 0.0)
    found = np.full(count, np.nan, dtype=complex)
    found[: len(values)] = values
    return torch.from_numpy(found)


def _least_squares(columns: list[Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
    """The least-squares solution y of the Hessenberg system H y = ‖b‖ e₁, and the norm of its residual."""
    count = len(columns)
    hessenberg = torch.stack([torch.nn.functional.pad(c, (0, count + 1 - c.shape[-1])) for c in columns], dim=-1)
    right = torch.zeros_like(hessenberg[..., 0])
    right[:, 0] = size[:, 0]
    weights = (torch.linalg.pinv(hessenberg) @ right[..., None])[..., 0]
    return weights, (hessenberg @ weights[..., None] - right[..., None]).norm(dim=(-2, -1))


def _shortened(residual: Residual, x: Tensor, r: Tensor, move: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States after the longest of the steps d, d/2, d/4, … that reduces ‖r‖, their residuals, and whether there is one."""
    new, after = x.clone(), r.clone()
    share, size = torch.ones_like(r[:, :1]), r.norm(dim=-1)
    fell = torch.zeros_like(size, dtype=torch.bool)
    while not fell.all() and float(share.min()) > SHORTEST:
        trial = x + share * move
        value = residual(trial)
        good = ~fell & (value.norm(dim=-1) <= (1 - DECREASE * share[:, 0]) * size)
        new, after = trial.where(good[:, None], new), value.where(good[:, None], after)
        fell |= good
        share = share / 2
    return new, after, fell


def _is_zero(r: Tensor, x: Tensor, tol: float) -> Tensor:
    rounding = ROUNDINGS * torch.finfo(x.dtype).eps * x.abs().amax(-1)
    return r.abs().amax(-1) <= rounding.clamp(min=tol)
