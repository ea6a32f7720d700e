"""Event surfaces: the zeros of a function of state and time."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.core.errors import InputError, ShapeError
from separatrix.core.first_step import NOT_THE_FUNCTIONS
from separatrix.core.tangent import pushforward
from separatrix.flows.events.problem import Problem
from separatrix.flows.field import Field
from separatrix.flows.steps.checks import failed_call
from separatrix.flows.steps.items import mixed, near, within

ON = 16  # rounding errors of the state within which an item counts as on the surface


class Surface(NamedTuple):
    """The zeros of g.

    Args:
        function: g, as a field with values of shape (*batch) or (*batch, 1).
    """

    function: Field

    def value(self, x: Tensor, t: Tensor) -> Tensor:
        """g(x, t), shape (*batch), for x of shape (*batch, dim) and t of shape (*batch, 1)."""
        value = self.function(x, t.expand(*x.shape[:-1], 1)[..., 0])
        return value if value.shape == x.shape[:-1] else value[..., 0]

    def along(self, x: Tensor, t: Tensor, dx: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """g and its derivative along (dx, dt), shape (*batch) each."""
        point, direction = torch.cat([x, t], -1), torch.cat([dx, dt], -1)
        value, slope = pushforward(lambda y: self.value(y[..., :-1], y[..., -1:])[..., None], point, direction[..., None, :])
        return value[..., 0], slope[..., 0, 0]

    @torch.no_grad()
    def side(self, field: Field, problem: Problem, tol: float | None) -> Tensor:
        """The sign of g at the start; for an item on the surface, the sign just after. Shape (items)."""
        x, t = problem.x0, problem.begin[:, None].to(problem.x0)
        velocity = field(x, t)
        value, slope = self.along(x, t, velocity, torch.ones_like(t))
        own = x.abs().amax(-1) / velocity.abs().amax(-1)  # time in which the state moves by its own size
        near = ON * torch.finfo(x.dtype).eps * torch.fmax(problem.begin.abs().to(x), own)
        on = value.abs() <= slope.abs() * near.clamp(min=0.0 if tol is None else tol)
        return value.sign().where(~on, slope.sign())

    @torch.no_grad()
    def check(self, problem: Problem) -> None:
        """Refuse a g that is not one number per item."""
        x, t = problem.x0, problem.begin[:, None].to(problem.x0)
        trial = x.clone()
        try:
            value = self.function(trial, t[:, 0])
        except NOT_THE_FUNCTIONS:
            raise
        except Exception as error:  # user code: any error becomes the message
            raise failed_call(self.function, x, t[:, 0], error, "the event") from error
        if not isinstance(value, Tensor) or value.shape not in (x.shape[:-1], (*x.shape[:-1], 1)):
            shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ShapeError(
                f"expected one number per item from the event, shape ({len(x)}), got {shown} from states {tuple(x.shape)}.\n"
                "Index the last axis: event=lambda x: x[..., 0]."
            )
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise InputError(
                f"expected a real-valued event that passes through 0, got {kind} values.\n"
                "Pass g itself, x[..., 0], not x[..., 0] > 0."
            )
        if not torch.equal(trial, x):
            raise InputError("the event modifies its argument in place.\nReturn a new tensor: x - 2, not x.sub_(2).")
        places, moments = near(x), within(torch.stack([problem.begin, problem.end]).detach().to(x))
        values = tuple(self.value(*at)[:, None] for at in zip(places, moments, strict=True))
        if mixed(lambda x, t: self.value(x, t)[:, None], places, moments, values):
            raise InputError(
                "the event of one item depends on the states or times of other items.\n"
                "Index the last axis, x[..., 0]; the time has shape (*batch)."
            )
