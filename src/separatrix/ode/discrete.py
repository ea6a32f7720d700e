"""The solution by steps: a discrete one, of which every state is known, and which can be differentiated exactly."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separatrix.evolve import watched_count
from separatrix.ode.items import Group, Together
from separatrix.ode.mesh import Mesh
from separatrix.solvers.solver import Slope, Solver, Time

# Note [Failing without a trace]
# A step that overflows has an infinite derivative, and infinity times a cotangent of 0 is NaN: one such item would poison the
# gradient of all parameters. So a step that fails is taken again from where an item began that does not, and its result is
# thrown away. Where items are computed that nobody asked for, only since their row is, they stand there too.


def follow(method: Solver, field: Slope, x0: Tensor, mesh: Mesh, *, progress: bool = False) -> Tensor:
    """The states before every step and after the last, (steps + 1, items, dim); NaN from an item's first failure on."""
    nodes, fine = [x0], None
    for tick in watched_count(len(mesh.steps), "steps", progress):
        t, h = (_like(x0, value) for value in mesh.steps[tick.index])
        x = nodes[-1] if fine is None else nodes[-1].where(fine, x0)
        after = method.step(field, x, t, h)
        if not math.isfinite(after.detach().sum()):  # the cheapest proof, and nearly always enough
            whole = torch.isfinite(after.detach()).all(-1, keepdim=True)
            if not whole.all():
                fine = whole if fine is None else whole & fine
                if not fine.any():
                    nodes += [torch.full_like(x0, torch.nan)] * (len(mesh.steps) + 1 - len(nodes))
                    break
                x0 = x0[fine[:, 0]][:1].expand_as(x0)
                after = method.step(field, x.where(fine, x0), t, h)
        nodes.append(after if fine is None else after.where(fine, torch.nan))
    return torch.stack(nodes)


@dataclass(frozen=True)
class Discrete:
    """A run of steps of a method, and its states.

    Args:
        method: what took the steps.
        together: the field, and how many states it takes at once.
        begins, lengths: t and h of each step, shape (steps, items); a length of 0 fills.
        nodes: the states before every step and after the last, shape (steps + 1, items, dim).
        node: of each asked time, how many steps come before the one it lies in, shape (times, items).
        share: how far in that step it lies, in [0, 1], same shape.
    """

    method: Any
    together: Together
    begins: Tensor
    lengths: Tensor
    nodes: Tensor
    node: Tensor
    share: Tensor

    @classmethod
    def of(cls, method: Solver, together: Together, mesh: Mesh, nodes: Tensor) -> "Discrete":
        """From a mesh and its states."""
        items = nodes.shape[1]
        begins, lengths = (torch.stack([_row(step[i], items, nodes.device) for step in mesh.steps]) for i in (0, 1))
        node = mesh.node[:, None].expand(-1, items) if mesh.node.ndim == 1 else mesh.node
        share = torch.zeros_like(node, dtype=begins.dtype) if mesh.share is None else mesh.share
        return cls(method, together, begins, lengths, nodes, node, share)

    @property
    def rest(self) -> Tensor:
        """A state at which the field is finite, (dim): where the first item began that took a step."""
        return self.nodes[0, torch.isfinite(self.nodes[1]).all(-1).int().argmax()].detach()

    @property
    def inside(self) -> Tensor:
        """Which asked times lie between the ends of a step, shape (times, items)."""
        return (self.share > 0) & (self.share < 1)

    @property
    def nearest(self) -> Tensor:
        """The node on which an asked time lies that is not inside a step, shape (times, items)."""
        return self.node + (self.share >= 1)

    def states(self) -> Tensor:
        """The states at the asked times, shape (times, items, dim); with a graph where the nodes have one."""
        found = gathered(self.nodes, self.nearest)
        for group in self.together.groups(self.inside):
            values = group.only(self.between(group, self.before(group)), found[group.row, group.item])
            found = found.index_put((group.row, group.item), values)
        return found

    def before(self, group: Group) -> Tensor:
        """The states before the steps in which a group of asked times lies, shape (states, dim)."""
        return group.only(self.nodes[group.of(self.node), group.item], self.rest)

    def between(self, group: Group, x: Tensor) -> Tensor:
        """The states at a group of asked times, from those before their steps."""
        t, h = (along[group.of(self.node), group.item][:, None].to(x) for along in (self.begins, self.lengths))
        return self.method.between(group.field, x, t, h, group.of(self.share)[:, None].to(x))


def gathered(along: Tensor, index: Tensor) -> Tensor:
    """Rows of `along`, (rows, items, dim), by index, (times, items)."""
    return along.gather(0, index[..., None].expand(*index.shape, along.shape[-1]))


def _like(x: Tensor, value: Time) -> Time:
    """In the dtype of the state."""
    return value.to(x) if isinstance(value, Tensor) else value


def _row(value: float | Tensor, items: int, device: torch.device) -> Tensor:
    """Of one step a number for each item, shape (items)."""
    if isinstance(value, Tensor):
        return value.reshape(-1).expand(items)
    return torch.full((items,), value, dtype=torch.float64, device=device)
