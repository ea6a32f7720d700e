"""Learned energies with gradient and Hessian in closed form, and a proven bound on the Hessian."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError
from separatrix.core.precision import as_float64, without_autocast
from separatrix.nn.activation import Activation, with_slope
from separatrix.nn.factory import Device, Factory

UNLIMITED = math.inf


class Ridges(NamedTuple):
    r"""A sum of ridge functions,  U(x) = Σ_i w_i S(k_i·x + b_i)  with S' = σ:  k (hidden, dim), b and w (hidden)."""

    k: Tensor
    b: Tensor
    w: Tensor

    def value(self, x: Tensor) -> Tensor:
        """U for σ = tanh, S = log cosh; shape (*batch, dim) → (*batch)."""
        z = linear(x, self.k, self.b)
        return ((torch.logaddexp(z, -z) - math.log(2)) * self.w).sum(-1)

    def gradient(self, x: Tensor, activation: Activation = torch.tanh) -> Tensor:
        """∇U = Kᵀ (w ∘ σ(Kx + b)), shape (*batch, dim)."""
        return linear(activation(linear(x, self.k, self.b)) * self.w, self.k.mT)

    def pushforward(self, x: Tensor, v: Tensor, activation: Activation = torch.tanh) -> tuple[Tensor, Tensor]:
        """∇U, and the symmetric Hessian D²U = Kᵀ diag(w ∘ σ') K applied to tangents, shape (*batch, k, dim)."""
        value, slope = with_slope(activation, linear(x, self.k, self.b))
        return linear(value * self.w, self.k.mT), linear(linear(v, self.k) * (slope * self.w)[..., None, :], self.k.mT)

    def curvatures(self) -> Tensor:
        r"""Bounds (‖P‖₂, ‖N‖₂) on the Hessian, −N ≤ D²U(x) ≤ P at every x, shape (2), for 0 ≤ σ' ≤ 1 (such as tanh).

        P = Σ_{w_i > 0} w_i k_i k_iᵀ  and  N = Σ_{w_i < 0} |w_i| k_i k_iᵀ.
        """
        signed = torch.stack([self.w.clamp(min=0), (-self.w).clamp(min=0)])[..., None]
        matrix = self.k.mT @ (signed * self.k)
        known = matrix.isfinite().all()  # eigvalsh raises on matrices that are not finite
        return torch.linalg.eigvalsh(matrix.where(known, 0.0)).amax(-1).clamp(min=0).where(known, torch.nan)

    def double(self) -> "Ridges":
        """The same numbers in float64, detached."""
        return Ridges(*map(as_float64, self))

    def stiffness(self) -> Tensor:
        """A bound on ‖D²U(x)‖₂ at every x: the larger of the two curvatures."""
        return self.curvatures().amax()


class Energy(nn.Module):
    r"""A learned energy  U(x) = s Σ_i w_i log cosh(k_i·x + b_i),  shape (*batch, dim) → (*batch).

    The scale is  s = 1 / √(1 + (L / stiffest)²),  where L is a proven bound on the Hessian of the sum, so ‖D²U(x)‖₂ < stiffest at
    every x and for all weights. Without `stiffest`, s = 1. As `hidden` grows, sums of this form approximate any smooth function and
    its derivatives on bounded sets.

    Args:
        dim: numbers in x.
        hidden: number of terms.
        stiffest: bound on ‖D²U‖₂. Default: none.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: dim or hidden is less than 1; with `stiffest`, also weights in half precision.
    Source: Hornik, Stinchcombe & White 1990, Neural Networks 3, 551 (approximation with derivatives).

    Example:
        >>> energy = sx.nn.parts.Energy(3, stiffest=2.0).double()
        >>> hessian = torch.func.hessian(energy)(torch.randn(3).double())
        >>> bool(torch.linalg.matrix_norm(hessian, 2) < 2)
        True
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 64,
        *,
        stiffest: float = UNLIMITED,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_whole("dim", dim, 1)
        check_whole("hidden", hidden, 1)
        self.stiffest = stiffest
        factory = Factory(device=device, dtype=dtype)
        self.k = nn.Parameter(torch.empty(hidden, dim, **factory))
        self.b = nn.Parameter(torch.empty(hidden, **factory))
        self.w = nn.Parameter(torch.empty(hidden, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform weights, as in PyTorch's linear layers."""
        hidden, dim = self.k.shape
        for parameter, fan in ((self.k, dim), (self.b, dim), (self.w, hidden)):
            nn.init.uniform_(parameter, -(fan**-0.5), fan**-0.5)

    def form(self) -> Ridges:
        """The scaled sum at the present weights."""
        ridges = Ridges(self.k, self.b, self.w)
        if self.stiffest == UNLIMITED:
            return ridges
        if self.k.dtype.itemsize < 4:
            raise InputError(
                f"an energy with bounded stiffness needs float32 or float64 weights, got {str(self.k.dtype)[6:]}.\n"
                "Call network.float(); autocast may stay on."
            )
        with without_autocast(self.k.device):
            return ridges._replace(w=self.w / torch.sqrt(1 + (ridges.stiffness() / self.stiffest) ** 2))

    def forward(self, x: Tensor) -> Tensor:
        """U(x), shape (*batch, dim) → (*batch)."""
        return self.form().value(x)


class Masses(NamedTuple):
    """The quadratic form  T(p) = ½ Σ p_i² / m_i  at given masses."""

    inverse: Tensor

    def value(self, p: Tensor) -> Tensor:
        """T, shape (*batch, dim) → (*batch)."""
        return (self.inverse * p * p).sum(-1) / 2

    def gradient(self, p: Tensor) -> Tensor:
        """∇T, shape (*batch, dim)."""
        return self.inverse * p

    def pushforward(self, p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """∇T, and D²T applied to tangents, shape (*batch, k, dim)."""
        return self.inverse * p, self.inverse * v

    def double(self) -> "Masses":
        """The same numbers in float64, detached."""
        return Masses(as_float64(self.inverse))

    def stiffness(self) -> Tensor:
        """‖D²T‖₂."""
        return self.inverse.amax()


class KineticEnergy(nn.Module):
    r"""The kinetic energy  T(p) = ½ Σ p_i² / m_i  with learned masses  m_i = exp(`log_mass`_i),  initially 1.

    Args:
        dim: numbers in p.
        device, dtype: of the weights, as in PyTorch.

    Example:
        >>> sx.nn.parts.KineticEnergy(2)(torch.tensor([3.0, 4.0])).item()  # ½ (3² + 4²)
        12.5
    """

    def __init__(self, dim: int, *, device: Device = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.log_mass = nn.Parameter(torch.zeros(dim, device=device, dtype=dtype))

    def form(self) -> Masses:
        """The quadratic form at the present masses."""
        return Masses((-self.log_mass).exp())

    def forward(self, p: Tensor) -> Tensor:
        """T(p), shape (*batch, dim) → (*batch)."""
        return self.form().value(p)
