"""What an initial value problem must be, said in one clear line where it is not."""

from dataclasses import fields
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from separatrix.core.checks import check_whole
from separatrix.core.errors import DivergedError, InputError, NotConvergedError, SeparatrixError, ShapeError
from separatrix.core.first_step import NOT_THE_FUNCTIONS, first_call_failed, how_called
from separatrix.core.result import Result, Status
from separatrix.core.twin import twin
from separatrix.flows.field import Field
from separatrix.flows.flow import check_positive, check_step
from separatrix.flows.methods import PAIRS, SOLVERS
from separatrix.flows.steps.items import Together
from separatrix.flows.steps.tolerance import Tolerance

STIFF = ("radau", "bdf", "lsoda", "kvaerno", "rodas", "kencarp", "trbdf", "qndf", "fbdf", "cvode", "implicit_adams")  # elsewhere
SMOOTH = ("rk45", "rk23", "dop853", "dopri", "bosh3", "adaptive_heun", "fehlberg", "vern", "heun12", "scipy")


def as_state(x0: Any, field: Field) -> Tensor:
    """The states at the start, in the batch that they and the field's parameters make together; some of them finite."""
    try:
        x0 = torch.as_tensor(x0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"x0 cannot be read as numbers: {str(error).splitlines()[0]}") from None
    if x0.ndim == 0:
        raise ShapeError("x0 is one number without an axis; states have shape (*batch, dim).\nPass x0[None], or x0[:, None].")
    if x0.is_complex():
        raise InputError(
            f"x0 is {str(x0.dtype).removeprefix('torch.')}, but states are float32 or float64.\n"
            "Pass torch.view_as_real(x0).flatten(-2), the real and imaginary parts, and the field "
            "lambda x: torch.view_as_real(f(torch.view_as_complex(x.unflatten(-1, (-1, 2))))).flatten(-2); "
            "or sx.Flow(f, dim, dt, is_complex=True)."
        )
    if x0.dtype not in (torch.float32, torch.float64):
        kind = str(x0.dtype).removeprefix("torch.")
        raise InputError(f"x0 is {kind}, but states are float32 or float64.\nPass x0.double() or x0.float().")
    try:
        batch = np.broadcast_shapes(x0.shape[:-1], field.batch_shape)
    except ValueError:
        raise ShapeError(
            f"x0 has batch axes {tuple(x0.shape[:-1])} but the field's parameters {field.batch_shape}: they do not broadcast.\n"
            "Give one of them an axis of length 1 where the other varies."
        ) from None
    if 0 in (*batch, x0.shape[-1]):
        raise InputError(f"there is no state to begin from: x0 has shape {tuple(x0.shape)}.\nGive at least one.")
    return x0.expand(*batch, x0.shape[-1])


def check_finite(x0: Tensor) -> None:
    """Refuse a state that is not finite; one of a batch has ended before, and the others are followed."""
    if x0.ndim == 1 and not torch.isfinite(x0).all():
        raise InputError(f"x0 has {int((~torch.isfinite(x0)).sum())} numbers that are not finite, out of {x0.numel()}.")


def as_times(times: Any, device: torch.device) -> Tensor:
    """The asked times, in float64."""
    try:
        if isinstance(times, list | tuple) and any(isinstance(time, Tensor) for time in times):
            times = torch.stack(torch.broadcast_tensors(*(torch.as_tensor(time, dtype=torch.float64) for time in times)))
        times = times if isinstance(times, Tensor | np.ndarray) else torch.as_tensor(times, dtype=torch.float64)
        times = torch.as_tensor(times)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"times cannot be read as numbers: {str(error).splitlines()[0]}") from None
    return times.to(device, torch.float64)


def check_method(method: str, dt: float | None) -> None:
    """Refuse a method that there is not, or that cannot choose its steps."""
    if method not in SOLVERS:
        raise InputError(f"there is no method {method!r}; choose one of {', '.join(SOLVERS)}.{_meant(str(method).lower())}")
    if dt is None and method not in PAIRS:
        pairs = " or ".join(f'"{name}"' for name in PAIRS)
        raise InputError(
            f"{method} has no error estimate to choose its steps by.\nPass dt, the length of its steps; or method={pairs}."
        )
    if dt is not None:
        check_step(dt)


def _meant(name: str) -> str:
    """Which of the methods is what another library has by this name."""
    own = name if name in SOLVERS else "rodas5p" if name.startswith(STIFF) else "dopri5" if name.startswith(SMOOTH) else None
    return f'\nPass method="{own}".' if own else ""


def check_tolerance(x0: Tensor, tolerance: Tolerance) -> None:
    """Refuse tolerances that no step can meet, or any."""
    rtol, atol, max_steps, max_step = (getattr(tolerance, each.name) for each in fields(tolerance))
    least = 10 * torch.finfo(x0.dtype).eps
    for name, value in (("rtol", rtol), ("atol", 0.0 if atol is None else atol)):
        if not isinstance(value, Real):
            raise InputError(f"{name} is {value!r}, a {type(value).__name__}; it is a number.")
    if not least <= rtol < 1:
        raise InputError(f"rtol is {rtol:g}; for {str(x0.dtype).removeprefix('torch.')} states it lies from {least:.1g} up to 1.")
    if atol is not None and not 0 <= atol < float("inf"):
        raise InputError(f"atol is {atol:g}; it is a finite number of at least 0, in the state's own unit.")
    if check_whole("max_steps", max_steps) < 1:
        raise InputError(f"max_steps is {max_steps}; it is at least 1.")
    if max_step is not None:
        check_positive(max_step, "max_step is the longest step, a positive time, not")


def check_no_longest(max_step: float | None, dt: float | None) -> None:
    """Refuse a longest step beside equal steps."""
    if max_step is not None and dt is not None:
        raise InputError(
            f"max_step = {max_step:g} bounds steps by tolerance, but dt = {dt:g} makes them equal.\nPass one of the two."
        )


def first_time(x0: Tensor, times: Tensor, *, by_tolerance: bool) -> float | Tensor:
    """The first of the times, as a field is handed one with states like x0."""
    return times[0].detach().expand(x0.shape[:-1]).to(x0) if by_tolerance or times.ndim > 1 else float(times[0])


def first_velocity(field: Field, x0: Tensor, times: Tensor, *, by_tolerance: bool) -> Tensor:
    """The velocity at the start, all that the field owns being detached: what still has a graph is hidden, Note [Hidden tensors].

    Raises:
        ShapeError: it is no velocity for each number of a state.
        InputError: the field fails, writes to its argument, or holds tensors of another dtype.
    """
    trial, t = x0.detach().clone(), first_time(x0, times, by_tolerance=by_tolerance)
    try:
        value = twin(field, detach=True)(trial, t)
    except NOT_THE_FUNCTIONS:
        raise
    except Exception as error:  # the user's code: whatever it raises is the message
        raise failed_call(field, x0, t, error) from error
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape != tuple(x0.shape):
        raise ShapeError(
            f"the field takes states of shape {tuple(x0.shape)} to velocities of shape {shape}.\n"
            f"It must return one velocity for each of the {x0.shape[-1]} numbers of a state."
        )
    if value.dtype == torch.bool or value.is_complex():
        kind = str(value.dtype).removeprefix("torch.")
        raise InputError(f"the field's velocities are {kind}, but the state is of real numbers.\nReturn real velocities.")
    if not torch.equal(trial, x0):
        raise InputError(
            "the field changes its argument in place: it wrote to the state.\nReturn a new tensor: x * 2, not x.mul_(2)."
        )
    return value.to(x0)


def failed_call(field: Field, x0: Tensor, t: float | Tensor, error: Exception, what: str = "the field") -> SeparatrixError:
    """What a field or an event raised on the states at the start, and what to do."""
    said = (str(error).strip().splitlines() or ["no message"])[0]
    if isinstance(error, TypeError | ValueError) and isinstance(t, Tensor) and "tensor" in said:
        return InputError(
            f"{what} cannot take a time of each item, a tensor of shape {tuple(t.shape)}: {said}.\n"
            'Use torch.sin(t), not math.sin(t); or take equal steps, method="rk4" with dt=0.1, in which t is one number.'
        )
    if isinstance(error, RuntimeError) and ("shape" in said or "size" in said):
        advice = how_called(field, x0, error)
        if field.time_dependent and isinstance(t, Tensor) and t.ndim > 0:
            advice += f" The time has shape {tuple(t.shape)}, one for each state: write t[..., None] beside the state's numbers."
        return ShapeError(f"{what} cannot take states of shape {tuple(x0.shape)}: {said.rstrip('.')}.\n{advice}")
    if isinstance(error, RuntimeError) and "dtype" in said:
        return InputError(
            f"x0 is {str(x0.dtype).removeprefix('torch.')} but {what} holds tensors of another dtype ({said}).\n"
            "Pass x0 in that dtype, or give the nn.Module itself, which is then cast."
        )
    return first_call_failed(field, what, x0, error)


def check_apart(together: Together) -> None:
    """Refuse steps of each item for a field whose items are not apart."""
    if together.mixes:
        raise InputError(
            "an item's velocity depends on the states or times of other items, or on chance; each takes steps of its own.\n"
            "A time has shape (*batch): write t[..., None] beside the state's numbers. Make what interacts one state, "
            '(*batch, items · dim); or take equal steps, dt=0.1, without "adjoint".'
        )


def raise_failure(found: Result) -> None:
    """Raise where an item failed."""
    for code, error in ((Status.DIVERGED, DivergedError), (Status.NOT_CONVERGED, NotConvergedError)):
        if (found.codes == code).any():
            raise error(found.summary())
