"""Cayley steps of  ẋ = S(x) x  with S(x) skew: the norm stays what it is, and the order is two.

The skew matrices act on vectors as rows, (*batch, k, dim).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Step = float | Tensor
MARGIN = 1024  # roundings of S that the identity beside it is kept above


class Skew(Protocol):
    """A skew matrix for each item of a batch, as what it does."""

    def times(self, v: Tensor) -> Tensor:
        """S v, of rows (*batch, k, dim)."""
        ...

    def solve(self, v: Tensor, c: Step) -> Tensor:
        """(I − c S)⁻¹ v, of rows (*batch, k, dim)."""
        ...

    def size(self) -> Tensor:
        """A bound on ‖S‖, shape (*batch, 1, 1), to which rounding in S is relative."""
        ...


@dataclass(frozen=True)
class Dense:
    """A skew matrix by its entries, shape (*batch, dim, dim); solving costs dim³."""

    matrix: Tensor

    def times(self, v: Tensor) -> Tensor:
        """S v, of rows."""
        return v @ self.matrix.mT

    def solve(self, v: Tensor, c: Step) -> Tensor:
        """(I − c S)⁻¹ v, of rows."""
        identity = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
        return _solve(identity - c * self.matrix, v.mT).mT

    def size(self) -> Tensor:
        """A multiple of the largest entry: dim · max |sᵢⱼ| ≥ ‖S‖."""
        return self.matrix.shape[-1] * self.matrix.abs().amax((-2, -1), keepdim=True)


@dataclass(frozen=True)
class Planes:
    r"""A skew matrix of rank 2r,  S = Σᵢ wᵢ (lᵢ rᵢᵀ − rᵢ lᵢᵀ):  a turn in each of r planes.

    With F the rows wᵢ lᵢ and rᵢ under each other and Ω = (0 I; −I 0) it is S = Fᵀ Ω F, so that by Woodbury's identity

        (I − c S)⁻¹ = I − c Fᵀ (Ω + c F Fᵀ)⁻¹ F,

    a system of size 2r, which can be solved whatever F is: Ω is skew, so that v in its null space has ‖Fᵀ v‖ = 0, then Ω v = 0,
    then v = 0. It costs r³ + r dim for each item instead of dim³.

    Args:
        left, right: the rows lᵢ and rᵢ, shape (r, dim), the same for all items.
        weights: wᵢ, shape (*batch, r).
    """

    left: Tensor
    right: Tensor
    weights: Tensor

    def times(self, v: Tensor) -> Tensor:
        """S v, of rows."""
        return turned(self.left, self.right, self.weights[..., None, :], v)

    def solve(self, v: Tensor, c: Step) -> Tensor:
        """(I − c S)⁻¹ v, of rows."""
        planes, dim = self.left.shape
        return self._woodbury(v, c) if 2 * planes < dim else self.dense().solve(v, c)

    def size(self) -> Tensor:
        """2 Σᵢ |wᵢ| ‖lᵢ‖ ‖rᵢ‖ ≥ ‖S‖."""
        lengths = 2 * torch.linalg.vector_norm(self.left, dim=-1) * torch.linalg.vector_norm(self.right, dim=-1)
        return (self.weights.abs() @ lengths)[..., None, None]

    def dense(self) -> Dense:
        """The same by its entries."""
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
    """Σᵢ wᵢ (lᵢ rᵢᵀ − rᵢ lᵢᵀ) v of rows v, (*batch, k, dim), with weights of shape (*batch, k, r), either of them with k = 1."""
    return (weights * (v @ right.mT)) @ left - (weights * (v @ left.mT)) @ right


def cayley(skew: Skew, x: Tensor, h: Step) -> Tensor:
    """(I − h/2 S)⁻¹ (I + h/2 S) x  =  x + h (I − h/2 S)⁻¹ S x,  shape (*batch, dim): an orthogonal matrix, whatever the skew S.

    What rounding adds to the length, some ε ‖h S‖ of it, is taken off. A step beyond `longest_step` is shortened to it.
    """
    row, h = x[..., None, :], longest_step(skew, h)
    return _as_long_as(x, (row + skew.solve(h * skew.times(row), h / 2))[..., 0, :])


def longest_step(skew: Skew, h: Step) -> Tensor:
    """h, or where  h/2 ‖S‖ > 1 / (1,024 ε)  the step that makes it so, shape (*batch, 1, 1): see Note [Turns beyond rounding]."""
    bound = skew.size().detach()
    bound = bound.where(bound < torch.inf, torch.nan)  # or an overflow would be a step of 0
    wide = torch.promote_types(bound.dtype, torch.float32)
    return h / (MARGIN * torch.finfo(wide).eps / 2 * abs(h) * bound).clamp(min=1)


def cayley_midpoint(skew: Callable[[Tensor], Skew], x: Tensor, h: Step) -> Tensor:
    r"""One step of size h of  ẋ = S(x) x:  m = x + h/2 S(x) x,  x' = (I − h/2 S(m))⁻¹ (I + h/2 S(m)) x.

    It keeps the norm and is of second order: see Note [Second order of the Cayley midpoint].

    Args:
        skew: x ↦ S(x), of states of shape (*batch, dim).
        x: states, shape (*batch, dim).
        h: the step.
    """
    return cayley(skew(predicted(skew(x), x, h)), x, h)


def predicted(skew: Skew, x: Tensor, h: Step) -> Tensor:
    """Half an Euler step, x + h/2 S(x) x, where S(x) is given."""
    return x + h / 2 * skew.times(x[..., None, :])[..., 0, :]


# Note [Second order of the Cayley midpoint]
# The norm is kept whatever m is, since S(m) is skew: with c = h/2 and y − x = c S (x + y),  ‖y‖² − ‖x‖² = (y − x)ᵀ(x + y) = 0.
# Order: the Cayley transform is I + hS + h²S²/2 + O(h³), and S(m) = S(x) + h/2 DS(x)[S(x)x] + O(h²), so that
#     x' = x + h S x + h²/2 (DS[Sx] x + S² x) + O(h³),
# which are the terms of the flow, for ẍ = DS[ẋ] x + S ẋ. Lie–Euler, x' = exp(h S(x)) x, lacks DS[Sx] x: it is of first order.


# Note [Turns beyond rounding]
# Beside entries of 1/ε the identity in I − h/2 S is lost. What is left is skew, so singular in odd dimensions: whether its inverse
# is inf, or noise of any direction, is up to the order in which a processor adds. A shorter step h/δ solves with δ I − h/2 S in
# place of I − h/2 S, a change of δ = 1,024 ε ‖h/2 S‖ that is a small multiple of the rounding in S itself; the turn stays
# orthogonal. It is by 2 atan(θ/δ) in place of 2 atan θ, both half a turn to δ/θ ≤ 1,024 ε ‖S‖ / ‖S in that plane‖, and what S
# leaves alone stays to some 1/1,024. No derivative goes through δ.


def _as_long_as(x: Tensor, y: Tensor) -> Tensor:
    """The same y, with x's length; NaN where y overflowed. No derivative goes through the ratio, which is 1 but for rounding."""
    size = x.detach().abs().amax(-1, keepdim=True)  # or the squares of small numbers would underflow
    wanted, got = (torch.linalg.vector_norm(part.detach() / size, dim=-1, keepdim=True) for part in (x, y))
    ratio = wanted / got
    return y * ratio.where(ratio > 0, torch.nan).where(size > 0, 1.0)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """By the inverse, which PyTorch has in single precision at the least. See Note [Inverse instead of solve]."""
    wide = torch.promote_types(right.dtype, torch.float32)
    return (torch.linalg.inv_ex(matrix.to(wide)).inverse @ right.to(wide)).to(right.dtype)


# Note [Inverse instead of solve]
# PyTorch 2.13's forward derivative of `linalg.solve` is wrong, without a word, under two nested vmaps, and that is how each item's
# Jacobian is asked for: vmap(jacfwd(layer)). The derivative of the inverse is right.
