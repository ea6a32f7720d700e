"""Steps chosen by tolerance, each item for itself; an item that fails stops alone, and says why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from separatrix.core.progress import bar
from separatrix.core.result import Status
from separatrix.flows.methods.pair import Pair, Trial
from separatrix.flows.methods.solver import Slope
from separatrix.flows.steps.going import Going
from separatrix.flows.steps.mesh import Mesh, Run, grain_of
from separatrix.flows.steps.tolerance import Controller, Tolerance, rms

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
        grain: the rounding of times, relative to their size.
        codes: `Status` of each item, shape (items).
        rejected: trials that were not accepted, shape (items).
        arrived: which items are where they were to be followed to, shape (items).
        trials: of each trial t, h, the states after it, and whether it was kept.
    """

    begins: Tensor
    ends: Tensor
    grain: float
    codes: Tensor
    rejected: Tensor
    arrived: Tensor
    trials: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def begin(cls, times: Tensor, grain: float) -> "Log":
        """Before the first trial."""
        zeros = torch.zeros_like(times[0])
        return cls(times[0], times[-1], grain, zeros.to(torch.int8), zeros.long(), zeros.bool())

    def under_way(self, t: Tensor) -> Tensor:
        """Which items, at the times t, are followed further: they have not failed, nor arrived."""
        return (self.codes == Status.OK) & ~self.arrived & (t < self.ends)

    def smallest(self, t: Tensor) -> Tensor:
        """The shortest step that time can resolve at t, shape (items)."""
        return SMALLEST * self.grain * torch.maximum(t.abs(), t - self.begins)

    def share(self, t: Tensor) -> float:
        """Of its way that the slowest item has gone."""
        return float(((t - self.begins) / (self.ends - self.begins)).amin())

    def note(self, t: Tensor, h: Tensor, after: Tensor, accept: Tensor, under_way: Tensor) -> None:
        """A trial of the items under way."""
        self.trials.append((t, h, after, accept))
        self.rejected += under_way & ~accept

    def fail(self, which: Tensor, why: Status | Tensor) -> None:
        """Note that items failed."""
        self.codes = torch.where(which, torch.as_tensor(why).to(self.codes), self.codes)


@dataclass(frozen=True)
class Place:
    """Where the items are.

    Args:
        x, t: states, shape (items, dim), and times, (items).
        largest: the size that each number has been, shape (items, dim).
        ratio: of the error of the last step that was taken, shape (items).
        slope: the velocities there, where the method hands them on.
    """

    x: Tensor
    t: Tensor
    largest: Tensor
    ratio: Tensor
    slope: Tensor | None

    def moved(self, accept: Tensor, t: Tensor, trial: Trial, ratio: Tensor) -> "Place":
        """After the steps of those items that accept them, which end at t."""
        kept = accept[:, None]
        return Place(
            trial.after.where(kept, self.x),
            t.where(accept, self.t),
            torch.maximum(self.largest, trial.after.abs()).where(kept, self.largest),
            ratio.clamp(min=LEAST).where(accept, self.ratio),
            None if trial.slope is None or self.slope is None else trial.slope.where(kept, self.slope),
        )


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
    log, going, controller = Log.begin(times, grain_of(field, x0, times)), Going(field, alone, x0), Controller(pair.order)
    slope = going(x0, times[0, :, None].to(x0)) if first is None else first
    log.fail(~torch.isfinite(slope).all(-1), Status.DIVERGED)
    at, under_way = Place(x0, times[0], x0.abs(), torch.ones_like(x0[:, 0]), slope), log.under_way(times[0])
    going.leave_out(~under_way)
    h = first_lengths(going, x0, slope, log, tolerance, pair.order).detach()  # forward AD's tangents too: steps are held fixed
    h = h.clamp(max=tolerance.longest)
    with bar("time", progress) as shown:
        while not log.trials or bool(under_way.any()):
            left, smallest = log.ends - at.t, log.smallest(at.t)
            last = h >= left - smallest
            length = torch.where(last, left, h).where(under_way, 0.0)
            trial = pair.attempt(going, at.x, at.t[:, None], length[:, None], at.slope)
            ratio = tolerance.ratio(trial.error, at.x, trial.after, at.largest).detach()
            accept, ahead = under_way & (ratio < 1), torch.where(last, log.ends, at.t + length)
            log.note(at.t, length, trial.after, accept, under_way)
            if until is not None:
                log.arrived = log.arrived | until(accept, ahead, trial.after)
            h = (length * controller.factor(ratio, at.ratio).to(h)).clamp(max=tolerance.longest)
            further = under_way & ~(accept & last) & ~log.arrived
            if bool((lost := further & (h < smallest)).any()):  # accepted or not: time would stand still
                log.fail(lost, _why_lost(going, at, x0, smallest))
            if len(log.trials) == tolerance.max_steps:
                log.fail(further, Status.NOT_CONVERGED)
            at = at.moved(accept, ahead, trial, ratio)
            shown(partial(log.share, at.t))
            under_way = log.under_way(at.t)
            going.leave_out(~under_way)
    return _packed(log, x0, times, at.t)


def first_lengths(field: Slope, x: Tensor, slope: Tensor, log: Log, tolerance: Tolerance, order: int) -> Tensor:
    """A first step of each item, shape (items), from its velocity and how that changes in a short step of Euler's.

    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.4, with time in units of that in which the
    state moves by its own size.
    """
    size, span = x.abs(), log.ends - log.begins
    allowed = tolerance.least(size.amax(-1, keepdim=True).expand_as(size)).add(size, alpha=tolerance.rtol).to(span)
    own, speed = rms(x / allowed), rms(slope / allowed)  # in float64: float32 would overflow
    unit = torch.where((own > 0) & (speed > 0), own / speed, 1e-4 * span).minimum(span)
    short = 0.01 * unit
    after = field(torch.addcmul(x, short[:, None].to(x), slope), (log.begins + short)[:, None].to(x))
    bend = 100 * rms((after - slope) / allowed).nan_to_num(torch.inf)
    fastest = unit * torch.maximum(speed, bend)
    wanted = torch.where(fastest > 0, unit * (0.01 / fastest) ** (1 / (order + 1)), span)
    return torch.maximum(wanted.minimum(unit), 1e-3 * short).minimum(span)


def _why_lost(field: Slope, at: Place, x0: Tensor, smallest: Tensor) -> Tensor:
    """The status of items that have no step left: they went to infinity, or their field is not smooth."""
    size, first = at.x.abs().amax(-1), x0.abs().amax(-1)
    speed = field(at.x, at.t[:, None].to(x0)).abs().amax(-1).nan_to_num(torch.inf)
    leaving = (size >= at.largest.amax(-1)) & (size > first) & (size < SOON * smallest.to(x0) * speed)
    far = leaving | (first > 0) & (size > FAR * first)
    return torch.where(far, int(Status.DIVERGED), int(Status.NOT_CONVERGED))


def _packed(log: Log, x0: Tensor, times: Tensor, reached: Tensor) -> Run:
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
    node, share = _places(begins, lengths, times, log.smallest(times))
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
