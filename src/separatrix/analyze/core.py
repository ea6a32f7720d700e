"""Finding the recurrent core inside a user's model, and the inputs that reach it."""

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from separatrix.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.inputs import as_inputs
from separatrix.nn.cells import OdeCell
from separatrix.systems.custom_cell import flatten, is_layer
from separatrix.systems.standard_network import STANDARD, check_initialised, describe, is_standard, refuse_changed_layer
from separatrix.twin import twin
from separatrix.wrappers import part_named

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


@dataclass(frozen=True)
class Core:
    """The recurrent part of a model.

    Args:
        module: the part itself.
        name: where in the model it sits; empty when the model is the core.
        inputs: what reaches it, shape (time, sequences, inputs), or None.
        state: for a cell that is not PyTorch's, an example of its state without batch axes.
        calls: how often one forward pass of the model called it.
        read: how those calls were put together: along time where the state was carried from one to the next, else as sequences.
        is_started: whether the model gives it an initial state that is not zero.
    """

    module: nn.Module
    name: str
    inputs: Tensor | None
    state: Any = None
    calls: int = 1
    read: Literal["along time", "as further sequences"] = "along time"
    is_started: bool = False

    @property
    def label(self) -> str:
        """The core in words: GRU(28 → 64) at 'encoder.rnn'."""
        return describe(self.module) + (f" at '{self.name}'" if self.name else "")


@dataclass
class _Call:
    """One call of the core: what it was given and what it returned, as they were then."""

    inputs: Any
    state: Any
    returned: Any = None


def find_core(model: nn.Module, inputs: Any = None, module: str | None = None) -> Core:
    """The recurrent core of a model; with inputs, one forward pass captures what reaches it.

    Args:
        model: any module; a recurrent one is its own core.
        inputs: what the model takes.
        module: the core's name in `model.named_modules()`, where there are several, or where it is a cell of your own.

    Raises:
        UnsupportedModuleError: there is no recurrent part, or several; it is a layer with a forward or hooks of its own; the
            model is no module, or has no weights yet.
        InputError: the forward pass fails, never reaches the core, hands it something that is no sequence, or calls it in a
            way that is neither one run along time nor several of equal length.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModuleError(
            f"{getattr(model, '__name__', type(model).__name__)} is no nn.Module, so it has no recurrent part.\n"
            "Pass one module at a time; wrap a function of the state with sx.Map(f, dim), for sx.lyapunov_spectrum."
        )
    name = _name(model, module)
    core = model.get_submodule(name)
    refuse_changed_layer(core)
    if inputs is None:
        return Core(core, name, None)
    check_initialised(model)
    if core is model:
        return Core(core, name, _time_first(core, as_inputs(inputs)))
    return _capture(model, name, inputs)


def _name(model: nn.Module, asked: str | None) -> str:
    recurrent = recurrent_parts(model)
    if asked is not None and (name := part_named(model, asked)):
        return name
    if asked is not None:
        known = [name for name, _ in model.named_modules() if name]
        listed = ", ".join(recurrent or known[:12]) or "none"
        raise InputError(f"{type(model).__name__} has no module named {asked!r}.\nIts modules: {listed}.")
    if len(recurrent) == 1:
        return recurrent[0]
    if recurrent:
        listed = ", ".join(f"{name} = {describe(model.get_submodule(name))}" for name in recurrent)
        raise UnsupportedModuleError(
            f"{type(model).__name__} has {len(recurrent)} recurrent parts: {listed}.\n"
            "Choose one by name: --module NAME, or module=."
        )
    if _is_cell(model):
        return ""
    parts = ", ".join(sorted({type(part).__name__ for part in model.modules() if part is not model})) or type(model).__name__
    raise UnsupportedModuleError(
        f"{type(model).__name__} has no recurrent part that is known (RNN, GRU, LSTM, sx.nn's, or their cells); "
        f"it consists of: {parts}.\n"
        "Its depth is what `analyze` measures, given inputs; or if one of its modules is a recurrent cell, (u, state) → state, "
        "name it: --module NAME, or module=."
    )


def has_core(model: Any) -> bool:
    """Whether there is a recurrent part to be found without being named: one of PyTorch's, or the model is a cell itself."""
    return bool(recurrent_parts(model)) or _is_cell(model)


def recurrent_parts(model: nn.Module) -> list[str]:
    """Names of the recurrent layers and cells in a model that are known; not of what a layer consists of."""
    found: list[str] = []
    for name, part in model.named_modules():
        known = isinstance(part, (*STANDARD, OdeCell)) or is_layer(part)
        if known and not any(name.startswith(f"{outer}.") or not outer for outer in found):
            found.append(name)
    return found


def reads_sequences(core: nn.Module) -> bool:
    """Whether a core is a layer, which is called once for a whole sequence; else it is a cell."""
    return isinstance(core, nn.RNNBase) or is_layer(core)


def _is_cell(model: nn.Module) -> bool:
    """Whether a model says the size of its state, and takes a state beside its input."""
    return getattr(model, "hidden_size", None) is not None and len(inspect.signature(model.forward).parameters) > 1


def _capture(model: nn.Module, name: str, inputs: Any) -> Core:
    """Run the model's twin once, in evaluation mode, and keep what its core is called with."""
    view = twin(model)
    calls = _recorded(view.get_submodule(name))
    values = _as_the_model_takes(model, inputs)
    try:
        with torch.no_grad():
            view(values)
    except Exception as error:  # the user's code: whatever it raises is the message
        raise InputError(
            f"{type(model).__name__} failed on inputs of shape {tuple(values.shape)}, {values.dtype}: "
            f"{type(error).__name__}: {_first(error)}\n"
            "Give inputs exactly as the model takes them, batch and all."
        ) from error
    if not calls:
        raise InputError(
            f"one forward pass of {type(model).__name__} never reached '{name}'.\nName the part that your inputs reach."
        )
    core = model.get_submodule(name)
    runs = _runs(calls)
    pieces = [[_piece(core, call.inputs) for call in run] for run in runs]
    _check_pieces(name, runs, pieces)
    return Core(
        core,
        name,
        torch.cat([torch.cat(run) for run in pieces], dim=1),
        state=None if is_standard(core) or is_layer(core) else _example(calls),
        calls=len(calls),
        read="along time" if len(runs) == 1 else "as further sequences",
        is_started=any(not _is_zero(run[0].state) for run in runs),
    )


def _recorded(core: nn.Module) -> list[_Call]:
    """Have a twin's core write down its calls: arguments before anybody's hooks change them, states after."""
    for hooks in HOOKS:  # dictionaries of the twin's own
        core.__dict__[hooks] = OrderedDict(getattr(core, hooks))
    calls: list[_Call] = []

    def begin_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(_Call(*_arguments(module, args, kwargs)))

    def end_call(_: nn.Module, __: tuple[Any, ...], returned: Any) -> None:
        calls[-1].returned = _kept(returned)

    core.register_forward_pre_hook(begin_call, with_kwargs=True, prepend=True)
    core.register_forward_hook(end_call)
    return calls


def _as_the_model_takes(model: nn.Module, inputs: Any) -> Tensor:
    """Inputs in the model's dtype and on its device; integers stay so only for a model that looks tokens up."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    numbers = as_inputs(inputs)
    given = torch.as_tensor(inputs)
    tokens = not given.is_floating_point() and any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in model.modules())
    return given.to(like.device) if tokens else numbers.to(like)


def _arguments(core: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Input and state of one call, the first two parameters of the core's forward, positional or named."""
    signature = inspect.signature(core.forward)
    given = signature.bind(*args, **kwargs).arguments
    plain = [name for name, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    values = [given.get(name) for name in plain] if len(plain) > 1 else [*args, *kwargs.values()]
    first, second = (*values, None, None)[:2]
    return _kept(first), _kept(second)


def _kept(value: Any) -> Any:
    """A copy of the tensors, which the model may change in place later."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
        return tuple(_kept(part) for part in value)
    return value


def _runs(calls: Sequence[_Call]) -> list[list[_Call]]:
    """The calls sorted into runs: one belongs to the run whose last returned state it was given, else it begins a run."""
    runs: list[list[_Call]] = []
    for call in calls:
        run = next((run for run in reversed(runs) if _carried(run[-1], call)), None)
        if run is None:
            runs.append([call])
        else:
            run.append(call)
    return runs


def _carried(before: _Call, after: _Call) -> bool:
    """Whether a call got the state that another returned, alone or beside an output."""
    returned = before.returned
    second = returned[1] if isinstance(returned, tuple) and len(returned) == 2 else None
    return after.state is not None and any(_equal(after.state, state) for state in (second, returned) if state is not None)


def _equal(one: Any, two: Any) -> bool:
    """Whether two states are the same numbers in the same order, whatever axes of length 1 they have."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.dtype == two.dtype and one.numel() == two.numel() and torch.equal(one.reshape(-1), two.reshape(-1))
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two):
        return all(_equal(a, b) for a, b in zip(one, two, strict=True))
    return False


def _is_zero(state: Any) -> bool:
    return state is None or not any(bool(part.any()) for part in flatten(state))


def _piece(core: nn.Module, values: Any) -> Tensor:
    """What one call was given, (time, sequences, inputs)."""
    if isinstance(values, PackedSequence):
        raise InputError(
            "the core is given a packed sequence, whose sequences end at different steps.\n"
            "Give sequences of equal length (cut to the shortest), so that the model has nothing to pack."
        )
    if not isinstance(values, Tensor):
        raise InputError(f"the core is called with a {type(values).__name__} as its input.\nIt must be a tensor.")
    if reads_sequences(core):
        return _time_first(core, values)
    if values.ndim not in (1, 2):
        raise ShapeError(
            f"the {describe(core)} is given inputs of shape {tuple(values.shape)}, {values.ndim} axes.\n"
            "A cell's inputs are (batch, inputs), or (inputs) alone."
        )
    return values.reshape(1, -1, values.shape[-1])


def _check_pieces(name: str, runs: list[list[_Call]], pieces: list[list[Tensor]]) -> None:
    """Refuse calls that are neither one run along time nor several of equal length."""
    batches = sorted({piece.shape[1] for run in pieces for piece in run})
    if len(batches) > 1:
        raise InputError(
            f"one forward pass calls '{name}' with different batch sizes: {_listed(batches)}.\n"
            "Give inputs for which all calls have the same, such as sequences of equal length."
        )
    lengths = [sum(len(piece) for piece in run) for run in pieces]
    first = runs[0][0].state
    if len(runs) > 1 and max(lengths) == 1 and any(not _is_zero(run[0].state) and not _equal(run[0].state, first) for run in runs):
        raise InputError(
            f"one forward pass calls '{name}' {len(runs)} times, one step each, with states that no call returned: "
            "the model changes the state in between.\n"
            "Write the whole step, that change included, as a cell (u, state) → state, and measure that."
        )
    if len(set(lengths)) > 1:
        raise InputError(
            f"one forward pass calls '{name}' for runs of different length: {_listed(sorted(set(lengths)))} steps.\n"
            "Give inputs for which they are equal, or measure the part by itself: sx.Recurrent(part, its inputs)."
        )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")


def _time_first(core: nn.Module, values: Tensor) -> Tensor:
    """(time, sequences, inputs) of what a recurrent layer takes, or a cell step by step."""
    if values.ndim not in (2, 3):
        raise ShapeError(
            f"the inputs have {values.ndim} axes, shape {tuple(values.shape)}, but a {describe(core)} takes 2 or 3.\n"
            "Pass (time, inputs), or with a batch of sequences as the module takes it."
        )
    if 0 in values.shape:
        raise ShapeError(f"the inputs are empty: shape {tuple(values.shape)}.")
    width = getattr(core, "input_size", None)
    if isinstance(width, int) and values.shape[-1] != width:
        raise ShapeError(
            f"the inputs have {values.shape[-1]} numbers per step but this {describe(core)} takes {width}.\n"
            f"Pass (time, {width}), or with a batch of sequences as the module takes it."
        )
    if values.ndim == 2:
        return values[:, None]
    return values.transpose(0, 1) if is_batch_first(core) else values


def is_batch_first(core: nn.Module) -> bool:
    """Whether a core takes (batch, time, inputs); only layers can, a cell takes time first."""
    return reads_sequences(core) and getattr(core, "batch_first", False)


def _example(calls: Sequence[_Call]) -> Any:
    """A state without its batch axis, from the first call that was given one; None if none was."""
    call = next((call for call in calls if call.state is not None), None)
    if call is None:
        return None
    flatten(call.state)
    return call.state if call.inputs.ndim == 1 else _first_item(call.state)


def _first_item(state: Any) -> Any:
    return state[0] if isinstance(state, Tensor) else tuple(_first_item(part) for part in state)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
