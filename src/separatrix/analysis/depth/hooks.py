"""Forward hooks that report the output of each layer of a network's twin."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

Call = tuple[str, int]  # name of a module and number of its call, from 1
Listener = Callable[[Call, Any, Any], Any]


class LayerHooks:
    """Forward hooks on modules, with numbered calls.

    Args:
        modules: modules of a twin by name; the twin has its own dictionaries of hooks, so the user's module is not changed.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._listener: Listener | None = None
        self._counts: Counter[str] = Counter()
        for name, module in modules.items():
            module.__dict__["_forward_hooks"] = OrderedDict(module._forward_hooks)
            module.register_forward_hook(partial(self._left, name))

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """A context for one pass, in which listener(call, arguments, output) is called after each module.

        A return value other than None replaces the module's output.
        """
        self._listener, self._counts = listener, Counter()
        try:
            yield
        finally:
            self._listener = None

    def _left(self, name: str, _: nn.Module, given: Any, returned: Any) -> Any:
        if self._listener is None:
            return None
        self._counts[name] += 1
        return self._listener((name, self._counts[name]), given, returned)


def label(call: Call) -> str:
    """The name of a call: "block", "block:2" for its second call, "output" for the model itself."""
    name, number = call
    return (name or "output") + (f":{number}" if number > 1 else "")


def floating(value: Any) -> Tensor | None:
    """The first floating-point tensor in the output of a module."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return next((found for part in parts if (found := floating(part)) is not None), None)


def first_line(error: Exception) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
