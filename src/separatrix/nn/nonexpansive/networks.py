"""Networks of Lipschitz factor at most 1 by construction, and unconstrained networks of the same shape for comparison."""

from collections.abc import Callable
from itertools import chain
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from separatrix.core.checks import check_choice, check_whole
from separatrix.core.errors import ShapeError
from separatrix.nn.block import Block, Sequential
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.nonexpansive.images import AlternatingConv2d, NonExpansiveConv2d
from separatrix.nn.nonexpansive.isometry import Coisometry, Isometry, IsometryConv2d
from separatrix.nn.nonexpansive.vectors import Alternating, NonExpansive

KINDS = ("alternating", "non_expansive")
POOLS = ("max", "sum")
Layers = list[nn.Module]


class LipschitzNet(Sequential):
    r"""A 1-Lipschitz network on vectors,  ‖f(x) − f(y)‖ ≤ ‖x − y‖  for all weights: a lift, blocks, a last layer.

    The lift and the last layer have orthonormal columns or rows. The blocks are `Alternating`, or `NonExpansive` with ReLU. Inputs
    are not normalised: a normalisation in front of the network multiplies the factor by its own.

    Args:
        dim: numbers in x.
        out: numbers in the output. Default: dim.
        hidden: numbers in the state between the lift and the last layer. Default: dim.
        blocks: number of blocks.
        kind: "alternating" or "non_expansive".
        slope, budget, substeps, symmetric: options of `Alternating` blocks.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: unknown kind, or options that `Alternating` refuses.
    Source: Celledoni et al. 2023, arXiv:2210.02373.

    Example:
        >>> network = sx.nn.LipschitzNet(3, 2, hidden=8)
        >>> a, b = torch.randn(2, 3)
        >>> bool((network(a) - network(b)).norm() <= (a - b).norm())
        True
    """

    def __init__(
        self,
        dim: int,
        out: int | None = None,
        *,
        hidden: int | None = None,
        blocks: int = 2,
        kind: str = "alternating",
        slope: float = 0.5,
        budget: str = "exact",
        substeps: int = 1,
        symmetric: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_choice("kind", kind, KINDS)
        factory = Factory(device=device, dtype=dtype)
        hidden, out = dim if hidden is None else hidden, dim if out is None else out

        def block() -> Block:
            if kind == "non_expansive":
                return NonExpansive(hidden, **factory)
            return Alternating(hidden, slope=slope, budget=budget, substeps=substeps, symmetric=symmetric, **factory)

        lift = Isometry(dim, hidden, **factory) if hidden >= dim else Coisometry(dim, hidden, bias=False, **factory)
        super().__init__(lift, *(block() for _ in range(check_whole("blocks", blocks, 0))), of_norm_one(hidden, out, **factory))


class ResidualNet(Sequential):
    r"""An unconstrained counterpart of `LipschitzNet`: a linear lift, layers  x ↦ x + B ReLU(Ax + b) + c,  a linear last layer.

    It has no guarantee.

    Args:
        dim: numbers in x.
        out: numbers in the output. Default: dim.
        hidden: numbers in the state between the lift and the last layer. Default: dim.
        blocks: number of residual layers.
        device, dtype: of the weights, as in PyTorch.

    Example:
        >>> network = sx.nn.ResidualNet(3, 2, hidden=8)
        >>> network(torch.randn(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        dim: int,
        out: int | None = None,
        *,
        hidden: int | None = None,
        blocks: int = 2,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = Factory(device=device, dtype=dtype)
        hidden, out = dim if hidden is None else hidden, dim if out is None else out
        layers = (Residue(hidden, **factory) for _ in range(check_whole("blocks", blocks, 0)))
        super().__init__(Plain(dim, hidden, bias=False, **factory), *layers, Plain(hidden, out, **factory))


class InStages(nn.Module):
    """An image classifier made of stages, each of which halves height and width, and a last layer.

    Args:
        in_channels: channels of the images.
        image_size: H = W of the images.
        widths: channels of each stage.
        stage: (channels before, channels of the stage) ↦ its layers.
        head: number of features ↦ the last layer.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        widths: tuple[int, ...],
        stage: Callable[[int, int], Layers],
        head: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        side = pooled(image_size, len(widths))
        self.shape = (in_channels, image_size, image_size)
        self.features = nn.Sequential(*chain.from_iterable(map(stage, (in_channels, *widths), widths)))
        self.head = head(widths[-1] * side**2)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, (*batch, in_channels, image_size, image_size) → (*batch, classes)."""
        if tuple(x.shape[-3:]) != self.shape:
            raise ShapeError(f"expected images of shape {self.shape}, got {tuple(x.shape[-3:])}.")
        scores = self.head(self.features(x.reshape(-1, *self.shape)).flatten(1))
        return scores.reshape(*x.shape[:-3], scores.shape[-1])


class LipschitzConvNet(InStages):
    r"""A 1-Lipschitz image classifier,  ‖f(x) − f(y)‖ ≤ ‖x − y‖  for all weights, (*batch, in_channels, H, W) → (*batch, classes).

    Each stage consists of a 3 × 3 convolution that lifts isometrically to the channels of the stage, blocks as in
    `LipschitzNet`, and 2 × 2 pooling without overlap. The last layer has orthonormal rows. All convolutions use circular
    padding. Pixels are not normalised: a normalisation in front of the network multiplies the factor by its own.

    Args:
        in_channels: channels of the images.
        classes: number of classes.
        image_size: H = W of the images, at least 2 to the power of the number of stages.
        widths: channels of each stage, not decreasing.
        blocks: number of blocks in each stage.
        kind: "alternating" or "non_expansive".
        pool: "max" or "sum", see `Pool2d`.
        slope, budget, substeps, symmetric: options of `AlternatingConv2d` blocks.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        InputError: unknown kind or pool, or options that `AlternatingConv2d` refuses.
        ShapeError: images too small for the number of stages, or a stage with fewer channels than the one before.
    Source: Celledoni et al. 2023, arXiv:2210.02373.

    Example:
        >>> network = sx.nn.LipschitzConvNet(3, 10, image_size=8, widths=(8, 16), blocks=1)
        >>> a, b = torch.rand(2, 1, 3, 8, 8)
        >>> bool((network(a) - network(b)).norm() <= (a - b).norm())
        True
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        image_size: int = 32,
        widths: tuple[int, ...] = (32, 64, 128),
        blocks: int = 2,
        kind: str = "alternating",
        pool: str = "max",
        slope: float = 0.5,
        budget: str = "exact",
        substeps: int = 1,
        symmetric: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_choice("kind", kind, KINDS)
        factory = Factory(device=device, dtype=dtype)

        def block(width: int) -> nn.Module:
            if kind == "non_expansive":
                return NonExpansiveConv2d(width, **factory)
            return AlternatingConv2d(width, slope=slope, budget=budget, substeps=substeps, symmetric=symmetric, **factory)

        def stage(before: int, width: int) -> Layers:
            lift = IsometryConv2d(before, width, bias=True, **factory)
            return [lift, *(block(width) for _ in range(check_whole("blocks", blocks, 0))), Pool2d(pool)]

        super().__init__(in_channels, image_size, widths, stage, lambda features: of_norm_one(features, classes, **factory))

    @property
    def guarantee(self) -> Guarantee:
        """The product of the factors of all layers, at most 1."""
        return guarantee_of(self.features).then(guarantee_of(self.head))


class ResidualConvNet(InStages):
    r"""An unconstrained counterpart of `LipschitzConvNet`: layers  x ↦ x + B ReLU(Ax + b) + c  with zero padding, max pooling.

    It has no guarantee.

    Args:
        in_channels, classes, image_size, widths, blocks: as for `LipschitzConvNet`; each block has two convolutions, A and B.
        device, dtype: of the weights, as in PyTorch.

    Example:
        >>> network = sx.nn.ResidualConvNet(3, 10, image_size=8, widths=(8, 16), blocks=1)
        >>> network(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        image_size: int = 32,
        widths: tuple[int, ...] = (32, 64, 128),
        blocks: int = 2,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory = Factory(device=device, dtype=dtype)

        def stage(before: int, width: int) -> Layers:
            lift = nn.Conv2d(before, width, 3, padding=1, **factory)
            return [lift, *(ResidueConv2d(width, **factory) for _ in range(check_whole("blocks", blocks, 0))), Pool2d("max")]

        super().__init__(in_channels, image_size, widths, stage, lambda features: nn.Linear(features, classes, **factory))


class Pool2d(nn.Module):
    r"""Pooling of Lipschitz factor 1 in 2 × 2 windows: the maximum ("max") or half the sum ("sum") of each.

    For the maximum, |max a − max b| ≤ max |a − b| ≤ ‖a − b‖; half the sum of four numbers is their product with a unit vector.
    An odd last row or column is dropped.

    Args:
        kind: "max" or "sum".

    Raises:
        InputError: unknown kind.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> sx.nn.parts.Pool2d()(image).item(), sx.nn.parts.Pool2d("sum")(image).item()
        (4.0, 5.0)
    """

    def __init__(self, kind: str = "max") -> None:
        super().__init__()
        check_choice("pool", kind, POOLS)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """The pooled images, (*batch, channels, H, W) → (*batch, channels, H // 2, W // 2)."""
        images = x.reshape(-1, *x.shape[-3:])
        small = functional.max_pool2d(images, 2) if self.kind == "max" else 2 * functional.avg_pool2d(images, 2)
        return small.reshape(*x.shape[:-3], *small.shape[1:])

    @property
    def guarantee(self) -> Guarantee:
        """Lipschitz factor 1."""
        return Guarantee(lipschitz=1.0)

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return repr(self.kind)


class Plain(Block):
    """A linear layer,  x ↦ Ax + b."""

    def __init__(self, dim: int, out: int, *, bias: bool = True, **factory: Unpack[Factory]) -> None:
        super().__init__(dim, out)
        self.linear = nn.Linear(dim, out, bias=bias, **factory)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """Ax + b."""
        return self.linear(x)


class Residue(Block):
    """A residual layer,  x ↦ x + B ReLU(Ax + b) + c."""

    def __init__(self, dim: int, **factory: Unpack[Factory]) -> None:
        super().__init__(dim)
        self.first, self.second = (nn.Linear(dim, dim, **factory) for _ in range(2))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The sum x + B ReLU(Ax + b) + c."""
        return x + self.second(functional.relu(self.first(x)))


class ResidueConv2d(nn.Module):
    """A residual layer on images,  x ↦ x + B ∗ ReLU(A ∗ x + b) + c."""

    def __init__(self, channels: int, **factory: Unpack[Factory]) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, **factory) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """The sum x + B ReLU(Ax + b) + c."""
        return x + self.second(functional.relu(self.first(x)))


def of_norm_one(dim: int, out: int, **factory: Unpack[Factory]) -> Block:
    """A linear last layer with orthonormal rows, or orthonormal columns if out > dim."""
    return Coisometry(dim, out, **factory) if out <= dim else Isometry(dim, out, bias=True, **factory)


def pooled(image_size: int, times: int) -> int:
    """The side of an image after it is halved a number of times."""
    if times < 1 or image_size < 2**times:
        raise ShapeError(
            f"{times} stages need at least 1 stage and images of {2**times} × {2**times} pixels, got {image_size} × {image_size}.\n"
            "Pass fewer widths, at least one, or larger images."
        )
    return image_size // 2**times
