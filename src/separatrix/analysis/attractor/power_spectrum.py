"""The power spectrum of an orbit, and whether the orbit is at rest, periodic, quasi-periodic or chaotic."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy
import torch
from torch import Tensor

from separatrix.analysis.attractor.orbit import Sampling, affordable_samples, check_room, plan_sampling, sampled, settled
from separatrix.analysis.run.statistics import least_size
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import Front, begin, check_system_type
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

SAMPLES = 8_192  # states kept by default
APART = 0.05  # default time between two kept states
FEWEST = 32  # fewest samples in which lines can be distinguished from noise
SEGMENTS = 8  # orbit length over segment length, for the Welch spectrum
NUDGE = 1e-12  # initial distance of the second orbit, in units of the size of the state
FAR = 0.1  # two orbits this fraction of the extent apart have separated, at any step
FLAT = 1e-9  # a state that deviates less than this, in units of its size, is at rest
QUIET = 1e-3  # largest broadband share of the power of a regular orbit
LOUD = 1e-6  # smallest broadband share of the power of a chaotic orbit
LOBE = 4  # bins on either side of a line over which the window spreads it
LINES = 16  # lines kept
WEAKEST = 1e-4  # weaker lines, as a share of the power, do not affect the verdict
MISSED, DRIFT = 0.02, 0.002  # error in bins allowed for a line and for a base frequency
HARMONICS = 64  # highest harmonic of a base frequency that is considered
APART_LINES = 2 * LOBE  # smallest distance of two harmonics that can be resolved, in bins

VERDICTS = ("undecided", "at rest", "periodic", "quasi-periodic", "chaotic")

# Note [Two witnesses]
# A spectrum alone cannot distinguish chaos from noise, nor a weakly chaotic orbit from a periodic one. So two independent tests
# must agree. The first is whether the spectrum is steady. For a periodic or quasi-periodic orbit the windowed spectra of the two
# halves agree up to the window's leakage (−92 dB), since a line has one amplitude; where the spectrum is continuous, they are two
# independent samples. With chi-squared bins of two degrees of freedom E(|a| − |b|)² = (1 − π/4) E(|a|² + |b|²), which turns the
# difference into a share of the power. The second test is a second orbit that starts 1e-12 away (in single precision, 16
# roundings) under the same drive and noise. Near a regular orbit the distance grows at most like n (a shear), near a chaotic
# one like e^{λ n}: two orbits have separated when their distance exceeds 100 n^{3/2} times the initial one, or a tenth of the
# orbit's extent. Steady lines and no separation: regular. Broadband and separation: chaotic. Otherwise: undecided.


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PowerSpectrum(Result):
    """Power spectral density of an orbit and the kind of motion it shows.

    A run whose two tests disagree has the verdict "undecided" and the status `not_converged`. Examples are noise or an aperiodic
    drive (broadband, but nearby orbits stay together), a strange non-chaotic attractor, and a transient.

    Args:
        frequencies: (frequency), cycles per unit time, from 0 to half the sampling rate.
        power: (frequency, *batch), one-sided density, summed over the observed components; its integral is their variance.
        variance: (*batch), summed over the observed components.
        broadband: (*batch), share of the power outside steady lines.
        parted_at: (*batch), step by which a second orbit, initially 1e-12 away (in single precision, 16 roundings), has separated
            as only a chaotic orbit does; −1 if it has not.
        lines: (*batch, 16), frequencies of the strongest lines, strongest first; padded with NaN.
        line_shares: (*batch, 16), their shares of the power.
        base: (*batch, 2), base frequencies. Periodic: the frequency whose multiples are the lines, then NaN. Quasi-periodic: two
            frequencies; for a map, the strongest line and the map's own clock.
        verdict_codes: (*batch), indices into ("undecided", "at rest", "periodic", "quasi-periodic", "chaotic"), int8.
    """

    frequencies: Tensor
    power: Tensor
    variance: Tensor
    broadband: Tensor
    parted_at: Tensor
    lines: Tensor
    line_shares: Tensor
    base: Tensor
    verdict_codes: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.power_spectrum:power_spectrum_figure"
    layout: ClassVar[dict[str, str]] = {
        "frequencies": "frequency",
        "power": "frequency batch",
        "variance": "batch",
        "broadband": "batch",
        "parted_at": "batch",
        "lines": "batch line",
        "line_shares": "batch line",
        "base": "batch number",
        "verdict_codes": "batch",
    }
    units: ClassVar[dict[str, str]] = {
        "frequencies": "cycles per unit time",
        "power": "variance · unit time per cycle",
        "lines": "cycles per unit time",
        "base": "cycles per unit time",
        "parted_at": "step",
    }

    @property
    def verdict(self) -> Any:
        """Each run's verdict in words: a string, or an array of strings of shape (*batch)."""
        words = np.array(VERDICTS)[self.verdict_codes.cpu().numpy()]
        return str(words) if words.ndim == 0 else words

    def summary(self) -> str:
        """The verdict and the numbers behind it, in words."""
        if self.batch:
            finite = self.verdict_codes[self.codes != Status.DIVERGED]
            counts = [f"{n} {word}" for i, word in enumerate(VERDICTS) if (n := int((finite == i).sum()))]
            diverged = int((self.codes == Status.DIVERGED).sum())
            counts += [f"{diverged} diverged"] * bool(diverged)
            return f"power spectra of {counted(self.codes.numel(), 'run')}: {', '.join(counts)}"
        if self.codes == Status.DIVERGED:
            return "power spectrum: diverged"
        return f"power spectrum: {self.verdict}{self._why()}"

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return "Remove the states that diverge from x0."
        return "The spectrum and the separation of two nearby orbits disagree: take more steps, or settle longer."

    def _why(self) -> str:
        share, separated = float(self.broadband), int(self.parted_at) >= 0
        apart = "1e-12" if self.settings["dtype"] == "torch.float64" else "16 roundings"
        near = f"orbits {apart} apart {f'separate by step {int(self.parted_at)}' if separated else 'stay together'}"
        known = [plain(value) for value in self.base.tolist() if not math.isnan(value)]
        match self.verdict:
            case "at rest":
                return ""
            case "periodic":
                return f", period {plain(1 / float(self.base[0]))} units of time; {near}"
            case "quasi-periodic":
                return f", frequencies {' and '.join(known)} cycles per {self.clock}; {near}" if known else f"; {near}"
            case "undecided" if not separated:
                return f", {plain(share)} of the power is broadband; {near}: noise, or too few steps to decide"
            case _:
                return f", {plain(share)} of the power is broadband; {near}"


@torch.no_grad()
def power_spectrum(
    system: System,
    x0: Tensor | None = None,
    *,
    steps: int | None = None,
    settle: int | None = None,
    every: int | None = None,
    observable: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> PowerSpectrum:
    r"""Power spectrum of an orbit, and whether the orbit is at rest, periodic, quasi-periodic or chaotic.

        ∫₀ S(f) df = variance,     S by Welch's method, summed over the components

    The verdict combines two tests: whether the spectrum consists of steady lines, and whether a second orbit, started 1e-12 away
    under the same drive and noise, separates from the first. Lines at multiples of one base frequency mean periodic, other lines
    quasi-periodic. For a map, the base frequency must be a fraction of one cycle per step.

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim); each run gets its own verdict. Default: `system.initial_state()`.
        steps: steps to analyse. Default: as many as give 8,192 kept states (fewer, but at least 1,024, for states of more than
            4,096 numbers), within the horizon.
        settle: steps before them. Default: a fifth of `steps`.
        every: steps between two kept states. Default: 0.05 units of time, at least one step. Frequencies above half the sampling
            rate are aliased.
        observable: function of the states, (time, *batch, dim) ↦ (time, *batch, m), whose spectrum is taken; for an angle, its
            sine and cosine. Default: the whole state.
        seed: seed of the initial state and of the second orbit's offset.
        progress: show a progress bar.
        throw: raise instead of marking runs `diverged` or `not_converged`.

    Returns:
        PowerSpectrum: `frequencies`, `power`, `verdict`, the numbers behind it, and `status`.

    Raises:
        InputError: a count is out of range, or fewer than 32 states are kept.
        ShapeError: the observable does not keep the time and batch axes.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: periods and beats longer than a tenth of the orbit are not resolved, nor is chaos whose exponent times the length of
        the orbit is below 25 nats. Frequencies whose ratio is within 1e-4 of a simple fraction count as locked. Lines with less
        than 1e-4 of the power do not affect the base: a cycle that almost repeats after a shorter period gets the base of that
        period.
    Source: Welch 1967, IEEE Trans. Audio Electroacoust. 15, 70; window: Harris 1978, Proc. IEEE 66, 51; spectra of attractors:
        Farmer et al. 1980, Ann. N.Y. Acad. Sci. 357, 453.

    Example:
        >>> logistic = sx.Map(lambda x: 3.5 * x * (1 - x), dim=1)
        >>> spectrum = sx.power_spectrum(logistic, torch.tensor([0.3], dtype=torch.float64), steps=512)
        >>> print(spectrum.verdict, f"{1 / spectrum.base[0]:.3f}")
        periodic 4.000
    """
    check_system_type(system)
    samples = affordable_samples(SAMPLES, system.dim)
    plan = plan_sampling(system, samples=samples, apart=APART, steps=steps, settle=settle, every=every, seed=seed)
    front = begin(system, x0, seed=seed)
    least, least_seen = least_size(front.x), least_size(_observed(front.x[None], observable)[0])
    check_room(plan, front.x.expand(2, *front.x.shape))
    front = settled(front, plan.settle, "Settling", progress)
    pair, gap = _paired(front, least, seed)
    states, pair = sampled(pair, plan, "Power spectrum", progress)
    failed = ~(pair.lived == pair.n).all(0)
    seen = _observed(states[:, 0], observable)
    if len(seen) < FEWEST:
        raise InputError(f"a spectrum needs at least {FEWEST} states, but {len(seen)} were kept.\nRaise steps or lower every.")
    return _result(system, seen, states, gap, least_seen, failed, plan, seed).or_raise(throw)


def _paired(front: Front, least: Tensor, seed: int) -> tuple[Front, Tensor]:
    """The front and a second one near it, stacked along a new first axis; and their distances, (*batch)."""
    x = front.x
    size = torch.maximum(x.abs().amax(-1), least)
    size = size.where(size > 0, 1.0)
    away = torch.randn(x.shape[-1], dtype=torch.float64, generator=torch_generator(seed, "twin trajectory")).to(x)
    nudge = max(NUDGE, 16 * torch.finfo(x.dtype).eps)
    other = x + nudge * size[..., None] * away / away.abs().amax()
    lived = front.lived.expand(2, *x.shape[:-1])
    return Front(front.system, torch.stack([x, other]), front.n, None, lived, front.time), nudge * size


def _observed(states: Tensor, observable: Callable[[Tensor], Tensor] | None) -> Tensor:
    if observable is None:
        return states
    seen = observable(states)
    if not isinstance(seen, Tensor) or seen.ndim != states.ndim or seen.shape[:-1] != states.shape[:-1]:
        got = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
        raise ShapeError(f"observable maps states of shape {tuple(states.shape)} to {got}; only the last axis may change.")
    return seen


def _result(
    system: System, seen: Tensor, states: Tensor, gap: Tensor, least: Tensor, failed: Tensor, plan: Sampling, seed: int
) -> PowerSpectrum:
    """The result from the observed values, (time, *batch, m), and from the pairs of orbits."""
    batch = seen.shape[1:-1]
    size = torch.maximum(seen.abs().amax((0, -1)), least)
    x = (seen - seen.mean(0)).double().where(~failed[..., None], 0.0)
    failed = failed | ~torch.isfinite(x).all(-1).all(0)
    x = x.where(~failed[..., None], 0.0)
    variance = x.square().mean(0).sum(-1)
    rest = x.abs().amax((0, -1)) <= max(FLAT, 16 * torch.finfo(seen.dtype).eps) * size
    rate = 1 / (plan.every * system.dt)
    frequencies, power = _density(x, variance, rate)
    halves = _half_spectra(x)
    broadband = _unsteady(halves).where(~rest, 0.0)
    parted_at = _parted(states, gap, plan.every)
    runs = halves.reshape(*halves.shape[:2], -1, halves.shape[-1]).unbind(2)
    rhythms = [_rhythm(run, len(x), rate, system.continuous) for run in runs]
    lines, shares, base = (torch.as_tensor(np.stack(part)).reshape(*batch, -1) for part in zip(*rhythms, strict=True))
    verdicts = _verdicts(rest, broadband, parted_at >= 0, ~base[..., 0].isnan() & base[..., 1].isnan())
    verdicts = verdicts.masked_fill(failed, 0)
    regular = (verdicts == VERDICTS.index("periodic")) | (verdicts == VERDICTS.index("quasi-periodic"))
    codes = torch.where(verdicts == 0, Status.NOT_CONVERGED, Status.OK).masked_fill(failed, Status.DIVERGED)
    settings = {"steps": plan.steps, "settle": plan.settle, "every": plan.every, "seed": seed}
    return PowerSpectrum(
        codes=codes.to(torch.int8),
        frequencies=frequencies,
        power=power.masked_fill(failed, math.nan),
        variance=variance.masked_fill(failed, math.nan),
        broadband=broadband.masked_fill(failed, math.nan),
        parted_at=parted_at.masked_fill(failed, -1),
        lines=lines.where(regular[..., None].cpu(), math.nan).to(x.device),
        line_shares=shares.where(regular[..., None].cpu(), math.nan).to(x.device),
        base=base.where(regular[..., None].cpu(), math.nan).to(x.device),
        verdict_codes=verdicts.to(torch.int8),
        settings=settings | {"clock": system.clock, "dtype": str(seen.dtype)},
    )


def _verdicts(rest: Tensor, broadband: Tensor, separated: Tensor, comb: Tensor) -> Tensor:
    """Index of each run's verdict. See Note [Two witnesses]."""
    verdicts = torch.zeros_like(rest, dtype=torch.int64)
    lines = (broadband <= QUIET) & ~separated
    verdicts = verdicts.masked_fill(lines & comb.to(lines.device), VERDICTS.index("periodic"))
    verdicts = verdicts.masked_fill(lines & ~comb.to(lines.device), VERDICTS.index("quasi-periodic"))
    verdicts = verdicts.masked_fill((broadband > LOUD) & separated, VERDICTS.index("chaotic"))
    return verdicts.masked_fill(rest & ~separated, VERDICTS.index("at rest"))


def _density(x: Tensor, variance: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Frequencies (frequency) and density (frequency, *batch), scaled so that its sum times their spacing is the variance."""
    length = max(FEWEST, 2 * len(x) // SEGMENTS)
    segments = {"window": "blackmanharris", "nperseg": min(length, len(x)), "detrend": False}
    frequencies, parts = scipy.signal.welch(x.cpu().numpy(), fs=rate, axis=0, **segments)
    power = torch.as_tensor(parts).sum(-1).to(x.device)
    total = power.sum(0) * (frequencies[1] - frequencies[0])
    scale = torch.where(total > 0, variance / total.where(total > 0, 1.0), 0.0)
    return torch.as_tensor(frequencies).to(x.device), power * scale


def _half_spectra(x: Tensor) -> Tensor:
    """Fourier transforms of the two halves under a window of low leakage, (2, frequency, *batch, m)."""
    half = len(x) // 2
    parts = torch.stack([x[:half], x[half : 2 * half]])
    window = torch.as_tensor(scipy.signal.windows.blackmanharris(half, sym=False)).to(x).reshape(-1, *[1] * (x.ndim - 1))
    return torch.fft.rfft(parts * window, dim=1)


def _unsteady(halves: Tensor) -> Tensor:
    """Broadband share of the power, (*batch): the difference between the halves over that of two independent samples."""
    size = halves.abs().square().sum(-1).sqrt()
    apart = (size[0] - size[1]).square().sum(0)
    total = size.square().sum((0, 1))
    share = apart / ((1 - math.pi / 4) * total.where(total > 0, 1.0))
    return share.clamp(max=1.0)


def _parted(states: Tensor, gap: Tensor, every: int) -> Tensor:
    """First step at which a pair is farther apart than two regular orbits can be, (*batch); −1 if there is none."""
    n = every * torch.arange(len(states), dtype=torch.float64, device=states.device)
    allowed = 100 * n.clamp(min=1).pow(1.5).reshape(-1, *[1] * gap.ndim) * gap
    far = FAR * (states[:, 0].amax(0) - states[:, 0].amin(0)).amax(-1)
    allowed = torch.minimum(allowed, far.where(far > 1e4 * gap, torch.inf))
    beyond = (states[:, 0] - states[:, 1]).abs().amax(-1) > allowed
    first = beyond.to(torch.int8).argmax(0)
    return torch.where(beyond.any(0), every * first, -1)


class _Rhythm(NamedTuple):
    """Lines of one run and their base frequencies, in cycles per unit time."""

    lines: np.ndarray
    shares: np.ndarray
    base: np.ndarray


def _rhythm(halves: Tensor, length: int, rate: float, is_flow: bool) -> _Rhythm:
    """The lines of one run from its two half spectra, (2, frequency, m).

    The frequency f of a line follows from the phase of its peak, which advances by 2π f times the time between the halves.
    """
    first, second = halves.cpu().numpy()
    half = length // 2
    power = (np.abs(first) ** 2 + np.abs(second) ** 2).sum(-1)
    total = power.sum()
    peaks, left = [], power.copy()
    while len(peaks) < LINES and total > 0 and left.max() > 0:
        peak = int(left.argmax())
        low, high = max(0, peak - LOBE), peak + LOBE + 1
        share = left[low:high].sum() / total
        if share < WEAKEST * 1e-2:
            break
        peaks.append((peak, share))
        left[low:high] = 0
    lines, shares = np.full(LINES, math.nan), np.full(LINES, math.nan)
    for i, (peak, share) in enumerate(peaks):
        turn = np.angle((second[peak] * first[peak].conj()).sum()) / (2 * math.pi)
        lines[i], shares[i] = peak + _nearest_turn(turn, _offset(power, peak)), share
    strong = lines[(shares >= WEAKEST) & (lines > 0.5)]
    return _Rhythm(lines * rate / half, shares, _bases(strong, float(half), is_flow) * rate / half)


def _offset(power: np.ndarray, peak: int) -> float:
    """Offset of a line from its highest bin, in bins: the vertex of a parabola through the logarithms."""
    if not 0 < peak < len(power) - 1:
        return 0.0
    a, b, c = np.log(np.maximum(power[peak - 1 : peak + 2], np.finfo(float).tiny))
    return float(0.5 * (a - c) / (a - 2 * b + c)) if a - 2 * b + c else 0.0


def _nearest_turn(turn: float, rough: float) -> float:
    """The offset in bins with this phase that is nearest to the rough one: one bin is one turn between the halves."""
    return turn + round(rough - turn)


def _bases(lines: np.ndarray, clock: float, is_flow: bool) -> np.ndarray:
    """The base frequency of all lines, and NaN; or, if they have none, two frequencies. In bins.

    A map's clock counts as one of its lines: a rotation of a circle by an irrational angle is quasi-periodic.

    Args:
        lines: in bins, strongest first.
        clock: the sampling rate, in bins; frequencies above half of it are aliased.
        is_flow: whether time is continuous.
    """
    to_match = lines if is_flow else np.append(lines, clock)
    for line, harmonic in product(lines[:3], range(1, HARMONICS + 1)):
        base = line / harmonic
        if (base >= APART_LINES or harmonic == 1) and all(_is_harmonic(one, base, harmonic, clock) for one in to_match):
            return np.array([base, math.nan])
    if not len(lines):
        return np.array([math.nan, math.nan])
    other = next((line for line in lines[1:] if not _is_harmonic(line, lines[0], 1, clock)), math.nan)
    return np.array([lines[0], other if is_flow else clock])


def _is_harmonic(line: float, base: float, known: int, clock: float) -> bool:
    """Whether a line, aliased or not, is a multiple of the base, which was derived from its multiple `known`."""
    multiples = np.append(np.arange(1, HARMONICS + 1), max(round(line / base), 1))
    places = multiples * base
    folded = np.abs(places - clock * (places / clock).round()) if line < clock else places
    apart = np.minimum(np.abs(line - folded), np.abs(line - places))
    return bool((apart <= MISSED + DRIFT * multiples / known).any())
