"""Initial value problems: one function for equal steps and for steps by tolerance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from separatrix.flow import Field, Flow
from separatrix.ode.adaptive import Tolerance, adaptive_steps
from separatrix.ode.adjoint import ByAdjoint
from separatrix.ode.checkpoint import by_checkpoints
from separatrix.ode.checks import (
    as_field,
    as_state,
    as_times,
    check_apart,
    check_method,
    check_tolerances,
    first_time,
    first_velocity,
    raise_failure,
)
from separatrix.ode.compiling import BREAK, check_traceable, uncompiled
from separatrix.ode.diagnosis import reasons
from separatrix.ode.discrete import Discrete
from separatrix.ode.gradient import apart_from_graph, way
from separatrix.ode.items import Items, Together
from separatrix.ode.lost import check_gradient
from separatrix.ode.mapped import Mapped, Opened, transformed
from separatrix.ode.mesh import Run, check_times, equal_steps
from separatrix.ode.solution import Solution
from separatrix.ode.tensors import Tensors, hidden
from separatrix.solvers import SOLVERS
from separatrix.twin import twin

MAX_STEPS = 10_000


def solve(
    field: Callable[..., Tensor],
    x0: Tensor,
    times: Any,
    *,
    method: str | None = None,
    dt: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    max_steps: int = MAX_STEPS,
    gradient: str | None = None,
    time_dependent: bool = False,
    progress: bool = False,
    throw: bool = False,
) -> Solution:
    r"""The solution of  ẋ = f(x, t),  x(times[0]) = x0,  at the asked times, differentiable in x0 and in f's parameters.

    Without `dt` each item takes its own steps, such that a step's error estimate e satisfies  rms_i(e_i / (atol + rtol |x_i|)) < 1,
    and is read at the asked times from a polynomial; an item that fails does not hold up the others. With `dt` all take equal
    steps of at most dt that end on the asked times.

    Args:
        field: x ↦ ẋ on states of shape (*batch, dim), an `nn.Module` or a function, a `Field`, or a `Flow`, whose method and step
            are then the defaults. A module is used through its twin, in evaluation mode and in the dtype of x0; gradients reach its
            parameters. Parameters of a `Field` may differ from item to item; the run's batch is their broadcast with that of x0.
        x0: states at the first time, shape (*batch, dim).
        times: increasing, shape (times), or (times, *batch) where each item has its own; the first is that of x0.
        method: a name in `SOLVERS`. Steps by tolerance need a pair, "dopri5" or "tsit5". Default: "dopri5".
        dt: the longest step. Default: steps by tolerance.
        rtol, atol: tolerances, relative and absolute, of one step.
        max_steps: trials of a step before an item is given up.
        gradient: "backpropagation" (exact for the discrete solution, keeps what every step computes, can be differentiated again;
            of a field that cuts its graph what is left, with a warning), "checkpoint" (the same numbers, keeps the
            states of the steps only) or "adjoint" (that of the equation itself, by a second one solved backwards; right to the
            tolerance). Default: "checkpoint" for steps by tolerance, "backpropagation" for equal steps and for functions that hide
            a tensor with a gradient.
        time_dependent: call `field(x, t)`; t is a number, or a tensor of shape (*batch, 1).
        progress: show how far the slowest item has come.
        throw: raise where an item fails.

    Raises:
        InputError: times that do not increase, tolerances out of range, an unknown method or gradient; steps by tolerance, or the
            adjoint, of a field whose items depend on each other.
        ShapeError: the field changes the width.
        MissingExtraError: steps by tolerance without torchode.
        UnsupportedModuleError: the field cuts its derivative from the graph, and a gradient is asked.
        DivergedError, NotConvergedError: with `throw`.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.4; Lienen & Günnemann 2022,
        arXiv:2210.12375 (steps of each item).
    """
    if torch.compiler.is_dynamo_compiling():
        settings = {"method": method, "dt": dt, "rtol": rtol, "atol": atol, "max_steps": max_steps, "gradient": gradient}
        torch._dynamo.graph_break(msg=BREAK)
        return uncompiled(solve)(field, x0, times, time_dependent=time_dependent, progress=progress, throw=throw, **settings)
    check_traceable()
    if isinstance(field, Flow):
        method, dt = method or field.method, field.dt if method is None and dt is None else dt
        field = field.field
    method = method or "dopri5"
    check_method(method, dt)
    settings = {"method": method, "dt": dt, "rtol": rtol, "atol": atol, "max_steps": max_steps, "progress": progress}
    mapped = Mapped.of(field, x0, times, time_dependent, by_tolerance=dt is None)
    if mapped is None:
        found, _ = _solved(field, x0, times, gradient=gradient, time_dependent=time_dependent, **settings)
    else:
        with mapped.opened() as (open_field, open_x0):
            opened, run = _solved(open_field, open_x0, mapped.times(times), gradient=gradient, time_dependent=True, **settings)
        found = mapped.solution(opened, run, SOLVERS[method])
    if throw:
        raise_failure(found if mapped is None else opened)
    return found


def _solved(
    field: Callable[..., Tensor],
    x0: Tensor,
    times: Any,
    *,
    method: str,
    dt: float | None,
    rtol: float,
    atol: float,
    max_steps: int,
    gradient: str | None,
    time_dependent: bool,
    progress: bool,
) -> tuple[Solution, Run]:
    """The solution and its steps."""
    x0 = as_state(x0, field if isinstance(field, Field) else Field())
    times = as_times(times, x0.device)
    check_times(times, tuple(x0.shape[:-1]))
    ready = as_field(field, x0, time_dependent)
    SOLVERS[method].check_dim(x0.shape[-1])
    first = first_velocity(ready, x0, times, by_tolerance=dt is None)
    if dt is not None and times.ndim == 1:
        with torch.no_grad():
            SOLVERS[method].check_field(twin(ready, detach=True), x0, float(times[0]) + dt / 2)
    if dt is None:
        check_tolerances(x0, rtol, atol, max_steps)
    tolerance = Tolerance(rtol, atol, max_steps) if dt is None else None
    hides = bool(hidden(first, lambda: first_velocity(ready, x0, times, by_tolerance=dt is None)))
    chosen = way(gradient, ready, x0, first, hidden=hides, by_tolerance=dt is None)
    if chosen is not None and not transformed():
        by_the_graph = gradient == "backpropagation"
        check_gradient(field, lambda x: ready(x, first_time(x, times, by_tolerance=dt is None)), x0, by_the_graph=by_the_graph)
    return _solution(ready, first, x0, times, method, dt, tolerance, chosen, progress)


def _solution(
    field: Field,
    first: Tensor,
    x0: Tensor,
    times: Tensor,
    method: str,
    dt: float | None,
    tolerance: Tolerance | None,
    chosen: str | None,
    progress: bool,
) -> tuple[Solution, Run]:
    batch, solver = tuple(x0.shape[:-1]), SOLVERS[method]
    items = x0.reshape(-1, x0.shape[-1])
    asked = (times[:, None] if times.ndim == 1 else times.flatten(1)).expand(-1, len(items)).contiguous()
    flat, keeps = Items(field, batch), chosen == "backpropagation"
    first = first.detach().reshape(items.shape)
    again = tolerance is not None or chosen in ("checkpoint", "adjoint")
    together = (
        Together.probe(field, batch, items.detach(), torch.lerp(asked[0], asked[-1], 0.3))
        if again
        else Together.alone(field, batch)
    )
    if tolerance is not None or chosen == "adjoint":
        check_apart(together)
    if tolerance is not None:
        alone = Items(field, None).forward if together.packs else None
        run = adaptive_steps(method, flat, items.detach(), asked, tolerance, first=first, alone=alone, progress=progress)
        nodes = torch.stack(run.mesh.follow(solver, flat, items)) if keeps else run.nodes
    else:
        mesh = equal_steps(times if times.ndim == 1 else times.flatten(1), dt)
        with torch.set_grad_enabled(keeps):
            nodes = torch.stack(mesh.follow(solver, flat, items, progress=progress))
        run = Run.of(mesh, nodes.detach(), asked)
    discrete = Discrete.of(solver, together, run.mesh, nodes)
    states = _differentiable(discrete, chosen, items, field, asked, dt, tolerance)
    states = states.where(run.alive(asked)[..., None], torch.nan)
    settings = {"method": method, "dt": dt, "gradient": chosen} | ({} if tolerance is None else vars(tolerance))
    found = Solution(
        times=asked.reshape(-1, *batch),
        states=states.reshape(-1, *x0.shape),
        accepted=run.accepted.reshape(batch),
        rejected=run.rejected.reshape(batch),
        reached=run.reached.reshape(batch),
        codes=run.codes.reshape(batch),
        why=() if isinstance(field, Opened) else reasons(run, flat, asked, batch, method, dt, tolerance),
        settings=settings,
    )
    return found, run


def _differentiable(
    discrete: Discrete, way: str | None, x0: Tensor, field: Field, asked: Tensor, dt: float | None, tolerance: Tolerance | None
) -> Tensor:
    if way not in ("checkpoint", "adjoint"):
        with torch.set_grad_enabled(way == "backpropagation"):
            return discrete.states()
    sweep = by_checkpoints if way == "checkpoint" else ByAdjoint(asked, dt, tolerance)
    return apart_from_graph(discrete, x0, Tensors.of(field), sweep)
