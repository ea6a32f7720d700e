"""The layers of a network from the record of one pass: their names, their widths, and which carry the whole signal."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from separatrix.analysis.depth.hooks import Call, floating, label
from separatrix.analysis.depth.record import Made, Record, Recorder
from separatrix.core.errors import InputError
from separatrix.core.wording import counted


@dataclass(frozen=True)
class Layer:
    """One call of one module.

    Args:
        name: name of the module in the model, with ":2", ":3" … for its further calls; "output" for the model itself.
        kind: class of the module.
        call: the module and the number of its call.
        width: size of its output for each item.
        shape: shape of its output for one item.
        unit_axis: axis of that shape along which its units lie: channels or features.
        has_weights: whether the module itself has a weight matrix or a convolution kernel.
        cut: whether the whole signal passes through it.
        alias: whether its output is that of an earlier layer, unchanged.
        trouble: why it has no Jacobian, or empty.
    """

    name: str
    kind: str
    call: Call
    width: int = 0
    shape: tuple[int, ...] = ()
    unit_axis: int = -1
    has_weights: bool = False
    cut: bool = False
    alias: bool = False
    trouble: str = ""


def layers_of(record: Record, recorder: Recorder) -> list[Layer]:
    """Every call of every module, in the order in which they ended. See Note [Layers by hooks].

    Units lie along the last axis after a linear layer, and before the axes of positions after a convolution.

    Args:
        record: record of one item, with its autograd graph.
        recorder: the network's twin.
    """
    paths = Paths(get_gradient_edge(floating(record.output)), get_gradient_edge(record.z).node)
    layers: list[Layer] = []
    seen: list[tuple[Tensor | None, int]] = []
    unit_axis = -1
    for one in record.made:
        rank = recorder.weight_rank(one.call[0])
        unit_axis = 1 - rank if rank > 1 else unit_axis
        name, trouble = label(one.call), _no_output(one)
        if one.value is None or trouble:
            layers.append(Layer(name, one.kind, one.call, trouble=trouble))
            continue
        alias = any(one.original is other and one.version == version for other, version in seen)
        depends = one.edge is not None and paths.lead_from(one.edge)
        if depends:
            seen.append((one.original, one.version))
        cut = depends and paths.all_pass(one.edge)
        trouble = "" if depends else "its output does not depend on the input"
        shape = recorder.item_shape(one.value)
        sort = {"has_weights": rank > 1, "cut": cut, "alias": alias, "trouble": trouble}
        layers.append(Layer(name, one.kind, one.call, one.value.numel(), shape, unit_axis, **sort))
    return layers


def depth_of_signal(layers: Sequence[Layer]) -> int:
    """Number of layers that carry the whole signal."""
    return sum(layer.cut and not layer.alias for layer in layers)


def choose(layers: Sequence[Layer], names: Sequence[str] | str | None, known: Sequence[str], model: str) -> list[Layer]:
    """All calls of the layers of these names; by default all layers but aliases and those without a Jacobian.

    Args:
        layers: all layers of the network.
        names: names of the wanted layers.
        known: names of all modules.
        model: name of the model, for messages.
    """
    if names is None:
        return [layer for layer in layers if not (layer.alias or layer.trouble)]
    wanted = [names] if isinstance(names, str) else list(names)
    if not all(isinstance(name, str) for name in wanted):
        raise InputError(f"layers must be names, as in model.named_modules(), got {wanted}.")
    if not wanted:
        raise InputError("layers is empty.\nName some layers, or leave it out for all.")
    chosen: set[Layer] = set()
    for name in wanted:
        found = [layer for layer in layers if name in (layer.name, layer.call[0])]
        if not found:
            raise InputError(_no_such_layer(name, layers, known, model))
        for layer in found:
            if layer.trouble:
                raise InputError(f"the layer {name!r} has no Jacobian: {layer.trouble}.\nLeave it out.")
        chosen.update(found)
    return [layer for layer in layers if layer in chosen]


Edge = tuple[Node, int]


class Paths:
    """The paths of an autograd graph from the edge `end` back to the node `start`, counted.

    All of them pass through an edge if those that lead to it, times those that lead on from it, are as many as there are at all.
    So one walk through the graph serves all layers.
    """

    def __init__(self, end: GradientEdge, start: Node) -> None:
        self._start = start
        self._onward: dict[Edge, int] = {}  # number of paths from an edge to the start
        order = self._walk(_edge(end))
        self._all = self._onward[_edge(end)]
        self._toward = dict.fromkeys(order, 0)  # number of paths from the end to an edge
        self._toward[_edge(end)] = 1
        for edge in reversed(order):
            for following in self._following(edge):
                self._toward[following] += self._toward[edge]

    def lead_from(self, edge: GradientEdge) -> bool:
        """Whether a path leads from an edge of any graph to the start."""
        self._walk(_edge(edge))
        return self._onward[_edge(edge)] > 0

    def all_pass(self, edge: GradientEdge) -> bool:
        """Whether every path passes through an edge."""
        place = _edge(edge)
        return place in self._toward and self._toward[place] * self._onward[place] == self._all

    def _following(self, edge: Edge) -> list[Edge]:
        node = edge[0]
        return [] if node is self._start else [(after, number) for after, number in node.next_functions if after is not None]

    def _walk(self, first: Edge) -> list[Edge]:
        """Count the paths from an edge, and from all edges behind it; those not seen before, each after all that follow it."""
        order: list[Edge] = []
        todo = [(first, False)]
        while todo:
            edge, is_behind_done = todo.pop()
            if edge in self._onward:
                continue
            if is_behind_done:
                after = sum(self._onward[following] for following in self._following(edge))
                self._onward[edge] = 1 if edge[0] is self._start else after
                order.append(edge)
            else:
                todo.append((edge, True))
                todo.extend((following, False) for following in self._following(edge))
        return order


def _edge(edge: GradientEdge) -> Edge:
    return edge.node, edge.output_nr


def _no_output(made: Made) -> str:
    """Why a call has no output with a Jacobian, or empty."""
    if made.value is None:
        return "it returns no floating-point tensor"
    if made.value.numel() == 0:
        return "its output is empty"
    return "it runs within a transform of torch.func" if made.is_in_transform else ""


def _no_such_layer(name: str, layers: Sequence[Layer], modules: Sequence[str], model: str) -> str:
    base = name.rsplit(":", 1)[0]
    if base in modules:
        reached = sum(layer.call[0] == base for layer in layers)
        calls = f"is called {counted(reached, 'time')}" if reached else "is not reached"
        return f"the layer {name!r} {calls} in the forward pass of these inputs.\nName a layer that they reach."
    known = [layer.name for layer in layers if not layer.trouble]
    near = difflib.get_close_matches(name, known, n=5) or known[:8]
    return f"{model} has no layer named {name!r}.\nNearest: {', '.join(near)}."
