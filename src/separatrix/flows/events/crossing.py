"""Crossings of a surface: the next one for every item of a batch, located within the solver's own step.

A solver step of length h is a step of length 1 for the field h f, so that each item may have its own h.
"""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.core.parametric import Number, Parametric
from separatrix.core.twin import twin
from separatrix.flows.events.root import crosses, root
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow
from separatrix.flows.methods import SOLVERS

M = TypeVar("M", bound=nn.Module)

ROUNDINGS = 4  # rounding errors of the step length within which a crossing is located
LATER = (0.6180339887, 2.7182818285, 31.4159265359)  # times compared with t = 0 to detect a time-dependent field

# Note [Two ways to a surface]
# `solve_until` locates events on the polynomials of adaptive steps, for fields and functions that may depend on time. A section
# or a return map is a system: its crossing lies on a partial step of the solver, so that points, tangents and return times are
# exactly those of the map that the flow's steps define, whatever dt is. Both share the sign test, the root finder `root`, and the
# derivative of an event by Newton steps of length 0. For a sampled series there is no field; its maxima come from a parabola
# through three samples.


class Event(Parametric):
    """A smooth function g of the state, whose zeros form a surface; it may evaluate the field."""

    def value(self, field: Field, x: Tensor) -> Tensor:
        """g(x), shape (*batch)."""
        return self.along(field, x, x.new_zeros(*x.shape[:-1], 0, x.shape[-1]))[0]

    def along(self, field: Field, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """g(x), and Dg(x) along the tangents v, shapes (*batch) and (*batch, k)."""
        raise NotImplementedError(f"{type(self).__name__} does not define along(field, x, v).")


class Plane(Event):
    """The plane  n·x = c:  g(x) = (n·x − c) / |n|.

    Args:
        normal: n, shape (dim).
        offset: c; a number, or a tensor that broadcasts against the batch.
    """

    normal: Tensor

    def __init__(self, normal: Tensor, offset: Number) -> None:
        super().__init__()
        self.length = float(torch.linalg.vector_norm(normal))
        self.register_buffer("normal", normal / self.length, persistent=False)
        self.hold(offset=offset)

    @property
    def distance(self) -> Number:
        """Distance of the plane from the origin, along n."""
        return self.offset / self.length

    def value(self, field: Field, x: Tensor) -> Tensor:
        """(n·x − c) / |n|."""
        return x @ self.normal - self.distance

    def along(self, field: Field, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(n·x − c) / |n| and n·v / |n|."""
        return self.value(field, x), v @ self.normal


class Extremum(Event):
    """The surface on which a component of the state is stationary: g(x) = ẋ_i.

    Args:
        component: i.
    """

    def __init__(self, component: int) -> None:
        super().__init__()
        self.component = component

    def value(self, field: Field, x: Tensor) -> Tensor:
        """ẋ_i."""
        return field(x, 0.0)[..., self.component]

    def along(self, field: Field, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """ẋ_i and its derivative."""
        velocity, pushed = field.pushforward(x, v, 0.0)
        return velocity[..., self.component], pushed[..., self.component]


class Crossing(NamedTuple):
    """The state at the crossing, its tangents, and the time to it; NaN if there is no crossing."""

    x: Tensor
    v: Tensor
    time: Tensor


def next_crossing(
    flow: Flow, event: Event, x: Tensor, v: Tensor | None = None, *, direction: int, max_steps: int, leaving: bool
) -> Crossing:
    r"""The flow's next crossing of a surface from each state. Items are followed together, each only until it arrives.

    A crossing lies in the first step over which g changes sign in the given direction. Within that step, with Φ_h the solver's step
    of length h, it is the root of  g(Φ_h(y)) = 0.  With u = ∂Φ_h/∂h (the velocity there, up to the solver's error), the tangents
    are  v − u (∇g·v) / (∇g·u),  the exact derivative of this map.

    Args:
        flow: an autonomous flow.
        event: the surface.
        x: states, shape (*batch, dim).
        v: tangents, shape (*batch, k, dim).
        direction: +1 for g rising, −1 for falling, 0 for both.
        max_steps: maximum number of steps of the flow.
        leaving: the states are on the surface, which does not count as a crossing.
    """
    batch, dim = torch.broadcast_shapes(x.shape[:-1], flow.batch_shape, event.batch_shape), x.shape[-1]
    x, v = x.expand(*batch, dim), x.new_zeros(0, dim) if v is None else v
    v = v.expand(*batch, *v.shape[-2:]).reshape(-1, *v.shape[-2:]) if v.numel() else x.new_zeros(batch.numel(), *v.shape[-2:])
    walk = _Walk.begin(flow, event, batch, x.reshape(-1, dim), v, leaving)
    legs = []
    for steps in range(max_steps):
        if not len(walk.x):
            break
        after = walk.stepped()
        arrived, failed = walk.crossed(after, direction), ~torch.isfinite(after.x.detach().sum(-1))
        if bool((arrived | failed).any()):
            legs.append(walk.last_leg(arrived | failed, after.side.where(~failed, torch.nan), steps))
            after = after.chosen(~(arrived | failed))
        walk = after
    legs.append(walk.last_leg(walk.index >= 0, torch.full_like(walk.side, torch.nan), max_steps))
    leg = _Leg(*(torch.cat(part) for part in zip(*legs, strict=True)))
    found = leg.of(torch.isfinite(leg.beyond)).located(flow, event, batch)
    nowhere = leg.of(~torch.isfinite(leg.beyond)).nowhere()
    order = torch.cat([found[0], nowhere[0]]).argsort()
    parts = (torch.cat(pair)[order] for pair in zip(found[1], nowhere[1], strict=True))
    return Crossing(*(part.reshape((*batch, *part.shape[1:])) for part in parts))


class _Walk(NamedTuple):
    """The items that have not arrived: batch indices, flow and surface with their parameters, states, tangents and g.

    Only the sign of g matters; it is 0 for an item that leaves the surface, so that no crossing starts from it.
    """

    index: Tensor
    flow: Flow
    event: Event
    x: Tensor
    v: Tensor
    side: Tensor

    @classmethod
    def begin(cls, flow: Flow, event: Event, batch: torch.Size, x: Tensor, v: Tensor, leaving: bool) -> "_Walk":
        """All items, along one batch axis."""
        index = torch.arange(len(x), device=x.device)
        flow, event = of_items(flow, batch, index), of_items(event, batch, index)
        side = event.value(flow.field, x).detach()
        return cls(index, flow, event, x, v, torch.zeros_like(side) if leaving else side)

    def stepped(self) -> "_Walk":
        """The walk after one whole step."""
        x, v = (self.flow.step(self.x), self.v) if not self.v.shape[-2] else self.flow.pushforward(self.x, self.v)
        return self._replace(x=x, v=v, side=self.event.value(self.flow.field, x).detach())

    def crossed(self, after: "_Walk", direction: int) -> Tensor:
        """Mask of the items that change side in the given direction."""
        return crosses(self.side.sign(), after.side.sign(), direction)

    def chosen(self, which: Tensor) -> "_Walk":
        """The selected items."""
        flow, event = (of_items(part, which.shape, which) for part in (self.flow, self.event))
        return _Walk(self.index[which], flow, event, self.x[which], self.v[which], self.side[which])

    def last_leg(self, which: Tensor, beyond: Tensor, steps: int) -> "_Leg":
        """The selected items before their last step, and g after it."""
        taken = torch.full_like(self.side[which], steps)
        return _Leg(self.index[which], self.x[which], self.v[which], self.side[which], beyond[which], taken)


class _Leg(NamedTuple):
    """The steps in which items arrive: batch index, state and tangents before, g before and after, number of whole steps before."""

    index: Tensor
    x: Tensor
    v: Tensor
    side: Tensor
    beyond: Tensor
    steps: Tensor

    def of(self, which: Tensor) -> "_Leg":
        """The selected items."""
        return _Leg(*(part[which] for part in self))

    def nowhere(self) -> tuple[Tensor, Crossing]:
        """NaN for all items."""
        return self.index, Crossing(self.x * torch.nan, self.v * torch.nan, self.side * torch.nan)

    def located(self, flow: Flow, event: Event, batch: tuple[int, ...]) -> tuple[Tensor, Crossing]:
        """The crossings of all items, found together."""
        if not len(self.index):
            return self.nowhere()
        flow, event = of_items(flow, batch, self.index), of_items(event, batch, self.index)
        h = self._root(flow, event)
        for _ in range(2):  # with a graph: the first makes first derivatives of the root exact, the second makes second ones exact
            h = h - self._move(flow, event, h)
        x, v, u = substep(flow, self.x, self.v, h)
        _, slopes = event.along(flow.field, x, torch.cat([v, u[:, None]], dim=-2))
        v = v - (slopes[:, :-1] / slopes[:, -1:])[..., None] * u[:, None]
        return self.index, Crossing(x, v, self.steps * flow.dt + h)

    @torch.no_grad()
    def _root(self, flow: Flow, event: Event) -> Tensor:
        """The partial step size at which g is zero, shape (items), between 0 and dt."""
        x, solver = self.x.detach(), SOLVERS[flow.method]

        def value(h: Tensor) -> Tensor:
            return event.value(flow.field, solver.step(flow.field, x, 0.0, h[:, None]))

        ends = torch.zeros_like(self.side), torch.full_like(self.side, flow.dt)
        near = torch.full_like(self.side, ROUNDINGS * torch.finfo(x.dtype).eps * flow.dt)
        return root(value, ends, (self.side, self.beyond), near)

    def _move(self, flow: Flow, event: Event, h: Tensor) -> Tensor:
        """The Newton update of h; 0 where the orbit is tangent."""
        x, _, u = substep(flow, self.x, self.v[:, :0], h)
        g, slope = event.along(flow.field, x, u[:, None])
        return g / slope[:, 0].where(slope[:, 0] != 0, torch.inf)


def substep(flow: Flow, x: Tensor, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A solver step with a separate length h for each item: the state, the tangents, and the derivative of the state in h.

    Args:
        flow: an autonomous flow.
        x: states, shape (items, dim).
        v: tangents, shape (items, k, dim).
        h: lengths, shape (items).
    """
    k, no = v.shape[-2], v.new_zeros(v.shape[0], 1)
    y = torch.cat([x, h[:, None]], dim=-1)  # h is an extra, constant component of the state

    def scaled(y: Tensor, w: Tensor, t: float) -> tuple[Tensor, Tensor]:
        h, dh = y[:, -1:], w[..., -1:]
        velocity, pushed = flow.field.pushforward(y[:, :-1], w[..., :-1], 0.0)
        return torch.cat([h * velocity, no], -1), torch.cat([h[..., None] * pushed + dh * velocity[:, None], 0 * dh], -1)

    w = nn.functional.pad(v, (0, 1, 0, 1))  # one extra tangent, along h
    w[:, k, -1] = 1.0
    y, w = SOLVERS[flow.method].pushforward(scaled, y, w, 0.0, 1.0)
    return y[:, :-1], w[:, :k, :-1], w[:, k, :-1]


def of_items(module: M, batch: tuple[int, ...], index: Tensor) -> M:
    """The module restricted to some items: batch axes of its parameters flattened to one axis and indexed."""
    if not isinstance(module, Parametric) or not module.batch_shape:
        return module
    copy = twin(module)
    for part in copy.modules():
        for name, rank in part._ranks.items() if isinstance(part, Parametric) else ():
            value = getattr(part, name)
            if isinstance(value, Tensor) and value.ndim > rank:
                own = value.shape[value.ndim - rank :]
                part.hold(rank=rank, **{name: value.expand(*batch, *own).reshape(-1, *own)[index]})
    return copy


def check_autonomous(flow: Flow, x: Tensor, what: str) -> None:
    """Refuse a field that depends on time: the crossing would not be a function of the state."""
    now = flow.field(x, 0.0)
    for t in LATER:
        apart = (flow.field(x, t) - now).abs().amax()
        if float(apart) > 0:
            raise InputError(
                f"the field depends on time: between t = 0 and t = {t:.3g} it changes by {float(apart):.3g}, and {what}.\n"
                "Use sx.Stroboscopic(flow, period) instead."
            )


def check_flow(system: object, what: str) -> None:
    """Refuse a system without a field, which cannot take partial steps."""
    if not isinstance(system, Flow):
        raise UnsupportedModuleError(
            f"{what} needs a Flow, got a {type(system).__name__}: only a flow has states between its steps.\n"
            "Pass the flow itself, or wrap its field: sx.Flow(field, dim, dt)."
        )


def shown(value: Number) -> str:
    """A parameter as text."""
    if isinstance(value, Tensor):
        return f"{float(value.min()):g} … {float(value.max()):g}" if value.numel() > 1 else f"{float(value):g}"
    return f"{value:g}"
