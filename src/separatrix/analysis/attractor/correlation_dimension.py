"""The correlation dimension of an attractor: how the number of close pairs grows with their distance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy
import torch
from torch import Tensor

from separatrix.analysis.attractor.orbit import check_room, plan_sampling, sampled, settled
from separatrix.analysis.run.statistics import least_size
from separatrix.core.checks import as_numbers, check_fraction, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import begin
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain

POINTS = 10_000  # states kept by default
LARGE, DIRECTIONS = 1_024, 64  # numbers in a state from which on it is projected, and in its projection
APART = 0.1  # default time between two kept states
BLOCKS = 10  # jackknife blocks
PER_OCTAVE, OCTAVES = 4, 40  # radii: from the attractor's extent down to 1e-12 of it
LARGEST = 0.125  # largest fitted radius over the extent; beyond it the attractor's edges bias the count
FEWEST_PAIRS = 300  # pairs within a radius for its count to be used
SHORTEST = 2  # shortest fitted range, octaves
WINDOW = 2  # width of a local slope, octaves
DECORRELATED = 5  # Theiler window, in units of the lag at which the autocorrelation falls to 1/e
GRAINS = 1_000  # distances below this many roundings of the largest coordinate are dominated by rounding error
FLAT = 1e-9  # an orbit whose extent is below this fraction of its size is at rest


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CorrelationDimension(Result):
    r"""Correlation dimension D and the curve it is fitted to:  C(r) ∼ r^D.

    A run in which ln C over ln r has no straight section is `not_converged` and has no dimension.

    Args:
        dimension: (*batch), least-squares slope of ln C over ln r in the fitted range.
        stderr: (*batch), √(statistical² + systematic²). Statistical: delete-one-block jackknife over ten blocks of the orbit.
            Systematic: largest deviation of the slope of one third of the range from the slope of the whole range.
        takens: (*batch), Takens' maximum-likelihood estimate in the same range, which fits no line.
        range: (*batch, 2), smallest and largest fitted radius, in units of the state.
        radii: (radius, *batch), a quarter of an octave apart, ascending, up to the orbit's extent.
        correlation: (radius, *batch), C(r); pairs closer in time than the Theiler window are left out.
        slopes: (radius, *batch), local slopes over two octaves; NaN where there are too few pairs.
        slopes_stderr: (radius, *batch), their standard errors by the same jackknife.
        theiler: (*batch), Theiler window, in states.
    """

    dimension: Tensor
    stderr: Tensor
    takens: Tensor
    range: Tensor
    radii: Tensor
    correlation: Tensor
    slopes: Tensor
    slopes_stderr: Tensor
    theiler: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.correlation_dimension:correlation_figure"
    layout: ClassVar[dict[str, str]] = {
        "dimension": "batch",
        "stderr": "batch",
        "takens": "batch",
        "range": "batch end",
        "radii": "radius batch",
        "correlation": "radius batch",
        "slopes": "radius batch",
        "slopes_stderr": "radius batch",
        "theiler": "batch",
    }
    units: ClassVar[dict[str, str]] = {"range": "the state's unit", "radii": "the state's unit", "theiler": "states"}

    def summary(self) -> str:
        """The dimension and the fitted range, in words."""
        states = counted(self.settings["points"], "state")
        if self.batch:
            known = self.dimension[self.codes == Status.OK]
            spread = f"{plain(float(known.min()))} … {plain(float(known.max()))}; " if known.numel() else ""
            return f"correlation dimension of {counted(self.codes.numel(), 'run')} of {states}: {spread}{self.ended()}"
        if self.codes == Status.DIVERGED:
            return "correlation dimension: diverged"
        if self.codes == Status.NOT_CONVERGED:
            return f"correlation dimension: not converged, ln C over ln r has no straight section with {states}"
        if bool(self.range.isnan().any()):
            return f"correlation dimension 0: all {states} coincide up to rounding"
        low, high = (plain(value) for value in self.range.tolist())
        return (
            f"correlation dimension {measured(float(self.dimension), float(self.stderr))} from {states}, "
            f"fitted over r = {low} … {high} (Takens' estimate: {plain(float(self.takens))})"
        )

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return "Remove the states that diverge from x0."
        return "ln C over ln r has no straight section: keep more states (raise steps) or raise tol."


@torch.no_grad()
def correlation_dimension(
    system: System,
    x0: Tensor | None = None,
    *,
    steps: int | None = None,
    settle: int | None = None,
    every: int | None = None,
    theiler: int | None = None,
    tol: float = 0.05,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> CorrelationDimension:
    r"""Correlation dimension of the attractor an orbit settles on,  D = lim_{r→0} d ln C / d ln r.

        C(r) = fraction of the pairs with  ‖x_i − x_j‖ < r,  |i − j| ≥ w

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim); the dimension is estimated separately for each. Default: `system.initial_state()`.
        steps: steps to analyse. Default: as many as give 10,000 kept states, within the horizon.
        settle: steps before them. Default: a fifth of `steps`.
        every: steps between two kept states. Default: 0.1 units of time, at least one step.
        theiler: w, in kept states. Pairs closer in time are left out: they reflect the orbit, not the attractor. Default: 5 times
            the lag at which the autocorrelation falls to 1/e.
        tol: tolerance for a straight section. The fitted range is the longest one of at least 2 octaves in which the slopes of its
            three thirds differ from the slope of the whole by at most `tol` · max(1, D), including two standard errors of the
            difference. It has at least 300 pairs at its lower end and stops at an eighth of the orbit's extent.
        seed: seed of the initial state.
        progress: show a progress bar.
        throw: raise instead of marking runs `diverged` or `not_converged`.

    Returns:
        CorrelationDimension: `dimension`, `stderr` and `status` (*batch), the fitted `range`, and C(r) with its local slopes.

    Raises:
        InputError: a count or `tol` is out of range.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: N states cannot resolve a dimension above 2 log₁₀ N (Eckmann & Ruelle 1992); such a run is `not_converged`. On an
        attractor with a hierarchy of gaps the local slopes oscillate at all scales. Pairs are counted on the CPU, one run at a
        time. Of states of more than 1,024 numbers, 64 random projections are used, which keep a dimension below 64 (Sauer & Yorke
        1997, Ergod. Theory Dyn. Syst. 17, 941).
    Source: Grassberger & Procaccia 1983, Physica D 9, 189; window: Theiler 1986, Phys. Rev. A 34, 2427; second estimate: Takens
        1985, Lect. Notes Math. 1125, 99.

    Example:
        >>> rotation = sx.Map(lambda x: torch.stack([x[..., 1], 1.2 * x[..., 1] - x[..., 0]], -1), dim=2)
        >>> found = sx.correlation_dimension(rotation, torch.tensor([1.0, 0.0], dtype=torch.float64), steps=2_000)
        >>> print(f"{found.dimension:.1f}")  # an ellipse, covered densely
        1.0
    """
    plan = plan_sampling(system, samples=POINTS, apart=APART, steps=steps, settle=settle, every=every, seed=seed)
    _check_options(theiler, tol)
    front = begin(system, x0, seed=seed)
    least, seen = least_size(front.x), _projection(front.x, seed)
    check_room(plan, seen(front.x))
    front = settled(front, plan.settle, "Settling", progress)
    states, front = sampled(front, plan, "Correlation dimension", progress, seen)
    settings = {"steps": plan.steps, "settle": plan.settle, "every": plan.every, "seed": seed, "dtype": str(states.dtype)}
    return _measured(states, theiler, tol, settings, least).or_raise(throw)


def correlation_dimension_of(points: Any, *, theiler: int | None = 1, tol: float = 0.05) -> CorrelationDimension:
    """Correlation dimension of a set of points, estimated as in `correlation_dimension`.

    Args:
        points: shape (point, *batch, dim), in order of time if they have one. A run with points that are not finite is `diverged`.
        theiler: pairs with |i − j| below it are left out. Default: 1, which leaves out only i = j. None: from the autocorrelation.
        tol: tolerance for a straight section, as in `correlation_dimension`.

    Returns:
        CorrelationDimension: `dimension`, `stderr` and `status` (*batch), the fitted `range`, and C(r) with its local slopes.

    Raises:
        ShapeError: there are fewer than 2 axes, or fewer than 20 points.
        InputError: points are not real numbers, or an option is out of range.

    Example:
        >>> angle = 2.4 * torch.arange(2_000, dtype=torch.float64)
        >>> found = sx.correlation_dimension_of(torch.stack([angle.cos(), angle.sin()], dim=-1))
        >>> print(f"{found.dimension:.1f}")  # a circle
        1.0
    """
    _check_options(theiler, tol)
    points = as_numbers("points", points, None)
    if points.is_complex():
        raise InputError(f"expected real points, got {points.dtype}.\nPass torch.view_as_real(points).flatten(-2).")
    if not points.is_floating_point():
        raise InputError(f"expected floating-point points, got {points.dtype}.\nPass points.double().")
    if points.ndim < 2 or len(points) < 2 * BLOCKS or not points.numel():
        raise ShapeError(
            f"expected points of shape (point, *batch, dim) with at least {2 * BLOCKS} points, got {tuple(points.shape)}."
        )
    return _measured(points.detach(), theiler, tol, {"dtype": str(points.dtype)})


def _projection(x: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """The states themselves, or if they are large their products with a few random directions, which keep the dimension."""
    if x.shape[-1] <= LARGE:
        return lambda y: y
    draw = torch.randn(x.shape[-1], DIRECTIONS, dtype=torch.float64, generator=torch_generator(seed, "random projection"))
    directions = draw.to(x) / DIRECTIONS**0.5
    return lambda y: y @ directions


def _check_options(theiler: int | None, tol: float) -> None:
    if theiler is not None:
        check_whole("theiler", theiler, 1, way_out="1 leaves out only i = j.")
    check_fraction("tol", tol)


def _measured(
    states: Tensor, theiler: int | None, tol: float, settings: dict[str, Any], least: Tensor | None = None
) -> CorrelationDimension:
    """The result for states (point, *batch, dim); each run needs its own k-d trees, hence the loop."""
    batch = states.shape[1:-1]
    runs = states.cpu().double().reshape(len(states), -1, states.shape[-1]).numpy()
    grain = GRAINS * torch.finfo(states.dtype).eps
    sizes = (torch.zeros(batch) if least is None else least).reshape(-1).tolist()
    fits = [_fit(runs[:, i], theiler, tol, grain, size) for i, size in enumerate(sizes)]

    def gathered(name: str, axes: int = 0) -> Tensor:
        parts = torch.as_tensor(np.stack([getattr(fit, name) for fit in fits], axis=-1 if axes else 0))
        return parts.reshape((*parts.shape[:axes], *batch, *parts.shape[axes + 1 :])).to(states.device)

    return CorrelationDimension(
        codes=gathered("code").to(torch.int8),
        dimension=gathered("dimension"),
        stderr=gathered("stderr"),
        takens=gathered("takens"),
        range=gathered("range"),
        radii=gathered("radii", 1),
        correlation=gathered("correlation", 1),
        slopes=gathered("slopes", 1),
        slopes_stderr=gathered("slopes_stderr", 1),
        theiler=gathered("theiler"),
        settings={**settings, "points": len(states), "theiler": theiler, "tol": tol},
    )


class _Fit(NamedTuple):
    """One run's part of a `CorrelationDimension`."""

    radii: np.ndarray
    correlation: np.ndarray
    slopes: np.ndarray
    slopes_stderr: np.ndarray
    theiler: int
    code: int
    dimension: float = math.nan
    stderr: float = math.nan
    takens: float = math.nan
    range: tuple[float, float] = (math.nan, math.nan)


def _fit(x: np.ndarray, theiler: int | None, tol: float, grain: float, least: float) -> _Fit:
    """The dimension of one run, (point, dim)."""
    blank = np.full(PER_OCTAVE * OCTAVES + 1, math.nan)
    if not np.isfinite(x).all():
        return _Fit(blank, blank, blank, blank, theiler or 0, Status.DIVERGED)
    w = min(_decorrelation(x) if theiler is None else theiler, max(1, len(x) // BLOCKS))
    extent = float(np.linalg.norm(np.ptp(x, axis=0)))
    if extent <= max(FLAT, grain / 50) * max(least, np.abs(x).max()):
        return _Fit(blank, blank, blank, blank, w, Status.OK, 0.0, 0.0, 0.0)
    radii = extent * 2.0 ** (np.arange(-PER_OCTAVE * OCTAVES, 1) / PER_OCTAVE)
    counts, most = pair_counts(x, radii, w)
    curves = _Curves.of(radii, counts, grain * np.abs(x).max())
    width = WINDOW * PER_OCTAVE // 2
    slopes, errors = blank.copy(), blank.copy()
    usable = curves.usable[: -2 * width]
    middle = np.flatnonzero(usable) + width
    local = curves.chords(middle - width, middle + width)
    slopes[middle], errors[middle] = local[0], _jackknife(local)
    correlation = curves.whole / max(most, 1)
    chosen = _straightest(curves, tol)
    if chosen is None:
        return _Fit(radii, correlation, slopes, errors, w, Status.NOT_CONVERGED)
    low, high = chosen
    fitted = curves.slope(low, high)
    bent = np.abs(curves.thirds(low, high)[0] - fitted[0]).max()
    error = float(np.hypot(_jackknife(fitted), bent))
    ends = (float(radii[low]), float(radii[high]))
    if fitted[0] > 2 * math.log10(len(x)):
        return _Fit(radii, correlation, slopes, errors, w, Status.NOT_CONVERGED)
    return _Fit(radii, correlation, slopes, errors, w, Status.OK, float(fitted[0]), error, _takens(curves, low, high), ends)


def pair_counts(x: np.ndarray, radii: np.ndarray, w: int) -> tuple[np.ndarray, int]:
    """Pairs i < j, j − i ≥ w, within each radius, by the blocks of i and j: (block, block, radius); and the number of all pairs.

    k-d trees count all pairs; the pairs too close in time are then subtracted, one lag at a time.
    """
    block = np.arange(len(x)) * BLOCKS // len(x)
    trees = [scipy.spatial.cKDTree(x[block == a]) for a in range(BLOCKS)]
    counts = np.zeros((BLOCKS, BLOCKS, len(radii)))
    for a in range(BLOCKS):
        counts[a, a] = (trees[a].count_neighbors(trees[a], radii) - trees[a].n) / 2
        for b in range(a + 1, BLOCKS):
            counts[a, b] = trees[a].count_neighbors(trees[b], radii)
    for lag in range(1, w):
        place = np.searchsorted(radii, np.linalg.norm(x[lag:] - x[:-lag], axis=-1))  # smallest radius that contains the pair
        place += ((block[:-lag] * BLOCKS) + block[lag:]) * (len(radii) + 1)
        near = np.bincount(place, minlength=BLOCKS**2 * (len(radii) + 1))
        counts -= near.reshape(BLOCKS, BLOCKS, -1).cumsum(-1)[..., :-1]
    kept = len(x) - w + 1
    return counts, kept * (kept - 1) // 2


class _Curves(NamedTuple):
    """ln C up to a constant, for the whole orbit and for the orbit without each of its blocks.

    Args:
        log_radii: (radius).
        logs: (1 + BLOCKS, radius), the whole orbit first; −∞ where there is no pair.
        whole: (radius), pairs in the whole orbit.
        usable: (radius), whether there are enough pairs and the radius is above rounding error.
        last: index of the largest radius not affected by the attractor's edges.
        nearest: pairs within the smallest radius above rounding error.
    """

    log_radii: np.ndarray
    logs: np.ndarray
    whole: np.ndarray
    usable: np.ndarray
    last: int
    nearest: float

    @classmethod
    def of(cls, radii: np.ndarray, counts: np.ndarray, grain: float) -> "_Curves":
        whole = counts.sum((0, 1))
        own = np.stack([counts[a].sum(0) + counts[:, a].sum(0) - counts[a, a] for a in range(BLOCKS)])
        with np.errstate(divide="ignore"):
            logs = np.log(np.concatenate([whole[None], whole - own]))
        last = int(np.searchsorted(radii, LARGEST * radii[-1] * (1 + 1e-9))) - 1
        usable = (whole >= FEWEST_PAIRS) & np.isfinite(logs).all(0) & (radii > grain)
        nearest = float(whole[min(int(np.searchsorted(radii, grain, side="right")), len(radii) - 1)])
        return cls(np.log(radii), logs, whole, usable, last, nearest)

    def chords(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Slopes of each curve between pairs of radii."""
        return (self.logs[:, high] - self.logs[:, low]) / (self.log_radii[high] - self.log_radii[low])

    def slope(self, low: int, high: int) -> np.ndarray:
        """Least-squares slope of each curve over a range, ends included."""
        x = self.log_radii[low : high + 1] - self.log_radii[low : high + 1].mean()
        return self.logs[:, low : high + 1] @ x / (x @ x)

    def thirds(self, low: int, high: int) -> np.ndarray:
        """Slopes of the three thirds of a range, (1 + BLOCKS, 3)."""
        cuts = np.linspace(low, high, 4).round().astype(int)
        return np.stack([self.slope(a, b) for a, b in pairwise(cuts)], axis=-1)


def _jackknife(values: np.ndarray) -> np.ndarray:
    """Standard error of the first value from the others, which each leave out one block: (1 + BLOCKS, …) → (…)."""
    parts = values[1:]
    return np.sqrt((BLOCKS - 1) / BLOCKS * ((parts - parts.mean(0)) ** 2).sum(0))


def _straightest(curves: _Curves, tol: float) -> tuple[int, int] | None:
    """The longest range whose thirds have the same slope; of equally long ones, the one at the smallest radii."""
    enough = np.flatnonzero(curves.usable)
    if not len(enough):
        return None
    first, last = int(enough[0]), curves.last
    for length in range(last - first, SHORTEST * PER_OCTAVE - 1, -1):
        for low in range(first, last - length + 1):
            whole, thirds = curves.slope(low, low + length), curves.thirds(low, low + length)
            apart = np.abs(thirds[0] - whole[0]) + 2 * _jackknife(thirds - whole[:, None])
            if (apart <= tol * max(1.0, whole[0])).all() and not _is_gap(curves, low, float(whole[0]), tol):
                return low, low + length
    return None


def _is_gap(curves: _Curves, low: int, slope: float, tol: float) -> bool:
    """Whether a flat section of C has closer pairs below it.

    On a cycle points coincide, so C is flat down to rounding error. An orbit that almost returns, as a rotation by 1 radian does
    after 710 steps, is just as flat between the return distance and the distance of neighbours, but not below.
    """
    return slope < tol and curves.nearest < (1 - tol) * curves.whole[low]


def _takens(curves: _Curves, low: int, high: int) -> float:
    """Maximum-likelihood exponent of the distances in a range: (C_b − C_a) / ∫ C d ln r, with C a power law in each interval."""
    counts = curves.whole[low : high + 1]
    rise, logs = np.diff(counts), np.diff(np.log(counts))
    mean = np.where(logs > 0, rise / np.where(logs > 0, logs, 1), counts[:-1])
    return float(rise.sum() / (mean * np.diff(curves.log_radii[low : high + 1])).sum())


def _decorrelation(x: np.ndarray) -> int:
    """Five times the lag at which the autocorrelation summed over the components first falls to 1/e; at least 1."""
    away = x - x.mean(0)
    scale = np.abs(away).max()
    away = away / scale if scale > 0 else away
    sums = scipy.signal.fftconvolve(away, away[::-1], axes=0)[len(x) - 1 :].sum(-1)
    below = np.flatnonzero(sums <= sums[0] / math.e)
    return DECORRELATED * int(below[0]) if len(below) and below[0] else 1
