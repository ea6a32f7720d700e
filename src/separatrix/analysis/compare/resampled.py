"""Differences between two sets of orbits, by Welch's test for means and by a permutation test for distances."""

import math
from collections.abc import Callable
from typing import NamedTuple

import scipy
import torch
from torch import Tensor

from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.core.randomness import torch_generator

DRAWS = 1_999  # permutations of the orbits
BINS = 16  # bins with equal numbers of visits, in each of which a line is fitted to a return map
ENOUGH = 4 * BINS  # least number of visits of a system for its return map
BANDS = 16  # frequency bands, equally wide on a logarithmic axis
WEAKEST = 1e-4  # least share of the power of a band that counts
ROUNDING = 1e-9  # relative error below which two numbers are equal

Distance = Callable[[Tensor, Tensor], Tensor]


class Difference(NamedTuple):
    """Difference of one quantity between two systems.

    Args:
        true, learned: the measured values.
        true_stderr, learned_stderr: their standard errors.
        stderr: standard error of the difference.
        p_value: probability of a difference at least this large by chance.
        freedom: degrees of freedom of Student's t for the difference; NaN for a distance.
        null: for a distance, those of random halves, in standard errors above their mean, ascending.
    """

    true: float
    learned: float
    true_stderr: float
    learned_stderr: float
    stderr: float
    p_value: float
    freedom: float = math.nan
    null: Tensor | None = None

    @property
    def z(self) -> float:
        """The difference in standard errors."""
        return (self.learned - self.true) / self.stderr

    def limit(self, level: float) -> float:
        """The |z| above which the p-value is below the level."""
        if self.null is None:
            return float(scipy.special.stdtrit(self.freedom, 1 - level / 2))
        return float(torch.quantile(self.null, 1 - level))


def of_estimates(
    true: float, learned: float, errors: tuple[float, float], freedoms: tuple[float, float], floor: float = 0.0
) -> Difference:
    """Difference of two numbers with standard errors, by Welch's test. Its error is at least `floor`, and at least rounding."""
    stderr = max(math.hypot(*errors), floor, ROUNDING * max(1.0, abs(true), abs(learned)))
    parts = [error**4 / freedom for error, freedom in zip(errors, freedoms, strict=True)]
    freedom = math.hypot(*errors) ** 4 / sum(parts) if sum(parts) > 0 else max(freedoms)
    p = 2 * float(scipy.special.stdtr(freedom, -abs(learned - true) / stderr))
    return Difference(true, learned, *errors, stderr, p, freedom)


def of_orbits(true: Tensor, learned: Tensor, floor: float = 0.0) -> Difference:
    """Difference of two means over orbits, (orbits) each, with errors from the spread between orbits."""
    errors = (_error(true), _error(learned))
    return of_estimates(float(true.mean()), float(learned.mean()), errors, (len(true) - 1, len(learned) - 1), floor)


def of_deviations(true: Tensor, learned: Tensor) -> Difference:
    """Difference of standard deviations by the delta method, from the mean square of each orbit about the overall mean."""
    roots = [math.sqrt(max(float(squares.mean()), 0.0)) for squares in (true, learned)]
    errors = [_error(squares) / (2 * root) if root > 0 else 0.0 for squares, root in zip((true, learned), roots, strict=True)]
    return of_estimates(roots[0], roots[1], (errors[0], errors[1]), (len(true) - 1, len(learned) - 1))


def permuted(true: Tensor, learned: Tensor, distance: Distance, seed: int) -> Difference:
    """Distance between sums over orbits, (orbits, …) each, by a permutation test over the orbits of both systems."""
    both, first = torch.cat([true, learned]).flatten(1), len(true)
    order = torch.rand(DRAWS, len(both), generator=torch_generator(seed, "bootstrap")).argsort(dim=1)
    mixed = (order < first).to(both)
    own = (torch.arange(len(both)) < first).to(both)[None]
    chosen = torch.cat([own, mixed])
    shape = (-1, *true.shape[1:])
    distances = distance((chosen @ both).reshape(shape), ((1 - chosen) @ both).reshape(shape))
    found, null = float(distances[0]), distances[1:]
    mean, spread = float(null.mean()), max(float(null.std()), ROUNDING)
    p = (1 + int((null >= found).sum())) / (DRAWS + 1)
    return Difference(mean, found, math.nan, math.nan, spread, p, null=((null - mean) / spread).sort().values)


def return_map_difference(true: ReturnMap, learned: ReturnMap, seed: int) -> Difference | None:
    """Root mean square distance of two return maps, in standard deviations of the values.

    In each of 16 bins with equal numbers of visits, a line is fitted to (s_n, s_{n+1}) and evaluated in the middle. Infinite if
    only one system has enough visits, None if neither has.
    """
    pairs = [(found.before, found.after) for found in (true, learned)]
    seen = [int((s.isfinite() & after.isfinite()).sum()) for s, after in pairs]
    if max(seen) < ENOUGH:
        return None
    if min(seen) < ENOUGH:
        return Difference(0.0, math.inf, math.nan, math.nan, 1.0, 0.0, freedom=math.inf)
    values = torch.cat([s[s.isfinite() & after.isfinite()] for s, after in pairs])
    edges = torch.quantile(values[:: max(1, len(values) // 1_000_000)], torch.linspace(0, 1, BINS + 1, dtype=values.dtype))
    sums = [_bin_sums(s, after, edges) for s, after in pairs]
    spread = float(values.std()) or 1.0
    return permuted(sums[0], sums[1], lambda a, b: _curve_distance(a, b) / spread, seed)


def _bin_sums(s: Tensor, after: Tensor, edges: Tensor) -> Tensor:
    """Sums of 1, u, u², v and uv over the visits of each orbit to each bin, u from its middle; (orbits, bin, 5)."""
    known = s.isfinite() & after.isfinite()
    place = (torch.bucketize(s.where(known, edges[0]), edges) - 1).clamp(0, BINS - 1)
    u = (s - (edges[1:] + edges[:-1])[place] / 2).where(known, 0.0)
    v = after.where(known, 0.0)
    each = torch.stack([known.to(s), u, u * u, v, u * v], dim=-1)
    sums = s.new_zeros(BINS, *each.shape[1:])
    return sums.scatter_add_(0, place[..., None].expand_as(each), each).movedim(0, 1)


def _curve_distance(one: Tensor, other: Tensor) -> Tensor:
    """Root mean square distance of two curves over the bins, from sums (draws, bin, 5); shape (draws)."""
    weight = (one + other)[..., 0]
    gap = _middle(one) - _middle(other)
    return ((weight * gap.square()).sum(-1) / weight.sum(-1)).sqrt()


def _middle(sums: Tensor) -> Tensor:
    """Value of the line in the middle of each bin, (draws, bin); the mean if no line can be fitted."""
    n, u, uu, v, uv = sums.unbind(-1)
    determinant = n * uu - u * u
    mean = v.sum(-1, keepdim=True) / n.sum(-1, keepdim=True).clamp(min=1)
    straight = (n >= 3) & (determinant > ROUNDING * n * uu)
    return torch.where(straight, (uu * v - u * uv) / determinant.where(straight, 1.0), torch.where(n > 0, v / n.clamp(min=1), mean))


def spectrum_difference(true: Tensor, learned: Tensor, gaps: tuple[float, float], seed: int) -> Difference | None:
    """Root mean square difference of the log power in frequency bands, from series (time, orbits) each.

    The 16 bands span the frequencies of both; bands with less than 1e-4 of the power are ignored.
    """
    low = max(1 / (len(s) * gap) for s, gap in zip((true, learned), gaps, strict=True))
    high = min(0.5 / gap for gap in gaps)
    if high < 2 * low:
        return None
    edges = torch.logspace(math.log2(low), math.log2(high), BANDS + 1, base=2.0, dtype=torch.float64)
    bands = [_band_power(s, gap, edges) for s, gap in zip((true, learned), gaps, strict=True)]
    weight = torch.cat(bands).mean(0)
    strong = weight >= WEAKEST * weight.sum()
    counts = [len(part) for part in bands]
    if not bool(strong.any()) or not float(weight.sum()):
        return None

    def distance(a: Tensor, b: Tensor) -> Tensor:
        floor = ROUNDING * weight[strong]
        logs = [(part[:, strong] / count).clamp(min=floor).log() for part, count in zip((a, b), counts, strict=True)]
        return (logs[0] - logs[1]).square().mean(-1).sqrt()

    return permuted(bands[0], bands[1], distance, seed)


def _band_power(s: Tensor, gap: float, edges: Tensor) -> Tensor:
    """Variance of each orbit in frequency bands, with a Hann window, (orbits, band)."""
    window = torch.hann_window(len(s), periodic=False, dtype=s.dtype, device=s.device)[:, None]
    power = torch.fft.rfft((s - s.mean(0)) * window, dim=0).abs().square() / (window.square().sum() * len(s) / 2)
    frequency = torch.fft.rfftfreq(len(s), gap, dtype=torch.float64)
    place = torch.bucketize(frequency, edges) - 1
    inside = (place >= 0) & (place < BANDS)
    sums = s.new_zeros(BANDS, s.shape[1])
    return sums.index_add_(0, place[inside].to(s.device), power[inside.to(s.device)]).mT


def _error(values: Tensor) -> float:
    """Standard error of a mean over orbits."""
    return float(values.std() / math.sqrt(len(values)))
