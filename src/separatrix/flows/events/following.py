"""Steps up to an event: each item stops after the step in which it crosses the surface."""

import torch
from torch import Tensor

from separatrix.core.result import Status
from separatrix.flows.events.problem import Problem
from separatrix.flows.events.root import crosses
from separatrix.flows.events.surface import Surface
from separatrix.flows.field import Field, WrappedField
from separatrix.flows.methods import PAIRS
from separatrix.flows.methods.solver import Solver, Time
from separatrix.flows.steps.adaptive import adaptive_steps
from separatrix.flows.steps.checks import check_apart
from separatrix.flows.steps.items import Items, Together
from separatrix.flows.steps.mesh import Mesh, Run
from separatrix.flows.steps.tolerance import Tolerance


class Unfolded(WrappedField):
    """A field with several batch axes, on items along one axis, the last before the state axis.

    Args:
        field: any field.
        batch: the batch axes.
    """

    def __init__(self, field: Field, batch: torch.Size) -> None:
        super().__init__(field)
        self.batch = batch

    def inward(self, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        """States (*times, items, dim) and their times, with the batch axes restored."""
        return self._unfolded(x), self._unfolded(torch.as_tensor(t).to(x).expand(*x.shape[:-1], 1))[..., 0]

    def outward(self, value: Tensor, like: Tensor) -> Tensor:
        """The value with one item axis again."""
        return value.reshape(like.shape)

    def _unfolded(self, along: Tensor) -> Tensor:
        return along if len(self.batch) < 2 else along.unflatten(-2, self.batch)


class Watch:
    """A callback that receives each item's states in order and reports which items have crossed the surface.

    Args:
        surface: the zeros of g.
        side: the last nonzero sign of g, shape (items).
        direction: +1, −1 or 0, as in `solve_until`.
    """

    def __init__(self, surface: Surface, side: Tensor, direction: int) -> None:
        self.surface, self.side, self.direction = surface, side, direction

    def __call__(self, moved: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """Mask of the items that crossed on moving to x, (items, dim), at times t, (items)."""
        now = self.surface.value(x, t[:, None].to(x)).sign()
        arrived = moved & crosses(self.side, now, self.direction)
        self.side = now.where(moved & now.isfinite() & (now != 0), self.side)
        return arrived


def steps_by_tolerance(field: Unfolded, problem: Problem, watch: Watch, method: str, tolerance: Tolerance) -> Run:
    """Adaptive steps of each item up to its event."""
    times, x0 = torch.stack([problem.begin, problem.end]).detach(), problem.x0.detach()
    together = Together.probe(field.field, tuple(field.batch), x0, times)
    check_apart(together)
    alone = Items(field.field, None) if together.packs else None
    return adaptive_steps(PAIRS[method], field, x0, times, tolerance, alone=alone, until=watch)


@torch.no_grad()
def equal_steps_until(field: Field, problem: Problem, watch: Watch, method: Solver, dt: float, max_steps: int) -> Run:
    """Equal steps, the last one shortened to the end time, each item until it arrives; a step that is not finite is not taken."""
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
