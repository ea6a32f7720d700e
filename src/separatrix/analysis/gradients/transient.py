"""Transient growth: the amplification of perturbations before they decay, which eigenvalues do not show."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.product import Scaled
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.derivative import check_derivative
from separatrix.core.evolve import Front, begin, check_steps, check_system_type
from separatrix.core.memory import check_whole_jacobian
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.tangent import jacobian
from separatrix.core.wording import counted, plain

ENOUGH_TIME = 50  # units of time of a default run
FEWEST, MOST = 200, 5_000  # steps of a default run
DISTANCES = 40  # number of distances from the stability border at which the resolvent is evaluated, for Kreiss's constant
COPIES = 10  # matrices of the size of the Jacobian that are held at once
ROUNDED = 1e-9  # growth rates below this fraction of ‖J‖ count as 0
REACH = 1e4  # ‖J‖ over the smallest of these distances


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TransientGrowth(Result):
    r"""Largest amplification of perturbations of an orbit or a fixed point,  ‖Φ(t)‖₂  with  Φ(t) = ∂x(t)/∂x(0).

    Args:
        log_norm: (time, *batch), ln ‖Φ(t)‖₂ after each step, nats.
        time: (time), t, units of time.
        peak: (*batch), maximum of `log_norm`, nats; 0 if no perturbation grows.
        peak_time: (*batch), time of the maximum.
        direction: (*batch, dim), perturbation of length 1 that is amplified most at the peak.
        response: (*batch, dim), direction into which it is amplified.
        numerical_abscissa: (*batch), fastest growth at t = 0, nats per unit time: λ_max((J + Jᵀ)/2) for a flow, ln ‖J‖₂ of the
            first step for a map.
        spectral_abscissa: (*batch), growth predicted by the eigenvalues of the same J, nats per unit time: max Re λ for a flow,
            ln max |λ| for a map.
        departure: (*batch), Henrici's departure from normality √(‖J‖_F² − Σ|λ|²)/‖J‖_F: 0 for a normal J, near 1 for a strongly
            non-normal one.
        kreiss: (*batch), ln of a lower bound on Kreiss's constant of J, nats; at a fixed point, peak ≥ kreiss. ∞ if J has an
            unstable eigenvalue.
    """

    log_norm: Tensor
    time: Tensor
    peak: Tensor
    peak_time: Tensor
    direction: Tensor
    response: Tensor
    numerical_abscissa: Tensor
    spectral_abscissa: Tensor
    departure: Tensor
    kreiss: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.transient:transient_figure"
    layout: ClassVar[dict[str, str]] = {
        "log_norm": "time batch",
        "time": "time",
        "peak": "batch",
        "peak_time": "batch",
        "direction": "batch dim",
        "response": "batch dim",
        "numerical_abscissa": "batch",
        "spectral_abscissa": "batch",
        "departure": "batch",
        "kreiss": "batch",
    }
    units: ClassVar[dict[str, str]] = {
        "log_norm": "nats",
        "time": "units of time",
        "peak": "nats",
        "peak_time": "units of time",
        "kreiss": "nats",
        "numerical_abscissa": "nats per unit time",
        "spectral_abscissa": "nats per unit time",
    }

    @property
    def amplification(self) -> Tensor:
        """exp(peak), (*batch): largest factor by which a perturbation grows; 1 if none grows."""
        return self.peak.exp()

    def summary(self) -> str:
        """The largest amplification and its time, with the initial rate and the rate of the eigenvalues."""
        known = self.codes != Status.DIVERGED
        if not bool(known.any()):
            return "transient growth: diverged"
        if self.batch:
            low, high = float(self.amplification[known].min()), float(self.amplification[known].max())
            return f"transient growth of {counted(self.codes.numel(), 'state')}: by a factor of {plain(low)} … {plain(high)}"
        eigen = f"eigenvalues predict {plain(float(self.spectral_abscissa))} nats per {self.clock}"
        initial = f"initial rate {plain(float(self.numerical_abscissa))}"
        if self.peak == 0:
            return f"no transient growth: no perturbation exceeds its initial size ({initial}, {eigen})"
        still = " and are still growing" if self.codes == Status.NOT_CONVERGED else ""
        factor, when = plain(float(self.amplification)), plain(float(self.peak_time))
        return f"perturbations grow by up to a factor of {factor} at t = {when}{still} ({initial}, {eigen})"

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return "Remove the states that diverge from x0."
        return "The amplification is largest at the last step: take more steps, unless the state is unstable."


@torch.no_grad()
def transient_growth(
    system: System,
    x0: Tensor | None = None,
    *,
    steps: int | None = None,
    settle: int = 0,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> TransientGrowth:
    r"""Largest amplification of a perturbation over time,  max_t ‖Φ(t)‖₂  with  Φ(t) = ∂x(t)/∂x(0).

    If J does not commute with its transpose, perturbations may grow a thousandfold before they decay as the eigenvalues predict.

    Args:
        system: any System.
        x0: fixed points or initial states, shape (*batch, dim). Default: `system.initial_state()`.
        steps: number of steps. Default: 50 units of time, within 200 … 5,000 steps and the horizon.
        settle: steps before t = 0.
        seed: seed of the initial state.
        progress: show a progress bar.
        throw: raise instead of marking items `diverged` or `not_converged`.

    Returns:
        TransientGrowth: `peak` and `peak_time`, the `direction` that grows most, `numerical_abscissa`, `spectral_abscissa`, …
        An item is `not_converged` if its amplification is largest at the last step, since it may grow further.

    Raises:
        InputError: steps is below 1, or the Jacobians need more than 4 GiB.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.
    Limits: needs the whole Jacobian, (*batch, dim, dim) numbers, and its SVD at each step. For a flow the peak is taken over the
        steps, which is below the true one by O(dt²).
    Source: Trefethen & Embree 2005, Spectra and Pseudospectra, ch. 14–16; departure: Henrici 1962, Numer. Math. 4, 24.

    Example:
        >>> chain = torch.diag(torch.tensor([2.0, 2.0], dtype=torch.float64), -1)  # each unit passes on twice its value
        >>> growth = sx.transient_growth(sx.Map(lambda x: x @ chain.T, dim=3), steps=10)
        >>> print(f"{growth.amplification:.3f} after {growth.peak_time:.0f} steps")
        4.000 after 2 steps
    """
    check_system_type(system)
    check_seed(seed)
    check_whole("settle", settle)
    steps = _default_steps(system, settle) if steps is None else steps
    check_steps(system, settle=settle, steps=steps)
    check_whole("steps", steps, 1)
    front = begin(system, x0, seed=seed)
    check_whole_jacobian(front.x, COPIES, "Pass fewer states, or see sx.gradient_propagation for the leading k of ln σ_i(Φ).")
    front = front.advance(settle)
    matrix, is_flow = _generator(front)
    run, begun = _Growth.of(front), front.time
    times = [torch.zeros((), dtype=torch.float64)]
    for _ in watched_count(steps, "Transient growth", progress):
        front = front.with_tangents(run.product.frame).advance(1)
        run = run.after(front.v, front.time - begun)
        times.append(torch.as_tensor(front.time - begun, dtype=torch.float64).mean())
    log_norm = torch.stack(run.logs)
    diverged = (front.failed_at >= 0) | log_norm.isnan().any(0)
    growing = (log_norm[-1] >= run.peak) & (run.peak > 0)
    codes = torch.where(growing, Status.NOT_CONVERGED, Status.OK).masked_fill(diverged, Status.DIVERGED)
    direction, response = _singular_vectors(run.best)
    indicators = _indicators(matrix, is_flow, float(system.dt))
    growth = TransientGrowth(
        codes=codes.to(torch.int8),
        log_norm=log_norm,
        time=torch.stack(times),
        peak=run.peak.masked_fill(diverged, math.nan),
        peak_time=run.peak_time.masked_fill(diverged, math.nan),
        direction=direction.masked_fill(diverged[..., None], math.nan),
        response=response.masked_fill(diverged[..., None], math.nan),
        **{name: value.masked_fill(diverged, math.nan) for name, value in indicators.items()},
        settings={"steps": steps, "settle": settle, "seed": seed, "clock": system.clock},
    )
    return growth.or_raise(throw)


@dataclass(frozen=True)
class _Growth:
    """The product so far, ln of its norm after each step, and the peak with its time and matrix."""

    product: Scaled
    logs: list[Tensor]
    peak: Tensor
    peak_time: Tensor
    best: Tensor

    @staticmethod
    def of(front: Front) -> "_Growth":
        product = Scaled.of(front.x)
        zero = torch.zeros_like(front.x[..., 0])
        return _Growth(product, [zero], zero, zero, product.frame)

    def after(self, v: Tensor, time: float | Tensor) -> "_Growth":
        product = self.product.times(v)
        now = product.log_singular_values()[..., 0]
        higher = now > self.peak + ROUNDED * (self.peak == 0)  # growth within rounding error of 0 does not count
        return _Growth(
            product,
            [*self.logs, now],
            now.where(higher, self.peak),
            torch.as_tensor(time, dtype=now.dtype, device=now.device).where(higher, self.peak_time),
            product.frame.where(higher[..., None, None], self.best),
        )


def _generator(front: Front) -> tuple[Tensor, bool]:
    """The Jacobian at the start, (*batch, dim, dim), of a flow's field or a map's step; and whether it is of a flow."""
    system, n = front.system, front.n
    is_flow = system.continuous
    if is_flow:
        check_derivative(lambda y: system.residual(y, n), front.x, "field")
        return jacobian(lambda y: system.residual(y, n), front.x), is_flow
    identity = torch.eye(system.dim, dtype=front.x.dtype, device=front.x.device).expand(*front.x.shape, -1)
    return system.pushforward(front.x, identity, n)[1].mT, is_flow


def _singular_vectors(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Leading right and left singular vectors of J, given its tangents as rows, J = frameᵀ."""
    u, _, vh = torch.linalg.svd(frame.nan_to_num())
    return u[..., :, 0], vh[..., 0, :]


def _indicators(matrix: Tensor, is_flow: bool, dt: float) -> dict[str, Tensor]:
    """The fields of `TransientGrowth` that depend on the Jacobian at the start alone."""
    finite = matrix.isfinite().all(-1).all(-1)
    j = matrix.where(finite[..., None, None], 0.0).double()
    values = torch.linalg.eigvals(j)
    size = torch.linalg.matrix_norm(j)
    departure = (size.square() - values.abs().square().sum(-1)).clamp(min=0).sqrt()
    norm = torch.linalg.matrix_norm(j, ord=2)
    initial = torch.linalg.eigvalsh((j + j.mT) / 2)[..., -1] if is_flow else norm.log() / dt
    final = values.real.amax(-1) if is_flow else values.abs().amax(-1).log() / dt
    rounding = ROUNDED * (norm if is_flow else norm.clamp(min=1) / dt)
    bound = _kreiss(j, values, norm, is_flow).log().masked_fill(final > rounding, math.inf)
    indicators = {
        "numerical_abscissa": initial,
        "spectral_abscissa": final,
        "departure": departure / size.where(size > 0, 1.0),
        "kreiss": bound,
    }
    return {name: value.to(matrix).masked_fill(~finite, math.nan) for name, value in indicators.items()}


def _kreiss(j: Tensor, values: Tensor, norm: Tensor, is_flow: bool) -> Tensor:
    """Maximum of  distance(z) ‖(z − J)⁻¹‖  on two lines from the stability border outwards, one next to the leading eigenvalue."""
    away = norm[..., None] * torch.logspace(-math.log10(REACH), 1, DISTANCES, dtype=j.dtype, device=j.device)
    leading = values.gather(-1, (values.real if is_flow else values.abs()).argmax(-1, keepdim=True))
    lines = []
    for turn in (torch.zeros_like(leading), leading):
        if is_flow:
            lines.append(torch.complex(away, turn.imag.expand_as(away).contiguous()))
        else:
            lines.append(torch.polar(1 + away, turn.angle().expand_as(away).contiguous()))
    z = torch.cat(lines, dim=-1)
    eye = torch.eye(j.shape[-1], dtype=z.dtype, device=z.device)
    nearest = torch.stack([torch.linalg.svdvals(point[..., None, None] * eye - j)[..., -1] for point in z.unbind(-1)], dim=-1)
    distance = torch.cat([away, away], dim=-1)
    return (distance / nearest).amax(-1).clamp(min=1)


def _default_steps(system: System, settle: int) -> int:
    wanted = min(max(round(ENOUGH_TIME / system.dt), FEWEST), MOST)
    return wanted if system.horizon is None else max(min(wanted, system.horizon - settle), 1)
