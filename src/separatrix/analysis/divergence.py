"""The rate at which two near trajectories part: λ₁ without any derivative, to check the tangents by."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.statistics import standard_error
from separatrix.analysis.steps import plan_steps
from separatrix.analysis.tally import Tally
from separatrix.analysis.tangent_run import Block
from separatrix.evolve import Front, begin, check_seed
from separatrix.randomness import torch_generator
from separatrix.result import Result, Status
from separatrix.system import System
from separatrix.wording import measured, plain

DISTANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # near √eps: rounding and curvature then weigh alike


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DivergenceRate(Result):
    """How fast two trajectories part that began a tiny distance from each other.

    Args:
        rate: (*batch), nats per unit time; an estimate of λ₁. −∞ when they merge to the last bit.
        stderr: (*batch), standard error by batch means.
        distance: what the separation is brought back to after every step, in units of max(1, ‖x‖).
    """

    rate: Tensor
    stderr: Tensor
    distance: float

    layout: ClassVar[dict[str, str]] = {"rate": "batch", "stderr": "batch"}
    units: ClassVar[dict[str, str]] = {"rate": "nats per unit time", "stderr": "nats per unit time"}

    def summary(self) -> str:
        """The rate in words."""
        known = self.rate[~self.rate.isnan()]
        if known.numel() == 0:
            return "two near trajectories: diverged"
        if self.rate.ndim:
            return f"two near trajectories part at {plain(float(known.min()))} … {plain(float(known.max()))} nats per unit time"
        return f"two near trajectories part at {measured(float(self.rate), float(self.stderr))} nats per unit time"


@torch.no_grad()
def divergence_rate(
    system: System, x0: Tensor | None = None, *, steps: int | None = None, settle: int | None = None, seed: int = 0
) -> DivergenceRate:
    r"""λ₁ from two trajectories:  (1/T) Σ log(‖x'_{n+1} − x_{n+1}‖ / d),  the separation brought back to d after each step.

    Args:
        system: any System; only its `step` is used.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        steps: steps to average over. Default as for `lyapunov_spectrum`.
        settle: steps before them, in which the separation turns into the leading direction.
        seed: of the initial state and of the first separation.

    Returns:
        DivergenceRate: `rate` and `stderr`, shape (*batch), nats per unit time.

    Limits: the distance d is 1e-8 max(1, ‖x‖) in float64, so the rate carries a relative error near 1e-8 per step,
    and directions that contract below rounding in one step are not resolved.
    Source: Benettin, Galgani & Strelcyn 1976, Phys. Rev. A 14, 2338.
    """
    seed = check_seed(seed)
    plan = plan_steps(system, steps=steps, settle=settle)
    front = begin(system, x0, seed=seed)
    x = front.x
    distance = DISTANCE[x.dtype]
    away = torch.randn(system.dim, dtype=torch.float64, generator=torch_generator(seed, "twin trajectory")).to(x)
    gap = distance * _size(x)
    other = x + gap * away / away.norm()
    pair, tally = Front(front.system, torch.stack([x, other.expand_as(x)]), lived=front.lived.expand(2, *x.shape[:-1])), Tally()
    for n in range(plan.settle + plan.steps):
        before, wide = pair, gap
        pair = pair.advance(1)
        x, other = pair.x
        parted = torch.linalg.vector_norm(other - x, dim=-1, keepdim=True)
        apart = parted > 0
        direction = (other - x).where(apart, away) / parted.where(apart, away.norm())
        gap = distance * _size(x)
        pair = Front(pair.system, torch.stack([x, x + gap * direction]), pair.n, None, pair.lived, pair.time)
        if n >= plan.settle:
            elapsed = torch.as_tensor(pair.time - before.time)
            tally.add(Block((parted / wide).log(), elapsed[0] if elapsed.ndim else float(elapsed), 1))
    rates, duration = tally.series()
    failed = ~(pair.lived == pair.n).all(0)
    return DivergenceRate(
        codes=torch.where(failed, Status.DIVERGED, Status.OK).to(torch.int8),
        rate=((rates * duration).sum(0) / duration.sum(0))[..., 0].masked_fill(failed, torch.nan),
        stderr=standard_error(rates, duration)[..., 0].masked_fill(failed, torch.nan),
        distance=distance,
        settings={"steps": plan.steps, "settle": plan.settle, "seed": seed},
    )


def _size(x: Tensor) -> Tensor:
    """max(1, ‖x‖), shape (*batch, 1): rounding grows with the state, so the distance does."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1)
