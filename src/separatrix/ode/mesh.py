"""The steps in which an equation is followed: how long each is, and where the asked times lie in them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.errors import InputError
from separatrix.flow import check_step
from separatrix.solvers.embedded import EmbeddedPair
from separatrix.solvers.solver import Slope, Solver, Time


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

    def follow(self, method: Solver, field: Slope, x0: Tensor) -> list[Tensor]:
        """The states before every step and after the last, each (*batch, dim)."""
        nodes = [x0]
        for t, h in self.steps:
            nodes.append(method.step(field, nodes[-1], t, h))
        return nodes

    def read(self, method: Solver, field: Slope, nodes: Tensor) -> Tensor:
        """The states at the asked times, (times, *batch, dim), from those at the nodes, (steps + 1, *batch, dim)."""
        if self.share is None or not isinstance(method, EmbeddedPair):
            return nodes[self.node]
        t, h = (torch.stack([torch.as_tensor(step[i]) for step in self.steps]) for i in (0, 1))
        before, t, h = (_at(self.node, along) for along in (nodes, t, h))
        return method.between(field, before, t.to(before), h.to(before), self.share[..., None].to(before))


def equal_steps(times: Tensor, dt: float) -> Mesh:
    """Between each two asked times equal steps of at most dt, as few as that takes; a node falls on each."""
    check_step(dt)
    gaps = times.diff(dim=0)
    counts = [max(1, math.ceil(float(gap.amax()) / dt - 1e-9)) for gap in gaps]  # a whole number of steps stays one
    steps: list[tuple[Time, Time]] = []
    for begin, gap, count in zip(times, gaps, counts, strict=False):
        h = gap / count
        steps += [(_time(begin + i * h), _time(h)) for i in range(count)]
    return Mesh(steps, torch.tensor([0, *counts]).cumsum(0).to(times.device))


def check_times(times: Tensor, batch: tuple[int, ...]) -> None:
    """Refuse asked times that are no rising sequence."""
    if times.ndim == 0 or len(times) < 2:
        raise InputError(f"times has shape {tuple(times.shape)}; it holds at least two: where x0 is given, and where it is asked.")
    if times.ndim > 1 and tuple(times.shape[1:]) != batch:
        raise InputError(
            f"times has shape {tuple(times.shape)}, but x0 has the batch {batch}.\n"
            f"Pass times of shape (times), or (times, {', '.join(map(str, batch))})."
        )
    if not torch.isfinite(times).all():
        raise InputError(f"{int((~torch.isfinite(times)).sum())} of the asked times are not finite.")
    falling = (times.diff(dim=0) <= 0).nonzero()
    if len(falling):
        i, item = int(falling[0][0]), tuple(falling[0][1:].tolist())
        here, after = float(times[(i, *item)]), float(times[(i + 1, *item)])
        raise InputError(
            f"times must increase, but time {i + 1} is {after:g} after {here:g}{f' in item {item}' if item else ''}.\n"
            "Sort them; to go backwards, follow −f from 0 on."
        )


def _time(value: Tensor) -> Time:
    """A number where it is one, else a column that broadcasts along states."""
    return float(value) if value.ndim == 0 else value[..., None]


def _at(index: Tensor, along: Tensor) -> Tensor:
    """Rows of `along`, (steps, *batch, width), by index, (times, *batch)."""
    return along.gather(0, index[..., None].expand(*index.shape, along.shape[-1]))
