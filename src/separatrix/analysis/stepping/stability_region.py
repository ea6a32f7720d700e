"""Where a method does not blow up what decays: the eigenvalues of a field along an orbit, beside the method's region."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.steps import default_steps
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
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
    r"""The eigenvalues λ of a field's Jacobian along an orbit, and the factor |R(z)| of one step at each z = dt λ.

    Args:
        times: (time), where along the orbit.
        eigenvalues: (time, *batch, dim), λ, complex; NaN where the run diverged.
        factors: (time, *batch, dim), |R(dt λ)|: by how much a step multiplies that mode.
        inside: (*batch), share of the eigenvalues with |R| ≤ 1.
        spurious: (*batch), share of those that do not grow, Re λ ≤ 0, although the step makes them grow, |R| > 1.
        largest: (*batch), the largest |R|.
        stable_dt: (*batch), the longest step with which no mode that does not grow is made to; inf if there is none.
        dt, method: of the flow.
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
        """How many lie inside, how many are made to grow, and with which step none would be."""
        known = self.codes != Status.DIVERGED
        told = f"{self.method.replace('_', ' ')} with dt = {plain(self.dt)} along {counted(self.codes.numel(), 'orbit')}"
        if not bool(known.any()):
            return f"{told}: all diverged"
        inside, spurious = (float(share[known].mean()) for share in (self.inside, self.spurious))
        largest, step = float(self.largest[known].max()), float(self.stable_dt[known].min())
        lost = int((~known).sum())
        return (
            f"{told}: {inside:.1%} of dt λ lie in the region of stability, the largest factor of a step is {plain(largest)}; "
            f"{spurious:.1%} are made to grow although they do not; none is with dt ≤ {plain(step)}"
            f"{f' ({lost} diverged)' if lost else ''}"
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
) -> StabilityRegion:
    r"""The eigenvalues of a field along an orbit, beside the region in which its method is stable.

        ẋ = λ x:   x_{n+1} = R(z) x_n,   z = dt λ;       the region of stability is |R(z)| ≤ 1

    for λ each eigenvalue of Df(x_n, t_n) at the beginning of each step. Where Re λ < 0 but |R| > 1 the step makes grow what decays:
    the network is then no discretisation of its field there, and shorter steps will give something else.

    Args:
        flow: a `Flow`, such as `sx.nn.ContinuousDepth`.
        x0: initial states, shape (*batch, dim). Default: `flow.initial_state()`.
        steps: how many to follow. Default: the network's depth, or 10 units of time.
        settle: steps before the first.
        every: look at one state in so many.
        seed: of the initial state.
        progress: show a progress bar.

    Returns:
        StabilityRegion: `eigenvalues` and `factors` (time, *batch, dim), shares and the longest stable step (*batch).

    Raises:
        UnsupportedModuleError: the system is no `Flow`.
        HorizonError: more steps than the network has layers.
    Limits: eigenvalues with each state held fixed say what a step does to one mode there; along an orbit whose Jacobians turn, or
        are far from normal, products may grow although every factor is below 1: see `sx.finite_time_lyapunov`. Leapfrog and
        what is composed of it are stable on an interval of the imaginary axis, so that no decaying mode counts as spurious:
        with λ a separable field has −λ.
    Source: Hairer & Wanner 1996, Solving Ordinary Differential Equations II, IV.2–3; Hairer, Lubich & Wanner 2006, Geometric
        Numerical Integration, I.1.4; of residual networks, Haber & Ruthotto 2017, Inverse Problems 34, 014004.
    """
    flow = check_flow(flow)
    steps = default_steps(flow, settle) if steps is None else steps
    check_steps(flow, settle=settle, steps=steps)
    for name, value in (("steps", steps), ("every", every)):
        if check_whole(name, value) < 1:
            raise InputError(f"{name} is {value}; it is at least 1.")
    check_seed(seed)
    front = begin(flow, x0, seed=seed).advance(settle)
    found, places = [], range(settle, settle + steps, every)
    for tick in watched_count(len(places), "Eigenvalues", progress):
        front = front.advance(places[tick.index] - front.n)
        found.append(_eigenvalues(front.system, front.x, front.n))
    eigenvalues = torch.stack(found)
    method = SOLVERS[flow.method]
    factors = method.amplification(flow.dt * eigenvalues).abs()
    growing = _growing(eigenvalues, method.paired)
    lengths = torch.where(growing, torch.inf, method.stable_length(eigenvalues) / eigenvalues.abs())
    outside, among = factors > 1 + BORDER, (0, -1)
    return StabilityRegion(
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


def _eigenvalues(flow: Flow, x: Tensor, n: int) -> Tensor:
    """Of the Jacobian of the field that step n follows, at x; NaN where x is."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1, -1)
    rows = flow.during(n).pushforward(x, identity, n * flow.dt)[1]
    finite = rows.isfinite().all(-1).all(-1)
    values = torch.linalg.eigvals(rows.where(finite[..., None, None], 0.0))
    return values.where(finite[..., None], torch.nan)


def _growing(eigenvalues: Tensor, paired: bool) -> Tensor:
    """Which modes grow of themselves, or stand still; of a method whose factor is that of ±λ, all that are not neutral."""
    along = eigenvalues.real.abs() if paired else eigenvalues.real
    return (along > BORDER * eigenvalues.abs()) | (eigenvalues == 0)
