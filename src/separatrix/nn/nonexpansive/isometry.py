"""Linear layers of which every singular value is 1, or else 0: lifts, turns and projections that expand nothing."""

import torch
from torch import Tensor, nn

from separatrix.core.errors import ShapeError
from separatrix.nn.block import Block
from separatrix.nn.guarantee import NORM, Guarantee
from separatrix.nn.nonexpansive.operators import Convolution, check_padding
from separatrix.nn.nonexpansive.orthogonal import OrthogonalKernel, OrthogonalMatrix


class Isometry(Block):
    r"""A linear lift or turn that keeps norms,  x ↦ Qx + b  with QᵀQ = I.

    Without b it keeps ‖x‖; its Lipschitz factor is 1, and log |det Q| = 0 where it is square.

    Args:
        dim, out: numbers that it takes and gives, out ≥ dim. Default: as many.
        bias: whether there is a b.

    Raises:
        ShapeError: fewer numbers out than in.
    """

    def __init__(self, dim: int, out: int | None = None, *, bias: bool = False) -> None:
        super().__init__(dim, out)
        self.weight = OrthogonalMatrix(self.out, dim)
        self.bias = zeros(self.out) if bias else None

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """Qx + b."""
        return nn.functional.linear(x, self.weight(), self.bias)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """Qx + b and Qv."""
        weight = self.weight()
        return nn.functional.linear(x, weight, self.bias), v @ weight.mT

    @property
    def guarantee(self) -> Guarantee:
        """Factor 1; ‖x‖ without a bias; volume where it is square."""
        conserves = frozenset({NORM}) if self.bias is None else frozenset()
        return Guarantee(lipschitz=1.0, conserves=conserves, log_det=0.0 if self.dim == self.out else None)


class Coisometry(Block):
    r"""A linear projection of norm 1,  x ↦ Qᵀx + b  with QᵀQ = I:  it forgets some directions and keeps the others as they are.

    Its rows are orthonormal, so the Lipschitz factor is 1; as the last layer of a classifier it expands no difference of scores.

    Args:
        dim, out: numbers that it takes and gives, out ≤ dim. Default: as many.
        bias: whether there is a b.

    Raises:
        ShapeError: more numbers out than in.
    """

    def __init__(self, dim: int, out: int | None = None, *, bias: bool = True) -> None:
        super().__init__(dim, out)
        if self.out > dim:
            raise ShapeError(
                f"orthonormal rows were asked for: {self.out} of them with {dim} numbers each are too many.\n"
                f"Ask for at most {dim}, or use sx.nn.Isometry."
            )
        self.weight = OrthogonalMatrix(dim, self.out)
        self.bias = zeros(self.out) if bias else None

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """Qᵀx + b."""
        return nn.functional.linear(x, self.weight().mT, self.bias)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """Qᵀx + b and Qᵀv."""
        weight = self.weight()
        return nn.functional.linear(x, weight.mT, self.bias), v @ weight

    @property
    def guarantee(self) -> Guarantee:
        """Factor 1."""
        return Guarantee(lipschitz=1.0)


class IsometryConv2d(nn.Module):
    r"""A convolution of factor 1 on images, (*batch, in_channels, H, W) → (*batch, out_channels, H, W).

    Under circular padding it keeps the norm of every image of every size (without a bias); under zero padding norms may shrink.

    Args:
        in_channels, out_channels: of the images, out_channels ≥ in_channels. Default: out_channels = in_channels.
        kernel_size: odd.
        padding: "circular" or "zeros".
        bias: whether a number is added to each channel.

    Raises:
        ShapeError: fewer channels out than in; an even size.
        InputError: another padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        kernel_size: int = 3,
        padding: str = "circular",
        bias: bool = False,
    ) -> None:
        super().__init__()
        check_padding(padding)
        out_channels = in_channels if out_channels is None else out_channels
        self.weight = OrthogonalKernel(out_channels, in_channels, kernel_size=kernel_size)
        self.bias = zeros(out_channels) if bias else None
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        return Convolution(self.weight(), self.padding)(x, self.bias)

    @property
    def guarantee(self) -> Guarantee:
        """Factor 1; ‖x‖ under circular padding without a bias."""
        keeps = self.padding == "circular" and self.bias is None
        return Guarantee(lipschitz=1.0, conserves=frozenset({NORM}) if keeps else frozenset())

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"padding={self.padding!r}"


def zeros(count: int) -> nn.Parameter:
    """A bias at the beginning."""
    return nn.Parameter(torch.zeros(count))
