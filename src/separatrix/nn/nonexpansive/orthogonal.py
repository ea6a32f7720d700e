"""Orthogonal matrices and convolution kernels by parametrisation: isometries for every value of free parameters."""

import copy
import math
from typing import Unpack

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import ShapeError
from separatrix.core.precision import at_least_single, without_autocast
from separatrix.nn.factory import Device, Factory


class Built(nn.Module):
    """A tensor computed from free parameters by calling the module, `weight()`, with gradients.

    A layer that uses it several times in a pass calls it once. `sx.nn.parts.frozen` replaces it by the tensor itself.
    """

    def forward(self) -> Tensor:
        """The tensor."""
        raise NotImplementedError(f"{type(self).__name__} must define forward().")


class OrthogonalMatrix(Built):
    r"""A matrix Q with QᵀQ = I, shape (rows, columns), for every value of its parameters.

    Q consists of the first columns of a product of Householder reflections  H_1 … H_k.  The vector of each reflection has a 1 above
    its free entries, so it is never zero. With the unit vectors as columns of V, the product is

        H_1 … H_k = I − V T Vᵀ,     T⁻¹ = ½ I + (the strictly upper triangle of VᵀV).

    The entries of T are at most 4, so Q is orthogonal to rounding for parameters of any size. Initially the reflections are those
    of a Gaussian matrix.

    Args:
        rows, columns: shape of Q, rows ≥ columns.
        copies: number of independent matrices, along a leading axis. Default: one, without that axis.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: rows is less than columns.
    Limits: the determinant of a square Q is always (−1)^rows; parameters on and above the diagonal have no effect.
    Source: Bischof & Van Loan 1987, SIAM J. Sci. Stat. Comput. 8, s2; T⁻¹: Walker 1988, SIAM J. Sci. Stat. Comput. 9, 152;
        initialisation: Stewart 1980, SIAM J. Numer. Anal. 17, 403.

    Example:
        >>> q = sx.nn.parts.OrthogonalMatrix(5, 3).double()()
        >>> torch.allclose(q.T @ q, torch.eye(3).double())
        True
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        copies: int | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_isometry(rows, columns)
        shape = (rows, columns) if copies is None else (copies, rows, columns)
        self.reflections = nn.Parameter(gaussian_reflections(shape, device=device, dtype=dtype))

    def forward(self) -> Tensor:
        """Q, shape (rows, columns) or (copies, rows, columns)."""
        with without_autocast(self.reflections.device):
            return isometry(at_least_single(self.reflections)).to(self.reflections.dtype)

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return " × ".join(str(size) for size in self.reflections.shape)


class OrthogonalKernel(Built):
    r"""A convolution kernel K that is an isometry under circular padding for images of every size.

    As a polynomial in the shifts y and x of an image, K is a product of isometries,

        K(y, x) = Π_i (P_i + x (I − P_i)) (P'_i + y (I − P'_i)) · Q,

    with orthogonal projectors P = UUᵀ of half the rank and an isometry Q, so K(y, x)* K(y, x) = I wherever |x| = |y| = 1. If
    out_channels is odd, alternate projectors have the larger rank, so images do not drift on average; a single channel stays in
    place exactly. The shape of K is (out_channels, in_channels, kernel_size, kernel_size).

    Args:
        out_channels, in_channels: channels of the output and of the input, out_channels ≥ in_channels.
        kernel_size: height and width, odd; each direction has kernel_size − 1 factors.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: out_channels is less than in_channels, or kernel_size is even.
    Source: Li et al. 2019, arXiv:1911.00937 (block convolution of projectors); Xiao et al. 2018, arXiv:1806.05393.

    Example:
        >>> kernel = sx.nn.parts.OrthogonalKernel(8, 3).double()()
        >>> image = nn.functional.pad(torch.randn(1, 3, 6, 6).double(), (1, 1, 1, 1), mode="circular")
        >>> torch.allclose(nn.functional.conv2d(image, kernel).norm(), image[..., 1:-1, 1:-1].norm())
        True
    """

    def __init__(
        self,
        out_channels: int,
        in_channels: int,
        *,
        kernel_size: int = 3,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_whole("in_channels", in_channels, 1, error=ShapeError)
        check_size(kernel_size)
        factory = Factory(device=device, dtype=dtype)
        self.frame = OrthogonalMatrix(out_channels, in_channels, **factory)
        self.halves = OrthogonalMatrix(out_channels, out_channels // 2, copies=2 * (kernel_size - 1), **factory)
        self.kernel_size = kernel_size

    def forward(self) -> Tensor:
        """K, shape (out_channels, in_channels, kernel_size, kernel_size)."""
        frame, halves = self.frame(), self.halves()
        with without_autocast(frame.device):
            kernel = frame[:, None, None, :]  # (out, y, x, in)
            for i, half in enumerate(halves.unbind()):
                kernel = shifted(kernel, half, axis=2 - i % 2, swapped=len(frame) % 2 == 1 and i % 4 > 1)
        return kernel.permute(0, 3, 1, 2).contiguous()


class ScaledKernel(Built):
    r"""A convolution kernel of norm at most 1 under zero and circular padding, for images of every size.

    Row i (an output channel) of a free kernel W is divided by the square root of  Σ_j |W Wᵀ|_ij,  summed also over shifts. This
    bounds the norm on the infinite image by 1, hence on every window of it (zero padding) and on periodic images (circular
    padding). No lower bound on the singular values is known.

    Args:
        out_channels, in_channels: channels of the output and of the input, any numbers.
        kernel_size: height and width, odd.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: kernel_size is even.
    Source: Prach & Lampert 2022, arXiv:2208.03160.

    Example:
        >>> kernel, image = sx.nn.parts.ScaledKernel(8, 3)(), torch.randn(1, 3, 6, 6)
        >>> bool(nn.functional.conv2d(image, kernel, padding=1).norm() <= image.norm())
        True
    """

    def __init__(
        self,
        out_channels: int,
        in_channels: int,
        *,
        kernel_size: int = 3,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_whole("in_channels", in_channels, 1, error=ShapeError)
        check_size(kernel_size)
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.free = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        nn.init.kaiming_uniform_(self.free, a=math.sqrt(5))

    def forward(self) -> Tensor:
        """K, shape (out_channels, in_channels, kernel_size, kernel_size)."""
        with without_autocast(self.free.device):
            free = at_least_single(self.free)
            largest = free.abs().amax().clamp(min=torch.finfo(free.dtype).tiny)
            free = free / largest  # avoids overflow in the products
            products = nn.functional.conv2d(free, free, padding=free.shape[-1] - 1)
            sums = products.abs().sum((1, 2, 3)).clamp(min=torch.finfo(free.dtype).eps ** 2)  # a row of zeros stays zero
            return (free / sums.sqrt()[:, None, None, None]).to(self.free.dtype)


class Fixed(nn.Module):
    """The tensor of a `Built` module, as a constant."""

    tensor: Tensor

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.register_buffer("tensor", tensor)

    def forward(self) -> Tensor:
        """The tensor."""
        return self.tensor


@torch.no_grad()
def frozen(module: nn.Module) -> nn.Module:
    """A copy of a network for evaluation, with its orthogonal weights computed once.

    Outputs, guarantee and gradients with respect to the input are those of the present network; the parameters require no
    gradients. Use it for many forward passes, such as attacks.

    Args:
        module: any module; it is not changed.

    Returns:
        The copy, in evaluation mode.

    Example:
        >>> network, x = sx.nn.LipschitzNet(3).double(), torch.randn(5, 3).double()
        >>> torch.allclose(sx.nn.parts.frozen(network)(x), network(x))
        True
    """
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Built):
                setattr(parent, name, Fixed(child()))
    return copied


def gaussian_reflections(shape: tuple[int, ...], **factory: Unpack[Factory]) -> Tensor:
    """Vectors of the reflections that triangularise a Gaussian matrix; each is a Gaussian vector itself (Stewart 1980)."""
    columns = torch.randn(shape, **factory).tril()
    first = columns.diagonal(dim1=-2, dim2=-1)
    return columns / (first + first.sign() * torch.linalg.vector_norm(columns, dim=-2)).unsqueeze(-2)


def isometry(reflections: Tensor) -> Tensor:
    """The first columns of H_1 … H_k; each vector is a 1 followed by a column of `reflections` below the diagonal."""
    rows, k = reflections.shape[-2:]
    unit = torch.eye(rows, k, dtype=reflections.dtype, device=reflections.device)
    vectors = nn.functional.normalize(reflections.tril(-1) + unit, dim=-2)
    inverse = (vectors.mT @ vectors).triu(1) + unit[:k] / 2
    return unit - vectors @ torch.linalg.solve_triangular(inverse, vectors[..., :k, :].mT, upper=True)


def shifted(kernel: Tensor, half: Tensor, axis: int, *, swapped: bool = False) -> Tensor:
    """(P + z (I − P)) K with P = UUᵀ: the part of K in the span of U stays, the rest moves one pixel along the axis.

    If swapped, P = I − UUᵀ.
    """
    flat = kernel.flatten(1)
    inside = (half @ (half.mT @ flat)).view_as(kernel)
    stays = kernel - inside if swapped else inside
    edge = torch.zeros_like(kernel.narrow(axis, 0, 1))
    return torch.cat([stays, edge], axis) + torch.cat([edge, kernel - stays], axis)


def check_isometry(rows: int, columns: int) -> None:
    """Refuse fewer rows than columns."""
    if rows < columns:
        raise ShapeError(
            f"expected an isometry to have at least as many outputs as inputs, got {columns} → {rows}.\n"
            f"Pass at least {columns} outputs, or use sx.nn.Coisometry (vectors) or sx.nn.NonExpansiveConv2d (images)."
        )


def check_size(kernel_size: int) -> None:
    """Refuse kernels without a central pixel."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ShapeError(f"kernel_size is {kernel_size}; expected an odd number, which keeps images in place.")
