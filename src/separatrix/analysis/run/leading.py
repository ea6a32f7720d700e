"""The leading singular values of a long product of Jacobians, by block Lanczos with J forwards and Jᵀ backwards."""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.analysis.run.tangent_run import random_frame
from separatrix.core.evolve import Front
from separatrix.core.memory import check_memory
from separatrix.core.orthonormal import orthonormalise

MORE = 2  # directions of a block beyond those asked for
MOST_BLOCKS = 16
WHOLE = 1_024  # dimension up to which the whole Jacobian is carried, which is then as fast

# Note [Block Lanczos]
# Rows V, pushed forwards along the orbit, give V J; pulled backwards, V J Jᵀ. What is new in these, made orthonormal, are the next
# rows, and in the span of all rows so far (the Krylov space of J Jᵀ) the singular values of V J are the Ritz values of J. A Ritz
# vector u with value σ leaves the residual  ‖u J Jᵀ − σ² u‖,  within which σ² has a true value of J Jᵀ beside it: so ln σ has an
# error of at most  residual / 2σ²,  to first order. k random tangents alone do not show the leading singular values.
# The lengths along the orbit are kept as logarithms, one for each pass.


@dataclass(frozen=True)
class Orbit:
    """The states along an orbit, at which Jacobians are applied.

    Args:
        front: where the orbit starts.
        states: the states before each step.
    """

    front: Front
    states: list[Tensor]

    @classmethod
    def of(cls, front: Front, steps: int) -> "Orbit":
        """The orbit over a number of steps."""
        check_memory("the orbit", float(steps) * front.x.numel(), front.x, "Pass fewer steps or fewer initial states.")
        states = []
        for _ in range(steps):
            states.append(front.x)
            front = front.advance(1)
        return cls(front, states)

    def longer(self, steps: int) -> "Orbit":
        """The orbit over at least this number of steps."""
        further = Orbit.of(self.front, max(steps - len(self.states), 0))
        return Orbit(further.front, [*self.states, *further.states])

    @property
    def begun(self) -> int:
        """The step at which the orbit starts."""
        return self.front.n - len(self.states)

    def forwards(self, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """v J over the first steps, as rows and the logarithm of their common unit, (*batch)."""
        unit = torch.zeros_like(v[..., 0, 0])
        for n, x in enumerate(self.states[:steps], self.begun):
            v, unit = _rescaled(self.front.system.pushforward(x, v, n)[1], unit)
        return v, unit

    def backwards(self, w: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """w Jᵀ over the first steps, as rows and the logarithm of their common unit, (*batch)."""
        unit = torch.zeros_like(w[..., 0, 0])
        for n, x in reversed([*enumerate(self.states[:steps], self.begun)]):
            w, unit = _rescaled(self._pulled_back(x, w, n), unit)
        return w, unit

    def _pulled_back(self, x: Tensor, w: Tensor, n: int) -> Tensor:
        """The rows of w times the transposed Jacobian at x: gradients of one step from as many copies of the state."""
        rows = w.movedim(-2, 0)
        with torch.enable_grad():
            copies = x.expand(rows.shape).detach().clone().requires_grad_()
            (pulled,) = torch.autograd.grad(self.front.system.step(copies, n), copies, rows)
        return pulled.movedim(0, -2)


def _rescaled(rows: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    size = rows.abs().amax((-2, -1))
    size = size.where(size > 0, 1.0)
    return rows / size[..., None, None], unit + size.log()


def leading_singular_values(
    orbit: Orbit, steps: int, k: int, *, tol: float, seed: int, first: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """ln σ_i of the product over the first steps, descending, and bounds of their errors, (*batch, k); and the directions, as rows.

    Args:
        orbit: the orbit.
        steps: number of its steps.
        k: number of singular values.
        tol: error in nats at which the iteration ends; it also ends after 16 blocks.
        seed: seed of the first rows.
        first: rows to begin with, (*batch, k, dim), such as the directions of fewer steps.
    """
    x = orbit.states[0]
    block = random_frame(x, min(k + MORE, x.shape[-1]), seed)
    if first is not None:
        block = orthonormalise(torch.cat([first, block[..., k:, :]], dim=-2))[0]
    rows, pushed, pulled, units = block[..., :0, :], [], [], []
    while True:
        after, unit = orbit.forwards(block, steps)
        back, more = orbit.backwards(after, steps)
        rows = torch.cat([rows, block], dim=-2)
        pushed.append(after)
        pulled.append(back)
        units.append((unit, unit + more))
        values, error, directions = _ritz(rows, pushed, pulled, units, k)
        is_done = bool((error.nan_to_num(0.0) <= tol).all()) or len(pushed) == MOST_BLOCKS
        if is_done or rows.shape[-2] + block.shape[-2] > x.shape[-1]:
            return values, error, directions
        block = _beside(rows, _beside(rows, back))


def _ritz(
    rows: Tensor, pushed: list[Tensor], pulled: list[Tensor], units: list[tuple[Tensor, Tensor]], k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The k leading Ritz values in logarithms, the bounds of their errors, and their vectors."""
    unit = torch.stack([one for one, _ in units]).amax(0)
    w = torch.cat([part * (own - unit).exp()[..., None, None] for part, (own, _) in zip(pushed, units, strict=True)], -2)
    z = torch.cat([part * (own - 2 * unit).exp()[..., None, None] for part, (_, own) in zip(pulled, units, strict=True)], -2)
    finite = w.isfinite().all(-1).all(-1) & z.isfinite().all(-1).all(-1)
    w, z = w.where(finite[..., None, None], 0.0), z.where(finite[..., None, None], 0.0)
    u, sigma, _ = torch.linalg.svd(w, full_matrices=False)
    u, sigma = u[..., :k].mT, sigma[..., :k]
    directions = u @ rows
    residual = torch.linalg.vector_norm(u @ z - sigma.square()[..., None] * directions, dim=-1)
    error = (residual / (2 * sigma.square())).where(sigma > 0, 0.0)
    values = (sigma.log() + unit[..., None]).where(finite[..., None], torch.nan)
    return values, error.where(finite[..., None], torch.nan), directions


def _beside(rows: Tensor, block: Tensor) -> Tensor:
    """A block without its parts along orthonormal rows, with orthonormal rows."""
    return orthonormalise(block - (block @ rows.mT) @ rows)[0]
