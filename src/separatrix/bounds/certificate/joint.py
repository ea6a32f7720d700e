"""Joint bounds of several nodes that contain the same numbers.

Note [Together]
‖(u, v) − (u′, v′)‖ is at most √(L_u² + L_v²) ‖x − x′‖, and often less. Slices and copies of one tensor contain each of its numbers
a few times: the factor is √ of the largest count. The larger and the smaller of two numbers are these two numbers, sorted, and
the largest and the smallest of several are two of them, sorted; sorting is 1-Lipschitz. Results of equal computations are equal.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from separatrix.bounds.certificate.rounding import root, root_of_squares, times

LARGEST = 1 << 22  # size of the largest tensor whose slices are tracked

CUTS = {
    *(
        "alias",
        "clone",
        "chunk",
        "contiguous",
        "diagonal",
        "expand",
        "flatten",
        "flip",
        "index",
        "index_select",
        "movedim",
        "narrow",
    ),
    *("permute", "reshape", "roll", "rot90", "select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "t", "tile"),
    *("transpose", "unbind", "unflatten", "unfold", "unsqueeze", "view", "_unsafe_view", "repeat", "channel_shuffle"),
    *("pixel_shuffle", "pixel_unshuffle"),
}
"""Operators each number of which is one of their first argument's."""

SORTERS = {"max.other": "min.other", "maximum.default": "minimum.default", "amax.default": "amin.default", "max.dim": "min.dim"}
"""The larger of two and the smaller, the largest of several and the smallest."""

REPEATED = {"alias.default", "clone.default", "contiguous.default", "detach.default", "lift_fresh_copy.default"}
"""Operators that give their first argument itself."""

Source = tuple[Node, Tensor | None]


class Together:
    """Bounds of several nodes at once.

    Args:
        reach: bound of each node that depends on the input, by itself.
        run: the outputs of an operator on what stands for its one argument that depends on the input.
    """

    def __init__(self, reach: dict[Node, float], run: Callable[[Node, Tensor], list[Tensor]]) -> None:
        self.reach, self.run = reach, run
        self.sources: dict[Node, Source] = {}
        self.firsts: dict[Any, Node] = {}
        self.known: dict[Node, Node] = {}

    def bound(self, nodes: Sequence[Node]) -> float:
        """√(Σ over what they are cut from of how often a number of it is held × its bound²), or less."""
        apart = root_of_squares([self.reach[node] for node in nodes])
        groups: dict[Node, list[Tensor | None]] = {}
        for node in self._before_sorting(list(nodes)):
            source, places = self._source(node)
            groups.setdefault(source, []).append(places)
        return min(apart, root_of_squares([self._of(source, parts) for source, parts in groups.items()])) if groups else apart

    def _of(self, source: Node, parts: list[Tensor | None]) -> float:
        if parts == [None]:
            return self.reach[source]
        count = source.meta["val"].numel()
        held = torch.cat([torch.arange(count) if part is None else part for part in parts])
        return times(root(float(held.bincount().max())) if len(held) else 0.0, self.reach[source])

    def _source(self, node: Node) -> Source:
        """The node that this one is cut from, and the places there of its numbers; itself where it is no cut."""
        if node not in self.sources:
            self.sources[node] = self._cut(node) or (self.first(node), None)
        return self.sources[node]

    def _cut(self, node: Node) -> Source | None:
        cut = _operator_of(node)
        parent = cut.args[0] if cut.args else None
        if not isinstance(parent, Node) or _overload(cut).partition(".")[0] not in CUTS:
            return None
        value = parent.meta.get("val")
        if [one for one in cut.all_input_nodes if one in self.reach] != [parent] or not isinstance(value, Tensor):
            return None
        if value.numel() > LARGEST:
            return None
        source, places = self._source(parent)
        numbers = torch.arange(value.numel()) if places is None else places
        try:
            made = self.run(cut, numbers.reshape(value.shape))
        except Exception:  # it cuts at places drawn at random, or by rules of its own: nothing is known of its places
            return None
        place = node.args[1] if node is not cut else 0
        if not isinstance(place, int) or made[place].dtype != numbers.dtype:  # what reads the bits as other numbers is no cut
            return None
        return source, made[place].reshape(-1)

    def _before_sorting(self, nodes: list[Node]) -> list[Node]:
        """In the place of the larger and the smaller of two, these two."""
        for larger in list(nodes):
            smaller = next((node for node in nodes if larger in nodes and self._sort(larger, node)), None)
            if smaller is not None:
                nodes.remove(larger)
                nodes.remove(smaller)
                nodes += [node for node in _operator_of(larger).all_input_nodes if node in self.reach]
        return nodes

    def _sort(self, larger: Node, smaller: Node) -> bool:
        """Whether they are the larger and the smaller of the same."""
        places = [node.args[1] for node in (larger, smaller) if node.target is operator.getitem]
        if places not in ([], [0, 0]):
            return False
        shapes = {tuple(node.meta["val"].shape) for node in (larger, smaller)}
        larger, smaller = _operator_of(larger), _operator_of(smaller)
        kind = _overload(larger)
        if kind not in SORTERS or _overload(smaller) != SORTERS[kind] or larger.kwargs != smaller.kwargs:
            return False
        if "other" in kind or "maximum" in kind:
            inputs = larger.all_input_nodes
            shapes |= {tuple(node.meta["val"].shape) for node in inputs}
            return len(inputs) == len(shapes) + 1 == 2 and self._are(inputs, smaller.all_input_nodes)
        (inner,) = larger.all_input_nodes
        several = inner.meta["val"].numel() >= 2 * math.prod(next(iter(shapes)))
        return several and larger.args[1:] == smaller.args[1:] and self._are([inner], smaller.all_input_nodes)

    def _are(self, nodes: list[Node], others: list[Node]) -> bool:
        """Whether they hold the same numbers, in any order."""
        return len(nodes) == len(others) and all(any(self._is(a, b) for b in others) for a in nodes)

    def _is(self, a: Node, b: Node) -> bool:
        (one, places), (other, others) = self._source(a), self._source(b)
        if places is None or others is None:
            return one is other and places is others
        return one is other and torch.equal(places, others)

    def first(self, node: Node) -> Node:
        """The first node that computes the same, by the same operator from the same; of a copy, that of what it copies."""
        if node not in self.known:  # each once: what is used twice at every depth would be asked 2^depth times
            self.known[node] = self._first(node)
        return self.known[node]

    def _first(self, node: Node) -> Node:
        if node.op != "call_function":
            return node
        if getattr(node.target, "namespace", "") == "aten" and _overload(node) in REPEATED and isinstance(node.args[0], Node):
            return self.first(node.args[0])
        key = (node.target, self._key(node.args), self._key(node.kwargs))
        return self.firsts.setdefault(key, node)

    def _key(self, value: Any) -> Any:
        if isinstance(value, Node):
            return self.first(value)
        if isinstance(value, list | tuple):
            return tuple(map(self._key, value))
        return (
            tuple((name, self._key(part)) for name, part in value.items()) if isinstance(value, dict) else (type(value), str(value))
        )


def _operator_of(node: Node) -> Node:
    return node.all_input_nodes[0] if node.target is operator.getitem else node


def _overload(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return f"{schema.name.partition('::')[2]}.{schema.overload_name or 'default'}" if schema is not None else ""
