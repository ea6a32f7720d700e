"""The echo-state property: whether a driven system forgets where it began, from many initial states under one drive."""

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
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import begin, check_steps, check_system_type
from separatrix.core.progress import watched
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain

VERDICTS = ("undecided", "echo state", "several responses", "sensitive", "diverged")
UNDECIDED, ECHO_STATE, SEVERAL, SENSITIVE, LOST = range(len(VERDICTS))
STEPS = 2_000  # of a default run
SURE = 2  # standard errors beyond which λ₁ has a sign
RESOLVED = 1e-10  # distance over the size of the states below which it is rounding's


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EchoState(Result):
    r"""Whether many initial states end in one response to one drive, and how fast they come together.

    Args:
        answers: (*batch), int8, the place in `VERDICTS` of each item's `verdict`.
        responses: (*batch), how many different responses are left at the end; states that diverged reach none.
        groups: (state, *batch), which of them each initial state reached, numbered from 0; −1: it diverged.
        distance: (record, *batch), the largest distance between two states over their largest size so far, √dim counted.
        median_distance: (record, *batch), that of the middle pair.
        time: (record), units of time at which the two were taken.
        contraction, contraction_stderr: (*batch), the mean rate d ln(distance)/dt until it is lost in rounding, nats per unit time.
        exponents: (state, *batch), λ₁ conditional on the drive, along each initial state's own response.
        exponent, stderr: (*batch), their mean over the states that did not diverge, nats per unit time.
        steps: for how many steps they were followed.
    """

    answers: Tensor
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
        "answers": "batch",
        "responses": "batch",
        "groups": "state batch",
        "distance": "record batch",
        "median_distance": "record batch",
        "time": "record",
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
        """Each item's answer: a string, or an array of strings of shape (*batch).

        "echo state": all states met. "several responses": they did not, although small perturbations fade. "sensitive": they did
        not, and small perturbations grow. "undecided": not followed long enough. "diverged": no state stayed finite.
        """
        words = np.array(VERDICTS)[self._told.cpu().numpy()]
        return str(words) if words.ndim == 0 else words

    @property
    def _told(self) -> Tensor:
        """`answers`, and that of an item that was refused."""
        return self.answers.masked_fill(self.codes == Status.DIVERGED, LOST)

    def summary(self) -> str:
        """The verdict with its numbers."""
        states = counted(len(self.groups), "initial state")
        if self.batch:
            told = [f"{int((self._told == i).sum())} {word}" for i, word in enumerate(VERDICTS) if (self._told == i).any()]
            return f"{states} under each of {counted(self.codes.numel(), 'drive')} for {self.steps:,} steps: {', '.join(told)}"
        if self.codes == Status.DIVERGED:
            return f"all {states} diverge"
        lost = int((self.groups < 0).sum())
        diverged = f", {lost} diverge" if lost else ""
        rate = f"λ₁ {self._rate()} nats per {self.clock} under this drive"
        return f"{self.verdict}: {self._ending(states)} after {self.steps:,} steps{diverged}; {rate}"

    def _rate(self) -> str:
        """The mean exponent and its error; where responses differ in theirs, from which to which."""
        own = self.exponents[~self.exponents.isnan()]
        differ = len(own) > 0 and float(own.max() - own.min()) > 1e-3 * float(own.abs().max())
        if differ and int(self.answers) == SEVERAL:
            return f"from {plain(float(own.min()))} to {plain(float(own.max()))}"
        return f"= {measured(float(self.exponent), float(self.stderr))}"

    def _ending(self, states: str) -> str:
        apart = f"largest distance {plain(float(self.distance[-1]))} of their size"
        if int(self.responses) > 1:
            return f"{states} are at {int(self.responses)} different places ({apart})"
        speed = measured(float(self.contraction), float(self.contraction_stderr))
        return f"{states} have met, closing in at {speed} nats per {self.clock} ({apart})"


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
) -> EchoState:
    r"""Whether a system forgets where it began: many initial states under one drive, the distances between them, and λ₁ beside it.

    A negative λ₁ says that a response is stable, not that there is only one; so the verdict is that of the states.

    Args:
        system: any System; its drive, its noise and its parameters are the same for all states of one batch item.
        x0: about which the initial states lie, shape (*batch, dim). Default: the middle of as many of `system.initial_state`.
        starts: number of initial states, at least 2.
        spread: they are uniform in x0 ± spread, in every component.
        steps: for how long they are followed. Default: 2,000, within the horizon.
        distinct: distance, over the size of the states, under which two have met.
        seed: of the initial states.
        progress: show a progress bar.

    Returns:
        EchoState: `verdict`, `responses`, `distance` over `time`, `contraction`, and `exponent` ± `stderr`, for each batch item.

    Raises:
        InputError: fewer than 2 starts, a spread or tolerance that is not positive, or no step.
        HorizonError: more steps than the system can take.
    Limits: what initial states outside the spread do is not known, nor what an end still to come would do: an item whose states are
        still closing in, or were followed for less than 20/|λ₁|, is undecided, `not_converged`. λ₁ is averaged over the last
        four fifths of the steps.
    Source: Jaeger 2001, GMD Report 148, def. 1 (echo states); Manjunath & Jaeger 2013, Neural Comput. 25, 671 (for a given input).
    """
    steps = _checked(system, starts=starts, spread=spread, steps=steps, distinct=distinct)
    check_seed(seed)
    middle = system.initial_state((starts,), seed).mean(0) if x0 is None else x0
    centre = begin(system, middle).x
    front = begin(system, scattered(centre, starts, float(spread), seed))
    walk = _Walk(TangentRun.begin(front, random_frame(front.x, 1, seed), every=1))
    found = separation(walk.positions(steps, progress), steps, float(distinct))
    rate, error, exponents = _pooled(walk.tally, found.groups, walk.run.erased[..., 0])
    answers = _answers(found, rate, error, steps, system.dt)
    codes = torch.full_like(answers, int(Status.OK))
    codes = codes.masked_fill(answers == UNDECIDED, int(Status.NOT_CONVERGED)).masked_fill(answers == LOST, int(Status.DIVERGED))
    time = torch.tensor(walk.times, dtype=torch.float64)
    contraction, doubt = _contraction(found, time.to(found.largest))
    asked = {"starts": starts, "spread": spread, "steps": steps, "distinct": distinct, "seed": seed, "clock": system.clock}
    return EchoState(
        codes=codes,
        answers=answers,
        responses=found.groups.amax(0) + 1,
        groups=found.groups,
        distance=found.largest,
        median_distance=found.median,
        time=time,
        contraction=contraction,
        contraction_stderr=doubt,
        exponents=exponents,
        exponent=rate,
        stderr=error,
        steps=steps,
        settings=asked,
    )


class _Walk:
    """All states followed along one input; on the way, how much a tangent of each grows, and how much time passes.

    Args:
        run: the start; later, where the states have come to.
    """

    def __init__(self, run: TangentRun) -> None:
        self.run = run
        self.tally = Tally()
        self.times = [0.0]

    def positions(self, steps: int, progress: bool) -> Iterator[tuple[int, Tensor]]:
        """The states at the steps of a record."""
        marks = _marks(steps)
        yield 0, self.run.front.x
        for run in watched(stretches(self.run, steps), steps, "Echo state", progress):
            self.run, n = run, run.front.n
            if n > steps // 5:
                self.tally.add(run.block)
            if n in marks:
                self.times.append(float(torch.as_tensor(run.front.time, dtype=torch.float64).mean()))
                yield n, run.front.x


def _marks(steps: int) -> set[int]:
    """Each of the first steps, then ever fewer, to the last."""
    marks, n = {steps}, 1
    while n < steps:
        marks.add(n)
        n += max(1, n // 16)
    return marks


def _pooled(tally: Tally, groups: Tensor, erased: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """λ₁ and its error, (*batch), of the mean over the states that did not diverge; and each state's own, (state, *batch).

    Where a tangent was erased, (state, *batch), its exponent is −∞, and so is the mean.
    """
    rates, duration = (values[..., 0] for values in tally.series())
    alive = (groups >= 0).to(rates.device)
    own = ((rates * duration).sum(0) / duration.sum(0)).masked_fill(erased, -math.inf).where(alive, torch.nan)
    count = alive.sum(0)
    mean = rates.where(alive, 0.0).sum(1) / count
    weight = duration[:, 0]
    gone = (erased & alive).any(0)
    rate = ((mean * weight).sum(0) / weight.sum(0)).masked_fill(gone, -math.inf)
    return rate, standard_error(mean, weight).masked_fill(gone, 0.0), own


def _answers(found: Separation, rate: Tensor, error: Tensor, steps: int, dt: float) -> Tensor:
    """Places in `VERDICTS`: that of the states; λ₁ only tells those that have not met apart."""
    alive, count = (found.groups >= 0).sum(0), found.groups.amax(0) + 1
    grows = rate > SURE * (error.nan_to_num(math.inf).square() + 1 / (steps * dt) ** 2).sqrt()
    ended = (rate.abs() * steps * dt > ENOUGH_E_FOLDS) & ~found.closing_in
    answers = torch.where(grows, SENSITIVE, torch.where(ended, SEVERAL, UNDECIDED))
    answers = answers.masked_fill((count == 1) & (alive == len(found.groups)), ECHO_STATE)
    answers = answers.masked_fill((count == 1) & (alive < len(found.groups)), SEVERAL)
    return answers.masked_fill(alive == 0, LOST).to(torch.int8)


def _contraction(found: Separation, time: Tensor) -> tuple[Tensor, Tensor]:
    """The slope of ln(distance) from the first record to the last that is no rounding, and its standard error."""
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
    """The steps to take; refuses what makes no sense."""
    if check_whole("starts", starts) < 2:
        raise InputError(f"starts is {starts}; whether they meet can be asked of at least 2.")
    for name, value in (("spread", spread), ("distinct", distinct)):
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise InputError(f"{name} is {value!r}; it is a positive number.")
    check_system_type(system)
    if steps is None:
        steps = STEPS if system.horizon is None else min(STEPS, system.horizon)
    check_steps(system, steps=steps)
    if steps < 1:
        raise InputError(f"steps is {steps}; states are followed for at least 1.")
    return int(steps)
