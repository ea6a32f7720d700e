"""Two systems held against each other by their dynamics: a learned one and the true one, or data of it."""

from typing import Any

import torch
from torch import Tensor

from separatrix.analysis.compare.quantities import Held, quantities_of
from separatrix.analysis.compare.resampled import Difference
from separatrix.analysis.compare.result import DynamicsComparison
from separatrix.analysis.compare.samples import FEWEST, Asked, sampled
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import check_steps, check_system_type
from separatrix.core.result import Status
from separatrix.core.system import System

STARTS = 32  # of each system, by default
DURATION, SHORTEST = 100.0, 2_000  # units of time of each, and steps that they take at least
POINTS, FEWEST_POINTS = 10_000, 1_000  # of an attractor, for its correlation dimension


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
) -> DynamicsComparison:
    r"""Whether two systems have the same dynamics in the long run, as far as finite orbits can tell.

    Measured on both, from many orbits, and compared in standard errors of the difference:

    - the Lyapunov exponents and the Kaplan–Yorke dimension, each orbit's by itself;
    - the correlation dimension of the states of all orbits;
    - mean and deviation of each of the first six components: the invariant measure;
    - the return map of a component's successive maxima (of a system that is no `Flow`, of its successive values): how far the two
      curves lie apart in the mean, in deviations of the values; and the mean time between maxima;
    - the power spectrum of that component: how far the logarithms of its power in 16 bands lie apart in the mean.

    Errors are those of means over orbits, which are independent of each other: no correlation time is needed, and short runs are
    not mistaken for precise ones. The two distances are held against those of mixed halves of all orbits. A quantity is told apart
    where chance makes its difference less often than `level` / (quantities): in all, in at most `level` of the cases.

    Args:
        learned: the system that is judged.
        truth: the true system, of as many numbers and, if it is no `Flow`, steps of the same length of time; or data of it, shape
            (time, *batch, dim), that have settled, sampled at distances `dt`. Of data the exponents are not known and left out.
        x0: where the true orbits begin, shape (starts, dim). Default: `truth.initial_state((starts,))`. The learned ones begin
            where the true ones ended, on the attractor, and must stay there.
        dt: the time between two samples of data, a whole number of steps of the learned system.
        k: number of leading exponents. Default: all.
        starts: number of orbits of each system; with data, of the learned one, and pieces into which a single series is cut.
        steps: of the learned system, for each orbit; the truth is followed for the same time. Default: 100 units of time, at least
            2,000 steps. With data: the length of a piece.
        settle: steps before them, of either system, in which orbits that begin near each other must part: their spread is the error
            bar. Default: a fifth of `steps`, and at least of the default ones.
        component: whose return map and spectrum are compared, from 0.
        points: states that the correlation dimension is measured by, most of the time of short comparisons; 0 leaves it out.
        level: of significance, of all quantities together.
        seed: of initial states, frames, and the mixing of orbits.
        progress: show bars.

    Returns:
        DynamicsComparison: `names`, `true`, `learned`, `stderr`, `z` and `p_value` for each quantity; `agrees`; `table()`. Status
        `diverged` where fewer than 4 learned orbits stayed within ten extents of the truth.

    Raises:
        InputError: orbits that all begin alike, an option out of range, data with another sampling than the learned system's steps.
        ShapeError: the widths differ, or the data are too short.
        DivergedError: the true orbits themselves leave.

    Limits: agreement is not proof: with longer orbits smaller differences show. Errors assume that each orbit sees the whole
        attractor; where it has several, orbits from elsewhere may behave otherwise. Noise in data counts as dynamics. The z of a
        distance does not grow without end, however far apart two systems are: the halves it is held against are mixed of both.
    Source: that a small error over short times need not give the right exponents or measure: Park, Yang & Chandramoorthy 2024,
        NeurIPS, arXiv:2411.06311; permutation test: Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses, ch. 3;
        different degrees of freedom: Welch 1947, Biometrika 34, 28.
    """
    truth = torch.as_tensor(truth) if hasattr(truth, "__array__") else truth
    _check(learned, truth, starts, component, points, level, seed)
    duration = _steps(learned, steps)
    wait = _settling(learned, duration) if settle is None else check_whole("settle", settle)
    check_steps(learned, settle=wait, steps=duration)
    asked = Asked(k, starts, duration, wait, component, points, seed, progress)
    pair = sampled(learned, truth, x0, dt, asked)
    enough = pair["learned"].states.shape[1] >= FEWEST
    found, held = quantities_of(learned, truth, pair, asked) if enough else ({}, Held({}, {}, {}))
    return DynamicsComparison(
        codes=torch.tensor(int(Status.OK if found else Status.DIVERGED), dtype=torch.int8),
        **_columns(found, level),
        **held._asdict(),
        level=float(level),
        orbits=tuple(part.followed for part in pair.values()),
        left=tuple(part.left for part in pair.values()),
        resting=tuple(part.resting for part in pair.values()),
        settings={**asked._asdict(), "dt": dt, "data": not isinstance(truth, System)},
    )


def _columns(found: dict[str, Difference], level: float) -> dict[str, Any]:
    """The fields of a comparison that hold a number for each quantity."""
    parts = ("true", "learned", "true_stderr", "learned_stderr", "stderr", "z", "p_value")
    columns = {part: torch.tensor([getattr(d, part) for d in found.values()], dtype=torch.float64) for part in parts}
    limits = [d.limit(level / len(found)) for d in found.values()]
    return {"names": tuple(found), **columns, "limit": torch.tensor(limits, dtype=torch.float64)}


def _steps(learned: System, steps: int | None) -> int:
    if steps is None:
        return max(SHORTEST, round(DURATION / learned.dt))
    if check_whole("steps", steps) < 2 * FEWEST:
        raise InputError(f"steps is {steps}; a comparison needs at least {2 * FEWEST}.")
    return steps


def _settling(learned: System, steps: int) -> int:
    """Steps in which orbits part, however short a run is asked for; fewer of a system that has not as many."""
    return (steps if learned.horizon is not None else max(steps, _steps(learned, None))) // 5


def _check(learned: System, truth: Any, starts: int, component: int, points: int, level: float, seed: int) -> None:
    check_system_type(learned)
    if not isinstance(truth, Tensor):
        check_system_type(truth)
    if isinstance(truth, Tensor) and truth.ndim < 2:
        raise ShapeError(f"the data have shape {tuple(truth.shape)}; pass (time, *batch, dim).")
    width = truth.dim if isinstance(truth, System) else truth.shape[-1]
    if width != learned.dim:
        raise ShapeError(f"the learned system has {learned.dim} numbers and the truth {width}: they are not of one kind.")
    if isinstance(truth, System) and truth.continuous != learned.continuous:
        raise InputError("one is a flow and the other a map: a return map of maxima and one of steps cannot be compared.")
    if check_whole("starts", starts) < FEWEST:
        raise InputError(f"starts is {starts}; fewer than {FEWEST} have no error bar.")
    if not 0 <= check_whole("component", component) < learned.dim:
        raise InputError(f"component is {component}, but the state has the components 0 … {learned.dim - 1}.")
    if points != 0 and check_whole("points", points) < FEWEST_POINTS:
        raise InputError(f"points is {points}; a dimension needs {FEWEST_POINTS} at least, and 0 leaves it out.")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; it is a probability between 0 and 1.")
    check_seed(seed)
