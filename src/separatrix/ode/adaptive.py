"""Steps chosen by tolerance, each item for itself; an item that fails stops alone, and says why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from separatrix.evolve import bar
from separatrix.ode.going import Going
from separatrix.ode.mesh import Mesh, Run, grain_of
from separatrix.ode.tolerance import Controller, Tolerance, rms
from separatrix.result import Status
from separatrix.solvers.pair import Pair
from separatrix.solvers.solver import Slope

SMALLEST = 16  # roundings of the time below which a step is lost
FAR = 1e8  # times its first size: a state that far away when its steps vanish has left for infinity
SOON = 1e3  # shortest steps, in which one that leaves for infinity moves by its own size
LEAST = 1e-4  # ratio of an error that is remembered: less was luck

Until = Callable[[Tensor, Tensor, Tensor], Tensor]  # which items moved, (items), to t and x ↦ which of them have arrived


@dataclass
class Log:
    """What happened on the way.

    Args:
        begins, ends: when each item begins and is done, shape (items).
        codes: `Status` of each item, shape (items).
        rejected: trials that were not accepted, shape (items).
        arrived: which items are where they were to be followed to, shape (items).
        trials: of each trial t, h, the states after it, and whether it was kept.
    """

    begins: Tensor
    ends: Tensor
    codes: Tensor
    rejected: Tensor
    arrived: Tensor
    trials: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def begin(cls, times: Tensor) -> "Log":
        """Before the first trial."""
        zeros = torch.zeros_like(times[0])
        return cls(times[0], times[-1], zeros.to(torch.int8), zeros.long(), zeros.bool())

    @property
    def over(self) -> Tensor:
        """Which items are followed no further: they failed, or arrived."""
        return (self.codes != Status.OK) | self.arrived

    def share(self, t: Tensor) -> float:
        """Of its way that the slowest item has gone."""
        return float(((t - self.begins) / (self.ends - self.begins)).amin())

    def fail(self, which: Tensor, why: Status | Tensor) -> None:
        """Note that items failed."""
        self.codes = torch.where(which, torch.as_tensor(why).to(self.codes), self.codes)


@torch.no_grad()
def adaptive_steps(
    pair: Pair,
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
        pair: the method.
        field, x0, times: the problem.
        tolerance: what steps are chosen by.
        first: the velocities at x0, where they are known.
        alone: the field of any of the items, in any number; None where it takes all or none.
        until: which items have arrived; they are followed no further.
        progress: show how far the slowest item has come.
    """
    log, going, controller = Log.begin(times), Going(field, alone, x0), Controller(pair.order)
    grain = grain_of(field, x0, times)
    x, t, largest, before = x0, log.begins, x0.abs(), torch.ones_like(x0[:, 0])
    slope = going(x, t[:, None].to(x)) if first is None else first
    log.fail(~torch.isfinite(slope).all(-1), Status.DIVERGED)
    going.leave_out(log.over)
    h = first_lengths(going, x, slope, log, tolerance, pair.order)
    with bar("time", progress) as shown:
        while True:
            under_way = ~log.over & (t < log.ends)
            left = log.ends - t
            smallest = SMALLEST * grain * torch.maximum(t.abs(), t - log.begins)
            last = h >= left - smallest
            length = torch.where(last, left, h).where(under_way, 0.0)
            trial = pair.attempt(going, x, t[:, None], length[:, None], slope)
            ratio = tolerance.ratio(trial.error, x, trial.after, largest)
            accept = (ratio < 1) & under_way
            h = length * controller.factor(ratio, before).to(h)
            log.trials.append((t, length, trial.after, accept))
            log.rejected += under_way & ~accept
            ahead = torch.where(last, log.ends, t + length)
            if until is not None:
                log.arrived = log.arrived | until(accept, ahead, trial.after)
            done = accept & last | log.arrived
            lost = under_way & ~done & (h < smallest)  # accepted or not: time would stand still
            if lost.any():
                log.fail(lost, _why_lost(going, x, t, x0, largest, smallest))
            if len(log.trials) == tolerance.max_steps:
                log.fail(under_way & ~done, Status.NOT_CONVERGED)
            kept = accept[:, None]
            x, t, largest = (
                trial.after.where(kept, x),
                ahead.where(accept, t),
                torch.maximum(largest, trial.after.abs()).where(kept, largest),
            )
            before = ratio.clamp(min=LEAST).where(accept, before)
            slope = None if trial.slope is None else trial.slope.where(kept, slope)
            shown(partial(log.share, t))
            finished = log.over | (t >= log.ends)
            if bool(finished.all()):
                break
            going.leave_out(finished)
    return _packed(log, x0, times, t, grain)


def first_lengths(field: Slope, x: Tensor, slope: Tensor, log: Log, tolerance: Tolerance, order: int) -> Tensor:
    """A first step of each item, shape (items), from its velocity and how that changes in a short step of Euler's.

    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.4, with time in units of that in which the
    state moves by its own size.
    """
    span, size = log.ends - log.begins, x.abs()
    allowed = tolerance.least(size.amax(-1, keepdim=True).expand_as(size)).add(size, alpha=tolerance.rtol)
    own, speed = rms(x / allowed).to(span), rms(slope / allowed).to(span)
    unit = torch.where((own > 0) & (speed > 0), own / speed, 1e-4 * span).minimum(span)
    short = 0.01 * unit
    after = field(torch.addcmul(x, short[:, None].to(x), slope), (log.begins + short)[:, None].to(x))
    bend = 100 * rms((after - slope) / allowed).to(span).nan_to_num(torch.inf)
    fastest = unit * torch.maximum(speed, bend)
    wanted = torch.where(fastest > 0, unit * (0.01 / fastest) ** (1 / (order + 1)), span)
    return torch.maximum(wanted.minimum(unit), 1e-3 * short).minimum(span)


def _why_lost(field: Slope, x: Tensor, t: Tensor, x0: Tensor, largest: Tensor, smallest: Tensor) -> Tensor:
    """The status of items that have no step left: they went to infinity, or their field is not smooth."""
    size, first = x.abs().amax(-1), x0.abs().amax(-1)
    speed = field(x, t[:, None].to(x)).abs().amax(-1).nan_to_num(torch.inf)
    leaving = (size >= largest.amax(-1)) & (size > first) & (size < SOON * smallest.to(x) * speed)
    far = leaving | (first > 0) & (size > FAR * first)
    return torch.where(far, int(Status.DIVERGED), int(Status.NOT_CONVERGED))


def _packed(log: Log, x0: Tensor, times: Tensor, reached: Tensor, grain: float) -> Run:
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
    near = SMALLEST * grain * torch.maximum(times.abs(), times - times[0])
    node, share = _places(begins, lengths, times, near)
    steps = list(zip(begins[..., None].unbind(), lengths[..., None].unbind(), strict=True))
    return Run(Mesh(steps, node, share), nodes, log.codes, accepted, log.rejected, reached)


def _places(begins: Tensor, lengths: Tensor, times: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """The step in which each asked time lies, and how far in it; what rounding may do beside its ends is on them."""
    rising = begins.where(lengths > 0, torch.inf).mT.contiguous()
    node = (torch.searchsorted(rising, times.mT.contiguous(), right=True) - 1).clamp(min=0).mT
    length = lengths.gather(0, node)
    share = ((times - begins.gather(0, node)) / length).nan_to_num().clamp(0.0, 1.0)
    near = near / length
    return node, share.where(share > near, 0.0).where(share < 1 - near, 1.0)
