"""The rate at which two nearby trajectories separate: λ₁ without derivatives, as a check of the tangents."""

import math
from dataclasses import dataclass
from typing import ClassVar

import scipy
import torch
from torch import Tensor

from separatrix.analysis.run.statistics import GROUPS, drifts, standard_error
from separatrix.analysis.run.steps import plan_steps
from separatrix.analysis.run.tally import Tally
from separatrix.analysis.run.tangent_run import Block
from separatrix.core.checks import check_seed
from separatrix.core.evolve import Front, begin
from separatrix.core.progress import watched_count
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import measured, plain

DISTANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # near √eps, where rounding and curvature contribute equally
MEMORY = 0.9  # decay per step of the state's size, so that a passage near the origin keeps the distance above rounding
FALSE_ALARM = 1e-4  # probability that a correct batch is reported to disagree
ALIGNMENT = 5  # nats by which two initial directions may differ while both align with the leading one


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DivergenceRate(Result):
    r"""The rate at which two nearby trajectories separate,  (1/T) Σ log(‖x'_{n+1} − x_{n+1}‖ / d).

    Args:
        rate: (*batch), nats per unit time, an estimate of λ₁; −∞ if the two become equal to the last bit.
        stderr: (*batch), standard error by batch means; 0 for −∞.
        distance: d, to which the separation is reset after every step, relative to the size of the state.
        duration: (*batch), T, the time averaged over.
        steps: the number of steps averaged over.
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
        rates = self.rate[~self.rate.isnan()]
        if rates.numel() == 0:
            return "two nearby trajectories: diverged"
        if self.rate.ndim:
            low, high = plain(float(rates.min())), plain(float(rates.max()))
            return f"two nearby trajectories separate at {low} … {high} nats per {self.clock}"
        return f"two nearby trajectories separate at {measured(float(self.rate), float(self.stderr))} nats per {self.clock}"

    def disagrees(self, lambda_1: Tensor, stderr: Tensor) -> Tensor:
        r"""Whether λ₁ from tangents, shape (*batch), and this rate differ by more than their error bars; (*batch), bool.

            |λ₁ − rate| > q √(e₁² + e₂²) + 5 / T + d (1 + exp(−max(λ₁, rate) τ)) / τ

        q is the quantile of Student's t at a level of 10⁻⁴ over all items; 5 / T allows for the alignment of the initial
        directions; the last term, with τ the time of a step and d ten times `distance`, bounds the effect of curvature and
        rounding on a step. Rates below ln(d) per step are not resolved and count as ln(d). An item disagrees if its rate is NaN
        and its λ₁ is not; if an error bar is NaN, the run is too short for the comparison and the item does not disagree.

        Args:
            lambda_1: the exponents to compare with, shape (*batch), nats per unit time.
            stderr: their standard errors, shape (*batch).
        """
        step, resolution = self.duration / self.steps, 10 * self.distance
        level = -float(scipy.special.stdtrit(GROUPS - 1, FALSE_ALARM / 2 / max(1, self.rate.numel())))
        ours, theirs = (rate.clamp(min=math.log(resolution) / step) for rate in (lambda_1, self.rate))
        inexact = resolution * (1 + (-torch.maximum(ours, theirs) * step).exp()) / step
        bars = level * torch.hypot(stderr, self.stderr) + ALIGNMENT / self.duration + inexact
        return ((ours - theirs).abs() > bars) | (self.rate.isnan() & ~lambda_1.isnan())


@torch.no_grad()
def divergence_rate(
    system: System,
    x0: Tensor | None = None,
    *,
    steps: int | None = None,
    settle: int | None = None,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> DivergenceRate:
    r"""λ₁ from two trajectories:  (1/T) Σ log(‖x'_{n+1} − x_{n+1}‖ / d),  with the separation reset to d after each step.

    Args:
        system: any System; only its `step` is used.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        steps: steps to average over. Default: as in `lyapunov_spectrum`.
        settle: steps before them, in which the separation aligns with the leading direction.
        seed: seed of the initial state and of the first separation.
        progress: show a progress bar.
        throw: raise instead of marking items that diverged or did not converge.

    Returns:
        DivergenceRate: `rate` and `stderr`, shape (*batch), nats per unit time. An item whose rate drifts between the halves of the
        run, or whose run is too short for an error bar, is `not_converged`.

    Raises:
        InputError: a count is out of range.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: d is 1e-8 times the size of the state (1e-3 in float32), so the rate has a relative error near 1e-8 per step, and
    directions that contract below rounding in one step are not resolved. The size is the largest recent ‖x‖; it is at least 1
    unless the orbit has been smaller than that from its start.
    Source: Benettin, Galgani & Strelcyn 1976, Phys. Rev. A 14, 2338.

    Example:
        >>> sx.divergence_rate(sx.Map(lambda x: 0.5 * x, dim=1), steps=100)
        two nearby trajectories separate at −0.6931 nats per step
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
    for tick in watched_count(plan.settle + plan.steps, "Divergence rate", progress):
        n, before, previous_gap = tick.index, pair, gap
        pair = pair.advance(1)
        x, other = pair.x
        separation = torch.linalg.vector_norm(other - x, dim=-1, keepdim=True)
        apart = separation > 0
        direction = (other - x).where(apart, away) / separation.where(apart, away.norm())
        size.follow(x, settling=n < plan.settle)
        gap = distance * size.now
        pair = Front(pair.system, torch.stack([x, x + gap * direction]), pair.n, None, pair.lived, pair.time)
        if n >= plan.settle:
            elapsed = torch.as_tensor(pair.time - before.time)
            tally.add(Block((separation / previous_gap).log(), elapsed[0] if elapsed.ndim else float(elapsed), 1))
    rates, duration = tally.series()
    failed = ~(pair.lived == pair.n).all(0)
    time = duration.sum(0)[..., 0]
    merged = rates.isneginf().any(0)
    error = standard_error(rates, duration).masked_fill(merged, 0.0)
    unsteady = (drifts(rates, duration) & ~merged | error.isnan())[..., 0]
    codes = torch.where(unsteady, Status.NOT_CONVERGED, Status.OK).masked_fill(failed, Status.DIVERGED)
    found = DivergenceRate(
        codes=codes.to(torch.int8),
        rate=((rates * duration).sum(0)[..., 0] / time).masked_fill(failed, torch.nan),
        stderr=error[..., 0].masked_fill(failed, torch.nan),
        duration=time,
        distance=distance,
        steps=plan.steps,
        settings={"steps": plan.steps, "settle": plan.settle, "seed": seed, "clock": system.clock},
    )
    return found.or_raise(throw)


class _Size:
    """The size of the states, shape (*batch, 1), relative to which a separation is small: rounding errors grow with it.

    It is ‖x‖, with a memory of about ten steps for passages near the origin. For an orbit that converges to the origin it stays
    at 1, because rounding errors inside a step may not shrink with the state, or at the largest size while settling if that is
    smaller, because in small units the whole attractor is small.
    """

    def __init__(self, x: Tensor) -> None:
        self.now = self.largest = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        self._keep_off_zero()

    def follow(self, x: Tensor, *, settling: bool) -> None:
        """Update the size by the next state."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        self.now = torch.maximum(MEMORY * self.now, norm)
        if settling:
            self.largest = torch.maximum(self.largest, norm)
            self._keep_off_zero()
        self.now = torch.maximum(self.now, self.least)

    def _keep_off_zero(self) -> None:
        self.least = self.largest.clamp(max=1).where(self.largest > 0, 1.0)
        self.now = torch.maximum(self.now, self.least)
