"""From a module and a name in it to a network: look up the factory and call it without arguments."""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import nn

from separatrix.core.errors import ModelError
from separatrix.loading.finding import instead_of, listed
from separatrix.loading.user_code import blaming


def network_of(module: ModuleType, attribute: str, location: str) -> nn.Module:
    """The network that an attribute of a module is, or builds.

    Args:
        module: the user's module, imported.
        attribute: a name in it, which may be dotted.
        location: the module as the user wrote it.
    """
    return _build(_look_up(module, attribute, location), location, attribute)


def _look_up(module: ModuleType, attribute: str, location: str) -> Any:
    owner: Any = module
    for name in attribute.split("."):
        with blaming(f"{location}:{attribute} failed"):
            found = getattr(owner, name, _look_up)
        if found is _look_up:
            where = location if owner is module else f"{location}:{getattr(owner, '__name__', type(owner).__name__)}"
            raise ModelError(f"{where} does not define {name!r}.\n{instead_of(name, _defined(owner, module), 'It defines')}")
        owner = found
    return owner


def _build(factory: Any, location: str, attribute: str) -> nn.Module:
    named = f"{location}:{attribute}"
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(f"{named} is {_what(factory)}.\nName a network, or a function that builds one.")
    if needed := _required(factory):
        call = f"{attribute}({', '.join(f'{name}=…' for name in needed)})"
        count = "1 argument" if len(needed) == 1 else f"{len(needed)} arguments"
        raise ModelError(
            f"{named} needs {count} ({listed(needed)}), but a factory is called without arguments.\n"
            f"Add defaults, or add a function to {location}: def make_model(): return {call}"
        )
    with blaming(f"{named} failed"):
        model = factory()
    if not isinstance(model, nn.Module):
        raise ModelError(f"{named} returned {_what(model)}, not an nn.Module.\nReturn the network itself.")
    return model


def _required(factory: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _what(value: Any) -> str:
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"


def _defined(owner: Any, module: ModuleType) -> list[str]:
    """The networks, functions and classes that a module, or a class in it, defines itself."""
    return [
        name
        for name, value in getattr(owner, "__dict__", {}).items()
        if not name.startswith("_")
        and (
            isinstance(value, nn.Module) or (callable(value) and str(getattr(value, "__module__", "")).startswith(module.__name__))
        )
    ]
