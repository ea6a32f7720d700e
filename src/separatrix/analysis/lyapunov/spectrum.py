"""Lyapunov spectra by repeated QR of a tangent frame."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from separatrix.analysis.lyapunov.divergence import DivergenceRate, divergence_rate
from separatrix.analysis.run.statistics import drifts, standard_error
from separatrix.analysis.run.steps import Plan, plan_steps
from separatrix.analysis.run.tally import Tally
from separatrix.analysis.run.tangent_run import Block, TangentRun, check_k, random_frame
from separatrix.core.checks import check_seed
from separatrix.core.derivative import on_a_kink
from separatrix.core.errors import DivergedError, NotConvergedError, UnsupportedModuleError
from separatrix.core.evolve import Front, begin, hold_anew
from separatrix.core.progress import watched
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.twin import twin
from separatrix.core.wording import counted, measured, plain

ENOUGH_BLOCKS = 16  # QRs that a run takes at least, however flat the spectrum: error bars live on the blocks between them
SURE = 2  # standard errors within which a sum of exponents may be zero
FLOAT32 = "float32: each QR adds an error near 1e-4, so that wide spectra are limited by it; pass x0 in float64 for the full range"
AGREEING_CHECKS = 3  # how often in a row the error bars must lie below `tol`


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LyapunovSpectrum(Result):
    r"""Lyapunov exponents with their error bars, and what follows from them.

    Args:
        exponents: (*batch, k), nats per unit time, descending. −∞: directions that a Jacobian, singular to rounding, erases (relu
            units that are off, tanh units saturated beyond the last digit). NaN: diverged.
        stderr: (*batch, k), standard errors by batch means; 0 for −∞, NaN when the run is too short to tell.
        converged: (*batch), no drift between the halves of the run, and every error bar below `tol` if one was asked.
        failed_at: (*batch), the step at which a sample left the finite numbers, −1 if it did not.
        rank: (*batch), how many of the k exponents are finite.
        kaplan_yorke_dimension: (*batch), j + Σ_{i≤j} λ_i / |λ_{j+1}| with j the last index whose partial sum is not negative (by
            more than 2 of its standard errors: a cycle's λ₁ = 0 counts); NaN when k exponents do not reach it. For a driven
            network it is conditional on the input.
        entropy: (*batch), Σ of the positive exponents, nats per unit time: Ruelle's upper bound of the Kolmogorov–Sinai entropy,
            equal to it for SRB measures; for a driven network, conditional on the input. With k < dim, of those k.
        history: (block, *batch, k), the running estimates.
        history_time: (block, *batch), the elapsed times they belong to.
        check: the rate at which two near trajectories part, when it was asked for; see `disagreement`.
        steps: steps averaged over, after `settle` steps of settling.
    """

    exponents: Tensor
    stderr: Tensor
    converged: Tensor
    failed_at: Tensor
    rank: Tensor
    kaplan_yorke_dimension: Tensor
    kaplan_yorke_stderr: Tensor
    entropy: Tensor
    entropy_stderr: Tensor
    history: Tensor
    history_time: Tensor
    check: DivergenceRate | None = None
    dim: int
    steps: int
    settle: int
    notes: tuple[str, ...] = ()

    layout: ClassVar[dict[str, str]] = {
        "exponents": "batch k",
        "stderr": "batch k",
        "converged": "batch",
        "failed_at": "batch",
        "rank": "batch",
        "kaplan_yorke_dimension": "batch",
        "kaplan_yorke_stderr": "batch",
        "entropy": "batch",
        "entropy_stderr": "batch",
        "history": "block batch k",
        "history_time": "block batch",
    }
    units: ClassVar[dict[str, str]] = {
        "exponents": "nats per unit time",
        "stderr": "nats per unit time",
        "entropy": "nats per unit time",
        "entropy_stderr": "nats per unit time",
        "history": "nats per unit time",
        "history_time": "units of time",
        "failed_at": "step",
    }

    @property
    def disagreement(self) -> Tensor:
        """Items whose λ₁ and two-trajectory rate lie beyond both error bars (`DivergenceRate.disagrees`); (*batch), bool.

        None does where no check was asked for. Items that disagree are `not_converged`.
        """
        if self.check is None:
            return torch.zeros_like(self.codes, dtype=torch.bool)
        return self.check.disagrees(self.exponents[..., 0], self.stderr[..., 0])

    def summary(self) -> str:
        """The leading exponents, dimension, entropy and status in words; a check that disagrees comes first."""
        return "\n".join(filter(None, (self._warning(), self._told())))

    def _warning(self) -> str:
        """That, and by how much, the check disagrees; empty where it does not."""
        apart = self.disagreement.reshape(-1)
        if self.check is None or not apart.any():
            return ""
        gaps = (self.exponents[..., 0] - self.check.rate).abs().reshape(-1).masked_fill(~apart, -1.0).nan_to_num(math.inf)
        worst = int(gaps.argmax())
        ours = measured(float(self.exponents[..., 0].reshape(-1)[worst]), float(self.stderr[..., 0].reshape(-1)[worst]))
        rate = float(self.check.rate.reshape(-1)[worst])
        theirs = "diverge" if math.isnan(rate) else f"part at {measured(rate, float(self.check.stderr.reshape(-1)[worst]))}"
        of = f" in {int(apart.sum())} of {len(apart)} runs, the most in run {worst}" if self.batch else ""
        return (
            f"The check disagrees{of}: λ₁ = {ours} nats per {self.clock} from tangents, but two near trajectories {theirs}.\n"
            "Do not rely on either: a step that draws at random, keeps state or jumps is not what its derivative is of."
        )

    def _told(self) -> str:
        if self.batch:
            leading = self.exponents[..., 0][self.codes != Status.DIVERGED]
            spread = f"λ₁ from {plain(float(leading.min()))} to {plain(float(leading.max()))}; " if leading.numel() else ""
            return (
                f"Lyapunov spectra of {self.codes.numel()} runs, {self.exponents.shape[-1]} exponents each: {spread}{self.ended()}"
            )
        if self.codes == Status.DIVERGED:
            return f"Lyapunov spectrum: diverged at step {int(self.failed_at)}"
        shown = ", ".join(map(measured, self.exponents[:4].tolist(), self.stderr.tolist()))
        more = f", … ({len(self.exponents)} in all)" if len(self.exponents) > 4 else ""
        lines = [f"Lyapunov exponents: {shown}{more} nats per {self.clock}"]
        dimension, entropy = self.kaplan_yorke_dimension, self.entropy
        if not math.isnan(dimension):
            lines.append(
                f"Kaplan–Yorke dimension {measured(float(dimension), float(self.kaplan_yorke_stderr))}, "
                f"entropy {measured(float(entropy), float(self.entropy_stderr))} nats per {self.clock}"
            )
        if self.check is not None:
            lines.append(self.check.summary())
        lines.append(f"{self.ended()} after {self.settle} + {self.steps} steps")
        return "\n".join([*lines, *self.notes])

    def pooled(self, items: Tensor | None = None) -> "PooledSpectrum":
        """One spectrum for the batch, or for some of its items: their mean, with the variance within and between them.

        Args:
            items: which, shape (*batch), bool. Default: all. Diverged ones are left out, and counted.

        Raises:
            DivergedError: all of them diverged.
        """
        return pool(self, torch.ones_like(self.codes, dtype=torch.bool) if items is None else items)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PooledSpectrum(Result):
    r"""One spectrum of many runs.

    Args:
        exponents: (k), the mean over the runs that did not diverge, nats per unit time.
        stderr: (k), of that mean over the population of runs: √(variance between the estimates / runs).
        within: (k), mean variance of one run's estimate about its own long-time value.
        between: (k), variance of those values over the runs, what is left of the spread after `within`; not below 0.
        runs: how many runs were averaged.
        diverged: how many were left out.
    """

    exponents: Tensor
    stderr: Tensor
    within: Tensor
    between: Tensor
    runs: int
    diverged: int

    layout: ClassVar[dict[str, str]] = {"exponents": "k", "stderr": "k", "within": "k", "between": "k"}
    units: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("exponents", "stderr"), "nats per unit time"),
        **dict.fromkeys(("within", "between"), "(nats per unit time)²"),
    }

    def summary(self) -> str:
        """λ₁ over the runs, in words."""
        left_out = f"; {self.diverged} diverged" if self.diverged else ""
        return (
            f"λ₁ = {measured(float(self.exponents[0]), float(self.stderr[0]))} nats per {self.clock} "
            f"over {counted(self.runs, 'run')} (spread between runs {plain(float(self.between[0].sqrt()))}, "
            f"error within one {plain(float(self.within[0].sqrt()))}{left_out})"
        )


@torch.no_grad()
def lyapunov_spectrum(
    system: System,
    x0: Tensor | None = None,
    *,
    k: int | None = None,
    steps: int | None = None,
    settle: int | None = None,
    every: int | Literal["auto"] = "auto",
    tol: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    check: bool = False,
    progress: bool = False,
    throw: bool = False,
) -> LyapunovSpectrum:
    r"""Lyapunov exponents of an orbit, by repeated QR of a tangent frame.

        λ_i = lim_{T→∞} (1/T) Σ log |R_ii|

    Args:
        system: any System; a driven one is followed along its own inputs.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        k: number of leading exponents, 1 … dim. Default: all.
        steps: steps to average over, exactly. Default: 200 units of time, within 2,000 … 10,000 steps and the horizon.
        settle: steps before them, in which the orbit reaches its attractor and the frame aligns. Default: a fifth of `steps`.
        every: steps between two QRs, fewer where the frame would degenerate; "auto" picks it from the running spectrum.
        tol: go on after `steps` until every error bar lies below it, three checks in a row, or until `max_steps`.
        max_steps: limit for `tol`. Default: a hundred times `steps`, within the horizon.
        seed: for the initial state, where x0 is not given, and for the frame.
        check: also follow two near trajectories, and give the rate at which they part beside λ₁. An item for which the two
            disagree beyond their error bars is `not_converged`, and the summary begins with it.
        progress: show a progress bar.
        throw: raise instead of marking items `diverged` or `not_converged`.

    Returns:
        LyapunovSpectrum. `exponents` (*batch, k), nats per unit time, descending; `stderr` from batch means, same shape.

    Raises:
        InputError: k is not in 1 … dim, or a count or tolerance is out of range.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: exponents of complex pairs converge like 1/steps; for a fixed point compare the logarithms of its multipliers.
    Source: Benettin et al. 1980, Meccanica 15, 9; frame and QR as Geist, Parlitz & Lauterborn 1990, Prog. Theor. Phys. 83, 875.
    """
    seed = check_seed(seed)
    plan = plan_steps(system, steps=steps, settle=settle, tol=tol, max_steps=max_steps)
    k = check_k(k, system.dim)
    front = begin(system, x0, seed=seed)
    run = TangentRun(front, random_frame(front.x, k, seed), every)
    for _ in watched(run.blocks(plan.settle), plan.settle, "Settling", progress):
        pass
    run.forget_erased()
    tally = Tally()
    for block in watched(_until_steady(run, tally, plan, tol), plan.most, "Lyapunov spectrum", progress):
        tally.add(block)
    spectrum = _held_to_a_derivative(_spectrum(run, tally, tol), run.front)
    near = divergence_rate(system, x0, steps=tally.steps, settle=plan.settle, seed=seed) if check else None
    asked = {
        "k": k,
        "steps": tally.steps,
        "least_steps": plan.steps,
        "settle": plan.settle,
        "every": every,
        "tol": tol,
        "seed": seed,
        "clock": system.clock,
        "dtype": str(front.x.dtype),
    }
    spectrum = _held_to_its_check(replace(spectrum, check=near, settle=plan.settle, settings=asked))
    if throw:
        _throw(spectrum)
    return spectrum


def _until_steady(run: TangentRun, tally: Tally, plan: Plan, tol: float | None) -> Iterator[Block]:
    """The steps asked for; with a tolerance, a quarter more at a time until the error bars lie below it or the steps run out."""
    yield from run.blocks(plan.steps, ENOUGH_BLOCKS)
    agreed = 0
    while tol is not None and tally.steps < plan.most:
        agreed = agreed + 1 if _error_bars_below(tally, run, tol) else 0
        if agreed == AGREEING_CHECKS:
            return
        yield from run.blocks(min(max(tally.steps // 4, 1), plan.most - tally.steps))


def _error_bars_below(tally: Tally, run: TangentRun, tol: float) -> bool:
    error = standard_error(*tally.series()).masked_fill(run.erased, 0.0)
    return bool(((error <= tol).all(-1) | (run.front.failed_at >= 0)).all())


def _spectrum(run: TangentRun, tally: Tally, tol: float | None) -> LyapunovSpectrum:
    """Averages, error bars and verdicts of a finished run."""
    rates, duration = tally.series()
    failed = (run.front.failed_at >= 0) | rates.isnan().any(0).any(-1)
    time = duration.sum(0)
    exponents = ((rates * duration).sum(0) / time).masked_fill(run.erased, -math.inf).masked_fill(failed[..., None], math.nan)
    exponents, order = exponents.sort(dim=-1, descending=True)
    rates = rates.gather(-1, order.expand_as(rates))
    erased = exponents == -math.inf
    error = standard_error(rates, duration).masked_fill(erased, 0.0).masked_fill(failed[..., None], math.nan)
    drift = (drifts(rates, duration, exponents.shape[-1]) & ~erased).any(-1)
    steady = ~(drift | error.isnan().any(-1))
    if tol is not None:
        steady &= (error <= tol).all(-1)
    dimension, dimension_error = kaplan_yorke(exponents, rates, duration, run.front.x.shape[-1])
    entropy, entropy_error = positive_sum(exponents, rates, duration)
    history = ((rates * duration).cumsum(0) / duration.cumsum(0)).masked_fill(erased, -math.inf)
    codes = torch.where(steady, Status.OK, Status.NOT_CONVERGED).masked_fill(failed, Status.DIVERGED)
    return LyapunovSpectrum(
        codes=codes.to(torch.int8),
        exponents=exponents,
        stderr=error,
        converged=steady & ~failed,
        failed_at=run.front.failed_at,
        rank=(~erased & ~failed[..., None]).sum(-1),
        kaplan_yorke_dimension=dimension,
        kaplan_yorke_stderr=dimension_error,
        entropy=entropy,
        entropy_stderr=entropy_error,
        history=history,
        history_time=duration.cumsum(0)[..., 0],
        dim=run.front.x.shape[-1],
        steps=tally.steps,
        settle=0,
        notes=_notes(run.front.x.dtype, erased),
    )


def _held_to_a_derivative(spectrum: LyapunovSpectrum, front: Front) -> LyapunovSpectrum:
    """What ends on a kink of the step, such as a ReLU of zeros, or where the derivative is another's, is not ok."""
    system, n = front.system, max(front.n - 1, 0)  # no later than what was asked: the inputs may end there
    x = front.x.detach().where((spectrum.codes != Status.DIVERGED)[..., None], 0.0)
    exact = system if x.dtype == torch.float64 else twin(system, dtype=torch.float64)
    changed = _changed(system, x, front.v, n)
    if changed:
        codes = spectrum.codes.masked_fill(spectrum.codes == Status.OK, int(Status.NOT_CONVERGED))
        told = f"at the end of the run {changed}"
        return replace(spectrum, codes=codes, converged=torch.zeros_like(spectrum.converged), notes=(told, *spectrum.notes))
    kinked = on_a_kink(lambda y: exact.step(y, n), x.double(), float(x.abs().mean()) or 1.0) & (spectrum.codes != Status.DIVERGED)
    if not bool(kinked.any()):
        return spectrum
    of = f"{int(kinked.sum())} of {kinked.numel()} runs end" if spectrum.batch else "the run ends"
    told = f"{of} on a kink of the step (a ReLU of zero, a tie), where it has no derivative: begin beside it, with another x0"
    codes = spectrum.codes.masked_fill(kinked & (spectrum.codes == Status.OK), int(Status.NOT_CONVERGED))
    return replace(spectrum, codes=codes, converged=spectrum.converged & ~kinked, notes=(told, *spectrum.notes))


def _changed(system: System, x: Tensor, v: Tensor, n: int) -> str:
    """That the derivative is not the step's where the run ends, though it was where it began; empty where it is."""
    hold_anew(system)
    try:
        system.pushforward(x, v[..., :1, :], n)
    except UnsupportedModuleError as error:
        return str(error).split("\n", maxsplit=1)[0]
    return ""


def _held_to_its_check(spectrum: LyapunovSpectrum) -> LyapunovSpectrum:
    """What was ok is not where the check disagrees."""
    apart = spectrum.disagreement & (spectrum.codes == Status.OK)
    codes = spectrum.codes.masked_fill(apart, Status.NOT_CONVERGED)
    return replace(spectrum, codes=codes, converged=spectrum.converged & ~apart)


def kaplan_yorke(exponents: Tensor, rates: Tensor, duration: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The Kaplan–Yorke dimension and its standard error, each (*batch), by the delta method on the block averages."""
    k = exponents.shape[-1]
    sums = exponents.cumsum(-1)
    doubt = SURE * standard_error(rates.cumsum(-1), duration).nan_to_num(0.0)
    inside = (sums >= -doubt).long().cumprod(-1)
    j = inside.sum(-1, keepdim=True)
    beyond = exponents.gather(-1, j.clamp(max=k - 1))
    total = torch.where(j > 0, sums.gather(-1, (j - 1).clamp(min=0)), 0.0)
    slope = torch.where(beyond.isinf(), 0.0, 1 / beyond.abs())
    part = torch.where(j < k, total * slope, 0.0 if k == dim else math.nan)
    dimension = (j + part)[..., 0].masked_fill(exponents.isnan().any(-1), math.nan)
    summed = (rates * inside).sum(-1, keepdim=True)
    next_rate = rates.gather(-1, j.clamp(max=k - 1).expand(len(rates), *j.shape))
    influence = torch.where((j < k) & (j > 0), summed * slope + total * slope**2 * next_rate, 0.0)
    error = standard_error(influence, duration)[..., 0]
    return dimension, error.masked_fill(dimension.isnan(), math.nan)


def positive_sum(exponents: Tensor, rates: Tensor, duration: Tensor) -> tuple[Tensor, Tensor]:
    """Σ of the positive exponents and its standard error, each (*batch)."""
    positive = exponents > 0
    total = exponents.where(positive, 0.0).sum(-1).masked_fill(exponents.isnan().any(-1), math.nan)
    error = standard_error((rates * positive).sum(-1, keepdim=True), duration)[..., 0]
    return total, error.masked_fill(total.isnan(), math.nan)


def pool(spectrum: LyapunovSpectrum, items: Tensor) -> PooledSpectrum:
    """See `LyapunovSpectrum.pooled`."""
    k = spectrum.exponents.shape[-1]
    kept = ((spectrum.codes != Status.DIVERGED) & items).reshape(-1)
    values, errors = spectrum.exponents.reshape(-1, k)[kept], spectrum.stderr.reshape(-1, k)[kept]
    runs = len(values)
    if runs == 0:
        raise DivergedError(f"all {int(items.sum())} runs diverged: there is nothing to pool.")
    spread = values.var(0) if runs > 1 else torch.full((k,), math.nan, dtype=values.dtype)
    spread = spread.masked_fill((values == -math.inf).all(0), 0.0)
    within = errors.square().mean(0)
    return PooledSpectrum(
        codes=torch.tensor(int(spectrum.codes.reshape(-1)[kept].max()), dtype=torch.int8),
        exponents=values.mean(0),
        stderr=(spread / runs).sqrt() if runs > 1 else errors[0],
        within=within,
        between=(spread - within.nan_to_num()).clamp(min=0),
        runs=runs,
        diverged=int(((spectrum.codes == Status.DIVERGED) & items).sum()),
        settings=spectrum.settings,
    )


def _notes(dtype: torch.dtype, erased: Tensor) -> tuple[str, ...]:
    notes = []
    if bool(erased[..., 0].any()):  # the leading one, and so all
        notes.append("no tangent passes the step: it is constant, or was on a kink or a flat piece (a ReLU that is off)")
    if dtype != torch.float64:
        notes.append(FLOAT32)
    return tuple(notes)


def _throw(spectrum: LyapunovSpectrum) -> None:
    failed = spectrum.failed_at[spectrum.codes == Status.DIVERGED]
    if failed.numel():
        raise DivergedError(
            f"{failed.numel()} of {spectrum.codes.numel()} runs left the finite numbers, the first at step {int(failed.min())}."
        )
    if spectrum.disagreement.any():
        raise NotConvergedError(spectrum._warning())
    open_ = int((spectrum.codes == Status.NOT_CONVERGED).sum())
    if open_:
        raise NotConvergedError(
            f"{open_} of {spectrum.codes.numel()} runs did not converge in {spectrum.steps} steps "
            f"(largest error bar {spectrum.stderr.nan_to_num(math.inf).max():.2g}).\nGive more steps."
        )
