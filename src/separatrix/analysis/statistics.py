"""Error bars of time averages, from the averages over blocks of the run."""

import torch
from scipy.stats import t as student
from torch import Tensor

FEWEST = 8  # blocks under which no error bar is given
GROUPS = 16  # blocks are grouped, to outlast their correlation, down to this many groups


def standard_error(series: Tensor, weight: Tensor) -> Tensor:
    r"""Standard error of the weighted mean of a correlated series, by batch means with an automatic batch length.

    Neighbouring blocks are joined 1, 2, 4, … at a time. While batches are shorter than the correlation time the error changes with
    their length: it grows where neighbours agree, and falls where they make up for each other. The shortest length from which on
    it no longer changes, within its own uncertainty, is taken. Where it still changes at the longest, b, its square is carried
    on by  2 e²(b) − e²(b/2),  which cancels the error of order 1/b; but not below a quarter of e²(b).

    Args:
        series: block averages, shape (blocks, *rest).
        weight: their durations, shape (blocks, *rest) or broadcastable.

    Returns:
        Shape (*rest); NaN with fewer than 8 blocks.
    Limits: where the fluctuations telescope the mean is better than this says: its error is O(1/T).
    Source: Flyvbjerg & Petersen 1989, J. Chem. Phys. 91, 461; the last step as Vats & Flegal 2022, Biometrika 109, 735.
    """
    if len(series) < FEWEST:
        return torch.full_like(series[0] if len(series) else series.sum(0), torch.nan)
    sizes = [2**i for i in range(max(1, (len(series) // GROUPS).bit_length()))]
    weight = weight.expand_as(series)
    levels = torch.stack([_error_of_groups(series, weight, size) for size in sizes])
    own = torch.tensor([1 / (2 * (len(series) // size - 1)) ** 0.5 for size in sizes], dtype=levels.dtype, device=levels.device)
    own = own.view(-1, *[1] * (levels.ndim - 1))
    least = (levels * (1 - own)).flip(0).cummax(0).values.flip(0)
    most = (levels * (1 + own)).flip(0).cummin(0).values.flip(0)
    plateau = (levels >= least) & (levels <= most)
    first = plateau.to(torch.int8).argmax(0)
    error = levels.gather(0, first[None])[0]
    if len(sizes) < 3:
        return error
    carried_on = (2 * levels[-1].square() - levels[-2].square()).clamp(min=levels[-1].square() / 4).sqrt()
    return torch.where(first == len(sizes) - 1, carried_on, error)


def _error_of_groups(series: Tensor, weight: Tensor, size: int) -> Tensor:
    """Error of the mean if groups of `size` blocks were independent."""
    whole = len(series) // size * size
    w = weight[len(series) - whole :].unflatten(0, (-1, size)).sum(1)
    means = (series * weight)[len(series) - whole :].unflatten(0, (-1, size)).sum(1) / w
    w = w / w.sum(0)
    deviation = means - (w * means).sum(0)
    n = len(means)
    return ((w * deviation).square().sum(0) * n / (n - 1)).sqrt()


def drifts(series: Tensor, weight: Tensor, error: Tensor, comparisons: int = 1) -> Tensor:
    """Whether the two halves of a run differ by more than chance (1 % level over all comparisons); shape of `error`, bool.

    With fewer than 16 blocks there is no such test, and nothing drifts.
    """
    if len(series) < 2 * FEWEST:
        return torch.zeros_like(error, dtype=torch.bool)
    weight = weight.expand_as(series)
    half = len(series) // 2
    first = (series * weight)[:half].sum(0) / weight[:half].sum(0)
    second = (series * weight)[half:].sum(0) / weight[half:].sum(0)
    level = float(student.isf(0.005 / max(comparisons, 1), GROUPS - 1))
    rounding = 1e3 * torch.finfo(series.dtype).eps * (1 + series.abs().amax(0))
    return (first - second).abs() > level * 2 * error + rounding
