"""Runs: how they begin, step, fail and end."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from separatrix.core.checks import as_numbers, check_all_finite, check_whole
from separatrix.core.derivative import Tangents
from separatrix.core.derived import Padded, widths
from separatrix.core.errors import HorizonError, InputError, ShapeError, UnsupportedModuleError
from separatrix.core.first_step import check_step
from separatrix.core.memory import check_memory
from separatrix.core.prepared import Prepared
from separatrix.core.system import System
from separatrix.core.twin import twin
from separatrix.core.wording import counted


@dataclass(frozen=True)
class Front:
    """Point in a run: the states, their tangents (or None), the step, and the number of steps that each sample has survived.

    A sample that is no longer finite is NaN from that step on, and so are its tangents; its `lived` stops counting.
    """

    system: System
    x: Tensor
    n: int = 0
    v: Tensor | None = None
    lived: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    time: float | Tensor = 0.0

    def advance(self, steps: int) -> "Front":
        """The front a number of steps later."""
        x, v, lived, time = self.x, self.v, self.lived, self.time
        all_alive = bool((lived == self.n).all())
        prepared = self.system.__dict__.get("_prepared") if all_alive else None
        ahead = None if prepared is None else prepared.advance(self.system, x, v, self.n, steps)
        if ahead is not None:
            for _ in range(steps):  # one by one, as below, for the same rounding
                time = time + self.system.dt
            return replace(self, x=ahead[0], v=ahead[1], n=self.n + steps, lived=lived + steps, time=time)
        for n in range(self.n, self.n + steps):
            before = x
            if v is None:
                x = self.system.step(before, n)
            else:
                x, v = self.system.pushforward(before, v, n)
            time = time + self.system.elapsed(before, n)  # after the step, so that a section already knows the return time
            if all_alive and math.isfinite(x.detach().sum()):  # the cheapest test that all numbers are finite
                lived = lived + 1
                continue
            finite = torch.isfinite(x).all(-1) & (lived == n)  # a step may turn NaN into a number, but a failed sample stays failed
            lived, all_alive = lived + finite, False
            x = x.where(finite[..., None], torch.nan)
            v = None if v is None else v.where(finite[..., None, None], torch.nan)
        return replace(self, x=x, v=v, n=self.n + steps, lived=lived, time=time)

    def with_tangents(self, v: Tensor | None) -> "Front":
        """The same front with the tangents v."""
        return replace(self, v=v)

    @property
    def failed_at(self) -> Tensor:
        """The step at which each sample failed, shape (*batch); −1 if it did not."""
        return torch.where(self.lived < self.n, self.lived, -1)


def begin(system: System, x0: Tensor | None = None, *, seed: int = 0, one_width: bool = True) -> Front:
    """Begin a run: a twin of the system in the dtype and on the device of x0, and x0 expanded to the batch of the run.

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`, one for each set of parameters and inputs.
        seed: seed of the system's initial state.
        one_width: refuse a system whose states change their width.

    Raises:
        ShapeError: x0 is not (*batch, dim), its batch does not broadcast, or a step changes the width.
        InputError: x0 is empty, has numbers that are not finite, or is neither float32 nor float64; the first step fails, changes
            its argument in place, draws random numbers, keeps state from one call to the next, or mixes the items of a batch.
        UnsupportedModuleError: the object is not a System.
    """
    check_system_type(system)
    if one_width:
        _check_one_width(system)
    own = system.batch_shape
    if x0 is None:
        numbers = 2.0 * math.prod(own) * system.dim
        check_memory(
            f"a state of {system.dim:,} numbers and its successor", numbers, torch.empty(0).double(), "Pass a smaller dim."
        )
    x0 = system.initial_state(own, seed).to(_device(system)) if x0 is None else as_numbers("x0", x0, None)
    _check_state(system, x0)
    batch = _batch_of_run(own, x0)
    ready = twin(system, dtype=x0.dtype, device=x0.device, apart=True)
    hold_anew(ready)
    ready.__dict__["_prepared"] = Prepared(ready)  # see Note [Prepared steps]
    x = x0.expand(*batch, system.dim)
    check_step(ready, x, system)
    ready.check_start(x)
    return Front(ready, x, lived=torch.zeros(batch, dtype=torch.int64, device=x.device))


def _device(system: System) -> torch.device:
    return next((tensor.device for tensor in (*system.buffers(), *system.parameters())), torch.device("cpu"))


def _check_state(system: System, x0: Tensor) -> None:
    """Refuse initial states of the wrong length or dtype, or with numbers that are not finite."""
    if x0.ndim == 0 or x0.shape[-1] != system.dim:
        raise ShapeError(
            f"the state has {x0.shape[-1] if x0.ndim else 1} numbers but this {type(system).__name__} has {system.dim}: "
            f"x0 has shape {tuple(x0.shape)}.\nPass x0 of shape (*batch, {system.dim}), or omit it."
        )
    if x0.is_complex():
        raise InputError(
            f"x0 is {str(x0.dtype).removeprefix('torch.')}, but states are real numbers.\n"
            "Pass is_complex=True to sx.Map or sx.Flow, and system.pack(x0) as the state. For your own System, pass the real and "
            "imaginary parts, torch.view_as_real(x0).flatten(-2)."
        )
    if not x0.is_floating_point():
        raise InputError(f"x0 is {x0.dtype}, but states are real numbers.\nPass x0.double().")
    if x0.dtype not in (torch.float32, torch.float64):
        raise InputError(f"states are float32 or float64, not {str(x0.dtype).removeprefix('torch.')}.\nPass x0.float().")
    check_all_finite("x0", x0, "")


def _batch_of_run(own: tuple[int, ...], x0: Tensor) -> tuple[int, ...]:
    """The broadcast of the system's own batch axes and those of x0."""
    try:
        batch = np.broadcast_shapes(x0.shape[:-1], own)
    except ValueError:
        raise ShapeError(
            f"x0 has batch axes {tuple(x0.shape[:-1])} but the parameters and inputs have {tuple(own)}: they do not broadcast.\n"
            "Give one of them an axis of length 1 along which the other varies."
        ) from None
    if 0 in batch:
        raise InputError(f"expected at least 1 initial state, got x0 of shape {tuple(x0.shape)}.\nPass at least one, or omit x0.")
    return batch


def _check_one_width(system: System) -> None:
    each = widths(system)
    change = next((n for n, width in enumerate(each) if width != each[0]), None)
    if change is not None:
        raise ShapeError(
            f"this {type(system).__name__} changes its width from {each[0]} to {each[change]} at step {change - 1}, so its "
            "Jacobians are not square.\nUse sx.finite_time_lyapunov or sx.gradient_propagation, or blocks of one width."
        )


def hold_anew(system: System) -> None:
    """Let a run's system compare its derivatives with its functions again when they are next computed."""
    for part in system.modules():
        if isinstance(part.__dict__.get("_tangents"), Tangents):
            part.__dict__["_tangents"] = part._tangents.of_another_run()


def in_one_width(front: Front) -> Front:
    """A front of constant width: the same one, or that of the `Padded` system."""
    if len(set(widths(front.system))) == 1:
        return front
    padded = Padded(front.system)
    return replace(front, system=padded, x=padded.pad(front.x))


def check_system_type(system: object) -> None:
    """Refuse anything but a System."""
    if not isinstance(system, System):
        what = f"the class {system.__name__}" if isinstance(system, type) else f"a {type(system).__name__}"
        raise UnsupportedModuleError(
            f"expected a System, got {what}.\nWrap it: sx.Recurrent(module, inputs), or sx.Map(function, dim)."
        )


def check_steps(system: System, **counts: int) -> None:
    """Refuse negative counts of steps, and counts whose sum exceeds the horizon of the system."""
    check_system_type(system)
    for name, count in counts.items():
        check_whole(name, count, 0)
    total = sum(counts.values())
    if system.horizon is not None and total > system.horizon:
        terms = " + ".join(f"{name} {count}" for name, count in counts.items())
        raise HorizonError(
            f"{terms} = {total} steps were requested, but this system can take {system.horizon}: "
            f"its inputs or its depth end there.\nRequest at most {system.horizon} steps, or drive the system with an endless "
            "sx.Stream of its sequences."
        )


def trajectory(
    system: System, x0: Tensor | None = None, steps: int = 1000, *, settle: int = 0, every: int = 1, seed: int = 0
) -> Tensor:
    """The trajectory of x0:  x_settle, x_{settle+every}, x_{settle+2·every}, …  up to x_{settle+steps}.

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        steps: number of steps to take after settling.
        settle: number of steps to discard first.
        every: interval between two recorded states, in steps.
        seed: seed of the system's initial state.

    Returns:
        Shape (steps // every + 1, *batch, dim), including the first state. A sample that diverges is NaN from that step on.
        Differentiable in x0 and in the parameters of the system.

    Raises:
        HorizonError: `settle + steps` exceeds the horizon of the system.
        InputError: the states do not fit into memory.

    Example:
        >>> doubling = sx.Map(lambda x: 2 * x, dim=1)
        >>> sx.trajectory(doubling, torch.ones(1), steps=4)[:, 0]
        tensor([ 1.,  2.,  4.,  8., 16.])
    """
    check_steps(system, settle=settle, steps=steps)
    check_whole("every", every, 1)
    front, count = begin(system, x0, seed=seed), steps // every
    way_out = "Take fewer steps, or a larger every."
    check_memory(f"a trajectory of {counted(count + 1, 'state')}", 2.0 * (count + 1) * front.x.numel(), front.x, way_out)
    front = front.advance(settle)
    states = [front.x]
    for _ in range(count):
        front = front.advance(every)
        states.append(front.x)
    return torch.stack(states)
