"""What `torch.compile`, `torch.export` and `torch.jit.trace` make of a solver that looks at its numbers."""

from collections.abc import Callable
from typing import Any

import torch

from separatrix.core.errors import InputError

NO_GRAPH = "sx.solve looks at its numbers to choose and check its steps, so that no graph of it can be kept"
INSTEAD = "Take sx.nn.NeuralODE(field, dim, time=..., dt=...), whose equal steps make one graph."
BREAK = f"{NO_GRAPH}. {INSTEAD}"


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as `torch.compile` is to leave it: it runs as it is between two compiled parts."""
    return torch.compiler.disable(function, reason=BREAK)


def check_traceable() -> None:
    """Refuse to be exported or traced."""
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        raise InputError(f"{NO_GRAPH}.\n{INSTEAD}")
