"""Orthogonality by parametrisation: isometries made of free numbers, whatever their values."""

import copy
import math

import torch
from torch import Tensor, nn

from separatrix.core.errors import ShapeError
from separatrix.core.precision import at_least_single, without_autocast


class Built(nn.Module):
    """A tensor that is built from free parameters: `weight()` gives it, with their gradients.

    Whoever uses it more than once in a pass builds it once. `sx.nn.frozen` replaces it by the tensor itself.
    """

    def forward(self) -> Tensor:
        """The tensor."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward().")


class OrthogonalMatrix(Built):
    r"""A matrix Q with QᵀQ = I, rows × columns, for every value of its parameters.

    Q is the first columns of a product of Householder reflections  H_1 … H_k,  whose vectors have a 1 where their free numbers
    begin and so are never zero. Multiplied out at once: with unit vectors as the columns of V,

        H_1 … H_k = I − V T Vᵀ,     T⁻¹ = ½ I + (the part of VᵀV above its diagonal).

    The entries of T are at most 4, so that Q is orthogonal to rounding however large the parameters are. At the start, the
    reflections of a Gaussian matrix.

    Args:
        rows, columns: of Q, at least as many rows as columns.
        copies: how many independent matrices. Default: one, without an axis for it.

    Raises:
        ShapeError: fewer rows than columns.
    Limits: a square Q has the determinant (−1)^rows, whatever is learned; numbers on and above the diagonal do nothing.
    Source: Bischof & Van Loan 1987, SIAM J. Sci. Stat. Comput. 8, s2; T⁻¹: Walker 1988, SIAM J. Sci. Stat. Comput. 9, 152;
        the start: Stewart 1980, SIAM J. Numer. Anal. 17, 403.
    """

    def __init__(self, rows: int, columns: int, *, copies: int | None = None) -> None:
        super().__init__()
        check_isometry(rows, columns)
        shape = (rows, columns) if copies is None else (copies, rows, columns)
        self.reflections = nn.Parameter(gaussian_reflections(shape))

    def forward(self) -> Tensor:
        """Q, shape (rows, columns) or (copies, rows, columns)."""
        with without_autocast(self.reflections.device):
            return isometry(at_least_single(self.reflections)).to(self.reflections.dtype)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return " × ".join(str(size) for size in self.reflections.shape)


class OrthogonalKernel(Built):
    r"""A convolution's kernel that is an isometry under circular padding, at every size of the image.

    As a polynomial in the shifts y, x of an image it is a product of factors, each an isometry,

        K(y, x) = Π_i (P_i + x (I − P_i)) (P'_i + y (I − P'_i)) · Q,

    with orthogonal projectors P = UUᵀ of half the rank and an isometry Q, so that K(y, x)*K(y, x) = I wherever |x| = |y| = 1. Where
    out_channels is odd, every other P has the larger half: images stay where they are in the mean, and a single channel wholly.

    Args:
        out_channels, in_channels: of the convolution, out_channels ≥ in_channels.
        kernel_size: odd; each direction has kernel_size − 1 factors.

    Raises:
        ShapeError: fewer channels out than in; an even size.
    Source: Li et al. 2019, arXiv:1911.00937 (block convolution of projectors); Xiao et al. 2018, arXiv:1806.05393.
    """

    def __init__(self, out_channels: int, in_channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        check_some(in_channels)
        check_size(kernel_size)
        self.frame = OrthogonalMatrix(out_channels, in_channels)
        self.halves = OrthogonalMatrix(out_channels, out_channels // 2, copies=2 * (kernel_size - 1))
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
    r"""A convolution's kernel of norm at most 1 under any padding, at every size of the image.

    Each row i (an output channel) of a free kernel W is divided by the root of  Σ_j |W Wᵀ|_ij,  summed over the shifts of the
    product too. That bounds the norm on the infinite image by 1, and so on each part of it (zero padding) and on periodic ones
    (circular padding). No lower bound of its singular values is known.

    Args:
        out_channels, in_channels: of the convolution, in any proportion.
        kernel_size: odd.

    Raises:
        ShapeError: an even size.
    Source: Prach & Lampert 2022, arXiv:2208.03160.
    """

    def __init__(self, out_channels: int, in_channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        check_some(in_channels)
        check_size(kernel_size)
        self.free = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.free, a=math.sqrt(5))

    def forward(self) -> Tensor:
        """K, shape (out_channels, in_channels, kernel_size, kernel_size)."""
        with without_autocast(self.free.device):
            free = at_least_single(self.free)
            largest = free.abs().amax().clamp(min=torch.finfo(free.dtype).tiny)
            free = free / largest  # so that nothing overflows in the products
            products = nn.functional.conv2d(free, free, padding=free.shape[-1] - 1)
            sums = products.abs().sum((1, 2, 3)).clamp(min=torch.finfo(free.dtype).eps ** 2)  # a row of zeros stays one
            return (free / sums.sqrt()[:, None, None, None]).to(self.free.dtype)


class Fixed(nn.Module):
    """In the place of a `Built`: the tensor that it gave."""

    tensor: Tensor

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.register_buffer("tensor", tensor)

    def forward(self) -> Tensor:
        """The tensor."""
        return self.tensor


@torch.no_grad()
def frozen(module: nn.Module) -> nn.Module:
    """A copy of a network for evaluation, whose orthogonal weights are built once and for all.

    Its outputs, its guarantee and its gradients with respect to the input are the network's as it is now; its parameters no
    longer learn. For loops of many passes, such as attacks.

    Args:
        module: any module; it is not changed.
    """
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Built):
                setattr(parent, name, Fixed(child()))
    return copied


def gaussian_reflections(shape: tuple[int, ...]) -> Tensor:
    """The vectors by which reflections bring Gaussian matrices to triangular form: each its own Gaussian vector (Stewart 1980)."""
    columns = torch.randn(shape).tril()
    first = columns.diagonal(dim1=-2, dim2=-1)
    return columns / (first + first.sign() * torch.linalg.vector_norm(columns, dim=-2)).unsqueeze(-2)


def isometry(reflections: Tensor) -> Tensor:
    """The first columns of H_1 … H_k, whose vectors are the columns of `reflections` below the diagonal under a 1."""
    rows, k = reflections.shape[-2:]
    unit = torch.eye(rows, k, dtype=reflections.dtype, device=reflections.device)
    vectors = nn.functional.normalize(reflections.tril(-1) + unit, dim=-2)
    inverse = (vectors.mT @ vectors).triu(1) + unit[:k] / 2
    return unit - vectors @ torch.linalg.solve_triangular(inverse, vectors[..., :k, :].mT, upper=True)


def shifted(kernel: Tensor, half: Tensor, axis: int, *, swapped: bool = False) -> Tensor:
    """(P + z (I − P)) K with P = UUᵀ: the part of K in the span of U stays, the rest moves by one pixel along the axis.

    Swapped, P = I − UUᵀ.
    """
    flat = kernel.flatten(1)
    inside = (half @ (half.mT @ flat)).view_as(kernel)
    stays = kernel - inside if swapped else inside
    edge = torch.zeros_like(kernel.narrow(axis, 0, 1))
    return torch.cat([stays, edge], axis) + torch.cat([edge, kernel - stays], axis)


def check_isometry(rows: int, columns: int) -> None:
    """Refuse an isometry that cannot be one."""
    if rows < columns:
        raise ShapeError(
            f"an isometry from {columns} to {rows} numbers was asked for, but fewer rows than columns map something to zero.\n"
            f"Ask for at least {columns}, or use a layer of norm 1: sx.nn.Coisometry, or of images sx.nn.NonExpansiveConv2d."
        )


def check_some(count: int) -> None:
    """Refuse layers of nothing."""
    if count < 1:
        raise ShapeError(f"a layer is of at least 1 number or channel, not {count}.")


def check_size(kernel_size: int) -> None:
    """Refuse kernels without a middle."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ShapeError(f"kernel_size is {kernel_size}; expected an odd number, which keeps images in place.")
