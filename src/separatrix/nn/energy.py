"""Learned energies, with their gradient and Hessian in closed form, and a proven bound of the Hessian."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from separatrix.core.errors import InputError
from separatrix.core.precision import as_float64, without_autocast
from separatrix.nn.activation import Activation, with_slope

UNLIMITED = math.inf


class Ridges(NamedTuple):
    r"""U(x) = Σ_i w_i S(k_i·x + b_i),  S' = σ:  k of shape (hidden, dim), b and w of shape (hidden); S = log cosh for σ = tanh."""

    k: Tensor
    b: Tensor
    w: Tensor

    def value(self, x: Tensor) -> Tensor:
        """U for σ = tanh, shape (*batch, dim) → (*batch)."""
        z = linear(x, self.k, self.b)
        return ((torch.logaddexp(z, -z) - math.log(2)) * self.w).sum(-1)

    def gradient(self, x: Tensor, activation: Activation = torch.tanh) -> Tensor:
        """∇U = Kᵀ (w ∘ σ(Kx + b)), shape (*batch, dim)."""
        return linear(activation(linear(x, self.k, self.b)) * self.w, self.k.mT)

    def pushforward(self, x: Tensor, v: Tensor, activation: Activation = torch.tanh) -> tuple[Tensor, Tensor]:
        """∇U, and D²U = Kᵀ diag(w ∘ σ') K, which is symmetric, along tangents, shape (*batch, k, dim)."""
        value, slope = with_slope(activation, linear(x, self.k, self.b))
        return linear(value * self.w, self.k.mT), linear(linear(v, self.k) * (slope * self.w)[..., None, :], self.k.mT)

    def curvatures(self) -> Tensor:
        r"""Bounds of D²U(x) from above and from below at every x, shape (2), for 0 ≤ σ' ≤ 1, such as tanh's:  −N ≤ D²U ≤ P.

        They are ‖P‖₂ and ‖N‖₂ of  P = Σ_{w_i > 0} w_i k_i k_iᵀ  and  N = Σ_{w_i < 0} |w_i| k_i k_iᵀ.
        """
        signed = torch.stack([self.w.clamp(min=0), (-self.w).clamp(min=0)])[..., None]
        matrix = self.k.mT @ (signed * self.k)
        known = matrix.isfinite().all()  # of other matrices there are no eigenvalues, but an error
        return torch.linalg.eigvalsh(matrix.where(known, 0.0)).amax(-1).clamp(min=0).where(known, torch.nan)

    def double(self) -> "Ridges":
        """The same numbers in float64, that no graph follows."""
        return Ridges(*map(as_float64, self))

    def stiffness(self) -> Tensor:
        """A bound of ‖D²U(x)‖₂ at every x: the larger of the two."""
        return self.curvatures().amax()


class Energy(nn.Module):
    r"""A learned energy  U(x) = s Σ_i w_i log cosh(k_i·x + b_i),  shape (*batch, dim) → (*batch).

    With L the proven bound of the sum's Hessian (see `Ridges.stiffness`),  s = 1 / √(1 + (L / stiffest)²),  so that
    ‖D²U(x)‖₂ < `stiffest` at every x, for every value of the weights; without a limit s = 1.
    Sums of this form come as near as wanted to any smooth function on a bounded set, with its derivatives, as `hidden` grows.

    Args:
        dim: numbers in x.
        hidden: terms of the sum.
        stiffest: bound of ‖D²U‖₂. Default: none.
    Source: Hornik, Stinchcombe & White 1990, Neural Networks 3, 551 (approximation with derivatives).
    """

    def __init__(self, dim: int, hidden: int = 64, *, stiffest: float = UNLIMITED) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"an energy is of at least 1 number, not {dim}.")
        if hidden < 1:
            raise InputError(f"an energy has at least 1 hidden unit, not {hidden}.")
        self.stiffest = stiffest
        self.k = nn.Parameter(torch.empty(hidden, dim))
        self.b = nn.Parameter(torch.empty(hidden))
        self.w = nn.Parameter(torch.empty(hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform numbers, as PyTorch's linear layers have."""
        hidden, dim = self.k.shape
        for parameter, fan in ((self.k, dim), (self.b, dim), (self.w, hidden)):
            nn.init.uniform_(parameter, -(fan**-0.5), fan**-0.5)

    def form(self) -> Ridges:
        """The sum at the weights as they are, scaled."""
        ridges = Ridges(self.k, self.b, self.w)
        if self.stiffest == UNLIMITED:
            return ridges
        if self.k.dtype.itemsize < 4:
            raise InputError(
                f"an energy of limited stiffness needs weights in float32 or float64, not {str(self.k.dtype)[6:]}.\n"
                "Pass network.float(); autocast is fine."
            )
        with without_autocast(self.k.device):
            return ridges._replace(w=self.w / torch.sqrt(1 + (ridges.stiffness() / self.stiffest) ** 2))

    def forward(self, x: Tensor) -> Tensor:
        """U(x)."""
        return self.form().value(x)


class Masses(NamedTuple):
    """T(p) = ½ Σ p_i² / m_i."""

    inverse: Tensor

    def value(self, p: Tensor) -> Tensor:
        """T, shape (*batch, dim) → (*batch)."""
        return (self.inverse * p * p).sum(-1) / 2

    def gradient(self, p: Tensor) -> Tensor:
        """∇T, shape (*batch, dim)."""
        return self.inverse * p

    def pushforward(self, p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """∇T, and D²T along tangents, shape (*batch, k, dim)."""
        return self.inverse * p, self.inverse * v

    def double(self) -> "Masses":
        """The same numbers in float64, that no graph follows."""
        return Masses(as_float64(self.inverse))

    def stiffness(self) -> Tensor:
        """‖D²T‖₂."""
        return self.inverse.amax()


class KineticEnergy(nn.Module):
    r"""The kinetic energy  T(p) = ½ Σ p_i² / m_i  of masses m_i > 0, which are learned: m_i = exp(`log_mass`_i), from 1 on.

    Args:
        dim: numbers in p.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_mass = nn.Parameter(torch.zeros(dim))

    def form(self) -> Masses:
        """The form, at the masses as they are."""
        return Masses((-self.log_mass).exp())

    def forward(self, p: Tensor) -> Tensor:
        """T(p)."""
        return self.form().value(p)
