"""The steps in which an equation is followed: how long each is, and where the asked times lie in them."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from separatrix.core.errors import InputError
from separatrix.core.progress import watched_count
from separatrix.core.result import Status
from separatrix.flows.flow import check_step
from separatrix.flows.methods.solver import Slope, Solver, Time

ROUNDING = 1e-13  # of a time, relative to it or to what has passed
SLACK = 1e-6  # of a step: what rounding in float32 does to times

# Note [Failing without a trace]
# A step that overflows has an infinite derivative, and infinity times a cotangent of 0 is NaN: one such item would poison the
# gradient of all parameters. So a step that fails is taken again from where an item began that does not, and its result is
# thrown away. Where items are computed that nobody asked for, only since their row is, they stand there too.


@dataclass(frozen=True)
class Mesh:
    """Steps from t of length h, one after the other, and the place of each asked time among them.

    Args:
        steps: (t, h) of each, for all items, or for each: shape (*batch, 1). A step of length 0 leaves an item where it is.
        node: of each asked time, how many steps come before the one it lies in; shape (times), or (times, *batch).
        share: how far in that step it lies, in [0, 1], shape (times, *batch); None where every asked time begins a step.
    """

    steps: list[tuple[Time, Time]]
    node: Tensor
    share: Tensor | None = None

    def follow(self, method: Solver, field: Slope, x0: Tensor, *, progress: bool = False) -> list[Tensor]:
        """The states before every step and after the last, each (*batch, dim); NaN from an item's first failure on."""
        nodes, fine = [x0], None
        for tick in watched_count(len(self.steps), "steps", progress):
            t, h = (_like(x0, value) for value in self.steps[tick.index])
            x = nodes[-1] if fine is None else nodes[-1].where(fine, x0)
            after = method.step(field, x, t, h)
            if not math.isfinite(after.detach().sum()):  # the cheapest proof, and nearly always enough
                whole = torch.isfinite(after.detach()).all(-1, keepdim=True)
                if not whole.all():
                    fine = whole if fine is None else whole & fine
                    if not fine.any():
                        nodes += [torch.full_like(x0, torch.nan)] * (len(self.steps) + 1 - len(nodes))
                        break
                    x0 = x0[fine[..., 0]][:1].expand_as(x0)
                    after = method.step(field, x.where(fine, x0), t, h)
            nodes.append(after if fine is None else after.where(fine, torch.nan))
        return nodes


@dataclass(frozen=True)
class Run:
    """Steps that were taken.

    Args:
        mesh: the steps.
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

    @classmethod
    def of(cls, mesh: Mesh, nodes: Tensor, asked: Tensor) -> "Run":
        """Of equal steps: an item has come as far as its states are finite; `asked` is the times, (times, items)."""
        whole = torch.isfinite(nodes).all(-1)
        codes = torch.where(whole[-1], int(Status.OK), int(Status.DIVERGED)).to(torch.int8)
        accepted = whole.long().cumprod(0).sum(0) - 1
        ends = [t + h for t, h in mesh.steps]
        after = torch.stack([asked[0], *(torch.as_tensor(end, device=asked.device).reshape(-1).expand(len(codes)) for end in ends)])
        reached = asked[-1].where(whole[-1], after.gather(0, accepted[None])[0])
        return cls(mesh, nodes, codes, accepted, torch.zeros_like(accepted), reached)

    def only(self, begun: Tensor) -> "Run":
        """The same without the items that never began, which are not finite from the first time on."""
        if bool(begun.all()):
            return self
        codes = self.codes.where(begun, int(Status.DIVERGED))
        accepted, rejected = self.accepted.where(begun, 0), self.rejected.where(begun, 0)
        return replace(self, codes=codes, accepted=accepted, rejected=rejected, reached=self.reached.where(begun, torch.nan))

    def alive(self, asked: Tensor) -> Tensor:
        """Which asked times, (times, items), were reached, but for rounding."""
        return asked <= self.reached + ROUNDING * asked.abs().maximum(asked - asked[0])


def equal_steps(times: Tensor, dt: float) -> Mesh:
    """Between each two asked times equal steps of at most dt, as few as that takes; a node falls on each."""
    check_step(dt)
    gaps = times.diff(dim=0)
    counts = [whole_steps(float(gap.amax()), dt) for gap in gaps]
    steps: list[tuple[Time, Time]] = []
    for begin, gap, count in zip(times, gaps, counts, strict=False):
        h = gap / count
        steps += [(_time(begin + i * h), _time(h)) for i in range(count)]
    return Mesh(steps, torch.tensor([0, *counts]).cumsum(0).to(times.device))


def check_times(times: Tensor, batch: tuple[int, ...], *, may_fall: bool = False) -> int:
    """Refuse asked times that are no rising sequence, or falling one if that may be; +1 if they rise, −1 if they fall."""
    if times.ndim == 0 or len(times) < 2:
        raise InputError(f"times has shape {tuple(times.shape)}; it holds at least two: where x0 is given, and where it is asked.")
    if times.ndim > 1 and tuple(times.shape[1:]) != batch:
        raise InputError(
            f"times has shape {tuple(times.shape)}, but x0 has the batch {batch}.\n"
            f"Pass times of shape (times), or (times, {', '.join(map(str, batch))})."
        )
    if not torch.isfinite(times).all():
        raise InputError(f"{int((~torch.isfinite(times)).sum())} of the asked times are not finite.")
    sense = -1 if may_fall and bool((times[1] < times[0]).all()) else 1
    falling = (sense * times.diff(dim=0) <= 0).nonzero()
    if len(falling):
        i, item = int(falling[0][0]), tuple(falling[0][1:].tolist())
        here, after = float(times[(i, *item)]), float(times[(i + 1, *item)])
        raise InputError(
            f"times must {'increase' if sense > 0 else 'decrease, as the first two do'}, "
            f"but time {i + 1} is {after:g} after {here:g}{f' in item {item}' if item else ''}.\n"
            f"Sort them{', each item in the same direction' if may_fall else '; to go backwards, follow −f from 0 on'}."
        )
    return sense


def whole_steps(gap: float, dt: float) -> int:
    """How few steps of at most dt make the gap; rounding does not make one more."""
    return max(1, math.ceil(gap / dt - SLACK))


def _like(x: Tensor, value: Time) -> Time:
    """In the dtype of the state."""
    return value.to(x) if isinstance(value, Tensor) else value


def _time(value: Tensor) -> Time:
    """A number where it is one, else a column that broadcasts along states."""
    return float(value) if value.ndim == 0 else value[..., None]


def grain_of(field: Any, x: Tensor, times: Tensor) -> float:
    """The rounding of times relative to their size: as the field is told them, in the dtype of the state, if it looks at them."""
    told = x.dtype if getattr(field, "time_dependent", True) else times.dtype
    return torch.finfo(told).eps
