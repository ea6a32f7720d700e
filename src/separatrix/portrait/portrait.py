"""The result of `analyze`: one record that can be printed, plotted, saved and reported."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from separatrix.analysis.gradients.propagation import Propagation
from separatrix.analysis.lyapunov.pooled import PooledSpectrum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.core.result import Result, Status
from separatrix.portrait.findings import QUESTIONS
from separatrix.portrait.verdict import side


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Portrait(Result):
    """Portrait of a network: its verdict, advice and findings. `RecurrentPortrait` and `DepthPortrait` add their measurements.

    Args:
        verdict: the answer in one sentence, "word: what it means".
        advice: what to change, one sentence each.
        did: what was done, one sentence each.
        model, core: what was measured, as text.
        findings: the results of further analyses, by their names in `QUESTIONS`.
        unanswered: the reasons of those that failed, by name.
    """

    verdict: str
    advice: tuple[str, ...]
    did: tuple[str, ...]
    model: str
    core: str
    findings: dict[str, Result] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)

    @property
    def side(self) -> str:
        """The verdict in a word or two."""
        raise NotImplementedError

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the arguments that `analyze` received."""
        return ("model", "inputs")

    def summary(self) -> str:
        """The verdict, what was done, and what else was found."""
        return "\n".join([f"{self.model}: {self.verdict}", *self.did, *self.found()])

    def found(self) -> tuple[str, ...]:
        """The results of the further analyses, one sentence each."""
        answered = [_under(QUESTIONS[name].heading, result.summary()) for name, result in self.findings.items()]
        return (*answered, *(f"{QUESTIONS[name].heading}: failed. {why}" for name, why in self.unanswered.items()))

    def headline(self) -> dict[str, Any]:
        """The headline numbers: names with their units, plain numbers and lists."""
        raise NotImplementedError

    def numbers(self) -> dict[str, Any]:
        """The headline numbers and those of the findings, in machine-readable form."""
        named = {"verdict": self.verdict, "side": self.side, "model": self.model, "core": self.core}
        findings = {name: _without_versions(result.numbers()) for name, result in self.findings.items()}
        texts = {"status": self.status, "advice": list(self.advice), "did": list(self.did)}
        asked = {"settings": self.settings, "versions": self.versions}
        return {**named, **self.headline(), **texts, "findings": findings, "unanswered": self.unanswered, **asked}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RecurrentPortrait(Portrait):
    r"""Portrait of a recurrent network: its side of the border between order and chaos, with the evidence.

    If the measurements ended early, the parts in `left_out` are None, or the spectrum has the leading exponent only.

    Args:
        spectrum: spectrum of each copy, sequence or initial state.
        pooled: the headline, one spectrum for the network.
        counted: (run), whether the headline averages a run: it did not diverge and, if autonomous, is on the main attractor.
        propagation: growth of gradients over lags.
        finite_time: (sequence), the leading exponent (1/T) ln σ₁(∂h_T/∂h_0) over the length T of each sequence, nats per step;
            None if nothing drives the network.
        finite_time_steps: the length T, or its mean.
        groups: (state), the response (driven) or attractor (autonomous) that each initial state reached; −1: it diverged.
        settled: whether the initial states were followed long enough to count their responses.
        response_steps: number of steps for which the initial states were followed.
        plane: (step, run, 2), states in the plane of their two leading principal components.
        explained: (2), share of the variance along each component.
        regime: "stream", "sequence", "sequences", "autonomous", "closed loop" or "driven loop".
        ended: why the measurements ended early; empty if they did not.
        left_out: the names of the parts and analyses that were not measured for that reason.
    """

    spectrum: LyapunovSpectrum
    pooled: PooledSpectrum
    counted: Tensor
    propagation: Propagation | None
    finite_time: Tensor | None
    finite_time_steps: int
    groups: Tensor | None
    settled: bool
    response_steps: int
    plane: Tensor | None
    explained: Tensor | None
    regime: str
    ended: str = ""
    left_out: tuple[str, ...] = ()

    drawn_by: ClassVar[str] = "separatrix.plot.portrait:portrait_figure"
    layout: ClassVar[dict[str, str]] = {
        "counted": "run",
        "finite_time": "sequence",
        "groups": "state",
        "plane": "point run axis",
        "explained": "axis",
    }
    units: ClassVar[dict[str, str]] = {"finite_time": "nats per step", "plane": "the state's unit"}

    @property
    def lambda_1(self) -> tuple[float, float]:
        """The leading exponent and its standard error, nats per step."""
        return float(self.pooled.exponents[0]), float(self.pooled.stderr[0])

    @property
    def side(self) -> str:
        """The side of the border: "chaotic", "ordered", "at the edge", "undecided" or "diverged"; see `verdict`."""
        return side(*self.lambda_1, self.spectrum.steps)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the arguments that `analyze` received."""
        return ("model",) if self.regime == "autonomous" else ("model", "inputs")

    @property
    def check(self) -> tuple[float, float]:
        """Rate at which two nearby trajectories separate and its standard error, nats per step; NaN if it was not measured."""
        near = self.spectrum.check
        return (math.nan, math.nan) if near is None else self._mean(near.rate, near.stderr)

    @property
    def dimension(self) -> tuple[float, float]:
        """The Kaplan–Yorke dimension, mean over the runs that the headline averages, and its standard error."""
        return self._mean(self.spectrum.kaplan_yorke_dimension, self.spectrum.kaplan_yorke_stderr)

    @property
    def entropy(self) -> tuple[float, float]:
        """Sum of the positive exponents, mean over the runs that the headline averages, and its standard error, nats per step."""
        return self._mean(self.spectrum.entropy, self.spectrum.entropy_stderr)

    def _mean(self, values: Tensor, errors: Tensor) -> tuple[float, float]:
        kept = self.counted.reshape(-1) & ~values.reshape(-1).isnan()
        values, errors = values.reshape(-1)[kept], errors.reshape(-1)[kept]
        if len(values) == 0:
            return math.nan, math.nan
        mean = float(values.mean())
        error = float(values.std() / len(values) ** 0.5) if len(values) > 1 and math.isfinite(mean) else float(errors[0])
        return mean, error

    def headline(self) -> dict[str, Any]:
        """The exponents and the quantities derived from them, the checks, and how the runs ended."""
        rate, error = self.lambda_1
        near, near_error = self.check
        dimension, dimension_error = self.dimension
        entropy, entropy_error = self.entropy
        return {
            "regime": self.regime,
            "ended": self.ended,
            "left_out": list(self.left_out),
            "lambda_1_nats_per_step": _plain(rate),
            "lambda_1_stderr": _plain(error),
            "exponents_nats_per_step": [_plain(v) for v in self.pooled.exponents.tolist()],
            "exponents_stderr": [_plain(v) for v in self.pooled.stderr.tolist()],
            "kaplan_yorke_dimension": _plain(dimension),
            "kaplan_yorke_stderr": _plain(dimension_error),
            "entropy_nats_per_step": _plain(entropy),
            "entropy_stderr": _plain(entropy_error),
            "two_trajectory_rate_nats_per_step": _plain(near),
            "two_trajectory_stderr": _plain(near_error),
            "finite_time_steps": self.finite_time_steps,
            "finite_time_mean_nats_per_step": None if self.finite_time is None else _plain(float(self.finite_time.mean())),
            "finite_time_spread": None if self.finite_time is None else _plain(float(self.finite_time.std(correction=0))),
            "different_responses": int(self.groups.max()) + 1 if self.settled and self.groups is not None else None,
            "initial_states": 0 if self.groups is None else len(self.groups),
            "runs": {word: int((self.spectrum.codes == code).sum()) for word, code in ((s.name.lower(), s) for s in Status)},
        }


def _under(heading: str, summary: str) -> str:
    """A summary of several lines as one sentence that starts with its heading."""
    sentence = "; ".join(summary.splitlines()) + "."
    is_there = sentence.lower().startswith(heading.lower())
    return heading + sentence[len(heading) :] if is_there else f"{heading}: {sentence}"


def _without_versions(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name != "versions"}


def _plain(value: float) -> float | str:
    """JSON has no infinities."""
    return value if math.isfinite(value) else str(value)
