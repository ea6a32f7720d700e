"""Events: the first time at which a function of the state is zero, located on the step's own polynomial, with exact gradients."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from separatrix.core.checks import as_numbers, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.first_step import NOT_THE_FUNCTIONS
from separatrix.core.result import Status
from separatrix.core.tangent import pushforward
from separatrix.core.twin import twin
from separatrix.flows.events.arrival import Arrival
from separatrix.flows.field import Field, FunctionField, WrappedField, as_field
from separatrix.flows.flow import Flow
from separatrix.flows.gradients.mapped import lanes_refused
from separatrix.flows.methods import PAIRS, SOLVERS, Rosenbrock
from separatrix.flows.methods.solver import Solver, Time
from separatrix.flows.solve.solve import MAX_STEPS
from separatrix.flows.steps.adaptive import adaptive_steps
from separatrix.flows.steps.checks import (
    as_state,
    check_apart,
    check_method,
    check_no_longest,
    check_tolerance,
    failed_call,
    first_velocity,
    raise_failure,
)
from separatrix.flows.steps.items import Items, Together, mixed, near, within
from separatrix.flows.steps.mesh import Mesh, Run
from separatrix.flows.steps.piece import Piece, Substeps
from separatrix.flows.steps.tolerance import Tolerance

PARTS = 8  # of a step, at whose ends g is looked at
ROUNDINGS = 4  # of the time: what is located as well as can be
ON = 16  # roundings of the state within which an item is on the surface
NEWTON = 4  # steps from the zero of a polynomial to that of the solution
SEARCH = 100  # trials; bisection alone takes 50
AT_ONCE = 1_000_000  # numbers in the states that are looked at together

# Note [Derivative of an event]
# Where an event is moves with θ, since  g(x(t*, θ), t*) = 0  whatever θ is:  dt*/dθ = −(∂g/∂θ) / ġ.  One Newton step
# t ← t − g(x(t, θ), t) / ġ  from the zero, recorded, moves nothing and has that derivative; a second one makes second derivatives
# right too. ġ is that of the step's polynomial, so that these are the derivatives of what is computed, not of the true orbit.


@lanes_refused("sx.solve_until")
def solve_until(
    field: Callable[..., Tensor],
    x0: Tensor,
    event: Callable[..., Tensor],
    *,
    max_time: Any,
    start: Any = 0.0,
    direction: int = 0,
    tol: float | None = None,
    method: str | None = None,
    dt: float | None = None,
    rtol: float = 1e-5,
    atol: float | None = None,
    max_steps: int = MAX_STEPS,
    max_step: float | None = None,
    time_dependent: bool = False,
    throw: bool = False,
) -> Arrival:
    r"""The first t* > start at which  g(x(t*), t*) = 0  along  ẋ = f(x, t),  x(start) = x0;  with x(t*), both differentiable.

    Each item is followed by itself, and no further than the step in which its event lies. There the event is located on the
    polynomial of the step by a bracketing method. Derivatives are those of the implicit function theorem,
    dt*/dθ = −(∂g/∂θ) / ġ, in x0, start, and all that f and g depend on; first and second ones are exact.

    Args:
        field: as in `sx.solve`.
        x0: states at the start, shape (*batch, dim).
        event: g, x ↦ a number for each item, shape (*batch) or (*batch, 1); an `nn.Module` or a function. Its x has the batch as
            one axis, and may have other axes before it.
        max_time: the time up to which an event is looked for; a number, or shape (*batch).
        start: the time of x0; a number, or shape (*batch), which may carry a graph, as the time of the event before.
        direction: +1 for g rising through 0, −1 for falling, 0 for both.
        tol: by which t* may be off, on the polynomial. Default: to rounding.
        method, dt, rtol, atol, max_steps, max_step: of the steps; see `sx.solve`. With `dt` any method of `SOLVERS`, on the cubic
            through the ends of a step; each step is dt long but the last before max_time.
        time_dependent: call `field(x, t)` and `event(x, t)`.
        throw: raise where an item fails.

    Returns:
        Arrival. An item without an event is `ok`, `found` False, and its time and state are NaN. An item that starts on the
        surface, to `tol` in time, leaves it first. A start that is not finite has no event: a loop over events goes on without.

    Raises:
        InputError: a time, direction or tolerance out of range, an unknown method.
        ShapeError: the field changes the width, or g is not one number for each item.
        DivergedError, NotConvergedError: with `throw`.

    Limits: g is looked at at the ends of eighths of a step: two zeros nearer to each other may be missed together, take a smaller
        dt, max_step or tolerance. Where the orbit only touches the surface (`speeds` near 0) the time is good to the square root
        of the error, is found or not by chance, and has no derivative.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.6; Chen, Amos & Nickel 2021, ICLR,
        arXiv:2011.03902; the search as Chandrupatla 1997, Adv. Eng. Softw. 28, 145.
    """
    if isinstance(field, Flow):
        method, dt = method or field.method, field.dt if method is None and dt is None else dt
        field = field.field
    method = method or "dopri5"
    _check(direction, tol, method, dt, max_steps)
    check_no_longest(max_step, dt)
    tolerance = Tolerance(rtol, atol, max_steps, max_step)
    if any(isinstance(part, Tensor) and forward_ad.unpack_dual(part).tangent is not None for part in (x0, start)):
        raise InputError(
            "torch.autograd.forward_ad does not pass through solve_until.\nTake torch.func.jvp or jacfwd; or gradients backwards."
        )
    own = as_field(field, time_dependent=time_dependent)
    x0 = as_state(x0, own)
    batch = x0.shape[:-1]
    if dt is None:
        check_tolerance(x0, tolerance)
    own = twin(own, dtype=x0.dtype, device=x0.device)
    ready = _Unfolded(own, batch)
    problem = _Problem.of(x0, start, max_time)
    first_velocity(own, problem.x0.reshape(x0.shape), problem.begin.detach().reshape(1, *batch), by_tolerance=True)
    surface = Surface(twin(FunctionField(event, time_dependent=time_dependent), dtype=x0.dtype, device=x0.device))
    surface.check(problem)
    side = surface.side(ready, problem, tol)
    watch = _Watch(surface, side, direction)
    if dt is None:
        run = _by_tolerance(ready, problem, watch, method, tolerance)
    else:
        run = _in_equal_steps(ready, problem, watch, SOLVERS[method], dt, max_steps)
    bracket = _first_bracket(ready, surface, SOLVERS[method], run, side, direction)
    located = _located(ready, surface, SOLVERS[method], run, problem, bracket, tol)
    settings = {"method": method, "dt": dt, **vars(tolerance), "direction": direction, "tol": tol}
    found = problem.arrival(run, bracket, located, batch, settings)
    if throw:
        raise_failure(found)
    return found


class _Unfolded(WrappedField):
    """A field whose items have axes of their own, on items that lie along one axis, the last before the state.

    Args:
        field: any field.
        batch: the items' axes.
    """

    def __init__(self, field: Field, batch: torch.Size) -> None:
        super().__init__(field)
        self.batch = batch

    def inward(self, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        """States (*times, items, dim), each with its time, on the items' own axes."""
        return self._unfolded(x), self._unfolded(torch.as_tensor(t).to(x).expand(*x.shape[:-1], 1))[..., 0]

    def outward(self, value: Tensor, like: Tensor) -> Tensor:
        """On one axis again."""
        return value.reshape(like.shape)

    def _unfolded(self, along: Tensor) -> Tensor:
        return along if len(self.batch) < 2 else along.unflatten(-2, self.batch)


class _Problem(NamedTuple):
    """Items that begin somewhere, some time, and end some time; those that cannot begin are stood in for by one that can.

    Args:
        x0: shape (items, dim).
        begin, end: times, shape (items), float64.
        given: which items are not stood in for.
        finite: which began at finite numbers.
    """

    x0: Tensor
    begin: Tensor
    end: Tensor
    given: Tensor
    finite: Tensor

    @classmethod
    def of(cls, x0: Tensor, start: Any, max_time: Any) -> "_Problem":
        """Of what users give."""
        items = x0.reshape(-1, x0.shape[-1])
        begin, end = (_times(name, value, x0) for name, value in (("start", start), ("max_time", max_time)))
        finite = torch.isfinite(items).all(-1) & torch.isfinite(begin)
        if not bool(torch.isfinite(end).all()):
            raise InputError("max_time is not finite; it is the time up to which an event is looked for.")
        late = finite & (end < begin)
        if bool(late.any()):
            raise InputError(
                f"max_time is {float(end[late][0]):g}, before the start at {float(begin[late][0]):g}.\n"
                "Both are times, not lengths of time: pass max_time=start + how long to look."
            )
        given = finite & (end > begin)
        some = int(given.to(torch.int8).argmax()) if bool(given.any()) else None
        parts = (items, begin, end)
        blank = (torch.zeros_like(items[:1]), torch.zeros_like(begin[:1]), torch.ones_like(end[:1]))
        stand_in = blank if some is None else tuple(part[some : some + 1].detach() for part in parts)
        kept = (part.where(given.reshape(-1, *[1] * (part.ndim - 1)), other) for part, other in zip(parts, stand_in, strict=True))
        return cls(*kept, given, finite)

    def arrival(self, run: Run, bracket: "_Bracket", located: "_Located", batch: torch.Size, settings: dict[str, Any]) -> Arrival:
        """The result, without those that never began."""
        found = bracket.found & self.given
        codes = run.codes.where(~found & self.given, int(Status.OK)).where(self.finite, int(Status.DIVERGED))
        return Arrival(
            times=located.t.where(found, torch.nan).reshape(batch),
            states=located.x.where(found[:, None], torch.nan).reshape(*batch, -1),
            found=found.reshape(batch),
            speeds=located.speed.where(found, torch.nan).reshape(batch),
            accepted=run.accepted.where(self.given, 0).reshape(batch),
            rejected=run.rejected.where(self.given, 0).reshape(batch),
            reached=located.t.detach().where(found, run.reached.where(self.given, torch.nan)).reshape(batch),
            codes=codes.reshape(batch),
            settings=settings,
        )


class Surface(NamedTuple):
    """Where g is zero.

    Args:
        function: g, as a field that gives (*batch) or (*batch, 1).
    """

    function: Field

    def value(self, x: Tensor, t: Tensor) -> Tensor:
        """g(x, t), shape (*batch), of x of shape (*batch, dim) and t of shape (*batch, 1)."""
        value = self.function(x, t.expand(*x.shape[:-1], 1)[..., 0])
        return value if value.shape == x.shape[:-1] else value[..., 0]

    def along(self, x: Tensor, t: Tensor, dx: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """g and its derivative along (dx, dt), shapes (*batch)."""
        point, way = torch.cat([x, t], -1), torch.cat([dx, dt], -1)
        value, slope = pushforward(lambda y: self.value(y[..., :-1], y[..., -1:])[..., None], point, way[..., None, :])
        return value[..., 0], slope[..., 0, 0]

    @torch.no_grad()
    def side(self, field: Field, problem: _Problem, tol: float | None) -> Tensor:
        """The sign of g where items begin; on the surface the sign that it has just after. Shape (items)."""
        x, t = problem.x0, problem.begin[:, None].to(problem.x0)
        velocity = field(x, t)
        value, slope = self.along(x, t, velocity, torch.ones_like(t))
        own = x.abs().amax(-1) / velocity.abs().amax(-1)  # the time in which the state moves by its own size
        near = ON * torch.finfo(x.dtype).eps * torch.fmax(problem.begin.abs().to(x), own)
        on = value.abs() <= slope.abs() * near.clamp(min=0.0 if tol is None else tol)
        return value.sign().where(~on, slope.sign())

    @torch.no_grad()
    def check(self, problem: _Problem) -> None:
        """Refuse a g that is not one number for each item."""
        x, t = problem.x0, problem.begin[:, None].to(problem.x0)
        trial = x.clone()
        try:
            value = self.function(trial, t[:, 0])
        except NOT_THE_FUNCTIONS:
            raise
        except Exception as error:  # the user's code: whatever it raises is the message
            raise failed_call(self.function, x, t[:, 0], error, "the event") from error
        if not isinstance(value, Tensor) or value.shape not in (x.shape[:-1], (*x.shape[:-1], 1)):
            shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ShapeError(
                f"the event takes states of shape {tuple(x.shape)} to {shown}, not one number for each of the {len(x)}.\n"
                "Index the last axis: event=lambda x: x[..., 0]."
            )
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise InputError(
                f"the event is {kind}, not a number that goes through 0.\nPass g itself, x[..., 0], not x[..., 0] > 0."
            )
        if not torch.equal(trial, x):
            raise InputError(
                "the event changes its argument in place: it wrote to the state.\nReturn a new tensor: x - 2, not x.sub_(2)."
            )
        places, moments = near(x), within(torch.stack([problem.begin, problem.end]).detach().to(x))
        values = tuple(self.value(*at)[:, None] for at in zip(places, moments, strict=True))
        if mixed(lambda x, t: self.value(x, t)[:, None], places, moments, values):
            raise InputError(
                "the event of one item depends on the states or times of others.\n"
                "Index the last axis, x[..., 0]; a time has shape (*batch)."
            )


class _Watch:
    """Told of each item's states one after the other, it says which have crossed the surface the asked way.

    Args:
        surface: where g is zero.
        side: the last sign of g that was not 0, shape (items).
        direction: asked.
    """

    def __init__(self, surface: Surface, side: Tensor, direction: int) -> None:
        self.surface, self.side, self.direction = surface, side, direction

    def __call__(self, moved: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """Which of the items that moved to x, (items, dim), at t, (items), have crossed."""
        now = self.surface.value(x, t[:, None].to(x)).sign()
        arrived = moved & _crosses(self.side, now, self.direction)
        self.side = now.where(moved & now.isfinite() & (now != 0), self.side)
        return arrived


def _crosses(side: Tensor, now: Tensor, direction: int) -> Tensor:
    """Whether the sign of g has changed the asked way; a zero is a change."""
    changed = (side != 0) & (now != side) & now.isfinite()
    return changed & (side == -direction) if direction else changed


def _by_tolerance(field: _Unfolded, problem: _Problem, watch: _Watch, method: str, tolerance: Tolerance) -> Run:
    times, x0 = torch.stack([problem.begin, problem.end]).detach(), problem.x0.detach()
    together = Together.probe(field.field, tuple(field.batch), x0, times)
    check_apart(together)
    alone = Items(field.field, None) if together.packs else None
    return adaptive_steps(PAIRS[method], field, x0, times, tolerance, alone=alone, until=watch)


@torch.no_grad()
def _in_equal_steps(field: Field, problem: _Problem, watch: _Watch, method: Solver, dt: float, max_steps: int) -> Run:
    """Steps of dt, the last one up to the end, each item until it arrives; one whose step is not finite does not take it."""
    method.check_dim(problem.x0.shape[-1])
    x, begin, end = problem.x0.detach(), problem.begin.detach(), problem.end
    counts = ((end - begin) / dt - 1e-9).ceil().clamp(min=1)
    going, codes = torch.ones_like(problem.given), torch.zeros_like(begin, dtype=torch.int8)
    nodes, steps = [x], []
    for i in range(min(int(counts.amax()), max_steps)):
        t = begin + i * dt
        h = torch.where(i < counts - 1, dt, end - t)
        after = method.step(field, x, t[:, None].to(x), h.where(going, 0.0)[:, None].to(x))
        moved = going & torch.isfinite(after).all(-1)
        codes = codes.where(~going | moved, int(Status.DIVERGED))
        x = after.where(moved[:, None], x)
        nodes.append(x)
        steps.append((t[:, None], h.where(moved, 0.0)[:, None]))
        going = moved & ~watch(moved, t + h, x) & (i < counts - 1)
        if not bool(going.any()):
            break
    codes = codes.where(~going | (counts <= max_steps), int(Status.NOT_CONVERGED))
    lengths = torch.stack([length[:, 0] for _, length in steps])
    taken, rejected = (lengths > 0).sum(0), torch.zeros_like(codes, dtype=torch.int64)
    return Run(Mesh(steps, torch.zeros(0)), torch.stack(nodes), codes, taken, rejected, begin + lengths.sum(0))


class _Bracket(NamedTuple):
    """Of each item the step in which its event lies, the shares of it between which it does, and whether there is one."""

    step: Tensor
    low: Tensor
    high: Tensor
    found: Tensor


@torch.no_grad()
def _first_bracket(field: Field, surface: Surface, method: Solver, run: Run, side: Tensor, direction: int) -> _Bracket:
    """The first part of a step over which g changes its sign the asked way; steps are looked at some at a time."""
    t, h = _columns(run.mesh, run.nodes)
    items = len(side)
    step, part, found = torch.zeros_like(side, dtype=torch.int64), torch.zeros_like(side, dtype=torch.int64), side != side
    share = torch.arange(1, PARTS + 1, dtype=run.nodes.dtype, device=side.device).reshape(-1, 1, 1) / PARTS
    some = max(1, AT_ONCE // (PARTS * run.nodes[0].numel()))
    for first in range(0, len(t), some):
        chosen = slice(first, first + some)
        piece = Piece.of(method, field, run.nodes[:-1][chosen], t[chosen], h[chosen])
        piece = Piece(tuple(c[:, None] for c in piece.coefficients))
        signs = surface.value(piece.at(share), t[chosen, None] + share * h[chosen, None]).sign().reshape(-1, items)
        sides = _filled(side, signs)
        crosses = _crosses(sides[:-1], signs, direction) & ~found
        here, place = crosses.any(0), crosses.to(torch.int8).argmax(0)
        step, part = torch.where(here, first + place // PARTS, step), torch.where(here, place % PARTS, part)
        found, side = found | here, sides[-1]
        if bool(found.all()):
            break
    low = part.to(run.nodes) / PARTS
    return _Bracket(step, low, torch.where(found, low + 1 / PARTS, low), found)


def _filled(side: Tensor, signs: Tensor) -> Tensor:
    """The last sign that was not 0 before each, (times, items), and after the last."""
    known = torch.cat([side[None], signs.nan_to_num(0.0)])
    index = torch.arange(len(known), device=known.device)[:, None].expand_as(known)
    return known.gather(0, torch.where(known != 0, index, 0).cummax(0).values)


class _Located(NamedTuple):
    """The time and the state of each event, and dg/dt there."""

    t: Tensor
    x: Tensor
    speed: Tensor


def _located(
    field: Field, surface: Surface, method: Solver, run: Run, problem: _Problem, bracket: _Bracket, tol: float | None
) -> _Located:
    """The events with their derivatives. See Note [Derivative of an event]."""
    shift = (problem.begin - problem.begin.detach())[:, None]  # 0, which carries the start's derivative
    t, h = (part.gather(0, bracket.step[None, :, None])[0] for part in _columns(run.mesh, run.nodes, torch.float64))
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
    return _Located((t + shift + share * h)[:, 0], piece.at(share), slope / h[:, 0].where(h[:, 0] > 0, 1.0))


def _before(field: Field, method: Solver, run: Run, problem: _Problem, bracket: _Bracket, shift: Tensor) -> Tensor:
    """The states before the steps of the events; with a graph the steps up to there are taken again, and no others."""
    if not torch.is_grad_enabled():
        return run.nodes.gather(0, bracket.step[None, :, None].expand_as(run.nodes[:1]))[0]
    x = problem.x0
    for i, (t, h) in enumerate(run.mesh.steps[: int(bracket.step.amax())]):
        length = torch.as_tensor(h).where((bracket.step > i)[:, None], 0.0)
        x = method.step(field, x, (t + shift).to(x), length.to(x))
    return x


@torch.no_grad()
def _root(surface: Surface, piece: Piece, t: Tensor, h: Tensor, bracket: _Bracket, tol: float | None) -> Tensor:
    """The share at which g is zero, (items, 1), by inverse quadratic interpolation where that is safe, else by bisection."""

    def value(share: Tensor) -> Tensor:
        return surface.value(piece.at(share[:, None]), t + share[:, None] * h)

    least = ROUNDINGS * torch.finfo(t.dtype).eps * torch.maximum(t.abs() / h.abs().clamp(min=torch.finfo(t.dtype).tiny), h * 0 + 1)
    near = (least if tol is None else torch.maximum(least, tol / h))[:, 0]
    a, b = _off_the_start(value, bracket)
    return _chandrupatla(value, a, b, near)[:, None]


def _off_the_start(value: Callable[[Tensor], Tensor], bracket: _Bracket) -> tuple[Tensor, Tensor]:
    """Shares with g on both sides: an item that starts on the surface is first followed off it, by halves of the way."""
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


def _chandrupatla(value: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, near: Tensor) -> Tensor:
    """A zero between a and b, where the values differ in sign, to within `near`."""
    c, t = a, torch.full_like(a, 0.5)
    at_a, at_b = value(a), value(b)
    at_c = at_a
    best = torch.where(at_a.abs() < at_b.abs(), a, b)
    going = (a != b) & (at_b != 0)
    for _ in range(SEARCH):
        if not bool(going.any()):
            break
        x = a + t * (b - a)
        at_x = value(x)
        same = at_x.sign() == at_a.sign()
        c, at_c = torch.where(same, a, b), torch.where(same, at_a, at_b)
        b, at_b = torch.where(same, b, a), torch.where(same, at_b, at_a)
        a, at_a = x, at_x
        best = torch.where(going, torch.where(at_a.abs() < at_b.abs(), a, b), best)
        least = near / (b - c).abs()
        going = going & (least <= 0.5) & (at_a != 0) & (at_b != 0)
        t = _next_share(a, b, c, at_a, at_b, at_c).clamp(min=least, max=1 - least)
    return best


def _next_share(a: Tensor, b: Tensor, c: Tensor, at_a: Tensor, at_b: Tensor, at_c: Tensor) -> Tensor:
    """How far from a to b the next trial is: where the inverse parabola through the three points is zero, if it is monotone."""
    xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
    inverse = at_a / (at_b - at_a) * at_c / (at_b - at_c) + (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
    return inverse.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi), 0.5)


def _columns(mesh: Mesh, nodes: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """The begins and lengths of all steps, each (steps, items, 1)."""
    t, h = (torch.stack([torch.as_tensor(step[i]) for step in mesh.steps]) for i in (0, 1))
    return t.to(nodes.device, dtype or nodes.dtype), h.to(nodes.device, dtype or nodes.dtype)


def _times(name: str, value: Any, x0: Tensor) -> Tensor:
    """A time of each item, float64, shape (items)."""
    batch = x0.shape[:-1]
    time = value if isinstance(value, Tensor) else as_numbers(name, value)
    time = time.to(x0.device, torch.float64)
    if time.ndim and time.shape != batch:
        raise ShapeError(
            f"{name} has shape {tuple(time.shape)}, but x0 has the batch {tuple(batch)}.\nPass a number, or one for each item."
        )
    return time.expand(batch).reshape(-1)


def _check(direction: int, tol: float | None, method: str, dt: float | None, max_steps: int) -> None:
    if isinstance(direction, Tensor) or direction not in (-1, 0, 1):
        raise InputError(f"direction is {direction}; it is +1 for g rising through 0, −1 for falling, 0 for both.")
    if tol is not None and not 0 <= tol < math.inf:
        raise InputError(f"tol is {tol:g}; it is a time of at least 0, by which the event's may be off.")
    if check_whole("max_steps", max_steps) < 1:
        raise InputError(f"max_steps is {max_steps}; it is at least 1.")
    check_method(method, dt)
