"""One forward pass of a network, written down: what every call of every module made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from separatrix.analysis.depth.hooks import Call, LayerHooks, first_line, floating
from separatrix.analysis.depth.item_axes import ItemAxes, one_call
from separatrix.core.errors import InputError
from separatrix.core.tangent import plain_kernels
from separatrix.core.twin import twin

# Note [Layers by hooks]
# A hook keeps a copy of each module's first floating-point output, so that an in-place layer behind it writes elsewhere, and the
# edge of the autograd graph at which that output was made. The copies are what J is taken of. The edges say which layers carry
# the whole signal: those without whose edge the graph no longer joins the output to the input. They also say where the gradient
# of a loss is to be read off. One forward pass of one item finds all of this; no symbolic trace of the user's code is needed.


@dataclass(frozen=True)
class Made:
    """What one call of a module made.

    Args:
        call: the module and which of its calls.
        kind: the module's class.
        value: a copy of its first floating-point output, or None.
        tokens: the whole numbers that it was given, where its first argument is such.
        original: the output itself, which a later layer may have written over.
        version: of the original when it was made.
        edge: of the autograd graph at which it was made.
    """

    call: Call
    kind: str
    value: Tensor | None = None
    tokens: Tensor | None = None
    original: Tensor | None = None
    version: int = 0
    edge: GradientEdge | None = None

    @property
    def is_in_transform(self) -> bool:
        """Whether it belongs to a transform of torch.func, so that it is no function of one input."""
        return self.value is not None and torch._C._functorch.is_functorch_wrapped_tensor(self.value)

    @property
    def readable(self) -> Tensor | None:
        """The value, if it can be looked at."""
        return None if self.is_in_transform else self.value


@dataclass(frozen=True)
class Record:
    """A forward pass.

    Args:
        made: what the calls made, in the order in which they ended.
        output: of the model; None where the pass ended early.
        z: the sources it began from, (items, dim), where it began from such.
    """

    made: list[Made]
    output: Any
    z: Tensor | None = None

    def values(self) -> dict[Call, Tensor]:
        """What each call made, where that can be looked at."""
        return {one.call: value for one in self.made if (value := one.readable) is not None}


class _ReachedError(Exception):
    """Raised by the hook of the last layer that is wanted: the rest of the forward pass is not needed."""


class Recorder:
    """The twin of a model with a hook on each module, and its inputs.

    Args:
        model: any module.
        inputs: what it takes: a tensor, an array, a tuple of several, a dict of named ones, or an `Arguments`.
        axis: of the inputs, and of every layer's output, along which items lie; None where there is but one item.
        dtype: of the computation.
    """

    def __init__(self, model: nn.Module, inputs: Any, axis: int | None, dtype: torch.dtype) -> None:
        self.model_name = type(model).__name__
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        self.given = one_call(model, inputs, dtype)
        self.arguments = self.given.tensors()
        self.twin = twin(model, dtype=dtype, device=device, apart=True)
        self.axis = axis
        self.item_axes = ItemAxes(self.twin, self.given, axis)
        self.items = self.item_axes.count
        parts = {name: part for name, part in self.twin.named_modules() if not isinstance(part, torch.jit.ScriptModule)}
        self.kinds = {name: type(part).__name__ for name, part in parts.items()}
        self._hooks = LayerHooks(parts)

    @property
    def names(self) -> list[str]:
        """Of all modules that can be listened to."""
        return list(self.kinds)

    def record(
        self,
        arguments: list[Tensor],
        *,
        calls: Sequence[Call] | None = None,
        early: bool = False,
        injected: tuple[Call, Tensor] | None = None,
        z: Tensor | None = None,
    ) -> Record:
        """One pass.

        Args:
            arguments: of the model, its tensors.
            calls: to be written down. Default: all.
            early: whether the pass may end with the last of them.
            injected: a call, and what takes the place of its output.
            z: see `Record`.
        """
        made: list[Made] = []
        wanted = None if calls is None else set(calls)
        last = len(wanted) if early and wanted is not None else None

        def write_down(call: Call, given: Any, returned: Any) -> Any:
            if injected is not None and call == injected[0]:
                return injected[1].clone()
            if wanted is None or call in wanted:
                made.append(_made(call, self.kinds[call[0]], given, returned))
                if len(made) == last:
                    raise _ReachedError
            return None

        with self._hooks.listening(write_down):
            try:
                output = self.given.with_tensors(arguments).call(self.twin)
            except _ReachedError:
                output = None
        return Record(made, output, z)

    def plain(self) -> Record:
        """A pass of all items from the arguments as they are, without a graph."""
        with plain_kernels(), torch.no_grad(), self.explained():
            return self.record(self.item_axes.take(slice(0, self.items)))

    def explained(self) -> "_Explained":
        """A context in which what the user's code raises is said with the inputs it was given."""
        return _Explained(self)


class _Explained:
    """Turns any exception of a forward pass into an InputError that says on which inputs the model failed."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if not isinstance(error, Exception):
            return
        which = self.recorder
        alone = "" if which.axis is None or which.items == 1 else f", of which one item along axis {which.axis} was passed alone"
        raise InputError(
            f"{which.model_name} failed on inputs {which.given.shapes}{alone}: {type(error).__name__}: {first_line(error)}\n"
            f"{which.given.way_out} sx.depth_profile also takes batch_axis, where items lie (None: none), and "
            "dtype=torch.float32, for a model that insists on it."
        ) from error


def _made(call: Call, kind: str, given: Any, returned: Any) -> Made:
    value = floating(returned)
    if value is None:
        return Made(call, kind)
    edge = get_gradient_edge(value) if value.requires_grad else None
    version = 0 if value.is_inference() else value._version
    tokens = given[0] if given and isinstance(given[0], Tensor) and not given[0].is_floating_point() else None
    return Made(call, kind, value.clone(), tokens, value, version, edge)
