"""Finding the recurrent core inside a user's model, and the inputs that reach it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from separatrix.core.arguments import Arguments, arguments_of
from separatrix.core.errors import InputError, SeparatrixError, ShapeError, UnsupportedModuleError
from separatrix.core.structure import leaves, mapped
from separatrix.core.wrappers import part_named
from separatrix.nn.cells import OdeCell
from separatrix.portrait.cells import CalledAs, Form, form_of
from separatrix.portrait.feedback import Answers, Feedback, feedback_of
from separatrix.portrait.recording import Call, record
from separatrix.portrait.unrolled import own_parts, unrolled
from separatrix.systems.recurrent.custom_cell import CustomCell, flatten, is_layer
from separatrix.systems.recurrent.hand_layer import HandLayer, carries_a_state, layer_of, own_network
from separatrix.systems.recurrent.recurrent import Recurrent
from separatrix.systems.recurrent.standard_network import STANDARD, check_initialised, describe, is_standard, refuse_changed_layer

NONE = Feedback("none")
OPERATORS = ("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")  # a whole recurrent layer, in an exported graph
QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.quantizable", "torch.ao.nn.intrinsic.quantized")

# Note [What the core is]
# PyTorch's recurrent modules and those that tell their step (`as_cell`) are known by their class. Everything else is known by what
# it does, when it is tried and in one recorded forward pass: the model itself as a cell or as a layer that carries its state
# (see Note [Recognised by trying]); a part that is called step by step with the state that it returned before (see Note [The cell
# in the calls]); a part that reads a sequence once and carries its state. Where none of these is there, but the forward pass loops
# over time (see Note [Loops by hand]), the model is recurrent and its step cannot be called from outside: that is refused, since
# its depth would be that of the unrolled loop. What is left is a feed-forward network.


@dataclass(frozen=True)
class Core:
    """The recurrent part of a model.

    Args:
        module: the part itself, in a form that `sx.Recurrent` takes.
        name: where in the model it sits; empty when the model is the core.
        inputs: what reaches it, shape (time, sequences, inputs), or None.
        lengths: (sequences), where sequences differ in length; those that are shorter are followed by zeros.
        start: (sequences, dim), the initial states that the model gives it, where they are not zero.
        state: for a cell that is not PyTorch's, an example of its state without batch axes.
        calls: how often one forward pass of the model called it.
        read: how those calls were put together: along time where the state was carried from one to the next, else as sequences.
        described: the part in words, where its form is not the user's.
        feedback: whether its inputs depend on its own earlier states.
    """

    module: nn.Module
    name: str
    inputs: Tensor | None
    lengths: Tensor | None = None
    start: Tensor | None = None
    state: Any = None
    calls: int = 1
    read: Literal["along time", "as further sequences"] = "along time"
    described: str = ""
    feedback: Feedback = NONE

    @property
    def label(self) -> str:
        """The core in words: GRU(28 → 64) at 'encoder.rnn'."""
        return (self.described or describe(self.module)) + (f" at '{self.name}'" if self.name else "")

    @property
    def sequences(self) -> Tensor:
        """The inputs of a core that has any."""
        if self.inputs is None:
            raise InputError(f"nothing drives the {self.label}.")
        return self.inputs

    @property
    def is_started(self) -> bool:
        """Whether the model gives it an initial state that is not zero."""
        return self.start is not None


def find_core(model: nn.Module, inputs: Any = None, module: str | None = None) -> Core | None:
    """The recurrent core of a model; with inputs, one forward pass captures what reaches it. See Note [What the core is].

    Args:
        model: any module; a recurrent one is its own core.
        inputs: what the model takes.
        module: the core's name in `model.named_modules()`, where there are several.

    Returns:
        The core; None for a model that, given these inputs, has no recurrent part.

    Raises:
        UnsupportedModuleError: there are several recurrent parts, or none and no inputs; a layer with a forward or hooks of its
            own; a loop over time whose step cannot be called; the model is no module, or has no weights yet.
        InputError: the forward pass fails, never reaches the core, hands it something that is no sequence, or calls it in a
            way that is neither one run along time nor several of equal length.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModuleError(
            f"{getattr(model, '__name__', type(model).__name__)} is no nn.Module, so it has no recurrent part.\n"
            "Pass one module at a time; wrap a function of the state with sx.Map(f, dim), for sx.lyapunov_spectrum."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModuleError(
            f"a {type(model).__name__} is compiled by TorchScript, so its parts cannot be told apart.\n"
            "Pass the module that it was made of; a scripted map of states is measured as sx.Map(module, dim)."
        )
    _refuse_lowered(model)
    name = _name(model, module)
    if name is not None:
        refuse_changed_layer(model.get_submodule(name))
    if inputs is None:
        return _without_inputs(model, name)
    check_initialised(model)
    given = arguments_of(model, inputs)
    if name is None:
        return _of_model(model, given) or _of_parts(model, given)
    core = model.get_submodule(name)
    if core is model and _is_known(core):
        return _merged(Core(core, "", None), [_read_by_itself(core, arguments) for arguments in given])
    if core is model:
        return _of_model(model, given) or _of_parts(model, given)
    return _captured(model, name, given)


def _refuse_lowered(model: nn.Module) -> None:
    """Refuse a recurrent part that is one operator of a compiler's: exported, or quantised. Its step cannot be called."""
    for name, part in model.named_modules():
        graph = part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ()
        found = next((str(node.target) for node in graph if str(node.target).startswith(OPERATORS)), None)
        if type(part).__module__.startswith(QUANTISED):
            found = f"a quantised {type(part).__name__}"
        if found is not None:
            raise UnsupportedModuleError(
                f"{type(model).__name__} computes {found}{f' at {name!r}' if name else ''}, whose steps or derivatives cannot be "
                "taken: it was exported or quantised.\nPass the module that it was made of."
            )


def _name(model: nn.Module, asked: str | None) -> str | None:
    """Where the core is, as far as names and classes tell."""
    recurrent = recurrent_parts(model)
    if asked is not None:
        name = part_named(model, asked) if asked else None
        if name is None:
            names = [*recurrent, *(name for name, _ in model.named_modules() if name and name not in recurrent)]
            raise InputError(f"{type(model).__name__} has no module named {asked!r}.\nIts modules: {_listed(names) or 'none'}.")
        return name
    if len(recurrent) > 1:
        raise _several(model, {name: describe(model.get_submodule(name)) for name in recurrent})
    return recurrent[0] if recurrent else None


def _several(model: nn.Module, parts: dict[str, str]) -> UnsupportedModuleError:
    listed = ", ".join(f"{name} = {words}" for name, words in parts.items())
    return UnsupportedModuleError(
        f"{type(model).__name__} has {len(parts)} recurrent parts: {listed}.\nChoose one by name: --module NAME, or module=."
    )


def recurrent_parts(model: nn.Module) -> list[str]:
    """Names of the recurrent layers and cells in a model that are known; not of what a layer consists of."""
    found: list[str] = []
    for name, part in model.named_modules():
        if _is_known(part) and not any(name.startswith(f"{outer}.") or not outer for outer in found):
            found.append(name)
    return found


def _is_known(part: nn.Module) -> bool:
    return isinstance(part, (*STANDARD, OdeCell)) or is_layer(part)


def reads_sequences(core: nn.Module) -> bool:
    """Whether a core is a layer, which is called once for a whole sequence; else it is a cell."""
    return isinstance(core, nn.RNNBase) or is_layer(core)


def is_batch_first(core: nn.Module) -> bool:
    """Whether a core takes (batch, time, inputs); only layers can, a cell takes time first."""
    return reads_sequences(core) and getattr(core, "batch_first", False)


def _without_inputs(model: nn.Module, name: str | None) -> Core:
    """The core by itself: one that is known or named, or the model, if it is a cell when it is tried."""
    if name is not None:
        return Core(model.get_submodule(name), name, None)
    width = getattr(model, "input_size", None)
    says_so = getattr(model, "hidden_size", None) is not None and len(_parameters(model)) > 1
    try:
        network = own_network([model], False, None, width)
        if network.is_layer or carries_a_state(network):
            return _as_itself(model, network, width)
    except SeparatrixError as error:
        if says_so:
            raise error from None
    parts = ", ".join(sorted({type(part).__name__ for part in model.modules() if part is not model})) or type(model).__name__
    raise UnsupportedModuleError(
        f"{type(model).__name__} has no recurrent part that is known (RNN, GRU, LSTM, sx.nn's, or their cells); "
        f"it consists of: {parts}.\n"
        "Its depth is what `analyze` measures, given inputs; or if one of its modules is a recurrent cell, (u, state) → state, "
        "name it: --module NAME, or module=."
    )


def _as_itself(model: nn.Module, network: CustomCell, width: int | None) -> Core:
    """A model that was tried and found a cell, or a layer that carries its state, as a core without inputs."""
    by_hand = layer_of(model, width) if network.is_layer and not is_layer(model) and width is not None else None
    return Core(model if by_hand is None else by_hand, "", None, described=describe(model))


def _of_model(model: nn.Module, given: Sequence[Arguments]) -> Core | None:
    """The model as its own core: a cell, time first, or a layer that carries its state; None if it is neither."""
    tensors = [arguments.tensors() for arguments in given]
    is_sequence = all(some and some[0].is_floating_point() and some[0].ndim in (2, 3) for some in tensors)
    if not is_sequence or isinstance(model, nn.Sequential) or len(_parameters(model)) < 2:
        return None
    try:
        network = own_network([model], False, None, tensors[0][0].shape[-1])
    except SeparatrixError:
        return None
    if not network.is_layer and not carries_a_state(network):
        return None
    if not network.is_layer and any(len(arguments.args) + len(arguments.kwargs) > 1 for arguments in given):
        return None  # two arguments, one call: a module of two inputs
    core = _as_itself(model, network, tensors[0][0].shape[-1])
    return _merged(core, [_read_by_itself(core.module, arguments) for arguments in given])


def _parameters(model: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return []


def _of_parts(model: nn.Module, given: Sequence[Arguments]) -> Core | None:
    """The one part that one forward pass shows to be recurrent; None where nothing is."""
    names = [name for name, part in model.named_modules() if name and not isinstance(part, nn.ModuleList | nn.ModuleDict)]
    recording = record(model, given[0], names)
    found: dict[str, str] = {}
    for name in names:
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if not inside and _shows_recurrence(model.get_submodule(name), recording.calls.get(name, [])):
            found[name] = describe(model.get_submodule(name))
    if len(found) > 1:
        raise _several(model, found)
    if found:
        return _captured(model, next(iter(found)), given)
    own = {name for name, _ in own_parts(model)}
    counts = {name: len(calls) for name, calls in recording.calls.items() if name in own}
    loop = unrolled(model, given[0], counts)
    if loop is not None:
        raise UnsupportedModuleError(
            f"{type(model).__name__} is recurrent, by a loop over axis {loop.axis} of its inputs that is written by hand: "
            f"{loop.words}, each turn building on the one before. Its step cannot be called from outside.\n"
            "Put the step into a module (u, state) → state and call it in the loop, or give the looping module as_cell(), which "
            "returns that module; a layer that takes (sequence, state) and returns (outputs, state) is measured as it is. "
            "Name a part with module=, --module."
        )
    return None


def _shows_recurrence(part: nn.Module, calls: list[Call]) -> bool:
    """Whether its calls show a part to be a cell, or a trial a layer that carries its state."""
    if isinstance(part, torch.jit.ScriptModule) or not calls:
        return False
    if len(calls) > 1:
        form = form_of(calls)
        if form is None or not ((form.is_closed and len(calls) > 2) or (form.shapes and _varies(form, calls))):
            return False
        return _is_cell(CalledAs(part, form))
    return _layer_in(part, calls) is not None


def _varies(form: Form, calls: list[Call]) -> bool:
    """Whether the inputs differ from call to call; a block that is run again on the same has no inputs, but depth."""
    first = form.read(calls[1])
    return any(not torch.equal(form.read(call), first) for call in calls[2:]) or len(calls) == 2


def _is_cell(cell: CalledAs) -> bool:
    try:
        own_network([cell], False, None, cell.input_size)
    except SeparatrixError:
        return False
    return True


def _layer_in(part: nn.Module, calls: list[Call]) -> HandLayer | None:
    """A part that read one sequence, as a layer that carries its state."""
    if _is_known(part) or len(calls) != 1 or len(_parameters(part)) < 2:
        return None
    u = calls[0].inputs
    if not isinstance(u, Tensor) or u.ndim != 3 or not u.is_floating_point():
        return None
    return layer_of(part, u.shape[-1])


def _captured(model: nn.Module, name: str, given: Sequence[Arguments]) -> Core:
    """The part of that name, with what reaches it in one forward pass for each of the arguments."""
    passes = [record(model, arguments, [name]).calls[name] for arguments in given]
    if not any(passes):
        raise InputError(
            f"one forward pass of {type(model).__name__} never reached '{name}'.\nName the part that your inputs reach."
        )
    part = model.get_submodule(name)
    form = None if is_standard(part) or is_layer(part) else form_of(passes[0])
    layer = None if is_standard(part) or is_layer(part) or form is not None else _layer_in(part, passes[0])
    if form is not None and form.is_closed and len(passes[0]) > 2:
        calls = sum(map(len, passes))
        return Core(CalledAs(part, form), name, None, calls=calls, described=describe(part), feedback=Feedback("closed"))
    if form is not None and (not form.shapes or form.is_plain):
        form = None
    module, read = _reader(part, form, layer)
    runs = [_runs(calls) if form is None else [calls] for calls in passes]
    state = _example(passes[0]) if module is part and not (is_standard(part) or is_layer(part)) else None
    core = Core(
        module,
        name,
        None,
        state=state,
        calls=sum(map(len, passes)),
        read="along time" if all(len(some) == 1 for some in runs) else "as further sequences",
        described=describe(part),
    )
    feedback = _feedback(model, core, form, passes[0], given[0])
    pieces = [[[read(call) for call in run] for run in some] for some in runs]
    if feedback.turn is None:
        for some, read_pieces in zip(runs, pieces, strict=True):
            _check_pieces(name, some, read_pieces)
    merged = _merged(core, [_Read(*_joined(one), _start(core, form, some)) for one, some in zip(pieces, runs, strict=True)])
    return _with(merged, feedback=feedback)


def _reader(part: nn.Module, form: Form | None, layer: HandLayer | None) -> tuple[nn.Module, Callable[[Call], "_Sequences"]]:
    """The core in the form in which it is measured, and how its calls are read as sequences."""
    if form is not None:
        cell = CalledAs(part, form)
        return cell, lambda call: _Sequences(form.read(call)[None])
    module = part if layer is None else layer
    return module, lambda call: _piece(module, part, call.inputs)


def _feedback(model: nn.Module, core: Core, form: Form | None, calls: list[Call], arguments: Arguments) -> Feedback:
    """Whether a core that is called step by step is given what its own states made."""
    if len(calls) < 3:
        return NONE
    width = getattr(calls[0].inputs, "shape", (1,))[-1]
    inputs = None if form is not None or is_standard(core.module) else torch.zeros(1, width)
    network = Recurrent(core.module, inputs, state=core.state).network
    return feedback_of(model, core.name, arguments, Answers(network, form), calls)


@dataclass(frozen=True)
class _Sequences:
    """Sequences that reach a core, (time, sequences, inputs), and their lengths where they differ."""

    values: Tensor
    lengths: Tensor | None = None


@dataclass(frozen=True)
class _Read:
    """What reached the core in one forward pass, and the initial states that it was given, or None."""

    values: Tensor
    lengths: Tensor | None
    start: Tensor | None


def _merged(core: Core, passes: list[_Read]) -> Core:
    """The core with the sequences of all passes side by side."""
    length = max(len(one.values) for one in passes)
    values = torch.cat([pad(one.values, (0, 0, 0, 0, 0, length - len(one.values))) for one in passes], dim=1)
    lengths = torch.cat([_lengths(one) for one in passes])
    started = any(one.start is not None for one in passes)
    start = torch.cat([_started(one, passes) for one in passes]) if started else None
    return _with(core, inputs=values, lengths=None if bool((lengths == length).all()) else lengths, start=start)


def _with(core: Core, **changes: Any) -> Core:
    return Core(**{**vars(core), **changes})


def _lengths(one: _Read) -> Tensor:
    whole = torch.full((one.values.shape[1],), len(one.values))
    return whole if one.lengths is None else one.lengths


def _started(one: _Read, passes: list[_Read]) -> Tensor:
    """The initial states of a pass; zeros where it was given none."""
    like = next(other.start for other in passes if other.start is not None)
    return like.new_zeros(one.values.shape[1], like.shape[-1]) if one.start is None else one.start


def _read_by_itself(core: nn.Module, arguments: Arguments) -> _Read:
    """Sequences, and a state where one is given, handed to a core that is the model."""
    values = (*arguments.args, *arguments.kwargs.values())
    named = {name: values[i] for i, name in enumerate(_parameters(core)[: len(values)])} if not arguments.kwargs else {}
    first = next(iter(named.values()), None) if named else values[0]
    read = _piece(core, core, first) if isinstance(first, PackedSequence) else _Sequences(_time_first(core, core, first))
    state = values[1] if len(values) > 1 else None
    start = None if state is None or _is_zero(state) else Recurrent(core).pack(*_parts(state)).reshape(-1, Recurrent(core).dim)
    return _Read(read.values, read.lengths, start)


def _parts(state: Any) -> tuple[Any, ...]:
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def _start(core: Core, form: Form | None, runs: list[list[Call]]) -> Tensor | None:
    """The initial states that the model gives its core, one for each sequence; None where they are zero, or cannot be read."""
    first = [run[0] for run in runs]
    states = [_given_state(call, form) for call in first]
    if all(_is_zero(state) for state in states):
        return None
    system = Recurrent(core.module, state=core.state)
    packed = [
        torch.zeros(1, system.dim) if state is None else system.pack(*_parts(state)).reshape(-1, system.dim) for state in states
    ]
    items = max(len(one) for one in packed)
    return torch.cat([one.expand(items, -1) if len(one) == 1 else one for one in packed])


def _given_state(call: Call, form: Form | None) -> Any:
    if form is None:
        return call.state
    try:
        state = form.state(call)
    except (KeyError, IndexError, TypeError):
        return None
    return state if all(isinstance(part, Tensor) for part in state) else None


def _runs(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls sorted into runs: one belongs to the run whose last returned state it was given, else it begins a run."""
    runs: list[list[Call]] = []
    for call in calls:
        run = next((run for run in reversed(runs) if _carried(run[-1], call)), None)
        if run is None:
            runs.append([call])
        else:
            run.append(call)
    return runs


def _carried(before: Call, after: Call) -> bool:
    """Whether a call got the state that another returned, alone or beside an output."""
    returned = before.returned
    second = returned[1] if isinstance(returned, tuple) and len(returned) == 2 else None
    return after.state is not None and any(_equal(after.state, state) for state in (second, returned) if state is not None)


def _equal(one: Any, two: Any) -> bool:
    """Whether two states are the same numbers in one order, whatever they are kept in and what axes of length 1 they have."""
    pairs = list(zip_longest(leaves(one), leaves(two)))
    return bool(pairs) and all(a is not None and b is not None and _same_numbers(a, b) for a, b in pairs)


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.numel() == b.numel() and torch.equal(a.reshape(-1), b.reshape(-1))


def _is_zero(state: Any) -> bool:
    return state is None or not any(bool(part.any()) for part in flatten(state))


def _piece(core: nn.Module, part: nn.Module, values: Any) -> _Sequences:
    """What one call was given, (time, sequences, inputs)."""
    if isinstance(values, PackedSequence):
        padded, lengths = pad_packed_sequence(values)
        return _Sequences(padded, lengths)
    if not isinstance(values, Tensor):
        raise InputError(f"the core is called with a {type(values).__name__} as its input.\nIt must be a tensor.")
    if reads_sequences(core):
        return _Sequences(_time_first(core, part, values))
    if values.ndim not in (1, 2):
        raise ShapeError(
            f"the {describe(part)} is given inputs of shape {tuple(values.shape)}, {values.ndim} axes.\n"
            "A cell's inputs are (batch, inputs), or (inputs) alone."
        )
    return _Sequences(values.reshape(1, -1, values.shape[-1]))


def _joined(run_pieces: list[list[_Sequences]]) -> tuple[Tensor, Tensor | None]:
    """The pieces of each run along time, runs side by side; lengths where packed sequences had them."""
    if any(piece.lengths is not None for run in run_pieces for piece in run):
        if any(len(run) > 1 for run in run_pieces):
            raise InputError(
                "the core reads packed sequences in several pieces that carry the state.\nGive each sequence in one piece."
            )
        singles = [run[0] for run in run_pieces]
        length = max(len(one.values) for one in singles)
        values = torch.cat([pad(one.values, (0, 0, 0, 0, 0, length - len(one.values))) for one in singles], dim=1)
        return values, torch.cat([_lengths(_Read(one.values, one.lengths, None)) for one in singles])
    return torch.cat([torch.cat([piece.values for piece in run]) for run in run_pieces], dim=1), None


def _check_pieces(name: str, runs: list[list[Call]], pieces: list[list[_Sequences]]) -> None:
    """Refuse calls that are neither one run along time nor several of equal length."""
    batches = sorted({piece.values.shape[1] for run in pieces for piece in run})
    if len(batches) > 1:
        raise InputError(
            f"one forward pass calls '{name}' with different batch sizes: {_listed(batches)}.\n"
            "Give inputs for which all calls have the same, such as sequences of equal length."
        )
    lengths = [sum(len(piece.values) for piece in run) for run in pieces]
    first = runs[0][0].state
    if len(runs) > 1 and any(not _is_zero(run[0].state) and not _equal(run[0].state, first) for run in runs):
        raise InputError(
            f"one forward pass calls '{name}' {sum(map(len, runs))} times, in {len(runs)} runs that begin with states that no call "
            "returned: the model changes the state in between.\n"
            "Write the whole step, that change included, as a cell (u, state) → state, and measure that."
        )
    if len(set(lengths)) > 1:
        raise InputError(
            f"one forward pass calls '{name}' for runs of different length: {_listed(sorted(set(lengths)))} steps.\n"
            "Give inputs for which they are equal, or measure the part by itself: sx.Recurrent(part, its inputs)."
        )


def _listed(values: Sequence[object], most: int = 8) -> str:
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")


def _time_first(core: nn.Module, part: nn.Module, values: Tensor) -> Tensor:
    """(time, sequences, inputs) of what a recurrent layer takes, or a cell step by step."""
    if values.ndim not in (2, 3):
        raise ShapeError(
            f"the inputs have {values.ndim} axes, shape {tuple(values.shape)}, but a {describe(part)} takes 2 or 3.\n"
            "Pass (time, inputs), or with a batch of sequences as the module takes it."
        )
    if 0 in values.shape:
        raise ShapeError(f"the inputs are empty: shape {tuple(values.shape)}.")
    width = getattr(core, "input_size", None)
    if isinstance(width, int) and values.shape[-1] != width:
        raise ShapeError(
            f"the inputs have {values.shape[-1]} numbers per step but this {describe(part)} takes {width}.\n"
            f"Pass (time, {width}), or with a batch of sequences as the module takes it."
        )
    if values.ndim == 2:
        return values[:, None]
    return values.transpose(0, 1) if is_batch_first(core) else values


def _example(calls: Sequence[Call]) -> Any:
    """A state without its batch axis, from the first call that was given one; None if none was."""
    call = next((call for call in calls if call.state is not None), None)
    if call is None:
        return None
    flatten(call.state)
    return call.state if call.inputs.ndim == 1 else _first_item(call.state)


def _first_item(state: Any) -> Any:
    return mapped(lambda part: part[0], state)
