"""Handwritten recurrences: a loop over time in a model's forward, detected by how the work grows with the length."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from separatrix.core.arguments import Arguments
from separatrix.core.randomness import seed_generators
from separatrix.core.twin import twin

SHORT = (8, 4)  # two lengths that are tried first: cheap for inputs of any length
MOVING = (  # autograd's names of operations that move or add numbers and compute nothing
    "AccumulateGrad Add Alias AsStrided Cat Chunk Clone ConstantPadNd Contiguous Copy CopySlices Diagonal Expand Flatten "
    "Gather Index IndexPut IndexSelect MaskedScatter Mean Narrow Permute Repeat Reshape Scatter Select SelectScatter Slice "
    "SliceScatter Split SplitWithSizes Squeeze Stack Sub Sum SwapAxes T ToCopy Transpose Unbind Unflatten UnsafeSplit "
    "UnsafeView Unsqueeze View "
)
PLUMBING = frozenset(MOVING.split())

# Note [Loops by hand]
# A network that processes a whole sequence at once runs the same operations for every length. A loop over time in Python runs
# more operations on a longer sequence; and if each iteration builds on the one before, the longest chain of operations from the
# inputs to the outputs grows too, by at least one real operation per step. Both are counted for two lengths of every axis of the
# inputs. Moving numbers (views, stacking, writing into a buffer) and adding them do not count as operations of a recurrence.


@dataclass(frozen=True)
class Unrolled:
    """Loop over an axis of the inputs.

    Args:
        axis: the axis of the inputs.
        parts: the modules that are called more often on longer inputs, with the number of calls in the whole pass.
    """

    axis: int
    parts: dict[str, int]

    @property
    def words(self) -> str:
        """The modules called in the loop, with their numbers of calls."""
        most = sorted(self.parts.items(), key=lambda item: -item[1])[:3]
        calls = ", ".join(f"{name} {count} times" for name, count in most)
        return f"its forward calls {calls}" if calls else "its forward repeats the same operations"


def unrolled(model: nn.Module, arguments: Arguments, counts: dict[str, int]) -> Unrolled | None:
    """Detect a loop over time in a model's forward whose iterations build on each other; None if there is none.

    Args:
        counts: number of calls of each part with weights on the whole inputs.
    """
    sizes = sorted({(axis, size) for t in arguments.tensors() for axis, size in enumerate(t.shape) if size >= 3 and axis < 3})
    indexed: set[int] = set()
    for axis, size in sizes:
        for longer, shorter in ((*SHORT,), (size, size // 2)):
            if longer > size or shorter < 1:
                continue
            one, two = (_work(model, _cropped(arguments, axis, size, length)) for length in (longer, shorter))
            if one is None or two is None:
                continue
            if isinstance(one, IndexError) or isinstance(two, IndexError):
                indexed.add(size)
            if isinstance(one, Exception) or isinstance(two, Exception):
                continue
            if one.operations > two.operations and one.depth - two.depth >= longer - shorter:
                grown = {name: count for name, count in counts.items() if one.calls.get(name, 0) > two.calls.get(name, 0)}
                return Unrolled(axis, grown)
            break
    repeated = {name: count for name, count in counts.items() if count in indexed}  # loops of fixed length, which run past the end
    work = _work(model, arguments) if repeated else None
    if isinstance(work, _Work) and work.depth >= max(repeated.values()):
        return Unrolled(next(axis for axis, size in sizes if size in repeated.values()), repeated)
    return None


@dataclass
class _Work:
    """Work of a forward pass: its number of operations, their longest chain, and the calls of each part."""

    operations: int
    depth: int
    calls: dict[str, int]


class _Counting(TorchDispatchMode):
    """Counter of the operations that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _work(model: nn.Module, arguments: Arguments | None) -> _Work | Exception | None:
    """The work of the model on the arguments, or the error that it raises; None without arguments."""
    if arguments is None:
        return None
    view = twin(model, detach=True, apart=True)
    for tensor in (*view.parameters(), *view.buffers()):
        if tensor.is_floating_point():
            tensor.requires_grad_()
    tensors = [t.detach().requires_grad_() if t.is_floating_point() else t for t in arguments.tensors()]
    calls: dict[str, int] = {}
    for name, part in own_parts(view):
        part.__dict__["forward"] = _counted(name, part.forward, calls)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), _Counting() as counting:
            seed_generators(0)
            returned = arguments.with_tensors(tensors).call(view)
    except Exception as error:  # the user's code rejects inputs of this size
        return error
    return _Work(counting.count, _depth(returned), calls)


def own_parts(view: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The parts that hold weights of their own."""
    return [
        (name, part)
        for name, part in view.named_modules()
        if name and (part._parameters or part._buffers) and not isinstance(part, torch.jit.ScriptModule)
    ]


def _counted(name: str, forward: Any, calls: dict[str, int]) -> Any:
    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[name] = calls.get(name, 0) + 1
        return forward(*args, **kwargs)

    return counting


def _cropped(arguments: Arguments, axis: int, size: int, length: int) -> Arguments | None:
    """The same arguments with the axis cut to a length in every tensor that has the given size along it."""
    cut = [t.narrow(axis, 0, length) if t.ndim > axis and t.shape[axis] == size else t for t in arguments.tensors()]
    try:
        return arguments.with_tensors(cut)
    except Exception:  # a structure that stores its lengths elsewhere, such as a packed sequence
        return None


def _depth(returned: Any) -> int:
    """Length of the longest chain of operations from the leaves to any returned tensor, without plumbing."""
    done: dict[Any, int] = {}
    stack = [t.grad_fn for t in _tensors(returned) if t.grad_fn is not None]
    roots = list(stack)
    while stack:
        node = stack[-1]
        if node in done:
            stack.pop()
            continue
        before = [parent for parent, _ in node.next_functions if parent is not None]
        waiting = [parent for parent in before if parent not in done]
        if waiting:
            stack.extend(waiting)
            continue
        done[stack.pop()] = max((done[parent] for parent in before), default=0) + _is_operation(node)
    return max((done[root] for root in roots), default=0)


def _is_operation(node: Any) -> int:
    return int(node.name().rpartition("::")[2].partition("Backward")[0] not in PLUMBING)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in _tensors(part)]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in _tensors(part)]
    if hasattr(value, "__dict__") and not isinstance(value, nn.Module):
        return [tensor for part in vars(value).values() for tensor in _tensors(part)]
    return []
