"""Finding the recurrent core inside a user's model, and the inputs that reach it."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from separatrix.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.systems.custom_cell import flatten
from separatrix.systems.drives import as_inputs
from separatrix.systems.standard_network import STANDARD, describe
from separatrix.twin import twin


@dataclass(frozen=True)
class Core:
    """The recurrent part of a model.

    Args:
        module: the part itself.
        name: where in the model it sits; empty when the model is the core.
        inputs: what reaches it, shape (time, sequences, inputs), or None.
        state: for a cell that is not PyTorch's, an example of its state without batch axes.
        calls: how often one forward pass of the model called it.
    """

    module: nn.Module
    name: str
    inputs: Tensor | None
    state: Any = None
    calls: int = 1

    @property
    def label(self) -> str:
        """The core in words: GRU(28 → 64) at 'encoder.rnn'."""
        return describe(self.module) + (f" at '{self.name}'" if self.name else "")


def find_core(model: nn.Module, inputs: Any = None, module: str | None = None) -> Core:
    """The recurrent core of a model; with inputs, one forward pass captures what reaches it.

    Args:
        model: any module; a recurrent one is its own core.
        inputs: what the model takes.
        module: the core's name in `model.named_modules()`, where there are several, or where it is a cell of your own.

    Raises:
        UnsupportedModuleError: there is no recurrent part, or several.
        InputError: the forward pass fails, never reaches the core, or hands it something that is no sequence.
    """
    name = _name(model, module)
    core = model.get_submodule(name)
    if inputs is None:
        return Core(core, name, None)
    if core is model and isinstance(core, STANDARD):
        return Core(core, name, _time_first(core, as_inputs(inputs)))
    if core is model:
        return Core(core, name, as_inputs(inputs))
    return _capture(model, name, inputs)


def _name(model: nn.Module, asked: str | None) -> str:
    recurrent = [name for name, part in model.named_modules() if isinstance(part, STANDARD)]
    if asked is not None:
        known = [name for name, _ in model.named_modules() if name]
        if asked not in known:
            listed = ", ".join(recurrent or known[:12]) or "none"
            raise InputError(f"{type(model).__name__} has no module named {asked!r}.\nIts modules: {listed}.")
        return asked
    if len(recurrent) == 1:
        return recurrent[0]
    if recurrent:
        listed = ", ".join(f"{name} = {describe(model.get_submodule(name))}" for name in recurrent)
        raise UnsupportedModuleError(
            f"{type(model).__name__} has {len(recurrent)} recurrent parts: {listed}.\n"
            "Choose one by name: --module NAME, or module=."
        )
    if getattr(model, "hidden_size", None) is not None:
        return ""
    parts = ", ".join(sorted({type(part).__name__ for part in model.modules() if part is not model})) or type(model).__name__
    raise UnsupportedModuleError(
        f"{type(model).__name__} has no recurrent part that is known (RNN, GRU, LSTM or their cells); it consists of: {parts}.\n"
        "If one of its modules is a recurrent cell, (u, state) → state, name it: --module NAME, or module=."
    )


def _capture(model: nn.Module, name: str, inputs: Any) -> Core:
    """Run the model's twin once, in evaluation mode, and keep what its core is called with."""
    view = twin(model)
    core = view.get_submodule(name)
    core.__dict__["_forward_pre_hooks"] = OrderedDict(core._forward_pre_hooks)  # a dictionary of the twin's own
    core.__dict__["_forward_pre_hooks_with_kwargs"] = OrderedDict(core._forward_pre_hooks_with_kwargs)
    calls: list[tuple[Any, Any]] = []
    core.register_forward_pre_hook(lambda _, args, kwargs: calls.append(_arguments(args, kwargs)), with_kwargs=True)
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
    state = None if isinstance(core, STANDARD) else _example(calls[0][1])
    return Core(model.get_submodule(name), name, _joined(core, calls), state, len(calls))


def _as_the_model_takes(model: nn.Module, inputs: Any) -> Tensor:
    """Inputs in the model's dtype and on its device; integers stay so only for a model that looks tokens up."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    values = torch.as_tensor(inputs)
    tokens = not values.is_floating_point() and any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in model.modules())
    return values.to(like.device) if tokens else as_inputs(values).to(like)


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Input and state of one call, positional or named."""
    values = [*args, *kwargs.values()]
    return values[0], values[1] if len(values) > 1 else None


def _joined(core: nn.Module, calls: list[tuple[Any, Any]]) -> Tensor:
    """All calls of one forward pass as one sequence, (time, sequences, inputs)."""
    pieces = [call[0] for call in calls]
    if any(isinstance(piece, PackedSequence) for piece in pieces):
        raise InputError(
            "the core is given a packed sequence, whose sequences end at different steps.\n"
            "Give sequences of equal length (cut to the shortest), so that the model has nothing to pack."
        )
    if not isinstance(core, nn.RNNBase):
        return torch.stack([piece.reshape(-1, piece.shape[-1]) for piece in pieces])
    return torch.cat([_time_first(core, piece) for piece in pieces])


def _time_first(core: nn.Module, values: Tensor) -> Tensor:
    """(time, sequences, inputs) of what a recurrent layer or cell takes."""
    if values.ndim not in (2, 3):
        raise ShapeError(
            f"the inputs have {values.ndim} axes, shape {tuple(values.shape)}, but a {describe(core)} takes 2 or 3.\n"
            "Pass (time, inputs), or with a batch of sequences as the module takes it."
        )
    if 0 in values.shape:
        raise ShapeError(f"the inputs are empty: shape {tuple(values.shape)}.")
    if values.shape[-1] != core.input_size:
        raise ShapeError(
            f"the inputs have {values.shape[-1]} numbers per step but this {describe(core)} takes {core.input_size}.\n"
            f"Pass (time, {core.input_size}), or with a batch of sequences as the module takes it."
        )
    if values.ndim == 2:
        return values[:, None]
    return values.transpose(0, 1) if getattr(core, "batch_first", False) else values


def _example(state: Any) -> Any:
    """A state without its batch axis."""
    if state is None:
        return None
    flatten(state)
    return state[0] if isinstance(state, Tensor) else tuple(_example(part) for part in state)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
