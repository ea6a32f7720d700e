"""Blocks: layers that are steps of a structured flow, and say what they guarantee; and their composition."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System
from separatrix.core.tangent import pushforward
from separatrix.flows.flow import check_step
from separatrix.nn.guarantee import NOTHING, Guarantee, composed, guarantee_of


class Block(System):
    """A layer x ↦ x' on vectors, shape (*batch, dim) → (*batch, out), whose architecture guarantees something of it.

    It is an `nn.Module` like any other, and a `System` whose step is the layer, a map: its `residual` is F(x) − x, whatever flow
    the layer is a step of. One that changes the width can take one step. A subclass defines `step` and `guarantee`, which holds
    for every value of its weights; where the map has an exact inverse, `inverse` too.

    Args:
        dim: numbers in the state.
        out: numbers in what it gives. Default: as many.
        dt: the step of the flow in the flow's own time, where that is a fixed number.
    """

    layered = True

    def __init__(self, dim: int, out: int | None = None, *, dt: float = 1.0) -> None:
        out = dim if out is None else out
        if out < 1:
            raise ShapeError(f"a block gives at least 1 number, not {out}.")
        check_step(dt)
        super().__init__(dim, dt=dt, horizon=None if out == dim else 1)
        self.out = out

    def forward(self, x: Tensor, n: int = 0) -> Tensor:
        """The same as `step`, of a state of the block's own width: another could pass unnoticed, and nothing is proven of it."""
        if x.shape[-1:] != (self.dim,):
            raise ShapeError(f"{type(self).__name__} takes states of shape (*batch, {self.dim}), not {tuple(x.shape)}.")
        return self.step(x, n)

    @property
    def guarantee(self) -> Guarantee:
        """What is proven of the block as it is now."""
        return NOTHING

    @property
    def invertible(self) -> bool:
        """Whether `inverse` is there."""
        return type(self).inverse is not Block.inverse

    def inverse(self, y: Tensor) -> Tensor:
        """The state that the block takes to y."""
        raise UnsupportedModuleError(f"{type(self).__name__} has no exact inverse.")

    def width(self, n: int) -> int:
        """Numbers in the state before step n."""
        return self.dim if n == 0 else self.out

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """Standard normal numbers, shape (*batch, dim)."""
        return torch.randn(*batch, self.dim, dtype=torch.float64, generator=torch_generator(seed, "initial state"))

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"dim={self.dim}" if self.out == self.dim else f"{self.dim} → {self.out}"


class Sequential(Block):
    r"""Blocks one after the other,  x ↦ f_m(… f_2(f_1(x))),  with the guarantee of the whole.

    Lipschitz factors multiply, log-determinants add, and what every block conserves is conserved. Step and pushforward go through
    each block as the layer that it is when it is called: a `NeuralODE` takes the state through its whole time T in one step.

    Args:
        blocks: at least one `Block`, `NeuralODE`, `ContinuousDepth` (on flat states) or other `System`. Other modules may stand
            anywhere, such as an `nn.Linear` or activations, which keep the width; what is not known to guarantee anything ends
            the guarantee.
        dt: the time that all of them take together.

    Raises:
        InputError: there is no block.
        ShapeError: a block takes another width than the one before it gives.
    """

    def __init__(self, *blocks: nn.Module, dt: float = 1.0) -> None:
        if not any(isinstance(block, System) for block in blocks):
            raise InputError("a sequence has at least one block, which says the width of the state.\nPass blocks such as sx.nn's.")
        dim, out = _ends(blocks)
        super().__init__(dim, out, dt=dt)
        self.blocks = nn.ModuleList(blocks)
        if out == dim:
            self.horizon = _shortest(blocks)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """All blocks, one after the other."""
        for block in self.blocks:
            layer = block.as_layer() if isinstance(block, System) else block
            x = layer(x, n) if n and isinstance(layer, System) else layer(x)  # step 0 is the plain call, which hooks expect
        return x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """Each layer's own, one after the other."""
        for block in self.blocks:
            x, v = block.as_layer().pushforward(x, v, n) if isinstance(block, System) else pushforward(block, x, v)
        return x, v

    def inverse(self, y: Tensor) -> Tensor:
        """The blocks' inverses, the last one first."""
        for block in reversed(self.blocks):
            if not isinstance(block, Block):
                raise UnsupportedModuleError(f"{type(block).__name__} has no exact inverse.")
            y = block.inverse(y)
        return y

    @property
    def invertible(self) -> bool:
        """Whether all its blocks are."""
        return all(isinstance(block, Block) and block.invertible for block in self.blocks)

    @property
    def guarantee(self) -> Guarantee:
        """What is proven of the whole."""
        return composed(self.blocks)

    def __iter__(self) -> Iterator[nn.Module]:
        """The blocks in order."""
        return iter(self.blocks)

    def __len__(self) -> int:
        """How many blocks."""
        return len(self.blocks)

    def __getitem__(self, i: int) -> nn.Module:
        """Block i."""
        return self.blocks[i]


class Residual(nn.Module):
    r"""Residual wiring of any module,  x ↦ skip · x + scale · f(x),  with Lipschitz factor |skip| + |scale| Lip f.

    Args:
        module: f, which keeps the shape.
        scale: of f.
        skip: of the input.
    """

    def __init__(self, module: nn.Module, *, scale: float = 1.0, skip: float = 1.0) -> None:
        super().__init__()
        self.module, self.scale, self.skip = module, scale, skip

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return self.skip * x + self.scale * self.module(x)

    @property
    def guarantee(self) -> Guarantee:
        """What is proven of the sum."""
        return Guarantee(lipschitz=abs(self.skip)).plus(guarantee_of(self.module).times(self.scale))


def _ends(blocks: tuple[nn.Module, ...]) -> tuple[int, int]:
    """The widths that a sequence takes and gives, where each block takes what the one before it gives."""
    sized = [(i, widths) for i, block in enumerate(blocks) if (widths := _widths(block))]
    for (_, (_, given)), (i, (taken, _)) in pairwise(sized):
        if taken != given:
            raise ShapeError(
                f"block {i}, {type(blocks[i]).__name__}, takes {taken} numbers, but the one before it gives {given}.\n"
                "Give neighbours one width, or put a block between them that changes it."
            )
    return sized[0][1][0], sized[-1][1][1]


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """What a module takes and gives, where it says so; others leave the width as it is."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return (module.dim, module.as_layer().width(1)) if isinstance(module, System) else None


def _shortest(blocks: tuple[nn.Module, ...]) -> int | None:
    """Steps that all layers can take; one that changes the width takes another's output each time, and does not count."""
    layers = [block.as_layer() for block in blocks if isinstance(block, System)]
    horizons = [layer.horizon for layer in layers if layer.horizon is not None and layer.width(1) == layer.dim]
    return min(horizons, default=None)
