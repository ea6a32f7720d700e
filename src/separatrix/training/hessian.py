"""The Hessian of the loss that an optimiser descends, in the coordinates in which its steps are measured, applied to vectors."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from separatrix.core.arguments import default_dtype
from separatrix.core.derivative import Tangents
from separatrix.core.randomness import Draws
from separatrix.training.optimizers.rule import coupled_decay, sign
from separatrix.training.threshold import threshold
from separatrix.training.training import Training

CLOSE = 1 / 2  # power of the round-off up to which a loss may differ from the mean of its parts
ASIDE = 0.1  # distance from the state, relative to it, at which that is tried: at a minimum all losses may be 0

Part = tuple[tuple[Any, Any], float]  # inputs and targets, and their weight


@dataclass(frozen=True)
class Metric:
    r"""The coordinates  u = P^{1/2} θ  in which all steps of an optimiser have one threshold.

    Args:
        root: P^{-1/2}, shape (parameters): P is what the update is divided by, times the ratio of the thresholds of two groups.
        threshold: of the eigenvalues of P^{-1/2} H P^{-1/2}.
        divisor: what the update of each parameter is divided by, shape (parameters); None if it is divided by nothing.
    """

    root: Tensor
    threshold: float
    divisor: Tensor | None


def metric_of(training: Training, x: Tensor, n: int) -> Metric:
    """The coordinates at the state x, (dim), at step n: the update is divided by what that step divides by."""
    theta = x[: training.layout.size]
    divisors: list[Tensor] = []
    training.advanced(x, training.objective.gradient(theta, training.batches(n), n), n, lambda size: divisors.append(size) or size)
    thresholds = [threshold(training.rule, o) for o in training.settings(n)]
    reference = min(thresholds)
    share = torch.cat(
        [
            torch.full_like(theta[s.start : s.stop], reference / own if 0 < reference < math.inf else 1.0)
            for s, own in zip(training.layout.segments, thresholds, strict=True)
        ]
    )
    divisor = torch.cat(divisors) if divisors else None
    return Metric((share if divisor is None else share / divisor).sqrt(), reference, divisor)


def hessian(training: Training, x: Tensor, n: int, root: Tensor, parts: list[Part]) -> Callable[[Tensor], Tensor]:
    """v ↦ P^{-1/2} H P^{-1/2} v,  with H the weighted mean of the Hessians of the loss on some parts of the data.

    H is that of the loss that is descended: with weight decay that is part of the gradient, and −H for an ascent.
    """
    theta, tangents = x[: training.layout.size], Tangents()
    segments = list(zip(training.layout.segments, training.settings(n), strict=True))
    decay = torch.cat([torch.full_like(theta[s.start : s.stop], coupled_decay(o)) for s, o in segments])
    signs = torch.cat([torch.full_like(theta[s.start : s.stop], sign(o)) for s, o in segments])

    def along(v: Tensor, data: tuple[Any, Any]) -> Tensor:
        return tangents(lambda y: training.objective.gradient(y, data, n), theta, v[None])[1][0]

    def product(v: Tensor) -> Tensor:
        v = root * v
        whole = sum((weight * along(v, data) for data, weight in parts), torch.zeros_like(v))
        return root * (signs * whole + decay * v)

    return product


def parts_of_data(training: Training, x: Tensor, n: int, chunk: int | None) -> tuple[list[Part], str]:
    """All data in parts of `chunk` items, by default as many as a step takes, with weights; and a remark.

    A loss that is neither the mean nor the sum of those of its parts (weights of classes, statistics of the batch, draws) is
    evaluated on all data at once.
    """
    batches = training.batches
    if batches.per_epoch == 1 and chunk is None:
        return [(batches.everything(), 1.0)], ""
    items = batches.count()
    size = min(items, batches.size if chunk is None else chunk)
    ends = [*range(0, items, size), items]
    pieces = [slice(start, end) for start, end in pairwise(ends)]
    losses = _losses(training, x, n, pieces)
    joined = _losses(training, x, n, [slice(start, end) for start, end in zip(ends, ends[2:], strict=False)])
    counts = torch.tensor([piece.stop - piece.start for piece in pieces]).to(losses)
    tol = torch.finfo(x.dtype).eps ** CLOSE * (losses[:-1].abs() + losses[1:].abs())
    sums = losses[:-1] + losses[1:]
    means = (counts[:-1] * losses[:-1] + counts[1:] * losses[1:]) / (counts[:-1] + counts[1:])
    if bool(((joined - means).abs() <= tol).all()):
        weights = (counts / items).tolist()
        return [(batches.taken(piece), weight) for piece, weight in zip(pieces, weights, strict=True)], ""
    if bool(((joined - sums).abs() <= tol).all()):
        share = 1.0 / batches.per_epoch
        note = "the loss is a sum over the items: that of a batch of average size is measured"
        return [(batches.taken(piece), share) for piece in pieces], note
    note = "the loss of all data is not the mean of its parts (batch statistics, weights or dropout): it is evaluated at once"
    return [(batches.everything(), 1.0)], note


def _losses(training: Training, x: Tensor, n: int, pieces: list[slice]) -> Tensor:
    """The losses on some pieces of the data, near the state x: at a minimum all of them may be 0."""
    theta, found = x[: training.layout.size], []
    noise = Draws(0, "state at which a loss is taken apart").normal(len(theta)).to(theta)
    theta = theta + ASIDE * theta.abs().mean() * noise
    for piece in pieces:
        with default_dtype(theta.dtype), training.objective.drawn(n):
            found.append(training.objective(theta, training.batches.taken(piece)))
    return torch.stack(found) if found else theta.new_zeros(0)
