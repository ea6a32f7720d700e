"""Initial value problems: a field, initial conditions and the times at which states are requested."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad

from separatrix.core.twin import twin
from separatrix.flows.field import Field, as_field
from separatrix.flows.methods import SOLVERS, heun
from separatrix.flows.steps.checks import (
    as_state,
    as_times,
    check_finite,
    check_tolerance,
    first_time,
    first_velocity,
)
from separatrix.flows.steps.items import Items
from separatrix.flows.steps.mesh import check_times
from separatrix.flows.steps.reversed import Reversed
from separatrix.flows.steps.tolerance import Tolerance

# Note [Derivative by a time]
# A solution is computed with its steps held fixed, so its graph does not contain the times. A step of Heun's method of length
# t − t̄, which is 0 with derivative 1, leaves the state unchanged and has the first and second derivatives of the solution in t.


@dataclass(frozen=True)
class Problem:
    """A field, initial conditions and increasing times. Items that cannot start get the initial condition of another item.

    Args:
        field: a twin; that of −f(x, −t) if the given times decrease.
        x0: shape (*batch, dim).
        times: shape (times) or (times, *batch), with their graph.
        begun: mask of the items with a finite start, shape (*batch).
        sense: −1 if the given times decrease, else +1.
        given: the times as the user gave them.
    """

    field: Field
    x0: Tensor
    times: Tensor
    begun: Tensor
    sense: int
    given: Tensor

    @classmethod
    def of(cls, field: Callable[..., Tensor], x0: Any, times: Any, time_dependent: bool) -> "Problem":
        """The problem from the user's arguments, checked."""
        own = as_field(field, time_dependent=time_dependent)
        x0 = as_state(x0, own)
        check_finite(x0)
        given, begun = as_times(times, x0.device), torch.isfinite(x0).all(-1)
        begun = begun & ~given.isnan().any(0) if given.ndim > 1 and given.shape[1:] == begun.shape else begun
        times = given.where(begun, _of_another(given.detach(), begun)) if given.ndim > 1 and not bool(begun.all()) else given
        sense = check_times(times.detach(), tuple(x0.shape[:-1]), may_fall=True)
        ready = twin(own, dtype=x0.dtype, device=x0.device)
        if not bool(begun.all()):
            x0 = x0.where(begun[..., None], x0[begun][0].detach() if bool(begun.any()) else 0.0)
        return cls(ready if sense > 0 else Reversed(ready), x0, sense * times, begun, sense, given.detach())

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes."""
        return tuple(self.begun.shape)

    @property
    def given_times(self) -> Tensor:
        """The user's times, (times, *batch)."""
        own = self.given if self.given.ndim > 1 else self.given.reshape(-1, *[1] * self.begun.ndim)
        return own.expand(-1, *self.batch).contiguous()

    @property
    def requested(self) -> Tensor:
        """The times without a graph, (times, items)."""
        return self._of_items(self.times.detach())

    def _of_items(self, times: Tensor) -> Tensor:
        own = times[:, None] if times.ndim == 1 else times.flatten(1)
        return own.expand(-1, self.begun.numel()).contiguous()

    def first_velocity(self, *, by_tolerance: bool) -> Tensor:
        """The initial velocities, shape (*batch, dim), checked."""
        return first_velocity(self.field, self.x0, self.times.detach(), by_tolerance=by_tolerance)

    def velocity_at_first(self, *, by_tolerance: bool) -> Callable[[Tensor], Tensor]:
        """The field at the first time, as a function of the state."""
        return lambda x: self.field(x, first_time(x, self.times.detach(), by_tolerance=by_tolerance))

    def carried(self, states: Tensor) -> Tensor:
        """States at the times, (times, items, dim), with derivatives in the times. See Note [Derivative by a time]."""
        return self._moved(states, self._late(), self.requested) if self._moves else states

    def begins(self) -> Tensor:
        """Initial states, (items, dim), with a derivative in the first time: that of the state carried back from a later start."""
        items = self.x0.reshape(-1, self.x0.shape[-1])
        if not self._moves:
            return items
        return self._moved(items[None], -self._late()[:1], self._of_items(self.times)[:1])[0]

    @property
    def _moves(self) -> bool:
        """Whether a derivative in the times may be needed, in forward or reverse mode."""
        forwards = functorch.is_functorch_wrapped_tensor(self.times) or forward_ad.unpack_dual(self.times).tangent is not None
        return forwards or self.times.requires_grad

    def _late(self) -> Tensor:
        """Zeros that carry the derivative of each time."""
        times = self._of_items(self.times)
        return times - times.detach()

    def _moved(self, states: Tensor, late: Tensor, times: Tensor) -> Tensor:
        flat = Items(self.field, self.batch)
        return torch.stack(
            [heun.step(flat, *parts) for parts in zip(states, times.to(states)[..., None], late.to(states)[..., None], strict=True)]
        )


def _of_another(times: Tensor, begun: Tensor) -> Tensor:
    """Times of an item that begins, (times, 1, …); any increasing ones if none does."""
    own = times[:, begun][:, 0] if bool(begun.any()) else torch.arange(len(times)).to(times)
    return own.reshape(-1, *[1] * begun.ndim)


@dataclass(frozen=True)
class Steps:
    """How steps are taken.

    Args:
        method: a name in `SOLVERS`.
        dt: step size of equal steps, or None.
        tolerance: tolerance of adaptive steps, or None.
        first: the initial velocities, shape (*batch, dim).
    """

    method: str
    dt: float | None
    tolerance: Tolerance | None
    first: Tensor

    @classmethod
    def of(cls, problem: Problem, *, method: str, dt: float | None, tolerance: Tolerance) -> "Steps":
        """Steps, checked against the problem."""
        x0, times, solver = problem.x0, problem.times.detach(), SOLVERS[method]
        solver.check_dim(x0.shape[-1])
        first = problem.first_velocity(by_tolerance=dt is None)
        if dt is not None and times.ndim == 1:
            with torch.no_grad():
                solver.check_field(twin(problem.field, detach=True), x0, float(times[0]) + dt / 2)
        if dt is None:
            check_tolerance(x0, tolerance)
        return cls(method, dt, tolerance if dt is None else None, first)

    @property
    def by_tolerance(self) -> bool:
        """Whether the steps are adaptive."""
        return self.tolerance is not None
