"""The Lipschitz constant of an assembled network: a proven upper bound and a measured lower bound."""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separatrix.bounds.certificate.accepted import (
    check_model,
    checked_shape,
    flat,
    replayed,
    runs,
    starts_of,
    without_gradients,
)
from separatrix.bounds.certificate.effort import Plan, Search, planned
from separatrix.bounds.certificate.graph import UntraceableError, operator_graph
from separatrix.bounds.certificate.layers import OWN, Bounds, LayerFactor
from separatrix.bounds.certificate.rules import RULES
from separatrix.bounds.certificate.steepest import Steepest, lower_bound
from separatrix.bounds.certificate.witness import dense_lower_bound, quotients
from separatrix.bounds.operator_norm.proof import TIGHT
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.ending import stoppable, why_ended
from separatrix.core.errors import ContradictionError, SeparatrixError, UnsupportedModuleError
from separatrix.core.progress import watched
from separatrix.core.randomness import undisturbed
from separatrix.core.result import Result, Status
from separatrix.core.twin import twin
from separatrix.core.wording import plain
from separatrix.core.wrappers import bare

PASSES = 3  # over every start, which must agree
ROUNDING = 1e3  # round-offs by which they may differ: sums in a different order
MOST_NAMED = 3  # layers that the summary names
SAME = 1e-10  # relative difference allowed between an input alone and beside another: float64's sums
NO_FUNCTION = "two passes with one input differ: it draws random numbers, or keeps a state"
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

    drawn_by: ClassVar[str] = "separatrix.plot.certificate:certificate_figure"
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
    starts: int | None = None,
    steps: int | None = None,
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
        starts: number of random starts of the ascent, with root mean squares of 0.1, 1 and 10 in turn; the best continue after a
            third of the steps. Default: 9, or 3 for a large network.
        steps: number of steps of the ascent. Default: 30, or fewer for a large network.
        seed: seed of the starts.
        progress: show progress, and each layer with its factor as soon as it is known, on stderr.
        throw: raise an error if there is no bound.

    Returns:
        Certificate: `bound`, ∞ if a layer has none, which `unknown` then names; `lower`; `layers`.

    Raises:
        ShapeError: the model does not take inputs of this shape.
        ModelError: the model does not run in float64, or fails for any shape.
        InputError: input_shape or inputs are invalid.
        UnsupportedModuleError: there is no bound and throw is True, or the model is not an nn.Module.
        ContradictionError: a measurement exceeds a bound that relies on no module's guarantee: a bug in Separatrix.
    Limits: products of norms are valid bounds, but often far above the Lipschitz constant; compare `lower`. For a large network (a
        ResNet-18 at 224 pixels is one), each norm is proven to about 1 % instead of 3 · 10⁻⁶ (`settings["slack"]`), or by a
        circular bound, and the search is shorter. The bound holds in exact arithmetic: it includes neither the rounding of a
        network that runs in float32, nor the jump of PyTorch's softplus where it switches to x (2 · 10⁻⁹ at 20), which its `method`
        reports. There is no bound for products of two activations, attention, recurrent layers, integer inputs, discontinuous
        functions, or control flow that depends on the numbers. After Ctrl-C on the command line, the layers so far are kept.
    Source: Szegedy et al. 2014, arXiv:1312.6199, §4.3 (products of norms); lower bounds as difference quotients.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
        >>> for layer in (network[0], network[2]):
        ...     _ = nn.init.eye_(layer.weight).data.mul_(3)
        >>> found = sx.certificate(network, 2)
        >>> print(f"{found.lower:.2f} {found.bound:.2f}")  # 3 · 3
        9.00 9.00
    """
    shape = checked_shape(input_shape)
    model = bare(model)
    check_model(model)
    for name, value in (("starts", starts), ("steps", steps)):
        if value is not None:
            check_whole(name, value, 1)
    seed = check_seed(seed)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    network = without_gradients(twin(model, dtype=torch.float64, device=device))
    drawn = starts or Search.starts
    begin = starts_of(shape, inputs, drawn, seed).to(device)
    settings = {"starts": drawn, "steps": steps or Search.steps, "seed": seed, "inputs": len(begin) - drawn}
    settings |= {"slack": TIGHT.slack, "ended": ""}
    kind = type(model).__name__
    if not runs(network, begin[:1], shape, model):
        why = "its inputs are integers, for which there is no Lipschitz factor"
        return _ended(Certificate(**_facts([], {kind: why}, kind, shape), bound=math.inf, lower=0.0, settings=settings), throw)
    layers, unknown, bound, unit, plan = _proven(network, replayed(begin), kind, progress)
    search = replace(plan.search, starts=starts or plan.search.starts, steps=steps or plan.search.steps)
    begin = torch.cat([begin[: search.starts], begin[drawn:]])
    lower = 0.0 if why_ended() else _measured(network, begin, unit, search, seed, progress)
    settings |= {"starts": search.starts, "steps": search.steps, "slack": plan.proofs.slack, "ended": why_ended()}
    if not math.isfinite(bound) and not unknown:
        unknown = {kind: "no bound is known for its output"}
    if lower is None:
        bound, lower, unknown = math.inf, 0.0, unknown or {kind: NO_FUNCTION}
    if lower > bound * (1 + SLACK * unit):
        unknown = {**unknown, **_blamed(layers, bound, lower, f"{kind} on inputs of {' × '.join(map(str, shape))}")}
        bound = math.inf
    facts = _facts(layers, unknown, kind, shape)
    return _ended(Certificate(**facts, bound=bound, lower=min(lower, bound), settings=settings), throw)


def _proven(
    network: nn.Module, x: Tensor, kind: str, progress: bool
) -> tuple[list[LayerFactor], dict[str, str], float, float, Plan]:
    """The layers, those without a bound, the bound, the round-off of the lowest precision in the network, and what it may cost."""
    try:
        graph = operator_graph(network, x, RULES)
    except UntraceableError as error:
        name, _, reason = error.args
        return [], {name or kind: reason}, math.inf, torch.finfo(x.dtype).eps, planned(())
    plan = planned(graph.nodes)
    bounds, layers = Bounds(graph, kind, plan.proofs), []
    with stoppable():
        for layer in watched(bounds.layers(), len(graph.nodes), "layers", progress, keeps=True):
            layers.append(layer)
            if progress:
                print(layer, file=sys.stderr)
    if (left := bounds.next) is not None:
        return layers, {left: f"{why_ended()} before its proof"}, math.inf, graph.unit, plan
    bound = bounds.bound
    return layers, {} if math.isfinite(bound) else bounds.unknown, bound, graph.unit, plan


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


def _measured(network: nn.Module, begin: Tensor, unit: float, search: Search, seed: int, progress: bool) -> float | None:
    """The steepest slope found from all starts; None if the network is not a function of its input."""
    found = 0.0
    with stoppable():
        f = _by_rows(network, begin)
        try:
            if not _repeats(f, begin.flatten(1), unit):
                return None
            steepest = Steepest(f, begin.flatten(1), seed, search)
            for _ in watched(steepest.climb(), search.steps, "ascent", progress, keeps=True):
                pass
            found = lower_bound(f, steepest, unit)
            if not why_ended():
                found = max(found, dense_lower_bound(f, begin.flatten(1), unit))
        except SeparatrixError:
            raise
        except Exception:  # user code, at one of these inputs or while gradients are recorded
            found = quotients(f, begin.flatten(1), unit)
    return found


def _by_rows(network: nn.Module, begin: Tensor) -> Callable[[Tensor], Tensor]:
    """(count, dim) → (count, width), each row as a separate input, even if the network mixes the items of a batch."""

    def at_once(z: Tensor) -> Tensor:
        return flat(network(z.reshape(len(z), *begin.shape[1:]).clone()), len(z))

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
