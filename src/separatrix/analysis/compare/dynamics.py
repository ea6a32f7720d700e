"""Comparison of the long-term dynamics of a learned system and the true one, or data from it."""

from typing import Any

import torch
from torch import Tensor

from separatrix.analysis.compare.quantities import Held, quantities_of
from separatrix.analysis.compare.resampled import Difference
from separatrix.analysis.compare.result import DynamicsComparison
from separatrix.analysis.compare.samples import FEWEST, Options, sampled
from separatrix.core.checks import check_fraction, check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import check_steps, check_system_type
from separatrix.core.result import Status
from separatrix.core.system import System

STARTS = 32  # default number of orbits of each system
DURATION, SHORTEST = 100.0, 2_000  # default length of an orbit in units of time, and least number of steps
POINTS, FEWEST_POINTS = 10_000, 1_000  # default and least number of states for the correlation dimension


@torch.no_grad()
def compare_dynamics(
    learned: System,
    truth: System | Tensor,
    x0: Tensor | None = None,
    *,
    dt: float | None = None,
    k: int | None = None,
    starts: int = STARTS,
    steps: int | None = None,
    settle: int | None = None,
    component: int = 0,
    points: int = POINTS,
    level: float = 0.05,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> DynamicsComparison:
    r"""Whether two systems have the same long-term dynamics, within the error bars of finite orbits.

    Measured on both systems over many orbits, and compared in standard errors of the difference:

    - the Lyapunov exponents and the Kaplan–Yorke dimension of each orbit;
    - the correlation dimension of the states of all orbits;
    - mean and standard deviation of each of the first six components, for the invariant measure;
    - the return map of successive maxima of one component (for a map, of its successive values): the root mean square distance of
      the two curves, in standard deviations of the values; and the mean time between maxima;
    - the power spectrum of that component: the root mean square difference of the log power in 16 bands.

    Standard errors are those of means over independent orbits, so no correlation time is needed, and short runs do not pass for
    precise ones. The two distances are compared with distances between random halves of all orbits (a permutation test). A
    quantity differs if its p-value is below `level` / (number of quantities), so that the chance of any false alarm is at most
    `level`.

    Args:
        learned: the system to assess.
        truth: the true system, with the same number of components and, if it is a map, the same time per step; or data from it,
            shape (time, *batch, dim), after transients, sampled every `dt`. Exponents are not compared with data.
        x0: initial states of the true orbits, shape (starts, dim). Default: `truth.initial_state((starts,))`. The learned orbits
            start where the true ones end, on the attractor.
        dt: time between two samples of the data, a multiple of the learned system's step.
        k: number of leading exponents. Default: all.
        starts: number of orbits of each system; with data, of the learned system, and of pieces into which a single series is cut.
        steps: number of steps of each learned orbit; true orbits take the same time. Default: 100 units of time, at least 2,000
            steps. With data: the length of a piece.
        settle: steps before these, for both systems, in which orbits with similar initial states must separate, because their
            spread is the error bar. Default: a fifth of `steps`, and at least a fifth of its default.
        component: index of the component whose return map and spectrum are compared.
        points: number of states for the correlation dimension, which takes most of the time of short comparisons; 0 omits it.
        level: significance level of all quantities together.
        seed: seed of the initial states, the tangent frames and the permutations.
        progress: show progress bars.
        throw: raise instead of marking a comparison `diverged`.

    Returns:
        DynamicsComparison: `names`, `true`, `learned`, `stderr`, `z` and `p_value` for each quantity; `agrees`; `table()`. The
        status is `diverged` if fewer than 4 learned orbits stay within ten times the extent of the true ones.

    Raises:
        InputError: all orbits start in the same state, an option is out of range, or `dt` is not a multiple of the learned step.
        ShapeError: the widths differ, or the data are too short.
        DivergedError: fewer than 4 true orbits remain bounded; or, with `throw=True`, fewer than 4 learned ones.

    Limits: agreement is not a proof; longer orbits resolve smaller differences. Standard errors assume that each orbit covers the
        attractor; if there are several, other initial states may behave differently. Noise in data counts as dynamics. The z of a
        distance is bounded, however different two systems are, because the random halves contain orbits of both.
    Source: that a small error over short times need not give the right exponents or measure: Park, Yang & Chandramoorthy 2024,
        NeurIPS, arXiv:2411.06311; permutation test: Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses, ch. 3;
        different degrees of freedom: Welch 1947, Biometrika 34, 28.

    Example:
        >>> henon, other = sx.classic.henon(), sx.classic.henon(b=0.2)
        >>> found = sx.compare_dynamics(other, henon, starts=8, steps=100, points=0)
        >>> found.agrees, found.names[:2]
        (False, ('λ₁', 'λ₂'))
    """
    truth = torch.as_tensor(truth) if hasattr(truth, "__array__") else truth
    _check(learned, truth, starts, component, points, level, seed)
    duration = _steps(learned, steps)
    wait = _settling(learned, duration) if settle is None else check_whole("settle", settle)
    check_steps(learned, settle=wait, steps=duration)
    options = Options(k, starts, duration, wait, component, points, seed, progress)
    pair = sampled(learned, truth, x0, dt, options)
    enough = pair["learned"].states.shape[1] >= FEWEST
    found, held = quantities_of(learned, truth, pair, options) if enough else ({}, Held({}, {}, {}))
    comparison = DynamicsComparison(
        codes=torch.tensor(int(Status.OK if found else Status.DIVERGED), dtype=torch.int8),
        **_columns(found, level),
        **held._asdict(),
        level=float(level),
        orbits=tuple(part.followed for part in pair.values()),
        left=tuple(part.left for part in pair.values()),
        resting=tuple(part.resting for part in pair.values()),
        settings={**options._asdict(), "dt": dt, "data": not isinstance(truth, System)},
    )
    return comparison.or_raise(throw)


def _columns(found: dict[str, Difference], level: float) -> dict[str, Any]:
    """The fields of a comparison with one number per quantity."""
    parts = ("true", "learned", "true_stderr", "learned_stderr", "stderr", "z", "p_value")
    columns = {part: torch.tensor([getattr(d, part) for d in found.values()], dtype=torch.float64) for part in parts}
    limits = [d.limit(level / len(found)) for d in found.values()]
    return {"names": tuple(found), **columns, "limit": torch.tensor(limits, dtype=torch.float64)}


def _steps(learned: System, steps: int | None) -> int:
    if steps is None:
        return max(SHORTEST, round(DURATION / learned.dt))
    return check_whole("steps", steps, 2 * FEWEST)


def _settling(learned: System, steps: int) -> int:
    """Default number of settling steps: a fifth of the steps, and at least of the default ones, if the horizon allows."""
    return (steps if learned.horizon is not None else max(steps, _steps(learned, None))) // 5


def _check(learned: System, truth: Any, starts: int, component: int, points: int, level: float, seed: int) -> None:
    check_system_type(learned)
    if not isinstance(truth, Tensor):
        check_system_type(truth)
    if isinstance(truth, Tensor) and truth.ndim < 2:
        raise ShapeError(f"expected data of shape (time, *batch, dim), got {tuple(truth.shape)}.")
    width = truth.dim if isinstance(truth, System) else truth.shape[-1]
    if width != learned.dim:
        raise ShapeError(f"expected a truth with {learned.dim} components, like the learned system, got {width}.")
    if isinstance(truth, System) and truth.continuous != learned.continuous:
        kinds = ["a flow" if system.continuous else "a map" for system in (learned, truth)]
        raise InputError(f"expected two flows or two maps, got {kinds[0]} as the learned system and {kinds[1]} as the truth.")
    check_whole("starts", starts, FEWEST)
    check_whole("component", component, 0, learned.dim - 1)
    if points != 0:
        check_whole("points", points, FEWEST_POINTS, way_out="Pass 0 to omit the correlation dimension.")
    check_fraction("level", level)
    check_seed(seed)
