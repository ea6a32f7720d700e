"""A network as the graph of the PyTorch operators that it runs on one input."""

import contextlib
import dataclasses
import io
import logging
import operator
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind

from separatrix.bounds.certificate.reads import Reads
from separatrix.nn.block import Residual, Sequential
from separatrix.nn.guarantee import Guarantee

# Note [Operators, not modules]
# Hooks, a subclass or a later in-place operator can break what the class of a module promises. So the bound is computed for the
# operators that run: `torch.export` records every one of them, with in-place operators and writes into views replaced by their
# functional forms, with the name of its module, and with an error if the control flow depends on the numbers. Only a module that
# proves its own Lipschitz factor, one with a `guarantee`, is kept whole, as a single custom operator.

Shapes = dict[tuple[int, ...], list[int]]

REPLAYED = 1e-3  # relative difference allowed between the traced operators and the network, for half precision inside it
ROUNDING = 1e6  # the same in round-offs of the lowest precision inside it
INSIDE = "network"  # name of the network in the traced module

WHOLE = (nn.Softsign, nn.Tanhshrink, nn.Softshrink)
"""PyTorch's activations that are written as several operators: slopes 1/(1+|x|)², tanh² x, and 0 or 1, so 1-Lipschitz."""


INTERNAL = {
    "aten",
    "dispatch",
    "dynamo",
    "fake",
    "functionaliz",
    "guard",
    "meta",
    "proxy",
    "symint",
    "symbol",
    "symbool",
    "torch.ops",
}
INTERNAL |= {"symfloat", "unbacked", "vmap", "storage", "torch._", "data-dependent", "higher order", "export"}
"""Words of PyTorch's own errors while it traces, which say nothing about the network."""


@torch.library.custom_op("separatrix::guaranteed", mutates_args=())
def guaranteed(x: Tensor, leaf: int, shape: list[int]) -> Tensor:
    """The place of a module that is kept whole, in a graph; never run."""
    raise NotImplementedError("a module that is kept whole stands in a graph only.")


@guaranteed.register_fake
def _(x: Tensor, leaf: int, shape: list[int]) -> Tensor:
    return x.new_empty(shape)


class UntraceableError(Exception):
    """The operators cannot be recorded; `args` are the layer's name, its kind and the reason."""


@dataclass(frozen=True)
class OperatorGraph:
    """Operators in the order in which they run.

    Args:
        nodes: the nodes that depend on the input and on which the output depends, the input first.
        outputs: the nodes that the network returns.
        held: tensors that the graph holds, by the names of their nodes.
        leaves: modules that are kept whole, by their numbers in the graph.
        promises: the guarantee of each.
    """

    nodes: list[torch.fx.Node]
    outputs: list[torch.fx.Node]
    held: dict[str, Tensor]
    leaves: list[nn.Module]
    promises: list[Guarantee]

    @property
    def unit(self) -> float:
        """Round-off of the lowest precision in the graph."""
        return _unit(self.nodes)


class _Whole(nn.Module):
    """Network that returns all real outputs as one tuple, in whatever containers the original returns them.

    Within it, no layer's name is that of an attribute of `torch.fx.GraphModule`, which "code" and "graph" are.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors(self.network(x)))


def tensors(output: Any) -> Iterator[Any]:
    """The real tensors of what a network returns, those in dictionaries, lists and dataclasses included; complex ones as pairs."""
    if isinstance(output, Tensor):
        if output.is_complex():
            yield torch.view_as_real(output.resolve_conj())
        elif output.is_floating_point():
            yield output
    elif isinstance(output, torch.fx.Proxy):  # in a symbolic trace; it does not know its kind
        yield output
    elif isinstance(output, dict | list | tuple):
        for part in output.values() if isinstance(output, dict) else output:
            yield from tensors(part)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for field in dataclasses.fields(output):
            yield from tensors(getattr(output, field.name))


def operator_graph(network: nn.Module, x: Tensor, known: Container[str] = ()) -> OperatorGraph:
    """Record the operators that a network runs on inputs of this shape.

    Args:
        network: a copy in evaluation mode, which may be written to (see twin).
        x: inputs, one after the other: the first is traced, and the outputs for all are compared with those of the operators.
        known: names of operators that need not be decomposed.

    Raises:
        UntraceableError: the control flow depends on the numbers, or leaves PyTorch.
    """
    inputs, x = x.split(1), x[:1]
    leaves = {name: part for name, part in network.named_modules() if promised(part) is not None}
    whole, reads = _Whole(network), Reads(network)
    with torch.no_grad(), quiet(), _kept_whole(leaves, reads) as keep:
        _watch(network, whole, reads, x)
        keep()
        program = _exported(whole, network, x, known)
    signature = program.graph_signature
    held = {
        spec.arg.name: _tensor(program, spec.target)
        for spec in signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    }
    given = [spec.arg.name for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    named = {node.name: node for node in program.graph.nodes}
    returned = [spec.arg for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    wanted = [named[arg.name] for arg in returned if _is_real(named.get(getattr(arg, "name", "")))]
    nodes = _between(program.graph, given, wanted)
    replay = _Replay(program, held, list(leaves.values()))
    with quiet():
        _check_replay(network, whole, replay, inputs, min(REPLAYED, ROUNDING * _unit(nodes)))
    promises = [promise for part in leaves.values() if (promise := promised(part)) is not None]
    return OperatorGraph(nodes, wanted, held, list(leaves.values()), promises)


def promised(module: nn.Module) -> Guarantee | None:
    """The guarantee of a module that is kept whole: its own, unless it only combines those of its parts."""
    if not all(_runs_as_written(part) and (part is module or not _has_hooks(part)) for part in module.modules()):
        return None
    if is_activation(module):
        return Guarantee(lipschitz=1.0)
    if type(module) in (Sequential, Residual):
        return None
    own = getattr(module, "guarantee", None)
    return own if isinstance(own, Guarantee) and own.lipschitz < float("inf") else None


def is_activation(module: nn.Module) -> bool:
    """Whether it is one of the PyTorch activations that are kept whole, with a factor proven here."""
    return any(type(module).forward is kind.forward for kind in WHOLE)


def _runs_as_written(module: nn.Module) -> bool:
    """Whether the code that runs belongs to the class with the guarantee or a base class, not to a subclass or the object."""
    lines = [n for n, kind in enumerate(type(module).__mro__) if "guarantee" in vars(kind)]
    runs = [n for n, kind in enumerate(type(module).__mro__) if {"forward", "step", "__call__"} & vars(kind).keys()]
    return not {"forward", "step"} & vars(module).keys() and ("guarantee" in vars(module) or not lines or lines[0] <= runs[0])


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def layer_of(node: torch.fx.Node) -> tuple[str, str]:
    """The innermost module that an operator belongs to: its name, "" for the network itself, and its class with its module."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    name, kind = stack[-1] if stack else ("", "")
    return name.removeprefix(INSIDE).removeprefix("."), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While it lasts, a trace that fails says so by its error alone: not by warnings, nor by its graph and a line in a log."""
    logs = [log for name, log in logging.root.manager.loggerDict.items() if name.startswith("torch") and hasattr(log, "disabled")]
    before = [log.disabled for log in logs]
    try:
        for log in logs:
            log.disabled = True
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, was in zip(logs, before, strict=True):
            log.disabled = was


def _watch(network: nn.Module, whole: nn.Module, reads: Reads, x: Tensor) -> None:
    """Run the network as it is, with and without gradients; refuse it where Python reads what depends on its input."""
    for grad in (False, True):
        with torch.set_grad_enabled(grad), torch.random.fork_rng(devices=[]):
            try:
                reads.run(whole, _input(x, grad))
            except Exception as error:  # whatever the user's code raises on a tensor that asks for gradients, or is watched
                if not grad:
                    raise UntraceableError(*_where(network, error)) from error
    if reads.found:
        name, what = next(iter(reads.found.items()))
        part = network.get_submodule(name)
        why = f"its control flow depends on the numbers: it reads {what} from a value that depends on the input"
        raise UntraceableError(name, type(part).__name__, why)


def _input(x: Tensor, grad: bool) -> Tensor:
    """A copy that may be written to, and asks for gradients where they are recorded."""
    return x.clone().requires_grad_(grad).clone()


def _exported(whole: nn.Module, network: nn.Module, x: Tensor, known: Container[str]) -> Any:
    """Traced with fake tensors; where a path depends on weights, once more after a symbolic trace in which weights are numbers."""
    try:
        return _functional(torch.export.export(whole, (x,), strict=False), known)
    except Exception as error:  # whatever the user's code raises on tensors without numbers
        failure = error
    with contextlib.suppress(Exception):
        return _functional(torch.export.export(torch.fx.symbolic_trace(whole), (x,), strict=False), known)
    raise UntraceableError(*_where(network, failure)) from failure


def _functional(program: Any, known: Container[str]) -> Any:
    """The program in operators that change nothing in place; as it is where it has no other, since decomposing takes longest."""
    nodes = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
    return program if all(_is_functional(node, known) for node in nodes) else program.run_decompositions({})


def _is_functional(node: torch.fx.Node, known: Container[str]) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    return node.target._opname in known and not node.target._schema.is_mutable


class _Replay(torch.fx.Interpreter):
    """The operators, run on numbers; the modules that are kept whole run as they are."""

    def __init__(self, program: Any, held: dict[str, Tensor], leaves: list[nn.Module]) -> None:
        super().__init__(program.graph_module)
        self.held, self.leaves, self.signature = held, leaves, program.graph_signature

    def outputs(self, x: Tensor) -> list[Any]:
        """What the network returns."""
        given = [self.held.get(spec.arg.name, x.clone()).clone() for spec in self.signature.input_specs]
        made = self.run(*given)
        pairs = zip(self.signature.output_specs, made, strict=True)
        return [value for spec, value in pairs if spec.kind is OutputKind.USER_OUTPUT]

    def run_node(self, node: torch.fx.Node) -> Any:
        """One node; a shape that the trace left open, as it depends on numbers that are held, is written down."""
        made, told = super().run_node(node), node.meta.get("val")
        if isinstance(told, Tensor) and not all(isinstance(size, int) for size in told.shape):
            node.meta["val"] = torch.empty((), dtype=made.dtype, device=made.device).expand(made.shape)
        elif isinstance(told, Tensor) and told.shape != made.shape:
            raise ValueError("shapes that depend on the numbers")
        return made

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator."""
        if target is torch.ops.separatrix.guaranteed.default:
            return self.leaves[args[1]].forward(args[0])
        return super().call_function(target, args, kwargs)


def _check_replay(network: nn.Module, whole: nn.Module, replay: _Replay, inputs: Sequence[Tensor], tolerance: float) -> None:
    """A trace may take another way than the network: through what tells a tensor from its stand-in, or a die that Python throws."""
    for number, x in enumerate(inputs):
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                given = [value for value in replay.outputs(x) if isinstance(value, Tensor) and value.is_floating_point()]
        except Exception as error:  # whatever the user's operators raise
            raise UntraceableError(*_where(network, error)) from error
        for grad in (False, True) if number == 0 else (False,):
            with torch.set_grad_enabled(grad), torch.random.fork_rng(devices=[]):
                try:
                    wanted = whole(_input(x, grad))
                except Exception as error:  # the user's code, at another input than the first
                    if grad:
                        continue
                    raise UntraceableError(*_where(network, error)) from error
            if len(wanted) != len(given) or not all(_same(a.detach(), b, tolerance) for a, b in zip(wanted, given, strict=True)):
                name, where = type(network).__name__, " while gradients are recorded" if grad else ""
                raise UntraceableError("", name, f"the recorded operators give different numbers than the network itself{where}")


def _same(a: Tensor, b: Any, tolerance: float) -> bool:
    if not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    size = float(a.nan_to_num(0.0, 0.0, 0.0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance * size, equal_nan=True)


def _where(network: nn.Module, error: BaseException) -> tuple[str, str, str]:
    """The innermost module of the network that was running, and the first line of the error."""
    names = {id(part): name for name, part in network.named_modules()}
    found = network
    for part in _running(error):
        found = part if id(part) in names else found
    reason = told(error, 160)
    why = f" ({reason})" if reason and not any(word in str(error).lower() for word in INTERNAL) else ""
    return names[id(found)], type(found).__name__, f"its control flow depends on the numbers, or leaves PyTorch{why}"


def told(error: BaseException, length: int) -> str:
    """The first line of an error, and its kind where that says more than the line does."""
    line = (str(error).strip().splitlines() or [""])[0][:length]
    if isinstance(error, RuntimeError | ValueError) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _running(error: BaseException) -> Iterator[Any]:
    """What `self` was in each frame of a traceback, the outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_locals.get("self")
        trace = trace.tb_next


@contextlib.contextmanager
def _kept_whole(leaves: dict[str, nn.Module], reads: Reads) -> Iterator[Callable[[], None]]:
    """While it lasts, the shapes that leaves take and give are written down; and from a call on, each is one operator."""
    seen: list[Shapes] = [{} for _ in leaves]

    def keep() -> None:
        for number, (leaf, shapes) in enumerate(zip(leaves.values(), seen, strict=True)):
            leaf.__dict__["forward"] = _stand_in(leaf, number, shapes)

    try:
        for leaf, shapes in zip(leaves.values(), seen, strict=True):
            leaf.__dict__["forward"] = _watched(leaf.forward, shapes, reads)
        yield keep
    finally:
        for leaf in leaves.values():
            leaf.__dict__.pop("forward", None)


def _watched(forward: Callable[..., Any], shapes: Shapes, reads: Reads) -> Callable[..., Any]:
    """The forward pass, which writes down what shape it gives for what shape; what is read within it is its own affair."""

    def run(*arguments: Any, **named: Any) -> Any:
        x = arguments[0] if len(arguments) == 1 and not named else None
        with reads.paused():
            y = forward(*arguments, **named)
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            shapes[tuple(x.shape)] = list(y.shape)
        return y

    return run


def _stand_in(leaf: nn.Module, number: int, shapes: Shapes) -> Callable[..., Any]:
    """One operator in the place of a leaf; the leaf itself where it is called in another way than with one tensor."""
    forward = type(leaf).forward

    def run(*arguments: Any, **named: Any) -> Any:
        x = arguments[0] if len(arguments) == 1 and not named else None
        shape = shapes.get(tuple(x.shape)) if isinstance(x, Tensor) else None
        if isinstance(x, torch.fx.Proxy) and len(shapes) == 1:  # it does not know its shape
            (shape,) = shapes.values()
        return forward(leaf, *arguments, **named) if shape is None else torch.ops.separatrix.guaranteed(x, number, shape)

    return run


def _between(graph: torch.fx.Graph, given: list[str], outputs: list[torch.fx.Node]) -> list[torch.fx.Node]:
    """Nodes that depend on the input and on which an output depends, in order."""
    active: set[torch.fx.Node] = set()
    for node in graph.nodes:
        if node.name in given or any(parent in active for parent in node.all_input_nodes):
            active.add(node)
    needed, todo = set(), list(outputs)
    while todo:
        node = todo.pop()
        if node not in needed:
            needed.add(node)
            todo.extend(node.all_input_nodes)
    return [node for node in graph.nodes if node in active and node in needed]


def _unit(nodes: Sequence[torch.fx.Node]) -> float:
    values = [node.meta.get("val") for node in nodes]
    found = [torch.finfo(value.dtype).eps for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    return max(found, default=torch.finfo(torch.float64).eps)


def _is_real(node: torch.fx.Node | None) -> bool:
    value = None if node is None else node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _tensor(program: Any, target: str) -> Tensor:
    found = program.state_dict.get(target)
    return program.constants[target] if found is None else found
