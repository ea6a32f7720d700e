"""Recurrences written by hand: a loop over time in a model's forward, found by how its work grows with the length."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from separatrix.core.arguments import Arguments
from separatrix.core.randomness import seed_generators
from separatrix.core.twin import twin

SHORT = (8, 4)  # two lengths that are tried first: cheap, whatever the length of the inputs
MOVING = (  # and adding up: what autograd calls the operations that compute nothing
    "AccumulateGrad Add Alias AsStrided Cat Chunk Clone ConstantPadNd Contiguous Copy CopySlices Diagonal Expand Flatten "
    "Gather Index IndexPut IndexSelect MaskedScatter Mean Narrow Permute Repeat Reshape Scatter Select SelectScatter Slice "
    "SliceScatter Split SplitWithSizes Squeeze Stack Sub Sum SwapAxes T ToCopy Transpose Unbind Unflatten UnsafeSplit "
    "UnsafeView Unsqueeze View "
)
PLUMBING = frozenset(MOVING.split())

# Note [Loops by hand]
# A network that is applied to a whole sequence at once runs the same operations, whatever the length. A loop over time in Python
# runs more of them on a longer sequence; and where each turn builds on the one before, the longest chain of operations from the
# inputs to the outputs grows too, by at least one real operation a step. Both are counted for two lengths of every axis of the
# inputs. Moving numbers about (views, stacking, writing into a buffer) and adding up are no operations of a recurrence.


@dataclass(frozen=True)
class Unrolled:
    """A loop over an axis of the inputs.

    Args:
        axis: of the inputs.
        parts: the modules that are called oftener on longer inputs, with the number of calls in the whole pass.
    """

    axis: int
    parts: dict[str, int]

    @property
    def words(self) -> str:
        """What is called how often."""
        most = sorted(self.parts.items(), key=lambda item: -item[1])[:3]
        told = ", ".join(f"{name} {count} times" for name, count in most)
        return f"its forward calls {told}" if told else "its forward repeats the same operations"


def unrolled(model: nn.Module, arguments: Arguments, counts: dict[str, int]) -> Unrolled | None:
    """The loop over time in a model's forward, each turn building on the one before; None if there is none.

    Args:
        counts: how often each part with weights was called on the whole inputs.
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
    repeated = {name: count for name, count in counts.items() if count in indexed}  # a loop of fixed length, which runs off the end
    work = _work(model, arguments) if repeated else None
    if isinstance(work, _Work) and work.depth >= max(repeated.values()):
        return Unrolled(next(axis for axis, size in sizes if size in repeated.values()), repeated)
    return None


@dataclass
class _Work:
    """What a forward pass did: operations, the longest chain of them, and the calls of each part."""

    operations: int
    depth: int
    calls: dict[str, int]


class _Counting(TorchDispatchMode):
    """Counts the operations that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _work(model: nn.Module, arguments: Arguments | None) -> _Work | Exception | None:
    """What the model does with the arguments, or what it raises; None where there are none."""
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
    except Exception as error:  # the user's code does not take inputs of this size
        return error
    return _Work(counting.count, _depth(returned), calls)


def own_parts(view: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The parts that hold weights themselves."""
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
    """The same arguments with the axis cut to a length in every tensor in which it has that size."""
    cut = [t.narrow(axis, 0, length) if t.ndim > axis and t.shape[axis] == size else t for t in arguments.tensors()]
    try:
        return arguments.with_tensors(cut)
    except Exception:  # a structure whose lengths are told elsewhere, such as a packed sequence
        return None


def _depth(returned: Any) -> int:
    """The longest chain of operations from the leaves to any tensor returned, plumbing not counted."""
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
