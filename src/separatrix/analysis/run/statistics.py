"""Error bars of time averages, from the averages over blocks of the run."""

import torch
from scipy.special import stdtrit
from torch import Tensor

FEWEST = 8  # blocks under which no error bar is given
GROUPS = 20  # batches that a long run is cut into: few and long, so that what neighbouring blocks share lies inside them

FALLEN = 1e-3  # of where an orbit begins: where it comes to is at zero if that is less by as much as a tolerance


def least_size(x: Tensor) -> Tensor:
    """The size below which an orbit that begins at x is at zero, (*batch): a thousandth of ‖x‖∞; 0 of a start at the origin.

    Tolerances are relative to the size of a state, and one that falls to zero has none of its own. That of its start is in the
    same unit, but may be much larger than what the orbit comes to. An orbit that begins at the origin has its own size only.
    """
    return FALLEN * x.abs().amax(-1).nan_to_num(1.0, 1.0)


def standard_error(series: Tensor, weight: Tensor) -> Tensor:
    r"""Standard error of the weighted mean of a correlated series, by batch means with an automatic batch length.

    The batches are as long as 20 of them allow, whatever the run's length. Batches of b blocks count what neighbours share, and
    how they make up for each other; if they are still too short, their error e(b) grows with b, and its square is carried on by
    e²(b) + [e²(b) − e²(b/2)],  which cancels the error of order 1/b. (Choosing the shortest batch that looks long enough is a
    test on noise, repeated: it was seen to bias the error bar low.)

    Args:
        series: block averages, shape (blocks, *rest).
        weight: their durations, shape (blocks, *rest) or broadcastable.

    Returns:
        Shape (*rest); NaN with fewer than 8 blocks.
    Limits: where the fluctuations telescope, both the error and this are O(1/T), but this is √(batches + 1) times too wide.
    Source: Flegal & Jones 2010, Ann. Stat. 38, 1034; carried on as in Vats & Flegal 2022, Biometrika 109, 735. Its calibration:
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
    """Error of the mean if groups of `size` blocks were independent."""
    whole = len(series) // size * size
    w = weight[len(series) - whole :].unflatten(0, (-1, size)).sum(1)
    means = (series * weight)[len(series) - whole :].unflatten(0, (-1, size)).sum(1) / w
    w = w / w.sum(0)
    deviation = means - (w * means).sum(0)
    n = len(means)
    return ((w * deviation).square().sum(0) * n / (n - 1)).sqrt()


def drifts(series: Tensor, weight: Tensor, comparisons: int = 1) -> Tensor:
    """Whether the two halves of a run differ by more than chance (1 % level over all comparisons); shape (*rest), bool.

    The error bar it is held against is that of the run about its halves' own means: a drift would widen the other and hide in it.
    With fewer than 16 blocks there is no such test, and nothing drifts.
    """
    if len(series) < 2 * FEWEST:
        return torch.zeros(series.shape[1:], dtype=torch.bool, device=series.device)
    weight = weight.expand_as(series)
    half = len(series) // 2
    first = (series * weight)[:half].sum(0) / weight[:half].sum(0)
    second = (series * weight)[half:].sum(0) / weight[half:].sum(0)
    error = standard_error(torch.cat([series[:half] - first, series[half:] - second]), weight)
    level = -float(stdtrit(GROUPS - 1, 0.005 / max(comparisons, 1)))
    rounding = 1e3 * torch.finfo(series.dtype).eps * (1 + series.abs().amax(0))
    return (first - second).abs() > level * 2 * error + rounding
