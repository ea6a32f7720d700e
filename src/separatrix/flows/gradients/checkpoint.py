r"""The exact gradient of a discrete solution, from its states.

With the steps  x_{n+1} = Φ_n(x_n, θ)  held fixed, the cotangents λ_n of the states and the gradient in the parameters are

    λ_n = (∂Φ_n/∂x)ᵀ λ_{n+1} + c_n,        g = Σ_n (∂Φ_n/∂θ)ᵀ λ_{n+1} + …,

where c_n is the cotangent of the loss at x_n itself. All x_n are known, so all Φ_n are evaluated again as one batch. For short
states the Jacobians ∂Φ_n/∂x are computed row by row, the recursion is one small product per step, and one more backward pass gives
g. For long states each step is differentiated separately, once its λ_{n+1} is known.
Source: Griewank & Walther 2008, Evaluating Derivatives, chapters 3 and 12 (every step is a checkpoint).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from separatrix.flows.steps.discrete import Discrete
from separatrix.flows.steps.items import Group
from separatrix.flows.steps.tensors import Tensors, check_nothing_hidden

NARROW = 8  # state length up to which Jacobians are cheaper than a sequence of steps


def by_checkpoints(run: Discrete, tensors: Tensors, values: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """Cotangents of x0 and of the tensors, with the given values, from those of the requested states, (times, items, dim)."""
    return Backward(run, tensors, values).cotangents(g)


class Backward:
    """A backward pass through a run.

    Args:
        run: the steps and their states.
        tensors: tensors of the field that receive gradients.
        values: their values.
    """

    def __init__(self, run: Discrete, tensors: Tensors, values: Sequence[Tensor]) -> None:
        self.run = run
        self.leaves = [value.detach().requires_grad_() for value in values]
        self.together = run.together.over(tensors.replaced(run.together.field, self.leaves))
        self.gradients = [torch.zeros_like(leaf) for leaf in self.leaves]

    def cotangents(self, g: Tensor) -> list[Tensor]:
        """Cotangents of x0 and of the tensors, from those of the requested states, (times, items, dim)."""
        run = self.run
        c = self._of_nodes(g)
        matters = ((c != 0).any(-1).flip(0).cumsum(0).flip(0) > 0)[1:]  # later steps do not affect the loss
        wanted = matters & (run.lengths > 0)
        narrow = c.shape[-1] <= NARROW
        at, upto = c[-1], len(wanted)
        for group in self.together.groups(wanted, most_rows=None if narrow else 1):
            first, end = group.rows
            at = self._through(group, at + c[end:upto].sum(0), c[first:end])
            upto = first
        return [at + c[:upto].sum(0), *self.gradients]

    def _of_nodes(self, g: Tensor) -> Tensor:
        """The loss's cotangents of all nodes, (steps + 1, items, dim): direct ones, and through the polynomials between nodes."""
        run, c = self.run, torch.zeros_like(self.run.nodes)
        requested = (g != 0).any(-1)
        time, item = (requested & ~run.inside).nonzero(as_tuple=True)
        c.index_put_((run.nearest[time, item], item), g[time, item], accumulate=True)
        for group in self.together.groups(requested & run.inside):
            x = run.before(group).requires_grad_()
            value = self._of(x, partial(run.between, group))
            found = self._pulled(value, x, group.only(group.of(g), 0.0))
            c.index_put_((group.of(run.node), group.item), found, accumulate=True)
        return c

    def _through(self, group: Group, at: Tensor, c: Tensor) -> Tensor:
        """The cotangents λ before the group's rows, (items, dim), from those after; adds the group's share to the gradients."""
        run, (first, end) = self.run, group.rows
        x = group.only(group.of(run.nodes), run.rest).requires_grad_()
        value = self._of(x, partial(run.after, group))
        if end == first + 1:
            before = self._pulled(value, x, group.only(at[group.item], 0.0))
            before = group.only(before, at[group.item])
            return at.index_put((group.item,), before) + c[0]
        jacobians = group.scattered(_jacobians(value, x))
        after = torch.empty_like(c)
        for n in reversed(range(end - first)):
            after[n] = at
            at = (jacobians[n] * at[..., None]).sum(-2) + c[n]
        self._pulled(value, x, group.only(after[group.row - first, group.item], 0.0), by_state=False)
        return at

    def _of(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of the states x with its graph, checked to lead only to them and to the tensors."""
        with torch.enable_grad():
            value = f(x)
            check_nothing_hidden(value, lambda: f(x), [x, *self.leaves])
        return value

    def _pulled(self, value: Tensor, x: Tensor, cotangents: Tensor, *, by_state: bool = True) -> Tensor:
        """The cotangents of x; those of the tensors are added to the gradients."""
        by = [*self.leaves, x] if by_state else self.leaves
        found = list(torch.autograd.grad(value, by, cotangents, allow_unused=True)) if by else []
        of_x = found.pop() if by_state else x
        for total, part in zip(self.gradients, found, strict=True):
            if part is not None:
                total += part
        return of_x


def _jacobians(value: Tensor, x: Tensor) -> Tensor:
    """∂value_i/∂x_j of each state, shape (states, dim, dim)."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    rows = [torch.autograd.grad(value, x, unit.expand_as(value), retain_graph=True)[0] for unit in identity]
    return torch.stack(rows, dim=1)
