"""The answer in words, and what to change."""

import math

from torch import Tensor

from separatrix.analysis.driven.responses import Responses
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.core.result import Status
from separatrix.core.wording import counted, measured, plain, superscript

SURE = 2  # standard errors away from zero
VANISHING = 2  # nats by which a gradient fades over a sequence before it is said to vanish


def side(rate: float, error: float, steps: int) -> str:
    """On which side of the border a leading exponent lies: "chaotic", "ordered" or "at the edge".

    Args:
        rate, error: λ₁ and its standard error, nats per step.
        steps: that one run averaged over; a zero exponent comes out as large as 1/steps in all runs alike, which no bar shows.
    """
    if math.isnan(rate):
        return "diverged"
    if math.isnan(error) or abs(rate) <= SURE * math.hypot(error, 1 / steps):
        return "at the edge"
    return "chaotic" if rate > 0 else "ordered"


def verdict(
    rate: float,
    error: float,
    steps: int,
    responses: Responses | None,
    attractors: Tensor | None,
    *,
    of: str = "",
    disagreement: str = "",
) -> str:
    """One sentence: the side, λ₁ with its error bar, and what it means for states and gradients.

    Args:
        rate, error, steps: as for `side`.
        responses: where many initial states went under one drive, for a driven network.
        attractors: which attractor each initial state of an autonomous network reached.
        of: what this is said of, where that is not the network under its inputs.
        disagreement: that an independent check contradicts λ₁; said before anything else.
    """
    where = side(rate, error, steps)
    if where == "diverged":
        return f"diverged: the state{f' {of}' if of else ''} left the finite numbers, so there is no spectrum"
    told = "; ".join([_told(where, rate, error, of), *_ends(where, responses, attractors)])
    return f"unsure: {disagreement}; {told}" if disagreement else told


def _told(where: str, rate: float, error: float, of: str) -> str:
    of = f" {of}" if of else ""
    if rate == -math.inf:
        return f"ordered: λ₁ = −∞{of}, every perturbation is erased to the last digit"
    number = f"λ₁ = {measured(rate, error)} nats per step{of}"
    if where == "at the edge":
        return f"at the edge within its error bar: {number}{' (too few steps for an error bar)' if math.isnan(error) else ''}"
    if where == "ordered":
        return f"ordered: {number}; perturbations fade e-fold in {_steps(-1 / rate)}"
    return (
        f"chaotic: {number}; nearby states separate e-fold in {_steps(1 / rate)}; "
        f"gradients over 100 steps grow by about e{superscript(round(100 * rate))}"
    )


def _ends(where: str, responses: Responses | None, attractors: Tensor | None) -> list[str]:
    """Where the initial states ended, as far as that is more than the side already says."""
    groups = responses.groups if responses is not None else attractors
    if groups is None:
        return []
    lost = int((groups < 0).sum())
    diverged = [f"{lost} of {counted(len(groups), 'initial state')} diverge"] if lost else []
    return [*_met(where, responses, groups[groups >= 0]), *diverged]


def _met(where: str, responses: Responses | None, groups: Tensor) -> list[str]:
    if len(groups) == 0:
        return []
    states, count = counted(len(groups), "initial state"), int(groups.max()) + 1
    if responses is None:
        most = int(groups.bincount().max())
        which = "one attractor" if count == 1 else f"{count} different attractors; these numbers are of the one that {most} reach"
        return [f"{states} reach {which}"]
    if where == "chaotic":
        return []
    after = f"within {counted(responses.steps, 'step')}"
    if count == 1:
        return [f"all {states} forget where they began {after}"]
    if not responses.settled:
        return [f"{states} have not met {after}, which is too few to tell whether they will"]
    return [f"{states} reach {count} different responses"]


def advice(
    rate: float, error: float, steps: int, length: int | None, growth: float | None, responses: Responses | None
) -> tuple[str, ...]:
    """What to change, with numbers.

    Args:
        rate, error, steps: as for `side`.
        length: steps over which the task needs memory and gradients: the sequences' own length.
        growth: ln of the largest growth of a gradient over one sequence, mean over the sequences.
        responses: as for `verdict`.
    """
    if math.isnan(rate):
        return ("Lower the recurrent weights or the learning rate: the state must stay finite before anything else is measured.",)
    if rate == -math.inf:
        return ("Nothing is carried from step to step: raise the recurrent weights, or revive units that are always off.",)
    tell = {"chaotic": _if_chaotic, "ordered": _if_ordered, "at the edge": _if_at_the_edge}[side(rate, error, steps)]
    told = tell(rate, length, growth)
    if responses is not None and responses.settled and responses.count > 1 and rate < 0:
        told.append(
            "Initial states are remembered for good, although perturbations fade: results depend on how the state is set. "
            "Reset it where sequences begin, or train with random initial states."
        )
    return tuple(told)


def _if_chaotic(rate: float, length: int | None, growth: float | None) -> list[str]:
    return [
        f"Gradients explode beyond about {_steps(1 / rate)}. Clip them, truncate back-propagation there, or shrink the recurrent "
        f"weights: to first order by the factor exp(−λ₁) = {math.exp(-rate):.2f}.",
        "Predictions from nearby states cannot be trusted beyond a few times that; feed the true state in again before.",
    ]


def _if_ordered(rate: float, length: int | None, growth: float | None) -> list[str]:
    told = [f"In the long run gradients fade e-fold every {_steps(-1 / rate)}."]
    if length is None or growth is None or not math.isfinite(growth):
        return told
    factor = f"over the {counted(length, 'step')} of a sequence the largest gradient changes by the factor {math.exp(growth):.2g}"
    if growth > 0:
        told.append(
            f"But {factor}: the worst direction grows before it fades. Within a sequence nothing vanishes; clip if it is too large."
        )
    elif growth > -VANISHING:
        told.append(f"And {factor}: it reaches back over all of it.")
    else:
        told.append(
            f"And {factor}. If the task needs the early steps, bring λ₁ nearer to 0: a larger recurrent gain, a forget or update "
            "gate biased towards keeping (+1 or more), or an orthogonal recurrent initialisation."
        )
    return told


def _if_at_the_edge(rate: float, length: int | None, growth: float | None) -> list[str]:
    return ["λ₁ cannot be told from 0: here signals last longest. Give more steps, or a tol, if the side matters."]


def _steps(count: float) -> str:
    shown = f"{count:.2g}" if count < 10 else f"{count:,.0f}"
    return f"{shown} step{'' if shown == '1' else 's'}"


def why_not_converged(spectrum: LyapunovSpectrum) -> str:
    """What "not converged" means for the runs that are; empty where all are."""
    errors, tol = spectrum.stderr[spectrum.codes == Status.NOT_CONVERGED], spectrum.settings.get("tol")
    if len(errors) == 0:
        return ""
    if bool(errors.isnan().any()):
        return "not converged: too few steps for an error bar"
    if tol is not None and bool((errors > tol).any()):
        return f"not converged: error bars above {plain(tol)}"
    return "not converged: the two halves of the run differ by more than chance"
