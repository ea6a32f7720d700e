"""`sx.analyze`: find the recurrent core, drive it with its data, measure it and interpret the result; or measure in depth."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from separatrix.analysis.driven.responses import Responses
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.analysis.run.steps import plan_steps
from separatrix.analysis.run.tangent_run import check_k
from separatrix.core.checks import check_choice, check_flag, check_positive, check_seed, check_whole
from separatrix.core.ending import Ended, ending
from separatrix.core.errors import HorizonError, InputError
from separatrix.core.progress import say as to_stderr
from separatrix.core.randomness import undisturbed
from separatrix.core.result import Status
from separatrix.core.wording import counted as in_words
from separatrix.core.wording import measured, plain
from separatrix.core.wrappers import bare
from separatrix.portrait.core import Core
from separatrix.portrait.depth import depth_portrait
from separatrix.portrait.effort import FEWEST_RUNS, RUNS, Effort, cost_of, pace, plan_effort
from separatrix.portrait.find_core import find_core
from separatrix.portrait.findings import QUESTIONS, Subject, answer, chosen
from separatrix.portrait.measurements import DECISIVE, REFINING, Measurements
from separatrix.portrait.portrait import Portrait, RecurrentPortrait
from separatrix.portrait.regime import Regime, regime_of
from separatrix.portrait.verdict import why_not_converged


@undisturbed()
def analyze(
    model: nn.Module,
    inputs: Any = None,
    *,
    module: str | None = None,
    k: int | None = None,
    copies: int | None = None,
    steps: int | None = None,
    settle: int | None = None,
    error: float | None = None,
    also: str | Sequence[str] = "auto",
    layers: Sequence[str] | None = None,
    targets: Any = None,
    loss: Callable[..., Tensor] | None = None,
    statistics: Literal["running", "batch"] = "running",
    noise: Literal["refuse", "fixed"] = "refuse",
    seconds: float | None = None,
    full: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Portrait:
    """Measure on which side of the border a network lies: order or chaos if it is recurrent, vanishing or exploding if it is deep.

    Trial calls and one recorded forward pass show what the model is: a recurrent part is recognised by its class or by the way
    it is called, and a part that the model feeds with its own output is measured within that loop. For a recurrent part, the
    inputs decide what is measured:

    - many short sequences: the spectrum under an endless random stream of them, carrying the state over, and the finite-time
      exponents over the length of each sequence;
    - one long sequence (1,000 steps or more): the spectrum along it;
    - no inputs: the spectrum of the autonomous network from several initial states, attractor by attractor.

    The leading exponent, which decides the verdict, comes first, then everything else. The numbers of runs, exponents and steps
    follow from the size of the network, so that a report takes less than a minute; they are the same on every machine.

    In a model without a recurrent part, it measures how changes and gradients grow from layer to layer; see `depth_profile`.

    Args:
        model: a module with at most one recurrent part; if it has several, choose one with `module`. It is not changed.
        inputs: what the model takes, including the batch axis: a tensor or array; a tuple of several arguments; a dictionary of
            arguments by name; packed sequences; or a list of sequences of unequal length.
        module: name of the recurrent part within the model, if there are several.
        k: number of leading exponents, 1 … size of the state. Default: all, up to 256, if that takes less than about half a minute;
            otherwise a power of 2. In depth: number of singular values. Default: 8; none for inputs of more than 256 numbers,
            unless `layers` are named.
        copies: number of runs to measure: independent streams of the sequences; without inputs, initial states; in depth, inputs.
            Default: 16; 8 or 4 for a large recurrent network.
        steps: number of steps over which the exponents are averaged. Default: 2,000, fewer for a very large network; along given
            sequences, all steps after settling.
        settle: number of initial steps left out of the average, in which the state reaches its attractor. Default: a fifth of
            the steps; along given sequences, at most a tenth of their length.
        error: continue until every error bar is below this, in nats per step, for at most 100 times `steps`.
        also: further analyses of the recurrent part: "fixed_points", "phase_portrait", "basins_of_attraction",
            "power_spectrum", "echo_state", "transient_growth", "memory_capacity", "covariant_lyapunov_vectors",
            "correlation_dimension". "auto" runs the analyses that take seconds, "none" runs none.
        layers: in depth: names of the modules to measure. Default: all that change the signal.
        targets: in depth: one target per input along axis 0, for the gradients of the cross-entropy (integer targets) or of the
            squared error. Default: gradients of a random component of the output.
        loss: in depth: a function (output, targets), or (output) without targets, that returns a number; replaces these losses.
        statistics: in depth: what BatchNorm layers normalise with: their "running" statistics, or those of the "batch" of inputs
            that is measured, held fixed.
        noise: what to do if the network's step draws random numbers in evaluation mode: "refuse" the network, or hold the draws
            "fixed", the same for all runs (`sx.Seeded`). To choose the size of the noise, remove it from the step and add it
            with `sx.Noisy`.
        seconds: end early, after this time, with what is measured until then. Default: no limit. Ctrl-C does the same.
        full: along time: measure the whole spectrum, from 16 runs, and all further analyses, whatever that takes.
        seed: seed of the stream, the initial states, the frame and the noise, 0 … 2⁶³ − 1.
        progress: say first how long it takes, show progress bars, and the verdict as soon as it is known.

    Returns:
        RecurrentPortrait with `.verdict` (text), `.spectrum`, `.pooled`, `.propagation`, `.findings`, …; or DepthPortrait with
        `.verdict` and `.profile`. Both display themselves in a notebook.

    Raises:
        UnsupportedModuleError: the model has several recurrent parts or a bidirectional one; it has none and there are no inputs;
            or it has a handwritten loop over time whose step cannot be called.
        InputError, ShapeError: the model cannot take the inputs, or they are not finite; an argument belongs to the other kind of
            network.

    Example:
        >>> rnn = nn.RNN(2, 8, batch_first=True)
        >>> _ = nn.init.orthogonal_(rnn.weight_hh_l0, gain=0.5)
        >>> portrait = sx.analyze(rnn, torch.randn(4, 20, 2), steps=100, copies=4, also="none")
        >>> portrait.verdict.split(":")[0], bool(portrait.spectrum.exponents.max() < -0.69)  # ln 0.5
        ('ordered', True)
    """
    seed = check_seed(seed)
    model = bare(model)
    check_choice("noise", noise, ("refuse", "fixed"))
    check_flag("full", full)
    if copies is not None:
        check_whole("copies", copies, 1)
    seconds = None if seconds is None else check_positive("seconds", seconds)
    core = find_core(model, inputs, module)
    if core is None:
        named = {also} if isinstance(also, str) else {*also}
        _refuse(
            f"{type(model).__name__} has no recurrent part",
            steps=steps,
            settle=settle,
            error=error,
            also=(named - {"auto", "none"}) or None,
            noise=None if noise == "refuse" else noise,
            full=full or None,
        )
        asked = {"layers": layers, "targets": targets, "loss": loss, "statistics": statistics, "seconds": seconds}
        return depth_portrait(model, inputs, k=k, copies=RUNS if copies is None else copies, **asked, seed=seed, progress=progress)
    held = None if statistics == "running" else statistics
    _refuse(f"{type(model).__name__} is measured along time", layers=layers, targets=targets, loss=loss, statistics=held)
    asked = {"steps": steps, "settle": settle, "error": error, "also": also, "noise": noise}
    return _recurrent_portrait(model, core, k=k, copies=copies, **asked, seconds=seconds, full=full, seed=seed, progress=progress)


def _refuse(because: str, **arguments: Any) -> None:
    """Refuse arguments that belong to the other kind of network."""
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise InputError(f"{' and '.join(given)} cannot be used: {because}.\nLeave out: {', '.join(given)}.")


def _recurrent_portrait(
    model: nn.Module,
    core: Core,
    *,
    k: int | None,
    copies: int | None,
    steps: int | None,
    settle: int | None,
    error: float | None,
    also: str | Sequence[str],
    noise: str,
    seconds: float | None,
    full: bool,
    seed: int,
    progress: bool,
) -> RecurrentPortrait:
    def regime(runs: int) -> Regime:
        found = regime_of(core, runs, seed)
        return found.held(seed) if noise == "fixed" else found

    effort = _effort(regime, k=k, copies=copies, steps=steps, settle=settle, error=error, full=full, seed=seed)
    made = Measurements(core, regime(effort.runs), effort, copies or RUNS, error, seed, progress)
    questions = chosen([*QUESTIONS] if full and also == "auto" else also, made.regime.common)
    say = to_stderr if progress else lambda text: None
    if progress or seconds is not None:
        _announce(made, seconds, say)
    with ending(seconds, on_interrupt=True) as end:
        _measure_leading(made, seconds)
        for part in DECISIVE:
            made.measure(part, end)
        say(f"{made.verdict}{' (to be refined)' if not effort.is_quick else ''}")
        for part in REFINING:
            made.measure(part, end)
        findings, unanswered = answer(questions, _subjects(made), end)
        missing = (*made.left_out, *(name for name in questions if name not in findings | unanswered))
        why = end.why if missing else ""
    portrait = _portrait(model, made, also=also if also == "auto" else [*questions], seconds=seconds, full=full)
    did = (*portrait.did, *([f"Not measured ({why}): {', '.join(map(_heading, missing))}."] if missing else []))
    return replace(portrait, findings=findings, unanswered=unanswered, did=did, ended=why, left_out=missing)


def _heading(name: str) -> str:
    return QUESTIONS[name].heading if name in QUESTIONS else (DECISIVE | REFINING)[name]


def _effort(
    regime: Callable[[int], Regime],
    *,
    k: int | None,
    copies: int | None,
    steps: int | None,
    settle: int | None,
    error: float | None,
    full: bool,
    seed: int,
) -> Effort:
    """The runs, exponents and steps: as they were asked for, and otherwise as many as can be afforded, or all."""
    one = regime(1)
    system, given = one.system, math.prod(one.system.batch_shape)
    k = check_k(k, system.dim) if k is not None or full else None
    whole = _whole_sequence(one, steps, settle, error)
    _check_length(one, whole, settle)
    plan = plan_steps(system, steps=whole, settle=settle, error=error)
    if one.has_given_runs:
        runs = [given]
    else:
        runs = [RUNS if copies is None else copies] if full or copies is not None else [RUNS, RUNS // 2, FEWEST_RUNS]
    free = steps is None and settle is None and error is None and not full and system.horizon is None
    return plan_effort(cost_of(system, seed), runs=runs, k=k, steps=plan.steps, settle=plan.settle, may_shorten=free)


def _announce(made: Measurements, seconds: float | None, say: Callable[[str], None]) -> None:
    """Say how long the measurements take here, from a few steps of both spectra."""
    effort, total = made.effort, made.effort.steps + made.effort.settle
    alone, step = (pace(made.regime.system, made.x0, k, made.seed) for k in (1, effort.k))
    if seconds is not None and seconds < alone * (effort.settle + 1):
        raise InputError(
            f"seconds is {plain(seconds)}, but {in_words(effort.settle, 'settling step')} and one more of "
            f"{in_words(effort.runs, 'run')} take about {plain(alone * (effort.settle + 1))} s here.\n"
            "Pass more seconds, or fewer copies or settling steps."
        )
    runs = f"{in_words(effort.runs, 'run')} × {total:,} steps"
    which = _which(effort.k, effort.cost.dim)
    say(f"{runs}: the verdict in about {_duration(2 * alone * total)}, {which} exponents in about {_duration(step * total)} more")


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 120 else f"{round(seconds / 60)} min"


def _measure_leading(made: Measurements, seconds: float | None) -> None:
    """Measure what the report cannot do without."""
    try:
        _ = made.leading
    except Ended as ended:
        raise InputError(f"{ended}, before the first step was averaged.\nPass more seconds than {seconds}.") from None


def _subjects(made: Measurements) -> dict[str, Subject]:
    regime, states = made.regime, made.known("states")
    states = torch.empty(0, 1, regime.common.dim, dtype=torch.float64) if states is None else states
    return {drive: Subject(getattr(regime, drive), states, made.seed, made.progress) for drive in ("frozen", "common")}


def _portrait(model: nn.Module, made: Measurements, **asked: Any) -> RecurrentPortrait:
    spectrum, regime, responses = made.best, made.regime, made.known("responses")
    groups, plane = made.known("groups"), made.known("plane")
    pooled = made.pooled
    return RecurrentPortrait(
        codes=pooled.codes,
        spectrum=spectrum,
        pooled=pooled,
        counted=made.counted.reshape(-1),
        propagation=made.known("propagation"),
        finite_time=made.known("finite_time"),
        finite_time_steps=0 if made.known("finite_time") is None else made.sequence_steps,
        groups=groups,
        settled=groups is not None and (responses is None or responses.settled),
        response_steps=responses.steps if responses else spectrum.settle + made.response_steps,
        plane=None if plane is None else plane[0],
        explained=None if plane is None else plane[1],
        verdict=made.verdict,
        advice=made.advice,
        did=_did(regime, spectrum, responses, made.attractors),
        regime=regime.kind,
        model=type(model).__name__,
        core=made.core.label,
        settings={**spectrum.settings, "copies": made.effort.runs, "module": made.core.name, **asked},
    )


def _whole_sequence(regime: Regime, steps: int | None, settle: int | None, error: float | None) -> int | None:
    """Along given sequences, all of their steps that are not settling."""
    horizon = regime.system.horizon
    if steps is not None or horizon is None or error is not None:
        return steps
    return horizon - (horizon // 10 if settle is None else settle)


def _check_length(regime: Regime, steps: int | None, settle: int | None) -> None:
    """Refuse more steps than a given sequence has; many sequences are streamed, without end."""
    horizon, total = regime.system.horizon, (steps or 0) + (settle or 0)
    if horizon is not None and total > horizon:
        raise HorizonError(
            f"settle {settle or 0} + steps {steps} = {total} steps, but the sequence has {in_words(horizon, 'step')}.\n"
            "Reduce steps, or pass several sequences, from which an endless stream is drawn."
        )


def _did(regime: Regime, spectrum: LyapunovSpectrum, responses: Responses | None, groups: Tensor | None) -> tuple[str, ...]:
    """What was done, one sentence each."""
    which = _which(spectrum.exponents.shape[-1], spectrum.dim)
    settling = in_words(spectrum.settle, "settling step")
    sentences = [
        regime.words + ".",
        f"{which.capitalize()} exponents, averaged over {in_words(spectrum.steps, 'step')} after {settling}.",
    ]
    if responses is not None:
        states, steps = in_words(len(responses.groups), "initial state"), in_words(responses.steps, "step")
        sentences.append(f"{states}, followed under one common input for {steps}.")
    elif groups is not None and int(groups.max()) > 0:
        sentences.extend(_each_attractor(spectrum, groups))
    runs = in_words(spectrum.codes.numel(), "run")
    ended = {
        why_not_converged(spectrum).replace("not converged", "did not converge", 1): int(
            (spectrum.codes == Status.NOT_CONVERGED).sum()
        ),
        "diverged": int((spectrum.codes == Status.DIVERGED).sum()),
    }
    sentences.extend(f"{n} of {runs} {how}." for how, n in ended.items() if n)
    return (*sentences, *spectrum.notes)


def _which(k: int, dim: int) -> str:
    return f"all {k}" if k == dim else f"the leading {k} of {dim:,}"


def _each_attractor(spectrum: LyapunovSpectrum, groups: Tensor) -> list[str]:
    sentences = []
    for group in range(int(groups.max()) + 1):
        members = groups == group
        who = f"Attractor {group + 1} ({in_words(int(members.sum()), 'initial state')})"
        if bool((spectrum.codes[members] == Status.DIVERGED).all()):
            sentences.append(f"{who}: diverged.")
            continue
        pooled = spectrum.pooled(members)
        sentences.append(f"{who}: λ₁ = {measured(float(pooled.exponents[0]), float(pooled.stderr[0]))} nats per step.")
    return sentences
