"""Error bars of time averages, computed from averages over blocks of the run."""

import functools
from collections.abc import Callable
from typing import Any

import scipy
import torch
from torch import Tensor

FEWEST = 8  # minimum number of blocks for an error bar
GROUPS = 20  # batches of a long run: few and long, so that correlations of neighbouring blocks lie within a batch
PIECE = 2**18  # numbers of a series that are averaged at a time: they stay in the processor's cache, five times as fast

FALLEN = 1e-3  # relative to its initial size: the size at which an orbit counts as having reached zero


def least_size(x: Tensor) -> Tensor:
    """The smallest size that tolerances refer to, for orbits that start at x, (*batch): ‖x‖∞ / 1000; 0 for the origin.

    Tolerances are relative to the size of the state. If the state converges to zero, it has no scale of its own, and the scale of
    its initial condition, in the same unit but possibly much larger, takes its place.
    """
    return FALLEN * x.abs().amax(-1).nan_to_num(1.0, 1.0)


def _piece_by_piece(estimate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An estimate from a series, shape (blocks, items, *rest), computed for a few items at a time."""

    @functools.wraps(estimate)
    def whole(series: Tensor, weight: Tensor, **options: Any) -> Tensor:
        if series.ndim < 2 or series.is_cuda or series.numel() <= 2 * PIECE:
            return estimate(series, weight, **options)
        items = max(1, PIECE * series.shape[1] // series.numel())
        parts = series.split(items, dim=1)
        weights = weight.expand(len(series), *series.shape[1:2], *weight.shape[2:]).split(items, dim=1)
        return torch.cat([estimate(part, own, **options) for part, own in zip(parts, weights, strict=True)])

    return whole


@_piece_by_piece
def standard_error(series: Tensor, weight: Tensor) -> Tensor:
    r"""Standard error of the weighted mean of a correlated series, by batch means with an automatic batch length.

    The run is cut into 20 batches, whatever its length. Batches of b blocks include the correlation of neighbouring blocks. If they
    are still too short, their error e(b) grows with b, and its square is extrapolated by  e²(b) + [e²(b) − e²(b/2)],  which
    cancels the error of order 1/b. (Choosing the shortest batch that seems long enough is a repeated test on noise, and was seen
    to bias the error bar low.)

    Args:
        series: block averages, shape (blocks, *rest).
        weight: durations of the blocks, shape (blocks, *rest) or broadcastable.

    Returns:
        Shape (*rest); NaN with fewer than 8 blocks.
    Limits: if the fluctuations telescope, the true error and this estimate are both O(1/T), but the estimate is √(batches + 1)
    times too large.
    Source: Flegal & Jones 2010, Ann. Stat. 38, 1034; extrapolation as in Vats & Flegal 2022, Biometrika 109, 735. Calibrated in
    `benchmarks/CALIBRATION.md`.
    """
    if len(series) < FEWEST:
        return torch.full_like(series[0] if len(series) else series.sum(0), torch.nan)
    weight = weight.expand_as(series)
    size = max(1, len(series) // GROUPS)
    square = _error_of_groups(series, weight, size).square()
    if size > 1:
        shorter = _error_of_groups(series, weight, size // 2).square()
        square = square + (square - shorter).clamp(min=0)
    return square.sqrt()


def _error_of_groups(series: Tensor, weight: Tensor, size: int) -> Tensor:
    """Error of the mean, assuming that groups of `size` blocks are independent."""
    first = len(series) % size
    w = weight[first:].unflatten(0, (-1, size)).sum(1)
    means = (series * weight)[first:].unflatten(0, (-1, size)).sum(1) / w
    w = w / w.sum(0)
    deviation = means - (w * means).sum(0)
    n = len(means)
    return ((w * deviation).square().sum(0) * n / (n - 1)).sqrt()


@_piece_by_piece
def drifts(series: Tensor, weight: Tensor, comparisons: int = 1) -> Tensor:
    """Whether the halves of a run, or those of its second half, differ significantly; shape (*rest), bool.

    The level is 1 % over all comparisons, three quarters of it for the whole run. A rate that fades differs most at the start,
    where it also widens the error bar of the first half; the second half still shows it. With fewer than 16 blocks a test is not
    made, and the answer is False.
    """
    late, weight = len(series) // 2, weight.expand_as(series)
    whole = _halves_differ(series, weight, comparisons * 4 / 3)
    return whole | _halves_differ(series[late:], weight[late:], comparisons * 4)


def _halves_differ(series: Tensor, weight: Tensor, comparisons: float) -> Tensor:
    """The test of one run.

    The error bar is that of the run about the mean of each half; the error bar about the common mean would grow with the drift and
    hide it.
    """
    if len(series) < 2 * FEWEST:
        return torch.zeros(series.shape[1:], dtype=torch.bool, device=series.device)
    half = len(series) // 2
    first = (series * weight)[:half].sum(0) / weight[:half].sum(0)
    second = (series * weight)[half:].sum(0) / weight[half:].sum(0)
    error = standard_error(torch.cat([series[:half] - first, series[half:] - second]), weight)
    level = -float(scipy.special.stdtrit(GROUPS - 1, 0.005 / max(comparisons, 1.0)))
    rounding = 1e3 * torch.finfo(series.dtype).eps * (1 + series.abs().amax(0))
    return (first - second).abs() > level * 2 * error + rounding
