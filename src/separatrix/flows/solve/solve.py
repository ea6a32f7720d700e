"""Initial value problems: one function for equal steps and for steps by tolerance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from separatrix.core.errors import InputError
from separatrix.core.result import Status
from separatrix.core.structure import Nested
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow
from separatrix.flows.gradients.adjoint import ByAdjoint
from separatrix.flows.gradients.checkpoint import by_checkpoints
from separatrix.flows.gradients.gradient import apart_from_graph, way
from separatrix.flows.gradients.lost import check_gradient
from separatrix.flows.gradients.mapped import Mapped, Opened, transformed
from separatrix.flows.methods import PAIRS, SOLVERS, Rosenbrock
from separatrix.flows.solution import Solution, StructuredSolution
from separatrix.flows.solve.compiling import BREAK, check_traceable, uncompiled
from separatrix.flows.solve.diagnosis import reasons
from separatrix.flows.solve.problem import Problem, Steps
from separatrix.flows.states import Form, Structured
from separatrix.flows.steps.adaptive import adaptive_steps
from separatrix.flows.steps.checks import (
    check_apart,
    check_method,
    check_no_longest,
    raise_failure,
)
from separatrix.flows.steps.discrete import Discrete
from separatrix.flows.steps.items import Items, Together
from separatrix.flows.steps.mesh import Run, equal_steps
from separatrix.flows.steps.tensors import Tensors, hidden
from separatrix.flows.steps.tolerance import Tolerance

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
    max_step: float | None = None,
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
        max_step: the longest step by tolerance: not longer than a pulse that the field gives, which steps could leap over.
        gradient: "backpropagation" (exact for the discrete solution, keeps what every step computes, can be differentiated again;
            of a field that cuts its graph what is left, with a warning), "checkpoint" (the same numbers, keeps the
            states of the steps only) or "adjoint" (that of the equation itself, by a second one solved backwards; right to the
            tolerance). Default: "checkpoint" for steps by tolerance, "backpropagation" for equal steps and for functions that hide
            a tensor with a gradient.
        time_dependent: call `field(x, t)`; t is a tensor of shape (*batch), or without axes in equal steps that all share.
        batch_axes: how many leading axes of x0 are the batch. Default: all but the last of a tensor; none of containers, whose
            tensors are then one state together, in steps that they share.
        progress: show how far the slowest item has come.
        throw: raise where an item fails.

    Raises:
        InputError: times that neither increase nor decrease, tolerances out of range, an unknown method or gradient; steps by
            tolerance, or the adjoint, of a field whose items depend on each other.
        ShapeError: the field changes the width.
        UnsupportedModuleError: the field cuts its derivative from the graph, and a gradient is asked.
        DivergedError, NotConvergedError: with `throw`.
    Limits: a float32 state is told float32 times: where steps come near the rounding of the time, a field that looks at it ends
        `not_converged`; pass x0.double(), or begin at 0.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.4; Hairer & Wanner 1996, II, IV.7; Lienen &
        Günnemann 2022, arXiv:2210.12375 (steps of each item).
    """
    settings = {"method": method, "dt": dt, "gradient": gradient, "time_dependent": time_dependent, "progress": progress}
    limits = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "max_step": max_step}
    if torch.compiler.is_dynamo_compiling():
        torch._dynamo.graph_break(msg=BREAK)
        return uncompiled(solve)(field, x0, times, batch_axes=batch_axes, throw=throw, **settings, **limits)
    check_traceable()
    if isinstance(field, Flow):
        settings |= {"method": method or field.method, "dt": field.dt if method is None and dt is None else dt}
        field = field.field
    settings["method"] = method = settings["method"] or "dopri5"
    check_method(method, settings["dt"])
    check_no_longest(max_step, settings["dt"])
    settings["tolerance"] = Tolerance(**limits)
    form = Form.of(x0, batch_axes)
    if form is not None:
        x0 = form.pack(x0)
    found, ended = _followed(field, x0, times, form, settings)
    if throw:
        raise_failure(ended)
    return found if form is None else StructuredSolution.of(found, form)


def _followed(
    given: Callable[..., Any], x0: Tensor, times: Any, form: Form | None, settings: dict[str, Any]
) -> tuple[Solution, Solution]:
    """The solution as vmap sees it, if it is at work, and with its axes laid open."""
    timed, field = settings.pop("time_dependent"), given
    if form is not None:
        field = Structured(given, form, time_dependent=timed, in_one_batch=form.batch_axes == 1)
    mapped = Mapped.of(field, x0, times, timed, by_tolerance=settings["dt"] is None)
    if mapped is None:
        found = _solved(given, Problem.of(field, x0, times, timed), **settings)[0]
        return found, found
    with mapped.opened() as (open_field, open_x0):
        opened, run = _solved(given, Problem.of(open_field, open_x0, mapped.open_times, True), **settings)
    return mapped.solution(opened, run, SOLVERS[settings["method"]]), opened


def _solved(
    given: Callable[..., Any], problem: Problem, *, gradient: str | None, progress: bool, **how: Any
) -> tuple[Solution, Run | None]:
    """The solution and its steps, if any were taken; `given` is the field as the user has it."""
    if not bool(problem.begun.any()):
        return _ended(problem, how), None
    steps = Steps.of(problem, **how)
    return _solution(problem, steps, _way(given, problem, steps, gradient), progress)


def _ended(problem: Problem, how: dict[str, Any]) -> Solution:
    """Of items all of which had ended before."""
    times, none = problem.given_times, torch.zeros_like(problem.begun, dtype=torch.int64)
    return Solution(
        times=times,
        states=problem.x0.new_full((len(times), *problem.x0.shape), torch.nan),
        accepted=none,
        rejected=none,
        reached=torch.full_like(none, torch.nan, dtype=times.dtype),
        codes=torch.full_like(none, int(Status.DIVERGED), dtype=torch.int8),
        why=("No item is followed: none begins at finite numbers.",),
        settings={name: how[name] for name in ("method", "dt")},
    )


def _way(given: Callable[..., Any], problem: Problem, steps: Steps, gradient: str | None) -> str | None:
    """How the solution is differentiated, where the field's own gradient allows it."""
    hides = bool(hidden(steps.first, lambda: problem.first_velocity(by_tolerance=steps.by_tolerance)))
    chosen = way(gradient, problem.field, problem.begins(), steps.first, hidden=hides, by_tolerance=steps.by_tolerance)
    if chosen == "adjoint" and isinstance(SOLVERS[steps.method], Rosenbrock):
        raise InputError(
            f'gradient="adjoint" solves a second equation backwards, which {steps.method} would have to differentiate by time.\n'
            'Pass gradient="checkpoint", which is exact.'
        )
    if chosen is not None and not transformed():
        velocity = problem.velocity_at_first(by_tolerance=steps.by_tolerance)
        check_gradient(given, velocity, problem.x0, by_the_graph=gradient == "backpropagation")
    return chosen


def _solution(problem: Problem, steps: Steps, chosen: str | None, progress: bool) -> tuple[Solution, Run]:
    field, batch, asked, solver = problem.field, problem.batch, problem.asked, SOLVERS[steps.method]
    items, flat, keeps = problem.begins(), Items(field, batch), chosen == "backpropagation"
    alone_in_time = steps.by_tolerance or problem.times.ndim > 1
    probed = alone_in_time or chosen in ("checkpoint", "adjoint")
    together = Together.probe(field, batch, items.detach(), asked) if probed else Together.alone(field, batch)
    if alone_in_time or chosen == "adjoint":
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
    states = problem.carried(_differentiable(discrete, chosen, items, field, asked, steps.dt, steps.tolerance))
    states = states.where(run.alive(asked)[..., None], torch.nan)
    found = Solution(
        times=problem.given_times,
        states=states.reshape(-1, *problem.x0.shape),
        accepted=run.accepted.reshape(batch),
        rejected=run.rejected.reshape(batch),
        reached=problem.sense * run.reached.reshape(batch),
        codes=run.codes.reshape(batch),
        why=() if isinstance(field, Opened) else reasons(run, flat, problem, steps),
        settings={"method": steps.method, "dt": steps.dt, "gradient": chosen} | (vars(steps.tolerance) if steps.tolerance else {}),
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
