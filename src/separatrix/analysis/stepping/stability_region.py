"""The stability region of a method, and the eigenvalues of a field along an orbit."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.steps import default_steps
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.evolve import begin, check_steps
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain
from separatrix.flows.flow import Flow, check_flow
from separatrix.flows.methods import SOLVERS
from separatrix.flows.methods.solver import BORDER


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StabilityRegion(Result):
    r"""Eigenvalues λ of a field's Jacobian along an orbit, and the factor |R(z)| of one step at each z = dt λ.

    Args:
        times: (time), the times along the orbit.
        eigenvalues: (time, *batch, dim), λ, complex; NaN where the run diverged.
        factors: (time, *batch, dim), |R(dt λ)|, by which a step multiplies the mode.
        inside: (*batch), share of the eigenvalues with |R| ≤ 1.
        spurious: (*batch), share of the eigenvalues whose mode does not grow, Re λ ≤ 0, but is made to grow by the step, |R| > 1.
        largest: (*batch), the largest |R|.
        stable_dt: (*batch), the largest step size without spurious growth; inf if every step size is free of it.
        dt, method: step size and method of the flow.
    """

    times: Tensor
    eigenvalues: Tensor
    factors: Tensor
    inside: Tensor
    spurious: Tensor
    largest: Tensor
    stable_dt: Tensor
    dt: float
    method: str

    drawn_by: ClassVar[str] = "separatrix.plot.stability_region:stability_region_figure"
    layout: ClassVar[dict[str, str]] = {
        "times": "time",
        "eigenvalues": "time batch mode",
        "factors": "time batch mode",
        "inside": "batch",
        "spurious": "batch",
        "largest": "batch",
        "stable_dt": "batch",
    }
    units: ClassVar[dict[str, str]] = {
        "times": "units of time",
        "eigenvalues": "per unit time",
        "stable_dt": "units of time",
    }

    @property
    def z(self) -> Tensor:
        """The eigenvalues in units of the step, dt λ, shape (time, *batch, dim)."""
        return self.dt * self.eigenvalues

    def summary(self) -> str:
        """The share inside the region, the share of spurious growth, and the step size without any."""
        finite = self.codes != Status.DIVERGED
        run = f"{self.method.replace('_', ' ')} with dt = {plain(self.dt)} along {counted(self.codes.numel(), 'orbit')}"
        if not bool(finite.any()):
            return f"{run}: all diverged"
        inside, spurious = (float(share[finite].mean()) for share in (self.inside, self.spurious))
        largest, step_size = float(self.largest[finite].max()), float(self.stable_dt[finite].min())
        diverged = int((~finite).sum())
        return (
            f"{run}: {inside:.1%} of dt λ lie in the region of stability, the largest factor of a step is {plain(largest)}; "
            f"{spurious:.1%} grow only because of the step, none with dt ≤ {plain(step_size)}"
            f"{f' ({diverged} diverged)' if diverged else ''}"
        )


@torch.no_grad()
def stability_region(
    flow: System,
    x0: Tensor | None = None,
    *,
    steps: int | None = None,
    settle: int = 0,
    every: int = 1,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> StabilityRegion:
    r"""Eigenvalues of a field along an orbit, compared with the region of stability of its method.

        ẋ = λ x:   x_{n+1} = R(z) x_n,   z = dt λ;       the region of stability is |R(z)| ≤ 1

    Here λ is each eigenvalue of Df(x_n, t_n) at the start of each step. If Re λ < 0 but |R| > 1, the step turns decay into growth:
    there the network does not discretise its field, and smaller steps give a different result.

    Args:
        flow: a `Flow`, such as `sx.nn.ContinuousDepth`.
        x0: initial states, shape (*batch, dim). Default: `flow.initial_state()`.
        steps: number of steps to follow. Default: the depth of the network, or 10 units of time.
        settle: steps before the first.
        every: compute the eigenvalues at every `every`-th state.
        seed: seed of the initial state.
        progress: show a progress bar.
        throw: raise instead of marking items that diverged.

    Returns:
        StabilityRegion: `eigenvalues` and `factors` (time, *batch, dim), shares and the largest stable step size (*batch).

    Raises:
        UnsupportedModuleError: the system is not a `Flow`.
        InputError: a count is below 1.
        HorizonError: there are more steps than the network has layers.
        DivergedError: with `throw=True`.

    Limits: eigenvalues at a frozen state describe the effect of a step on one mode there. Along an orbit whose Jacobians rotate or
        are far from normal, products may grow although every factor is below 1: see `sx.finite_time_lyapunov`. Leapfrog and
        its compositions are stable on an interval of the imaginary axis. For them no decaying mode counts as spurious, because
        a separable field has the eigenvalue −λ with every λ.
    Source: Hairer & Wanner 1996, Solving Ordinary Differential Equations II, IV.2–3; Hairer, Lubich & Wanner 2006, Geometric
        Numerical Integration, I.1.4; for residual networks, Haber & Ruthotto 2017, Inverse Problems 34, 014004.

    Example:
        >>> stiff = sx.Flow(lambda x: -30 * x, dim=1, dt=0.1, method="euler")
        >>> region = sx.stability_region(stiff, torch.ones(1), steps=3)
        >>> round(float(region.largest), 6)  # |1 − 30 · 0.1|
        2.0
        >>> round(float(region.stable_dt), 4)  # 2 / 30
        0.0667
    """
    flow = check_flow(flow)
    steps = default_steps(flow, settle) if steps is None else steps
    check_steps(flow, settle=settle, steps=steps)
    check_whole("steps", steps, 1)
    check_whole("every", every, 1)
    check_seed(seed)
    front = begin(flow, x0, seed=seed).advance(settle)
    sampled, places = [], range(settle, settle + steps, every)
    for tick in watched_count(len(places), "Eigenvalues", progress):
        front = front.advance(places[tick.index] - front.n)
        sampled.append(_eigenvalues(front.system, front.x, front.n))
    eigenvalues = torch.stack(sampled)
    method = SOLVERS[flow.method]
    factors = method.amplification(flow.dt * eigenvalues).abs()
    growing = _growing(eigenvalues, method.paired)
    lengths = torch.where(growing, torch.inf, method.stable_length(eigenvalues) / eigenvalues.abs())
    outside, among = factors > 1 + BORDER, (0, -1)
    found = StabilityRegion(
        codes=torch.where(eigenvalues.isfinite().all(-1).all(0), Status.OK, Status.DIVERGED).to(torch.int8),
        times=flow.dt * torch.tensor(list(places), dtype=torch.float64),
        eigenvalues=eigenvalues,
        factors=factors,
        inside=(~outside).double().mean(among),
        spurious=(outside & ~growing).double().mean(among),
        largest=factors.amax(among),
        stable_dt=lengths.amin(among),
        dt=flow.dt,
        method=flow.method,
        settings={"steps": steps, "settle": settle, "every": every, "seed": seed},
    )
    return found.or_raise(throw)


def _eigenvalues(flow: Flow, x: Tensor, n: int) -> Tensor:
    """Eigenvalues at x of the Jacobian of the field that step n follows; NaN if it is not finite."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1, -1)
    rows = flow.during(n).pushforward(x, identity, n * flow.dt)[1]
    finite = rows.isfinite().all(-1).all(-1)
    values = torch.linalg.eigvals(rows.where(finite[..., None, None], 0.0))
    return values.where(finite[..., None], torch.nan)


def _growing(eigenvalues: Tensor, paired: bool) -> Tensor:
    """Modes that grow or stand still in the field; for a method with equal factors at ±λ, all that are not neutral."""
    along = eigenvalues.real.abs() if paired else eigenvalues.real
    return (along > BORDER * eigenvalues.abs()) | (eigenvalues == 0)
