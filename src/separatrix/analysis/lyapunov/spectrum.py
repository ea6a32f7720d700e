"""Lyapunov spectra by repeated QR of a tangent frame."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from separatrix.analysis.lyapunov.divergence import divergence_rate
from separatrix.analysis.lyapunov.kaplan_yorke import kaplan_yorke, positive_sum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.analysis.lyapunov.verification import held_to_a_derivative, held_to_its_check
from separatrix.analysis.run.statistics import drifts, standard_error
from separatrix.analysis.run.steps import Plan, plan_steps
from separatrix.analysis.run.tally import Tally
from separatrix.analysis.run.tangent_run import TangentRun, check_k, random_frame, settled, stretches
from separatrix.core.checks import check_seed
from separatrix.core.ending import ending
from separatrix.core.evolve import begin
from separatrix.core.progress import watched
from separatrix.core.result import Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured

BLOCKS, FEWER = 48, 20  # number of QRs: two or one for each batch of the error bars
SHORT = 10  # steps between two QRs below which there are FEWER of them
FLOAT32 = "float32: each QR adds an error near 1e-4, which limits wide spectra; pass x0 in float64 for the full range"
AGREEING_CHECKS = 3  # consecutive checks at which the error bars must be below `error`


@torch.no_grad()
def lyapunov_spectrum(
    system: System,
    x0: Tensor | None = None,
    *,
    k: int | None = None,
    steps: int | None = None,
    settle: int | None = None,
    every: int | Literal["auto"] = "auto",
    error: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    check: bool = False,
    seconds: float | None = None,
    progress: bool = False,
    throw: bool = False,
) -> LyapunovSpectrum:
    r"""Lyapunov exponents of an orbit, by repeated QR of a tangent frame.

        λ_i = lim_{T→∞} (1/T) Σ log |R_ii|

    Args:
        system: any System; a driven system is followed along its own inputs.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        k: number of leading exponents, 1 … dim. Default: all.
        steps: number of steps to average over. Default: 200 units of time, within 2,000 … 10,000 steps and the horizon.
        settle: steps before them, in which the orbit reaches its attractor and the frame aligns. Default: a fifth of `steps`.
        every: steps between two QRs, which measure the growth; "auto" derives them from `steps`. A frame that would degenerate
            between two QRs is also factorised in between.
        error: continue after `steps` until every error bar is below this at three consecutive checks, or until `max_steps`.
        max_steps: maximum number of steps with `error`. Default: a hundred times `steps`, within the horizon.
        seed: seed of the initial state (unless x0 is given) and of the frame.
        check: also measure the rate at which two nearby trajectories separate, and compare it with λ₁. An item for which the two
            differ by more than their error bars is `not_converged`, and the summary begins with the disagreement.
        seconds: end the averaging after this time, with the steps taken until then. Default: no limit.
        progress: show a progress bar.
        throw: raise instead of marking items that diverged or did not converge.

    Returns:
        LyapunovSpectrum. `exponents` (*batch, k), nats per unit time, descending; `stderr` from batch means, same shape.

    Raises:
        InputError: k is not in 1 … dim, or a count or tolerance is out of range.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: exponents of complex pairs converge like 1/steps; at a fixed point, compare with the logarithms of its multipliers.
    Source: Benettin et al. 1980, Meccanica 15, 9; frame and QR as Geist, Parlitz & Lauterborn 1990, Prog. Theor. Phys. 83, 875.

    Example:
        >>> stretch = sx.Map(lambda x: x * torch.tensor([2.0, 0.5], dtype=x.dtype), dim=2)
        >>> spectrum = sx.lyapunov_spectrum(stretch, steps=100)
        >>> spectrum.exponents  # ln 2 and −ln 2
        tensor([ 0.6931, -0.6931], dtype=torch.float64)
        >>> spectrum.status
        'ok'
    """
    seed = check_seed(seed)
    plan = plan_steps(system, steps=steps, settle=settle, error=error, max_steps=max_steps)
    k = check_k(k, system.dim)
    front = begin(system, x0, seed=seed)
    run = settled(TangentRun.begin(front, random_frame(front.x, k, seed), every), plan.settle, progress=progress)
    run = run.with_all_directions()
    tally = Tally()
    blocks = _until_steady(run, tally, plan, error)
    with nullcontext() if seconds is None else ending(seconds):
        label = "Leading Lyapunov exponent" if k == 1 else f"{k} Lyapunov exponents"
        for run in watched(blocks, plan.most, label, progress, keeps=True, says=lambda: _so_far(tally)):
            tally.add(run.block)
    spectrum = held_to_a_derivative(_spectrum(run, tally, error), run.front)
    if tally.steps < plan.steps:
        cut = f"ended early, after {tally.steps:,} of {counted(plan.steps, 'step')}"
        spectrum = replace(spectrum, notes=(cut, *spectrum.notes))
    near = divergence_rate(system, x0, steps=tally.steps, settle=plan.settle, seed=seed, progress=progress) if check else None
    settings = {
        "k": k,
        "steps": tally.steps,
        "least_steps": plan.steps,
        "settle": plan.settle,
        "every": every,
        "error": error,
        "seconds": seconds,
        "seed": seed,
        "clock": system.clock,
        "dtype": str(front.x.dtype),
    }
    spectrum = held_to_its_check(replace(spectrum, check=near, settle=plan.settle, settings=settings))
    return spectrum.or_raise(throw)


def _until_steady(run: TangentRun, tally: Tally, plan: Plan, error: float | None) -> Iterator[TangentRun]:
    """The run at each QR; with `error`, in extensions of a quarter until the error bars are below it or the steps run out."""
    longest = max(plan.steps // BLOCKS, min(SHORT, plan.steps // FEWER), 1)
    more, agreed = stretches(run, plan.steps, longest), 0
    while True:
        for run in more:
            yield run
        if error is None or tally.steps >= plan.most:
            return
        agreed = agreed + 1 if _error_bars_below(tally, run, error) else 0
        if agreed == AGREEING_CHECKS:
            return
        more = stretches(run, min(max(tally.steps // 4, 1), plan.most - tally.steps), longest)


def _error_bars_below(tally: Tally, run: TangentRun, error: float) -> bool:
    stderr = standard_error(*tally.series()).masked_fill(run.erased, 0.0)
    return bool(((stderr <= error).all(-1) | (run.front.failed_at >= 0)).all())


def _so_far(tally: Tally) -> str:
    """The leading exponent of the runs so far, nats per unit time, and its standard error, as text."""
    rates, duration = (value.flatten(1) for value in tally.series(1))
    values = (rates * duration).sum(0) / duration.sum(0)
    alive = values.isfinite()
    values, runs = values[alive], int(alive.sum())
    if not runs:
        return ""
    error = values.std() / runs**0.5 if runs > 1 else standard_error(rates, duration)[alive]
    return f"λ₁ = {measured(float(values.mean()), float(error))}"


def _spectrum(run: TangentRun, tally: Tally, error: float | None) -> LyapunovSpectrum:
    """Averages, error bars and statuses of a finished run."""
    rates, duration = tally.series()
    failed = (run.front.failed_at >= 0) | rates.isnan().any(0).any(-1)
    time = duration.sum(0)
    exponents = ((rates * duration).sum(0) / time).masked_fill(run.erased, -math.inf).masked_fill(failed[..., None], math.nan)
    exponents, order = exponents.sort(dim=-1, descending=True)
    rates = rates.gather(-1, order.expand_as(rates))
    erased = exponents == -math.inf
    stderr = standard_error(rates, duration).masked_fill(erased, 0.0).masked_fill(failed[..., None], math.nan)
    drift = (drifts(rates, duration, comparisons=exponents.shape[-1]) & ~erased).any(-1)
    steady = ~(drift | stderr.isnan().any(-1))
    if error is not None:
        steady &= (stderr <= error).all(-1)
    dimension, dimension_error = kaplan_yorke(exponents, rates, duration, run.front.x.shape[-1])
    entropy, entropy_error = positive_sum(exponents, rates, duration)
    history = ((rates * duration).cumsum(0) / duration.cumsum(0)).masked_fill(erased, -math.inf)
    codes = torch.where(steady, Status.OK, Status.NOT_CONVERGED).masked_fill(failed, Status.DIVERGED)
    return LyapunovSpectrum(
        codes=codes.to(torch.int8),
        exponents=exponents,
        stderr=stderr,
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


def _notes(dtype: torch.dtype, erased: Tensor) -> tuple[str, ...]:
    notes = []
    if bool(erased[..., 0].any()):  # the leading direction, and so all
        notes.append("the step erases every tangent: it is constant, or was on a kink or a flat piece (an inactive ReLU)")
    if dtype != torch.float64:
        notes.append(FLOAT32)
    return tuple(notes)
