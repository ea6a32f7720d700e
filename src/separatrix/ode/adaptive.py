"""Steps chosen by tolerance, each item for itself, by torchode; an item that fails stops alone, and says why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from separatrix.errors import MissingExtraError
from separatrix.evolve import Bar, bar
from separatrix.ode.mesh import Mesh, Run
from separatrix.result import Status
from separatrix.solvers.solver import Slope

SMALLEST = 16  # roundings of the time below which a step is lost
FAR = 1e8  # times its first size: a state that far away when its steps vanish has left for infinity
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0  # the next step is 0.9 of what would just meet the tolerance, in these bounds
CROWDED = 7 / 8  # of the items that are asked for a velocity still need it; with fewer the others are left out

Until = Callable[[Tensor, Tensor, Tensor], Tensor]  # which items moved, (items), to t and x ↦ which of them have arrived

# Note [Failing alone]
# torchode ends the whole batch when one item fails. So its controller is never told of a failure: we note the item's code, accept
# whatever it does from then on, with zero velocity, as the rest of its time, and keep none of that.


@dataclass(frozen=True)
class Tolerance:
    """What steps are chosen by.

    Args:
        rtol, atol: relative and absolute, of one step.
        max_steps: trials before an item is given up.
    """

    rtol: float
    atol: float
    max_steps: int

    def least(self, x: Tensor) -> float:
        """atol; in place of 0 what is nothing beside any number, so that one that stays 0 has no error."""
        return max(self.atol, torch.finfo(x.dtype).tiny ** 0.5)


@dataclass
class Log:
    """What happens on the way, which torchode's controller and the field both look at.

    Args:
        x0: the states at the start, shape (items, dim).
        begins, ends: when each item begins and is done, shape (items).
        smallest: the shortest step that time can resolve, shape (items).
        codes: `Status` of each item, shape (items).
        rejected: trials that were not accepted, shape (items).
        arrived: which items are where they were to be followed to, shape (items).
        going: which items are followed still; None for all.
        trials: of each trial t, h, the states after it, and whether it was kept.
    """

    x0: Tensor
    begins: Tensor
    ends: Tensor
    smallest: Tensor
    codes: Tensor
    rejected: Tensor
    arrived: Tensor
    going: Tensor | None = None
    trials: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def begin(cls, x0: Tensor, times: Tensor) -> "Log":
        """Before the first trial."""
        smallest = SMALLEST * torch.finfo(times.dtype).eps * torch.maximum(times[-1].abs(), times[-1] - times[0])
        zeros = torch.zeros_like(smallest)
        return cls(x0, times[0], times[-1], smallest, zeros.to(torch.int8), zeros.long(), zeros.bool())

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

    def leave_out(self, done: Tensor) -> None:
        """Ask no more for the velocities of items that are done, once they are many."""
        items = done.shape[0]
        if items - int(done.sum()) < CROWDED * (items if self.going is None else self.going.shape[0]):
            self.going = (~done).nonzero()[:, 0]


@torch.no_grad()
def adaptive_steps(
    pair: str,
    field: Slope,
    x0: Tensor,
    times: Tensor,
    tolerance: Tolerance,
    *,
    first: Tensor | None = None,
    alone: Slope | None = None,
    until: Until | None = None,
    progress: bool = False,
) -> Run:
    """Follow the field from x0, (items, dim), at times[0] to the last of the times, (times, items), in steps by tolerance.

    Args:
        pair: a name in `PAIRS`.
        field, x0, times: the problem.
        tolerance: what steps are chosen by.
        first: the velocities at x0, where they are known.
        alone: the field of any of the items, in any number; None where it takes all or none.
        until: which items have arrived; they are followed no further.
        progress: show how far the slowest item has come.
    """
    torchode = _torchode()
    log = Log.begin(x0, times)
    first = field(x0, times[0, :, None].to(x0)) if first is None else first
    log.fail(~torch.isfinite(first).all(-1), Status.DIVERGED)
    log.leave_out(log.over)
    term = torchode.ODETerm(_velocity(field, log, alone), with_stats=False)
    method = _stepping(torchode, {"dopri5": torchode.Dopri5, "tsit5": torchode.Tsit5}[pair])(term=term)
    with bar("time", progress) as shown:
        controller = _watching(torchode, log, tolerance, until, shown)(
            tolerance.atol or 1e-6 * float(x0.abs().amax()) or 1e-6, tolerance.rtol, term=term
        )
        solver = torchode.AutoDiffAdjoint(method, controller)
        solver.solve(torchode.InitialValueProblem(x0, times[0], times[-1]), term=term)
    return _packed(log, x0, times)


def _velocity(field: Slope, log: Log, alone: Slope | None) -> Any:
    """The field of those items that are followed still; the others rest. See Note [Failing alone]."""

    def velocity(t: Tensor, y: Tensor) -> Tensor:
        if log.going is None:
            return field(y, t[:, None].to(y))
        going, found = log.going, torch.zeros_like(y)
        if len(going) == 0:
            return found
        if alone is not None:
            return found.index_copy_(0, going, alone(y[going], t[going, None].to(y)))
        y = log.x0.index_copy(0, going, y[going])
        return found.index_copy_(0, going, field(y, t[:, None].to(y))[going])

    return velocity


def _stepping(torchode: Any, pair: type) -> type:
    """A torchode method whose stages are added up by one product of matrices each."""
    from torchode.single_step_methods.base import StepResult
    from torchode.single_step_methods.runge_kutta import ERKInterpolationData, ERKState

    class Stepping(pair):
        def rows(self, tableau: Any) -> list[Tensor]:
            if "found" not in self.__dict__:
                self.__dict__["found"] = [row[:i] for i, row in enumerate(tableau.a.unbind())]
            return self.__dict__["found"]

        def step(
            self, term: Any, running: Tensor, y0: Tensor, t0: Tensor, dt: Tensor, state: Any, *, stats: Any, args: Any
        ) -> tuple[Any, ...]:
            tableau, h, y = state.tableau, dt[:, None].to(y0), y0
            rows = self.rows(tableau)
            k = y0.new_empty(len(rows), *y0.shape)
            flat, k[0] = k.flatten(1), state.prev_vf1
            nodes = torch.addcmul(t0, tableau.c[:, None], dt).unbind()
            for i in range(1, len(rows)):
                y = torch.addcmul(y0, h, (rows[i] @ flat[:i]).view_as(y0))
                k[i] = term.vf(nodes[i], y, stats, args)
            error = h * (tableau.b_err @ flat).view_as(y0)
            return StepResult(y, error), ERKInterpolationData(tableau, t0, dt, y0, y, k), ERKState(tableau, k[-1]), None

    return Stepping


def _watching(torchode: Any, log: Log, tolerance: Tolerance, until: Until | None, shown: Bar) -> type:
    """Torchode's controller, which keeps a log and fails one item at a time. See Note [Failing alone]."""

    class Watching(torchode.IntegralController):
        def adapt_step_size(
            self, t0: Tensor, dt: Tensor, y0: Tensor, step_result: Any, state: Any, stats: Any
        ) -> tuple[Tensor, Tensor, Any, None]:
            ratio = _ratio(step_result.error_estimate, y0, step_result.y, tolerance)
            accept = ratio < 1
            factor = (SAFETY * ratio ** (-1 / state.method_order)).clamp(SHRINK, GROW).nan_to_num(SHRINK)
            longer = dt * factor.to(dt)
            going = (dt != 0) & ~log.over
            if until is not None:
                log.arrived = log.arrived | until(accept & going, t0 + dt, step_result.y)
            log.trials.append((t0, dt, step_result.y, accept & going))
            log.rejected += going & ~accept
            done = accept & (t0 + dt >= log.ends) | log.arrived
            lost = going & ~done & (longer < log.smallest)  # accepted or not: time would stand still
            if lost.any():
                log.lose(lost, y0)
            if len(log.trials) == tolerance.max_steps:
                log.fail(going & ~done, Status.NOT_CONVERGED)
            over = log.over
            log.leave_out(done | over)
            shown(lambda: float(((t0 + dt * accept - log.begins) / (log.ends - log.begins)).amin()))
            return accept | over, longer.masked_fill(over, torch.inf), state, None

    return Watching


def _ratio(error: Tensor, before: Tensor, after: Tensor, tolerance: Tolerance) -> Tensor:
    """rms_i(e_i / (atol + rtol |x_i|)) of each item, shape (items)."""
    allowed = torch.maximum(before.abs(), after.abs()).mul_(tolerance.rtol).add_(tolerance.least(error))
    return torch.linalg.vector_norm(error / allowed, dim=1) / error.shape[1] ** 0.5


def _packed(log: Log, x0: Tensor, times: Tensor) -> Run:
    """The steps that were kept, each item's own one after the other."""
    t, h, x, kept = (torch.stack(column) for column in zip(*log.trials, strict=True))
    place, accepted = kept.cumsum(0) - 1, kept.sum(0)
    trial, item = kept.nonzero(as_tuple=True)
    row = place[trial, item]
    begins, lengths = t.new_zeros(2, max(1, int(accepted.amax())), len(accepted))
    nodes = x0.repeat(len(begins) + 1, 1, 1)
    begins[row, item], lengths[row, item], nodes[row + 1, item] = t[trial, item], h[trial, item], x[trial, item]
    begins = torch.maximum(begins, times[0])  # what pads
    order = torch.arange(len(nodes), device=x0.device)[:, None].minimum(accepted)
    nodes = nodes.gather(0, order[..., None].expand_as(nodes))
    reached = times[0] + lengths.sum(0)
    node, share = _places(begins, lengths, times, log.smallest)
    steps = list(zip(begins[..., None].unbind(), lengths[..., None].unbind(), strict=True))
    return Run(Mesh(steps, node, share), nodes, log.codes, accepted, log.rejected, reached)


def _places(begins: Tensor, lengths: Tensor, times: Tensor, smallest: Tensor) -> tuple[Tensor, Tensor]:
    """The step in which each asked time lies, and how far in it; what rounding may do beside its ends is on them."""
    rising = begins.where(lengths > 0, torch.inf).mT.contiguous()
    node = (torch.searchsorted(rising, times.mT.contiguous(), right=True) - 1).clamp(min=0).mT
    length = lengths.gather(0, node)
    share = ((times - begins.gather(0, node)) / length).nan_to_num().clamp(0.0, 1.0)
    near = smallest / length
    return node, share.where(share > near, 0.0).where(share < 1 - near, 1.0)


def _torchode() -> Any:
    try:
        import torchode
    except ImportError:
        raise MissingExtraError(
            "steps chosen by tolerance need torchode, which is not installed.\n"
            'Run: pip install "separatrix[ode]"; or take equal steps, method="rk4" with dt=0.1, which needs nothing.'
        ) from None
    return torchode
