"""The record of one forward pass of a network: the output of every call of every module."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from separatrix.analysis.depth.hooks import Call, LayerHooks, first_line, floating
from separatrix.analysis.depth.item_axes import ItemAxes, one_call
from separatrix.analysis.depth.statistics import hold_batch_statistics
from separatrix.core.errors import InputError, SeparatrixError
from separatrix.core.tangent import plain_kernels
from separatrix.core.twin import twin

# Note [Layers by hooks]
# A hook stores a copy of each module's first floating-point output, which an in-place layer after it cannot overwrite, and the
# edge of the autograd graph at which that output was made. Jacobians are taken of the copies. The edges show which layers carry
# the whole signal: those without whose edge the graph no longer connects the output to the input. They are also where the
# gradient of a loss is read. One forward pass of one item yields all of this, without a symbolic trace of the user's code.


@dataclass(frozen=True)
class Made:
    """The output of one call of a module.

    Args:
        call: the module and the number of its call.
        kind: class of the module.
        value: copy of its first floating-point output, or None.
        tokens: its first argument, if that is an integer tensor.
        original: the output itself, which a later layer may have overwritten.
        version: version counter of the original when it was made.
        edge: edge of the autograd graph at which it was made.
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
        """Whether it belongs to a transform of torch.func, and so is not a function of one input."""
        return self.value is not None and torch._C._functorch.is_functorch_wrapped_tensor(self.value)

    @property
    def readable(self) -> Tensor | None:
        """The value, or None if it cannot be read."""
        return None if self.is_in_transform else self.value


@dataclass(frozen=True)
class Record:
    """A forward pass.

    Args:
        made: outputs of the calls, in the order in which they ended.
        output: output of the model; None if the pass ended early.
        z: sources that it started from, (items, dim), if any.
    """

    made: list[Made]
    output: Any
    z: Tensor | None = None

    def values(self) -> dict[Call, Tensor]:
        """The output of each call, where it can be read."""
        return {one.call: value for one in self.made if (value := one.readable) is not None}


Copy = Callable[[Tensor], Tensor]
Until = Callable[[Made], bool]


class _ReachedError(Exception):
    """Raised by the hook of the last wanted layer to skip the rest of the forward pass."""


class Recorder:
    """The twin of a model with a hook on each module, and its inputs.

    Args:
        model: any module.
        inputs: arguments of the model: a tensor, an array, a tuple of several, a dict of named ones, or an `Arguments`.
        axis: batch axis of the inputs and of every layer's output; None if the inputs are one item.
        dtype: dtype of the computation.
        statistics: of BatchNorm layers, "running" or "batch".
    """

    def __init__(self, model: nn.Module, inputs: Any, axis: int | None, dtype: torch.dtype, statistics: str = "running") -> None:
        self.model_name = type(model).__name__
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        self.given = one_call(model, inputs, dtype)
        self.arguments = self.given.tensors()
        self.twin = twin(model, dtype=dtype, device=device, detach=True, apart=True)
        self.axis = axis
        if statistics == "batch":
            self._hold_batch_statistics()
        self.item_axes = ItemAxes(self.twin, self.given, axis)
        self.items = self.item_axes.count
        parts = {name: part for name, part in self.twin.named_modules() if not isinstance(part, torch.jit.ScriptModule)}
        self.kinds = {name: type(part).__name__ for name, part in parts.items()}
        self._hooks = LayerHooks(parts)
        for parameter in self.twin.parameters():
            is_own = type(parameter) is Tensor  # TorchScript's are the user's
            if is_own and (parameter.is_floating_point() or parameter.is_complex()):
                parameter.requires_grad_()

    @property
    def names(self) -> list[str]:
        """Names of all modules that have a hook."""
        return list(self.kinds)

    def _hold_batch_statistics(self) -> None:
        with plain_kernels(), torch.no_grad(), self.explained():
            tensors = [tensor.clone() for tensor in self.arguments]
            hold_batch_statistics(self.twin, lambda: self.given.with_tensors(tensors).call(self.twin))

    def parameters_of(self, name: str) -> list[Tensor]:
        """The parameters of a module of the twin, and of those in it, whose gradients can be taken."""
        parameters = self.twin.get_submodule(name).parameters()
        return [parameter for parameter in parameters if type(parameter) is Tensor and parameter.requires_grad]

    def weight_rank(self, name: str) -> int:
        """Number of axes of a module's own weight matrix or kernel; at most 1 if it has none, as a normalisation."""
        if "Norm" in self.kinds[name]:
            return 1
        named = self.twin.get_submodule(name).named_parameters()
        return max((p.ndim for own, p in named if "." not in own or own.startswith("parametrizations.")), default=0)

    def item_shape(self, value: Tensor) -> torch.Size:
        """The shape of one item of an output of one item; the whole shape if the output has no axis of items."""
        axis = self.axis
        has_items = axis is not None and value.ndim > axis and value.shape[axis] == 1
        return value.movedim(axis, 0).shape[1:] if axis is not None and has_items else value.shape

    def record(
        self,
        arguments: list[Tensor],
        *,
        calls: Sequence[Call] | None = None,
        early: bool = False,
        injected: tuple[Call, Tensor] | None = None,
        z: Tensor | None = None,
        copied: Copy = Tensor.clone,
        until: Until = lambda made: False,
    ) -> Record:
        """One pass.

        Args:
            arguments: tensors among the model's arguments.
            calls: calls to record. Default: all.
            early: whether the pass may end after the last of them.
            injected: a call, and a tensor that replaces its output.
            z: see `Record`.
            copied: what is recorded of an output.
            until: whether the pass may end after a call.
        """
        made: list[Made] = []
        wanted = None if calls is None else set(calls)
        last = len(wanted) if early and wanted is not None else None

        def keep(call: Call, given: Any, returned: Any) -> Any:
            if injected is not None and call == injected[0]:
                return injected[1].clone()
            if wanted is None or call in wanted:
                made.append(_made(call, self.kinds[call[0]], given, returned, copied))
                if len(made) == last or until(made[-1]):
                    raise _ReachedError
            return None

        with self._hooks.listening(keep):
            try:
                output = self.given.with_tensors(arguments).call(self.twin)
            except _ReachedError:
                output = None
        return Record(made, output, z)

    def plain(self, until: Until = lambda made: False) -> Record:
        """A pass of all items from the unchanged arguments, without a graph, which may end early."""
        with plain_kernels(), torch.no_grad(), self.explained():
            return self.record(self.item_axes.take(slice(0, self.items)), until=until)

    def explained(self) -> "_Explained":
        """A context in which an exception of the user's code is reported with its inputs."""
        return _Explained(self)


class _Explained:
    """Turns any exception of a forward pass into an InputError that names the inputs on which the model failed."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, SeparatrixError):
            return
        which = self.recorder
        alone = "" if which.axis is None or which.items == 1 else f", of which one item along axis {which.axis} was passed alone"
        raise InputError(
            f"{which.model_name} failed on inputs {which.given.shapes}{alone}: {type(error).__name__}: {first_line(error)}\n"
            f"{which.given.way_out} sx.depth_profile also takes batch_axis (None if the inputs are one item) and "
            "dtype=torch.float32."
        ) from error


def _made(call: Call, kind: str, given: Any, returned: Any, copied: Copy) -> Made:
    value = floating(returned)
    if value is None:
        return Made(call, kind)
    edge = get_gradient_edge(value) if value.requires_grad else None
    version = 0 if value.is_inference() else value._version
    tokens = given[0] if given and isinstance(given[0], Tensor) and not given[0].is_floating_point() else None
    return Made(call, kind, copied(value), tokens, value, version, edge)
