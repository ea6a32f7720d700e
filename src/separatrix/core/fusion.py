"""Fusion of small systems under `torch.compile`: component i of a stack of components is replaced by the component itself.

A small system takes its state apart (`unbind`), computes with the components and stacks the results; a solver does so several
times a step. The compiler would store every stack in memory and read it again. With this pass, elementwise operations on a stack
act on its components, and a step becomes one loop over the batch with its numbers in registers.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx.node import map_arg

aten = torch.ops.aten


class SinkSelections(CustomGraphPass):
    """Compiler pass that replaces selections from stacks by the stacked values, through permutations and elementwise operations."""

    def __call__(self, graph: fx.Graph) -> None:
        """Rewrite the graph in place."""
        known: dict[tuple[fx.Node, int, int], fx.Node] = {}
        for node in list(graph.nodes):
            if (selection := _selection(node)) is not None:
                with graph.inserting_before(node):
                    node.replace_all_uses_with(_Selector(graph, known).part(*selection))
        graph.eliminate_dead_code()

    def uuid(self) -> bytes:
        """The key of this pass in the compiler's cache."""
        return get_hash_for_files((__file__,))


class _Selector:
    """Search for the i-th part of a value along an axis, as far up the graph as possible."""

    def __init__(self, graph: fx.Graph, known: dict[tuple[fx.Node, int, int], fx.Node]) -> None:
        self.graph = graph
        self.known = known

    def part(self, x: fx.Node, dim: int, i: int) -> fx.Node:
        """x[…, i, …] with i on the axis dim ≥ 0."""
        if (x, dim, i) not in self.known:
            self.known[x, dim, i] = self._find(x, dim, i)
        return self.known[x, dim, i]

    def _find(self, x: fx.Node, dim: int, i: int) -> fx.Node:
        if dim == 0 and (parts := _stacked(x)) is not None:
            return parts[i]
        if x.target is aten.unsqueeze.default:
            whole, new = _arguments(x)[0], _arguments(x)[1] % _rank(x)
            return whole if new == dim else self._emit(x.target, self.part(whole, dim - (dim > new), i), new - (new > dim))
        if x.target is aten.permute.default:
            whole, order = _arguments(x)[0], [axis % _rank(x) for axis in _arguments(x)[1]]
            gone = order.pop(dim)
            return self._emit(x.target, self.part(whole, gone, i), [axis - (axis > gone) for axis in order])
        if _is_elementwise(x):
            args, kwargs = map_arg((_arguments(x), x.kwargs), lambda y: self._operand(y, x, dim, i))
            return self._emit(x.target, *args, **kwargs)
        return self._emit(aten.select.int, x, dim, i)

    def _operand(self, y: fx.Node, x: fx.Node, dim: int, i: int) -> fx.Node:
        """The part of an operand that a part of the result needs: axes are counted from the last one and broadcast."""
        if not isinstance(y.meta["val"], Tensor) or (own := dim - _rank(x) + _rank(y)) < 0:
            return y
        return self.part(y, own, 0 if y.meta["val"].shape[own] == 1 else i)

    def _emit(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        args, kwargs = map_arg((args, kwargs), lambda y: y.meta["val"])
        node.meta["val"] = target(*args, **kwargs)
        return node


def _selection(node: fx.Node) -> tuple[fx.Node, int, int] | None:
    """Source, axis and index of a node that is `x.select(dim, i)` or an item of `x.unbind(dim)`; None for any other node."""
    if node.target is aten.select.int:
        x, dim, i = _arguments(node)
    elif node.target is operator.getitem and _arguments(node)[0].target is aten.unbind.int:
        source, i = _arguments(node)
        x, dim = _with_axis(source)
    else:
        return None
    dim %= _rank(x)
    return (x, dim, i % x.meta["val"].shape[dim]) if isinstance(i, int) else None


def _stacked(x: fx.Node) -> list[fx.Node] | None:
    """The tensors that x stacks along its first axis, which the compiler writes as a concatenation and a reshape; or None."""
    if x.target not in (aten.reshape.default, aten.view.default) or _arguments(x)[0].target is not aten.cat.default:
        return None
    parts, axis = _with_axis(_arguments(x)[0])
    shape = x.meta["val"].shape
    return parts if axis == 0 and len(parts) == shape[0] and all(y.meta["val"].shape == shape[1:] for y in parts) else None


def _arguments(x: fx.Node) -> tuple[Any, ...]:
    return x.args


def _with_axis(x: fx.Node) -> tuple[Any, int]:
    """The argument of an operator and its axis, 0 by default."""
    return _arguments(x)[0], (*_arguments(x), 0)[1]


def _is_elementwise(x: fx.Node) -> bool:
    tags = getattr(x.target, "tags", ())
    return torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags


def _rank(x: fx.Node) -> int:
    return x.meta["val"].ndim
