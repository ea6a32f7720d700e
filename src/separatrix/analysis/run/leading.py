"""The leading singular values of a long product of Jacobians without the Jacobians: sweeps forwards with J and backwards with Jᵀ."""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.analysis.run.product import Product
from separatrix.analysis.run.tangent_run import random_frame
from separatrix.core.evolve import Front
from separatrix.core.memory import check_memory
from separatrix.core.orthonormal import orthonormalise

MORE = 4  # directions beyond those asked for, which speed up the convergence
FEWEST_SWEEPS, MOST_SWEEPS = 2, 12
SLOWEST = 0.95  # largest ratio of successive changes that is extrapolated
WHOLE = 1_024  # dimension up to which the whole Jacobian is carried, which is then as fast

# Note [Sweeps]
# The rows of a frame V pushed forwards along the orbit span the rows of V J, and R in  V J = R Q  (see Note [Singular values of a long
# product]) has the Ritz values of J in V as its singular values. Pushing Q backwards with Jᵀ gives the next V, which is the subspace
# iteration for J Jᵀ. The values rise towards those of J by a factor (σ_{k+1}/σ_i)² a sweep, so the sum of the remaining changes, a
# geometric series of the last two, is the error. k random tangents alone do not show the leading singular values.


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

    @property
    def begun(self) -> int:
        """The step at which the orbit starts."""
        return self.front.n - len(self.states)

    def forwards(self, frame: Tensor, steps: int) -> Product:
        """A frame of orthonormal rows pushed through the first steps, as a product in logarithms."""
        product = Product.of_frame(frame)
        for n, x in enumerate(self.states[:steps], self.begun):
            product = product.times(self.front.system.pushforward(x, product.frame, n)[1])
        return product

    def backwards(self, frame: Tensor, steps: int) -> Tensor:
        """A frame pulled back through the first steps by Jᵀ, with orthonormal rows."""
        for n, x in reversed([*enumerate(self.states[:steps], self.begun)]):
            frame = orthonormalise(self._pulled_back(x, frame, n))[0]
        return frame

    def _pulled_back(self, x: Tensor, w: Tensor, n: int) -> Tensor:
        """The rows of w times the Jacobian at x: gradients of one step from as many copies of the state."""
        rows = w.movedim(-2, 0)
        with torch.enable_grad():
            copies = x.expand(rows.shape).detach().clone().requires_grad_()
            after = self.front.system.step(copies, n)
            (pulled,) = torch.autograd.grad(after, copies, rows)
        return pulled.movedim(0, -2)


def leading_singular_values(
    orbit: Orbit, steps: int, k: int, *, tol: float, seed: int, frame: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """ln σ_i of the product over the first steps, descending, and their errors, (*batch, k); and the frame that they were found in.

    Args:
        orbit: the orbit.
        steps: number of its steps.
        k: number of singular values.
        tol: error in nats at which the sweeps end.
        seed: seed of the first frame.
        frame: the first frame, such as that of fewer steps.
    """
    x = orbit.states[0]
    v = random_frame(x, min(k + MORE, x.shape[-1]), seed) if frame is None else frame
    before = change = None
    for sweep in range(MOST_SWEEPS):
        product = orbit.forwards(v, steps)
        values = product.log_singular_values(k)
        last, change = change, None if before is None else _difference(values, before)
        before = values
        if sweep + 1 >= FEWEST_SWEEPS and change is not None:
            error = _remaining(change, last)
            if bool((error.nan_to_num(0.0) <= tol).all()):
                return values, error, v
        v = orbit.backwards(product.frame, steps)
    return values, error, v


def _difference(values: Tensor, before: Tensor) -> Tensor:
    """The change of the values; 0 where both are −∞."""
    return (values - before).abs().where(values != before, 0.0)


def _remaining(change: Tensor, last: Tensor | None) -> Tensor:
    """The sum of the changes to come, if each is a constant fraction of the one before."""
    if last is None:
        return change
    ratio = (change / last.clamp(min=torch.finfo(change.dtype).tiny)).clamp(max=SLOWEST)
    return change * ratio / (1 - ratio)
