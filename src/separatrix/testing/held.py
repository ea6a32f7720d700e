"""How many bytes a pass leaves behind for the way back."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Held:
    """A tensor that a graph has saved, for as long as the graph keeps it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def held_bytes(run: Callable[[Tensor], Any], x: Tensor, *, apart_from: nn.Module | None = None) -> int:
    """Bytes that autograd holds between a forward and a backward pass, each storage counted once.

    They are the same on every machine, unlike a process's peak.

    Args:
        run: the forward pass.
        x: what it is called on.
        apart_from: a module whose parameters are not counted, because they are there anyway.

    Example:
        >>> sx.testing.held_bytes(torch.exp, torch.ones(1_000, requires_grad=True))  # the result, in float32
        4000
    """
    weights = set() if apart_from is None else {place(parameter) for parameter in apart_from.parameters()}
    kept: weakref.WeakSet[Held] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Held:
        kept.add(held := Held(tensor.detach()))  # the output of a node would keep the node, which keeps it
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        value = run(x)
    storages = {place(held.tensor): held.tensor.untyped_storage().nbytes() for held in kept}
    del value  # until here the graph lives
    return sum(size for where, size in storages.items() if where not in weights)


def place(tensor: Tensor) -> int:
    """Where its storage is, which views share."""
    return tensor.untyped_storage().data_ptr()
