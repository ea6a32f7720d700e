"""Initial value problems: one function for equal steps and for steps by tolerance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from separatrix.errors import DivergedError, InputError, NotConvergedError, ShapeError
from separatrix.evolve import check_whole
from separatrix.flow import Field, FunctionField
from separatrix.ode.adaptive import adaptive_steps
from separatrix.ode.mesh import check_times, equal_steps
from separatrix.ode.solution import Solution
from separatrix.result import Status
from separatrix.solvers import PAIRS, SOLVERS
from separatrix.twin import twin

MAX_STEPS = 10_000


def solve(
    field: Callable[..., Tensor],
    x0: Tensor,
    times: Any,
    *,
    method: str = "dopri5",
    dt: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    max_steps: int = MAX_STEPS,
    time_dependent: bool = False,
    throw: bool = False,
) -> Solution:
    r"""The solution of  ẋ = f(x, t),  x(times[0]) = x0,  at the asked times, differentiable in x0 and in f's parameters.

    Without `dt` each item takes its own steps, such that a step's error estimate e satisfies  rms_i(e_i / (atol + rtol |x_i|)) < 1,
    and is read at the asked times from a polynomial; an item that fails does not hold up the others. With `dt` all take equal
    steps of at most dt that end on the asked times.

    Args:
        field: x ↦ ẋ on states of shape (*batch, dim), an `nn.Module` or a function, or a `Field`. A module is used through its
            twin, in evaluation mode and in the dtype of x0; gradients reach its parameters.
        x0: states at the first time, shape (*batch, dim).
        times: increasing, shape (times), or (times, *batch) where each item has its own; the first is that of x0.
        method: a name in `SOLVERS`. Steps by tolerance need a pair, "dopri5".
        dt: the longest step. Default: steps by tolerance.
        rtol, atol: tolerances, relative and absolute, of one step.
        max_steps: trials of a step before an item is given up.
        time_dependent: call `field(x, t)`; t is a number, or a tensor of shape (*batch, 1).
        throw: raise where an item fails.

    Raises:
        InputError: times that do not increase, tolerances out of range, an unknown method.
        ShapeError: the field changes the width.
        MissingExtraError: steps by tolerance without torchode.
        DivergedError, NotConvergedError: with `throw`.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.4; Lienen & Günnemann 2022,
        arXiv:2210.12375 (steps of each item).
    """
    x0 = torch.as_tensor(x0)
    times = torch.as_tensor(times, dtype=torch.float64, device=x0.device)
    batch = tuple(x0.shape[:-1])
    check_times(times, batch)
    _check_method(method, dt)
    ready = _ready(field, x0, time_dependent)
    _check_width(ready, x0, times)
    settings = {"method": method, "dt": dt, "max_steps": max_steps}
    if dt is None:
        _check_tolerances(x0, rtol, atol, max_steps)
        found = _by_tolerance(ready, x0, times, method, rtol, atol, max_steps, settings | {"rtol": rtol, "atol": atol})
    else:
        found = _in_equal_steps(ready, x0, times, method, dt, settings)
    if throw:
        _throw(found)
    return found


def _in_equal_steps(field: Field, x0: Tensor, times: Tensor, method: str, dt: float, settings: dict[str, Any]) -> Solution:
    mesh = equal_steps(times, dt)
    solver = SOLVERS[method]
    solver.check_dim(x0.shape[-1])
    nodes = torch.stack(mesh.follow(solver, field, x0))
    asked = times.reshape(len(times), *([1] * (x0.ndim - 1) if times.ndim == 1 else times.shape[1:])).expand(-1, *x0.shape[:-1])
    whole = torch.isfinite(nodes).all(-1)
    codes = torch.where(whole[-1], int(Status.OK), int(Status.DIVERGED)).to(torch.int8)
    states = mesh.read(solver, field, nodes)
    alive = torch.isfinite(states).all(-1).cumprod(0).bool()
    reached = asked.where(alive, -torch.inf).amax(0)
    steps = whole.long().cumprod(0).sum(0) - 1
    return Solution(
        times=asked,
        states=states.where(alive[..., None], torch.nan),
        accepted=steps,
        rejected=torch.zeros_like(steps),
        reached=reached,
        codes=codes,
        settings=settings,
    )


def _by_tolerance(
    field: Field, x0: Tensor, times: Tensor, method: str, rtol: float, atol: float, max_steps: int, settings: dict[str, Any]
) -> Solution:
    batch, pair = x0.shape[:-1], PAIRS[method]
    items = x0.reshape(-1, x0.shape[-1])
    asked = (times[:, None] if times.ndim == 1 else times.flatten(1)).expand(-1, len(items)).contiguous()
    run = adaptive_steps(method, field, items.detach(), asked, rtol=rtol, atol=atol, max_steps=max_steps)
    nodes = torch.stack(run.mesh.follow(pair, field, items)) if torch.is_grad_enabled() else run.nodes
    alive = asked <= run.reached * (1 + 1e-12)
    states = run.mesh.read(pair, field, nodes).where(alive[..., None], torch.nan)
    return Solution(
        times=asked.unflatten(1, batch) if batch else asked[:, 0],
        states=states.unflatten(1, batch) if batch else states[:, 0],
        accepted=run.accepted.reshape(batch),
        rejected=run.rejected.reshape(batch),
        reached=run.reached.reshape(batch),
        codes=run.codes.reshape(batch),
        settings=settings,
    )


def _ready(field: Callable[..., Tensor], x0: Tensor, time_dependent: bool) -> Field:
    own = field if isinstance(field, Field) else FunctionField(field, time_dependent=time_dependent)
    return twin(own, dtype=x0.dtype, device=x0.device)


def _check_method(method: str, dt: float | None) -> None:
    if method not in SOLVERS:
        raise InputError(f"there is no method {method!r}; choose one of {', '.join(SOLVERS)}.")
    if dt is None and method not in PAIRS:
        raise InputError(
            f"{method} has no error estimate to choose its steps by.\nPass dt, the length of its steps; or method='dopri5'."
        )


def _check_tolerances(x0: Tensor, rtol: float, atol: float, max_steps: int) -> None:
    least = 10 * torch.finfo(x0.dtype).eps
    if not least <= rtol < 1:
        raise InputError(f"rtol is {rtol:g}; for {str(x0.dtype).removeprefix('torch.')} states it lies from {least:.1g} up to 1.")
    if not 0 <= atol < float("inf"):
        raise InputError(f"atol is {atol:g}; it is a finite number of at least 0, in the state's own unit.")
    if check_whole("max_steps", max_steps) < 1:
        raise InputError(f"max_steps is {max_steps}; it is at least 1.")


def _check_width(field: Field, x0: Tensor, times: Tensor) -> None:
    with torch.no_grad():
        shape = tuple(field(x0, float(times.flatten()[0])).shape)
    if shape != tuple(x0.shape):
        raise ShapeError(
            f"the field takes states of shape {tuple(x0.shape)} to velocities of shape {shape}.\n"
            f"It must return one velocity for each of the {x0.shape[-1]} numbers of a state."
        )


def _throw(found: Solution) -> None:
    for code, error in ((Status.DIVERGED, DivergedError), (Status.NOT_CONVERGED, NotConvergedError)):
        if (found.codes == code).any():
            raise error(found.summary())
