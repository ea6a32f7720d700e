"""Check that autograd differentiates a field correctly: its author may have cut the graph."""

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from separatrix.core.derivative import changed_derivative
from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.randomness import Draws
from separatrix.core.references import ATOMS, parts_of

Velocities = Callable[[Tensor], Tensor]

MOST_KEPT = 64  # closures of one function that are remembered

# Note [Lost gradients]
# detach, torch.no_grad and torch.autograd.grad without create_graph, inside a field, remove its derivative from the graph. The rest
# still has a gradient, that of x0 through the sums of the steps, so the error would go unnoticed. Therefore, the first time a field
# is solved with a gradient, the derivative of a random combination of its velocities is compared with finite differences.


def check_gradient(given: Any, field: Velocities, x: Tensor, *, by_the_graph: bool) -> None:
    """Refuse a field whose gradient in the state is wrong; tested once per field. See Note [Lost gradients].

    Args:
        given: the user's field, the key under which the result is remembered.
        field: states ↦ velocities, both (items, dim).
        x: states near which the field is tested.
        by_the_graph: the user asked for the gradient of the graph as it is: warn only.
    """
    if torch.is_autocast_enabled(x.device.type) or _is_known(given):
        return
    mix = Draws(0, "a mixture of velocities").normal(*x.shape).to(x)

    def mixed(x: Tensor) -> Tensor:
        return (mix * field(x)).sum()[None]

    def pushed(x: Tensor, v: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = mixed(x)
        if not value.requires_grad:
            return torch.zeros_like(value)[None]
        return (torch.autograd.grad(value, x, materialize_grads=True)[0] * v[..., 0, :]).sum()[None, None]

    changed = changed_derivative(mixed, x, pushed)
    if changed is None:
        return _remember(given)
    broken = (
        f"autograd's gradient is not that of the field: along one direction it is {changed[0]:.6g}, while the field changes by "
        f"{changed[1]:.6g}."
    )
    if by_the_graph:
        return warnings.warn(broken, stacklevel=3)
    raise UnsupportedModuleError(
        f"{broken}\n"
        "Let the field keep its graph: no detach, no torch.no_grad, and create_graph=True in torch.autograd.grad, always, since it "
        'runs in evaluation mode; or pass gradient="backpropagation" to train with that gradient anyway.'
    )


_KNOWN: WeakKeyDictionary[Any, set[tuple[int, ...]]] = WeakKeyDictionary()


def _is_known(given: Any) -> bool:
    key, closed = _key(given)
    try:
        return closed in _KNOWN.get(key, ())
    except TypeError:  # an object without weak references or a hash
        return False


def _remember(given: Any) -> None:
    key, closed = _key(given)
    try:
        known = _KNOWN.setdefault(key, set())
    except TypeError:
        return
    if len(known) == MOST_KEPT:
        known.clear()
    known.add(closed)


def _key(given: Any) -> tuple[Any, tuple[int, ...]]:
    """The key of a field: a module itself; for a function, which may be new at each call, its code and what it closes over."""
    code = getattr(getattr(given, "__func__", given), "__code__", None)
    if code is None:
        return given, ()
    return code, tuple(id(part) for part in parts_of(given) if type(part) not in ATOMS)
