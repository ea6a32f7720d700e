"""A stack of layers as a system in which depth plays the role of time: step n is block n."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import HorizonError, InputError, ShapeError, UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System
from separatrix.core.twin import twin

Block = Callable[[Tensor], Tensor]


class Layers(System):
    r"""Stack of blocks as a system in which depth plays the role of time:  x_{n+1} = block_n(x_n).

    A state is the flattened input of the next block; `pack` and `unpack` convert between the two. Widths may change from block to
    block. Pushforwards are then rectangular, which `finite_time_lyapunov` and `gradient_propagation` accept; other analyses
    require one width. To measure a network whose graph is not a stack, use `depth_profile`.

    Args:
        blocks: an `nn.Sequential` or `nn.ModuleList`, or a list of modules and functions, each from a batch (items, *shape) to a
            batch. Modules are used through twins in evaluation mode; gradients still reach the user's parameters.
        shape: shape of one state before the first block, such as (3, 32, 32). Default: the input shape of the first linear or
            normalisation layer in the first block.
        loops: number of passes through the stack with the same weights (a looped network). None repeats it endlessly, so that
            the system has no horizon.

    Raises:
        ShapeError: a block cannot take the output of the one before it; the output shape of a looped stack differs from its
            input shape.
        InputError: there are no blocks, or the input shape cannot be inferred.

    Example:
        >>> stack = sx.Layers([nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)])
        >>> stack.horizon, [stack.width(n) for n in range(4)]
        (3, [3, 5, 5, 2])
    """

    def __init__(self, blocks: Iterable[Block], shape: int | tuple[int, ...] | None = None, *, loops: int | None = 1) -> None:
        alone = isinstance(blocks, nn.Module) and not isinstance(blocks, nn.Sequential | nn.ModuleList)
        if not isinstance(blocks, Iterable | nn.Module):
            raise UnsupportedModuleError(
                f"expected a stack of blocks, got a {type(blocks).__name__}.\nPass a list of modules or functions."
            )
        given = [blocks] if alone else list(blocks)
        _check_blocks(given, loops)
        shape = _shape_of_first(given[0]) if shape is None else _as_shape(shape)
        super().__init__(torch.Size(shape).numel(), horizon=None if loops is None else loops * len(given))
        self.blocks = nn.ModuleList(twin(block) if isinstance(block, nn.Module) else _Function(block) for block in given)
        self.shapes = self._shapes_from(shape)
        last = tuple(self.shapes[-1])
        if loops != 1 and last != tuple(shape):
            raise ShapeError(
                f"the stack maps states of shape {tuple(shape)} to shape {last}, so it cannot be repeated.\n"
                "Loop blocks that preserve the shape, or pass loops=1."
            )

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """Block n's output, flattened, shape (*batch, width(n)) → (*batch, width(n + 1))."""
        if self.horizon is not None and not 0 <= n < self.horizon:
            raise HorizonError(f"step {n} was requested, but the {self.horizon} blocks are steps 0 … {self.horizon - 1}.")
        i = n % len(self.blocks)
        value = self.blocks[i](x.reshape(-1, *self.shapes[i]))
        return value.reshape(*x.shape[:-1], -1)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """Block n's output and its automatic derivative along the tangents v."""
        return self._tangents(lambda y: self.step(y, n), x, v, n % len(self.blocks))

    def width(self, n: int) -> int:
        """Length of the state before block n."""
        return torch.Size(self.shapes[n % len(self.blocks) if n != len(self.blocks) else -1]).numel()

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """Standard normal numbers, shape (*batch, dim). For a network that takes data, use `pack(data)` instead."""
        return torch.randn(*batch, self.dim, dtype=torch.float64, generator=torch_generator(seed, "initial state"))

    def pack(self, state: Any, n: int = 0) -> Tensor:
        """Flatten an input of block n to a state vector, (*batch, *shape) → (*batch, width(n))."""
        state, shape = torch.as_tensor(state), self._shape_before(n)
        batch = state.shape[: state.ndim - len(shape)]
        if state.shape[len(batch) :] != shape:
            raise ShapeError(f"expected a state before block {n} of shape (*batch, *{tuple(shape)}), got {tuple(state.shape)}.")
        return state.reshape(*batch, -1)

    def unpack(self, x: Tensor, n: int = 0) -> Tensor:
        """Restore an input of block n from a state vector, (*batch, width(n)) → (*batch, *shape)."""
        return x.reshape(*x.shape[:-1], *self._shape_before(n))

    def extra_repr(self) -> str:
        """The text between the parentheses of `repr`."""
        widths = " → ".join(str(self.width(n)) for n in range(len(self.shapes)))
        return f"widths={widths}" if len(set(self.shapes)) > 1 else f"dim={self.dim}, blocks={len(self.blocks)}"

    def _shape_before(self, n: int) -> torch.Size:
        return self.shapes[n % len(self.blocks) if n != len(self.blocks) else -1]

    @torch.no_grad()
    def _shapes_from(self, shape: tuple[int, ...]) -> tuple[torch.Size, ...]:
        """The shapes of the states before and after each block, from running two states of ones through it."""
        x, shapes = torch.ones(2, *shape, dtype=torch.float64), [torch.Size(shape)]
        for i, block in enumerate(twin(self.blocks, dtype=torch.float64)):
            try:
                x = block(x)
            except Exception as error:  # user code may raise anything; the message repeats it
                reason = (str(error).strip().splitlines() or ["no message"])[0]
                raise ShapeError(
                    f"block {i} failed on a batch of states of shape {tuple(shapes[-1])}: {type(error).__name__}: {reason}\n"
                    "Each block must take the output of the one before it; pass the input shape of the first as shape=."
                ) from error
            if not isinstance(x, Tensor) or x.ndim < 2 or len(x) != 2 or not x.is_floating_point():
                what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
                raise ShapeError(f"block {i} returned {what} for a batch of 2 states; expected a floating-point batch of 2.")
            shapes.append(x.shape[1:])
        return tuple(shapes)


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Block) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """The function's value."""
        return self.function(x)


def _check_blocks(blocks: list[Any], loops: int | None) -> None:
    if not blocks:
        raise InputError("expected at least 1 block, got 0.")
    for i, block in enumerate(blocks):
        if not callable(block) or isinstance(block, type):
            raise UnsupportedModuleError(f"block {i} is {block!r}, which cannot be called.\nPass modules or functions.")
    if loops is not None:
        check_whole("loops", loops, 1, way_out="Pass None to repeat the stack endlessly.")


def _as_shape(shape: Any) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else shape
    if not isinstance(sizes, tuple | list) or not all(isinstance(size, int) for size in sizes):
        raise InputError(f"shape is {shape!r}; expected a number of units, or a tuple such as (3, 32, 32).")
    return tuple(sizes)


def _shape_of_first(block: Any) -> tuple[int, ...]:
    for part in block.modules() if isinstance(block, nn.Module) else ():
        if isinstance(part, nn.Linear):
            return (part.in_features,)
        if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1:
            return tuple(part.normalized_shape)
        if any(True for _ in part.parameters(recurse=False)):
            break
    raise InputError("the input shape of the first block cannot be inferred.\nPass it: sx.Layers(blocks, shape=(3, 32, 32)).")
