"""The tensors of a field that receive gradients: found, replaced, and checked for completeness."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError
from separatrix.core.twin import twin
from separatrix.flows.field import Field

# Note [Hidden tensors]
# A field may depend on tensors that it does not own: a function may close over a parameter. A gradient computed without the graph
# would omit them silently. So the field is evaluated once with all of its own tensors detached; any remaining graph may lead to a
# hidden tensor. A field with autograd inside, such as a Hamiltonian network, leaves a graph too, but one that leads to the
# given state and to leaves that it creates at each call. Leaves that two calls share existed before, and are hidden. Then the
# graph is kept. A hidden tensor that only appears later, in another branch of the field, is found where its step is recomputed.


@dataclass(frozen=True)
class Tensors:
    """The tensors of a twin that require gradients, each once.

    Args:
        values: the tensors, without duplicates.
    """

    values: tuple[Tensor, ...]

    @classmethod
    def of(cls, field: Field) -> "Tensors":
        """The tensors of a field, which is a twin."""
        found = {id(tensor): tensor for tensor in (*field.parameters(), *field.buffers()) if tensor.requires_grad}
        return cls(tuple(found.values()))

    def replaced(self, field: Field, leaves: Sequence[Tensor]) -> Field:
        """A copy of the field with other tensors in their places."""
        fresh = {id(value): leaf for value, leaf in zip(self.values, leaves, strict=True)}
        copy = twin(field)
        for module in copy.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                _replace(module, fresh)
        return copy


def hidden(value: Tensor, again: Callable[[], Tensor], known: Sequence[Tensor] = ()) -> list[Tensor]:
    """The leaves of a value's graph that existed before it was computed and are not known. See Note [Hidden tensors].

    Args:
        value: a tensor that may have a graph.
        again: recomputes it, from new tensors except for the known ones.
        known: leaves to ignore.
    """
    found = _leaves(value, known)
    return [leaf for key, leaf in _leaves(again(), known).items() if key in found] if found else []


def check_nothing_hidden(value: Tensor, again: Callable[[], Tensor], known: Sequence[Tensor]) -> None:
    """Refuse a graph with leaves other than the known ones and those created by the computation."""
    for leaf in hidden(value, again, known):
        raise InputError(
            f"the field depends on a tensor of shape {tuple(leaf.shape)} that requires a gradient but is not its parameter.\n"
            'Make the field an nn.Module that owns it; or pass gradient="backpropagation".'
        )


def _leaves(value: Tensor, known: Sequence[Tensor]) -> dict[int, Tensor]:
    """The leaves of a value's graph by identity, without the known ones."""
    allowed, seen, stack, found = {id(tensor) for tensor in known}, set(), [value.grad_fn], {}
    if value.requires_grad and value.grad_fn is None and id(value) not in allowed:
        found[id(value)] = value
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable") and id(node.variable) not in allowed:
            found[id(node.variable)] = node.variable
        stack += [parent for parent, _ in node.next_functions]
    return found


def as_at_first(x: Tensor) -> Callable[[], AbstractContextManager]:
    """The current autocast context, to be entered again when the steps are recomputed."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext
    dtype = torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype)


def _replace(module: nn.Module, fresh: dict[int, Tensor]) -> None:
    for held in (module._parameters, module._buffers):
        for name, tensor in held.items():
            if id(tensor) in fresh:
                held[name] = fresh[id(tensor)]
    if "_flat_weights_names" in module.__dict__:  # recurrent layers keep a second list of their weights
        names = module.__dict__["_flat_weights_names"]
        module.__dict__["_flat_weights"] = [getattr(module, name, None) for name in names]
