"""Conformance: hold a system or an analysis of your own to what the rest of the library relies on."""

import inspect
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.core.evolve import begin
from separatrix.core.parametric import Parametric
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.tangent import pushforward
from separatrix.systems.classic import henon
from separatrix.testing.blocks import check_block as check_block
from separatrix.testing.held import held_bytes as held_bytes

BATCH = 3  # items in a batch; also values of a parameter in a grid
ROUNDING = 1e-10  # what two orders of summation may differ by in float64, relative to the largest number
DIFFERENCE = 1e-6  # what a central difference may be off by, relative to the largest number
NEARER = 64  # how many times shorter a second difference is, off by no more, for states with a kink beside them
SHORT = 1024  # how many times a flow's step is shortened to tell its field
FIELD = 1e-5  # what such a field may be off by, relative to its largest number

# Note [A field and its step]
# A step of length h from x goes to x + h f(x) + O(h²), whatever the method. Of two short steps h and h/2 the difference quotients
# d(h) = (F_h(x) − x)/h give 2 d(h/2) − d(h) = f(x) + O(h²): what remains is rounding in x over h. A system that cannot shorten
# its step has d(h) alone, a mean of f along the step, so that it differs from f(x) by no more than f changes on the way; f at
# the far end shows by how much, but for a field that turns back within the step, hence twice.


def check_system(system: System, x0: Tensor | None = None, *, seed: int = 0) -> None:
    """Hold a system to the contract of `System`; the first property that does not hold is told, with both numbers.

    The system is tried a few steps after its start, in float64, on a batch of three states scattered about the orbit.

    Args:
        system: any System.
        x0: a state that the system is at home in, shape (*batch, dim). Default: `system.initial_state()`.
        seed: of the scatter and the tangents.

    Raises:
        AssertionError: a step or its derivative is impure; a batch or a grid of parameters is no loop over its items;
            dtype or device change; tangents are not linear, or not the derivative; calling the system, as a layer too, is
            not its step; `residual` is not F(x) − x, or of a continuous system not the field that its step follows;
            `initial_state`, `horizon`, `elapsed` or `at` break their promise.
    """
    probe = _probe(system, x0, seed)
    for check in SYSTEM_CHECKS:
        _call(f"the check that {_words(check)}", check, probe)


def check_module_untouched(module: nn.Module, run: Callable[[], Any]) -> Any:
    """Call `run` and return what it returns, provided that it left the module as it was.

    Raises:
        AssertionError: a tensor's value, dtype, device or `requires_grad`, or a layer's training mode, has changed.
    """
    before, modes = _tensors(module), _modes(module)
    copies = {name: tensor.detach().clone() for name, tensor in before.items()}
    grads = {name: tensor.requires_grad for name, tensor in before.items()}
    result = run()
    after = _tensors(module)
    _require(list(after) == list(before), f"the module's tensors were {list(before)} and are {list(after)}.")
    for name, copy in copies.items():
        _require(after[name] is before[name], f"{name} was replaced by another tensor.")
        _same_bits(f"{name} has changed", after[name], copy)
        now = after[name].requires_grad
        _require(now == grads[name], f"{name}.requires_grad was {grads[name]} and is {now}.")
    for name, mode in _modes(module).items():
        was = modes.get(name)
        _require(mode == was, f"training of the layer {name or 'itself'} was {was} and is {mode}.")
    return result


def check_analysis(analysis: Callable[..., Result], system: System | None = None, x0: Tensor | None = None) -> None:
    """Hold an analysis, `measure(system, x0=None, *, …) -> Result`, to the contract of analyses.

    Args:
        analysis: the function. Where it knows `steps` and `settle`, it is called with few.
        system: what to measure. Default: the Hénon map, two states of its attractor and one that diverges between them.
        x0: three states, shape (3, dim), the middle one of which may diverge.

    Raises:
        AssertionError: the signature has more than two positional arguments or a keyword without default; the result
            is not frozen, not detached, or lacks the batch axes; one item disturbs its neighbours; a seed does not
            repeat the same bits.
    """
    _check_signature(analysis)
    if system is None:
        system, x0 = henon(), torch.tensor([[0.1, 0.1], [1e3, -1e3], [0.3, -0.2]], dtype=torch.float64)
    elif x0 is None:
        x0 = system.initial_state((BATCH, *system.batch_shape))
    measure = _with_few_steps(analysis, system)
    for check in RESULT_CHECKS:
        _call(f"the check that {_words(check)}", check, measure, x0)


@dataclass(frozen=True)
class _Probe:
    """A system, its float64 twin, and three scattered states some steps after the start, shape (3, *batch, dim)."""

    system: System
    ready: System
    x: Tensor
    n: int
    seed: int

    def tangents(self, k: int) -> Tensor:
        """Tangents as rows, others at each state, shape (3, *batch, k, dim)."""
        return _normal(self.seed, *self.x.shape[:-1], k, self.x.shape[-1]).to(self.x.device)

    def counts(self) -> tuple[int, int]:
        """As many tangents as the last batch axis is long, where a wrong broadcast goes through, and one more."""
        return self.x.shape[-2], self.x.shape[-2] + 1


def _probe(system: System, x0: Tensor | None, seed: int) -> _Probe:
    x0 = system.initial_state(tuple(system.batch_shape), seed) if x0 is None else x0
    _require(system.width(0) == system.dim, f"width(0) is {system.width(0)} but the state has {system.dim} numbers.")
    front = _call("the start of a run", begin, system, x0.double())
    size = front.x.abs().mean()
    x = front.x + 0.03 * (size if size > 0 else 1.0) * _normal(seed, BATCH, *front.x.shape).to(front.x)
    n = 3 if system.horizon is None else max(0, min(3, system.horizon - 2))
    with torch.no_grad():
        for i in range(n):
            x = _call(f"the step n = {i}", front.system.step, x, i)
    _require(torch.isfinite(x).all(), f"the orbit left the finite numbers within {n} steps; pass an x0 that it likes.")
    return _Probe(system, front.system, x, n, seed)


@torch.no_grad()
def _is_pure(probe: _Probe) -> None:
    system, n = probe.ready, probe.n
    x, v, drawn = probe.x.clone(), probe.tangents(2), torch.get_rng_state()
    kept, kept_v = x.clone(), v.clone()
    first = (system.step(x, n), *system.pushforward(x, v, n))
    system.step(x.flip(0), max(n - 1, 0))
    again = (system.step(x, n), *system.pushforward(x, v, n))
    _same_bits("step or pushforward wrote to its state", x, kept)
    _same_bits("pushforward wrote to its tangents", v, kept_v)
    for name, one, two in zip(("step", "pushforward's state", "pushforward"), first, again, strict=True):
        _same_bits(f"{name} is not pure: the same state and n gave two answers", one, two)
    _require(torch.equal(torch.get_rng_state(), drawn), "step or pushforward drew on the global random generator.")


@torch.no_grad()
def _batch_is_a_loop(probe: _Probe) -> None:
    system, n = probe.ready, probe.n
    for x in (probe.x, torch.stack([probe.x, probe.x.flip(0)])):
        told = f"of a batch {tuple(x.shape[:-1])} is not that of its items one by one"
        single = torch.stack([system.step(one, n) for one in x])
        _agree(f"the step {told}", system.step(x, n), single)
        for k in probe.counts():
            v = probe.tangents(k).expand(*x.shape[:-1], k, x.shape[-1])
            value, pushed = _call(f"the pushforward of {k} tangents {told}: it", system.pushforward, x, v, n)
            each = [system.pushforward(one, w, n)[1] for one, w in zip(x, v, strict=True)]
            _agree(f"the pushforward's state {told}", value, single)
            _agree(f"the pushforward of {k} tangents {told}", pushed, torch.stack(each))


def _grid_is_a_loop(probe: _Probe) -> None:
    x, n = probe.x[0], probe.n
    for name, value in _scalars(probe.system).items():
        values = (value or 1.0) * torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
        grid = values.reshape(BATCH, *[1] * (x.ndim - 1)).to(x.device).requires_grad_()
        told = f"over a grid of {name} is not that of its values one by one"
        front = _call(f"a step over a grid of {name}", begin, probe.system.at(**{name: grid}), x)
        single = [begin(probe.system.at(**{name: float(one)}), x) for one in values]
        after = front.system.step(front.x, n)
        wanted = torch.stack([one.system.step(one.x, n) for one in single])
        _agree(f"the step {told}", after, wanted)
        for k in probe.counts():
            v = probe.tangents(k)
            _, pushed = _call(f"the pushforward of {k} tangents {told}: it", front.system.pushforward, front.x, v, n)
            each = [one.system.pushforward(one.x, w, n)[1] for one, w in zip(single, v, strict=True)]
            _agree(f"the pushforward of {k} tangents {told}", pushed, torch.stack(each))
        if not torch.equal(wanted[0], wanted[2]):
            _require(_reaches(grid, after), f"no gradient reaches {name} through at({name}=…) and step.")


def _reaches(parameter: Tensor, value: Tensor) -> bool:
    """Whether a gradient flows from the value to the parameter."""
    return value.requires_grad and torch.autograd.grad(value.sum(), parameter, allow_unused=True)[0] is not None


@torch.no_grad()
def _keeps_dtype_and_device(probe: _Probe) -> None:
    for dtype in (torch.float32, torch.float64):
        x, v = probe.x.to(dtype), probe.tangents(2).to(dtype)
        system = _call(f"a step in {dtype}", begin, probe.system, x).system
        value, pushed = system.pushforward(x, v, probe.n)
        results = {"step": system.step(x, probe.n), "pushforward's state": value, "pushforward": pushed}
        for name, result in {**results, "residual": system.residual(x, probe.n)}.items():
            _require(result.dtype == dtype, f"{name} takes {dtype} to {result.dtype}.")
            _require(result.device == x.device, f"{name} takes a state on {x.device} to {result.device}.")


@torch.no_grad()
def _tangents_are_the_derivative(probe: _Probe) -> None:
    system, x, n, v = probe.ready, probe.x, probe.n, probe.tangents(3)
    value, pushed = system.pushforward(x, v, n)
    _agree("the pushforward's state is not that of step", value, system.step(x, n))
    h = 6e-6 * max(1.0, float(x.abs().max()))  # near ε^(1/3), where rounding and curvature weigh alike
    near, nearer = (
        torch.stack([(system.step(x + d * w, n) - system.step(x - d * w, n)) / (2 * d) for w in v.unbind(-2)], dim=-2)
        for d in (h, h / NEARER)
    )
    rough = DIFFERENCE * max(1.0, float(value.abs().max()))
    near = torch.where((pushed - near).abs() <= rough, near, nearer)  # a kink within the longer step moves it
    _agree("the pushforward is not the central difference of step", pushed, near, rough)
    try:
        _, automatic = pushforward(lambda y: system.step(y, n), x, v)
    except UnsupportedModuleError:  # a system may know a derivative that PyTorch does not
        return
    _agree("the pushforward is not the automatic derivative of step", pushed, automatic, 10 * ROUNDING)


@torch.no_grad()
def _tangents_are_linear(probe: _Probe) -> None:
    v, w = probe.tangents(4).split(2, dim=-2)
    pushed = [probe.ready.pushforward(probe.x, tangent, probe.n)[1] for tangent in (v, w, 2 * v - 3 * w, 0 * v)]
    _agree("the pushforward is not linear", pushed[2], 2 * pushed[0] - 3 * pushed[1])
    _agree("the pushforward of zero is not zero", pushed[3], torch.zeros_like(pushed[3]))


def _start_is_replayed(probe: _Probe) -> None:
    drawn = torch.get_rng_state()
    for batch in ((), (BATCH,), (2, BATCH)):
        first, again = (probe.system.initial_state(batch, seed=probe.seed) for _ in range(2))
        wanted = (*batch, probe.system.dim)
        _require(first.shape == wanted, f"initial_state({batch}) has shape {tuple(first.shape)}, not {wanted}.")
        _require(first.dtype == torch.float64, f"initial_state is {first.dtype}, not float64.")
        _same_bits(f"initial_state of seed {probe.seed} differs between two calls", first, again)
        _require(torch.isfinite(first).all(), f"initial_state({batch}) has numbers that are not finite.")
    _require(torch.equal(torch.get_rng_state(), drawn), "initial_state drew on the global random generator.")


@torch.no_grad()
def _horizon_is_reached(probe: _Probe) -> None:
    horizon = probe.system.horizon
    whole = horizon is None or (isinstance(horizon, int) and horizon >= 1)
    _require(whole, f"horizon is {horizon!r}; it is None or a number of steps from 1 on.")
    last = 10**6 if horizon is None else horizon - 1
    after = _call(f"horizon is {horizon}, but the step n = {last}", probe.ready.step, probe.x, last)
    shapes = f"{tuple(probe.x.shape)} to {tuple(after.shape)}"
    _require(after.shape == probe.x.shape, f"the step n = {last} takes states of shape {shapes}.")


@torch.no_grad()
def _clock_and_width_fit(probe: _Probe) -> None:
    system, x, n = probe.ready, probe.x, probe.n
    elapsed = torch.as_tensor(system.elapsed(x, n))
    _require((elapsed > 0).all(), f"elapsed is {float(elapsed.min()):.3g}; a step takes a positive time.")
    batch = tuple(x.shape[:-1])
    _require(elapsed.shape in ((), batch), f"elapsed has shape {tuple(elapsed.shape)}, neither () nor {batch}.")
    width = system.width(n)
    _require(width == x.shape[-1], f"width({n}) is {width} but the state has {x.shape[-1]} numbers.")


@torch.no_grad()
def _residual_is_what_is_zero_at_rest(probe: _Probe) -> None:
    system, x, n = probe.ready, probe.x, probe.n
    _require(isinstance(system.continuous, bool), f"continuous is {system.continuous!r}; it is True or False.")
    residual = system.residual(x, n)
    _require(residual.shape == x.shape, f"residual has shape {tuple(residual.shape)}, not {tuple(x.shape)}.")
    if system.continuous:
        _is_the_field(system, x, n, residual)
        return
    after = system.step(x, n)
    off, allowed = _size(residual - (after - x)), ROUNDING * max(_size(after), _size(x))
    what = "residual is not F(x) − x, and the system does not say continuous = True"
    _require(off <= allowed, f"{what}: {off:.3g} apart where {allowed:.3g} is allowed.")


def _is_the_field(system: System, x: Tensor, n: int, field: Tensor) -> None:
    """Hold a continuous system's residual to its step; see Note [A field and its step]."""
    if hasattr(system, "refined"):
        short, half = (_rate(system.refined(factor), x, factor * n) for factor in (SHORT, 2 * SHORT))
        off = _size(2 * half - short - field)
        rounding = torch.finfo(x.dtype).eps * _size(x) * 2 * SHORT / system.dt
        allowed = FIELD * max(_size(field), _size(short)) + 16 * rounding
        told = f"steps of dt / {SHORT} and dt / {2 * SHORT}"
    else:
        rate = _rate(system, x, n)
        elapsed = torch.as_tensor(system.elapsed(x, n)).to(x)[..., None]
        ahead = n + 1 if system.horizon is None or n + 1 < system.horizon else n
        change = system.residual(x + elapsed * rate, ahead) - field
        off = _size(rate - field)
        allowed = 2 * _size(change) + ROUNDING * max(_size(rate), _size(x / elapsed))
        told = "the step, by twice the change of residual along it"
    what = f"residual is not the field that the step follows, (F(x) − x) / dt: by {told}"
    _require(off <= allowed, f"{what} {off:.3g} apart where {allowed:.3g} is allowed.")


def _rate(system: System, x: Tensor, n: int) -> Tensor:
    """(F(x, n) − x) / dt, without what the step adds at random."""
    elapsed = torch.as_tensor(system.elapsed(x, n)).to(x)
    return (system.step(x, n) - x - system.noise_of_step(x, n)) / elapsed[..., None]


def _size(x: Tensor) -> float:
    """The largest number; infinite where one is not finite."""
    return float(x.abs().nan_to_num(torch.inf, torch.inf).amax())


@torch.no_grad()
def _calling_it_is_its_step(probe: _Probe) -> None:
    system, x, n = probe.ready, probe.x, probe.n
    layer = system.as_layer()
    if layer is system:
        _agree("forward is not step", system(x, n), system.step(x, n), 0.0)
        return
    _agree("forward is not the step of as_layer()", system.pack(system(system.unpack(x))), layer.step(x, 0), 0.0)
    value, _ = layer.pushforward(x, probe.tangents(2), 0)
    _agree("the pushforward's state of as_layer() is not that of its step", value, layer.step(x, 0))


@torch.no_grad()
def _at_makes_a_copy(probe: _Probe) -> None:
    system, x, n = probe.ready, probe.x, probe.n
    before = system.step(x, n)
    for name, value in _scalars(system).items():
        other = system.at(**{name: 1.5 * value + 0.1})
        other.step(x, n)
        _require(other is not system, f"at({name}=…) returned the system itself.")
        _same_bits(f"at({name}=…) changed the step of the original", system.step(x, n), before)
    try:
        system.at(no_such_parameter=1.0)
    except InputError:
        return
    raise AssertionError("at(no_such_parameter=1.0) was taken; it must raise InputError.")


SYSTEM_CHECKS = (
    _start_is_replayed,
    _is_pure,
    _batch_is_a_loop,
    _grid_is_a_loop,
    _keeps_dtype_and_device,
    _tangents_are_linear,
    _tangents_are_the_derivative,
    _horizon_is_reached,
    _clock_and_width_fit,
    _residual_is_what_is_zero_at_rest,
    _calling_it_is_its_step,
    _at_makes_a_copy,
)

Measure = Callable[[Tensor], Result]


def _check_signature(analysis: Callable[..., Any]) -> None:
    parameters = inspect.signature(analysis).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    counted = [name for name in positional if name != "steps"]
    told = f"{len(counted)} positional arguments ({', '.join(counted)}); an analysis has at most 2, (system, x0)."
    _require(1 <= len(counted) <= 2, told)
    swallowed = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    _require(not swallowed, f"*{', *'.join(swallowed)} swallows misspelt options; name each.")
    bare = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    _require(not bare, f"{', '.join(bare)} has no default.")


def _with_few_steps(analysis: Callable[..., Result], system: System) -> Measure:
    few = {"steps": 60, "settle": 20, "every": 1}  # an interval that adapts to the batch changes the last digits
    known = {name: value for name, value in few.items() if name in inspect.signature(analysis).parameters}
    return lambda x0: analysis(system, x0, **known)


def _result_is_a_record(measure: Measure, x0: Tensor) -> None:
    state = x0.clone().requires_grad_()
    result = measure(state)
    _require(isinstance(result, Result), f"the analysis returned a {type(result).__name__}, not a Result.")
    _same_bits("the analysis wrote to x0", state.detach(), x0)
    for name, tensor in _fields(result).items():
        _require(not tensor.requires_grad, f"{name} is not detached.")
    try:
        result.codes = result.codes  # type: ignore[misc]
    except FrozenInstanceError:
        return
    raise AssertionError(f"a {type(result).__name__} can be written to; declare it @dataclass(frozen=True).")


def _result_carries_the_batch(measure: Measure, x0: Tensor) -> None:
    for x in (x0[0], x0, torch.stack([x0, x0])):
        result, batch = measure(x), tuple(x.shape[:-1])
        _require(result.batch == batch, f"the run's batch is {batch} but the result's codes have shape {result.batch}.")
        for name, axes in result.layout.items():
            value = getattr(result, name)
            if value is not None and "batch" in axes.split():
                place = axes.split().index("batch")
                shape = tuple(value.shape[place : place + len(batch)])
                rank = len(axes.split()) - 1 + len(batch)
                fits = shape == batch and value.ndim == rank
                _require(fits, f"{name} has shape {tuple(value.shape)}, which is not ({axes}) with batch {batch}.")


def _neighbours_are_left_alone(measure: Measure, x0: Tensor) -> None:
    mixed, calm = measure(x0), measure(torch.stack([x0[0], x0[0], x0[2]]))
    lost = [name for name, value in _per_item(mixed).items() if value[1].isnan().all()]
    told = f"the middle item's {', '.join(lost)} is NaN but its status is ok."
    _require(not lost or (mixed.codes[1] != Status.OK).all(), told)
    for i in (0, 2):
        for name, value in {"codes": mixed.codes, **_per_item(mixed)}.items():
            beside = getattr(calm, name)[i]
            _agree(f"item {i}'s {name} depends on its neighbour", value[i], beside, 1e-12)


def _seed_repeats(measure: Measure, x0: Tensor) -> None:
    drawn = torch.get_rng_state()
    first, again = _fields(measure(x0)), _fields(measure(x0))
    for name, value in first.items():
        _same_bits(f"{name} differs between two runs of one seed", value, again[name])
    _require(torch.equal(torch.get_rng_state(), drawn), "the analysis drew on the global random generator.")


RESULT_CHECKS = (_result_is_a_record, _result_carries_the_batch, _neighbours_are_left_alone, _seed_repeats)


def _fields(result: Result) -> dict[str, Tensor]:
    return {f.name: value for f in fields(result) if isinstance(value := getattr(result, f.name), Tensor)}


def _per_item(result: Result) -> dict[str, Tensor]:
    """The tensors whose first axes are the batch's: no series of blocks, which may be cut elsewhere in another run."""
    return {name: value for name, value in _fields(result).items() if result.layout.get(name, "").startswith("batch")}


def _scalars(system: System) -> dict[str, float]:
    """The scalar parameters that `at` reaches, with their values."""
    found: dict[str, float] = {}
    for module in system.modules():
        for name in module._ranks if isinstance(module, Parametric) else ():
            value = getattr(module, name)
            scalar = isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
            if (scalar or isinstance(value, float)) and name in system.parameter_names:
                found.setdefault(name, float(value))
    return found


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _modes(module: nn.Module) -> dict[str, bool]:
    return {name: child.training for name, child in module.named_modules()}


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch_generator(seed, "conformance"))


def _call(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value; whatever it raises becomes a statement about the system."""
    try:
        return function(*arguments)
    except AssertionError:
        raise
    except Exception as error:
        told = str(error).strip().split("\n")[0]
        raise AssertionError(f"{what} failed with {type(error).__name__}: {told}") from error


def _words(check: Callable[..., None]) -> str:
    return check.__name__.strip("_").replace("_", " ")


def _same_bits(claim: str, got: Tensor, wanted: Tensor) -> None:
    _require(got.dtype == wanted.dtype, f"{claim}: {got.dtype} against {wanted.dtype}.")
    _agree(claim, got, wanted, 0.0)


def _agree(claim: str, got: Tensor, wanted: Tensor, tolerance: float = ROUNDING) -> None:
    _require(got.shape == wanted.shape, f"{claim}: shape {tuple(got.shape)} against {tuple(wanted.shape)}.")
    parts = (torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor for tensor in (got, wanted))
    got, wanted = (tensor.detach().reshape(-1).double() for tensor in parts)
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    gap = (got - wanted).abs().masked_fill(same, 0.0).nan_to_num(torch.inf)
    allowed = tolerance * max(1.0, float(wanted.abs().nan_to_num(0.0, posinf=0.0).amax())) if len(wanted) else 0.0
    worst = int(gap.argmax()) if len(gap) else 0
    if len(gap) and gap[worst] > allowed:
        apart = f"{gap[worst]:.2g} apart where {allowed:.2g} is allowed"
        raise AssertionError(f"{claim}: {got[worst]:.12g} against {wanted[worst]:.12g}, {apart}.")


def _require(holds: Any, broken: str) -> None:
    if not bool(holds):
        raise AssertionError(broken)
