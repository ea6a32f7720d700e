"""Maxima, sorted numbers and distances: each output moves by at most the largest change, or the length of the change."""

import math

from torch import Tensor

from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.factor import SQUARES, SUM, Factor, attained, broadcast, rule
from separatrix.bounds.certificate.rounding import root


@rule("amax aminmax")
def largest(call: Call) -> Factor:
    """The largest along an axis; the smallest beside it, where both are asked for."""
    return attained(1.0, "the largest is 1-Lipschitz")


@rule("amin")
def smallest(call: Call) -> Factor:
    """The smallest along an axis."""
    return attained(1.0, "the smallest is 1-Lipschitz")


@rule("logsumexp")
def soft_largest(call: Call) -> Factor:
    """log Σ eˣ, whose gradient is positive and adds up to 1."""
    return attained(1.0, "its gradient is a distribution")


@rule("clamp", "self min max", SQUARES)
@rule("clamp_max", "self max", SQUARES)
@rule("clamp_min", "self min", SQUARES)
def limited(call: Call) -> Factor:
    """min(max(x, a), b): it is one of the three, and moves by no more than that which moves most."""
    return Factor(broadcast(call), "largest slope")


@rule("fmax fmin max maximum min minimum", "self other", SQUARES)
def extreme(call: Call) -> Factor:
    """max(x, c), elementwise, or the largest along an axis."""
    if call["other"] is None:
        return attained(1.0, "the largest is 1-Lipschitz")
    return Factor(broadcast(call), "largest slope")


@rule("hypot logaddexp logaddexp2", "self other", SQUARES)
def convex(call: Call) -> Factor:
    """log(eᵃ + eᵇ) and √(a² + b²): the squares of the slopes in a and b add up to 1 at most."""
    return Factor(broadcast(call), "largest slope")


@rule("cummax cummin logcumsumexp")
def running(call: Call) -> Factor:
    """Each output moves by at most the largest change among the n numbers up to its own."""
    return Factor(root(float(call.shape[call["dim"]])) if call.shape else 1.0, "√n: each is 1-Lipschitz")


@rule("kthvalue median msort nanmedian sort topk")
def median(call: Call) -> Factor:
    """One of the sorted numbers."""
    return attained(1.0, "sorting is 1-Lipschitz")


@rule("quantile")
def quantile(call: Call) -> Factor:
    """Between two of the sorted numbers, with weights that add up to 1; of several quantiles each is."""
    count = call["q"].numel() if isinstance(call["q"], Tensor) else 1
    return Factor(root(float(count)), "each is 1-Lipschitz")


@rule("cdist", "x1 | x2")
@rule("dist", "self other", SUM)
@rule("pairwise_distance", "x1 x2", SUM)
def distances(call: Call) -> Factor:
    """‖x − c‖ to each of k points: each is 1-Lipschitz."""
    order = 2.0 if call["p"] is None else float(call["p"])
    if order < 2:
        raise NoBoundError(f"no bound is known for distances of order {order:g}")
    count = math.prod(call.shape) / max(math.prod(call.active[0].shape[:-1]), 1) if call.name == "cdist" else 1.0
    return Factor(root(max(count, 1.0)), "√ of the points that it is held against")
