"""Meshes: the length of every step, and the position of the requested times among them."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from separatrix.core.checks import check_all_finite, check_positive
from separatrix.core.errors import InputError
from separatrix.core.progress import watched_count
from separatrix.core.result import Status
from separatrix.flows.methods.solver import Slope, Solver, Time

ROUNDING = 1e-13  # of a time, relative to it or to the elapsed time
SLACK = 1e-6  # fraction of a step: the effect of float32 rounding on times

# Note [Failing without a trace]
# A step that overflows has an infinite derivative, and infinity times a cotangent of 0 is NaN: one such item would make the
# gradient of all parameters NaN. So a step that fails is repeated from the initial state of an item that does not fail, and its
# result is discarded. Items that are computed only because their row is needed are treated in the same way.


@dataclass(frozen=True)
class Mesh:
    """Steps of length h from t, one after another, and the position of each requested time among them.

    Args:
        steps: (t, h) of each, for all items; or for each item, shape (*batch, 1). A step of length 0 leaves an item where it is.
        node: for each requested time, the number of steps before the one that contains it; shape (times), or (times, *batch).
        share: the fraction of that step, in [0, 1], shape (times, *batch); None if every requested time begins a step.
    """

    steps: list[tuple[Time, Time]]
    node: Tensor
    share: Tensor | None = None

    def follow(self, method: Solver, field: Slope, x0: Tensor, *, progress: bool = False) -> list[Tensor]:
        """The states before every step and after the last, each (*batch, dim); NaN from the first failure of an item on."""
        nodes, alive = [x0], None
        for tick in watched_count(len(self.steps), "steps", progress):
            t, h = (_like(x0, value) for value in self.steps[tick.index])
            x = nodes[-1] if alive is None else nodes[-1].where(alive, x0)
            after = method.step(field, x, t, h)
            if not math.isfinite(after.detach().sum()):  # the cheapest test, and nearly always enough
                finite = torch.isfinite(after.detach()).all(-1, keepdim=True)
                if not finite.all():
                    alive = finite if alive is None else finite & alive
                    if not alive.any():
                        nodes += [torch.full_like(x0, torch.nan)] * (len(self.steps) + 1 - len(nodes))
                        break
                    x0 = x0[alive[..., 0]][:1].expand_as(x0)
                    after = method.step(field, x.where(alive, x0), t, h)
            nodes.append(after if alive is None else after.where(alive, torch.nan))
        return nodes


@dataclass(frozen=True)
class Run:
    """The steps that were taken.

    Args:
        mesh: the steps.
        nodes: the states before every step and after the last, shape (steps + 1, items, dim), without a graph.
        codes: `Status` of each item, shape (items).
        accepted, rejected: number of accepted and rejected steps, shape (items).
        reached: the time that each item reached, shape (items).
    """

    mesh: Mesh
    nodes: Tensor
    codes: Tensor
    accepted: Tensor
    rejected: Tensor
    reached: Tensor

    @classmethod
    def of(cls, mesh: Mesh, nodes: Tensor, requested: Tensor) -> "Run":
        """The run of equal steps: an item ends where its states stop being finite; `requested` are the times, (times, items)."""
        finite = torch.isfinite(nodes).all(-1)
        codes = torch.where(finite[-1], int(Status.OK), int(Status.DIVERGED)).to(torch.int8)
        accepted = finite.long().cumprod(0).sum(0) - 1
        ends = [torch.as_tensor(t + h, device=requested.device) for t, h in mesh.steps]
        after = torch.stack([requested[0], *(end.reshape(-1).expand(len(codes)) for end in ends)])
        reached = requested[-1].where(finite[-1], after.gather(0, accepted[None])[0])
        return cls(mesh, nodes, codes, accepted, torch.zeros_like(accepted), reached)

    def only(self, begun: Tensor) -> "Run":
        """The same run with items that never began marked as diverged."""
        if bool(begun.all()):
            return self
        codes = self.codes.where(begun, int(Status.DIVERGED))
        accepted, rejected = self.accepted.where(begun, 0), self.rejected.where(begun, 0)
        return replace(self, codes=codes, accepted=accepted, rejected=rejected, reached=self.reached.where(begun, torch.nan))

    def alive(self, requested: Tensor) -> Tensor:
        """Mask of the requested times, (times, items), that were reached, up to rounding."""
        return requested <= self.reached + ROUNDING * requested.abs().maximum(requested - requested[0])


def equal_steps(times: Tensor, dt: float) -> Mesh:
    """The smallest number of equal steps of at most dt between successive requested times; a node falls on each."""
    check_positive("dt", dt)
    gaps = times.diff(dim=0)
    counts = [whole_steps(float(gap.amax()), dt) for gap in gaps]
    steps: list[tuple[Time, Time]] = []
    for begin, gap, count in zip(times, gaps, counts, strict=False):
        h = gap / count
        steps += [(_time(begin + i * h), _time(h)) for i in range(count)]
    return Mesh(steps, torch.tensor([0, *counts]).cumsum(0).to(times.device))


def check_times(times: Tensor, batch: tuple[int, ...], *, may_fall: bool = False) -> int:
    """Refuse times that do not increase, or decrease if `may_fall`; return +1 if they increase, −1 if they decrease."""
    if times.ndim == 0 or len(times) < 2:
        raise InputError(f"expected at least two times, the first that of x0, got times of shape {tuple(times.shape)}.")
    if times.ndim > 1 and tuple(times.shape[1:]) != batch:
        raise InputError(
            f"times has shape {tuple(times.shape)}, but x0 has the batch {batch}.\n"
            f"Pass times of shape (times), or (times, {', '.join(map(str, batch))})."
        )
    check_all_finite("times", times, "")
    sense = -1 if may_fall and bool((times[1] < times[0]).all()) else 1
    falling = (sense * times.diff(dim=0) <= 0).nonzero()
    if len(falling):
        i, item = int(falling[0][0]), tuple(falling[0][1:].tolist())
        here, after = float(times[(i, *item)]), float(times[(i + 1, *item)])
        raise InputError(
            f"times must {'increase' if sense > 0 else 'decrease, as the first two do'}, "
            f"but time {i + 1} is {after:g} after {here:g}{f' in item {item}' if item else ''}.\n"
            f"Sort them{', each item in the same direction' if may_fall else '; to go backwards, integrate −f from t = 0'}."
        )
    return sense


def whole_steps(gap: float, dt: float) -> int:
    """The smallest number of steps of at most dt that make up the gap, up to rounding."""
    return max(1, math.ceil(gap / dt - SLACK))


def _like(x: Tensor, value: Time) -> Time:
    """The value in the dtype of the state."""
    return value.to(x) if isinstance(value, Tensor) else value


def _time(value: Tensor) -> Time:
    """A number if it is one, else a column that broadcasts along states."""
    return float(value) if value.ndim == 0 else value[..., None]


def grain_of(field: Any, x: Tensor, times: Tensor) -> float:
    """The relative rounding of times: in the dtype of the state if the field depends on the time."""
    dtype = x.dtype if getattr(field, "time_dependent", True) else times.dtype
    return torch.finfo(dtype).eps
