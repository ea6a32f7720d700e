"""Handwritten activations: one function for positive numbers, another for the rest, which agree at 0.

Note [Sides]
where(x > 0, a(x), b(x)), elementwise with a(0) = b(0) = 0, is continuous, and its slopes are those of a and b, so its Lipschitz
constant is the larger of theirs. Nothing else is accepted: with another threshold, a comparison of another tensor, or branches that
do not vanish at 0, it may jump.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.rules import bound_behind

COMPARISONS = {"ge", "gt", "le", "lt"}

VANISHING = {
    *("abs", "arctan", "asinh", "atan", "celu", "div", "elu", "erf", "gelu", "hardswish", "leaky_relu", "mish", "mul", "neg"),
    *("relu", "selu", "silu", "sin", "tanh"),
}
"""Operators that act number by number, and are 0 at 0."""


def compares(node: Node) -> bool:
    """Whether it compares numbers: a mask, which needs no bound until it is used."""
    return _name(node) in COMPARISONS


def asks_for_sign(node: Node) -> bool:
    """Whether it compares a tensor to the number 0."""
    return _name(node) in COMPARISONS and len(node.args) == 2 and isinstance(node.args[0], Node) and _is_zero_number(node.args[1])


def steepest_side(
    node: Node, first: Callable[[Node], Node], call: Callable[[Node, Node], Call], constant: Callable[[Node], Any | None]
) -> tuple[Node, float] | None:
    """The tensor by whose signs an operator selects, and its Lipschitz factor in it; None if it is not such an activation.

    Args:
        node: the operator.
        first: maps a node to the representative of all nodes with the same numbers.
        call: the call of a node, without the bound of its parent.
        constant: the value of a node that does not depend on the input, otherwise None.
    """
    parts = _parts(node)
    if parts is None or not isinstance(parts[0], Node) or not asks_for_sign(parts[0]):
        return None
    x: Any = parts[0].args[0]
    if constant(x) is not None or not x.meta["val"].is_floating_point() or x.meta["val"].shape != node.meta["val"].shape:
        return None
    slopes = [_slope(part, x, first, call, constant) for part in parts[1:]]
    return None if None in slopes else (x, max(slopes))


def _parts(node: Node) -> list[Any] | None:
    """The comparison, and the two branches."""
    if node.kwargs:
        return None
    if _name(node) == "where" and len(node.args) == 3:
        return list(node.args)
    if _name(node) == "masked_fill" and len(node.args) == 3:
        return [node.args[1], node.args[0], node.args[2]]
    if _name(node) == "mul":
        one, other = node.args
        return [other, one] if isinstance(other, Node) and asks_for_sign(other) else [one, other]
    return None


def _slope(part: Any, x: Node, first: Any, call: Any, constant: Any) -> float | None:
    """The Lipschitz constant of a branch as an elementwise function of x; None if it is not one, or is not 0 at 0."""
    if not isinstance(part, Node):
        return 0.0 if _is_zero_number(part) else None
    value = constant(part)
    if value is not None:
        return 0.0 if isinstance(value, Tensor) and value.dtype == x.meta["val"].dtype and not value.any() else None
    if first(part) is first(x):
        return 1.0
    parents = [one for one in part.all_input_nodes if constant(one) is None]
    if _name(part) not in VANISHING or len(parents) != 1 or first(parents[0]) is not first(x):
        return None
    try:
        of_part = call(part, parents[0])
        is_alone = len(of_part.active) == 1 and of_part.active[0].shape == of_part.shape == tuple(x.meta["val"].shape)
        return bound_behind(of_part)[1].value if is_alone else None
    except NoBoundError:
        return None


def _is_zero_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _name(node: Node) -> str:
    is_aten = isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"
    return node.target._schema.name.partition("::")[2] if is_aten else ""
