"""The measurements of a recurrent core: one record whose parts are measured when they are first needed."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.analysis.driven.responses import MOST_STEPS, Responses, attractors, common_drive_responses
from separatrix.analysis.gradients.propagation import Propagation, default_lags, gradient_propagation
from separatrix.analysis.lyapunov.divergence import DivergenceRate, divergence_rate
from separatrix.analysis.lyapunov.pooled import PooledSpectrum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.analysis.lyapunov.spectrum import lyapunov_spectrum
from separatrix.analysis.lyapunov.verification import held_to_its_check
from separatrix.analysis.run.leading import WHOLE as JACOBIAN
from separatrix.core.ending import Ended, Ending, check_time
from separatrix.core.evolve import trajectory
from separatrix.core.result import Status
from separatrix.core.system import System
from separatrix.core.wording import counted as in_words
from separatrix.core.wording import plain
from separatrix.portrait.core import Core
from separatrix.portrait.effort import FEWEST_RUNS, FEWEST_STEPS, REPORT, VERDICT, WHOLE, Effort
from separatrix.portrait.regime import Regime, along
from separatrix.portrait.verdict import advice, verdict

SHOWN_STEPS, SHOWN_RUNS = 400, 16  # of the phase portrait
MOST_SEQUENCES = 256  # whose finite-time exponents are taken
ATTRACTOR_STEPS = 2_000  # over which attractors are distinguished
MANY = 0.25  # share of the runs in which the check must disagree before the verdict opens with it
HUGE = 1e100  # larger states are about to overflow, and their squares already have
MOST_NUMBERS = 20_000_000  # in the Jacobians of one batch: 160 MB
SAMPLED = 512  # states from which the principal plane of a large state is computed
PASSES = 12  # forwards and backwards, for the leading singular value of a large state; backwards takes twice as long
LAGS = 200  # over which the growth of gradients is measured

DECISIVE = {  # parts that the verdict rests on, after the leading exponent, and their headings
    "check": "Two-trajectory check",
    "states": "Settled states",
    "groups": "Responses of the initial states",
}
REFINING = {
    "spectrum": "Spectrum",
    "finite_time": "Finite-time exponents",
    "propagation": "Gradient propagation",
    "plane": "Phase portrait",
}


@dataclass(frozen=True, eq=False)
class Measurements:
    """A recurrent core in its regime, and what is measured of it.

    Args:
        core: the recurrent part.
        regime: what drives it.
        effort: the number of runs, exponents and steps.
        copies: number of initial states whose responses are compared.
        error: the error bar to reach, or None.
        seed: seed of all random draws.
        progress: show progress bars.
    """

    core: Core
    regime: Regime
    effort: Effort
    copies: int
    error: float | None
    seed: int
    progress: bool

    def measure(self, part: str, end: Ending) -> None:
        """Measure a part now, unless the time is up; an early end leaves it out."""
        try:
            check_time()
            getattr(self, part)
        except Ended:
            return
        except KeyboardInterrupt:
            end.stop()

    def known(self, part: str) -> Any:
        """A part that was measured; None if it was not."""
        return self.__dict__.get(part)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The parts that are not measured."""
        return tuple(part for part in (*DECISIVE, *REFINING) if part not in self.__dict__)

    @cached_property
    def x0(self) -> Tensor | None:
        """Initial states of the runs; None for the system's own."""
        return self.regime.initial_states(self.effort.runs, self.seed)

    @cached_property
    def leading(self) -> LyapunovSpectrum:
        """The leading exponent of each run; the whole spectrum if that costs little more."""
        return self.spectrum if self.effort.is_quick else self._spectrum(1, None)

    @cached_property
    def spectrum(self) -> LyapunovSpectrum:
        """The spectrum of each run."""
        return self._spectrum(self.effort.k, self.error)

    def _spectrum(self, k: int, error: float | None) -> LyapunovSpectrum:
        steps, settle = self.effort.steps, self.effort.settle
        asked = {"k": k, "steps": steps, "settle": settle, "error": error, "seed": self.seed, "progress": self.progress}
        return lyapunov_spectrum(self.regime.system, self.x0, **asked)

    @cached_property
    def check(self) -> DivergenceRate:
        """The rate at which two nearby trajectories separate."""
        asked = {"steps": self.leading.steps, "settle": self.leading.settle, "seed": self.seed, "progress": self.progress}
        return divergence_rate(self.regime.system, self.x0, **asked)

    @property
    def best(self) -> LyapunovSpectrum:
        """The best spectrum there is so far, compared with the check if there is one."""
        return held_to_its_check(replace(self.known("spectrum") or self.leading, check=self.known("check")))

    @cached_property
    def states(self) -> Tensor:
        """The states of the runs after settling, (step, run, dim); NaN where they are about to overflow."""
        system, settle = self.regime.system, self.leading.settle
        steps = min(SHOWN_STEPS, self.effort.steps if system.horizon is None else system.horizon - settle)
        with torch.no_grad():
            states = trajectory(system, self.x0, steps, settle=settle, seed=self.seed)
        states = states.reshape(len(states), -1, system.dim)
        return states.where(states.abs() < HUGE, torch.nan)

    @cached_property
    def groups(self) -> Tensor:
        """The attractor (autonomous) or response (driven) that each initial state reached; −1: it diverged."""
        if self.responses is not None:
            return self.responses.groups
        return attractors(self.regime.system, self.x0, self.leading.settle, self.response_steps)

    @cached_property
    def responses(self) -> Responses | None:
        """The responses of many initial states to one drive; None if nothing drives the core."""
        if self.regime.is_autonomous:
            return None
        most = int(min(MOST_STEPS, max(200, VERDICT / (self.copies * self.effort.cost.state))))
        return common_drive_responses(self.regime.common, self.copies, self.rate[0], self.seed, visited=self.states, most=most)

    @property
    def response_steps(self) -> int:
        """Steps over which attractors are distinguished."""
        affordable = int(VERDICT / self.effort.cost.step(self.effort.runs, 0))
        return min(ATTRACTOR_STEPS, max(affordable, FEWEST_STEPS))

    @property
    def attractors(self) -> Tensor | None:
        """The attractor of each run, if nothing drives the core."""
        return self.known("groups") if self.regime.is_autonomous else None

    @property
    def counted(self) -> Tensor:
        """The runs that the headline averages: all that did not diverge; if autonomous, those on the attractor that most reach."""
        alive = self.leading.codes != Status.DIVERGED
        if self.attractors is None:
            return alive
        groups = self.attractors
        alive = alive & (groups >= 0)
        return alive & (groups == groups[alive].mode().values) if bool(alive.any()) else alive

    @property
    def pooled(self) -> PooledSpectrum:
        """The headline: the mean spectrum of the counted runs."""
        spectrum = self.best
        if bool(self.counted.any()):
            return spectrum.pooled(self.counted)
        nan = torch.full(spectrum.exponents.shape[-1:], math.nan, dtype=torch.float64)
        code = torch.tensor(int(Status.DIVERGED), dtype=torch.int8)
        runs = spectrum.codes.numel()
        return PooledSpectrum(codes=code, exponents=nan, stderr=nan, within=nan, between=nan, runs=0, diverged=runs)

    @property
    def rate(self) -> tuple[float, float]:
        """λ₁ of the headline and its standard error."""
        pooled = self.pooled
        return float(pooled.exponents[0]), float(pooled.stderr[0])

    @property
    def verdict(self) -> str:
        """The verdict from what is measured so far."""
        responses, groups = self.known("responses"), self.attractors
        return verdict(*self.rate, self.best.steps, responses, groups, of=self.regime.of, disagreement=self._doubt())

    @property
    def advice(self) -> tuple[str, ...]:
        """What to change, from what is measured so far."""
        finite = self.known("finite_time")
        length = None if finite is None else self.sequence_steps
        growth = None if finite is None else float(finite.mean()) * self.sequence_steps
        return advice(*self.rate, self.best.steps, length, growth, self.known("responses"))

    def _doubt(self) -> str:
        """A sentence if the two-trajectory check contradicts λ₁ in more runs than chance would; otherwise empty."""
        spectrum = self.best
        apart = spectrum.disagreement[self.counted]
        if not bool(apart.any()) or float(apart.double().mean()) < MANY or spectrum.check is None:
            return ""
        rates = spectrum.check.rate[self.counted][apart]
        where = f" in {int(apart.sum())} of {in_words(len(apart), 'run')}" if len(apart) > 1 else ""
        return f"two nearby trajectories separate at {plain(float(rates.mean()))} nats per step{where}, which contradicts λ₁"

    @cached_property
    def propagation(self) -> Propagation:
        """Growth over lags from the settled state; from one copy only if that of all would cost too much."""
        regime, cost, lags = self.regime, self.effort.cost, None
        if cost.dim > JACOBIAN:
            lags = tuple(lag for lag in default_lags(regime.common, self.leading.settle, is_large=True) if 2 * lag <= self._passes)
        runs = math.prod(regime.system.batch_shape)
        is_small = runs * cost.dim**2 <= MOST_NUMBERS and runs * LAGS * cost.dim * cost.tangent <= VERDICT
        system = regime.system if is_small else regime.common
        x0 = system.initial_state((8,), self.seed) if regime.is_autonomous else regime.start if system is regime.system else None
        settle = self.leading.settle
        return gradient_propagation(system, x0, lags=lags, k=1, settle=settle, seed=self.seed, progress=self.progress)

    @property
    def _passes(self) -> float:
        """Steps over which the leading singular value of a large state can be afforded."""
        return max(2.0, REPORT / (PASSES * self.effort.cost.step(1, 3)))

    @cached_property
    def sequence_steps(self) -> int:
        """The length T of a sequence, or the mean of their lengths; 0 if nothing drives the network."""
        if self.regime.kind == "driven loop":
            return int(self.regime.system.horizon or 0)
        sequences = self.regime.sequences
        return 0 if sequences is None else round(float(self._lengths(sequences).double().mean()))

    def _lengths(self, sequences: Tensor) -> Tensor:
        """The lengths of the sequences whose finite-time exponents are taken."""
        length, count, _ = sequences.shape
        cost = self.effort.cost
        if cost.dim > JACOBIAN:
            affordable = int(REPORT / (PASSES * length * cost.step(FEWEST_RUNS, 3) / FEWEST_RUNS))
        else:
            affordable = min(MOST_NUMBERS // cost.dim**2, int(VERDICT / (length * cost.dim * cost.tangent)))
        count = max(1, min(count, MOST_SEQUENCES, affordable))
        return torch.full((count,), length) if self.core.lengths is None else self.core.lengths[:count]

    @cached_property
    def finite_time(self) -> Tensor | None:
        """(1/T) ln σ₁(∂h_T/∂h_0) over the length T of each sequence, nats per step; None if nothing drives the network."""
        if self.regime.kind == "driven loop":
            return self._growth(self.regime.system, None, self.sequence_steps)
        sequences = self.regime.sequences
        if sequences is None:
            return None
        lengths, start = self._lengths(sequences), self.core.start
        rates = torch.empty(len(lengths), dtype=torch.float64)
        for length in lengths.unique().tolist():
            chosen = (lengths == length).nonzero()[:, 0]
            system = self.regime.same_noise(along(self.core, sequences[:length, chosen]))
            rates[chosen] = self._growth(system, None if start is None else start[chosen].double(), length)
        return rates

    def _growth(self, system: System, x0: Tensor | None, steps: int) -> Tensor:
        growth = gradient_propagation(system, x0, lags=(steps,), k=1, progress=self.progress)
        return growth.log_norm[0].reshape(-1).double() / steps

    @cached_property
    def plane(self) -> tuple[Tensor, Tensor]:
        """States in the plane of their two leading principal components, (step, run, 2), and the variance along each."""
        states = self.states[:, :SHOWN_RUNS]
        cloud = states.flatten(0, 1)
        cloud = cloud[cloud.isfinite().all(-1)]
        if len(cloud) < 2:
            return torch.zeros(*states.shape[:2], 2, dtype=states.dtype), torch.zeros(2, dtype=states.dtype)
        center = cloud.mean(0)
        away = (cloud - center)[:: 1 if cloud.shape[-1] <= WHOLE else max(1, len(cloud) // SAMPLED)]
        _, widths, axes = torch.linalg.svd(away, full_matrices=False)
        variance = widths.square() / len(away)
        plane = (states - center) @ axes[:2].mT
        share = variance[:2] / variance.sum().clamp(min=torch.finfo(variance.dtype).tiny)
        pad = 2 - plane.shape[-1]
        return nn.functional.pad(plane, (0, pad)), nn.functional.pad(share, (0, pad))
