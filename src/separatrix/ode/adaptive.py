"""Steps chosen by tolerance, each item for itself, by torchode; an item that fails stops alone, and says why."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separatrix.errors import MissingExtraError
from separatrix.ode.mesh import Mesh
from separatrix.result import Status
from separatrix.solvers.solver import Slope

SMALLEST = 16  # roundings of the time below which a step is lost
Until = Callable[[Tensor, Tensor, Tensor], Tensor]  # which items moved, (items), to t and x ↦ which of them have arrived
FAR = 1e8  # times its first size: a state that far away when its steps vanish has left for infinity

# Note [Failing alone]
# torchode ends the whole batch when one item fails. So its controller is never told of a failure: we note the item's code, accept
# whatever it does from then on, with zero velocity, as the rest of its time, and keep none of that.


@dataclass
class Log:
    """What happened on the way.

    Args:
        x0: the states at the start, shape (items, dim).
        smallest: the shortest step that time can resolve, shape (items).
        codes: `Status` of each item, shape (items).
        rejected: trials that were not accepted, shape (items).
        trials: of each trial t, h, the states after it, and whether it was kept.
        arrived: which items are where they were to be followed to, shape (items).
    """

    x0: Tensor
    smallest: Tensor
    codes: Tensor
    rejected: Tensor
    trials: list[tuple[Tensor, Tensor, Tensor, Tensor]]
    arrived: Tensor

    @property
    def over(self) -> Tensor:
        """Which items are followed no further: they failed, or arrived."""
        return (self.codes != Status.OK) | self.arrived

    def fail(self, which: Tensor, why: Status | Tensor) -> None:
        """Note that items failed."""
        self.codes = torch.where(which, torch.as_tensor(why).to(self.codes), self.codes)

    def lose(self, which: Tensor, x: Tensor) -> None:
        """Note that items have no step left: they went to infinity, or their field is not smooth."""
        far = x.abs().amax(-1) > FAR * self.x0.abs().amax(-1).clamp(min=1.0)
        self.fail(which, torch.where(far, int(Status.DIVERGED), int(Status.NOT_CONVERGED)))


@dataclass(frozen=True)
class Adaptive:
    """A run of adaptive steps.

    Args:
        mesh: the steps that were kept.
        nodes: the states before every step and after the last, shape (steps + 1, items, dim), without a graph.
        codes: `Status` of each item, shape (items).
        accepted, rejected: how many steps, shape (items).
        reached: the time up to which each item was followed, shape (items).
    """

    mesh: Mesh
    nodes: Tensor
    codes: Tensor
    accepted: Tensor
    rejected: Tensor
    reached: Tensor


@torch.no_grad()
def adaptive_steps(
    pair: str,
    field: Slope,
    x0: Tensor,
    times: Tensor,
    *,
    rtol: float,
    atol: float,
    max_steps: int,
    progress: bool = False,
    until: Until | None = None,
) -> Adaptive:
    """Follow the field from x0, (items, dim), at times[0] to the last of the times, (times, items), in steps by tolerance.

    An item of which `until` says so is followed no further.
    """
    torchode = _torchode()
    smallest = SMALLEST * torch.finfo(times.dtype).eps * torch.maximum(times[-1].abs(), times[-1] - times[0])
    log = Log(
        x0,
        smallest,
        torch.zeros_like(smallest, dtype=torch.int8),
        torch.zeros_like(smallest, dtype=torch.int64),
        [],
        smallest != smallest,
    )

    def velocity(t: Tensor, y: Tensor) -> Tensor:
        if not log.over.any():
            return field(y, t[:, None].to(y))
        over = log.over[:, None]
        return field(x0.where(over, y), t[:, None].to(y)).masked_fill(over, 0.0)

    term = torchode.ODETerm(velocity, with_stats=False)
    method = {"dopri5": torchode.Dopri5}[pair](term=term)
    controller = _watching(torchode, log, times[-1], max_steps, until)(atol, rtol, term=term)
    solver = torchode.AutoDiffAdjoint(method, controller)
    solver.solve(torchode.InitialValueProblem(x0, times[0], times[-1]), term=term)
    return _packed(log, x0, times)


def _watching(torchode: Any, log: Log, ends: Tensor, max_steps: int, until: Until | None) -> type:
    """Torchode's controller, which keeps a log and fails one item at a time. See Note [Failing alone]."""

    class Watching(torchode.IntegralController):
        def adapt_step_size(
            self, t0: Tensor, dt: Tensor, y0: Tensor, step_result: Any, state: Any, stats: Any
        ) -> tuple[Tensor, Tensor, Any, None]:
            accept, longer, state, status = super().adapt_step_size(t0, dt, y0, step_result, state, stats)
            accept, longer = accept & (status == 0), torch.where(status == 0, longer, self.factor_min * dt)
            going = (dt != 0) & ~log.over
            log.trials.append((t0, dt, step_result.y, accept & going))
            if until is not None:
                log.arrived = log.arrived | until(accept & going, t0 + dt, step_result.y)
            if not accept.all():
                log.rejected += going & ~accept
                log.lose(going & ~accept & (longer < log.smallest), y0)
            if len(log.trials) == max_steps:
                log.fail(going & ~log.arrived & (t0 + dt < ends), Status.NOT_CONVERGED)
            return accept | log.over, torch.where(log.over, torch.inf, longer), state, None

    return Watching


def _packed(log: Log, x0: Tensor, times: Tensor) -> Adaptive:
    """The steps that were kept, each item's own one after the other."""
    t, h, x, kept = (torch.stack(column) for column in zip(*log.trials, strict=True))
    place, accepted = kept.cumsum(0) - 1, kept.sum(0)
    trial, item = kept.nonzero(as_tuple=True)
    row = place[trial, item]
    begins, lengths = t.new_zeros(2, int(accepted.amax()), len(accepted))
    nodes = x0.repeat(len(begins) + 1, 1, 1)
    begins[row, item], lengths[row, item], nodes[row + 1, item] = t[trial, item], h[trial, item], x[trial, item]
    begins = torch.maximum(begins, times[0])  # what pads
    order = torch.arange(len(nodes), device=x0.device)[:, None].minimum(accepted)
    nodes = nodes.gather(0, order[..., None].expand_as(nodes))
    reached = times[0] + lengths.sum(0)
    node, share = _places(begins, lengths, times)
    steps = list(zip(begins[..., None].unbind(), lengths[..., None].unbind(), strict=True))
    return Adaptive(Mesh(steps, node, share), nodes, log.codes, accepted, log.rejected, reached)


def _places(begins: Tensor, lengths: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """The step in which each asked time lies, and how far in it."""
    rising = begins.where(lengths > 0, torch.inf).mT.contiguous()
    node = (torch.searchsorted(rising, times.mT.contiguous(), right=True) - 1).clamp(min=0).mT
    share = (times - begins.gather(0, node)) / lengths.gather(0, node)
    return node, share.nan_to_num().clamp(0.0, 1.0)


def _torchode() -> Any:
    try:
        import torchode
    except ImportError:
        raise MissingExtraError(
            "steps chosen by tolerance need torchode, which is not installed.\n"
            'Run: pip install "separatrix[ode]"; or take equal steps, method="rk4" with dt=0.1, which needs nothing.'
        ) from None
    return torchode
