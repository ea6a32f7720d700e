"""`sx.analyze`: find the recurrent core, drive it with its data, measure it and interpret the result; or measure in depth."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from separatrix.analysis.driven.responses import Responses, attractors, common_drive_responses
from separatrix.analysis.gradients.propagation import Propagation, gradient_propagation
from separatrix.analysis.lyapunov.pooled import PooledSpectrum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.analysis.lyapunov.spectrum import lyapunov_spectrum
from separatrix.core.checks import check_choice, check_seed, check_whole
from separatrix.core.errors import HorizonError, InputError
from separatrix.core.evolve import trajectory
from separatrix.core.randomness import undisturbed
from separatrix.core.result import Status
from separatrix.core.system import System
from separatrix.core.wording import counted as in_words
from separatrix.core.wording import measured, plain
from separatrix.core.wrappers import bare
from separatrix.portrait.core import Core
from separatrix.portrait.depth import depth_portrait
from separatrix.portrait.find_core import find_core
from separatrix.portrait.findings import Subject, answer, chosen
from separatrix.portrait.portrait import Portrait, RecurrentPortrait
from separatrix.portrait.regime import Regime, along, regime_of
from separatrix.portrait.verdict import advice, verdict, why_not_converged

ALL_EXPONENTS = 256  # up to this state dimension, the whole spectrum; beyond it, this many leading exponents
SHOWN_STEPS, SHOWN_RUNS = 400, 16  # of the phase portrait
MOST_SEQUENCES = 256  # whose finite-time exponents are taken
ATTRACTOR_STEPS = 2_000  # over which attractors are distinguished
MANY = 0.25  # share of the runs in which the check must disagree before the verdict opens with it
HUGE = 1e100  # larger states are about to overflow, and their squares already have
MOST_NUMBERS = 20_000_000  # in the Jacobians of one batch: 160 MB


@undisturbed()
def analyze(
    model: nn.Module,
    inputs: Any = None,
    *,
    module: str | None = None,
    k: int | None = None,
    copies: int = 16,
    steps: int | None = None,
    settle: int | None = None,
    error: float | None = None,
    also: str | Sequence[str] = "auto",
    layers: Sequence[str] | None = None,
    targets: Any = None,
    loss: Callable[..., Tensor] | None = None,
    noise: Literal["refuse", "fixed"] = "refuse",
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

    In a model without a recurrent part, it measures how changes and gradients grow from layer to layer; see `depth_profile`.

    Args:
        model: a module with at most one recurrent part; if it has several, choose one with `module`. It is not changed.
        inputs: what the model takes, including the batch axis: a tensor or array; a tuple of several arguments; a dictionary of
            arguments by name; packed sequences; or a list of sequences of unequal length.
        module: name of the recurrent part within the model, if there are several.
        k: number of leading exponents, 1 … size of the state. Default: all, up to 256. In depth: number of singular values.
            Default: 8.
        copies: number of runs to measure: independent streams of the sequences; without inputs, initial states; in depth, inputs.
        steps: number of steps over which the exponents are averaged. Default: 2,000; along given sequences, all steps after
            settling.
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
        noise: what to do if the network's step draws random numbers in evaluation mode: "refuse" the network, or hold the draws
            "fixed", the same for all runs (`sx.Seeded`). To choose the size of the noise, remove it from the step and add it
            with `sx.Noisy`.
        seed: seed of the stream, the initial states, the frame and the noise, 0 … 2⁶³ − 1.
        progress: show a progress bar.

    Returns:
        RecurrentPortrait with `.verdict` (text), `.spectrum`, `.pooled`, `.propagation`, `.findings`, …; or DepthPortrait with
        `.verdict` and `.profile`. Both display themselves in a notebook.

    Raises:
        UnsupportedModuleError: the model has several recurrent parts or a bidirectional one; it has none and there are no inputs;
            or it has a handwritten loop over time whose step cannot be called.
        InputError, ShapeError: the model cannot take the inputs, or they are not finite; an argument belongs to the other kind of
            network.
    """
    seed = check_seed(seed)
    model = bare(model)
    check_choice("noise", noise, ("refuse", "fixed"))
    check_whole("copies", copies, 1)
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
        )
        asked = {"layers": layers, "targets": targets, "loss": loss}
        return depth_portrait(model, inputs, k=k, copies=copies, **asked, seed=seed, progress=progress)
    _refuse(f"{type(model).__name__} is measured along time", layers=layers, targets=targets, loss=loss)
    asked = {"steps": steps, "settle": settle, "error": error, "also": also, "noise": noise}
    return _recurrent_portrait(model, core, k=k, copies=copies, **asked, seed=seed, progress=progress)


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
    copies: int,
    steps: int | None,
    settle: int | None,
    error: float | None,
    also: str | Sequence[str],
    noise: str,
    seed: int,
    progress: bool,
) -> RecurrentPortrait:
    regime = regime_of(core, copies, seed)
    regime = regime.held(seed) if noise == "fixed" else regime
    questions = chosen(also, regime.common)
    k = min(regime.system.dim, ALL_EXPONENTS) if k is None else k
    x0 = regime.initial_states(copies, seed)
    steps = _whole_sequence(regime, steps, settle, error)
    _check_length(regime, steps, settle)
    spectrum = lyapunov_spectrum(
        regime.system, x0, k=k, steps=steps, settle=settle, error=error, seed=seed, check=True, progress=progress
    )
    settled = spectrum.settle
    groups = attractors(regime.system, x0, settled, ATTRACTOR_STEPS) if regime.is_autonomous else None
    counted = _counted(spectrum, groups)
    pooled = _headline(spectrum, counted)
    rate, stderr = float(pooled.exponents[0]), float(pooled.stderr[0])
    propagation = _propagation(regime, settled, seed)
    finite, length = _finite_time(core, regime)
    growth = None if finite is None else float(finite.mean()) * length
    states = _settled_states(regime.system, x0, settled, seed)
    responses = None if groups is not None else common_drive_responses(regime.common, copies, rate, seed, visited=states)
    plane, explained = _principal_plane(states[:, :SHOWN_RUNS])
    subjects = {drive: Subject(getattr(regime, drive), states, seed, progress) for drive in ("frozen", "common")}
    findings, unanswered = answer(questions, subjects)
    return RecurrentPortrait(
        codes=pooled.codes,
        spectrum=spectrum,
        pooled=pooled,
        counted=counted.reshape(-1),
        propagation=propagation,
        finite_time=finite,
        finite_time_steps=length or 0,
        groups=responses.groups if responses else groups,
        settled=responses.settled if responses else True,
        response_steps=responses.steps if responses else settled + ATTRACTOR_STEPS,
        plane=plane,
        explained=explained,
        verdict=verdict(rate, stderr, spectrum.steps, responses, groups, of=regime.of, disagreement=_doubt(spectrum, counted)),
        advice=advice(rate, stderr, spectrum.steps, length, growth, responses),
        did=_did(regime, spectrum, responses, groups),
        regime=regime.kind,
        model=type(model).__name__,
        core=core.label,
        findings=findings,
        unanswered=unanswered,
        settings={**spectrum.settings, "copies": copies, "module": core.name, "also": also if also == "auto" else [*questions]},
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


def _counted(spectrum: LyapunovSpectrum, groups: Tensor | None) -> Tensor:
    """The runs that the headline averages: all that did not diverge; if autonomous, those on the attractor that most reach."""
    alive = spectrum.codes != Status.DIVERGED
    if groups is None:
        return alive
    alive = alive & (groups >= 0)
    return alive & (groups == groups[alive].mode().values) if bool(alive.any()) else alive


def _headline(spectrum: LyapunovSpectrum, counted: Tensor) -> PooledSpectrum:
    if bool(counted.any()):
        return spectrum.pooled(counted)
    nan = torch.full(spectrum.exponents.shape[-1:], math.nan, dtype=torch.float64)
    code = torch.tensor(int(Status.DIVERGED), dtype=torch.int8)
    runs = spectrum.codes.numel()
    return PooledSpectrum(codes=code, exponents=nan, stderr=nan, within=nan, between=nan, runs=0, diverged=runs)


def _doubt(spectrum: LyapunovSpectrum, counted: Tensor) -> str:
    """A sentence if the two-trajectory check contradicts λ₁ in more runs than chance would; otherwise empty."""
    apart = spectrum.disagreement[counted]
    if not bool(apart.any()) or float(apart.double().mean()) < MANY or spectrum.check is None:
        return ""
    rates = spectrum.check.rate[counted][apart]
    where = f" in {int(apart.sum())} of {in_words(len(apart), 'run')}" if len(apart) > 1 else ""
    return f"two nearby trajectories separate at {plain(float(rates.mean()))} nats per step{where}, which contradicts λ₁"


def _propagation(regime: Regime, settle: int, seed: int) -> Propagation:
    """Growth over lags from the settled state; from one copy only if the Jacobians of all would not fit."""
    copies = math.prod(regime.system.batch_shape)
    system = regime.system if copies * regime.system.dim**2 <= MOST_NUMBERS else regime.common
    x0 = system.initial_state((8,), seed) if regime.is_autonomous else regime.start if system is regime.system else None
    return gradient_propagation(system, x0, k=1, settle=settle, seed=seed)


def _finite_time(core: Core, regime: Regime) -> tuple[Tensor | None, int | None]:
    """(1/T) ln σ₁(∂h_T/∂h_0) over the length T of each sequence; None if nothing drives the network."""
    if regime.kind == "driven loop":
        length = regime.system.horizon
        return gradient_propagation(regime.system, lags=(length,), k=1).log_norm[0].reshape(-1) / length, length
    if regime.sequences is None:
        return None, None
    length, count, _ = regime.sequences.shape
    count = max(1, min(count, MOST_SEQUENCES, MOST_NUMBERS // regime.system.dim**2))
    lengths = torch.full((count,), length) if core.lengths is None else core.lengths[:count]
    rates = torch.empty(count, dtype=torch.float64)
    for one in lengths.unique().tolist():
        chosen = (lengths == one).nonzero()[:, 0]
        system = regime.same_noise(along(core, regime.sequences[:one, chosen]))
        x0 = None if core.start is None else core.start[chosen].double()
        rates[chosen] = gradient_propagation(system, x0, lags=(one,), k=1).log_norm[0].reshape(-1).double() / one
    return rates, round(float(lengths.double().mean()))


def _settled_states(system: System, x0: Tensor | None, settle: int, seed: int) -> Tensor:
    """The states of the runs after settling, (step, run, dim); NaN where they are about to overflow."""
    steps = SHOWN_STEPS if system.horizon is None else min(SHOWN_STEPS, system.horizon - settle)
    with torch.no_grad():
        states = trajectory(system, x0, steps, settle=settle, seed=seed)
    states = states.reshape(len(states), -1, system.dim)
    return states.where(states.abs() < HUGE, torch.nan)


def _principal_plane(states: Tensor) -> tuple[Tensor, Tensor]:
    """States in the plane of their two leading principal components, (step, run, 2), and the variance along each."""
    cloud = states.flatten(0, 1)
    cloud = cloud[cloud.isfinite().all(-1)]
    if len(cloud) < 2:
        return torch.zeros(*states.shape[:2], 2, dtype=states.dtype), torch.zeros(2, dtype=states.dtype)
    center = cloud.mean(0)
    variance, axes = torch.linalg.eigh((cloud - center).mT @ (cloud - center) / len(cloud))
    axes, variance = axes.flip(-1)[:, :2], variance.flip(-1).clamp(min=0)
    plane = (states - center) @ axes
    share = variance[:2] / variance.sum().clamp(min=torch.finfo(variance.dtype).tiny)
    pad = 2 - plane.shape[-1]
    return nn.functional.pad(plane, (0, pad)), nn.functional.pad(share, (0, pad))


def _did(regime: Regime, spectrum: LyapunovSpectrum, responses: Responses | None, groups: Tensor | None) -> tuple[str, ...]:
    """What was done, one sentence each."""
    k = spectrum.exponents.shape[-1]
    which = f"all {k}" if k == spectrum.dim else f"the leading {k} of {spectrum.dim}"
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
        why_not_converged(spectrum).replace("not", "did not", 1): int((spectrum.codes == Status.NOT_CONVERGED).sum()),
        "diverged": int((spectrum.codes == Status.DIVERGED).sum()),
    }
    sentences.extend(f"{n} of {runs} {how}." for how, n in ended.items() if n)
    return (*sentences, *spectrum.notes)


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
