"""Location of an event within its step: on the polynomial of the step, with exact derivatives."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.flows.events.bracket import PARTS, Bracket, columns
from separatrix.flows.events.problem import Problem
from separatrix.flows.events.root import SEARCH, root
from separatrix.flows.events.surface import Surface
from separatrix.flows.field import Field
from separatrix.flows.methods import Rosenbrock
from separatrix.flows.methods.solver import Solver
from separatrix.flows.steps.mesh import Run
from separatrix.flows.steps.piece import Piece, Substeps

ROUNDINGS = 4  # rounding errors of the time within which an event is located
NEWTON = 4  # steps from the zero of a polynomial to that of the solution

# Note [Derivative of an event]
# The time of an event depends on θ, since  g(x(t*, θ), t*) = 0  for all θ:  dt*/dθ = −(∂g/∂θ) / ġ.  One recorded Newton step
# t ← t − g(x(t, θ), t) / ġ  from the zero leaves t unchanged and has that derivative; a second one makes second derivatives exact
# too. ġ comes from the polynomial of the step, so that these are the derivatives of the computed orbit, not of the true one.


class Located(NamedTuple):
    """The time and the state of each event, and dg/dt there."""

    t: Tensor
    x: Tensor
    speed: Tensor


def located(
    field: Field, surface: Surface, method: Solver, run: Run, problem: Problem, bracket: Bracket, tol: float | None
) -> Located:
    """The events, with their derivatives. See Note [Derivative of an event]."""
    shift = (problem.begin - problem.begin.detach())[:, None]  # 0, which carries the start's derivative
    t, h = (part.gather(0, bracket.step[None, :, None])[0] for part in columns(run.mesh, run.nodes, torch.float64))
    x = _before(field, method, run, problem, bracket, shift)
    piece = Piece.of(method, field, x, (t + shift).to(x), h.to(x))
    share = _root(surface, piece.detach(), t.to(x), h.to(x), bracket, tol)
    slope = torch.ones_like(share)
    stiff = isinstance(method, Rosenbrock)
    piece = Substeps(method, field, x, (t + shift).to(x), h.to(x)) if stiff else piece
    for _ in range(NEWTON if stiff else 2):
        value, slope = surface.along(piece.at(share), (t + shift).to(x) + share * h.to(x), piece.slope(share), h.to(x))
        move = value / slope.where(slope != 0, torch.inf)
        share = share - move.clamp(-1 / PARTS, 1 / PARTS)[:, None]
    return Located((t + shift + share * h)[:, 0], piece.at(share), slope / h[:, 0].where(h[:, 0] > 0, 1.0))


def _before(field: Field, method: Solver, run: Run, problem: Problem, bracket: Bracket, shift: Tensor) -> Tensor:
    """The states before the steps of the events; with a graph, recomputed by the steps up to there."""
    if not torch.is_grad_enabled():
        return run.nodes.gather(0, bracket.step[None, :, None].expand_as(run.nodes[:1]))[0]
    x = problem.x0
    for i, (t, h) in enumerate(run.mesh.steps[: int(bracket.step.amax())]):
        length = torch.as_tensor(h).where((bracket.step > i)[:, None], 0.0)
        x = method.step(field, x, (t + shift).to(x), length.to(x))
    return x


@torch.no_grad()
def _root(surface: Surface, piece: Piece, t: Tensor, h: Tensor, bracket: Bracket, tol: float | None) -> Tensor:
    """The fraction of the step at which g is zero, (items, 1)."""

    def value(share: Tensor) -> Tensor:
        return surface.value(piece.at(share[:, None]), t + share[:, None] * h)

    least = ROUNDINGS * torch.finfo(t.dtype).eps * torch.maximum(t.abs() / h.abs().clamp(min=torch.finfo(t.dtype).tiny), h * 0 + 1)
    near = (least if tol is None else torch.maximum(least, tol / h))[:, 0]
    a, b = _off_the_start(value, bracket)
    return root(value, (a, b), (value(a), value(b)), near)[:, None]


def _off_the_start(value: Callable[[Tensor], Tensor], bracket: Bracket) -> tuple[Tensor, Tensor]:
    """A bracket with opposite signs: for an item that starts on the surface, the lower end is moved off it by bisection."""
    a, b = bracket.low, bracket.high
    past = value(b).sign()
    on = bracket.found & (past != 0) & (value(a).sign() != -past)
    near = b
    for _ in range(SEARCH):
        if not bool(on.any()):
            break
        near = torch.where(on, (a + near) / 2, near)
        still = on & (value(near).sign() == past)
        b, a, on = torch.where(still, near, b), torch.where(on & ~still, near, a), still
    return a, b
