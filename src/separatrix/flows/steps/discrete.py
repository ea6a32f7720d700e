"""Discrete solutions: all states of a run of steps, exactly differentiable."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separatrix.flows.methods.solver import Solver
from separatrix.flows.steps.items import Group, Together
from separatrix.flows.steps.mesh import Mesh


@dataclass(frozen=True)
class Discrete:
    """The steps of a run, and its states.

    Args:
        method: the method that took the steps.
        together: the field, and the states that it accepts at once.
        begins, lengths: t and h of each step, shape (steps, items); a length of 0 is padding.
        nodes: the states before every step and after the last, shape (steps + 1, items, dim).
        node: for each requested time, the number of steps before the one that contains it, shape (times, items).
        share: the fraction of that step, in [0, 1], same shape.
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
        """The run of a mesh with its states."""
        items = nodes.shape[1]
        begins, lengths = (torch.stack([_row(step[i], items, nodes.device) for step in mesh.steps]) for i in (0, 1))
        node = mesh.node[:, None].expand(-1, items) if mesh.node.ndim == 1 else mesh.node
        share = torch.zeros_like(node, dtype=begins.dtype) if mesh.share is None else mesh.share
        return cls(method, together, begins, lengths, nodes, node, share)

    @property
    def rest(self) -> Tensor:
        """A state at which the field is finite, (dim): the initial state of the first item that took a step."""
        return self.nodes[0, torch.isfinite(self.nodes[1]).all(-1).int().argmax()].detach()

    @property
    def inside(self) -> Tensor:
        """Mask of the requested times that lie strictly inside a step, shape (times, items)."""
        return (self.share > 0) & (self.share < 1)

    @property
    def nearest(self) -> Tensor:
        """The node at each requested time that is not inside a step, shape (times, items)."""
        return self.node + (self.share >= 1)

    def states(self) -> Tensor:
        """The states at the requested times, shape (times, items, dim); with a graph if the nodes have one."""
        found = gathered(self.nodes, self.nearest)
        for group in self.together.groups(self.inside):
            values = group.only(self.between(group, self.before(group)), found[group.row, group.item])
            found = found.index_put((group.row, group.item), values)
        return found

    def before(self, group: Group) -> Tensor:
        """The states before the steps that contain a group of requested times, shape (states, dim)."""
        return group.only(self.nodes[group.of(self.node), group.item], self.rest)

    def after(self, group: Group, x: Tensor) -> Tensor:
        """The states after a group's steps, from the states before, both (states, dim)."""
        return self.method.step(group.field, x, group.column(self.begins, x), group.column(self.lengths, x))

    def between(self, group: Group, x: Tensor) -> Tensor:
        """The states at a group of requested times, from the states before their steps."""
        t, h = (along[group.of(self.node), group.item][:, None].to(x) for along in (self.begins, self.lengths))
        return self.method.between(group.field, x, t, h, group.of(self.share)[:, None].to(x))


def gathered(along: Tensor, index: Tensor) -> Tensor:
    """Rows of `along`, (rows, items, dim), by index, (times, items)."""
    return along.gather(0, index[..., None].expand(*index.shape, along.shape[-1]))


def _row(value: float | Tensor, items: int, device: torch.device) -> Tensor:
    """One number per item for a step, shape (items)."""
    if isinstance(value, Tensor):
        return value.reshape(-1).expand(items)
    return torch.full((items,), value, dtype=torch.float64, device=device)
