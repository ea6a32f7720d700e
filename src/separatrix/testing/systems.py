"""Conformance of systems: purity, batches, dtype, tangents, time, residual and parameters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.core.evolve import begin
from separatrix.core.parametric import Parametric
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System
from separatrix.core.tangent import pushforward
from separatrix.testing.fields import check_field, largest
from separatrix.testing.statements import ROUNDING, agree, attempt, require, same_bits, words

BATCH = 3  # items in a batch; also values of a parameter in a grid
DIFFERENCE = 1e-6  # error allowed in a central difference, relative to the largest number
NEARER = 64  # factor by which a second central difference is shorter, for states close to a kink


def check_system(system: System, x0: Tensor | None = None, *, seed: int = 0) -> None:
    """Check that a system keeps the contract of `System`; the first violation is reported with the numbers found and expected.

    The system is tried in float64, a few steps after its start, on a batch of three states scattered around the orbit.

    Args:
        system: any System.
        x0: a typical state of the system, shape (*batch, dim). Default: `system.initial_state()`.
        seed: of the scatter and the tangents.

    Raises:
        AssertionError: the step or its derivative is impure; a batch, or a grid of parameters, differs from a loop over its
            items; the dtype or device changes; the tangents are not linear, or not the derivative; a call of the system, or of
            its layer, differs from its step; `residual` is neither F(x) − x nor, for a continuous system, the field that the step
            follows; `initial_state`, `horizon`, `elapsed` or `at` break their contract.

    Example:
        >>> sx.testing.check_system(sx.classic.henon())  # returns nothing: the contract is kept
        >>> sx.testing.check_system(sx.Map(lambda x: x + torch.randn_like(x), dim=2))
        Traceback (most recent call last):
            ...
        AssertionError: ...
    """
    probe = _probe(system, x0, seed)
    for check in SYSTEM_CHECKS:
        attempt(f"the check that {words(check)}", check, probe)


@dataclass(frozen=True)
class _Probe:
    """A system, its float64 twin, and three scattered states some steps after the start, shape (3, *batch, dim)."""

    system: System
    ready: System
    x: Tensor
    n: int
    seed: int

    def tangents(self, k: int) -> Tensor:
        """Random tangents as rows, shape (3, *batch, k, dim)."""
        return _normal(self.seed, *self.x.shape[:-1], k, self.x.shape[-1]).to(self.x.device)

    def counts(self) -> tuple[int, int]:
        """Numbers of tangents: the length of the last batch axis, for which a wrong broadcast goes unnoticed, and one more."""
        return self.x.shape[-2], self.x.shape[-2] + 1


def _probe(system: System, x0: Tensor | None, seed: int) -> _Probe:
    x0 = system.initial_state(tuple(system.batch_shape), seed) if x0 is None else x0
    require(system.width(0) == system.dim, f"width(0) is {system.width(0)} but the state has {system.dim} numbers.")
    front = attempt("the start of a run", begin, system, x0.double())
    size = front.x.abs().mean()
    x = front.x + 0.03 * (size if size > 0 else 1.0) * _normal(seed, BATCH, *front.x.shape).to(front.x)
    n = 3 if system.horizon is None else max(0, min(3, system.horizon - 2))
    with torch.no_grad():
        for i in range(n):
            x = attempt(f"the step n = {i}", front.system.step, x, i)
    require(torch.isfinite(x).all(), f"the orbit left the finite numbers within {n} steps; pass an x0 that it likes.")
    return _Probe(system, front.system, x, n, seed)


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch_generator(seed, "conformance"))


@torch.no_grad()
def _is_pure(probe: _Probe) -> None:
    system, n = probe.ready, probe.n
    x, v, drawn = probe.x.clone(), probe.tangents(2), torch.get_rng_state()
    kept, kept_v = x.clone(), v.clone()
    first = (system.step(x, n), *system.pushforward(x, v, n))
    system.step(x.flip(0), max(n - 1, 0))
    again = (system.step(x, n), *system.pushforward(x, v, n))
    same_bits("step or pushforward wrote to its state", x, kept)
    same_bits("pushforward wrote to its tangents", v, kept_v)
    for name, one, two in zip(("step", "pushforward's state", "pushforward"), first, again, strict=True):
        same_bits(f"{name} is not pure: the same state and n gave two answers", one, two)
    require(torch.equal(torch.get_rng_state(), drawn), "step or pushforward drew on the global random generator.")


@torch.no_grad()
def _batch_is_a_loop(probe: _Probe) -> None:
    system, n = probe.ready, probe.n
    for x in (probe.x, torch.stack([probe.x, probe.x.flip(0)])):
        told = f"of a batch {tuple(x.shape[:-1])} is not that of its items one by one"
        single = torch.stack([system.step(one, n) for one in x])
        agree(f"the step {told}", system.step(x, n), single)
        for k in probe.counts():
            v = probe.tangents(k).expand(*x.shape[:-1], k, x.shape[-1])
            value, pushed = attempt(f"the pushforward of {k} tangents {told}: it", system.pushforward, x, v, n)
            each = [system.pushforward(one, w, n)[1] for one, w in zip(x, v, strict=True)]
            agree(f"the pushforward's state {told}", value, single)
            agree(f"the pushforward of {k} tangents {told}", pushed, torch.stack(each))


def _grid_is_a_loop(probe: _Probe) -> None:
    x, n = probe.x[0], probe.n
    for name, value in _scalars(probe.system).items():
        values = (value or 1.0) * torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
        grid = values.reshape(BATCH, *[1] * (x.ndim - 1)).to(x.device).requires_grad_()
        told = f"over a grid of {name} is not that of its values one by one"
        front = attempt(f"a step over a grid of {name}", begin, probe.system.at(**{name: grid}), x)
        single = [begin(probe.system.at(**{name: float(one)}), x) for one in values]
        after = front.system.step(front.x, n)
        wanted = torch.stack([one.system.step(one.x, n) for one in single])
        agree(f"the step {told}", after, wanted)
        for k in probe.counts():
            v = probe.tangents(k)
            _, pushed = attempt(f"the pushforward of {k} tangents {told}: it", front.system.pushforward, front.x, v, n)
            each = [one.system.pushforward(one.x, w, n)[1] for one, w in zip(single, v, strict=True)]
            agree(f"the pushforward of {k} tangents {told}", pushed, torch.stack(each))
        if not torch.equal(wanted[0], wanted[2]):
            require(_reaches(grid, after), f"no gradient reaches {name} through at({name}=…) and step.")


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


def _reaches(parameter: Tensor, value: Tensor) -> bool:
    """Whether a gradient flows from the value to the parameter."""
    return value.requires_grad and torch.autograd.grad(value.sum(), parameter, allow_unused=True)[0] is not None


@torch.no_grad()
def _keeps_dtype_and_device(probe: _Probe) -> None:
    for dtype in (torch.float32, torch.float64):
        x, v = probe.x.to(dtype), probe.tangents(2).to(dtype)
        system = attempt(f"a step in {dtype}", begin, probe.system, x).system
        value, pushed = system.pushforward(x, v, probe.n)
        results = {"step": system.step(x, probe.n), "pushforward's state": value, "pushforward": pushed}
        for name, result in {**results, "residual": system.residual(x, probe.n)}.items():
            require(result.dtype == dtype, f"{name} takes {dtype} to {result.dtype}.")
            require(result.device == x.device, f"{name} takes a state on {x.device} to {result.device}.")


@torch.no_grad()
def _tangents_are_the_derivative(probe: _Probe) -> None:
    system, x, n, v = probe.ready, probe.x, probe.n, probe.tangents(3)
    value, pushed = system.pushforward(x, v, n)
    agree("the pushforward's state is not that of step", value, system.step(x, n))
    h = 6e-6 * max(1.0, float(x.abs().max()))  # near ε^(1/3), where rounding and curvature weigh alike
    near, nearer = (
        torch.stack([(system.step(x + d * w, n) - system.step(x - d * w, n)) / (2 * d) for w in v.unbind(-2)], dim=-2)
        for d in (h, h / NEARER)
    )
    rough = DIFFERENCE * max(1.0, float(value.abs().max()))
    near = torch.where((pushed - near).abs() <= rough, near, nearer)  # a kink within the longer step moves it
    agree("the pushforward is not the central difference of step", pushed, near, rough)
    try:
        _, automatic = pushforward(lambda y: system.step(y, n), x, v)
    except UnsupportedModuleError:  # a system may know a derivative that PyTorch does not
        return
    agree("the pushforward is not the automatic derivative of step", pushed, automatic, 10 * ROUNDING)


@torch.no_grad()
def _tangents_are_linear(probe: _Probe) -> None:
    v, w = probe.tangents(4).split(2, dim=-2)
    pushed = [probe.ready.pushforward(probe.x, tangent, probe.n)[1] for tangent in (v, w, 2 * v - 3 * w, 0 * v)]
    agree("the pushforward is not linear", pushed[2], 2 * pushed[0] - 3 * pushed[1])
    agree("the pushforward of zero is not zero", pushed[3], torch.zeros_like(pushed[3]))


def _start_is_replayed(probe: _Probe) -> None:
    drawn = torch.get_rng_state()
    for batch in ((), (BATCH,), (2, BATCH)):
        first, again = (probe.system.initial_state(batch, seed=probe.seed) for _ in range(2))
        wanted = (*batch, probe.system.dim)
        require(first.shape == wanted, f"initial_state({batch}) has shape {tuple(first.shape)}, not {wanted}.")
        require(first.dtype == torch.float64, f"initial_state is {first.dtype}, not float64.")
        same_bits(f"initial_state of seed {probe.seed} differs between two calls", first, again)
        require(torch.isfinite(first).all(), f"initial_state({batch}) has numbers that are not finite.")
    require(torch.equal(torch.get_rng_state(), drawn), "initial_state drew on the global random generator.")


@torch.no_grad()
def _horizon_is_reached(probe: _Probe) -> None:
    horizon = probe.system.horizon
    whole = horizon is None or (isinstance(horizon, int) and horizon >= 1)
    require(whole, f"horizon is {horizon!r}; it is None or a number of steps from 1 on.")
    last = 10**6 if horizon is None else horizon - 1
    after = attempt(f"horizon is {horizon}, but the step n = {last}", probe.ready.step, probe.x, last)
    shapes = f"{tuple(probe.x.shape)} to {tuple(after.shape)}"
    require(after.shape == probe.x.shape, f"the step n = {last} takes states of shape {shapes}.")


@torch.no_grad()
def _clock_and_width_fit(probe: _Probe) -> None:
    system, x, n = probe.ready, probe.x, probe.n
    elapsed = torch.as_tensor(system.elapsed(x, n))
    require((elapsed > 0).all(), f"elapsed is {float(elapsed.min()):.3g}; a step takes a positive time.")
    batch = tuple(x.shape[:-1])
    require(elapsed.shape in ((), batch), f"elapsed has shape {tuple(elapsed.shape)}, neither () nor {batch}.")
    width = system.width(n)
    require(width == x.shape[-1], f"width({n}) is {width} but the state has {x.shape[-1]} numbers.")


@torch.no_grad()
def _residual_is_what_is_zero_at_rest(probe: _Probe) -> None:
    system, x, n = probe.ready, probe.x, probe.n
    require(isinstance(system.continuous, bool), f"continuous is {system.continuous!r}; it is True or False.")
    residual = system.residual(x, n)
    require(residual.shape == x.shape, f"residual has shape {tuple(residual.shape)}, not {tuple(x.shape)}.")
    if system.continuous:
        check_field(system, x, n, residual)
        return
    after = system.step(x, n)
    off, allowed = largest(residual - (after - x)), ROUNDING * max(largest(after), largest(x))
    what = "residual is not F(x) − x, and the system does not say continuous = True"
    require(off <= allowed, f"{what}: {off:.3g} apart where {allowed:.3g} is allowed.")


@torch.no_grad()
def _calling_it_is_its_step(probe: _Probe) -> None:
    system, x, n = probe.ready, probe.x, probe.n
    layer = system.as_layer()
    if layer is system:
        agree("forward is not step", system(x, n), system.step(x, n), 0.0)
        return
    agree("forward is not the step of as_layer()", system.pack(system(system.unpack(x))), layer.step(x, 0), 0.0)
    value, _ = layer.pushforward(x, probe.tangents(2), 0)
    agree("the pushforward's state of as_layer() is not that of its step", value, layer.step(x, 0))


@torch.no_grad()
def _at_makes_a_copy(probe: _Probe) -> None:
    system, x, n = probe.ready, probe.x, probe.n
    before = system.step(x, n)
    for name, value in _scalars(system).items():
        other = system.at(**{name: 1.5 * value + 0.1})
        other.step(x, n)
        require(other is not system, f"at({name}=…) returned the system itself.")
        same_bits(f"at({name}=…) changed the step of the original", system.step(x, n), before)
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
