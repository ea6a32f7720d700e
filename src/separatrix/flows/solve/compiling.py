"""Behaviour of the solver under `torch.compile`, `torch.export` and `torch.jit.trace`."""

from collections.abc import Callable
from typing import Any

import torch

from separatrix.core.errors import InputError

NO_GRAPH = "sx.solve reads tensor values to choose and check its steps, so it cannot be captured as one graph"
INSTEAD = "Use sx.nn.NeuralODE(field, dim, time=..., dt=...), whose equal steps form one graph."
BREAK = f"{NO_GRAPH}. {INSTEAD}"


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Exclude the function from `torch.compile`: it runs eagerly between two compiled parts."""
    return torch.compiler.disable(function, reason=BREAK)


def check_traceable() -> None:
    """Refuse export and tracing."""
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        raise InputError(f"{NO_GRAPH}.\n{INSTEAD}")
