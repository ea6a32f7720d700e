"""The layers of a network from the record of one pass: their names, their widths, and which carry the whole signal."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from separatrix.analysis.depth.hooks import Call, floating, label
from separatrix.analysis.depth.record import Made, Record
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
        cut: whether the whole signal passes through it.
        alias: whether its output is that of an earlier layer, unchanged.
        trouble: why it has no Jacobian, or empty.
    """

    name: str
    kind: str
    call: Call
    width: int = 0
    cut: bool = False
    alias: bool = False
    trouble: str = ""


def layers_of(record: Record) -> list[Layer]:
    """Every call of every module, in the order in which they ended. See Note [Layers by hooks].

    Args:
        record: record of one item, with its autograd graph.
    """
    start, end = get_gradient_edge(record.z).node, get_gradient_edge(floating(record.output))
    layers: list[Layer] = []
    seen: list[tuple[Tensor | None, int]] = []
    for one in record.made:
        name, trouble = label(one.call), _no_output(one)
        if one.value is None or trouble:
            layers.append(Layer(name, one.kind, one.call, trouble=trouble))
            continue
        alias = any(one.original is other and one.version == version for other, version in seen)
        depends = one.edge is not None and joins(one.edge, start)
        if depends:
            seen.append((one.original, one.version))
        cut = depends and not joins(end, start, without=one.edge)
        trouble = "" if depends else "its output does not depend on the input"
        layers.append(Layer(name, one.kind, one.call, width=one.value.numel(), cut=cut, alias=alias, trouble=trouble))
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


def joins(end: GradientEdge, start: Node, without: GradientEdge | None = None) -> bool:
    """Whether the graph has a path from the edge `end` back to the node `start` that avoids the edge `without`."""
    closed = None if without is None else (without.node, without.output_nr)
    todo, seen = [(end.node, end.output_nr)], set()
    while todo:
        node, number = todo.pop()
        if node is None or (node, number) == closed or node in seen:
            continue
        if node is start:
            return True
        seen.add(node)
        todo.extend(node.next_functions)
    return False


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
