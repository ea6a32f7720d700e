"""Euler steps of gradient flows on images: contractions, expansions, and non-expansive pairs of the two."""

from typing import Unpack

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice
from separatrix.core.errors import InputError
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.nonexpansive.budget import ContractionStep, ExpansionStep, PairSteps
from separatrix.nn.nonexpansive.isometry import zeros
from separatrix.nn.nonexpansive.operators import Convolution, check_padding
from separatrix.nn.nonexpansive.orthogonal import Built, OrthogonalKernel, ScaledKernel
from separatrix.nn.nonexpansive.vectors import check_slope, contraction, expanded, expansion, gradient_step

KERNELS = ("orthogonal", "scaled")


class NonExpansiveConv2d(nn.Module):
    r"""A contraction of images,  x ↦ x − h AᵀΣ(Ax + b)  with a convolution A, (*batch, channels, H, W); see `NonExpansive`.

    Under circular padding an orthogonal kernel is an isometry of images of every size, so s_min = 1. Under zero padding, and for a
    scaled kernel, only ‖A‖ ≤ 1 is proven; the factor is then max(1, |1 − h|) = 1.

    Args:
        channels: channels of x.
        hidden: channels of Ax. Default: channels.
        kernel_size: height and width of the kernel, odd.
        slope: a of the activation, from 0 to 1.
        step_size: h, fixed. Default: learned within 0 … 2.
        padding: "circular" or "zeros".
        kernel: "orthogonal", or "scaled", a free kernel divided by a bound on its norm.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: step_size is outside of 0 … 2, slope outside of 0 … 1, or padding or kernel is unknown.
        ShapeError: kernel_size is even.
    Source: Celledoni et al. 2023, arXiv:2210.02373; kernels: `sx.nn.parts.OrthogonalKernel`, `sx.nn.parts.ScaledKernel`.

    Example:
        >>> layer, a, b = sx.nn.NonExpansiveConv2d(3, 8), *torch.randn(2, 1, 3, 5, 5)
        >>> bool((layer(a) - layer(b)).norm() <= (a - b).norm())
        True
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        *,
        kernel_size: int = 3,
        slope: float = 0.0,
        step_size: float | None = None,
        padding: str = "circular",
        kernel: str = "orthogonal",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_slope(slope)
        check_padding(padding)
        hidden = channels if hidden is None else hidden
        factory = Factory(device=device, dtype=dtype)
        self.weight = kernel_of(kernel, max(hidden, channels), min(hidden, channels), kernel_size, **factory)
        self.bias = zeros(hidden, **factory)
        self.step_size = ContractionStep(given=step_size, **factory)
        self.slope, self.padding, self.lifts = slope, padding, hidden >= channels
        self.isometry = self.lifts and padding == "circular" and kernel == "orthogonal"

    def forward(self, x: Tensor) -> Tensor:
        """The contraction."""
        a = Convolution(self.weight(), self.padding)
        return gradient_step(x, a if self.lifts else a.adjoint(), self.bias, self.step_size(), self.slope)

    @property
    def guarantee(self) -> Guarantee:
        """The exact Lipschitz factor."""
        return contraction(self.step_size, self.slope, self.isometry)

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"slope={self.slope:g}, padding={self.padding!r}"


class ExpansiveConv2d(nn.Module):
    r"""An expansion of images,  x ↦ x + h Σ(Wx + v)  or  x + h WᵀΣ(Wx + v),  (*batch, channels, H, W); see `Expansive`.

    The Lipschitz factor is 1 + h under both paddings.

    Args:
        channels: channels of x.
        kernel_size: height and width of the kernel, odd.
        slope: slope of the activation, from 0 to 1.
        symmetric: use the second form, whose Jacobian is symmetric.
        step_size: h ≥ 0, fixed. Default: learned.
        padding: "circular" or "zeros".
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: step_size is negative, slope is outside of 0 … 1, or padding is unknown.
        ShapeError: kernel_size is even.
    Source: Celledoni et al. 2023, arXiv:2210.02373.

    Example:
        >>> sx.nn.parts.ExpansiveConv2d(3, step_size=0.5).guarantee.lipschitz  # 1 + h
        1.5
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 3,
        slope: float = 0.0,
        symmetric: bool = False,
        step_size: float | None = None,
        padding: str = "circular",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_slope(slope)
        check_padding(padding)
        factory = Factory(device=device, dtype=dtype)
        self.weight = OrthogonalKernel(channels, channels, kernel_size=kernel_size, **factory)
        self.bias = zeros(channels, **factory)
        self.step_size = ExpansionStep(given=step_size, **factory)
        self.slope, self.symmetric, self.padding = slope, symmetric, padding

    def forward(self, x: Tensor) -> Tensor:
        """The expansion."""
        w = Convolution(self.weight(), self.padding)
        return expanded(x, w, self.bias, self.step_size(), self.slope, self.symmetric)

    @property
    def guarantee(self) -> Guarantee:
        """The Lipschitz factor 1 + h."""
        return expansion(self.step_size)

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"slope={self.slope:g}, padding={self.padding!r}"


class AlternatingConv2d(nn.Module):
    r"""A non-expansive pair on images: an expansion, then S contractions, (*batch, channels, H, W); see `Alternating`.

    Both budgets require that A contracts every direction. This is proven for circular padding only: under zero padding an
    orthogonal kernel can have s_min = 0.

    Args:
        channels: channels of x.
        hidden: channels of Ax, at least channels. Default: channels.
        kernel_size: height and width of the kernels, odd.
        substeps: S, number of contractions; they share A and b.
        slope: a of the activation, 0 < a < 1.
        budget: "exact" or "published".
        symmetric: expand by  x + h_E WᵀΣ(Wx + v)  instead, whose Jacobian is symmetric.
        step_sizes: (h, h_E), fixed. Default: learned.
        padding: "circular".
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: step_sizes are outside of the feasible set, padding is not "circular", or slope, substeps or budget is out of
            range.
        ShapeError: hidden is less than channels, or kernel_size is even.
    Source: Celledoni et al. 2023, arXiv:2210.02373; the exact factor: `sx.nn.parts.exact_factor`.

    Example:
        >>> layer, a, b = sx.nn.parts.AlternatingConv2d(3), *torch.randn(2, 1, 3, 5, 5)
        >>> bool((layer(a) - layer(b)).norm() <= (a - b).norm())
        True
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        *,
        kernel_size: int = 3,
        substeps: int = 1,
        slope: float = 0.5,
        budget: str = "exact",
        symmetric: bool = False,
        step_sizes: tuple[float, float] | None = None,
        padding: str = "circular",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_proven(padding)
        hidden = channels if hidden is None else hidden
        factory = Factory(device=device, dtype=dtype)
        self.step_sizes = PairSteps(slope=slope, substeps=substeps, budget=budget, given=step_sizes, **factory)
        self.outward = OrthogonalKernel(channels, channels, kernel_size=kernel_size, **factory)
        self.outward_bias = zeros(channels, **factory)
        self.inward = OrthogonalKernel(hidden, channels, kernel_size=kernel_size, **factory)
        self.inward_bias = zeros(hidden, **factory)
        self.slope, self.symmetric = slope, symmetric

    def forward(self, x: Tensor) -> Tensor:
        """The expansion, then the contractions."""
        h, expansion = self.step_sizes()
        x = expanded(x, Convolution(self.outward()), self.outward_bias, expansion, self.slope, self.symmetric)
        return gradient_step(x, Convolution(self.inward()), self.inward_bias, h, self.slope, self.step_sizes.substeps)

    @property
    def guarantee(self) -> Guarantee:
        """The Lipschitz factor of the pair, at most 1."""
        return Guarantee(lipschitz=self.step_sizes.factor())


def kernel_of(name: str, out_channels: int, in_channels: int, kernel_size: int, **factory: Unpack[Factory]) -> Built:
    """A kernel of norm at most 1 by name."""
    check_choice("kernel", name, KERNELS)
    kind = OrthogonalKernel if name == "orthogonal" else ScaledKernel
    return kind(out_channels, in_channels, kernel_size=kernel_size, **factory)


def check_proven(padding: str) -> None:
    """Refuse a padding without a lower bound on the singular values."""
    check_padding(padding)
    if padding != "circular":
        raise InputError(
            f"padding is {padding!r}; expected 'circular': under zero padding an orthogonal kernel can have s_min = 0.\n"
            'Pass padding="circular", or use sx.nn.NonExpansiveConv2d, which needs no s_min.'
        )
