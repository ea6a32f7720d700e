"""The Hessian of the loss that an optimiser descends, in the coordinates in which its steps are measured, applied to vectors."""

import math
from collections.abc import Callable
from dataclasses import dataclass
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
    everything = batches.everything()
    if batches.per_epoch == 1 and chunk is None:
        return [(everything, 1.0)], ""
    items = batches.count()
    size = min(items, batches.size if chunk is None else chunk)
    pieces = [batches.taken(slice(start, start + size)) for start in range(0, items, size)]
    counts = [min(size, items - start) for start in range(0, items, size)]
    theta = x[: training.layout.size]
    noise = Draws(0, "state at which a loss is taken apart").normal(len(theta)).to(theta)
    theta = theta + ASIDE * theta.abs().mean() * noise
    objective = training.objective
    with default_dtype(theta.dtype), objective.drawn(n):
        whole = objective(theta, everything)
    with default_dtype(theta.dtype), objective.drawn(n):
        losses = [objective(theta, piece) for piece in pieces]
    mean = sum(count / items * loss for count, loss in zip(counts, losses, strict=True))
    tol = torch.finfo(theta.dtype).eps ** CLOSE * sum(loss.abs() for loss in losses)
    if bool((whole - mean).abs() <= tol):
        return list(zip(pieces, [count / items for count in counts], strict=True)), ""
    if bool((whole - sum(losses)).abs() <= tol):
        share = 1.0 / batches.per_epoch
        return [(piece, share) for piece in pieces], "the loss is a sum over the items: that of a batch of average size is measured"
    return [(everything, 1.0)], "the loss of all data is not the mean of its parts (batch statistics, weights or dropout)"
