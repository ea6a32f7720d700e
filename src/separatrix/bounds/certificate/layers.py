"""The bound of a network, operator by operator: from the input to each operator, in the order in which they run."""

import operator
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, nan
from typing import Any

import torch
from torch import Tensor

from separatrix.bounds.certificate.affine import affine_norm, as_layer, is_padding
from separatrix.bounds.certificate.call import DRAWS, Active, Call, NoBoundError
from separatrix.bounds.certificate.factor import Factor, attained
from separatrix.bounds.certificate.graph import OperatorGraph, is_activation, layer_of
from separatrix.bounds.certificate.joint import Together
from separatrix.bounds.certificate.rounding import root, times
from separatrix.bounds.certificate.rules import bound_behind
from separatrix.bounds.certificate.shapes import LINEAR, gradient_step, is_root, square_of, steepest_fall, within_root
from separatrix.bounds.certificate.sides import compares, steepest_side
from separatrix.bounds.operator_norm.proof import TIGHT, Effort
from separatrix.core.errors import ContradictionError
from separatrix.core.wording import plain

SHAPE_ONLY = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
Slopes = tuple[float, float]
UNSET = {"empty_like", "new_empty", "new_empty_strided", "empty_permuted"}
SIZES = {torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default}
NUMBER = "it reads a number from a value that depends on the input"
OWN = "its own guarantee"
PARTS = {"aminmax", "chunk", "gradient", "split", "split_with_sizes", "tensor_split", "unbind"}
COPYING = {"broadcast_tensors", "meshgrid"}


@dataclass(frozen=True)
class LayerFactor:
    """Lipschitz factor of one layer, or of several consecutive affine layers.

    Args:
        name: name of the module in the network, with ":2", ":3" … for further calls, and with the name of the operator if it is
            outside PyTorch's modules.
        kind: the class or the operator.
        shape: shape of one output, without its batch axis.
        factor: proven factor; ∞ if none is known. For a sum or a concatenation: the ratio of the bound after it to the largest
            before it.
        lower: lower bound of every valid factor; NaN if unknown.
        method: method of the proof, or the reason why there is none.
        reach: bound of the Lipschitz factor from the network's input to the output of the layer.
        seconds: time that the proof took.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    factor: float
    lower: float
    method: str
    reach: float
    seconds: float

    @property
    def steps(self) -> int:
        """One, for a progress bar."""
        return 1

    def __str__(self) -> str:
        """Its factor, and the bound up to it."""
        return f"{self.name}: factor {plain(self.factor)}, bound so far {plain(self.reach)} ({self.method}, {self.seconds:.1f} s)"


class Bounds:
    """Bounds of the Lipschitz factor from the input to each operator of a graph.

    Args:
        graph: the graph of the network.
        whole: name of the network itself.
        effort: what the proof of a norm may cost, and how tight it need be.
    """

    def __init__(self, graph: OperatorGraph, whole: str, effort: Effort = TIGHT) -> None:
        self.graph, self.whole, self.effort = graph, whole, effort
        self.reach: dict[torch.fx.Node, float] = {}
        self.known: dict[torch.fx.Node, Any] = {}
        self.unknown: dict[str, str] = {}
        self.names: dict[str, int] = {}
        self.needed = set(graph.nodes)
        self.together = Together(self.reach, lambda node, numbers: self._call(node).run(numbers))

    def layers(self) -> Iterator[LayerFactor]:
        """The factor of each layer, as soon as it is known."""
        for node in self.graph.nodes:
            if node in self.reach:
                continue
            begun = time.perf_counter()
            layer = self._pass(node)
            if layer is not None:
                yield LayerFactor(**layer, seconds=time.perf_counter() - begun)

    @property
    def next(self) -> str | None:
        """The name of the first operator that was not reached; None at the end."""
        rest = next((node for node in self.graph.nodes if node not in self.reach), None)
        return None if rest is None else layer_of(rest)[0] or _name(rest)

    @property
    def bound(self) -> float:
        """The bound of all outputs together."""
        outputs = [node for node in self.graph.outputs if node in self.needed and node not in self.known]
        return self.together.bound(outputs) if outputs else 0.0

    def _pass(self, node: torch.fx.Node) -> dict[str, Any] | None:
        if node.op == "placeholder":
            self.reach[node] = 1.0
            return None
        try:
            if all(parent in self.known for parent in node.all_input_nodes if parent in self.needed) and _is_computable(node):
                self.reach[node], self.known[node] = 0.0, self._constant(node)
                return None
            if node.target in SIZES:  # of a shape that no number of the input has a say in
                self.reach[node], self.known[node] = 0.0, _size_of(node)
                return None
            if node.target is operator.getitem:
                return self._take(node)
            if node.target is torch.ops.separatrix.guaranteed.default:
                return self._keep_promise(node)
            if compares(node) or _name(node) in COPYING:  # it is met again where it is used
                self.reach[node] = inf
                return None
            return self._side(node) or self._root(node) or self._run_of(node) or self._operator(node)
        except ContradictionError:
            raise
        except NoBoundError as error:
            reason = str(error)
        except Exception:  # an error of PyTorch inside a rule: then nothing is proven
            reason = f"no bound is known for {_name(node)} in this form"
        self.unknown.setdefault(layer_of(node)[0] or self.whole, reason)
        self.reach[node] = inf
        return self._layer(*self._named(node), node, Factor(inf, reason))

    def _take(self, node: torch.fx.Node) -> None:
        parent, number = node.all_input_nodes[0], node.args[1]
        if _name(parent) in COPYING:
            several: Any = parent.args[0]
            return self._copy(node, several[number])
        if number and _name(parent) not in PARTS and self.reach[parent] < inf:
            raise NoBoundError("it returns indices, which are integers")
        self.reach[node] = self.reach[parent]

    def _copy(self, node: torch.fx.Node, source: torch.fx.Node) -> None:
        """One of several tensors that were broadcast to one shape, each of which is copied separately."""
        (numbers, copies) = (of.meta["val"].numel() for of in (source, node))
        if source in self.needed and source not in self.known:
            self.reach[node] = times(root(float(copies // max(numbers, 1))), self.reach[source])
        elif _name(node.all_input_nodes[0]) == "broadcast_tensors":
            self.reach[node], self.known[node] = 0.0, _dense(self._constant(source)).expand(node.meta["val"].shape)
        else:
            raise NoBoundError("it copies a constant together with a value that depends on the input")

    def _side(self, node: torch.fx.Node) -> dict[str, Any] | None:
        """An activation that selects by the sign. See Note [Sides]."""
        found = steepest_side(node, self.together.first, self._call, self._held)
        if found is None:
            return None
        x, factor = found
        self.reach[node] = times(factor, self.reach[x])
        return self._layer(*self._named(node), node, Factor(factor, "largest slope: both sides are 0 at 0"))

    def _held(self, node: torch.fx.Node) -> Any | None:
        """The value of a node that does not depend on the input."""
        return None if node in self.needed and node not in self.known else _dense(self._constant(node))

    def _keep_promise(self, node: torch.fx.Node) -> dict[str, Any]:
        parent, number = node.args[0], node.args[1]
        leaf = self.graph.leaves[number]
        factor = attained(1.0, "largest slope") if is_activation(leaf) else Factor(self.graph.promises[number].lipschitz, OWN)
        self.reach[node] = times(factor.value, self.reach[parent])
        return self._layer(self._unique(layer_of(node)[0] or self.whole), type(leaf).__name__, node, factor)

    def _operator(self, node: torch.fx.Node) -> dict[str, Any] | None:
        call = self._call(node)
        if call.name in SHAPE_ONLY:
            dtype = call.dtype if call.dtype.is_floating_point else torch.float64
            zeros = torch.zeros(call.active[0].shape, dtype=dtype, device=call.device)
            self.reach[node], self.known[node] = 0.0, call.run(zeros)[0]
            return None
        if call.name in UNSET:
            draws = any(torch.Tag.nondeterministic_seeded in getattr(user.target, "tags", ()) for user in node.users)
            raise NoBoundError(DRAWS if draws else "it reads uninitialised memory")
        if not (call.dtype.is_floating_point or call.dtype.is_complex):
            raise NoBoundError(f"it returns {call.dtype}, not real numbers".replace("torch.", ""))
        if len(call.active) > 1:
            call = replace(call, jointly=self.together.bound(self._active(node)))
        self.reach[node], factor = bound_behind(call)
        if call.name in ("add", "sub") and len(call.active) == 2 and (found := self._step(node, call)) < self.reach[node]:
            self.reach[node], factor = found, Factor(found / max(part.bound for part in call.active), "x − Vσ(Wx): V is WᵀT")
        if factor.value == 1 and factor.method in ("how often a number is used", "the same numbers", "a constant is added"):
            return None
        return self._layer(*self._named(node), node, factor)

    def _active(self, node: torch.fx.Node) -> list[torch.fx.Node]:
        """The arguments that depend on the input, in order and as often as they are given."""
        given = [
            part
            for value in (*node.args, *node.kwargs.values())
            for part in (value if isinstance(value, list | tuple) else [value])
        ]
        return [part for part in given if isinstance(part, torch.fx.Node) and part in self.needed and part not in self.known]

    def _root(self, node: torch.fx.Node) -> dict[str, Any] | None:
        """√(c + w Σ x²), from the square on. See Note [Together tighter]."""
        parents = self._active(node)
        if (
            not _is_operator(node)
            or len(set(parents)) != 1
            or not square_of(self._call(node))
            or len(parents) != 1 + (_name(node) == "mul")
        ):
            return None
        passed, weight, at = [node], 1.0, self._only_user(node)
        while at is not None and (call := self._next(at, passed[-1])) is not None:
            if is_root(call):
                self.reach.update(dict.fromkeys(passed, inf))
                self.reach[at] = times(root(weight), self.reach[parents[0]])
                return self._layer(*self._named(at), at, attained(root(weight), "√(c + w Σx²): a slope of √w"))
            factor = within_root(call)
            if factor is None:
                return None
            passed, weight, at = [*passed, at], times(weight, factor), self._only_user(at)
        return None

    def _step(self, node: torch.fx.Node, call: Call) -> float:
        """The bound of x ± Vσ(Wx + b), if one argument of a sum is such a branch of the other; otherwise ∞."""
        if len(call.active_names) != 2 or any(part.shape != call.shape for part in call.active):
            return inf
        a, b = self._active(node)
        alpha = float(call["alpha"] if call["alpha"] is not None else 1.0)
        signs = {a: 1.0, b: alpha if call.name == "add" else -alpha}
        for trunk, branch in ((a, b), (b, a)):
            if abs(signs[trunk]) == 1 and (found := self._branch(trunk, branch)) is not None:
                before, slopes, behind = found
                bound = gradient_step(before, slopes, behind, signs[branch] * signs[trunk])
                return times(bound, self.reach[trunk])
        return inf

    def _branch(self, trunk: torch.fx.Node, branch: torch.fx.Node) -> tuple[list[Call], Slopes, list[Call]] | None:
        """Operators before an activation, its slopes, and those after it, on the only path from the trunk to the branch."""
        before: list[Call] = []
        behind: list[Call] = []
        slopes: Slopes | None = None
        trunk, at = self.together.first(trunk), branch
        while self.together.first(at) is not trunk:
            parents = self._active(at)
            if at.target is operator.getitem and not at.args[1] and _name(at.all_input_nodes[0]) not in PARTS:
                at = at.all_input_nodes[0]
                continue
            if len(parents) != 1:
                return None
            if (found := self._slopes(at, parents[0])) is not None and slopes is None:
                slopes = found
            elif _is_operator(at) and (call := self._call(at, through=parents[0])).name in LINEAR:
                (before if slopes else behind).insert(0, call)
            else:
                return None
            at = parents[0]
        return (before, slopes, behind) if before and behind and slopes else None

    def _slopes(self, node: torch.fx.Node, parent: torch.fx.Node) -> Slopes | None:
        """The steepest descent and ascent of an activation; None for other operators, or without a bound."""
        if node.target is torch.ops.separatrix.guaranteed.default:
            return (0.0, 1.0) if is_activation(self.graph.leaves[node.args[1]]) else None
        if not _is_operator(node):
            return None
        call = self._call(node, through=parent)
        fall = steepest_fall(call)
        return None if fall is None else (fall, bound_behind(call)[1].value)

    def _run_of(self, node: torch.fx.Node) -> dict[str, Any] | None:
        """The affine operators that start here, as one layer; each is used only by the next one."""
        nodes, calls = self._affine_from(node)
        while calls and (norm := affine_norm(calls)) is None:
            nodes, calls = nodes[:-1], calls[:-1]
        if not calls:
            return None
        for one in nodes:  # nothing but the next one in the run looks at those before the last
            self.reach[one] = times(norm.bound, calls[0].active[0].bound) if one is nodes[-1] else inf
            self.reach.update({user: self.reach[one] for user in one.users if user.target is operator.getitem})
        names, kinds = zip(*map(self._named, nodes), strict=True)
        factor = Factor(norm.bound, norm.method, norm.lower if norm.lower > 0 or norm.bound == 0 else nan)
        return self._layer(_together(names), " + ".join(kinds), nodes[-1], factor)

    def _affine_from(self, node: torch.fx.Node) -> tuple[list[torch.fx.Node], list[Call]]:
        nodes, calls = [node], [self._call(node)] if _is_operator(node) else []
        while calls and (is_padding(calls[-1]) or as_layer(calls[-1]) is not None):
            after = self._only_user(nodes[-1])
            call = self._next(after, nodes[-1])
            if call is None or as_layer(call, calls[-1] if is_padding(calls[-1]) else None) is None:
                break
            nodes.append(after)
            calls.append(call)
        return nodes, calls

    def _only_user(self, node: torch.fx.Node) -> torch.fx.Node | None:
        users = [user for user in node.users if user in self.needed]
        if len(users) == 1 and users[0].target is operator.getitem and node not in self.graph.outputs:
            return self._only_user(users[0])
        return users[0] if len(users) == 1 and node not in self.graph.outputs else None

    def _next(self, node: torch.fx.Node | None, before: torch.fx.Node) -> Call | None:
        """The operator after another; None if it cannot be part of a run."""
        try:
            return None if node is None or not _is_operator(node) else self._call(node, through=before)
        except NoBoundError:  # it is met again where it begins
            return None

    def _call(self, node: torch.fx.Node, through: torch.fx.Node | None = None) -> Call:
        """An operator with its arguments; `through` is an argument whose own bound is not needed."""
        if not _is_operator(node):
            is_arithmetic = getattr(node.target, "__module__", "") in ("_operator", "math")
            raise NoBoundError(NUMBER if is_arithmetic else f"no bound is known for {node.target}")
        schema = node.target._schema.arguments
        given = {**{a.name: v for a, v in zip(schema, node.args, strict=False)}, **node.kwargs}
        values = {a.name: self._value(given.get(a.name, a.default_value), through) for a in schema}
        out = _value_of(node)
        if out is None:
            raise NoBoundError("it does not return a tensor")
        return Call(_name(node), node.target, values, tuple(out.shape), out.dtype, out.device, effort=self.effort)

    def _value(self, value: Any, through: torch.fx.Node | None) -> Any:
        if isinstance(value, list | tuple):
            return [self._value(part, through) for part in value]
        if not isinstance(value, torch.fx.Node):
            return value
        if value in self.needed and value not in self.known:
            if not isinstance(value.meta.get("val"), Tensor):
                raise NoBoundError(NUMBER)
            bound = self.reach[value] if through is None else self.reach.get(value, inf)
            return Active(tuple(value.meta["val"].shape), bound, value.meta["val"].dtype)
        return _dense(self._constant(value))

    def _constant(self, node: torch.fx.Node) -> Any:
        """The value of a node that does not depend on the input, computed."""
        if node not in self.known:
            if node.name in self.graph.held:
                self.known[node] = self.graph.held[node.name]
            elif node.target is operator.getitem:
                self.known[node] = self._constant(node.args[0])[node.args[1]]
            elif torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise NoBoundError(DRAWS)
            else:
                args, named = torch.fx.node.map_arg((node.args, node.kwargs), self._constant)
                self.known[node] = node.target(*args, **named)
        return self.known[node]

    def _named(self, node: torch.fx.Node) -> tuple[str, str]:
        """The name of an operator's location, and its kind."""
        name, kind = layer_of(node)
        if kind.startswith("torch.nn.modules.") and name:
            return self._unique(name), kind.rsplit(".", 1)[-1]
        return self._unique(f"{name}.{_name(node)}".strip(".")), _name(node)

    def _unique(self, name: str) -> str:
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name}:{self.names[name]}"

    def _layer(self, name: str, kind: str, node: torch.fx.Node, factor: Factor) -> dict[str, Any]:
        out = _value_of(node)
        shape = () if out is None else tuple(out.shape[1:])
        told = {"name": name, "kind": kind, "shape": shape, "reach": self.reach[node]}
        return {**told, "factor": factor.value, "lower": factor.lower, "method": factor.method}


def _size_of(node: torch.fx.Node) -> int:
    """A size of a tensor, or its number of elements."""
    shape = node.all_input_nodes[0].meta["val"].shape
    found = shape[node.args[1]] if len(node.args) > 1 else shape.numel()
    if not isinstance(found, int):
        raise NoBoundError(NUMBER)
    return found


def _dense(value: Any) -> Any:
    """The same numbers as a dense tensor."""
    return value.to_dense() if isinstance(value, Tensor) and value.layout != torch.strided else value


def _is_operator(node: torch.fx.Node) -> bool:
    """Whether it is one of PyTorch's own operators, and not one that a library adds under the same name."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"


def _is_computable(node: torch.fx.Node) -> bool:
    """Whether it can be run on constants: an operator of PyTorch's, or Python's arithmetic on numbers read off such."""
    return _is_operator(node) or getattr(node.target, "__module__", "") in ("_operator", "math") or node.target is torch.sym_float


def _together(names: tuple[str, ...]) -> str:
    """Names of a run, later ones without the prefix that they share with the first: "layer1.conv1 + bn1"."""
    inside = names[0].rpartition(".")[0] + "."
    return " + ".join(dict.fromkeys([names[0], *(name.removeprefix(inside) for name in names[1:])]))


def _value_of(node: torch.fx.Node) -> Tensor | None:
    """What stands for an operator's output, or for the first of them."""
    val = node.meta.get("val")
    parts = val if isinstance(val, list | tuple) else [val]
    return next((part for part in parts if isinstance(part, Tensor)), None)


def _name(node: torch.fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema is not None else str(getattr(node.target, "__name__", node.target))
