"""The correlation dimension of an attractor: how the number of its near pairs grows with their distance."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree
from torch import Tensor

from separatrix.analysis.attractor.orbit import plan_sampling, sampled, settled
from separatrix.analysis.run.statistics import least_size
from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import begin
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain

POINTS = 10_000  # of a default orbit
APART = 0.1  # units of time between them
BLOCKS = 10  # stretches of the orbit that the jackknife leaves out in turn
PER_OCTAVE, OCTAVES = 4, 40  # radii: from the attractor's extent down to 1e-12 of it
LARGEST = 0.125  # of the extent: at larger radii a pair sees the attractor's edges
FEWEST_PAIRS = 300  # within a radius, for its count to be used
SHORTEST = 2  # octaves, of a range that is fitted
WINDOW = 2  # octaves, of a local slope
DECORRELATED = 5  # times the lag at which the autocorrelation falls to 1/e: Theiler's window
GRAINS = 1_000  # roundings of the largest coordinate, below which distances are those of the arithmetic
FLAT = 1e-9  # extent, relative to its size, of an orbit that is at rest


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CorrelationDimension(Result):
    r"""How the share of pairs nearer than r grows:  C(r) ∼ r^D.

    A run without a straight stretch of ln C over ln r is `not_converged` and has no dimension.

    Args:
        dimension: (*batch), the slope of ln C over ln r, by least squares in the fitted range.
        stderr: (*batch), √(statistical² + systematic²): the delete-one-block jackknife over ten stretches of the orbit, and how far
            the slope of one of the range's three thirds is at most from that of the whole.
        takens: (*batch), the maximum-likelihood estimate of Takens in the same range, a second opinion without a straight line.
        range: (*batch, 2), the least and the largest fitted radius, in units of the state.
        radii: (radius, *batch), a quarter of an octave apart, ascending, up to the orbit's extent.
        correlation: (radius, *batch), C(r); pairs nearer in time than Theiler's window are left out.
        slopes: (radius, *batch), local slopes over two octaves; NaN where there are too few pairs.
        slope_errors: (radius, *batch), their standard errors by the same jackknife.
        theiler: (*batch), the window, in states.
    """

    dimension: Tensor
    stderr: Tensor
    takens: Tensor
    range: Tensor
    radii: Tensor
    correlation: Tensor
    slopes: Tensor
    slope_errors: Tensor
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
        "slope_errors": "radius batch",
        "theiler": "batch",
    }
    units: ClassVar[dict[str, str]] = {"range": "the state's unit", "radii": "the state's unit", "theiler": "states"}

    def summary(self) -> str:
        """The dimension and where it was fitted, in words."""
        of = f"{counted(self.settings['points'], 'state')}"
        if self.batch:
            known = self.dimension[self.codes == Status.OK]
            spread = f"{plain(float(known.min()))} … {plain(float(known.max()))}; " if known.numel() else ""
            return f"correlation dimension of {counted(self.codes.numel(), 'run')} of {of}: {spread}{self.ended()}"
        if self.codes == Status.DIVERGED:
            return "correlation dimension: diverged"
        if self.codes == Status.NOT_CONVERGED:
            return f"correlation dimension: not converged, no straight stretch of ln C over ln r with {of}"
        if bool(self.range.isnan().any()):
            return f"correlation dimension 0: all of {of} are one, to rounding"
        low, high = (plain(value) for value in self.range.tolist())
        return (
            f"correlation dimension {measured(float(self.dimension), float(self.stderr))} from {of}, "
            f"fitted over r = {low} … {high} (Takens' estimate there: {plain(float(self.takens))})"
        )


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
) -> CorrelationDimension:
    r"""The correlation dimension of the attractor that an orbit settles on:  D = lim_{r→0} d ln C / d ln r.

        C(r) = share of the pairs with  ‖x_i − x_j‖ < r,  |i − j| ≥ w

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim); each run has a dimension of its own. Default: `system.initial_state()`.
        steps: steps to look at. Default: 10,000 states, within the horizon.
        settle: steps before them. Default: a fifth of `steps`.
        every: steps between two states that are kept. Default: 0.1 units of time, at least one step.
        theiler: w, in states that are kept: pairs nearer in time see the orbit, not the attractor. Default: 5 times the lag at
            which the autocorrelation falls to 1/e.
        tol: the fitted range is the longest, of at least 2 octaves, in which ln C is straight: the slopes of its three thirds
            differ from that of the whole by at most `tol` · max(1, D), two standard errors of the difference counted in. It has
            at least 300 pairs at its lower end, and ends at an eighth of the orbit's extent.
        seed: of the initial state.
        progress: show a bar.

    Returns:
        CorrelationDimension: `dimension`, `stderr` and `status` (*batch), the fitted `range`, and C(r) with its local slopes.

    Raises:
        InputError: a count or `tol` is out of range.
        HorizonError: `settle + steps` exceeds the steps the system can take.

    Limits: N states show no dimension above 2 log₁₀ N (Eckmann & Ruelle 1992), which is then `not_converged`. An attractor with a
        hierarchy of gaps has local slopes that oscillate without end. Pairs are found on the CPU, one run after another.
    Source: Grassberger & Procaccia 1983, Physica D 9, 189; window: Theiler 1986, Phys. Rev. A 34, 2427; second estimate: Takens
        1985, Lect. Notes Math. 1125, 99.
    """
    plan = plan_sampling(system, samples=POINTS, apart=APART, steps=steps, settle=settle, every=every, seed=seed)
    _check_options(theiler, tol)
    front = begin(system, x0, seed=seed)
    least = least_size(front.x)
    front = settled(front, plan.settle, "Settling", progress)
    states, front = sampled(front, plan, "Correlation dimension", progress)
    asked = {"steps": plan.steps, "settle": plan.settle, "every": plan.every, "seed": seed, "dtype": str(states.dtype)}
    return _measured(states, theiler, tol, asked, least)


def correlation_dimension_of(points: Any, *, theiler: int | None = 1, tol: float = 0.05) -> CorrelationDimension:
    """The correlation dimension of given points, as `correlation_dimension` has it of an orbit.

    Args:
        points: shape (point, *batch, dim), in the order of time where they have one.
        theiler: pairs nearer in this order are left out. Default: only a point and itself. None: from the autocorrelation.
        tol: as there.

    Raises:
        ShapeError: there are fewer than 2 axes, or fewer than 20 points.
        InputError: points are not real numbers, or an option is out of range. Points that are not finite are `diverged`.
    """
    _check_options(theiler, tol)
    try:
        points = torch.as_tensor(points)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"points cannot be read as numbers: {str(error).splitlines()[0]}") from None
    if points.is_complex():
        raise InputError(
            f"points are {points.dtype}, but a distance needs real numbers.\nPass torch.view_as_real(points).flatten(-2)."
        )
    if not points.is_floating_point():
        raise InputError(f"points are {points.dtype}, but a distance needs real numbers.\nPass points.double().")
    if points.ndim < 2 or len(points) < 2 * BLOCKS or not points.numel():
        raise ShapeError(f"points have shape {tuple(points.shape)}; pass (point, *batch, dim) with at least {2 * BLOCKS} points.")
    return _measured(points.detach(), theiler, tol, {"dtype": str(points.dtype)})


def _check_options(theiler: int | None, tol: float) -> None:
    if theiler is not None and check_whole("theiler", theiler) < 1:
        raise InputError(f"theiler is {theiler}; 1 leaves out a state and itself, so it is at least 1.")
    if not (isinstance(tol, int | float) and 0 < tol < 1):
        raise InputError(f"tol is {tol!r}; it lies between 0 and 1.")


def _measured(
    states: Tensor, theiler: int | None, tol: float, asked: dict[str, Any], least: Tensor | None = None
) -> CorrelationDimension:
    """The result of states (point, *batch, dim): a loop over runs, each of which is a tree of its own."""
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
        slope_errors=gathered("slope_errors", 1),
        theiler=gathered("theiler"),
        settings={**asked, "points": len(states), "theiler": theiler, "tol": tol},
    )


class _Fit(NamedTuple):
    """One run's part of a `CorrelationDimension`."""

    radii: np.ndarray
    correlation: np.ndarray
    slopes: np.ndarray
    slope_errors: np.ndarray
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
    """Pairs i < j, j − i ≥ w, within each radius, by the blocks of time that i and j lie in: (block, block, radius); and all pairs.

    A k-d tree counts all pairs; those too near in time are then taken out one lag after the other.
    """
    block = np.arange(len(x)) * BLOCKS // len(x)
    trees = [cKDTree(x[block == a]) for a in range(BLOCKS)]
    counts = np.zeros((BLOCKS, BLOCKS, len(radii)))
    for a in range(BLOCKS):
        counts[a, a] = (trees[a].count_neighbors(trees[a], radii) - trees[a].n) / 2
        for b in range(a + 1, BLOCKS):
            counts[a, b] = trees[a].count_neighbors(trees[b], radii)
    for lag in range(1, w):
        place = np.searchsorted(radii, np.linalg.norm(x[lag:] - x[:-lag], axis=-1))  # the first radius that reaches
        place += ((block[:-lag] * BLOCKS) + block[lag:]) * (len(radii) + 1)
        near = np.bincount(place, minlength=BLOCKS**2 * (len(radii) + 1))
        counts -= near.reshape(BLOCKS, BLOCKS, -1).cumsum(-1)[..., :-1]
    kept = len(x) - w + 1
    return counts, kept * (kept - 1) // 2


class _Curves(NamedTuple):
    """ln C up to a constant: of the whole orbit, and of the orbit without each of its blocks.

    Args:
        log_radii: (radius).
        logs: (1 + BLOCKS, radius), the whole first; −∞ without a pair.
        whole: (radius), pairs of the whole.
        usable: (radius), whether there are enough pairs, and the radius is above the grain of the arithmetic.
        last: index of the largest radius at which the edges are not seen.
        nearest: pairs within the smallest radius above the grain.
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
        """Slopes between pairs of radii, of each curve."""
        return (self.logs[:, high] - self.logs[:, low]) / (self.log_radii[high] - self.log_radii[low])

    def slope(self, low: int, high: int) -> np.ndarray:
        """The least-squares slope of each curve over a range, ends included."""
        x = self.log_radii[low : high + 1] - self.log_radii[low : high + 1].mean()
        return self.logs[:, low : high + 1] @ x / (x @ x)

    def thirds(self, low: int, high: int) -> np.ndarray:
        """The slopes of a range's three thirds, (1 + BLOCKS, 3)."""
        cuts = np.linspace(low, high, 4).round().astype(int)
        return np.stack([self.slope(a, b) for a, b in pairwise(cuts)], axis=-1)


def _jackknife(values: np.ndarray) -> np.ndarray:
    """The standard error of the first of the values from the others, each of which lacks one block: (1 + BLOCKS, …) → (…)."""
    parts = values[1:]
    return np.sqrt((BLOCKS - 1) / BLOCKS * ((parts - parts.mean(0)) ** 2).sum(0))


def _straightest(curves: _Curves, tol: float) -> tuple[int, int] | None:
    """The longest range whose thirds have one slope, the lowest of equally long ones."""
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
    """Whether a flat stretch lies above pairs that are nearer still.

    A cycle's points coincide: C is flat down to the arithmetic. An orbit that comes back nearly, as a rotation by 1 radian does
    after 710 steps, is as flat between that distance and the one of neighbours, which says nothing of what is below.
    """
    return slope < tol and curves.nearest < (1 - tol) * curves.whole[low]


def _takens(curves: _Curves, low: int, high: int) -> float:
    """The maximum-likelihood exponent of the distances in a range: (C_b − C_a) / ∫ C d ln r, C a power in each interval."""
    counts = curves.whole[low : high + 1]
    rise, logs = np.diff(counts), np.diff(np.log(counts))
    mean = np.where(logs > 0, rise / np.where(logs > 0, logs, 1), counts[:-1])
    return float(rise.sum() / (mean * np.diff(curves.log_radii[low : high + 1])).sum())


def _decorrelation(x: np.ndarray) -> int:
    """Five times the lag at which the autocorrelation, summed over the components, first falls to 1/e; at least 1."""
    away = x - x.mean(0)
    scale = np.abs(away).max()
    away = away / scale if scale > 0 else away
    sums = fftconvolve(away, away[::-1], axes=0)[len(x) - 1 :].sum(-1)
    below = np.flatnonzero(sums <= sums[0] / math.e)
    return DECORRELATED * int(below[0]) if len(below) and below[0] else 1
