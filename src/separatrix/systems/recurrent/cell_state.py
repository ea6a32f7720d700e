"""The state of a custom recurrent cell: its structure, complex numbers in it, and its place in the cell's return value."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from separatrix.core.checks import check_choice
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.structure import Nested, children, leaves, mapped

Structure = Nested

NAMES = ("state", "hidden", "h", "hx", "h_n", "hn", "new_state", "next_state", "new_h", "h_new", "carry")
OUTPUTS = ("out", "output", "outputs", "y", "readout", "logits", "prediction", "pred")
RETURNS = {"state": None, "out, state": 1, "state, out": 0}

# Note [Which part is the state]
# A cell returns its state, or its state and an output, in either order. If only one part has the structure and shapes of a state,
# it is the state. If several have, they may be the same numbers (then either will do), or they may be named; otherwise the
# autograd graph decides. A readout is a function of the new state alone: every path from it back to the old state leads through
# the new one. The converse does not hold, because a state that is computed from an output (a spike, a gate's candidate) also
# reaches the old state without passing through that output. If neither leads through the other, the user must decide.


class Form:
    """Nested containers of a state without its tensors. Lists and tuples are equal, named or not; mappings ignore order.

    Args:
        state: a tensor, or containers of tensors.
    """

    def __init__(self, state: Structure) -> None:
        self.template = mapped(lambda _: _LEAF, state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and _outline(self.template) == _outline(other.template)

    def __hash__(self) -> int:
        return hash(repr(_outline(self.template)))


_LEAF = type("Leaf", (), {"__repr__": lambda _: "tensor"})()


def _outline(template: Any) -> Any:
    parts = children(template)
    if parts is None:
        return (type(template).__name__, template) if template is not _LEAF else None
    is_ordered = isinstance(template, tuple | list)
    return tuple(_outline(part) if is_ordered else (name, _outline(part)) for name, part in parts)


def flatten(state: Structure) -> list[Tensor]:
    """The tensors of a nested state, in order."""
    if isinstance(state, Tensor):
        return [state]
    if children(state) is None:
        kind = type(state).__name__
        raise UnsupportedModuleError(f"expected a state of a tensor, or of tuples, dicts or dataclasses of tensors, got {kind}.")
    return leaves(state)


def skeleton(state: Structure) -> Form:
    """The structure of a state without its tensors."""
    return Form(state)


def fill(structure: Form, tensors: Any) -> Structure:
    """The inverse of `flatten`: tensors in the containers of the original state."""
    if structure.template is _LEAF:
        return next(tensors)
    return mapped(lambda tensor: tensor, structure.template, lambda leaf: next(tensors) if leaf is _LEAF else leaf)


def shapes_of(state: Structure) -> list[tuple[tuple[int, ...], bool]]:
    """The shape of each tensor of a state, and whether its numbers are complex."""
    return [(tuple(tensor.shape), tensor.is_complex()) for tensor in flatten(state)]


def place_in(returned: Any, returns: str) -> int | None:
    """Index of the part of a cell's return value that is its state, as the user says; None: the whole value."""
    check_choice("returns", returns, RETURNS)
    place = RETURNS[returns]
    count = len(parts) if (parts := children(returned)) is not None else 0
    if place is not None and count < 2:
        raise InputError(f"returns is {returns!r}, but the cell returns a {type(returned).__name__}, not a pair.")
    return place


def places(returned: Any, state: Structure) -> list[int | None]:
    """Indices of the parts of a cell's return value with the structure and shapes of its state; None: the whole value."""
    if _fits(returned, state):
        return [None]
    parts = children(returned) if not isinstance(returned, Tensor) else None
    return [i for i, (_, part) in enumerate(parts or []) if _fits(part, state)]


def part_of(returned: Any, place: int | None) -> Structure:
    """The part of a return value with that index."""
    if place is None:
        return returned
    return (children(returned) or [])[place][1]


def chosen(cell: nn.Module, u: Tensor, state: Structure, label: str) -> int:
    """Decide which of several parts that look like a state is the state. See Note [Which part is the state].

    Args:
        cell: (u, state) → several parts.
        u: one input, shape (1, inputs).
        state: one random state.
        label: name of the cell, for the error.
    """
    with torch.enable_grad():
        old = mapped(lambda tensor: tensor.detach().clone().requires_grad_(), state)
        returned = cell(u, old)
    found = [place for place in places(returned, state) if place is not None]
    parts = {place: part_of(returned, place) for place in found}
    first = parts[found[0]]
    if all(_same(part, first) for part in parts.values()):
        return found[0]
    named = _named(returned, found)
    if named is not None:
        return named
    starts = {get_gradient_edge(tensor).node for tensor in leaves(old)}
    led = [place for place in found if all(_leads_through(parts[other], starts, parts[place]) for other in found if other != place)]
    if len(led) == 1:
        return led[0]
    raise UnsupportedModuleError(
        f"{label}(u, state) returns {len(found)} parts with the shape of its state, and it cannot be inferred which is the state.\n"
        'Pass returns="out, state" or returns="state, out".'
    )


def _fits(part: Any, state: Structure) -> bool:
    if not isinstance(part, Tensor) and children(part) is None:
        return False
    return skeleton(part) == skeleton(state) and [s for s, _ in shapes_of(part)] == [s for s, _ in shapes_of(state)]


def _same(one: Structure, two: Structure) -> bool:
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(two), strict=True))


def _named(returned: Any, found: list[int]) -> int | None:
    """The part whose name is that of a state, if exactly one is, or if all others have the name of an output."""
    if not (isinstance(returned, Mapping) or hasattr(returned, "_fields") or hasattr(returned, "__dataclass_fields__")):
        return None
    names = {place: (children(returned) or [])[place][0].lower() for place in found}
    states = [place for place, name in names.items() if name in NAMES]
    others = [place for place, name in names.items() if name not in OUTPUTS]
    return states[0] if len(states) == 1 else others[0] if len(others) == 1 else None


def _leads_through(part: Structure, starts: set[Any], through: Structure) -> bool:
    """Whether every path in the graph from a part back to the old state passes through another part."""
    closed = {_key(get_gradient_edge(tensor)) for tensor in leaves(through) if tensor.requires_grad}
    todo = [_key(get_gradient_edge(tensor)) for tensor in leaves(part) if tensor.requires_grad]
    seen: set[Any] = set()
    while todo:
        node, number = todo.pop()
        if node is None or (node, number) in closed or (node, number) in seen:
            continue
        if node in starts:
            return False
        seen.add((node, number))
        todo.extend(node.next_functions)
    return True


def _key(edge: GradientEdge) -> tuple[Any, int]:
    return edge.node, edge.output_nr


def misfit(label: str, given: Structure, returned: Any) -> ShapeError:
    """The error for a cell that returns nothing that could be its state."""
    wanted = [shape for shape, _ in shapes_of(given)]
    if isinstance(returned, Tensor) or children(returned) is not None:
        got = [tuple(tensor.shape) for tensor in leaves(returned)]
        kept = _changed(given, returned)
        more = f" {kept}" if kept else ""
        return ShapeError(
            f"expected {label} to return a state of shapes {wanted}, like the one it received; got shapes {got}.{more}"
        )
    kind = type(returned).__name__
    return ShapeError(f"expected {label} to return a state of shapes {wanted}, like the one it received; got a {kind}.")


def _changed(given: Structure, returned: Any) -> str:
    """A sentence if a number outside the tensors changed, which a state vector cannot hold; otherwise empty."""
    before, after = children(given) or [], dict(children(returned) or [])
    for name, value in before:
        if isinstance(value, bool | int | float | str) and name in after and after[name] != value:
            return (
                f"It changed {name} from {value!r} to {after[name]!r}, which is not a tensor.\n"
                "Make it a tensor, or remove it from the state."
            )
    return ""
