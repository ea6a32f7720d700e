"""The echo-state property: whether a driven system forgets its initial state."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from separatrix.analysis.driven.responses import ENOUGH_E_FOLDS, SAME, Separation, scattered, separation
from separatrix.analysis.run.statistics import FEWEST, standard_error
from separatrix.analysis.run.tally import Tally
from separatrix.analysis.run.tangent_run import TangentRun, random_frame, stretches
from separatrix.core.checks import check_positive, check_seed, check_whole
from separatrix.core.evolve import begin, check_steps, check_system_type
from separatrix.core.memory import check_memory
from separatrix.core.progress import watched
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain

VERDICTS = ("undecided", "echo state", "several responses", "sensitive", "diverged")
UNDECIDED, ECHO_STATE, SEVERAL, SENSITIVE, DIVERGED = range(len(VERDICTS))
STEPS = 2_000  # of a default run
MOST_NUMBERS, FEWEST_STEPS = 2**28, 200  # numbers in all states of a default run, but at least so many steps
SURE = 2  # standard errors beyond which the sign of λ₁ is known
ROUNDING = 64  # round-offs of the size of the states, below which a distance is rounding
RESOLVED = 1e-10  # smallest distance above rounding error, relative to the size of the states


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EchoState(Result):
    r"""Responses of many initial states to one drive, and the rate at which they approach each other,  d ln(distance)/dt.

    Args:
        verdict_codes: (*batch), int8, indices into ("undecided", "echo state", "several responses", "sensitive", "diverged").
        responses: (*batch), number of different responses at the end; states that diverged are not counted.
        groups: (state, *batch), response that each initial state reached, numbered from 0; −1 if it diverged.
        distance: (time, *batch), largest distance between two states, over √dim times the largest component of a state so far.
        median_distance: (time, *batch), median over the pairs of states, on the same scale.
        time: (time), at which the distances were taken, units of time.
        contraction, contraction_stderr: (*batch), mean rate d ln(distance)/dt before rounding error dominates, and its standard
            error, nats per unit time.
        exponents: (state, *batch), λ₁ conditional on the drive, along the response of each initial state.
        exponent, stderr: (*batch), mean of λ₁ over the states that did not diverge, and its standard error, nats per unit time.
        steps: number of steps for which the states were followed.
    """

    verdict_codes: Tensor
    responses: Tensor
    groups: Tensor
    distance: Tensor
    median_distance: Tensor
    time: Tensor
    contraction: Tensor
    contraction_stderr: Tensor
    exponents: Tensor
    exponent: Tensor
    stderr: Tensor
    steps: int

    drawn_by: ClassVar[str] = "separatrix.plot.echo_state:echo_state_figure"
    layout: ClassVar[dict[str, str]] = {
        "verdict_codes": "batch",
        "responses": "batch",
        "groups": "state batch",
        "distance": "time batch",
        "median_distance": "time batch",
        "time": "time",
        "contraction": "batch",
        "contraction_stderr": "batch",
        "exponents": "state batch",
        "exponent": "batch",
        "stderr": "batch",
    }
    units: ClassVar[dict[str, str]] = {
        "distance": "sizes of the states",
        "median_distance": "sizes of the states",
        "time": "units of time",
        **dict.fromkeys(("contraction", "contraction_stderr", "exponents", "exponent", "stderr"), "nats per unit time"),
    }

    @property
    def verdict(self) -> Any:
        """The verdict on each item in words: a string, or an array of strings of shape (*batch).

        "echo state": all states converged to one response. "several responses": they did not, although small perturbations decay.
        "sensitive": they did not, and small perturbations grow. "undecided": not followed long enough. "diverged": no state stayed
        finite.
        """
        words = np.array(VERDICTS)[self._checked_verdicts.cpu().numpy()]
        return str(words) if words.ndim == 0 else words

    @property
    def _checked_verdicts(self) -> Tensor:
        """`verdict_codes`, with "diverged" where the status says so."""
        return self.verdict_codes.masked_fill(self.codes == Status.DIVERGED, DIVERGED)

    def summary(self) -> str:
        """The verdict with its numbers."""
        states = counted(len(self.groups), "initial state")
        if self.batch:
            verdicts = self._checked_verdicts
            counts = [f"{int((verdicts == i).sum())} {word}" for i, word in enumerate(VERDICTS) if (verdicts == i).any()]
            return f"{states} under each of {counted(self.codes.numel(), 'drive')} for {self.steps:,} steps: {', '.join(counts)}"
        if self.codes == Status.DIVERGED:
            return f"all {states} diverge"
        count = int((self.groups < 0).sum())
        diverged = f", {count} diverge" if count else ""
        rate = f"λ₁ {self._rate()} nats per {self.clock} under this drive"
        return f"{self.verdict}: {self._ending(states)} after {self.steps:,} steps{diverged}; {rate}"

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return "No initial state stays finite: lower spread, or choose another x0."
        return "The states are still approaching each other, or λ₁ is too small for the length of the run: take more steps."

    def _rate(self) -> str:
        """The mean exponent and its error; if the responses have different exponents, their range."""
        own = self.exponents[~self.exponents.isnan()]
        differ = len(own) > 0 and float(own.max() - own.min()) > 1e-3 * float(own.abs().max())
        if differ and int(self.verdict_codes) == SEVERAL:
            return f"from {plain(float(own.min()))} to {plain(float(own.max()))}"
        return f"= {measured(float(self.exponent), float(self.stderr))}"

    def _ending(self, states: str) -> str:
        apart = f"largest distance {plain(float(self.distance[-1]))} of their size"
        if int(self.responses) > 1:
            return f"{states} are at {int(self.responses)} different places ({apart})"
        rate = measured(float(self.contraction), float(self.contraction_stderr))
        end = "have converged" if int(self.verdict_codes) == ECHO_STATE else "are close for their size, as they were at the start"
        return f"{states} {end}, distances change at {rate} nats per {self.clock} ({apart})"


@torch.no_grad()
def echo_state(
    system: System,
    x0: Tensor | None = None,
    *,
    starts: int = 32,
    spread: float = 1.0,
    steps: int | None = None,
    distinct: float = SAME,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> EchoState:
    r"""Whether a system forgets its initial state: distances between many initial states under one drive, and λ₁.

    A negative λ₁ means that a response is stable, not that it is the only one. The verdict therefore rests on the states.

    Args:
        system: any System; drive, noise and parameters are the same for all states of one batch item.
        x0: centre of the initial states, shape (*batch, dim). Default: the mean of `starts` samples of `system.initial_state`.
        starts: number of initial states, at least 2.
        spread: half-width; the initial states are uniform in x0 ± spread in every component.
        steps: number of steps. Default: 2,000 (fewer, but at least 200, for more than 131,072 numbers in all states), within the
            horizon.
        distinct: distance below which two states count as one, relative to the size of the states. States that
            have converged have also come closer by this factor, or as close as rounding allows.
        seed: seed of the initial states.
        progress: show a progress bar.
        throw: raise instead of marking items `diverged` or `not_converged`.

    Returns:
        EchoState: `verdict`, `responses`, `distance` over `time`, `contraction`, and `exponent` ± `stderr`, for each batch item.

    Raises:
        InputError: fewer than 2 starts, `spread` or `distinct` is not positive, or fewer than 1 step.
        HorizonError: `steps` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.
    Limits: initial states outside x0 ± spread are not tested. An item whose states still approach each other, or were followed for
        less than 20/|λ₁|, is "undecided" and `not_converged`. λ₁ is averaged over the last four fifths of the steps.
    Source: Jaeger 2001, GMD Report 148, def. 1 (echo states); Manjunath & Jaeger 2013, Neural Comput. 25, 671 (for a given input).

    Example:
        >>> gains = torch.tensor([[0.5], [2.0]])
        >>> unit = sx.Map(lambda h: torch.tanh(gains * h), dim=1)
        >>> sx.echo_state(unit, torch.zeros(2, 1), steps=100).verdict.tolist()
        ['echo state', 'several responses']
    """
    steps = _checked(system, starts=starts, spread=spread, steps=steps, distinct=distinct)
    check_seed(seed)
    numbers = starts * (4.0 * system.dim + 2.0 * starts)
    check_memory(f"{starts:,} initial states and their distances", numbers, torch.empty(0).double(), "Pass fewer starts.")
    middle = system.initial_state((starts,), seed).mean(0) if x0 is None else x0
    centre = begin(system, middle).x
    front = begin(system, scattered(centre, starts, float(spread), seed))
    walk = _Walk(TangentRun.begin(front, random_frame(front.x, 1, seed), every=1))
    found = separation(walk.positions(steps, progress), steps, float(distinct))
    rate, error, exponents = _pooled(walk.tally, found.groups, walk.run.erased[..., 0])
    verdicts = _verdicts(found, rate, error, steps, system.dt, float(distinct))
    codes = torch.full_like(verdicts, int(Status.OK))
    codes = codes.masked_fill(verdicts == UNDECIDED, int(Status.NOT_CONVERGED))
    codes = codes.masked_fill(verdicts == DIVERGED, int(Status.DIVERGED))
    time = torch.tensor(walk.times, dtype=torch.float64)
    contraction, contraction_stderr = _contraction(found, time.to(found.largest))
    settings = {"starts": starts, "spread": spread, "steps": steps, "distinct": distinct, "seed": seed, "clock": system.clock}
    echo = EchoState(
        codes=codes,
        verdict_codes=verdicts,
        responses=found.groups.amax(0) + 1,
        groups=found.groups,
        distance=found.largest,
        median_distance=found.median,
        time=time,
        contraction=contraction,
        contraction_stderr=contraction_stderr,
        exponents=exponents,
        exponent=rate,
        stderr=error,
        steps=steps,
        settings=settings,
    )
    return echo.or_raise(throw)


class _Walk:
    """All states followed along one input, with the growth of a tangent of each and the elapsed time.

    Args:
        run: the current states, at first the initial ones.
    """

    def __init__(self, run: TangentRun) -> None:
        self.run = run
        self.tally = Tally()
        self.times = [0.0]

    def positions(self, steps: int, progress: bool) -> Iterator[tuple[int, Tensor]]:
        """The states at the steps where distances are recorded."""
        marks = _recorded_steps(steps)
        yield 0, self.run.front.x
        for run in watched(stretches(self.run, steps), steps, "Echo state", progress):
            self.run, n = run, run.front.n
            if n > steps // 5:
                self.tally.add(run.block)
            if n in marks:
                self.times.append(float(torch.as_tensor(run.front.time, dtype=torch.float64).mean()))
                yield n, run.front.x


def _recorded_steps(steps: int) -> set[int]:
    """The first steps, then at intervals that grow with the step, and the last one."""
    marks, n = {steps}, 1
    while n < steps:
        marks.add(n)
        n += max(1, n // 16)
    return marks


def _pooled(tally: Tally, groups: Tensor, erased: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean λ₁ over the states that did not diverge and its error, (*batch); and λ₁ of each state, (state, *batch).

    Where a tangent became exactly 0 (`erased`, (state, *batch)), its exponent is −∞, and so is the mean.
    """
    rates, duration = (values[..., 0] for values in tally.series())
    alive = (groups >= 0).to(rates.device)
    own = ((rates * duration).sum(0) / duration.sum(0)).masked_fill(erased, -math.inf).where(alive, torch.nan)
    count = alive.sum(0)
    mean = rates.where(alive, 0.0).sum(1) / count
    weight = duration[:, 0]
    infinite = (erased & alive).any(0)
    rate = ((mean * weight).sum(0) / weight.sum(0)).masked_fill(infinite, -math.inf)
    return rate, standard_error(mean, weight).masked_fill(infinite, 0.0), own


def _verdicts(found: Separation, rate: Tensor, error: Tensor, steps: int, dt: float, distinct: float) -> Tensor:
    """Indices into `VERDICTS`, by the states; λ₁ decides only between verdicts on states that have not converged."""
    alive, count = (found.groups >= 0).sum(0), found.groups.amax(0) + 1
    grows = rate > SURE * (error.nan_to_num(math.inf).square() + 1 / (steps * dt) ** 2).sqrt()
    ended = (rate.abs() * steps * dt > ENOUGH_E_FOLDS) & ~found.closing_in
    verdicts = torch.where(grows, SENSITIVE, torch.where(ended, SEVERAL, UNDECIDED))
    verdicts = verdicts.masked_fill(count == 1, UNDECIDED).masked_fill((count == 1) & grows, SENSITIVE)
    verdicts = verdicts.masked_fill((count == 1) & _approached(found, distinct) & (alive == len(found.groups)), ECHO_STATE)
    verdicts = verdicts.masked_fill((count == 1) & (alive < len(found.groups)), SEVERAL)
    return verdicts.masked_fill(alive == 0, DIVERGED).to(torch.int8)


def _approached(found: Separation, distinct: float) -> Tensor:
    """Whether the states have come closer, and are not merely close for their size: states near 10⁹ begin as neighbours."""
    distance = found.largest * found.size
    rounding = ROUNDING * torch.finfo(distance.dtype).eps * found.size[-1]
    return (distance[0] > rounding) & (distance[-1] <= torch.maximum(distinct * distance[0], rounding))


def _contraction(found: Separation, time: Tensor) -> tuple[Tensor, Tensor]:
    """Slope of ln(distance) up to the last distance above rounding error, and its standard error."""
    logs, time = (found.largest * found.size).log(), time.reshape(-1, *[1] * (found.largest.ndim - 1))
    kept = (found.largest > RESOLVED).long().cumprod(0).bool()
    both = kept[1:] & kept[:-1]
    span = (time[1:] - time[:-1]).expand_as(both).where(both, 0.0)
    slopes = ((logs[1:] - logs[:-1]) / (time[1:] - time[:-1])).where(both, 0.0)
    total = span.sum(0)
    rate = (slopes * span).sum(0) / total
    count = both.sum(0)
    error = ((span * (slopes - rate)).square().sum(0) * count / (count - 1)).sqrt() / total
    at_once = torch.where(found.largest[-1] < RESOLVED, -math.inf, torch.nan)
    return rate.where(count > 0, at_once), error.where(count >= FEWEST, torch.nan)


def _checked(system: System, *, starts: int, spread: float, steps: int | None, distinct: float) -> int:
    """The number of steps to take, after checking the options."""
    check_whole("starts", starts, 2)
    check_positive("spread", spread)
    check_positive("distinct", distinct)
    check_system_type(system)
    if steps is None:
        steps = min(STEPS, max(FEWEST_STEPS, MOST_NUMBERS // (starts * system.dim)))
        steps = steps if system.horizon is None else min(steps, system.horizon)
    check_steps(system, steps=steps)
    return check_whole("steps", steps, 1)
