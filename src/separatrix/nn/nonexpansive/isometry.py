"""Linear layers with singular values 1 and 0 only: lifts, rotations and projections of Lipschitz factor 1."""

from typing import Unpack

import torch
from torch import Tensor, nn

from separatrix.core.errors import ShapeError
from separatrix.nn.block import Block
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import NORM, Guarantee
from separatrix.nn.nonexpansive.operators import Convolution, check_padding
from separatrix.nn.nonexpansive.orthogonal import OrthogonalKernel, OrthogonalMatrix


class Isometry(Block):
    r"""A linear isometry,  x ↦ Qx + b  with QᵀQ = I,  which conserves norms and distances.

    The shape is (*batch, dim) → (*batch, out), the Lipschitz factor 1. If out = dim, log |det Q| = 0. With a bias only
    distances are conserved.

    Args:
        dim: numbers in x.
        out: numbers in the output, out ≥ dim. Default: dim.
        bias: whether to add b.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: out is less than dim.

    Example:
        >>> layer, x = sx.nn.Isometry(2, 5).double(), torch.randn(2).double()
        >>> torch.allclose(layer(x).norm(), x.norm())
        True
    """

    def __init__(
        self,
        dim: int,
        out: int | None = None,
        *,
        bias: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, out)
        factory = Factory(device=device, dtype=dtype)
        self.weight = OrthogonalMatrix(self.out, dim, **factory)
        self.bias = zeros(self.out, **factory) if bias else None

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """Qx + b."""
        return nn.functional.linear(x, self.weight(), self.bias)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """Qx + b and Qv."""
        weight = self.weight()
        return nn.functional.linear(x, weight, self.bias), v @ weight.mT

    @property
    def guarantee(self) -> Guarantee:
        """Lipschitz factor 1; ‖x‖ without a bias; volume if square."""
        conserves = frozenset({NORM}) if self.bias is None else frozenset()
        return Guarantee(lipschitz=1.0, conserves=conserves, log_det=0.0 if self.dim == self.out else None)


class Coisometry(Block):
    r"""A linear projection of norm 1,  x ↦ Qᵀx + b  with QᵀQ = I,  which keeps some directions and drops the others.

    The shape is (*batch, dim) → (*batch, out). The rows of Qᵀ are orthonormal, so the Lipschitz factor is 1. As the last layer
    of a classifier it does not expand differences of scores.

    Args:
        dim: numbers in x.
        out: numbers in the output, out ≤ dim. Default: dim.
        bias: whether to add b.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: out is more than dim.

    Example:
        >>> layer, x = sx.nn.Coisometry(5, 2, bias=False), torch.randn(4, 5)
        >>> bool((layer(x).norm(dim=-1) < x.norm(dim=-1)).all())
        True
    """

    def __init__(
        self,
        dim: int,
        out: int | None = None,
        *,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, out)
        if self.out > dim:
            raise ShapeError(
                f"out is {self.out}, but at most dim = {dim} rows can be orthonormal.\nPass out ≤ {dim}, or use sx.nn.Isometry."
            )
        factory = Factory(device=device, dtype=dtype)
        self.weight = OrthogonalMatrix(dim, self.out, **factory)
        self.bias = zeros(self.out, **factory) if bias else None

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """Qᵀx + b."""
        return nn.functional.linear(x, self.weight().mT, self.bias)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """Qᵀx + b and Qᵀv."""
        weight = self.weight()
        return nn.functional.linear(x, weight.mT, self.bias), v @ weight

    @property
    def guarantee(self) -> Guarantee:
        """Lipschitz factor 1."""
        return Guarantee(lipschitz=1.0)


class IsometryConv2d(nn.Module):
    r"""A convolution of Lipschitz factor 1,  x ↦ K ∗ x + b,  (*batch, in_channels, H, W) → (*batch, out_channels, H, W).

    With circular padding and no bias it conserves the norm of images of every size; with zero padding norms may shrink.

    Args:
        in_channels: channels of x.
        out_channels: channels of the output, at least in_channels. Default: in_channels.
        kernel_size: height and width of the kernel, odd.
        padding: "circular" or "zeros".
        bias: whether to add one number per channel.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: out_channels is less than in_channels, or kernel_size is even.
        InputError: unknown padding.

    Example:
        >>> layer, image = sx.nn.IsometryConv2d(3, 8).double(), torch.randn(1, 3, 5, 7).double()
        >>> torch.allclose(layer(image).norm(), image.norm())
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        kernel_size: int = 3,
        padding: str = "circular",
        bias: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_padding(padding)
        out_channels = in_channels if out_channels is None else out_channels
        factory = Factory(device=device, dtype=dtype)
        self.weight = OrthogonalKernel(out_channels, in_channels, kernel_size=kernel_size, **factory)
        self.bias = zeros(out_channels, **factory) if bias else None
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        return Convolution(self.weight(), self.padding)(x, self.bias)

    @property
    def guarantee(self) -> Guarantee:
        """Lipschitz factor 1; ‖x‖ under circular padding without a bias."""
        keeps = self.padding == "circular" and self.bias is None
        return Guarantee(lipschitz=1.0, conserves=frozenset({NORM}) if keeps else frozenset())

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"padding={self.padding!r}"


def zeros(count: int, **factory: Unpack[Factory]) -> nn.Parameter:
    """A bias, initially 0."""
    return nn.Parameter(torch.zeros(count, **factory))
