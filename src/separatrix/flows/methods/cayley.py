"""Cayley steps of  ẋ = S(x) x  with skew S(x), which keep the norm; second order.

The skew matrices act on vectors as rows, (*batch, k, dim).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Step = float | Tensor
MARGIN = 1024  # rounding errors of S above which the identity is kept


class Skew(Protocol):
    """A skew matrix for each batch item, by its action."""

    def times(self, v: Tensor) -> Tensor:
        """S v for rows v, (*batch, k, dim)."""
        ...

    def solve(self, v: Tensor, c: Step) -> Tensor:
        """(I − c S)⁻¹ v for rows v, (*batch, k, dim)."""
        ...

    def size(self) -> Tensor:
        """A bound on ‖S‖, shape (*batch, 1, 1), the scale of rounding errors in S."""
        ...


@dataclass(frozen=True)
class Dense:
    """A skew matrix given by its entries, shape (*batch, dim, dim); solving costs dim³."""

    matrix: Tensor

    def times(self, v: Tensor) -> Tensor:
        return v @ self.matrix.mT

    def solve(self, v: Tensor, c: Step) -> Tensor:
        identity = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
        return _solve(identity - c * self.matrix, v.mT).mT

    def size(self) -> Tensor:
        """A multiple of the largest entry: dim · max |sᵢⱼ| ≥ ‖S‖."""
        return self.matrix.shape[-1] * self.matrix.abs().amax((-2, -1), keepdim=True)


@dataclass(frozen=True)
class Planes:
    r"""A skew matrix of rank 2r,  S = Σᵢ wᵢ (lᵢ rᵢᵀ − rᵢ lᵢᵀ):  a rotation in each of r planes.

    With F the stacked rows wᵢ lᵢ and rᵢ and Ω = (0 I; −I 0), S = Fᵀ Ω F, and by Woodbury's identity

        (I − c S)⁻¹ = I − c Fᵀ (Ω + c F Fᵀ)⁻¹ F,

    a system of size 2r, which is solvable for every F: Ω is skew, so v in its null space has ‖Fᵀ v‖ = 0, then Ω v = 0, then v = 0.
    The cost is r³ + r dim per item instead of dim³.

    Args:
        left, right: the rows lᵢ and rᵢ, shape (r, dim), shared by all items.
        weights: wᵢ, shape (*batch, r).
    """

    left: Tensor
    right: Tensor
    weights: Tensor

    def times(self, v: Tensor) -> Tensor:
        return turned(self.left, self.right, self.weights[..., None, :], v)

    def solve(self, v: Tensor, c: Step) -> Tensor:
        planes, dim = self.left.shape
        return self._woodbury(v, c) if 2 * planes < dim else self.dense().solve(v, c)

    def size(self) -> Tensor:
        """2 Σᵢ |wᵢ| ‖lᵢ‖ ‖rᵢ‖ ≥ ‖S‖."""
        lengths = 2 * torch.linalg.vector_norm(self.left, dim=-1) * torch.linalg.vector_norm(self.right, dim=-1)
        return (self.weights.abs() @ lengths)[..., None, None]

    def dense(self) -> Dense:
        """The same matrix by its entries."""
        a = (self.left.mT * self.weights[..., None, :]) @ self.right
        return Dense(a - a.mT)

    def _woodbury(self, v: Tensor, c: Step) -> Tensor:
        w = self.weights[..., None, :]
        small = torch.cat([w * (v @ self.left.mT), v @ self.right.mT], dim=-1)
        first, second = _solve(self._small_matrix(c), small.mT).mT.chunk(2, dim=-1)
        return v - c * ((w * first) @ self.left + second @ self.right)

    def _small_matrix(self, c: Step) -> Tensor:
        """Ω + c F Fᵀ, shape (*batch, 2r, 2r)."""
        row, column = self.weights[..., None, :], self.weights[..., None]
        identity = torch.eye(self.left.shape[0], dtype=row.dtype, device=row.device)
        across = c * column * (self.left @ self.right.mT)
        top = torch.cat([c * column * row * (self.left @ self.left.mT), identity + across], dim=-1)
        low = (c * self.right @ self.right.mT).expand_as(across)
        return torch.cat([top, torch.cat([across.mT - identity, low], dim=-1)], dim=-2)


def turned(left: Tensor, right: Tensor, weights: Tensor, v: Tensor) -> Tensor:
    """Σᵢ wᵢ (lᵢ rᵢᵀ − rᵢ lᵢᵀ) v for rows v, (*batch, k, dim), with weights of shape (*batch, k, r); either may have k = 1."""
    return (weights * (v @ right.mT)) @ left - (weights * (v @ left.mT)) @ right


def cayley(skew: Skew, x: Tensor, h: Step) -> Tensor:
    """(I − h/2 S)⁻¹ (I + h/2 S) x  =  x + h (I − h/2 S)⁻¹ S x,  shape (*batch, dim): orthogonal for every skew S.

    The result is rescaled to the length of x, which removes a rounding error of order ε ‖h S‖. Steps are limited to `longest_step`.
    """
    row, h = x[..., None, :], longest_step(skew, h)
    return _as_long_as(x, (row + skew.solve(h * skew.times(row), h / 2))[..., 0, :])


def longest_step(skew: Skew, h: Step) -> Tensor:
    """h, or the step at which  h/2 ‖S‖ = 1 / (1,024 ε)  if h exceeds it, shape (*batch, 1, 1). See Note [Turns beyond rounding]."""
    bound = skew.size().detach()
    bound = bound.where(bound < torch.inf, torch.nan)  # otherwise an overflow would give a step of length 0
    wide = torch.promote_types(bound.dtype, torch.float32)
    return h / (MARGIN * torch.finfo(wide).eps / 2 * abs(h) * bound).clamp(min=1)


def cayley_midpoint(skew: Callable[[Tensor], Skew], x: Tensor, h: Step) -> Tensor:
    r"""One step of size h of  ẋ = S(x) x:  m = x + h/2 S(x) x,  x' = (I − h/2 S(m))⁻¹ (I + h/2 S(m)) x.

    It keeps the norm and is of second order. See Note [Second order of the Cayley midpoint].

    Args:
        skew: x ↦ S(x), for states of shape (*batch, dim).
        x: states, shape (*batch, dim).
        h: the step size.
    """
    return cayley(skew(predicted(skew(x), x, h)), x, h)


def predicted(skew: Skew, x: Tensor, h: Step) -> Tensor:
    """Half an Euler step, x + h/2 S(x) x, with S(x) given."""
    return x + h / 2 * skew.times(x[..., None, :])[..., 0, :]


# Note [Second order of the Cayley midpoint]
# The norm is kept for every m, since S(m) is skew: with c = h/2 and y − x = c S (x + y),  ‖y‖² − ‖x‖² = (y − x)ᵀ(x + y) = 0.
# Order: the Cayley transform is I + hS + h²S²/2 + O(h³), and S(m) = S(x) + h/2 DS(x)[S(x)x] + O(h²), so that
#     x' = x + h S x + h²/2 (DS[Sx] x + S² x) + O(h³),
# which agree with the flow, since ẍ = DS[ẋ] x + S ẋ. Lie–Euler, x' = exp(h S(x)) x, lacks DS[Sx] x: it is of first order.


# Note [Turns beyond rounding]
# Beside entries of 1/ε, the identity in I − h/2 S is rounded away. What remains is skew, hence singular in odd dimensions: whether
# its inverse is inf or noise depends on the processor's order of summation. A shorter step h/δ solves with δ I − h/2 S in place
# of I − h/2 S, where δ = 1,024 ε ‖h/2 S‖ is a small multiple of the rounding in S; the step stays orthogonal. It rotates by
# 2 atan(θ/δ) in place of 2 atan θ, both equal to half a turn up to δ/θ ≤ 1,024 ε ‖S‖ / ‖S in that plane‖, and what S leaves
# unchanged stays so up to about 1/1,024. No derivative goes through δ.


def _as_long_as(x: Tensor, y: Tensor) -> Tensor:
    """y with the length of x; NaN if y overflowed. No derivative goes through the ratio, which is 1 up to rounding."""
    size = x.detach().abs().amax(-1, keepdim=True)  # avoids underflow of squares
    wanted, got = (torch.linalg.vector_norm(part.detach() / size, dim=-1, keepdim=True) for part in (x, y))
    ratio = wanted / got
    return y * ratio.where(ratio > 0, torch.nan).where(size > 0, 1.0)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve by the inverse, in single precision or higher. See Note [Inverse instead of solve]."""
    wide = torch.promote_types(right.dtype, torch.float32)
    return (torch.linalg.inv_ex(matrix.to(wide)).inverse @ right.to(wide)).to(right.dtype)


# Note [Inverse instead of solve]
# PyTorch 2.13's forward derivative of `linalg.solve` is silently wrong under two nested vmaps, which is how the Jacobian of each
# item is computed: vmap(jacfwd(layer)). The derivative of the inverse is right.
