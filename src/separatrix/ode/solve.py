"""Initial value problems: one function for equal steps and for steps by tolerance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separatrix.flow import Field, Flow
from separatrix.ode.adaptive import adaptive_steps
from separatrix.ode.adjoint import ByAdjoint
from separatrix.ode.checkpoint import by_checkpoints
from separatrix.ode.checks import (
    check_apart,
    check_method,
    check_tolerances,
    first_velocity,
    raise_failure,
)
from separatrix.ode.diagnosis import reasons
from separatrix.ode.discrete import Discrete
from separatrix.ode.gradient import apart_from_graph, way
from separatrix.ode.items import Items, Together
from separatrix.ode.mesh import Run, equal_steps
from separatrix.ode.problem import Problem
from separatrix.ode.solution import Solution, StructuredSolution
from separatrix.ode.states import Form, Structured
from separatrix.ode.tensors import Tensors
from separatrix.ode.tolerance import Tolerance
from separatrix.solvers import PAIRS, SOLVERS
from separatrix.structure import Nested
from separatrix.twin import twin

MAX_STEPS = 10_000


def solve(
    field: Callable[..., Tensor],
    x0: Nested,
    times: Any,
    *,
    method: str | None = None,
    dt: float | None = None,
    rtol: float = 1e-5,
    atol: float | None = None,
    max_steps: int = MAX_STEPS,
    gradient: str | None = None,
    time_dependent: bool = False,
    batch_axes: int | None = None,
    progress: bool = False,
    throw: bool = False,
) -> Solution | StructuredSolution:
    r"""The solution of  ẋ = f(x, t),  x(times[0]) = x0,  at the asked times, differentiable in x0 and in f's parameters.

    Without `dt` each item takes its own steps, such that a step's error estimate e satisfies  rms_i(e_i / (atol + rtol |x_i|)) < 1,
    and is read at the asked times from a polynomial; an item that fails does not hold up the others. With `dt` all take equal
    steps of at most dt that end on the asked times.

    Args:
        field: x ↦ ẋ on states of shape (*batch, dim), an `nn.Module` or a function, a `Field`, or a `Flow`, whose method and step
            are then the defaults. A module is used through its twin, in evaluation mode and in the dtype of x0; gradients reach its
            parameters. Parameters of a `Field` may differ from item to item; the run's batch is their broadcast with that of x0.
        x0: states at the first time, shape (*batch, dim). Or states as they are: tuples, dictionaries and other containers of
            tensors, images, complex numbers; the field then takes and gives the same, and `states` holds the same. An item that
            is not finite has ended before: it stays NaN, and the others are followed.
        times: increasing, or decreasing to go backwards, shape (times), or (times, *batch) where each item has its own; the first
            is that of x0. They may carry a graph: the derivative by a time is the field there, and by the first one −∂x/∂x0 f.
        method: a name in `SOLVERS`. Steps by tolerance need a pair: "dopri5" or "tsit5"; "rodas5p" for stiff fields of up to some
            hundred numbers. Default: "dopri5".
        dt: the longest step. Default: steps by tolerance.
        rtol, atol: tolerances, relative and absolute, of one step. Default of atol: relative too; a number of the state may be off
            by rtol / 1000 of the largest that it has been, so that no unit matters.
        max_steps: trials of a step before an item is given up.
        gradient: "backpropagation" (exact for the discrete solution, keeps what every step computes, can be differentiated again),
            "checkpoint" (the same numbers, keeps the states of the steps only) or "adjoint" (that of the equation itself, by a
            second one solved backwards; right to the tolerance). Default: "checkpoint" for steps by tolerance, "backpropagation"
            for equal steps and for functions that hide a tensor with a gradient.
        time_dependent: call `field(x, t)`; t is a tensor of shape (*batch), or without axes in equal steps that all share.
        batch_axes: how many leading axes of x0 are the batch. Default: all but the last of a tensor; none of containers, whose
            tensors are then one state together, in steps that they share.
        progress: show how far the slowest item has come.
        throw: raise where an item fails.

    Raises:
        InputError: times that neither increase nor decrease, tolerances out of range, an unknown method or gradient; steps by
            tolerance, or the adjoint, of a field whose items depend on each other.
        ShapeError: the field changes the width.
        DivergedError, NotConvergedError: with `throw`.
    Limits: a float32 state is told float32 times: where steps come near the rounding of the time, a field that looks at it ends
        `not_converged`; pass x0.double(), or begin at 0.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.4; Hairer & Wanner 1996, II, IV.7; Lienen &
        Günnemann 2022, arXiv:2210.12375 (steps of each item).
    """
    if isinstance(field, Flow):
        method, dt = method or field.method, field.dt if method is None and dt is None else dt
        field = field.field
    method = method or "dopri5"
    check_method(method, dt)
    form = Form.of(x0, batch_axes)
    if form is not None:
        x0, field = form.pack(x0), Structured(field, form, time_dependent=time_dependent, in_one_batch=form.batch_axes == 1)
    problem = Problem.of(field, x0, times, time_dependent)
    found = _solution(problem, _Steps.of(problem, method, dt, rtol, atol, max_steps), gradient, progress)
    if throw:
        raise_failure(found)
    return found if form is None else StructuredSolution.of(found, form)


@dataclass(frozen=True)
class _Steps:
    """How steps are taken.

    Args:
        method: a name in `SOLVERS`.
        dt: of equal steps, or None.
        tolerance: of steps by tolerance, or None.
        first: the velocity at the start, shape (*batch, dim).
    """

    method: str
    dt: float | None
    tolerance: Tolerance | None
    first: Tensor

    @classmethod
    def of(cls, problem: Problem, method: str, dt: float | None, rtol: float, atol: float | None, max_steps: int) -> "_Steps":
        """Checked, on the problem itself."""
        x0, times, solver = problem.x0, problem.times.detach(), SOLVERS[method]
        solver.check_dim(x0.shape[-1])
        first = first_velocity(problem.field, x0, times, by_tolerance=dt is None)
        if dt is not None and times.ndim == 1:
            with torch.no_grad():
                solver.check_field(twin(problem.field, detach=True), x0, float(times[0]) + dt / 2)
        if dt is None:
            check_tolerances(x0, rtol, atol, max_steps)
        return cls(method, dt, Tolerance(rtol, atol, max_steps) if dt is None else None, first)


def _solution(problem: Problem, steps: _Steps, gradient: str | None, progress: bool) -> Solution:
    field, batch, asked, solver = problem.field, problem.batch, problem.asked, SOLVERS[steps.method]
    items, by_tolerance = problem.begins(), steps.tolerance is not None
    chosen = way(gradient, field, items, hidden=steps.first.requires_grad, by_tolerance=by_tolerance)
    flat, keeps = Items(field, batch), chosen == "backpropagation"
    probed = by_tolerance or chosen in ("checkpoint", "adjoint") or problem.times.ndim > 1
    together = Together.probe(field, batch, items.detach(), asked) if probed else Together.alone(field, batch)
    if by_tolerance or chosen == "adjoint" or problem.times.ndim > 1:
        check_apart(together)
    if steps.tolerance is not None:
        alone = Items(field, None) if together.packs else None
        first = steps.first.detach().reshape(items.shape)
        run = adaptive_steps(
            PAIRS[steps.method], flat, items.detach(), asked, steps.tolerance, first=first, alone=alone, progress=progress
        )
        nodes = torch.stack(run.mesh.follow(solver, flat, items)) if keeps else run.nodes
    else:
        times = problem.times.detach()
        mesh = equal_steps(times if times.ndim == 1 else times.flatten(1), steps.dt)
        with torch.set_grad_enabled(keeps):
            nodes = torch.stack(mesh.follow(solver, flat, items, progress=progress))
        run = Run.of(mesh, nodes.detach(), asked)
    run = run.only(problem.begun.flatten())
    discrete = Discrete.of(solver, together, run.mesh, nodes)
    states = _differentiable(discrete, chosen, items, field, asked, steps.dt, steps.tolerance)
    states = problem.carried(states).where(run.alive(asked)[..., None], torch.nan)
    return Solution(
        times=problem.sense * asked.reshape(-1, *batch),
        states=states.reshape(-1, *problem.x0.shape),
        accepted=run.accepted.reshape(batch),
        rejected=run.rejected.reshape(batch),
        reached=problem.sense * run.reached.reshape(batch),
        codes=run.codes.reshape(batch),
        why=reasons(run, flat, asked, batch, steps.method, steps.dt, steps.tolerance, problem.begun.flatten(), problem.sense),
        settings={"method": steps.method, "dt": steps.dt, "gradient": chosen} | (vars(steps.tolerance) if by_tolerance else {}),
    )


def _differentiable(
    discrete: Discrete, way: str | None, x0: Tensor, field: Field, asked: Tensor, dt: float | None, tolerance: Tolerance | None
) -> Tensor:
    if way not in ("checkpoint", "adjoint"):
        return discrete.states()
    sweep = by_checkpoints if way == "checkpoint" else ByAdjoint(asked, dt, tolerance)
    return apart_from_graph(discrete, x0, Tensors.of(field), sweep)
