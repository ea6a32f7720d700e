"""The Lipschitz constant of an assembled network, from above by proof and from below by measurement."""

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

MOST_INPUTS = 8  # of the user's own that the ascent starts from
MOST_REPLAYED = 3  # starts at which the operators are held against the network
EXTREMES = (1e-30, 1e-6, 1e3, 1e6, 1e30)  # by which a start is scaled
PASSES = 3  # of every start, which must agree
ROUNDING = 1e3  # round-offs by which they may differ: sums in another order
MOST_NAMED = 3  # layers that the summary names
SAME = 1e-10  # by which an input alone may differ from the same beside another, relative: float64's sums
NO_FUNCTION = "two passes of one input differ: it draws at random, or keeps what it was given"
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)  # that a network which fails in float64 may run in
SLACK = 1e6  # round-offs; by which a measurement may exceed a bound that it attains


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Certificate(Result):
    r"""How far apart a network can carry two inputs:  ‖f(x) − f(y)‖₂ ≤ bound ‖x − y‖₂  for all x and y.

    Args:
        bound: proven, for the weights as they are; ∞ where a layer has no bound.
        lower: measured: some two inputs are carried apart by this factor; 0 where none are known to be, as of a network that draws
            at random and so is no function of its input.
        names: of the layers, in the order in which they run.
        kinds: their classes, or the operator.
        shapes: of one output of each, as "64 × 8 × 8".
        methods: of proof.
        factors: (layer), of each; ∞ where none is known.
        lowers: (layer), that the factor cannot be below; NaN where not known.
        reach: (layer), bound of the factor from the input to behind the layer.
        seconds: (layer), that the proof took.
        unknown: names of the layers without a bound.
        reasons: why, one for each.
        model: class of the network.
        input_shape: of one input.
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
        """Whether there is a bound, in a word: "ok" or "no_bound"."""
        return "ok" if self.is_bounded else "no_bound"

    def ended(self) -> str:
        """How it ended, in words."""
        return self.status.replace("_", " ")

    @property
    def ratio(self) -> float:
        """bound / lower: how loose the bound can be at most."""
        return self.bound / self.lower if self.lower > 0 else math.inf if self.bound > 0 else 1.0

    @property
    def layers(self) -> tuple[LayerFactor, ...]:
        """The layers one by one."""
        shapes = [tuple(int(size) for size in shape.split(" × ")) if shape else () for shape in self.shapes]
        columns = (self.factors.tolist(), self.lowers.tolist(), self.methods, self.reach.tolist(), self.seconds.tolist())
        return tuple(itertools.starmap(LayerFactor, zip(self.names, self.kinds, shapes, *columns, strict=True)))

    def summary(self) -> str:
        """The two numbers, and the layers that make the bound large or impossible."""
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
    r"""A true upper bound of the Lipschitz constant of a whole network, and beside it a measured lower one.

        lower ≤ sup ‖f(x) − f(y)‖₂ / ‖x − y‖₂ ≤ bound

    The bound is taken of the operators that run, whoever wrote the network: factors multiply along a path, add up where paths
    are added (x + f(x): 1 + Lip f), and are √(Σ L²) where they are put side by side. Scalars, normalisation of the input, pooling,
    lifts and heads count. Affine layers behind each other (a convolution and its batch norm) are one operator. A module with
    a `guarantee` is taken at its word, unless a subclass, a hook within it or the object itself changes what it runs. The
    network is seen in evaluation mode, in float64, and is not changed.

    Args:
        model: any module of one input and one or more outputs, which together are f's value.
        input_shape: of one input without its batch axis: 64, or (3, 32, 32).
        inputs: (count, *input_shape), further starts of the ascent, of which the first 8 are taken.
        starts: random starts of the ascent, of root mean square 0.1, 1 and 10 by turns; the best 3 climb on after a third.
        steps: of the ascent.
        seed: of the starts.
        progress: show progress over the layers.
        throw: raise where there is no bound.

    Returns:
        Certificate: `bound`, ∞ where a layer has none, which `unknown` then names; `lower`; `layers`.

    Raises:
        ShapeError: the model does not take inputs of this shape.
        ModelError: it does not run in float64, or fails whatever the shape.
        InputError: input_shape or inputs are no such thing.
        UnsupportedModuleError: no bound, and throw is True; or the model is no nn.Module.
        ContradictionError: two inputs are carried apart by more than the bound, which rests on no module's word: a bug of ours.
    Limits: of products of norms: true, and often far above the constant itself, which `lower` shows. Exact arithmetic is meant:
        the rounding of a network that runs in float32 is not in the bound, nor is the jump of PyTorch's softplus where it goes over
        to x (2 · 10⁻⁹ at 20), which its `method` tells. No bound for products of two activations, attention,
        recurrent layers, integer inputs and what jumps; nor where the path through the network depends on the numbers.
    Source: Szegedy et al. 2014, arXiv:1312.6199, §4.3 (products of norms); lower bounds as difference quotients.
    """
    shape = _checked_shape(input_shape)
    model = bare(model)
    _check_model(model)
    for name, value in (("starts", starts), ("steps", steps)):
        if check_whole(name, value) < 1:
            raise InputError(f"{name} is {value}; it is at least 1.")
    seed = check_seed(seed)
    begin = _starts(shape, inputs, starts, seed)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    network = _without_gradients(twin(model, dtype=torch.float64, device=device))
    begin, settings = begin.to(device), {"starts": starts, "steps": steps, "seed": seed, "inputs": len(begin) - starts}
    kind = type(model).__name__
    if not _runs(network, begin[:1], shape, model):
        why = "its inputs are whole numbers, between which nothing is Lipschitz"
        return _ended(Certificate(**_facts([], {kind: why}, kind, shape), bound=math.inf, lower=0.0, settings=settings), throw)
    layers, unknown, bound, unit = _proven(network, _replayed(begin), kind, progress)
    lower = _measured(network, begin, unit, settings, progress)
    if not math.isfinite(bound) and not unknown:
        unknown = {kind: "no bound is known of what it returns"}
    if lower is None:
        bound, lower, unknown = math.inf, 0.0, unknown or {kind: NO_FUNCTION}
    if lower > bound * (1 + SLACK * unit):
        unknown = {**unknown, **_blamed(layers, bound, lower, f"{kind} on inputs of {' × '.join(map(str, shape))}")}
        bound = math.inf
    facts = _facts(layers, unknown, kind, shape)
    return _ended(Certificate(**facts, bound=bound, lower=min(lower, bound), settings=settings), throw)


def _proven(network: nn.Module, x: Tensor, kind: str, progress: bool) -> tuple[list[LayerFactor], dict[str, str], float, float]:
    """The layers, those without a bound, the bound, and the round-off of the coarsest numbers on the way."""
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
    """A bound that a measurement refutes is none: the guarantees that it rests on are named; without any, the proof is wrong.

    Raises:
        ContradictionError: the bound rests on nobody's word.
    """
    names = [layer.name for layer in layers if layer.method == OWN]
    why = f"two inputs are carried apart by {plain(lower)}, more than the {plain(bound)} that follows from the factors"
    if not names:
        raise ContradictionError(
            f"{what}: {why}.\nThis is an error of Separatrix, so rely on neither number: please report it with the network."
        )
    return dict.fromkeys(names, why)


@torch.no_grad()
def _repeats(f: Callable[[Tensor], Tensor], z: Tensor, unit: float) -> bool:
    """Whether passes of the same inputs agree; if not, a quotient of two of them is no slope of a function."""
    first, *others = (f(z).nan_to_num() for _ in range(PASSES))
    size = float(first.abs().max()) if first.numel() else 0.0
    return all(one.shape == first.shape and torch.allclose(one, first, rtol=0.0, atol=ROUNDING * unit * size) for one in others)


def _measured(network: nn.Module, begin: Tensor, unit: float, settings: dict[str, Any], progress: bool) -> float | None:
    """The steepest that was found from all starts; None of what is no function of its input."""
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
    except Exception:  # the user's code, at one of these inputs, or where gradients are recorded
        return quotients(f, begin.flatten(1), unit)


def _by_rows(network: nn.Module, begin: Tensor) -> Callable[[Tensor], Tensor]:
    """(count, dim) → (count, width), each row as an input of its own, whatever the network makes of a batch."""

    def at_once(z: Tensor) -> Tensor:
        return _flat(network(z.reshape(len(z), *begin.shape[1:]).clone()), len(z))

    def one_by_one(z: Tensor) -> Tensor:
        return torch.cat([at_once(row) for row in z.split(1)])

    pair = begin[:2].flatten(1)
    try:
        with torch.no_grad():
            together, alone = at_once(pair), one_by_one(pair)
        same = together.shape == alone.shape and torch.allclose(together, alone, rtol=SAME, atol=SAME, equal_nan=True)
    except Exception:  # the user's code, which may take one input at a time
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
        raise UnsupportedModuleError(f"{found.summary()}.\nReplace these layers, or give them a guarantee of their own.")
    return found


def _checked_shape(given: Any) -> tuple[int, ...]:
    sizes = (
        (given,) if isinstance(given, int) else tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else None
    )
    if sizes is None or not sizes or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise InputError(f"input_shape is {given!r}; it is the shape of one input without its batch axis, as 64 or (3, 32, 32).")
    return sizes


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModuleError(f"a {type(model).__name__} is no plain nn.Module, so its layers cannot be told apart.")
    scripted = next((name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise UnsupportedModuleError(
            f"'{scripted}' is compiled by TorchScript, so what it runs cannot be seen.\nPass the module that it was made of."
        )
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{type(model).__name__} has weights without a shape yet.\nCall it once on its inputs.")


def _starts(shape: tuple[int, ...], inputs: Tensor | None, count: int, seed: int) -> Tensor:
    """Random inputs of several sizes, then the user's own; (count, *shape), float64."""
    random = torch_generator(seed, "starts of an ascent")
    scales = [scale for scale, _ in zip(itertools.cycle(SCALES), range(count), strict=False)]
    drawn = torch.randn(count, *shape, dtype=torch.float64, generator=random)
    begin = drawn * torch.tensor(scales, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    if inputs is None:
        return begin
    given = as_inputs(inputs).double().cpu()
    if given.shape[1:] != shape or not len(given):
        raise ShapeError(
            f"inputs have shape {tuple(given.shape)}; of inputs of shape {shape} they are (count, {', '.join(map(str, shape))})."
        )
    return torch.cat([begin, given[:MOST_INPUTS]])


def _replayed(begin: Tensor) -> Tensor:
    """Inputs of the operators and of the network alike: where numbers are tested, they are tested against 0, 1 and large ones."""
    first, ones = begin[:1], torch.ones_like(begin[:1])
    one_hot = torch.zeros_like(ones).flatten(1).index_fill(1, torch.tensor([0], device=ones.device), 1.0).reshape(ones.shape)
    scaled = [scale * first for scale in EXTREMES]
    return torch.cat([begin[:MOST_REPLAYED], 0 * ones, ones, one_hot, (10 * first).round(), *scaled])


def _without_gradients(network: nn.Module) -> nn.Module:
    """A twin with weights and counters of its own: derivatives are taken of the input alone, and what it writes stays here."""
    for part in network.modules():
        own = {name: tensor if tensor is None else tensor.detach().clone() for name, tensor in part._parameters.items()}
        part._parameters.update({name: own[name] if own[name] is None else nn.Parameter(own[name], False) for name in own})
        part._buffers.update(
            {name: tensor if tensor is None else tensor.detach().clone() for name, tensor in part._buffers.items()}
        )
    return network


def _runs(network: nn.Module, x: Tensor, shape: tuple[int, ...], model: nn.Module) -> bool:
    """Whether the network takes real numbers; False where it takes whole ones."""
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
    """What is wrong: the shape, the precision that the network can run in, or the network itself."""
    reason = told(error, 200)
    narrow = next((dtype for dtype in PRECISIONS if _takes(model, x, dtype)), None)
    if narrow is not None:
        name = str(narrow).removeprefix("torch.")
        return ModelError(
            f"{what}, in float64, in which it is evaluated, though it runs in {name}: {reason}.\n"
            f"Make what stays in {name} part of the module, so that .double() reaches it; or take the model before quantisation."
        )
    if not isinstance(error, RuntimeError | ValueError | IndexError | AssertionError) or "dtype" in str(error):
        return ModelError(f"{what}: {reason}.\nThis is not about the shape: mend what fails in forward.")
    return ShapeError(
        f"{what}: {reason}.\n"
        "Give the shape of one input without its batch axis, as the model takes it; if it is that, mend what fails in forward."
    )


def _takes(model: nn.Module, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the model as it is, in evaluation mode, runs in a precision."""
    try:
        with torch.no_grad(), plain_kernels(), quiet():
            _flat(twin(model, dtype=dtype, device=x.device)(x.to(dtype)), 1)
        return True
    except Exception:  # whatever the user's code raises: not in this precision
        return False


def _takes_whole_numbers(network: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad(), plain_kernels():
            network(torch.zeros(x.shape, dtype=torch.int64, device=x.device))
        return True
    except Exception:  # then it is not the kind of number that it minds
        return False


def _flat(output: Any, count: int) -> Tensor:
    """All real tensors that a network returns as one row an item."""
    parts = [part.reshape(count, -1) for part in tensors(output)]
    if not parts:
        raise InputError(
            f"the model returned a {type(output).__name__} without a floating-point tensor.\n"
            "Let it return tensors, alone or in dictionaries, lists, tuples or dataclasses."
        )
    return torch.cat([part.double() for part in parts], dim=-1)
