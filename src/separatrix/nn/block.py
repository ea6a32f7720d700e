"""Blocks: layers that are steps of a structured flow and state their guarantee, and their composition."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_positive, check_whole
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System
from separatrix.core.tangent import pushforward
from separatrix.nn.guarantee import NOTHING, Guarantee, composed, guarantee_of


class Block(System):
    """A layer  x ↦ F(x),  shape (*batch, dim) → (*batch, out), with a guarantee that its architecture enforces.

    A block is an `nn.Module` and a `System` whose step is the layer. As a system it is a map: its `residual` is F(x) − x, even if
    the layer is one step of a flow. A block with out ≠ dim can take a single step. Subclasses define `step` and `guarantee`, which
    must hold for all weights, and `inverse` if F has an exact inverse.

    Args:
        dim: numbers in the state.
        out: numbers in the output. Default: dim.
        dt: step size in the time of the flow, if the flow has one.

    Raises:
        ShapeError: out is less than 1.
        InputError: dt is not a positive number.

    Example:
        >>> class Turn(sx.nn.Block):
        ...     guarantee = sx.nn.Guarantee(lipschitz=1.0, conserves=frozenset({"norm"}))
        ...     def step(self, x, n=0):
        ...         return x.flip(-1)
        >>> print(sx.nn.Sequential(Turn(2), Turn(2)).guarantee)
        1-Lipschitz, conserves the norm
    """

    layered = True

    def __init__(self, dim: int, out: int | None = None, *, dt: float = 1.0) -> None:
        out = dim if out is None else out
        check_whole("out", out, 1, error=ShapeError)
        check_positive("dt", dt)
        super().__init__(dim, dt=dt, horizon=None if out == dim else 1)
        self.out = out

    def forward(self, x: Tensor, n: int = 0) -> Tensor:
        """`step`, after a check of the state's width: the guarantee holds for dim numbers only."""
        if x.shape[-1:] != (self.dim,):
            raise ShapeError(f"{type(self).__name__} expects states of shape (*batch, {self.dim}), got {tuple(x.shape)}.")
        return self.step(x, n)

    @property
    def guarantee(self) -> Guarantee:
        """Proven properties of the block with its present weights."""
        return NOTHING

    @property
    def invertible(self) -> bool:
        """Whether the block has an exact inverse."""
        return type(self).inverse is not Block.inverse

    def inverse(self, y: Tensor) -> Tensor:
        """The state x with F(x) = y, shape (*batch, out) → (*batch, dim)."""
        raise UnsupportedModuleError(f"{type(self).__name__} has no exact inverse.")

    def width(self, n: int) -> int:
        """Numbers in the state before step n."""
        return self.dim if n == 0 else self.out

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """Standard normal states, shape (*batch, dim)."""
        return torch.randn(*batch, self.dim, dtype=torch.float64, generator=torch_generator(seed, "initial state"))

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"dim={self.dim}" if self.out == self.dim else f"{self.dim} → {self.out}"


class Sequential(Block):
    r"""A sequence of blocks,  x ↦ f_m(… f_2(f_1(x))),  with the guarantee of the composition.

    Lipschitz factors multiply, log-determinants add, and a quantity is conserved if every block conserves it. Each block acts as a
    whole layer: a `NeuralODE` integrates over its full time T in one step.

    Args:
        blocks: at least one `Block`, `NeuralODE`, `ContinuousDepth` (on flat states) or other `System`. Modules such as
            `nn.Linear` or activations may stand between them; modules other than `nn.Linear` must keep the width. A module without
            a guarantee removes the guarantee of the sequence.
        dt: time that the whole sequence takes.

    Raises:
        InputError: no argument is a block or system.
        ShapeError: the width of a block differs from the output width of the one before it.

    Example:
        >>> network = sx.nn.Sequential(sx.nn.MassPreserving(3), sx.nn.MassPreserving(3)).double()
        >>> x = torch.rand(3).double()
        >>> network.guarantee.conserves, torch.allclose(network(x).sum(), x.sum())
        (frozenset({'sum'}), True)
    """

    def __init__(self, *blocks: nn.Module, dt: float = 1.0) -> None:
        if not any(isinstance(block, System) for block in blocks):
            raise InputError("expected at least one block, which sets the width of the state; got none.\nPass blocks from sx.nn.")
        dim, out = _ends(blocks)
        super().__init__(dim, out, dt=dt)
        self.blocks = nn.ModuleList(blocks)
        if out == dim:
            self.horizon = _shortest(blocks)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """All blocks in order."""
        for block in self.blocks:
            layer = block.as_layer() if isinstance(block, System) else block
            x = layer(x, n) if n and isinstance(layer, System) else layer(x)  # step 0 is the plain call, as hooks expect
        return x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The pushforward of each block in order."""
        for block in self.blocks:
            x, v = block.as_layer().pushforward(x, v, n) if isinstance(block, System) else pushforward(block, x, v)
        return x, v

    def inverse(self, y: Tensor) -> Tensor:
        """The inverse of each block, in reverse order."""
        for block in reversed(self.blocks):
            if not isinstance(block, Block):
                raise UnsupportedModuleError(f"{type(block).__name__} has no exact inverse.")
            y = block.inverse(y)
        return y

    @property
    def invertible(self) -> bool:
        """Whether every block is invertible."""
        return all(isinstance(block, Block) and block.invertible for block in self.blocks)

    @property
    def guarantee(self) -> Guarantee:
        """The guarantee of the composition."""
        return composed(self.blocks)

    def __iter__(self) -> Iterator[nn.Module]:
        """The blocks in order."""
        return iter(self.blocks)

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def __getitem__(self, i: int) -> nn.Module:
        """Block i."""
        return self.blocks[i]


class Residual(nn.Module):
    r"""Residual wiring of any module,  x ↦ skip · x + scale · f(x),  with Lipschitz factor |skip| + |scale| Lip f.

    Args:
        module: f, which keeps the shape of its input.
        scale: factor of f(x).
        skip: factor of x.

    Example:
        >>> layer = sx.nn.Residual(sx.nn.Isometry(3), scale=0.5)
        >>> layer.guarantee.lipschitz
        1.5
    """

    def __init__(self, module: nn.Module, *, scale: float = 1.0, skip: float = 1.0) -> None:
        super().__init__()
        self.module, self.scale, self.skip = module, scale, skip

    def forward(self, x: Tensor) -> Tensor:
        """The sum skip · x + scale · f(x)."""
        return self.skip * x + self.scale * self.module(x)

    @property
    def guarantee(self) -> Guarantee:
        """The Lipschitz factor, if f has one."""
        return Guarantee(lipschitz=abs(self.skip)).plus(guarantee_of(self.module).times(self.scale))


def _ends(blocks: tuple[nn.Module, ...]) -> tuple[int, int]:
    """Input and output width of a sequence, after a check that neighbours fit."""
    sized = [(i, widths) for i, block in enumerate(blocks) if (widths := _widths(block))]
    for (_, (_, given)), (i, (taken, _)) in pairwise(sized):
        if taken != given:
            raise ShapeError(
                f"block {i}, {type(blocks[i]).__name__}, expects {taken} numbers, but the block before it returns {given}.\n"
                "Make the widths equal, or insert a block that changes the width, such as sx.nn.Isometry."
            )
    return sized[0][1][0], sized[-1][1][1]


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """Input and output width of a module that has one; other modules keep the width."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return (module.dim, module.as_layer().width(1)) if isinstance(module, System) else None


def _shortest(blocks: tuple[nn.Module, ...]) -> int | None:
    """Number of steps that every layer can take; layers that change the width are not limited by it."""
    layers = [block.as_layer() for block in blocks if isinstance(block, System)]
    horizons = [layer.horizon for layer in layers if layer.horizon is not None and layer.width(1) == layer.dim]
    return min(horizons, default=None)
