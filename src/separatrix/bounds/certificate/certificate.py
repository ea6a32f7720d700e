"""The Lipschitz constant of an assembled network: a proven upper bound and a measured lower bound."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separatrix.bounds.certificate.graph import UntraceableError, operator_graph, quiet, tensors, told
from separatrix.bounds.certificate.layers import OWN, Bounds, LayerFactor
from separatrix.bounds.certificate.steepest import SCALES, Steepest, lower_bound
from separatrix.bounds.certificate.witness import dense_lower_bound, quotients
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import ContradictionError, InputError, ModelError, SeparatrixError, ShapeError, UnsupportedModuleError
from separatrix.core.inputs import as_inputs
from separatrix.core.progress import watched
from separatrix.core.randomness import torch_generator, undisturbed
from separatrix.core.result import Result, Status
from separatrix.core.tangent import plain_kernels
from separatrix.core.twin import twin
from separatrix.core.wording import plain
from separatrix.core.wrappers import bare

MOST_INPUTS = 8  # of the user's inputs from which the ascent starts
MOST_REPLAYED = 3  # starts at which the operators are compared with the network
EXTREMES = (1e-30, 1e-6, 1e3, 1e6, 1e30)  # factors that scale a start
PASSES = 3  # over every start, which must agree
ROUNDING = 1e3  # round-offs by which they may differ: sums in a different order
MOST_NAMED = 3  # layers that the summary names
SAME = 1e-10  # relative difference allowed between an input alone and beside another: float64's sums
NO_FUNCTION = "two passes with one input differ: it draws random numbers, or keeps a state"
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)  # to try if a network fails in float64
SLACK = 1e6  # round-offs by which a measurement may exceed a bound that it attains


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Certificate(Result):
    r"""Certificate of a Lipschitz bound of a network:  ‖f(x) − f(y)‖₂ ≤ bound ‖x − y‖₂  for all x and y.

    Args:
        bound: proven upper bound for the current weights; ∞ if a layer has no bound.
        lower: measured lower bound: the distance between some two inputs grows by this factor; 0 if none was measured, as for a
            network that draws random numbers and is therefore not a function of its input.
        names: names of the layers, in the order in which they run.
        kinds: their classes or operators.
        shapes: shape of one output of each layer, such as "64 × 8 × 8".
        methods: method of proof of each factor.
        factors: (layer), proven factor of each layer; ∞ if none is known.
        lowers: (layer), lower bound of the factor; NaN if unknown.
        reach: (layer), bound of the factor from the network's input to the output of the layer.
        seconds: (layer), time that the proof took.
        unknown: names of the layers without a bound.
        reasons: the reason for each of them.
        model: class of the network.
        input_shape: shape of one input.
    """

    bound: float
    lower: float
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    shapes: tuple[str, ...]
    methods: tuple[str, ...]
    factors: Tensor
    lowers: Tensor
    reach: Tensor
    seconds: Tensor
    unknown: tuple[str, ...]
    reasons: tuple[str, ...]
    model: str
    input_shape: tuple[int, ...]

    layout: ClassVar[dict[str, str]] = {"factors": "layer", "lowers": "layer", "reach": "layer", "seconds": "layer"}
    units: ClassVar[dict[str, str]] = {
        "factors": "change of the output per change of the input of the layer",
        "lowers": "as factors",
        "reach": "change of the layer per change of the network's input",
        "seconds": "s",
    }

    @property
    def is_bounded(self) -> bool:
        """Whether there is a bound."""
        return math.isfinite(self.bound)

    @property
    def status(self) -> str:
        """Whether there is a bound: "ok" or "no_bound"."""
        return "ok" if self.is_bounded else "no_bound"

    def ended(self) -> str:
        """The status as text."""
        return self.status.replace("_", " ")

    @property
    def ratio(self) -> float:
        """`bound` / `lower`, an upper limit on how loose the bound is."""
        return self.bound / self.lower if self.lower > 0 else math.inf if self.bound > 0 else 1.0

    @property
    def layers(self) -> tuple[LayerFactor, ...]:
        """The layers one by one."""
        shapes = [tuple(int(size) for size in shape.split(" × ")) if shape else () for shape in self.shapes]
        columns = (self.factors.tolist(), self.lowers.tolist(), self.methods, self.reach.tolist(), self.seconds.tolist())
        return tuple(itertools.starmap(LayerFactor, zip(self.names, self.kinds, shapes, *columns, strict=True)))

    def summary(self) -> str:
        """The two bounds, and the layers that make the upper bound large or impossible."""
        shape = " × ".join(map(str, self.input_shape))
        if not self.is_bounded:
            why = "; ".join(f"{name}: {reason}" for name, reason in self._first(zip(self.unknown, self.reasons, strict=True)))
            rest = f", and {len(self.unknown) - MOST_NAMED} more" if len(self.unknown) > MOST_NAMED else ""
            measured = f"at least {plain(self.lower)}-Lipschitz" if self.lower > 0 else "and nothing measured"
            told = f"{self.model} on inputs of {shape}: no bound, {measured}"
            return f"{told}. Without a bound: {why}{rest}"
        told = f"{self.model} on inputs of {shape}: at most {plain(self.bound)}-Lipschitz, at least {plain(self.lower)}"
        largest = sorted(self.layers, key=lambda layer: -layer.factor if layer.factor == layer.factor else 0.0)
        above = [f"{layer.name} {plain(layer.factor)}" for layer in largest if layer.factor > 1]
        return told + (f": the largest factors are {', '.join(self._first(above))}" if above else "")

    @staticmethod
    def _first(items: Any) -> list[Any]:
        return list(items)[:MOST_NAMED]


@undisturbed()
def certificate(
    model: nn.Module,
    input_shape: int | Sequence[int],
    *,
    inputs: Tensor | None = None,
    starts: int = 9,
    steps: int = 30,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> Certificate:
    r"""Compute a proven upper bound of the Lipschitz constant of a whole network, and measure a lower bound.

        lower ≤ sup ‖f(x) − f(y)‖₂ / ‖x − y‖₂ ≤ bound

    The proof covers the operators that actually run, in any network: factors multiply along a path, add where paths are
    added (x + f(x): 1 + Lip f), and combine to √(Σ L²) where outputs are concatenated. Scalars, input normalisation, pooling,
    lifts and heads are included. Consecutive affine layers (a convolution and its batch norm) are treated as one operator. The
    `guarantee` of a module is trusted, unless a subclass, a hook or the object itself changes what the module runs. The network
    is evaluated in evaluation mode, in float64, and is not changed.

    Args:
        model: any module with one input and one or more outputs, which together form the value of f.
        input_shape: shape of one input without its batch axis: 64, or (3, 32, 32).
        inputs: (count, *input_shape), further starts of the ascent; the first 8 are used.
        starts: number of random starts of the ascent, with root mean squares of 0.1, 1 and 10 in turn; the best 3 continue after
            a third of the steps.
        steps: number of steps of the ascent.
        seed: seed of the starts.
        progress: show progress over the layers.
        throw: raise an error if there is no bound.

    Returns:
        Certificate: `bound`, ∞ if a layer has none, which `unknown` then names; `lower`; `layers`.

    Raises:
        ShapeError: the model does not take inputs of this shape.
        ModelError: the model does not run in float64, or fails for any shape.
        InputError: input_shape or inputs are invalid.
        UnsupportedModuleError: there is no bound and throw is True, or the model is not an nn.Module.
        ContradictionError: a measurement exceeds a bound that relies on no module's guarantee: a bug in Separatrix.
    Limits: products of norms are valid bounds, but often far above the Lipschitz constant; compare `lower`. The bound holds in
        exact arithmetic: it includes neither the rounding of a network that runs in float32, nor the jump of PyTorch's softplus
        where it switches to x (2 · 10⁻⁹ at 20), which its `method` reports. There is no bound for products of two activations,
        attention, recurrent layers, integer inputs, discontinuous functions, or control flow that depends on the numbers.
    Source: Szegedy et al. 2014, arXiv:1312.6199, §4.3 (products of norms); lower bounds as difference quotients.
    """
    shape = _checked_shape(input_shape)
    model = bare(model)
    _check_model(model)
    for name, value in (("starts", starts), ("steps", steps)):
        if check_whole(name, value) < 1:
            raise InputError(f"{name} is {value}; it must be at least 1.")
    seed = check_seed(seed)
    begin = _starts(shape, inputs, starts, seed)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    network = _without_gradients(twin(model, dtype=torch.float64, device=device))
    begin, settings = begin.to(device), {"starts": starts, "steps": steps, "seed": seed, "inputs": len(begin) - starts}
    kind = type(model).__name__
    if not _runs(network, begin[:1], shape, model):
        why = "its inputs are integers, for which there is no Lipschitz factor"
        return _ended(Certificate(**_facts([], {kind: why}, kind, shape), bound=math.inf, lower=0.0, settings=settings), throw)
    layers, unknown, bound, unit = _proven(network, _replayed(begin), kind, progress)
    lower = _measured(network, begin, unit, settings, progress)
    if not math.isfinite(bound) and not unknown:
        unknown = {kind: "no bound is known for its output"}
    if lower is None:
        bound, lower, unknown = math.inf, 0.0, unknown or {kind: NO_FUNCTION}
    if lower > bound * (1 + SLACK * unit):
        unknown = {**unknown, **_blamed(layers, bound, lower, f"{kind} on inputs of {' × '.join(map(str, shape))}")}
        bound = math.inf
    facts = _facts(layers, unknown, kind, shape)
    return _ended(Certificate(**facts, bound=bound, lower=min(lower, bound), settings=settings), throw)


def _proven(network: nn.Module, x: Tensor, kind: str, progress: bool) -> tuple[list[LayerFactor], dict[str, str], float, float]:
    """The layers, those without a bound, the bound, and the round-off of the lowest precision in the network."""
    try:
        graph = operator_graph(network, x)
    except UntraceableError as error:
        name, _, reason = error.args
        return [], {name or kind: reason}, math.inf, torch.finfo(x.dtype).eps
    bounds = Bounds(graph, kind)
    layers = list(watched(bounds.layers(), len(graph.nodes), "layers", progress))
    bound = bounds.bound
    return layers, {} if math.isfinite(bound) else bounds.unknown, bound, graph.unit


def _blamed(layers: list[LayerFactor], bound: float, lower: float, what: str) -> dict[str, str]:
    """The guarantees that a refuted bound relies on, with the reason; without any, the proof itself is wrong.

    Raises:
        ContradictionError: the bound relies on no guarantee.
    """
    names = [layer.name for layer in layers if layer.method == OWN]
    why = f"two inputs move apart by a factor of {plain(lower)}, more than the {plain(bound)} that follows from the factors"
    if not names:
        raise ContradictionError(
            f"{what}: {why}.\nThis is a bug in Separatrix, so rely on neither number: please report it with the network."
        )
    return dict.fromkeys(names, why)


@torch.no_grad()
def _repeats(f: Callable[[Tensor], Tensor], z: Tensor, unit: float) -> bool:
    """Whether passes with the same inputs agree; if not, their difference quotients are not slopes of a function."""
    first, *others = (f(z).nan_to_num() for _ in range(PASSES))
    size = float(first.abs().max()) if first.numel() else 0.0
    return all(one.shape == first.shape and torch.allclose(one, first, rtol=0.0, atol=ROUNDING * unit * size) for one in others)


def _measured(network: nn.Module, begin: Tensor, unit: float, settings: dict[str, Any], progress: bool) -> float | None:
    """The steepest slope found from all starts; None if the network is not a function of its input."""
    f, steps = _by_rows(network, begin), settings["steps"]
    try:
        if not _repeats(f, begin.flatten(1), unit):
            return None
        steepest = Steepest(f, begin.flatten(1), settings["seed"])
        for _ in watched(steepest.climb(steps), steps, "ascent", progress):
            pass
        return max(lower_bound(f, steepest, unit), dense_lower_bound(f, begin.flatten(1), unit))
    except SeparatrixError:
        raise
    except Exception:  # user code, at one of these inputs or while gradients are recorded
        return quotients(f, begin.flatten(1), unit)


def _by_rows(network: nn.Module, begin: Tensor) -> Callable[[Tensor], Tensor]:
    """(count, dim) → (count, width), each row as a separate input, even if the network mixes the items of a batch."""

    def at_once(z: Tensor) -> Tensor:
        return _flat(network(z.reshape(len(z), *begin.shape[1:]).clone()), len(z))

    def one_by_one(z: Tensor) -> Tensor:
        return torch.cat([at_once(row) for row in z.split(1)])

    pair = begin[:2].flatten(1)
    try:
        with torch.no_grad():
            together, alone = at_once(pair), one_by_one(pair)
        same = together.shape == alone.shape and torch.allclose(together, alone, rtol=SAME, atol=SAME, equal_nan=True)
    except Exception:  # user code, which may accept only one input at a time
        same = False
    return at_once if same else one_by_one


def _facts(layers: list[LayerFactor], unknown: dict[str, str], kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    numbers = ("factor", "lower", "reach", "seconds")
    columns = [torch.tensor([getattr(layer, name) for layer in layers], dtype=torch.float64) for name in numbers]
    return {
        "names": tuple(layer.name for layer in layers),
        "kinds": tuple(layer.kind for layer in layers),
        "shapes": tuple(" × ".join(map(str, layer.shape)) for layer in layers),
        "methods": tuple(layer.method for layer in layers),
        **dict(zip(("factors", "lowers", "reach", "seconds"), columns, strict=True)),
        "unknown": tuple(unknown),
        "reasons": tuple(unknown.values()),
        "model": kind,
        "input_shape": shape,
        "codes": torch.tensor(Status.NOT_CONVERGED if unknown else Status.OK, dtype=torch.int8),
    }


def _ended(found: Certificate, throw: bool) -> Certificate:
    if throw and not found.is_bounded:
        raise UnsupportedModuleError(f"{found.summary()}.\nReplace these layers, or give them a guarantee.")
    return found


def _checked_shape(given: Any) -> tuple[int, ...]:
    sizes = (
        (given,) if isinstance(given, int) else tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else None
    )
    if sizes is None or not sizes or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise InputError(
            f"input_shape is {given!r}; expected the shape of one input without batch axis, such as 64 or (3, 32, 32)."
        )
    return sizes


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModuleError(f"expected a plain nn.Module, whose layers can be inspected; got a {type(model).__name__}.")
    scripted = next((name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise UnsupportedModuleError(
            f"'{scripted}' is compiled by TorchScript, so its operators cannot be seen.\nPass the module that it was made from."
        )
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{type(model).__name__} has uninitialised weights without a shape.\nCall it once on its inputs.")


def _starts(shape: tuple[int, ...], inputs: Tensor | None, count: int, seed: int) -> Tensor:
    """Random inputs of several sizes, followed by the user's; (count, *shape), float64."""
    random = torch_generator(seed, "starts of an ascent")
    scales = [scale for scale, _ in zip(itertools.cycle(SCALES), range(count), strict=False)]
    drawn = torch.randn(count, *shape, dtype=torch.float64, generator=random)
    begin = drawn * torch.tensor(scales, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    if inputs is None:
        return begin
    given = as_inputs(inputs).double().cpu()
    if given.shape[1:] != shape or not len(given):
        raise ShapeError(
            f"inputs have shape {tuple(given.shape)}; expected (count, {', '.join(map(str, shape))}) for inputs of shape {shape}."
        )
    return torch.cat([begin, given[:MOST_INPUTS]])


def _replayed(begin: Tensor) -> Tensor:
    """Inputs at which operators and network are compared: if code tests numbers, it tests them against 0, 1 and large ones."""
    first, ones = begin[:1], torch.ones_like(begin[:1])
    one_hot = torch.zeros_like(ones).flatten(1).index_fill(1, torch.tensor([0], device=ones.device), 1.0).reshape(ones.shape)
    scaled = [scale * first for scale in EXTREMES]
    return torch.cat([begin[:MOST_REPLAYED], 0 * ones, ones, one_hot, (10 * first).round(), *scaled])


def _without_gradients(network: nn.Module) -> nn.Module:
    """A twin with its own weights and counters: derivatives are with respect to the input only, and its writes stay local."""
    for part in network.modules():
        own = {name: tensor if tensor is None else tensor.detach().clone() for name, tensor in part._parameters.items()}
        part._parameters.update({name: own[name] if own[name] is None else nn.Parameter(own[name], False) for name in own})
        part._buffers.update(
            {name: tensor if tensor is None else tensor.detach().clone() for name, tensor in part._buffers.items()}
        )
    return network


def _runs(network: nn.Module, x: Tensor, shape: tuple[int, ...], model: nn.Module) -> bool:
    """Whether the network takes real numbers; False if it takes integers."""
    kind = type(model).__name__
    try:
        with torch.no_grad(), plain_kernels(), quiet():
            _flat(network(x.clone()), 1)
        return True
    except InputError:
        raise
    except Exception as error:  # the user's code: whatever it raises is the message
        if _takes_whole_numbers(network, x):
            return False
        raise _refusal(model, x, error, f"{kind} fails on an input of shape {shape}, with a batch axis of 1 before it") from error


def _refusal(model: nn.Module, x: Tensor, error: Exception, what: str) -> SeparatrixError:
    """The cause of a failure: the shape, the precision in which the network can run, or the network itself."""
    reason = told(error, 200)
    narrow = next((dtype for dtype in PRECISIONS if _takes(model, x, dtype)), None)
    if narrow is not None:
        name = str(narrow).removeprefix("torch.")
        return ModelError(
            f"{what} in float64, in which it is evaluated, although it runs in {name}: {reason}.\n"
            f"Register the tensors that stay in {name} on the module, so that .double() converts them; or pass the model before "
            "quantisation."
        )
    if not isinstance(error, RuntimeError | ValueError | IndexError | AssertionError) or "dtype" in str(error):
        return ModelError(f"{what}: {reason}.\nThe shape is not the cause: fix the error in forward.")
    return ShapeError(
        f"{what}: {reason}.\n"
        "Pass the shape of one input without its batch axis, as the model takes it; if it is right, fix the error in forward."
    )


def _takes(model: nn.Module, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the unchanged model, in evaluation mode, runs in a precision."""
    try:
        with torch.no_grad(), plain_kernels(), quiet():
            _flat(twin(model, dtype=dtype, device=x.device)(x.to(dtype)), 1)
        return True
    except Exception:  # user code may raise anything; then it does not run in this precision
        return False


def _takes_whole_numbers(network: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad(), plain_kernels():
            network(torch.zeros(x.shape, dtype=torch.int64, device=x.device))
        return True
    except Exception:  # then the kind of number is not the cause
        return False


def _flat(output: Any, count: int) -> Tensor:
    """All real tensors that a network returns, as one row per item."""
    parts = [part.reshape(count, -1) for part in tensors(output)]
    if not parts:
        raise InputError(
            f"the model returned a {type(output).__name__} without a floating-point tensor.\n"
            "It must return tensors, alone or in dictionaries, lists, tuples or dataclasses."
        )
    return torch.cat([part.double() for part in parts], dim=-1)
