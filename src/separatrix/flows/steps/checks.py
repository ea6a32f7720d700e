"""Checks of initial value problems."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from separatrix.core.checks import (
    as_numbers,
    check_all_finite,
    check_choice,
    check_not_negative,
    check_number,
    check_positive,
    check_whole,
)
from separatrix.core.errors import InputError, SeparatrixError, ShapeError
from separatrix.core.first_step import NOT_THE_FUNCTIONS, first_call_failed, how_called
from separatrix.core.twin import twin
from separatrix.flows.field import Field
from separatrix.flows.methods import PAIRS, SOLVERS
from separatrix.flows.steps.items import Together
from separatrix.flows.steps.tolerance import Tolerance

# Solvers of other libraries, for stiff fields and for others.
STIFF = (
    "radau",
    "bdf",
    "lsoda",
    "kvaerno",
    "rodas",
    "kencarp",
    "trbdf",
    "qndf",
    "fbdf",
    "cvode",
    "implicit_adams",
)
SMOOTH = ("rk45", "rk23", "dop853", "dopri", "bosh3", "adaptive_heun", "fehlberg", "vern", "heun12", "scipy")


def as_state(x0: Any, field: Field) -> Tensor:
    """The initial states, expanded to the batch of x0 and the field's parameters."""
    x0 = as_numbers("x0", x0, None)
    if x0.ndim == 0:
        raise ShapeError("expected x0 of shape (*batch, dim), got a single number.\nPass x0[None], or x0[:, None].")
    if x0.is_complex():
        raise InputError(
            f"expected float32 or float64 states, got {str(x0.dtype).removeprefix('torch.')}.\n"
            "Pass torch.view_as_real(x0).flatten(-2), the real and imaginary parts, and the field "
            "lambda x: torch.view_as_real(f(torch.view_as_complex(x.unflatten(-1, (-1, 2))))).flatten(-2); "
            "or sx.Flow(f, dim, dt, is_complex=True)."
        )
    if x0.dtype not in (torch.float32, torch.float64):
        kind = str(x0.dtype).removeprefix("torch.")
        raise InputError(f"expected float32 or float64 states, got {kind}.\nPass x0.double() or x0.float().")
    try:
        batch = np.broadcast_shapes(x0.shape[:-1], field.batch_shape)
    except ValueError:
        raise ShapeError(
            f"x0 has batch axes {tuple(x0.shape[:-1])}, the field's parameters {field.batch_shape}: they do not broadcast.\n"
            "Insert an axis of length 1 in one of them where the other varies."
        ) from None
    if 0 in (*batch, x0.shape[-1]):
        raise InputError(f"expected at least one state, got x0 of shape {tuple(x0.shape)}.")
    return x0.expand(*batch, x0.shape[-1])


def check_finite(x0: Tensor) -> None:
    """Refuse a single state that is not finite. In a batch, such items are skipped."""
    if x0.ndim == 1:
        check_all_finite("x0", x0, "")


def as_times(times: Any, device: torch.device) -> Tensor:
    """The requested times, in float64."""
    if isinstance(times, list | tuple) and any(isinstance(time, Tensor) for time in times):
        each = [as_numbers("times", time) for time in times]
        try:
            times = torch.stack(torch.broadcast_tensors(*each))
        except RuntimeError:
            raise InputError(f"times have shapes {[tuple(time.shape) for time in each]}, which do not broadcast.") from None
    return as_numbers("times", times).to(device)


def check_method(method: str, dt: float | None) -> None:
    """Refuse an unknown method, or adaptive steps of a method without an error estimate."""
    check_choice("method", method, SOLVERS, way_out=_meant(str(method).lower()))
    if dt is None and method not in PAIRS:
        pairs = " or ".join(f'"{name}"' for name in PAIRS)
        raise InputError(f"{method} has no error estimate for adaptive steps.\nPass dt, the step size; or method={pairs}.")
    if dt is not None:
        check_positive("dt", dt)


def _meant(name: str) -> str:
    """The method here that corresponds to a name in another library, as advice."""
    own = name if name in SOLVERS else "rodas5p" if name.startswith(STIFF) else "dopri5" if name.startswith(SMOOTH) else None
    return f'Pass method="{own}".' if own else ""


def check_tolerance(x0: Tensor, tolerance: Tolerance) -> None:
    """Refuse tolerances that are out of range, or below what the dtype allows."""
    rtol, atol, max_steps, max_step = (getattr(tolerance, each.name) for each in fields(tolerance))
    least = 10 * torch.finfo(x0.dtype).eps
    if not least <= check_number("rtol", rtol) < 1:
        raise InputError(f"rtol is {rtol:g}; expected {least:.1g} ≤ rtol < 1 for {str(x0.dtype).removeprefix('torch.')} states.")
    if atol is not None:
        check_not_negative("atol", atol)
    check_whole("max_steps", max_steps, 1)
    if max_step is not None:
        check_positive("max_step", max_step)


def check_no_longest(max_step: float | None, dt: float | None) -> None:
    """Refuse max_step together with equal steps."""
    if max_step is not None and dt is not None:
        raise InputError(f"max_step = {max_step:g} limits adaptive steps, but dt = {dt:g} makes equal steps.\nPass one of the two.")


def first_time(x0: Tensor, times: Tensor, *, by_tolerance: bool) -> float | Tensor:
    """The first time, in the form in which a field gets it with states like x0."""
    return times[0].detach().expand(x0.shape[:-1]).to(x0) if by_tolerance or times.ndim > 1 else float(times[0])


def first_velocity(field: Field, x0: Tensor, times: Tensor, *, by_tolerance: bool) -> Tensor:
    """The initial velocity, with the field's own tensors detached: any graph left is hidden. See Note [Hidden tensors].

    Raises:
        ShapeError: it does not have the shape of the states.
        InputError: the field fails, modifies its argument, or holds tensors of another dtype.
    """
    trial, t = x0.detach().clone(), first_time(x0, times, by_tolerance=by_tolerance)
    try:
        value = twin(field, detach=True)(trial, t)
    except NOT_THE_FUNCTIONS:
        raise
    except Exception as error:  # user code: any error becomes the message
        raise failed_call(field, x0, t, error) from error
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape != tuple(x0.shape):
        raise ShapeError(
            f"expected velocities of shape {tuple(x0.shape)}, that of the states, got shape {shape}.\n"
            f"Return one velocity for each of the {x0.shape[-1]} numbers of a state."
        )
    if value.dtype == torch.bool or value.is_complex():
        kind = str(value.dtype).removeprefix("torch.")
        raise InputError(f"expected real velocities, got {kind}.\nReturn real floating-point numbers.")
    if not torch.equal(trial, x0):
        raise InputError("the field modifies its argument in place.\nReturn a new tensor: x * 2, not x.mul_(2).")
    return value.to(x0)


def failed_call(field: Field, x0: Tensor, t: float | Tensor, error: Exception, what: str = "the field") -> SeparatrixError:
    """The error for a field or an event that raised on the initial states, with advice."""
    message = (str(error).strip().splitlines() or ["no message"])[0]
    if isinstance(error, TypeError | ValueError) and isinstance(t, Tensor) and "tensor" in message:
        return InputError(
            f"{what} does not accept one time per item, a tensor of shape {tuple(t.shape)}: {message}.\n"
            'Use torch.sin(t), not math.sin(t); or take equal steps, method="rk4" with dt=0.1, where t is one number.'
        )
    if isinstance(error, RuntimeError) and ("shape" in message or "size" in message):
        advice = how_called(field, x0, error)
        if field.time_dependent and isinstance(t, Tensor) and t.ndim > 0:
            advice += f" The time has shape {tuple(t.shape)}, one per state: write t[..., None] beside the numbers of a state."
        return ShapeError(f"{what} does not accept states of shape {tuple(x0.shape)}: {message.rstrip('.')}.\n{advice}")
    if isinstance(error, RuntimeError) and "dtype" in message:
        return InputError(
            f"x0 is {str(x0.dtype).removeprefix('torch.')}, but {what} holds tensors of another dtype ({message}).\n"
            "Pass x0 in that dtype, or pass the nn.Module itself, which is then cast."
        )
    return first_call_failed(field, what, x0, error)


def check_apart(together: Together) -> None:
    """Refuse separate steps for items that depend on each other."""
    if together.mixes:
        raise InputError(
            "expected items that do not depend on each other, since each takes its own steps; this field mixes them or is random.\n"
            "A time has shape (*batch): write t[..., None] beside the numbers of a state. If items interact, make them one state, "
            '(*batch, items · dim); or take equal steps, dt=0.1, without "adjoint".'
        )
