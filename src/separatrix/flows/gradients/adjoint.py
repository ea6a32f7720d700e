r"""The gradient of the exact solution of an equation, by a second equation that is solved backwards.

The cotangent λ of the state and the gradient in the parameters are

    λ̇ = −(∂f/∂x)ᵀ λ,        g = ∫ (∂f/∂θ)ᵀ λ dt,

where λ is incremented by the cotangent of the loss at each requested time. It is solved from one requested time to the previous
one, with the method and tolerance of the solution. x(t) is read from the solution's polynomials and never solved backwards, which
would be unstable where the flow contracts. The integral is a three-point Gauss rule in each step.
Source: Pontryagin et al. 1962; Chen, Rubanova, Bettencourt & Duvenaud 2018, arXiv:1806.07366, algorithm 1 (with x solved
    backwards).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from separatrix.core.errors import NotConvergedError
from separatrix.core.result import Status
from separatrix.flows.field import Field
from separatrix.flows.methods.pair import Hermite, Pair
from separatrix.flows.methods.solver import Time
from separatrix.flows.steps.adaptive import adaptive_steps
from separatrix.flows.steps.discrete import Discrete
from separatrix.flows.steps.items import Group, Items, Together
from separatrix.flows.steps.mesh import Run, equal_steps
from separatrix.flows.steps.tensors import Tensors, check_nothing_hidden
from separatrix.flows.steps.tolerance import Tolerance

GAUSS = ((0.5 - 0.15**0.5, 5 / 18), (0.5, 4 / 9), (0.5 + 0.15**0.5, 5 / 18))  # nodes and weights in [0, 1], exact to degree 5


@dataclass(frozen=True)
class ByAdjoint:
    """Solution of the adjoint equation.

    Args:
        requested: the times, (times, items).
        dt: step size of equal steps, or None.
        tolerance: tolerance of adaptive steps, or None.
    """

    requested: Tensor
    dt: float | None
    tolerance: Tolerance | None

    def __call__(self, run: Discrete, tensors: Tensors, values: Sequence[Tensor], g: Tensor) -> list[Tensor]:
        """Cotangents of x0 and of the tensors, with the given values, from those of the requested states, (times, items, dim)."""
        leaves = [value.detach().requires_grad_() for value in values]
        together = run.together.over(tensors.replaced(run.together.field, leaves))
        path, gradients = Path(run), [torch.zeros_like(leaf) for leaf in leaves]
        λ = g[-1]
        for k in range(len(g) - 1, 0, -1):
            size = λ.abs().amax(-1, keepdim=True)
            field = Adjoint(together, path, self.requested[k], size[:, 0] > 0)
            back = self._back(run, field, λ / size.where(size > 0, 1.0), self.requested[k] - self.requested[k - 1])
            _add_integral(gradients, leaves, field, back, size)
            λ = size * back.nodes[-1] + g[k - 1]
        return [λ, *gradients]

    def _back(self, run: Discrete, field: "Adjoint", λ: Tensor, gap: Tensor) -> Discrete:
        """The cotangents from one requested time to the previous one, in reversed time."""
        items, times = len(λ), torch.stack([torch.zeros_like(gap), gap])
        together = Together(field, (items,), False, field.together.stacks, field.together.mixes)
        flat = Items(field, (items,))
        if self.tolerance is None:
            mesh = equal_steps(times, self.dt)
            back = Run.of(mesh, torch.stack(mesh.follow(run.method, flat, λ)), times)
        else:
            back = adaptive_steps(run.method, flat, λ, times, self.tolerance)
        if (back.codes != Status.OK).any():
            raise NotConvergedError(
                f"the adjoint equation could not be solved for {int((back.codes != Status.OK).sum())} of {items} items.\n"
                'Pass gradient="checkpoint", which does not need it.'
            )
        return Discrete.of(run.method, together, back.mesh, back.nodes)


class Path:
    """The solution as a function of time: the polynomial of every step.

    Args:
        run: the steps.
    """

    def __init__(self, run: Discrete) -> None:
        self.run = run
        self.x0 = run.nodes[0]
        self.pieces = pieces(run)
        self.rising = run.begins.where(run.lengths > 0, torch.inf).mT.contiguous()

    def at(self, t: Tensor, item: Tensor) -> Tensor:
        """The states of the given items at the given times, both of shape (states)."""
        node = (torch.searchsorted(self.rising[item], t[:, None], right=True)[:, 0] - 1).clamp(min=0)
        share = (t - self.run.begins[node, item]) / self.run.lengths[node, item]
        share = share.nan_to_num().clamp(0.0, 1.0).to(self.x0)[:, None]
        return Hermite(*(part[node, item] for part in vars(self.pieces).values())).at(share)


class Adjoint(Field):
    """λ ↦ (∂f/∂x)ᵀ λ along the solution, in reversed time.

    Args:
        together: the field f.
        path: the solution.
        ends: start of the reversed time, (items).
        active: mask of the items with cotangents other than 0, (items); the others rest.
    """

    def __init__(self, together: Together, path: Path, ends: Tensor, active: Tensor) -> None:
        super().__init__()
        self.together, self.path, self.ends, self.active = together, path, ends, active
        self.field = Items(together.field, None if together.packs else together.batch)

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity of cotangents, (*rows, items, dim)."""
        states, value = self.velocity(x.shape[:-1], t)
        if not value.requires_grad:  # independent of the state
            return torch.zeros_like(x)
        return torch.autograd.grad(value, states, x.reshape(states.shape), materialize_grads=True)[0].reshape(x.shape)

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The map is linear."""
        rows = [self(row, t) for row in v.unbind(-2)]
        return self(x, t), torch.stack(rows, dim=-2) if rows else v

    def velocity(self, shape: torch.Size, s: Time) -> tuple[Tensor, Tensor]:
        """The states of the solution at reversed times s, and their velocities with a graph, both (states, dim)."""
        item = torch.arange(shape[-1], device=self.ends.device).repeat(shape.numel() // shape[-1])
        s = s.reshape(-1).to(self.ends) if isinstance(s, Tensor) else s
        t = self.ends[item] - s
        states = self.path.at(t, item).where(self.active[item, None], self.path.run.rest)
        with torch.enable_grad():
            states.requires_grad_()
            return states, self.field(states, t[:, None].to(states))


def pieces(run: Discrete) -> Hermite:
    """The polynomials of all steps, each part (steps, items, dim): the pair's own, else cubics through states and slopes."""
    parts = [run.nodes[:-1].clone(), run.nodes[1:].clone(), *torch.zeros(3, *run.nodes[1:].shape).to(run.nodes)]
    for group in run.together.groups(run.lengths > 0):
        x = group.only(group.of(run.nodes), run.rest)
        piece = _piece(run, group, x, group.column(run.begins, x), group.column(run.lengths, x))
        for target, part in zip(parts[2:], (piece.leaving, piece.coming, piece.bend), strict=True):
            target.index_put_((group.row, group.item), group.only(part, 0.0))
    return Hermite(*parts)


def _piece(run: Discrete, group: Group, x: Tensor, t: Tensor, h: Tensor) -> Hermite:
    if isinstance(run.method, Pair):
        return run.method.piece(group.field, x, t, h)
    after = group.only(run.nodes[group.row + 1, group.item], run.rest)
    return Hermite(x, after, h * group.field(x, t), h * group.field(after, t + h), torch.zeros_like(x))


def _add_integral(gradients: list[Tensor], leaves: list[Tensor], field: Adjoint, back: Discrete, size: Tensor) -> None:
    """Add  ∫ (∂f/∂θ)ᵀ λ dt  over the backward steps; cotangents are in units of `size`, (items, 1)."""
    if not leaves:
        return
    found = pieces(back)
    for group in back.together.groups((back.lengths > 0) & field.active):
        of = Hermite(*(group.of(part) for part in vars(found).values()))
        t, h = (group.column(along, size) for along in (back.begins, back.lengths))
        shape = torch.Size((group.rows[1] - group.rows[0], len(size)))
        for node, weight in GAUSS:
            λ = group.only(of.at(torch.full_like(h, node)), 0.0) * size[group.item] * weight * h
            states, value = field.velocity(shape, t + node * h)
            again = partial(field.velocity, shape, t + node * h)
            check_nothing_hidden(value, lambda again=again: again()[1], [states, *leaves])
            parts = torch.autograd.grad(value, leaves, λ, allow_unused=True) if value.requires_grad else ()
            for total, part in zip(gradients, parts, strict=False):
                if part is not None:
                    total += part
