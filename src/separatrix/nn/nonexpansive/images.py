"""Euler steps of gradient flows on images: contractions, expansions, and pairs of the two that expand nothing."""

from torch import Tensor, nn

from separatrix.core.errors import InputError
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.nonexpansive.budget import ContractionStep, ExpansionStep, PairSteps
from separatrix.nn.nonexpansive.isometry import zeros
from separatrix.nn.nonexpansive.operators import Convolution, check_padding
from separatrix.nn.nonexpansive.orthogonal import Built, OrthogonalKernel, ScaledKernel
from separatrix.nn.nonexpansive.vectors import check_slope, contraction, expanded, expansion, gradient_step

KERNELS = ("orthogonal", "scaled")


class NonExpansiveConv2d(nn.Module):
    r"""The contraction  x ↦ x − h AᵀΣ(Ax + b)  of images, (*batch, channels, H, W), A a convolution; see `NonExpansive`.

    Under circular padding an orthogonal kernel is an isometry of images of every size, so s_min = 1; under zero padding, and of a
    scaled kernel, only ‖A‖ ≤ 1 is proven, and the factor is max(1, |1 − h|) = 1.

    Args:
        channels: of the image.
        hidden: channels of Ax. Default: as many.
        kernel_size: odd.
        slope: a of the activation, from 0 to 1.
        step_size: h, kept. Default: learned inside 0 … 2.
        padding: "circular" or "zeros".
        kernel: "orthogonal", or "scaled": a free kernel divided by a bound of its norm.

    Raises:
        InputError: a step outside of 0 … 2, a slope outside of 0 … 1, another padding or kernel.
        ShapeError: an even size.
    Source: Celledoni et al. 2023, arXiv:2210.02373; kernels: `sx.nn.OrthogonalKernel`, `sx.nn.ScaledKernel`.
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
    ) -> None:
        super().__init__()
        check_slope(slope)
        check_padding(padding)
        hidden = channels if hidden is None else hidden
        self.weight = kernel_of(kernel, max(hidden, channels), min(hidden, channels), kernel_size)
        self.bias = zeros(hidden)
        self.step_size = ContractionStep(given=step_size)
        self.slope, self.padding, self.lifts = slope, padding, hidden >= channels
        self.isometry = self.lifts and padding == "circular" and kernel == "orthogonal"

    def forward(self, x: Tensor) -> Tensor:
        """The contraction."""
        a = Convolution(self.weight(), self.padding)
        return gradient_step(x, a if self.lifts else a.adjoint(), self.bias, self.step_size(), self.slope)

    @property
    def guarantee(self) -> Guarantee:
        """The exact factor."""
        return contraction(self.step_size, self.slope, self.isometry)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"slope={self.slope:g}, padding={self.padding!r}"


class ExpansiveConv2d(nn.Module):
    r"""The expansion  x ↦ x + h Σ(Wx + v)  or  x + h WᵀΣ(Wx + v)  of images, (*batch, channels, H, W); see `Expansive`.

    The Lipschitz factor is 1 + h, under both paddings.

    Args:
        channels: of the image.
        kernel_size: odd.
        slope: of the activation, from 0 to 1.
        symmetric: the second form, whose Jacobian is symmetric.
        step_size: h, kept. Default: learned, above 0.
        padding: "circular" or "zeros".

    Raises:
        InputError: a negative step, a slope outside of 0 … 1, another padding.
        ShapeError: an even size.
    Source: Celledoni et al. 2023, arXiv:2210.02373.
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
    ) -> None:
        super().__init__()
        check_slope(slope)
        check_padding(padding)
        self.weight = OrthogonalKernel(channels, channels, kernel_size=kernel_size)
        self.bias = zeros(channels)
        self.step_size = ExpansionStep(given=step_size)
        self.slope, self.symmetric, self.padding = slope, symmetric, padding

    def forward(self, x: Tensor) -> Tensor:
        """The expansion."""
        w = Convolution(self.weight(), self.padding)
        return expanded(x, w, self.bias, self.step_size(), self.slope, self.symmetric)

    @property
    def guarantee(self) -> Guarantee:
        """1 + h."""
        return expansion(self.step_size)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"slope={self.slope:g}, padding={self.padding!r}"


class AlternatingConv2d(nn.Module):
    r"""An expansion and S contractions of images, (*batch, channels, H, W), that expand nothing together; see `Alternating`.

    Both budgets need A to contract every direction, which is proven under circular padding only: an orthogonal kernel under zero
    padding can have s_min = 0.

    Args:
        channels: of the image.
        hidden: channels of Ax, at least as many. Default: as many.
        kernel_size: odd.
        substeps: S, which share A and b.
        slope: a of the activation, above 0 and below 1.
        budget: "exact" or "published".
        symmetric: expand by x + h_E WᵀΣ(Wx + v) instead, whose Jacobian is symmetric.
        step_sizes: (h, h_E), kept. Default: learned.
        padding: "circular".

    Raises:
        InputError: steps outside of the feasible set; a slope that leaves none; zero padding.
        ShapeError: fewer channels of Ax than of the image; an even size.
    Source: Celledoni et al. 2023, arXiv:2210.02373; the exact factor: `sx.nn.exact_factor`.
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
    ) -> None:
        super().__init__()
        check_proven(padding)
        hidden = channels if hidden is None else hidden
        self.step_sizes = PairSteps(slope=slope, substeps=substeps, budget=budget, given=step_sizes)
        self.outward = OrthogonalKernel(channels, channels, kernel_size=kernel_size)
        self.outward_bias = zeros(channels)
        self.inward = OrthogonalKernel(hidden, channels, kernel_size=kernel_size)
        self.inward_bias = zeros(hidden)
        self.slope, self.symmetric = slope, symmetric

    def forward(self, x: Tensor) -> Tensor:
        """The expansion and the contractions."""
        h, expansion = self.step_sizes()
        x = expanded(x, Convolution(self.outward()), self.outward_bias, expansion, self.slope, self.symmetric)
        return gradient_step(x, Convolution(self.inward()), self.inward_bias, h, self.slope, self.step_sizes.substeps)

    @property
    def guarantee(self) -> Guarantee:
        """factor(h)^S (1 + h_E), at most 1."""
        return Guarantee(lipschitz=self.step_sizes.factor())


def kernel_of(name: str, out_channels: int, in_channels: int, kernel_size: int) -> Built:
    """A kernel of norm at most 1 by name."""
    if name not in KERNELS:
        raise InputError(f"kernel is {name!r}; it is {' or '.join(repr(known) for known in KERNELS)}.")
    return (OrthogonalKernel if name == "orthogonal" else ScaledKernel)(out_channels, in_channels, kernel_size=kernel_size)


def check_proven(padding: str) -> None:
    """Refuse a padding under which no lower bound of the singular values is known."""
    check_padding(padding)
    if padding != "circular":
        raise InputError(
            f"padding = {padding!r}: the budget needs s_min = 1, but an orthogonal kernel under zero padding can have s_min = 0.\n"
            'Pass padding="circular", or use sx.nn.NonExpansiveConv2d, whose factor is at most 1 without s_min.'
        )
