"""A network as the graph of PyTorch's own operators that it runs on one input, whoever wrote it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind

from separatrix.nn.block import Residual, Sequential
from separatrix.nn.guarantee import Guarantee

# Note [Operators, not modules]
# What a module's class promises, its hooks, a subclass, or an in-place operator behind it can break. So the bound is taken of the
# operators that run: `torch.export` writes down every one of them, with in-place operators and writes into views replaced by
# their functional forms, the name of the module each belongs to, and an error where the path that is taken depends on the
# numbers. Only what proves its own Lipschitz factor, a module with a `guarantee`, is kept whole, as one operator of ours.

Shapes = dict[tuple[int, ...], list[int]]

REPLAYED = 1e-3  # by which what is traced may give other numbers than the network: half precision inside of it

WHOLE = (nn.Softsign, nn.Tanhshrink, nn.Softshrink)
"""PyTorch's activations that are written as several operators: slopes 1/(1+|x|)², tanh² x, and 0 or 1, so 1-Lipschitz."""


@torch.library.custom_op("separatrix::guaranteed", mutates_args=())
def guaranteed(x: Tensor, leaf: int, shape: list[int]) -> Tensor:
    """The place of a module that is kept whole, in a graph; never run."""
    raise NotImplementedError("a module that is kept whole stands in a graph only.")


@guaranteed.register_fake
def _(x: Tensor, leaf: int, shape: list[int]) -> Tensor:
    return x.new_empty(shape)


class UntraceableError(Exception):
    """The operators cannot be written down; `args` are the layer's name, its kind, and why."""


@dataclass(frozen=True)
class OperatorGraph:
    """Operators in the order in which they run.

    Args:
        nodes: those on which the output depends and that depend on the input, the input first.
        outputs: the nodes that the network returns.
        held: tensors that the graph holds, by the name of their node.
        leaves: modules that are kept whole, by the number that the graph knows them by.
        promises: what each guarantees.
    """

    nodes: list[torch.fx.Node]
    outputs: list[torch.fx.Node]
    held: dict[str, Tensor]
    leaves: list[nn.Module]
    promises: list[Guarantee]

    @property
    def unit(self) -> float:
        """Round-off of the coarsest numbers in it."""
        values = [node.meta.get("val") for node in self.nodes]
        found = [torch.finfo(value.dtype).eps for value in values if isinstance(value, Tensor) and value.is_floating_point()]
        return max(found, default=torch.finfo(torch.float64).eps)


def operator_graph(network: nn.Module, x: Tensor) -> OperatorGraph:
    """The operators that a network runs on inputs of this shape.

    Args:
        network: in evaluation mode; its own copy, which may be written to (see twin).
        x: inputs of it, one after the other: the first is traced, and all are held against what the operators give.

    Raises:
        UntraceableError: the path through the network depends on the numbers, or runs outside of PyTorch.
    """
    inputs, x = x.split(1), x[:1]
    leaves = {name: part for name, part in network.named_modules() if promised(part) is not None}
    with torch.no_grad(), _kept_whole(network, leaves, x), _quiet():
        program = _exported(network, x)
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
    _check_replay(network, _Replay(program, held, list(leaves.values())), inputs)
    promises = [promise for part in leaves.values() if (promise := promised(part)) is not None]
    return OperatorGraph(_between(program.graph, given, wanted), wanted, held, list(leaves.values()), promises)


def promised(module: nn.Module) -> Guarantee | None:
    """The guarantee of a module that is kept whole: its own, unless it only composes those of its parts."""
    if not all(_runs_as_written(part) and (part is module or not _has_hooks(part)) for part in module.modules()):
        return None
    if any(type(module).forward is kind.forward for kind in WHOLE):
        return Guarantee(lipschitz=1.0)
    if type(module) in (Sequential, Residual):
        return None
    own = getattr(module, "guarantee", None)
    return own if isinstance(own, Guarantee) and own.lipschitz < float("inf") else None


def _runs_as_written(module: nn.Module) -> bool:
    """Whether what runs is of the class that promises, or of one that it builds upon: not a subclass's or an object's own."""
    lines = [n for n, kind in enumerate(type(module).__mro__) if "guarantee" in vars(kind)]
    runs = [n for n, kind in enumerate(type(module).__mro__) if {"forward", "step", "__call__"} & vars(kind).keys()]
    return not {"forward", "step"} & vars(module).keys() and ("guarantee" in vars(module) or not lines or lines[0] <= runs[0])


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def layer_of(node: torch.fx.Node) -> tuple[str, str]:
    """The innermost module that an operator belongs to: its name, "" for the network itself, and its class with its module."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    name, kind = stack[-1] if stack else ("", "")
    return name, kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While it lasts, a trace that fails says so by its error alone: not by warnings, nor by its graph and a line in a log."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _exported(network: nn.Module, x: Tensor) -> Any:
    """Traced with fake tensors; where a path depends on weights, once more after a symbolic trace in which weights are numbers."""
    try:
        return torch.export.export(network, (x,), strict=False).run_decompositions({})
    except Exception as error:  # whatever the user's code raises on tensors without numbers
        failure = error
    with contextlib.suppress(Exception):
        return torch.export.export(torch.fx.symbolic_trace(network), (x,), strict=False).run_decompositions({})
    raise UntraceableError(*_where(network, failure)) from failure


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

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator."""
        if target is torch.ops.separatrix.guaranteed.default:
            return self.leaves[args[1]].forward(args[0])
        return super().call_function(target, args, kwargs)


@torch.no_grad()
def _check_replay(network: nn.Module, replay: _Replay, inputs: Sequence[Tensor]) -> None:
    """A trace may take another way than the network: through what tells a tensor from its stand-in, or a die that Python throws."""
    for x in inputs:
        try:
            with torch.random.fork_rng(devices=[]):
                given = replay.outputs(x)
        except Exception as error:  # whatever the user's operators raise
            raise UntraceableError(*_where(network, error)) from error
        with torch.random.fork_rng(devices=[]):
            wanted = torch.utils._pytree.tree_leaves(network(x.clone()))
        pairs = [(a, b) for a, b in zip(wanted, given, strict=False) if isinstance(a, Tensor) and a.is_floating_point()]
        if len(wanted) != len(given) or not all(_same(a, b) for a, b in pairs):
            name = type(network).__name__
            raise UntraceableError("", name, "the operators that were written down give other numbers than the network itself")


def _same(a: Tensor, b: Any) -> bool:
    if not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    size = float(a.nan_to_num(0.0, 0.0, 0.0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a.double(), b.double(), rtol=REPLAYED, atol=REPLAYED * size, equal_nan=True)


def _where(network: nn.Module, error: BaseException) -> tuple[str, str, str]:
    """The innermost module of the network that was running, and the first line of the error."""
    names = {id(part): name for name, part in network.named_modules()}
    found = network
    for part in _running(error):
        found = part if id(part) in names else found
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return names[id(found)], type(found).__name__, f"its path depends on the numbers, or leaves PyTorch ({reason})"


def _running(error: BaseException) -> Iterator[Any]:
    """What `self` was in each frame of a traceback, the outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_locals.get("self")
        trace = trace.tb_next


@contextlib.contextmanager
def _kept_whole(network: nn.Module, leaves: dict[str, nn.Module], x: Tensor) -> Iterator[None]:
    """While it lasts, each leaf that takes one tensor to one is one operator; their shapes are those of one real run."""
    seen: list[Shapes] = [{} for _ in leaves]
    try:
        for leaf, shapes in zip(leaves.values(), seen, strict=True):
            leaf.__dict__["forward"] = _watched(leaf.forward, shapes)
        network(x.clone())
        for number, (leaf, shapes) in enumerate(zip(leaves.values(), seen, strict=True)):
            leaf.__dict__["forward"] = _stand_in(leaf, number, shapes)
        yield
    finally:
        for leaf in leaves.values():
            leaf.__dict__.pop("forward", None)


def _watched(forward: Callable[..., Any], shapes: Shapes) -> Callable[..., Any]:
    """The forward pass, which writes down what shape it gives for what shape."""

    def run(*arguments: Any, **named: Any) -> Any:
        x, y = arguments[0] if len(arguments) == 1 and not named else None, forward(*arguments, **named)
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


def _is_real(node: torch.fx.Node | None) -> bool:
    value = None if node is None else node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _tensor(program: Any, target: str) -> Tensor:
    found = program.state_dict.get(target)
    return program.constants[target] if found is None else found
