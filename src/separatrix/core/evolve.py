"""Every time loop: runs begin, step, fail and end here."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from separatrix.core.derived import Padded, widths
from separatrix.core.errors import HorizonError, InputError, SeparatrixError, ShapeError, UnsupportedModuleError
from separatrix.core.parametric import Parametric
from separatrix.core.purity import Purity
from separatrix.core.randomness import undisturbed
from separatrix.core.system import Map, System
from separatrix.core.tangent import Tangents
from separatrix.core.twin import twin

MOVED = 0.1  # of its size, by which the other items of a batch are moved where all are alike: far above COUPLED
COUPLED = 1e-4  # of the largest number: steps by tolerance are those of the worst item, and move the others by the tolerance
NOT_THE_FUNCTIONS = (SeparatrixError, MemoryError, torch.OutOfMemoryError)
"""Errors in a user's function that pass on as they are: they say enough, or are not of its making."""


class HasSteps(Protocol):
    """A stretch of a run."""

    @property
    def steps(self) -> int:
        """How many steps it took."""
        ...


Counted = TypeVar("Counted", bound=HasSteps)


@dataclass(frozen=True)
class Front:
    """Where a run stands: the states, their tangents (or None), the step, and how many steps each sample has lived.

    A sample that leaves the finite numbers is NaN from that step on, and so are its tangents; its `lived` stops counting.
    """

    system: System
    x: Tensor
    n: int = 0
    v: Tensor | None = None
    lived: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    time: float | Tensor = 0.0

    def advance(self, steps: int) -> "Front":
        """The front some steps later."""
        x, v, lived, time = self.x, self.v, self.lived, self.time
        unhurt = bool((lived == self.n).all())
        for n in range(self.n, self.n + steps):
            before = x
            if v is None:
                x = self.system.step(before, n)
            else:
                x, v = self.system.pushforward(before, v, n)
            time = time + self.system.elapsed(before, n)  # after the step, which a section knows it by
            if unhurt and math.isfinite(x.detach().sum()):  # the cheapest proof, and nearly always enough
                lived = lived + 1
                continue
            finite = torch.isfinite(x).all(-1) & (lived == n)  # a step may turn NaN into a number: the dead stay dead
            lived, unhurt = lived + finite, False
            x = x.where(finite[..., None], torch.nan)
            v = None if v is None else v.where(finite[..., None, None], torch.nan)
        return replace(self, x=x, v=v, n=self.n + steps, lived=lived, time=time)

    def with_tangents(self, v: Tensor | None) -> "Front":
        """The same front, carrying the tangents v."""
        return replace(self, v=v)

    @property
    def failed_at(self) -> Tensor:
        """The step at which each sample failed, shape (*batch); −1 for those that did not."""
        return torch.where(self.lived < self.n, self.lived, -1)


def begin(system: System, x0: Tensor | None = None, *, seed: int = 0, one_width: bool = True) -> Front:
    """The start of a run: the system's twin in the dtype and on the device of x0, with x0 expanded to the batch of the run.

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`, once for each set of parameters and inputs.
        seed: for the system's initial state.
        one_width: refuse a system whose states change their width.

    Raises:
        ShapeError: x0 is not (*batch, dim), its batch does not broadcast, or a step changes the width.
        InputError: x0 is empty, has numbers that are not finite, or is neither float32 nor float64; the first step fails, changes
            its argument in place, draws at random, keeps something from one call to the next, or mixes the items of a batch.
        UnsupportedModuleError: what was given is no System.
    """
    check_system_type(system)
    if one_width:
        _check_one_width(system)
    batch = system.batch_shape
    x0 = system.initial_state(batch, seed).to(_device(system)) if x0 is None else _as_state(x0)
    if x0.ndim == 0 or x0.shape[-1] != system.dim:
        raise ShapeError(
            f"the state has {x0.shape[-1] if x0.ndim else 1} numbers but this {type(system).__name__} has {system.dim}: "
            f"x0 has shape {tuple(x0.shape)}.\nPass x0 of shape (*batch, {system.dim}), or leave it out."
        )
    if x0.is_complex():
        raise InputError(
            f"x0 is {str(x0.dtype).removeprefix('torch.')}, but states are real numbers.\n"
            "Pass is_complex=True to sx.Map or sx.Flow and system.pack(x0) as the state; a System of your own takes "
            "torch.view_as_real(x0).flatten(-2), the real and imaginary parts."
        )
    if not x0.is_floating_point():
        raise InputError(f"x0 is {x0.dtype}, but states are real numbers.\nPass x0.double().")
    if x0.dtype not in (torch.float32, torch.float64):
        raise InputError(f"states are float32 or float64, not {str(x0.dtype).removeprefix('torch.')}.\nPass x0.float().")
    if not torch.isfinite(x0).all():
        raise InputError(f"x0 has {int((~torch.isfinite(x0)).sum())} numbers that are not finite, out of {x0.numel()}.")
    try:
        batch = np.broadcast_shapes(x0.shape[:-1], batch)
    except ValueError:
        raise ShapeError(
            f"x0 has batch axes {tuple(x0.shape[:-1])} but the parameters and inputs have {tuple(batch)}: they do not broadcast.\n"
            "Give one of them an axis of length 1 where the other varies."
        ) from None
    if 0 in batch:
        raise InputError(f"there is no state to begin from: x0 has shape {tuple(x0.shape)}.\nGive at least one, or leave x0 out.")
    ready = twin(system, dtype=x0.dtype, device=x0.device, apart=True)
    hold_anew(ready)
    x = x0.expand(*batch, system.dim)
    _check_step(ready, x, system)
    ready.check_start(x)
    return Front(ready, x, lived=torch.zeros(batch, dtype=torch.int64, device=x.device))


def hold_anew(system: System) -> None:
    """Have the derivatives of a run's system held against its functions again, when it is next asked for them."""
    for part in system.modules():
        if isinstance(part.__dict__.get("_tangents"), Tangents):
            part.__dict__["_tangents"] = part._tangents.of_another_run()


def in_one_width(front: Front) -> Front:
    """The same front where widths do not change; else one of the padded system, see `Padded`."""
    if len(set(widths(front.system))) == 1:
        return front
    padded = Padded(front.system)
    return replace(front, system=padded, x=padded.pad(front.x))


def _check_one_width(system: System) -> None:
    each = widths(system)
    change = next((n for n, width in enumerate(each) if width != each[0]), None)
    if change is not None:
        raise ShapeError(
            f"this {type(system).__name__} changes its width, from {each[0]} numbers to {each[change]} at step {change - 1}: "
            "there is no square Jacobian here.\n"
            "Ask sx.finite_time_lyapunov or sx.gradient_propagation, or keep to blocks of one width."
        )


def _as_state(x0: Any) -> Tensor:
    try:
        return torch.as_tensor(x0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"x0 cannot be read as numbers: {str(error).splitlines()[0]}") from None


def _device(system: System) -> torch.device:
    return next((tensor.device for tensor in (*system.buffers(), *system.parameters())), torch.device("cpu"))


def _check_step(system: System, x: Tensor, original: System) -> None:
    """Try the step of a twin, twice from the same state."""
    if system.horizon is not None and system.horizon < 1:
        raise HorizonError("this system has no step to take: its horizon is 0.")
    with torch.no_grad(), undisturbed():
        watch = Purity(system, original)
        after = _tried(system, x)
        watch.took_a_step()
        again = system.step(x.clone(), 0)
        watch.took_a_step()
        watch.check(after, again, lambda: system.step(x.clone(), 0))
        _check_items(system, x, after)


def _check_items(system: System, x: Tensor, after: Tensor) -> None:
    """Refuse a step in which one item of a batch depends on the others: moved, these must not move it."""
    if x.shape[:-1].numel() < 2:
        return
    rows = x.reshape(-1, x.shape[-1])
    held = torch.arange(len(rows), device=x.device).reshape(x.shape[:-1]) % 2 == 0
    moved = rows.roll(1, 0).reshape(x.shape)  # states that the step takes, for it takes them elsewhere
    if bool((moved == x).all()):
        moved = x * (1 + MOVED) + (MOVED if bool((x == 0).all()) else 0.0)
    try:
        beside = system.step(torch.where(held[..., None], x, moved), 0)
    except Exception:  # the user's code: it does not take these states
        return
    own, other = after[held], beside[held]
    gap = (own - other).abs().amax()
    if gap > COUPLED * own.abs().amax():
        place = int((own - other).abs().argmax())
        raise InputError(
            "the items of a batch depend on each other: moving every other state takes the next state of an item that was left "
            f"alone from {float(own.flatten()[place]):.9g} to {float(other.flatten()[place]):.9g}.\n"
            "Write the step so that it treats each item by itself, or put the items that belong together into one state; one state "
            "without others runs as it is."
        )


def _said(error: Exception) -> str:
    """What an error says, in one line; TorchScript's says it last."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"in a part compiled by TorchScript: {lines[-1]}" if "TorchScript" in lines[0] else lines[0]


def first_call_failed(owner: Parametric, what: str, x: Tensor, error: Exception) -> InputError:
    """What a user's function raised on the first states that it was given, and how it is called.

    Args:
        owner: the system or the field that calls it.
        what: that was called, in words.
        x: the states.
    """
    reason = f"{type(error).__name__}: {_said(error)}".rstrip(".")
    return InputError(f"{what} fails on states of shape {tuple(x.shape)}: {reason}.\n{how_called(owner, x, error)}")


def how_called(owner: Parametric, x: Tensor, error: Exception) -> str:
    """What a user's function is given, by what it raised."""
    numbers = f"It is given states of {x.shape[-1]} numbers, on the last axis, and returns as many."
    timed = next((part for part in owner.modules() if isinstance(part, Parametric) and hasattr(part, "time_dependent")), None)
    if timed is None:
        return numbers
    with_time = "f(x, n)" if isinstance(timed, Map) else "f(x, t)"
    if timed.time_dependent:
        return f"{numbers} It is called as {with_time}, the state first."
    return f"It is called as f(x); as {with_time} with time_dependent=True." if "positional argument" in str(error) else numbers


def _tried(system: System, x: Tensor) -> Tensor:
    """A step from these states, which are what it must be."""
    trial = x.clone()
    try:
        after = system.step(trial, 0)
    except NOT_THE_FUNCTIONS:
        raise
    except Exception as error:  # the user's code: whatever it raises is the message
        if isinstance(error, RuntimeError) and "dtype" in str(error):
            raise InputError(
                f"the state is {x.dtype} but the system's function holds tensors of another dtype ({_said(error)}).\n"
                "Pass x0 in that dtype, or give the system the nn.Module itself, which is then cast."
            ) from error
        raise first_call_failed(system, "the step", x, error) from error
    if not isinstance(after, Tensor):
        raise InputError(
            f"a step returned a {type(after).__name__}, no tensor.\n"
            f"{type(system).__name__}.step must return the next state, of the shape it was given."
        )
    if (not trial.is_inference() and trial._version > 0) or not torch.equal(trial, x):
        raise InputError(
            "the step changes its argument in place: it wrote to its state, and the one before is lost.\n"
            "Return a new tensor: x * 2 instead of x.mul_(2), a module with inplace=False, or begin with x = x.clone()."
        )
    wanted = widths(system)[:2][-1]
    if after.shape != (*x.shape[:-1], wanted):
        must = "it must return the shape it was given" if wanted == system.dim else f"it must give {wanted} numbers"
        raise ShapeError(
            f"a step takes states of shape {tuple(x.shape)} to {tuple(after.shape)}: {must}.\n"
            f"{type(system).__name__}.step must keep the batch axes and return {wanted} numbers on the last."
        )
    return after


def check_whole(name: str, value: Any) -> int:
    """A whole number as Python's own; refuses what is none."""
    if not isinstance(value, Integral):
        raise InputError(f"{name} is {value!r}, a {type(value).__name__}; it must be a whole number.")
    return int(value)


def as_numbers(name: str, values: Any) -> Tensor:
    """The values as a float64 tensor."""
    if isinstance(values, Tensor) and values.is_complex():
        raise InputError(
            f"{name} is {str(values.dtype).removeprefix('torch.')}, but real numbers are asked for.\n"
            f"Pass torch.view_as_real({name}).flatten(-2), the real and imaginary parts, if it is a state; else its real part."
        )
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers: {str(error).splitlines()[0]}") from None


def check_seed(seed: Any) -> int:
    """A seed as Python's own number; refuses what cannot seed every generator in use."""
    if isinstance(seed, bool) or not 0 <= check_whole("seed", seed) < 2**63:
        raise InputError(f"seed is {seed}; it is a whole number from 0 to 2**63 − 1.")
    return int(seed)


def check_system_type(system: object) -> None:
    """Refuse what is no System."""
    if not isinstance(system, System):
        what = f"the class {system.__name__}" if isinstance(system, type) else f"a {type(system).__name__}"
        raise UnsupportedModuleError(
            f"what was given is {what}, no System.\nWrap it: sx.Recurrent(module, inputs), or sx.Map(function, dim)."
        )


def check_steps(system: System, **counts: int) -> None:
    """Refuse counts of steps that are negative, or that together exceed what the system can take."""
    check_system_type(system)
    for name, count in counts.items():
        check_whole(name, count)
        if count < 0:
            raise InputError(f"{name} is {count}; it counts steps, so it is 0 or more.")
    total = sum(counts.values())
    if system.horizon is not None and total > system.horizon:
        asked = " + ".join(f"{name} {count}" for name, count in counts.items())
        raise HorizonError(
            f"{asked} = {total} steps were asked but this system can take {system.horizon}: its inputs, or its depth, end there.\n"
            f"Ask for at most {system.horizon} steps, or drive it with an endless sx.Stream of its sequences."
        )


def trajectory(
    system: System, x0: Tensor | None = None, steps: int = 1000, *, settle: int = 0, every: int = 1, seed: int = 0
) -> Tensor:
    """The orbit of x0: states x_settle, x_{settle+every}, x_{settle+2·every}, … up to x_{settle+steps} at most.

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        steps: how many steps to take after the settling.
        settle: how many steps to discard first.
        every: keep one state in so many.
        seed: for the system's initial state.

    Returns:
        Shape (steps // every + 1, *batch, dim), the first state included. A sample that leaves the finite numbers is NaN from
        that step on. Differentiable in x0 and in the system's parameters.

    Raises:
        HorizonError: `settle + steps` exceeds the steps the system can take.
    """
    check_steps(system, settle=settle, steps=steps)
    check_whole("every", every)
    if every < 1:
        raise InputError(f"every is {every}; it keeps one state in so many, so it is at least 1.")
    front = begin(system, x0, seed=seed).advance(settle)
    states = [front.x]
    for _ in range(steps // every):
        front = front.advance(every)
        states.append(front.x)
    return torch.stack(states)


def watched(blocks: Iterable[Counted], total: int, label: str, show: bool) -> Iterator[Counted]:
    """Pass the blocks of a run through, drawing a progress bar of their steps when asked."""
    if not show:
        yield from blocks
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        for block in blocks:
            yield block
            bar.advance(task, block.steps)


@dataclass(frozen=True)
class Tick:
    """One of many equal parts of a task."""

    index: int
    steps: int = 1


def watched_count(count: int, label: str, show: bool) -> Iterator[Tick]:
    """0 … count − 1, with a progress bar when asked."""
    return watched((Tick(i) for i in range(count)), count, label, show)


Bar = Callable[[Callable[[], float]], None]


@contextmanager
def bar(label: str, show: bool) -> Iterator[Bar]:
    """A progress bar of a run whose steps nobody can count: it is told, by a function, what share of the way is done."""
    if not show:
        yield lambda share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as shown:
        task = shown.add_task(label, total=1.0)
        yield lambda share: shown.update(task, completed=share())
