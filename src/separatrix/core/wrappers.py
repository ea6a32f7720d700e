"""Wrappers: modules that only pass a call on to another, such as compiled, data-parallel or trainer modules.

A wrapper is recognised by its class (torch.compile, DataParallel, DistributedDataParallel), or by a trial call: its child is
replaced by a stand-in, and a wrapper passes its arguments to the child and returns the child's result.
"""

import inspect
from typing import Any

import torch
from torch import nn

CHILDREN = ("module", "model", "_orig_mod", "_forward_module")  # attributes in which wrappers keep the wrapped module
ADDED = "_orig_mod"  # inserted by torch.compile into the names of a module's parts


def unwrapped(model: Any) -> Any:
    """The module or function inside its wrappers; any other object unchanged. Nothing is compiled or run."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def bare(model: Any) -> Any:
    """The model without its wrappers and those of its parts, as new module objects with the same tensors.

    A model without wrappers is returned unchanged.
    """
    model = unwrapped(model)
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return model
    is_wrapped = any(of_wrapper(part) is not None or _is_restored(part) for part in model.modules())
    return _copy(model, {}) if is_wrapped else model


def plain_name(name: str) -> str:
    """The name of a part in the original model, without the pieces that torch.compile inserts."""
    return ".".join(piece for piece in name.split(".") if piece != ADDED)


def part_named(model: nn.Module, name: str) -> str | None:
    """The name in `model` of a part that the user names with or without a wrapper's prefix; None if there is no such part."""
    known = {plain_name(own): own for own, _ in model.named_modules()}
    wanted = plain_name(name)
    pieces = wanted.split(".")
    tries = [wanted]
    while pieces and pieces[0] in CHILDREN:
        pieces = pieces[1:]
        tries.append(".".join(pieces))
    fits = [known[attempt] for attempt in tries if attempt in known]
    if fits:
        return fits[0]
    longer = [own for plain, own in known.items() if _is_prefixed(plain, wanted)]
    return longer[0] if len(longer) == 1 else None


def _is_prefixed(name: str, wanted: str) -> bool:
    """Whether a name is the wanted one, preceded only by names of wrappers."""
    pieces, end = name.split("."), wanted.split(".")
    return pieces[-len(end) :] == end and all(piece in CHILDREN for piece in pieces[: -len(end)])


def _inside(model: Any) -> Any:
    if not isinstance(model, nn.Module):
        return getattr(model, "_torchdynamo_orig_callable", None)
    if isinstance(model, torch.jit.ScriptModule):
        return None
    return inner if (inner := of_wrapper(model)) is not None else _passed_on_to(model)


def of_wrapper(model: nn.Module) -> nn.Module | None:
    """The module inside one of PyTorch's own wrappers; None for any other module."""
    if ADDED in model._modules:
        return model._modules[ADDED]
    return model._modules["module"] if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else None


def _is_restored(model: nn.Module) -> bool:
    """Whether a trainer has replaced the module's forward and kept the original."""
    return "forward" in vars(model) and "_original_forward" in vars(model)


def _passed_on_to(model: nn.Module) -> nn.Module | None:
    """The child to which a module only passes its calls on, or None, found by calling a copy of the module with stand-ins."""
    if model._forward_hooks or model._forward_pre_hooks or "forward" in vars(model):
        return None
    names = [name for name in CHILDREN if model._modules.get(name) is not None]
    counts = _counts(model) if names else []
    found = (name for name in names if counts and all(_passes_on(model, name, count) for count in counts))
    return next((model._modules[name] for name in found), None)


def _counts(model: nn.Module) -> list[int]:
    """The numbers of positional arguments with which a module's forward may be called."""
    try:
        parameters = inspect.signature(type(model).forward).parameters.values()
    except (TypeError, ValueError):
        return []
    places = [p for p in list(parameters)[1:] if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = sum(p.default is p.empty for p in places)
    most = max(2, least) if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(places)
    return list(range(max(least, 1), most + 1))


class _StandIn(nn.Module):
    """Replacement for a wrapper's child that records its arguments and returns a fixed object."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__.update(calls=[], answer=object())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((*args, *kwargs.values()))
        return self.answer


def _passes_on(model: nn.Module, name: str, count: int) -> bool:
    copy, child = object.__new__(type(model)), _StandIn()
    copy.__dict__ = dict(model.__dict__)
    copy.__dict__["_modules"] = {name: child}
    given = tuple(object() for _ in range(count))
    try:
        returned = type(model).forward(copy, *given)
    except Exception:  # user code that does more than pass a call on
        return False
    if returned is not child.answer or len(child.calls) != 1:
        return False
    passed = child.calls[0]
    return passed[:count] == given and all(rest is None for rest in passed[count:])


def _copy(module: Any, done: dict[int, Any]) -> Any:
    """A copy of the module objects that shares the tensors and omits wrappers."""
    if id(module) in done:
        return done[id(module)]
    if (inner := of_wrapper(module)) is not None:
        return _copy(inner, done)
    if isinstance(module, torch.jit.ScriptModule):
        return module
    copy = object.__new__(type(module))
    done[id(module)] = copy
    copy.__dict__ = dict(module.__dict__)
    if _is_restored(module):
        del copy.__dict__["forward"], copy.__dict__["_original_forward"]
    copy.__dict__["_compiled_call_impl"] = None
    copy.__dict__["_modules"] = {name: None if child is None else _copy(child, done) for name, child in module._modules.items()}
    return copy
