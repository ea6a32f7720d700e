"""The rate at which two near trajectories part: λ₁ without any derivative, to check the tangents by."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.special import stdtrit
from torch import Tensor

from separatrix.analysis.run.statistics import GROUPS, drifts, standard_error
from separatrix.analysis.run.steps import plan_steps
from separatrix.analysis.run.tally import Tally
from separatrix.analysis.run.tangent_run import Block
from separatrix.core.checks import check_seed
from separatrix.core.evolve import Front, begin
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import measured, plain

DISTANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # near √eps: rounding and curvature then weigh alike
MEMORY = (
    0.9  # of the state's size from step to step: a passage near the origin leaves the distance above the rounding inside a step
)
FALSE_ALARM = 1e-4  # how often sound runs may be said to disagree, all items of a batch together
ALIGNMENT = 5  # nats by which two first directions may differ while both turn into the leading one


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DivergenceRate(Result):
    """How fast two trajectories part that began a tiny distance from each other.

    Args:
        rate: (*batch), nats per unit time; an estimate of λ₁. −∞ when they merge to the last bit.
        stderr: (*batch), standard error by batch means; 0 for −∞.
        distance: what the separation is brought back to after every step, relative to the size of the state.
        duration: (*batch), the elapsed time that the rate is an average over.
        steps: the steps in it.
    """

    rate: Tensor
    stderr: Tensor
    duration: Tensor
    distance: float
    steps: int

    drawn_by: ClassVar[str] = "separatrix.plot.check:divergence_figure"
    layout: ClassVar[dict[str, str]] = {"rate": "batch", "stderr": "batch", "duration": "batch"}
    units: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("rate", "stderr"), "nats per unit time"),
        "duration": "units of time",
    }

    def summary(self) -> str:
        """The rate in words."""
        known = self.rate[~self.rate.isnan()]
        if known.numel() == 0:
            return "two near trajectories: diverged"
        if self.rate.ndim:
            return f"two near trajectories part at {plain(float(known.min()))} … {plain(float(known.max()))} nats per {self.clock}"
        return f"two near trajectories part at {measured(float(self.rate), float(self.stderr))} nats per {self.clock}"

    def disagrees(self, lambda_1: Tensor, stderr: Tensor) -> Tensor:
        r"""Whether λ₁ from tangents, shape (*batch), lies beyond both error bars of this rate; (*batch), bool.

            |λ₁ − rate| > q √(e₁² + e₂²) + 5 / T + d (1 + exp(−max(λ₁, rate) τ)) / τ

        q: quantile of Student's t at a level of 10⁻⁴ over all items. 5 / T: directions may turn into the leading one from
        different sides. The last term, with τ the time of a step and d ten times `distance`, is what curvature and rounding add to
        a step; rates below ln(d) a step are not resolved, and count as that. An item whose rate is NaN where λ₁ is not disagrees;
        where an error bar is NaN, the run is too short to tell.
        """
        step, rough = self.duration / self.steps, 10 * self.distance
        level = -float(stdtrit(GROUPS - 1, FALSE_ALARM / 2 / max(1, self.rate.numel())))
        ours, theirs = (rate.clamp(min=math.log(rough) / step) for rate in (lambda_1, self.rate))
        inexact = rough * (1 + (-torch.maximum(ours, theirs) * step).exp()) / step
        bars = level * torch.hypot(stderr, self.stderr) + ALIGNMENT / self.duration + inexact
        return ((ours - theirs).abs() > bars) | (self.rate.isnan() & ~lambda_1.isnan())


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
        DivergenceRate: `rate` and `stderr`, shape (*batch), nats per unit time. An item whose rate drifts between the halves of the
        run, or whose run is too short for an error bar, is `not_converged`.

    Limits: the distance d is 1e-8 in float64 (1e-3 in float32) of the size of the state, so the rate carries a relative error
    near 1e-8 per step, and directions that contract below rounding in one step are not resolved. The size is ‖x‖, or what it was
    in the last steps, but not below 1 unless the orbit itself has been smaller from its start.
    Source: Benettin, Galgani & Strelcyn 1976, Phys. Rev. A 14, 2338.
    """
    seed = check_seed(seed)
    plan = plan_steps(system, steps=steps, settle=settle)
    front = begin(system, x0, seed=seed)
    x = front.x
    distance, size = DISTANCE[x.dtype], _Size(x)
    away = torch.randn(system.dim, dtype=torch.float64, generator=torch_generator(seed, "twin trajectory")).to(x)
    gap = distance * size.now
    other = x + gap * away / away.norm()
    pair, tally = Front(front.system, torch.stack([x, other.expand_as(x)]), lived=front.lived.expand(2, *x.shape[:-1])), Tally()
    for n in range(plan.settle + plan.steps):
        before, wide = pair, gap
        pair = pair.advance(1)
        x, other = pair.x
        parted = torch.linalg.vector_norm(other - x, dim=-1, keepdim=True)
        apart = parted > 0
        direction = (other - x).where(apart, away) / parted.where(apart, away.norm())
        size.follow(x, settling=n < plan.settle)
        gap = distance * size.now
        pair = Front(pair.system, torch.stack([x, x + gap * direction]), pair.n, None, pair.lived, pair.time)
        if n >= plan.settle:
            elapsed = torch.as_tensor(pair.time - before.time)
            tally.add(Block((parted / wide).log(), elapsed[0] if elapsed.ndim else float(elapsed), 1))
    rates, duration = tally.series()
    failed = ~(pair.lived == pair.n).all(0)
    time = duration.sum(0)[..., 0]
    merged = rates.isneginf().any(0)
    error = standard_error(rates, duration).masked_fill(merged, 0.0)
    unsteady = (drifts(rates, duration) & ~merged | error.isnan())[..., 0]
    codes = torch.where(unsteady, Status.NOT_CONVERGED, Status.OK).masked_fill(failed, Status.DIVERGED)
    return DivergenceRate(
        codes=codes.to(torch.int8),
        rate=((rates * duration).sum(0)[..., 0] / time).masked_fill(failed, torch.nan),
        stderr=error[..., 0].masked_fill(failed, torch.nan),
        duration=time,
        distance=distance,
        steps=plan.steps,
        settings={"steps": plan.steps, "settle": plan.settle, "seed": seed, "clock": system.clock},
    )


class _Size:
    """The size of the states, shape (*batch, 1), that a separation is small beside: rounding grows with it.

    It is ‖x‖, with a memory of some ten steps for passages near the origin. An orbit that comes to rest at the origin keeps 1, as
    rounding inside a step may not shrink with the state, or the largest size it had while it settled where that is smaller: in
    small units an attractor is small as a whole.
    """

    def __init__(self, x: Tensor) -> None:
        self.now = self.largest = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        self._keep_off_zero()

    def follow(self, x: Tensor, *, settling: bool) -> None:
        """Take in the next state."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        self.now = torch.maximum(MEMORY * self.now, norm)
        if settling:
            self.largest = torch.maximum(self.largest, norm)
            self._keep_off_zero()
        self.now = torch.maximum(self.now, self.least)

    def _keep_off_zero(self) -> None:
        self.least = self.largest.clamp(max=1).where(self.largest > 0, 1.0)
        self.now = torch.maximum(self.now, self.least)
