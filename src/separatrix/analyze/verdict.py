"""The answer in words, and what to change."""

import math

from torch import Tensor

from separatrix.analyze.responses import Responses
from separatrix.wording import counted, measured, superscript

SURE = 2  # standard errors away from zero


def side(rate: float, error: float) -> str:
    """On which side of the border a leading exponent lies: "chaotic", "ordered" or "at the edge"."""
    if math.isnan(rate):
        return "diverged"
    if math.isnan(error) or abs(rate) <= SURE * error:
        return "at the edge"
    return "chaotic" if rate > 0 else "ordered"


def verdict(rate: float, error: float, responses: Responses | None, attractors: Tensor | None) -> str:
    """One sentence: the side, λ₁ with its error bar, and what it means for states and gradients.

    Args:
        rate, error: λ₁ and its standard error, nats per step.
        responses: where many initial states went under one drive, for a driven network.
        attractors: which attractor each initial state of an autonomous network reached.
    """
    where = side(rate, error)
    number = f"λ₁ = {measured(rate, error)} nats per step"
    if where == "diverged":
        return "diverged: the state left the finite numbers, so there is no spectrum"
    if rate == -math.inf:
        return "ordered: λ₁ = −∞, every perturbation is erased exactly"
    if where == "at the edge":
        unknown = " (too few steps for an error bar)" if math.isnan(error) else ""
        return f"at the edge within its error bar: {number}{unknown}; " + _met(responses, attractors)
    if where == "chaotic":
        return (
            f"chaotic: {number}; nearby states separate e-fold in {_steps(1 / rate)}; "
            f"gradients over 100 steps grow by about e{superscript(round(100 * rate))}"
        )
    return f"ordered: {number}; perturbations fade e-fold in {_steps(-1 / rate)}; " + _met(responses, attractors)


def _met(responses: Responses | None, attractors: Tensor | None) -> str:
    groups = responses.groups if responses is not None else attractors
    if groups is None:
        return "nothing is known of other initial states"
    states, count = counted(len(groups), "initial state"), int(groups.max()) + 1
    if responses is None:
        return f"{states} reach {'one attractor' if count == 1 else f'{count} different attractors'}"
    if count == 1:
        return f"all {states} forget where they began within {responses.steps:,} steps"
    return f"{states} reach {count} different responses, still apart after {responses.steps:,} steps"


def advice(rate: float, error: float, length: int | None, responses: Responses | None) -> tuple[str, ...]:
    """What to change, with numbers.

    Args:
        rate, error: λ₁ and its standard error, nats per step.
        length: steps over which the task needs memory and gradients: the sequences' own length.
        responses: as for `verdict`.
    """
    if math.isnan(rate):
        return ("Lower the recurrent weights or the learning rate: the state must stay finite before anything else is measured.",)
    if rate == -math.inf:
        return ("Nothing is carried from step to step: raise the recurrent weights, or revive units that are always off.",)
    told = {"chaotic": _if_chaotic, "ordered": _if_ordered, "at the edge": _if_at_the_edge}[side(rate, error)](rate, length)
    if responses is not None and responses.count > 1 and rate < 0:
        told.append(
            "Initial states are remembered for good, although perturbations fade: results depend on how the state is set. "
            "Reset it where sequences begin, or train with random initial states."
        )
    return tuple(told)


def _if_chaotic(rate: float, length: int | None) -> list[str]:
    return [
        f"Gradients explode beyond about {_steps(1 / rate)}. Clip them, truncate back-propagation there, or shrink the recurrent "
        f"weights: to first order by the factor exp(−λ₁) = {math.exp(-rate):.2f}.",
        "Predictions from nearby states cannot be trusted beyond a few times that; feed the true state in again before.",
    ]


def _if_ordered(rate: float, length: int | None) -> list[str]:
    reach = -1 / rate
    told = [f"Gradients fade e-fold every {_steps(reach)}: what happened {_steps(5 * reach)} ago reaches the loss at under 1 %."]
    if length is not None and reach < length / 2:
        told.append(
            f"A sequence has {length:,} steps, and its first reaches the loss at {math.exp(-length / reach):.1g}. If the task "
            "needs it, bring λ₁ nearer to 0: a larger recurrent gain, a forget or update gate biased towards keeping (+1 or more), "
            "or an orthogonal recurrent initialisation."
        )
    elif length is not None:
        told.append(f"A sequence has {length:,} steps, so that gradients reach back over all of it.")
    return told


def _if_at_the_edge(rate: float, length: int | None) -> list[str]:
    return ["λ₁ cannot be told from 0: here signals last longest. Give more steps, or a tol, if the side matters."]


def _steps(count: float) -> str:
    shown = f"{count:.2g}" if count < 10 else f"{count:,.0f}"
    return f"{shown} step{'' if shown == '1' else 's'}"
