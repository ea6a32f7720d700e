"""Trial calls without random draws."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Silence(TorchDispatchMode):
    """Mode in which random draws are constants, so that a layer with noise in its step can be tried."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and isinstance(value, Tensor):
            value.fill_(0 if "normal" in func.name() or "randn" in func.name() else 1)
        return value


@contextmanager
def without_draws() -> Iterator[None]:
    """A context without random draws, which leaves the global generator unchanged."""
    with torch.random.fork_rng(devices=[]), _Silence():
        yield
