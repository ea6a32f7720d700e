"""Euler steps of gradient flows on vectors: contractions, expansions, and non-expansive pairs of the two."""

import torch
from torch import Tensor
from torch.nn import functional

from separatrix.core.checks import check_number, check_whole
from separatrix.core.errors import ShapeError
from separatrix.nn.block import Block
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.nonexpansive.budget import ContractionStep, ExpansionStep, Number, PairSteps, exact_factor
from separatrix.nn.nonexpansive.isometry import zeros
from separatrix.nn.nonexpansive.operators import Matrix, Operator
from separatrix.nn.nonexpansive.orthogonal import OrthogonalMatrix


class NonExpansive(Block):
    r"""A contraction,  x ↦ x − h AᵀΣ(Ax + b),  the Euler step of the gradient flow of a convex potential.

    A is an isometry, or Aᵀ is if A has fewer rows than columns; Σ is a LeakyReLU of slope a (ReLU for a = 0). The Jacobian is
    the symmetric matrix I − h AᵀDA with slopes D between a and 1. The Lipschitz factor is therefore
    max(|1 − h a s_min²|, |1 − h|)  with s_min = 1 if A is an isometry and 0 otherwise: at most 1 for every h in 0 … 2. With ReLU,
    h = 2 and a square A the Jacobian is orthogonal.

    Args:
        dim: numbers in the state.
        hidden: rows of A, the hidden width. Default: dim.
        slope: a, from 0 to 1.
        step_size: h, fixed. Default: learned within 0 … 2.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: step_size is outside of 0 … 2, or slope outside of 0 … 1.
        ShapeError: hidden is less than 1.
    Source: Celledoni et al. 2023, arXiv:2210.02373; Meunier et al. 2022, arXiv:2110.12690.

    Example:
        >>> layer, a, b = sx.nn.NonExpansive(3), *torch.randn(2, 3)
        >>> bool((layer(a) - layer(b)).norm() <= (a - b).norm())
        True
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        slope: float = 0.0,
        step_size: float | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim)
        check_slope(slope)
        hidden = dim if hidden is None else hidden
        check_whole("hidden", hidden, 1, error=ShapeError)
        factory = Factory(device=device, dtype=dtype)
        self.weight = OrthogonalMatrix(max(hidden, dim), min(hidden, dim), **factory)
        self.bias = zeros(hidden, **factory)
        self.step_size = ContractionStep(given=step_size, **factory)
        self.slope, self.isometry = slope, hidden >= dim

    def operator(self) -> Matrix:
        """The linear map A."""
        weight = self.weight()
        return Matrix(weight if self.isometry else weight.mT)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The contraction."""
        return gradient_step(x, self.operator(), self.bias, self.step_size(), self.slope)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The contraction of x, and v − h AᵀDAv."""
        return gradient_tangents(x, v, self.operator(), self.bias, self.step_size(), self.slope)

    @property
    def guarantee(self) -> Guarantee:
        """The exact Lipschitz factor."""
        return contraction(self.step_size, self.slope, self.isometry)


class Expansive(Block):
    r"""An expansion of Lipschitz factor 1 + h,  x ↦ x + h Σ(Wx + v)  or  x + h WᵀΣ(Wx + v),  with an orthogonal W.

    Σ is a LeakyReLU.

    Args:
        dim: numbers in the state.
        slope: slope of Σ, from 0 to 1.
        symmetric: use the second form, the gradient step of a convex potential, whose Jacobian is symmetric.
        step_size: h ≥ 0, fixed. Default: learned.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: step_size is negative, or slope is outside of 0 … 1.
    Source: Celledoni et al. 2023, arXiv:2210.02373.

    Example:
        >>> sx.nn.parts.Expansive(3, step_size=0.5).guarantee.lipschitz  # 1 + h
        1.5
    """

    def __init__(
        self,
        dim: int,
        *,
        slope: float = 0.0,
        symmetric: bool = False,
        step_size: float | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim)
        check_slope(slope)
        factory = Factory(device=device, dtype=dtype)
        self.weight = OrthogonalMatrix(dim, dim, **factory)
        self.bias = zeros(dim, **factory)
        self.step_size = ExpansionStep(given=step_size, **factory)
        self.slope, self.symmetric = slope, symmetric

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The expansion."""
        return expanded(x, Matrix(self.weight()), self.bias, self.step_size(), self.slope, self.symmetric)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The expansion of x, and v + h DWv or v + h WᵀDWv."""
        return expanded_tangents(x, v, Matrix(self.weight()), self.bias, self.step_size(), self.slope, self.symmetric)

    @property
    def guarantee(self) -> Guarantee:
        """The Lipschitz factor 1 + h."""
        return expansion(self.step_size)


class Alternating(Block):
    r"""A non-expansive pair: an expansion  x ↦ x + h_E Σ(Wx + v),  then S contractions  x ↦ x − h AᵀΣ(Ax + b).

    Σ is a LeakyReLU of slope a. The step sizes are learned within the feasible set  factor(h)^S (1 + h_E) ≤ 1,  as a function
    of two free numbers that is smooth except at the kink of the factor. There are two budgets: "exact" with factor max(|1 − h
    a|, |1 − h|), and "published" with factor √(1 − 2ah + h²), which permits less expansion.

    Args:
        dim: numbers in the state.
        hidden: rows of A, the hidden width, at least dim. Default: dim.
        substeps: S, number of contractions; they share A and b.
        slope: a, 0 < a < 1.
        budget: "exact" or "published".
        symmetric: expand by  x + h_E WᵀΣ(Wx + v)  instead, whose Jacobian is symmetric.
        step_sizes: (h, h_E), fixed. Default: learned.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: step_sizes are outside of the feasible set, the budget is unknown, or slope or substeps is out of range.
        ShapeError: hidden is less than dim, so that some directions would not be contracted.
    Source: Celledoni et al. 2023, arXiv:2210.02373; the exact factor: `sx.nn.parts.exact_factor`.

    Example:
        >>> layer, a, b = sx.nn.parts.Alternating(3), *torch.randn(2, 3)
        >>> bool((layer(a) - layer(b)).norm() <= (a - b).norm())
        True
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        substeps: int = 1,
        slope: float = 0.5,
        budget: str = "exact",
        symmetric: bool = False,
        step_sizes: tuple[float, float] | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim)
        hidden = dim if hidden is None else hidden
        factory = Factory(device=device, dtype=dtype)
        self.step_sizes = PairSteps(slope=slope, substeps=substeps, budget=budget, given=step_sizes, **factory)
        self.outward = OrthogonalMatrix(dim, dim, **factory)
        self.outward_bias = zeros(dim, **factory)
        self.inward = OrthogonalMatrix(hidden, dim, **factory)
        self.inward_bias = zeros(hidden, **factory)
        self.slope, self.symmetric = slope, symmetric

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The expansion, then the contractions."""
        h, expansion = self.step_sizes()
        x = expanded(x, Matrix(self.outward()), self.outward_bias, expansion, self.slope, self.symmetric)
        return gradient_step(x, Matrix(self.inward()), self.inward_bias, h, self.slope, self.step_sizes.substeps)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The pushforward of each step in order."""
        h, expansion = self.step_sizes()
        x, v = expanded_tangents(x, v, Matrix(self.outward()), self.outward_bias, expansion, self.slope, self.symmetric)
        return gradient_tangents(x, v, Matrix(self.inward()), self.inward_bias, h, self.slope, self.step_sizes.substeps)

    @property
    def guarantee(self) -> Guarantee:
        """The Lipschitz factor of the pair, at most 1."""
        return Guarantee(lipschitz=self.step_sizes.factor())


def gradient_step(x: Tensor, a: Operator, bias: Tensor, h: Number, slope: float, substeps: int = 1) -> Tensor:
    """Repeated steps  x ↦ x − h AᵀΣ(Ax + b),  with h multiplied into Aᵀ."""
    back = a.adjoint().times(h)
    for _ in range(substeps):
        x = x - back(functional.leaky_relu(a(x, bias), slope))
    return x


def gradient_tangents(
    x: Tensor, v: Tensor, a: Matrix, bias: Tensor, h: Number, slope: float, substeps: int = 1
) -> tuple[Tensor, Tensor]:
    """The same steps, and  v ↦ v − h AᵀDAv  of tangents (*batch, k, dim)."""
    back = a.adjoint().times(h)
    for _ in range(substeps):
        z = a(x, bias)
        x, v = x - back(functional.leaky_relu(z, slope)), v - back(slopes(z, slope) * a(v))
    return x, v


def expanded(x: Tensor, w: Operator, bias: Tensor, h: Number, slope: float, symmetric: bool) -> Tensor:
    """The map x + h Σ(Wx + v), using Σ(h ·) = h Σ(·) for h ≥ 0; or x + h WᵀΣ(Wx + v)."""
    if symmetric:
        return gradient_step(x, w, bias, -h, slope)
    return x + functional.leaky_relu(w.times(h)(x, h * bias), slope)


def expanded_tangents(
    x: Tensor, v: Tensor, w: Matrix, bias: Tensor, h: Number, slope: float, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """The same map, and  v + h DWv  or  v + h WᵀDWv  of tangents (*batch, k, dim)."""
    if symmetric:
        return gradient_tangents(x, v, w, bias, -h, slope)
    stretched = w.times(h)
    z = stretched(x, h * bias)
    return x + functional.leaky_relu(z, slope), v + slopes(z, slope) * stretched(v)


def slopes(z: Tensor, slope: float) -> Tensor:
    """σ′(z) for z of shape (*batch, hidden), with an axis for tangents: (*batch, 1, hidden)."""
    return (z > 0).to(z.dtype).mul(1 - slope).add(slope).unsqueeze(-2)


@torch.no_grad()
def contraction(step: ContractionStep, slope: float, isometry: bool) -> Guarantee:
    """The exact factor of a contraction: s_min = 1 for an isometry, else 0."""
    return Guarantee(lipschitz=float(exact_factor(float(step()), slope, s_min=float(isometry))))


@torch.no_grad()
def expansion(step: ExpansionStep) -> Guarantee:
    """The factor 1 + h of an expansion."""
    return Guarantee(lipschitz=1.0 + float(step()))


def check_slope(slope: float) -> None:
    """Refuse slopes outside of 0 … 1, for which Σ is not monotone and non-expansive."""
    check_number("slope", slope, 0, 1, "[]", way_out="Outside, the activation is not monotone and non-expansive.")
