"""Initial value problems: one function for equal and adaptive steps."""

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
from separatrix.flows.gradients.gradient import apart_from_graph, choose_gradient
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
    r"""Solve  ẋ = f(x, t),  x(times[0]) = x0,  at the given times; differentiable in x0 and in the parameters of f.

    Without `dt`, each item takes its own adaptive steps, with error estimates e that satisfy  rms_i(e_i / (atol + rtol |x_i|)) < 1;
    the states at the given times are read from a polynomial, and an item that fails does not stop the others. With `dt`, all items
    take equal steps of at most dt that end at the given times.

    Args:
        field: x ↦ ẋ on states of shape (*batch, dim): an `nn.Module`, a function, a `Field`, or a `Flow`, whose method and step
            size are then the defaults. A module is used through its twin, in evaluation mode and in the dtype of x0; gradients
            reach its parameters. Parameters of a `Field` may have batch axes, which broadcast against those of x0.
        x0: states at the first time, shape (*batch, dim). Or structured states: tuples, dictionaries and other containers of
            tensors, images, complex numbers; the field then takes and returns the same structure, and `states` has it too. In a
            batch, an item that is not finite stays NaN and the others are solved.
        times: increasing, or decreasing to go backwards; shape (times), or (times, *batch) if each item has its own. The first is
            the time of x0. They may carry a graph: the derivative in a time is the field there, and in the first one −∂x/∂x0 f.
        method: a name in `SOLVERS`. Adaptive steps need an embedded pair: "dopri5" or "tsit5"; "rodas5p" for stiff fields of up to
            a few hundred numbers. Default: "dopri5".
        dt: largest step size of equal steps. Default: adaptive steps.
        rtol, atol: relative and absolute tolerance of one step. Default of `atol`: rtol / 1000 times the largest size that the
            number has had so far, so that the unit does not matter.
        max_steps: maximum number of trial steps per item.
        max_step: largest adaptive step. Set it below the length of pulses in the field, which longer steps could miss.
        gradient: how derivatives are taken. "backpropagation": exact for the discrete solution, stores every intermediate result,
            can be differentiated again; if the field cuts its graph, the gradient of the rest, with a warning. "checkpoint": the
            same values, stores only the states between steps. "adjoint": a second equation solved backwards, accurate to the
            tolerance. Default: "checkpoint" for adaptive steps; "backpropagation" for equal steps, and for functions that close
            over a tensor that requires a gradient.
        time_dependent: call `field(x, t)`; t is a tensor of shape (*batch), or a scalar in equal steps that all items share.
        batch_axes: number of leading axes of x0 that are the batch. Default: all but the last for a tensor; 0 for containers, whose
            tensors then form one state and share their steps.
        progress: show a progress bar.
        throw: raise instead of marking items that diverged or did not converge.

    Returns:
        Solution, with `states` of shape (times, *batch, dim); StructuredSolution if x0 is structured.

    Raises:
        InputError: times that neither increase nor decrease, tolerances out of range, an unknown method or gradient; adaptive steps
            or the adjoint for a field in which items depend on each other.
        ShapeError: the velocities differ in shape from the states.
        UnsupportedModuleError: the field cuts the graph of its derivative, and a gradient is needed.
        DivergedError, NotConvergedError: an item failed and `throw` is set.
    Limits: a field on float32 states gets float32 times. Where the step size approaches the rounding of the time, a time-dependent
        field ends as `not_converged`; pass x0.double(), or begin at time 0.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.4; Hairer & Wanner 1996, II, IV.7; Lienen &
        Günnemann 2022, arXiv:2210.12375 (separate steps for each item).

    Example:
        >>> found = sx.solve(lambda x: -x, torch.tensor([1.0]).double(), [0.0, 1.0], rtol=1e-8)
        >>> print(f"{float(found.last):.6f}")  # exp(−1)
        0.367879
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
    ended.or_raise(throw)
    return found if form is None else StructuredSolution.of(found, form)


def _followed(
    given: Callable[..., Any], x0: Tensor, times: Any, form: Form | None, settings: dict[str, Any]
) -> tuple[Solution, Solution]:
    """The solution with the axes that vmap sees, if it is active, and with all axes explicit."""
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
    """The solution and its steps, if any were taken; `given` is the user's field."""
    if not bool(problem.begun.any()):
        return _ended(problem, how), None
    steps = Steps.of(problem, **how)
    return _solution(problem, steps, _gradient(given, problem, steps, gradient), progress)


def _ended(problem: Problem, how: dict[str, Any]) -> Solution:
    """The solution of a problem in which no item has a finite start."""
    times, none = problem.given_times, torch.zeros_like(problem.begun, dtype=torch.int64)
    return Solution(
        times=times,
        states=problem.x0.new_full((len(times), *problem.x0.shape), torch.nan),
        accepted=none,
        rejected=none,
        reached=torch.full_like(none, torch.nan, dtype=times.dtype),
        codes=torch.full_like(none, int(Status.DIVERGED), dtype=torch.int8),
        why=("No item was followed: no initial condition is finite.",),
        settings={name: how[name] for name in ("method", "dt")},
    )


def _gradient(given: Callable[..., Any], problem: Problem, steps: Steps, gradient: str | None) -> str | None:
    """The gradient method, checked against the field."""
    hides = bool(hidden(steps.first, lambda: problem.first_velocity(by_tolerance=steps.by_tolerance)))
    chosen = choose_gradient(gradient, problem.field, problem.begins(), steps.first, hidden=hides, by_tolerance=steps.by_tolerance)
    if chosen == "adjoint" and isinstance(SOLVERS[steps.method], Rosenbrock):
        raise InputError(
            f'gradient="adjoint" needs a method without time derivatives for the backward equation; {steps.method} takes them.\n'
            'Pass gradient="checkpoint", which is exact.'
        )
    if chosen is not None and not transformed():
        velocity = problem.velocity_at_first(by_tolerance=steps.by_tolerance)
        check_gradient(given, velocity, problem.x0, by_the_graph=gradient == "backpropagation")
    return chosen


def _solution(problem: Problem, steps: Steps, chosen: str | None, progress: bool) -> tuple[Solution, Run]:
    field, batch, requested, solver = problem.field, problem.batch, problem.requested, SOLVERS[steps.method]
    items, flat, keeps = problem.begins(), Items(field, batch), chosen == "backpropagation"
    alone_in_time = steps.by_tolerance or problem.times.ndim > 1
    probed = alone_in_time or chosen in ("checkpoint", "adjoint")
    together = Together.probe(field, batch, items.detach(), requested) if probed else Together.alone(field, batch)
    if alone_in_time or chosen == "adjoint":
        check_apart(together)
    if steps.tolerance is not None:
        alone = Items(field, None) if together.packs else None
        first = steps.first.detach().reshape(items.shape)
        run = adaptive_steps(
            PAIRS[steps.method], flat, items.detach(), requested, steps.tolerance, first=first, alone=alone, progress=progress
        )
        nodes = torch.stack(run.mesh.follow(solver, flat, items)) if keeps else run.nodes
    else:
        times = problem.times.detach()
        mesh = equal_steps(times if times.ndim == 1 else times.flatten(1), steps.dt)
        with torch.set_grad_enabled(keeps):
            nodes = torch.stack(mesh.follow(solver, flat, items, progress=progress))
        run = Run.of(mesh, nodes.detach(), requested)
    run = run.only(problem.begun.flatten())
    discrete = Discrete.of(solver, together, run.mesh, nodes)
    states = problem.carried(_differentiable(discrete, chosen, items, field, requested, steps.dt, steps.tolerance))
    states = states.where(run.alive(requested)[..., None], torch.nan)
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
    discrete: Discrete,
    gradient: str | None,
    x0: Tensor,
    field: Field,
    requested: Tensor,
    dt: float | None,
    tolerance: Tolerance | None,
) -> Tensor:
    if gradient not in ("checkpoint", "adjoint"):
        with torch.set_grad_enabled(gradient == "backpropagation"):
            return discrete.states()
    sweep = by_checkpoints if gradient == "checkpoint" else ByAdjoint(requested, dt, tolerance)
    return apart_from_graph(discrete, x0, Tensors.of(field), sweep)
