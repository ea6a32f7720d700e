"""The field of those items of a run that are followed still, and its derivatives."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from separatrix.core.derivative import changed_derivative
from separatrix.flows.methods.rosenbrock import linearised

CROWDED = 7 / 8  # of the items that are asked for a velocity still need it; with fewer the others are left out
NARROW = 8  # numbers in a state, up to which a Jacobian is found row by row


class Going:
    """The field of those items that are followed still; the others rest.

    Args:
        field: takes all items.
        alone: takes any of them, in any number; None if there is none such.
        x0: states at which it is finite, shape (items, dim).
    """

    def __init__(self, field: Any, alone: Any, x0: Tensor) -> None:
        self.field, self.alone, self.x0 = field, alone, x0
        self.who: Tensor | None = None
        self.backwards: bool | None = None

    def leave_out(self, done: Tensor) -> None:
        """Ask no more for items that are done, once they are many."""
        items = len(done)
        if items - int(done.sum()) < CROWDED * (items if self.who is None else len(self.who)):
            self.who = (~done).nonzero()[:, 0]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity, shape (items, dim)."""
        return self._asked(lambda field, *at: (field(*at),), x, t)[0]

    def linearised(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The velocity, its derivative by the state as rows, (items, dim, dim), and by the time. See Note [Rows backwards]."""
        if self.backwards is None:
            self.backwards = x.shape[-1] <= NARROW and not self.field.has_own_tangents and self._keeps_its_graph(x, t)
        value, rows, drift = self._asked(backwards if self.backwards else linearised, x, t)
        return value, rows, drift if self.field.time_dependent else None

    def _keeps_its_graph(self, x: Tensor, t: Tensor) -> bool:
        try:
            pushed = partial(_pushed_backwards, self.field, t)
            return changed_derivative(lambda y: self.field(y, t), x, pushed) is None
        except RuntimeError:  # an operator without that derivative
            return False

    def _asked(self, ask: Callable[..., tuple[Any, ...]], x: Tensor, t: Tensor) -> tuple[Any, ...]:
        """What is asked of the field at the items that go on, and 0 of the others."""
        who = self.who
        if who is None:
            return ask(self.field, x, t)
        if self.alone is not None and len(who):
            found = ask(self.alone, x[who], t[who])
        else:
            found = tuple(part if part is None else part[who] for part in ask(self.field, self.x0.index_copy(0, who, x[who]), t))
        return tuple(part if part is None else _among(part, who, len(x)) for part in found)


def _among(part: Tensor, who: Tensor, items: int) -> Tensor:
    """What belongs to some of the items, and 0 for the others."""
    return part.new_zeros(items, *part.shape[1:]).index_copy_(0, who, part)


# Note [Rows backwards]
# Of few numbers the rows of a Jacobian come cheaper from that many passes backwards than from forward AD under vmap, 0.3 ms against
# 1.5. Reverse mode sees no derivative where a field is computed without a graph: so it is held against differences once in a run.


def _pushed_backwards(field: Any, t: Tensor, x: Tensor, v: Tensor) -> Tensor:
    return v @ backwards(field, x, t)[1]


def backwards(field: Any, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """What `linearised` gives, in reverse mode."""
    with torch.enable_grad():
        x, t = (part.detach().requires_grad_() for part in (x, t))
        value = field(x, t)
        units = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        by = [torch.autograd.grad(value, (x, t), e.expand_as(value), retain_graph=True, allow_unused=True) for e in units]
    columns, drifts = zip(*by, strict=True)
    rows = torch.stack([torch.zeros_like(x) if column is None else column for column in columns], dim=-1)
    drift = torch.cat([torch.zeros_like(t) if part is None else part for part in drifts], dim=-1)
    return value.detach(), rows, drift
