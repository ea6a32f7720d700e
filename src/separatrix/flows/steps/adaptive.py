"""Adaptive steps, chosen separately for each item. An item that fails stops alone, with a status."""

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

SMALLEST = 16  # rounding errors of the time below which a step counts as vanished
FAR = 1e8  # growth of a state beyond which an item whose steps vanish has diverged
SOON = 1e3  # shortest steps in which a diverging item moves by its own size
LEAST = 1e-4  # smallest error ratio that the controller remembers; a smaller one was chance

Until = Callable[[Tensor, Tensor, Tensor], Tensor]  # from the mask of moved items, t and x to the mask of arrived items


@dataclass
class Log:
    """The history of a run.

    Args:
        begins, ends: start and end time of each item, shape (items).
        grain: the rounding of times, relative to their size.
        codes: `Status` of each item, shape (items).
        rejected: number of rejected trials, shape (items).
        arrived: mask of the items that have arrived, shape (items).
        trials: for each trial t, h, the states after it, and the mask of the items that accepted it.
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
        """The log before the first trial."""
        zeros = torch.zeros_like(times[0])
        return cls(times[0], times[-1], grain, zeros.to(torch.int8), zeros.long(), zeros.bool())

    def under_way(self, t: Tensor) -> Tensor:
        """Mask of the items that go on from the times t: they have neither failed nor arrived."""
        return (self.codes == Status.OK) & ~self.arrived & (t < self.ends)

    def smallest(self, t: Tensor) -> Tensor:
        """The shortest step that the time can resolve at t, shape (items)."""
        return SMALLEST * self.grain * torch.maximum(t.abs(), t - self.begins)

    def share(self, t: Tensor) -> float:
        """The fraction of its time span that the slowest item has covered."""
        return float(((t - self.begins) / (self.ends - self.begins)).amin())

    def note(self, t: Tensor, h: Tensor, after: Tensor, accept: Tensor, under_way: Tensor) -> None:
        """Record a trial of the items under way."""
        self.trials.append((t, h, after, accept))
        self.rejected += under_way & ~accept

    def fail(self, which: Tensor, why: Status | Tensor) -> None:
        """Record that items failed."""
        self.codes = torch.where(which, torch.as_tensor(why).to(self.codes), self.codes)


@dataclass(frozen=True)
class Place:
    """The current states and times.

    Args:
        x, t: states, shape (items, dim), and times, (items).
        largest: largest size of each number so far, shape (items, dim).
        ratio: error ratio of the last accepted step, shape (items).
        slope: the velocities there, if the method provides them.
    """

    x: Tensor
    t: Tensor
    largest: Tensor
    ratio: Tensor
    slope: Tensor | None

    def moved(self, accept: Tensor, t: Tensor, trial: Trial, ratio: Tensor) -> "Place":
        """The place after a trial: items that accept it move on to t."""
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
    """Integrate the field from x0, (items, dim), at times[0] to the last of the times, (times, items), in adaptive steps.

    Args:
        pair: the method.
        field, x0, times: the problem.
        tolerance: tolerances and limits of the steps.
        first: the velocities at x0, if known.
        alone: the field of any subset of the items; None if the field takes all items only.
        until: reports the items that have arrived; they stop there.
        progress: show a progress bar, which follows the slowest item.
    """
    log, going, controller = Log.begin(times, grain_of(field, x0, times)), Going(field, alone, x0), Controller(pair.order)
    slope = going(x0, times[0, :, None].to(x0)) if first is None else first
    log.fail(~torch.isfinite(slope).all(-1), Status.DIVERGED)
    at, under_way = Place(x0, times[0], x0.abs(), torch.ones_like(x0[:, 0]), slope), log.under_way(times[0])
    going.leave_out(~under_way)
    h = first_lengths(going, x0, slope, log, tolerance, pair.order).detach()  # steps are held fixed, in forward AD too
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
            if bool((stalled := further & (h < smallest)).any()):  # accepted or not, the time would not advance
                log.fail(stalled, _why_stalled(going, at, x0, smallest))
            if len(log.trials) == tolerance.max_steps:
                log.fail(further, Status.NOT_CONVERGED)
            at = at.moved(accept, ahead, trial, ratio)
            shown(partial(log.share, at.t))
            under_way = log.under_way(at.t)
            going.leave_out(~under_way)
    return _packed(log, x0, times, at.t)


def first_lengths(field: Slope, x: Tensor, slope: Tensor, log: Log, tolerance: Tolerance, order: int) -> Tensor:
    """A first step size for each item, shape (items), from its velocity and the change of it over a short Euler step.

    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.4, with time in units of the time in which
    the state moves by its own size.
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


def _why_stalled(field: Slope, at: Place, x0: Tensor, smallest: Tensor) -> Tensor:
    """The status of items whose steps vanish: they diverge, or their field is not smooth."""
    size, first = at.x.abs().amax(-1), x0.abs().amax(-1)
    speed = field(at.x, at.t[:, None].to(x0)).abs().amax(-1).nan_to_num(torch.inf)
    leaving = (size >= at.largest.amax(-1)) & (size > first) & (size < SOON * smallest.to(x0) * speed)
    far = leaving | (first > 0) & (size > FAR * first)
    return torch.where(far, int(Status.DIVERGED), int(Status.NOT_CONVERGED))


def _packed(log: Log, x0: Tensor, times: Tensor, reached: Tensor) -> Run:
    """The accepted steps, each item's in sequence."""
    t, h, x, kept = (torch.stack(column) for column in zip(*log.trials, strict=True))
    place, accepted = kept.cumsum(0) - 1, kept.sum(0)
    trial, item = kept.nonzero(as_tuple=True)
    row = place[trial, item]
    begins, lengths = t.new_zeros(2, max(1, int(accepted.amax())), len(accepted))
    nodes = x0.repeat(len(begins) + 1, 1, 1)
    begins[row, item], lengths[row, item], nodes[row + 1, item] = t[trial, item], h[trial, item], x[trial, item]
    begins = torch.maximum(begins, times[0])  # padding
    order = torch.arange(len(nodes), device=x0.device)[:, None].minimum(accepted)
    nodes = nodes.gather(0, order[..., None].expand_as(nodes))
    node, share = _places(begins, lengths, times, log.smallest(times))
    steps = list(zip(begins[..., None].unbind(), lengths[..., None].unbind(), strict=True))
    return Run(Mesh(steps, node, share), nodes, log.codes, accepted, log.rejected, reached)


def _places(begins: Tensor, lengths: Tensor, times: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """The step that contains each requested time, and the fraction of it; times within rounding of an end are on it."""
    rising = begins.where(lengths > 0, torch.inf).mT.contiguous()
    node = (torch.searchsorted(rising, times.mT.contiguous(), right=True) - 1).clamp(min=0).mT
    length = lengths.gather(0, node)
    share = ((times - begins.gather(0, node)) / length).nan_to_num().clamp(0.0, 1.0)
    near = near / length
    return node, share.where(share > near, 0.0).where(share < 1 - near, 1.0)
