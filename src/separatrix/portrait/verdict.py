"""The verdict in words, and advice on what to change."""

import math

from torch import Tensor

from separatrix.analysis.driven.responses import Responses
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.core.result import Status
from separatrix.core.wording import counted, measured, plain, superscript

SURE = 2  # standard errors away from zero
VANISHING = 2  # nats by which a gradient must decay over a sequence to count as vanishing


def side(rate: float, error: float, steps: int) -> str:
    """Name the side of the border on which a leading exponent lies: "chaotic", "ordered" or "at the edge".

    Without an error bar it is "undecided", and for NaN "diverged".

    Args:
        rate, error: λ₁ and its standard error, nats per step.
        steps: number of steps that each run averages over. An exponent that is zero is estimated with a bias of up to 1/steps,
            the same in all runs, which the standard error does not show.
    """
    if math.isnan(rate):
        return "diverged"
    if math.isnan(error):
        return "undecided"
    if abs(rate) <= SURE * math.hypot(error, 1 / steps):
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
        responses: for a driven network, the responses that many initial states converged to under one drive.
        attractors: for an autonomous network, the attractor that each initial state reached.
        of: the system that the verdict is about, if that is not the network under its inputs.
        disagreement: an independent check that contradicts λ₁, if one does; it comes first.
    """
    where = side(rate, error, steps)
    if where == "diverged":
        return f"diverged: the state{f' of {of}' if of else ''} became infinite or NaN, so there is no spectrum"
    sentence = "; ".join([_exponent(where, rate, error, of), *_ends(where, responses, attractors)])
    return f"unsure: {disagreement}; {sentence}" if disagreement else sentence


def _exponent(where: str, rate: float, error: float, of: str) -> str:
    of = f" for {of}" if of else ""
    if rate == -math.inf:
        return f"ordered: λ₁ = −∞{of}; every perturbation is erased to rounding error"
    number = f"λ₁ = {measured(rate, error)} nats per step"
    if where == "undecided":
        return f"undecided: {number}{of}, from too few steps for an error bar"
    if where == "at the edge":
        return f"at the edge: {number}, not distinguishable from 0{of}"
    if where == "ordered":
        return f"ordered: {number}{of}; perturbations decay e-fold in {_steps(-1 / rate)}"
    return (
        f"chaotic: {number}{of}; nearby states separate e-fold in {_steps(1 / rate)}; "
        f"over 100 steps, gradients grow by a factor of about e{superscript(round(100 * rate))}"
    )


def _ends(where: str, responses: Responses | None, attractors: Tensor | None) -> list[str]:
    """Where the initial states end up, if that adds to what the side already says."""
    groups = responses.groups if responses is not None else attractors
    if groups is None:
        return []
    diverged = int((groups < 0).sum())
    losses = [f"{diverged} of {counted(len(groups), 'initial state')} diverge"] if diverged else []
    return [*_met(where, responses, groups[groups >= 0]), *losses]


def _met(where: str, responses: Responses | None, groups: Tensor) -> list[str]:
    if len(groups) == 0:
        return []
    states, count = counted(len(groups), "initial state"), int(groups.max()) + 1
    if responses is None:
        most = int(groups.bincount().max())
        which = "one attractor" if count == 1 else f"{count} different attractors; the numbers describe the one that {most} reach"
        return [f"{states} reach {which}"]
    if where == "chaotic":
        return []
    after = f"within {counted(responses.steps, 'step')}"
    if count == 1:
        return [f"all {states} converge to one response {after}"]
    if not responses.settled:
        return [f"{states} have not converged to one response {after}, which is too few to tell whether they will"]
    return [f"{states} converge to {count} different responses"]


def advice(
    rate: float, error: float, steps: int, length: int | None, growth: float | None, responses: Responses | None
) -> tuple[str, ...]:
    """What to change, with numbers.

    Args:
        rate, error, steps: as for `side`.
        length: number of steps over which the task needs memory and gradients: the length of the sequences.
        growth: ln of the largest growth of a gradient over one sequence, mean over the sequences.
        responses: as for `verdict`.
    """
    if math.isnan(rate):
        return ("Reduce the recurrent weights or the learning rate: the state must stay finite before it can be measured further.",)
    if rate == -math.inf:
        return ("No information passes from one step to the next: increase the recurrent weights, or revive units that stay off.",)
    where = side(rate, error, steps)
    if where == "undecided":
        return ("Take more steps, or more time: λ₁ has no error bar yet.",)
    sentences = {"chaotic": _if_chaotic, "ordered": _if_ordered, "at the edge": _if_at_the_edge}[where](rate, length, growth)
    if responses is not None and responses.settled and responses.count > 1 and rate < 0:
        sentences.append(
            "The network remembers its initial state indefinitely although perturbations decay, so results depend on how the "
            "state is initialised. Reset it at the start of each sequence, or train with random initial states."
        )
    return tuple(sentences)


def _if_chaotic(rate: float, length: int | None, growth: float | None) -> list[str]:
    return [
        f"Gradients explode beyond about {_steps(1 / rate)}. Clip them, truncate backpropagation there, or scale the recurrent "
        f"weights down: to first order, by a factor of exp(−λ₁) = {math.exp(-rate):.2f}.",
        "Predictions from an approximate state are unreliable beyond a few times that horizon; supply the true state again before.",
    ]


def _if_ordered(rate: float, length: int | None, growth: float | None) -> list[str]:
    sentences = [f"In the long run, gradients decay e-fold every {_steps(-1 / rate)}."]
    if length is None or growth is None or not math.isfinite(growth):
        return sentences
    factor = f"over the {counted(length, 'step')} of a sequence, the largest gradient changes by a factor of {math.exp(growth):.2g}"
    if growth > 0:
        sentences.append(
            f"However, {factor}: the worst direction grows before it decays. It does not vanish within a sequence; clip it if it "
            "becomes too large."
        )
    elif growth > -VANISHING:
        sentences.append(f"{factor.capitalize()}: it reaches back to the start of the sequence.")
    else:
        sentences.append(
            f"{factor.capitalize()}. If the task depends on the early steps, bring λ₁ closer to 0: increase the recurrent gain, "
            "bias the forget or update gate towards keeping (+1 or more), or initialise the recurrent weights orthogonally."
        )
    return sentences


def _if_at_the_edge(rate: float, length: int | None, growth: float | None) -> list[str]:
    return ["λ₁ cannot be distinguished from 0, where signals last longest. If the side matters, use more steps or set error."]


def _steps(count: float) -> str:
    shown = f"{count:.2g}" if count < 10 else f"{count:,.0f}"
    return f"{shown} step{'' if shown == '1' else 's'}"


def why_not_converged(spectrum: LyapunovSpectrum) -> str:
    """Why some runs are "not converged"; empty if all converged."""
    errors, limit = spectrum.stderr[spectrum.codes == Status.NOT_CONVERGED], spectrum.settings.get("error")
    if len(errors) == 0:
        return ""
    if bool(errors.isnan().any()):
        return "not converged: too few steps for an error bar"
    if limit is not None and bool((errors > limit).any()):
        return f"not converged: error bars above {plain(limit)}"
    return "not converged: the two halves of the run differ by more than chance"
