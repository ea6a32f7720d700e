"""Transient growth: how far a perturbation is amplified before it fades, which eigenvalues do not tell."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.product import Scaled
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.derivative import check_derivative
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front, begin, check_steps, check_system_type
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.tangent import jacobian
from separatrix.core.wording import counted, plain

ENOUGH_TIME = 50  # units of time of a default run
FEWEST, MOST = 200, 5_000  # its steps
DISTANCES = 40  # from the border at which the resolvent is taken, for Kreiss's constant
ROUNDED = 1e-9  # nats per unit time, over ‖J‖: an eigenvalue that grows slower is on the border
REACH = 1e4  # between the nearest of them and the farthest, which is the size of J


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TransientGrowth(Result):
    r"""How far perturbations of an orbit, or of a fixed point, grow before they fade.

    Args:
        log_norm: (record, *batch), ln ‖Φ(t)‖₂, Φ(t) = ∂x(t)/∂x(0): the largest amplification after each step, nats.
        time: (record), t.
        peak: (*batch), the largest of them, nats; 0 where nothing grows.
        peak_time: (*batch), when.
        direction: (*batch, dim), the perturbation of length 1 that is amplified most at the peak.
        response: (*batch, dim), the direction into which it is amplified.
        numerical_abscissa: (*batch), the fastest growth at t = 0: of a flow λ_max((J + Jᵀ)/2), of a map ln ‖J‖₂ in its first
            step; nats per unit time.
        spectral_abscissa: (*batch), what eigenvalues of the same J say: max Re λ, or ln max |λ|; nats per unit time.
        departure: (*batch), Henrici's √(‖J‖_F² − Σ|λ|²)/‖J‖_F: 0 for a normal J, near 1 for a very non-normal one.
        kreiss: (*batch), ln of a lower bound of Kreiss's constant of J, nats: at a fixed point, peak ≥ kreiss; ∞ where J has an
            eigenvalue that grows.
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
        "log_norm": "record batch",
        "time": "record",
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
        """exp(peak), (*batch): by how much the worst perturbation grows; 1 where nothing does."""
        return self.peak.exp()

    def summary(self) -> str:
        """The largest amplification, when, and what the eigenvalues say."""
        known = self.codes != Status.DIVERGED
        if not bool(known.any()):
            return "transient growth: diverged"
        if self.batch:
            low, high = float(self.amplification[known].min()), float(self.amplification[known].max())
            return f"transient growth of {counted(self.codes.numel(), 'state')}: by the factor {plain(low)} … {plain(high)}"
        eigen = f"eigenvalues say {plain(float(self.spectral_abscissa))} nats per {self.clock}"
        begins = f"growth begins at {plain(float(self.numerical_abscissa))}"
        if self.peak == 0:
            return f"no transient growth: no perturbation ever exceeds its first size ({begins}, {eigen})"
        still = ", and still grows" if self.codes == Status.NOT_CONVERGED else ""
        factor, when = plain(float(self.amplification)), plain(float(self.peak_time))
        return f"perturbations grow by up to the factor {factor} at t = {when}{still} ({begins}, {eigen})"


@torch.no_grad()
def transient_growth(
    system: System,
    x0: Tensor | None = None,
    *,
    steps: int | None = None,
    settle: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> TransientGrowth:
    r"""The largest amplification of a perturbation over time,  max_t ‖Φ(t)‖₂,  Φ(t) = ∂x(t)/∂x(0),  beside the eigenvalues.

    Where J does not commute with its transpose, perturbations may grow a thousandfold before they fade as eigenvalues say.

    Args:
        system: any System.
        x0: fixed points, or where orbits begin, shape (*batch, dim). Default: `system.initial_state()`.
        steps: for how long perturbations are followed. Default: 50 units of time, within 200 … 5,000 steps and the horizon.
        settle: steps before the first.
        seed: of the initial state.
        progress: show a progress bar.

    Returns:
        TransientGrowth: `peak` and `peak_time`, the `direction` that grows most, `numerical_abscissa`, `spectral_abscissa`, … An
        item whose amplification is the largest at the end is `not_converged`: it may grow on.

    Raises:
        InputError: steps is below 1.
        HorizonError: `settle + steps` exceeds the steps the system can take.
    Limits: needs the whole Jacobian, (*batch, dim, dim) numbers, and an SVD of it each step. Of a flow the peak is that of its
        steps, below the true one by O(dt²).
    Source: Trefethen & Embree 2005, Spectra and Pseudospectra, ch. 14–16; departure: Henrici 1962, Numer. Math. 4, 24.
    """
    check_system_type(system)
    check_seed(seed)
    check_whole("settle", settle)
    steps = _default_steps(system, settle) if steps is None else steps
    check_steps(system, settle=settle, steps=steps)
    if steps < 1:
        raise InputError(f"steps is {steps}; a perturbation is followed for at least 1.")
    front = begin(system, x0, seed=seed).advance(settle)
    matrix, flows = _generator(front)
    run, begun = _Growth.of(front), front.time
    times = [torch.zeros((), dtype=torch.float64)]
    for _ in watched_count(steps, "Transient growth", progress):
        front = front.with_tangents(run.product.frame).advance(1)
        run = run.after(front.v, front.time - begun)
        times.append(torch.as_tensor(front.time - begun, dtype=torch.float64).mean())
    log_norm = torch.stack(run.logs)
    lost = (front.failed_at >= 0) | log_norm.isnan().any(0)
    growing = (log_norm[-1] >= run.peak) & (run.peak > 0)
    codes = torch.where(growing, Status.NOT_CONVERGED, Status.OK).masked_fill(lost, Status.DIVERGED)
    first, last = _singular_vectors(run.best)
    facts = _facts(matrix, flows, float(system.dt))
    return TransientGrowth(
        codes=codes.to(torch.int8),
        log_norm=log_norm,
        time=torch.stack(times),
        peak=run.peak.masked_fill(lost, math.nan),
        peak_time=run.peak_time.masked_fill(lost, math.nan),
        direction=first.masked_fill(lost[..., None], math.nan),
        response=last.masked_fill(lost[..., None], math.nan),
        **{name: value.masked_fill(lost, math.nan) for name, value in facts.items()},
        settings={"steps": steps, "settle": settle, "seed": seed, "clock": system.clock},
    )


@dataclass(frozen=True)
class _Growth:
    """The product so far, ln of its norm after each step, and the largest of them with its matrix."""

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
        higher = now > self.peak + ROUNDED * (self.peak == 0)  # a growth of 0 is no growth, and rounding's is none
        return _Growth(
            product,
            [*self.logs, now],
            now.where(higher, self.peak),
            torch.as_tensor(time, dtype=now.dtype, device=now.device).where(higher, self.peak_time),
            product.frame.where(higher[..., None, None], self.best),
        )


def _generator(front: Front) -> tuple[Tensor, bool]:
    """The Jacobian at the start, (*batch, dim, dim): of a flow's field, else of the step; and which of the two."""
    system, n = front.system, front.n
    flows = system.continuous
    if flows:
        check_derivative(lambda y: system.residual(y, n), front.x, "field")
        return jacobian(lambda y: system.residual(y, n), front.x), flows
    identity = torch.eye(system.dim, dtype=front.x.dtype, device=front.x.device).expand(*front.x.shape, -1)
    return system.pushforward(front.x, identity, n)[1].mT, flows


def _singular_vectors(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors: what is amplified most, and into what; of tangents as rows, J = frameᵀ."""
    u, _, vh = torch.linalg.svd(frame.nan_to_num())
    return u[..., :, 0], vh[..., 0, :]


def _facts(matrix: Tensor, flows: bool, dt: float) -> dict[str, Tensor]:
    """What the Jacobian alone says; see `TransientGrowth`."""
    finite = matrix.isfinite().all(-1).all(-1)
    j = matrix.where(finite[..., None, None], 0.0).double()
    values = torch.linalg.eigvals(j)
    size = torch.linalg.matrix_norm(j)
    short = (size.square() - values.abs().square().sum(-1)).clamp(min=0).sqrt()
    norm = torch.linalg.matrix_norm(j, ord=2)
    begins = torch.linalg.eigvalsh((j + j.mT) / 2)[..., -1] if flows else norm.log() / dt
    ends = values.real.amax(-1) if flows else values.abs().amax(-1).log() / dt
    rounding = ROUNDED * (norm if flows else norm.clamp(min=1) / dt)
    bound = _kreiss(j, values, norm, flows).log().masked_fill(ends > rounding, math.inf)
    facts = {
        "numerical_abscissa": begins,
        "spectral_abscissa": ends,
        "departure": short / size.where(size > 0, 1.0),
        "kreiss": bound,
    }
    return {name: value.to(matrix).masked_fill(~finite, math.nan) for name, value in facts.items()}


def _kreiss(j: Tensor, values: Tensor, norm: Tensor, flows: bool) -> Tensor:
    """The largest of  distance(z) ‖(z − J)⁻¹‖  on two lines out of the border, one of them past the leading eigenvalue."""
    away = norm[..., None] * torch.logspace(-math.log10(REACH), 1, DISTANCES, dtype=j.dtype, device=j.device)
    leading = values.gather(-1, (values.real if flows else values.abs()).argmax(-1, keepdim=True))
    lines = []
    for turn in (torch.zeros_like(leading), leading):
        if flows:
            lines.append(torch.complex(away, turn.imag.expand_as(away).contiguous()))
        else:
            lines.append(torch.polar(1 + away, turn.angle().expand_as(away).contiguous()))
    z = torch.cat(lines, dim=-1)
    eye = torch.eye(j.shape[-1], dtype=z.dtype, device=z.device)
    nearest = torch.linalg.svdvals(z[..., None, None] * eye - j[..., None, :, :])[..., -1]
    distance = torch.cat([away, away], dim=-1)
    return (distance / nearest).amax(-1).clamp(min=1)


def _default_steps(system: System, settle: int) -> int:
    wanted = min(max(round(ENOUGH_TIME / system.dt), FEWEST), MOST)
    return wanted if system.horizon is None else max(min(wanted, system.horizon - settle), 1)
