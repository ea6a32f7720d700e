"""One forward pass of a model, with the calls of its parts recorded."""

import inspect
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from separatrix.core.arguments import Arguments
from separatrix.core.errors import InputError
from separatrix.core.randomness import seed_generators
from separatrix.core.structure import mapped
from separatrix.core.twin import twin

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


@dataclass
class Call:
    """One call of a part: copies of its arguments, by the names of its forward's parameters, and of its return value."""

    given: dict[str, Any]
    returned: Any = None

    @property
    def inputs(self) -> Any:
        """The first argument."""
        return next(iter(self.given.values()), None)

    @property
    def state(self) -> Any:
        """The second argument, or None."""
        return (*self.given.values(), None, None)[1]


@dataclass
class Recording:
    """The calls of each part in one forward pass, in order, and the model's return value."""

    calls: dict[str, list[Call]] = field(default_factory=dict)
    returned: Any = None


def record(model: nn.Module, arguments: Arguments, names: Iterable[str]) -> Recording:
    """Run the model's twin once, in evaluation mode, and record the calls of the named parts and of their `forward`.

    Raises:
        InputError: the forward pass fails.
    """
    view = twin(model, apart=True)
    recording = Recording()
    for name in names:
        part = view.get_submodule(name)
        if not isinstance(part, torch.jit.ScriptModule):
            recording.calls[name] = listen(part)
    with torch.no_grad():
        recording.returned = run(view, arguments, type(model).__name__)
    return recording


def run(view: nn.Module, arguments: Arguments, label: str) -> Any:
    """The model's output; an error that it raises is reported with its inputs. Draws do not affect the global generator."""
    try:
        with torch.random.fork_rng(devices=[]):
            seed_generators(0)
            return arguments.call(view)
    except Exception as error:  # user code may raise anything; the message repeats it
        raise InputError(
            f"{label} failed on inputs of shape {arguments.shapes}: {type(error).__name__}: {first_line(error)}\n"
            f"{arguments.way_out}"
        ) from error


def listen(part: nn.Module) -> list[Call]:
    """Record the calls of a twin's part: the arguments before any hook changes them, the return value after all hooks."""
    for hooks in HOOKS:  # give the twin its own dictionaries
        part.__dict__[hooks] = OrderedDict(getattr(part, hooks))
    calls: list[Call] = []
    entered: list[Call] = []
    forward = part.forward
    signature = inspect.signature(forward)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(Call(named(signature, args, kwargs)))
        calls.append(entered[-1])

    def listening(*args: Any, **kwargs: Any) -> Any:
        call = entered.pop() if entered else Call(named(signature, args, kwargs))
        if not any(call is known for known in calls[-1:]):  # its forward was called directly, bypassing the hooks
            calls.append(call)
        returned = forward(*args, **kwargs)
        call.returned = kept(returned)
        left.append(call)
        return returned

    def after(_: nn.Module, __: tuple[Any, ...], returned: Any) -> None:
        if left:
            left[-1].returned = kept(returned)

    left: list[Call] = []
    part.__dict__["forward"] = listening
    part.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    part.register_forward_hook(after)
    return calls


@contextmanager
def replaced(part: nn.Module, forward: Any) -> Iterator[None]:
    """Temporarily replace the forward of a twin's part."""
    own = part.__dict__.get("forward")
    part.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del part.__dict__["forward"]
        else:
            part.__dict__["forward"] = own


def named(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Copies of a call's arguments, by name; a variable number of arguments is numbered."""
    plain = [name for name, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(plain) < 2:
        return {str(i): kept(value) for i, value in enumerate((*args, *kwargs.values()))}
    bound = signature.bind(*args, **kwargs).arguments
    return {name: kept(value) for name, value in bound.items()}


def kept(value: Any) -> Any:
    """A copy of the tensors, because the model may change them in place later."""
    return mapped(lambda tensor: tensor.detach().clone(), value)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0]
