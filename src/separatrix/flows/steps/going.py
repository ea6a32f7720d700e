"""The field of the items that are still under way, and its derivatives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from separatrix.core.derivative import changed_derivative
from separatrix.flows.methods.rosenbrock import linearised

CROWDED = 7 / 8  # fraction of the evaluated items that are under way, below which the others are dropped
NARROW = 8  # state length up to which a Jacobian is computed row by row


class Going:
    """The field of the items under way; the others rest.

    Args:
        field: accepts all items.
        alone: accepts any subset of the items; None if there is no such field.
        x0: states at which the field is finite, shape (items, dim).
    """

    def __init__(self, field: Any, alone: Any, x0: Tensor) -> None:
        self.field, self.alone, self.x0 = field, alone, x0
        self.who: Tensor | None = None
        self.backwards: bool | None = None

    def leave_out(self, done: Tensor) -> None:
        """Drop the items that are done once there are enough of them."""
        items = len(done)
        if items - int(done.sum()) < CROWDED * (items if self.who is None else len(self.who)):
            self.who = (~done).nonzero()[:, 0]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self._evaluated(lambda field, *at: (field(*at),), x, t)[0]

    def linearised(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The velocity, its derivative in the state as rows, (items, dim, dim), and in the time. See Note [Rows backwards]."""
        if self.backwards is None:
            self.backwards = x.shape[-1] <= NARROW and not self.field.has_own_tangents and self._keeps_its_graph(x, t)
        value, rows, drift = self._evaluated(backwards if self.backwards else linearised, x, t)
        return value, rows, drift if self.field.time_dependent else None

    def _keeps_its_graph(self, x: Tensor, t: Tensor) -> bool:
        try:
            pushed = partial(_pushed_backwards, self.field, t)
            return changed_derivative(lambda y: self.field(y, t), x, pushed) is None
        except RuntimeError:  # an operator without that derivative
            return False

    def _evaluated(self, evaluate: Callable[..., tuple[Any, ...]], x: Tensor, t: Tensor) -> tuple[Any, ...]:
        """A quantity evaluated for the items under way, and 0 for the others."""
        who = self.who
        if who is None:
            return evaluate(self.field, x, t)
        if self.alone is not None and len(who):
            found = evaluate(self.alone, x[who], t[who])
        else:
            found = tuple(
                part if part is None else part[who] for part in evaluate(self.field, self.x0.index_copy(0, who, x[who]), t)
            )
        return tuple(part if part is None else _among(part, who, len(x)) for part in found)


def _among(part: Tensor, who: Tensor, items: int) -> Tensor:
    """Scatter values of some items among all items; the others get 0."""
    return part.new_zeros(items, *part.shape[1:]).index_copy_(0, who, part)


# Note [Rows backwards]
# For short states, reverse mode gives the rows of a Jacobian faster than forward AD under vmap, 0.3 ms against 1.5 ms. It yields
# no derivative for a field that is computed without a graph, so it is compared with finite differences once per run.


def _pushed_backwards(field: Any, t: Tensor, x: Tensor, v: Tensor) -> Tensor:
    return v @ backwards(field, x, t)[1]


def backwards(field: Any, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same as `linearised`, in reverse mode."""
    with torch.enable_grad():
        x, t = (part.detach().requires_grad_() for part in (x, t))
        value = field(x, t)
        units = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        by = [torch.autograd.grad(value, (x, t), e.expand_as(value), retain_graph=True, allow_unused=True) for e in units]
    columns, drifts = zip(*by, strict=True)
    rows = torch.stack([torch.zeros_like(x) if column is None else column for column in columns], dim=-1)
    drift = torch.cat([torch.zeros_like(t) if part is None else part for part in drifts], dim=-1)
    return value.detach(), rows, drift
