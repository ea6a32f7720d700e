"""Two systems held against each other by their dynamics: a learned one and the true one, or data of it."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.attractor.correlation_dimension import CorrelationDimension, correlation_dimension_of
from separatrix.analysis.attractor.maxima import sampled_return_map
from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.analysis.compare.resampled import (
    Difference,
    of_deviations,
    of_estimates,
    of_orbits,
    return_map_difference,
    spectrum_difference,
)
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.analysis.lyapunov.spectrum import lyapunov_spectrum
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import DivergedError, InputError, ShapeError
from separatrix.core.evolve import begin, check_steps, check_system_type
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain

ORBITS = 32  # of each system, by default
DURATION, SHORTEST = 100.0, 2_000  # units of time of each, and steps that they take at least
FEWEST = 4  # orbits of which an error bar can be told
POINTS, FEWEST_POINTS = 10_000, 1_000  # of an attractor, for its correlation dimension
COMPONENTS = 6  # of a state, whose mean and deviation are compared
FAR = 10  # extents of the truth: an orbit so far from its mean has left
BLOCKS_FREE = 9  # degrees of freedom of the error of a correlation dimension, a jackknife over ten stretches
TURN = 1e-3  # nats that a frame, turning into place, may add to an exponent over a run
STILL = 1e-6  # of the truth's extent: an orbit whose last tenth spans no more is at rest
WHOLE = 1e-6  # steps by which two samplings may be off
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DynamicsComparison(Result):
    r"""What a learned system does beside what the true one does, quantity by quantity, in errors of their difference.

    Args:
        names: of the quantities, in the order of the tensors below.
        true, learned: (quantity), what was measured; of the return map and the power spectrum, which are distances: that which
            mixed halves of all orbits have on average, and that of the two systems.
        true_stderr, learned_stderr: (quantity), their standard errors; NaN of a distance.
        stderr: (quantity), of the difference; of a distance, its spread between mixed halves.
        z: (quantity), (learned − true) / stderr.
        limit: (quantity), the |z| above which a quantity is told apart.
        p_value: (quantity), how often chance alone makes a difference as large.
        level: chance that any quantity is told apart where none differs, at most.
        orbits: followed, of the (true, learned) system.
        left: how many of them left for infinity.
        resting: how many ended at rest.
        spectra, dimensions, maps: of "true" and "learned", where they were measured.
    """

    names: tuple[str, ...]
    true: Tensor
    learned: Tensor
    true_stderr: Tensor
    learned_stderr: Tensor
    stderr: Tensor
    z: Tensor
    limit: Tensor
    p_value: Tensor
    level: float
    orbits: tuple[int, ...]
    left: tuple[int, ...]
    resting: tuple[int, ...]
    spectra: dict[str, LyapunovSpectrum]
    dimensions: dict[str, CorrelationDimension]
    maps: dict[str, ReturnMap]

    layout: ClassVar[dict[str, str]] = dict.fromkeys(
        ("true", "learned", "true_stderr", "learned_stderr", "stderr", "z", "limit", "p_value"), "quantity"
    )
    units: ClassVar[dict[str, str]] = {"z": "standard errors", "limit": "standard errors"}

    @property
    def difference(self) -> Tensor:
        """Learned less true, shape (quantity)."""
        return self.learned - self.true

    @property
    def differs(self) -> Tensor:
        """Which quantities are told apart, shape (quantity), bool."""
        return self.p_value < self.level / max(len(self.names), 1)

    @property
    def agrees(self) -> bool:
        """Whether nothing was told apart, and no orbit left that should have stayed."""
        return bool(self.codes == Status.OK) and self.left[1] <= self.left[0] and not bool(self.differs.any())

    def of(self, name: str) -> dict[str, float]:
        """All numbers of one quantity, by name."""
        if name not in self.names:
            raise InputError(f"there is no quantity {name!r}; there are {', '.join(self.names)}.")
        return {part: float(getattr(self, part)[self.names.index(name)]) for part in self.layout}

    def summary(self) -> str:
        """The verdict, and what it rests on, in words."""
        fate = self._fates()
        if self.codes == Status.DIVERGED:
            return f"The two differ: {fate}; too few are left to be measured."
        told = [f"{name} by {plain(abs(z))}" for name, z, differs in self._rows() if differs]
        if told or self.left[1] > self.left[0]:
            what = f"{', '.join(told)} standard errors" if told else ""
            return f"The two differ: {'; '.join(part for part in (what, fate) if part)}."
        name, z, _ = max(self._rows(), key=lambda row: abs(row[1]))
        limit = plain(self.of(name)["limit"])
        widest = f"the largest difference is {name}'s, {plain(abs(z))} standard errors, where {limit} would tell them apart"
        return f"The two agree within error bars in all {len(self.names)} quantities: {widest}{fate and '; ' + fate}."

    def table(self) -> str:
        """Every quantity in a line: true, learned, and their difference in standard errors."""
        rows = [("", "true", "learned", "difference / error", "limit")]
        for i, name in enumerate(self.names):
            pair = ((self.true[i], self.true_stderr[i]), (self.learned[i], self.learned_stderr[i]))
            values = (measured(float(value), float(error)) for value, error in pair)
            mark = " *" if bool(self.differs[i]) else ""
            rows.append((name, *values, f"{float(self.z[i]):+.1f}{mark}".replace("-", "−"), f"{float(self.limit[i]):.1f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)

    def _rows(self) -> list[tuple[str, float, bool]]:
        return list(zip(self.names, self.z.tolist(), self.differs.tolist(), strict=True))

    def _fates(self) -> str:
        """What became of the orbits that did not go on moving."""
        parts = []
        for who, followed, left, resting in zip(("true", "learned"), self.orbits, self.left, self.resting, strict=True):
            if left:
                parts.append(f"{left} of {counted(followed, f'{who} orbit')} left for infinity")
            if resting:
                parts.append(f"{resting} of {counted(followed, f'{who} orbit')} ended at rest")
        return ", ".join(parts)


class _Sample(NamedTuple):
    """Orbits of a system at equal distances of time.

    Args:
        states: those that stayed, shape (time, orbits, dim).
        dt: the time between two.
        followed, left, resting: how many orbits there were, left, and came to rest.
    """

    states: Tensor
    dt: float
    followed: int
    left: int
    resting: int


@torch.no_grad()
def compare_dynamics(
    learned: System,
    truth: System | Tensor,
    x0: Tensor | None = None,
    *,
    dt: float | None = None,
    k: int | None = None,
    orbits: int = ORBITS,
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
        x0: where the true orbits begin, shape (orbits, dim). Default: `truth.initial_state((orbits,))`. The learned ones begin
            where the true ones ended, on the attractor, and must stay there.
        dt: the time between two samples of data, a whole number of steps of the learned system.
        k: number of leading exponents. Default: all.
        orbits: of each system; with data, of the learned one, and pieces into which a single series is cut.
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
    _check(learned, truth, orbits, component, points, level, seed)
    duration = _steps(learned, steps)
    wait = _settling(learned, duration) if settle is None else check_whole("settle", settle)
    check_steps(learned, settle=wait, steps=duration)
    asked = _Asked(k, orbits, duration, wait, component, points, seed, progress)
    pair = _sampled(learned, truth, x0, dt, asked)
    found, held = _measured(learned, truth, pair, asked) if pair["learned"].states.shape[1] >= FEWEST else ({}, _Held({}, {}, {}))
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


class _Asked(NamedTuple):
    """What was asked, defaults filled in."""

    k: int | None
    orbits: int
    steps: int
    settle: int
    component: int
    points: int
    seed: int
    progress: bool


class _Held(NamedTuple):
    """The results that a comparison holds, of "true" and "learned"."""

    spectra: dict[str, LyapunovSpectrum]
    dimensions: dict[str, CorrelationDimension]
    maps: dict[str, ReturnMap]


def _sampled(learned: System, truth: System | Tensor, x0: Tensor | None, dt: float | None, asked: _Asked) -> dict[str, _Sample]:
    """Orbits of both, the true ones first."""
    steps, every = asked.steps, 1
    if isinstance(truth, System):
        own = max(1, round(steps * learned.dt / truth.dt)) if truth.continuous else steps
        starts = _starts(truth, x0, asked.orbits, asked.seed)
        true = _followed(truth, starts, own, asked.settle, 1, None, "True orbits", asked.progress)
    else:
        true, every = _of_data(truth, dt, asked.orbits, learned.dt)
        steps = (len(true.states) - 1) * every
    if true.states.shape[1] < FEWEST:
        raise DivergedError(
            f"{true.states.shape[1]} of {true.followed} true orbits stay: fewer than {FEWEST} have no error bar.\n"
            "Begin elsewhere, follow more orbits, or settle for longer."
        )
    start = true.states[-1] if isinstance(truth, System) else _scattered(true.states, asked.orbits)
    ours = _followed(learned, start, steps, asked.settle, every, true.states, "Learned orbits", asked.progress)
    return {"true": true, "learned": ours}


def _measured(
    learned: System, truth: System | Tensor, pair: dict[str, _Sample], asked: _Asked
) -> tuple[dict[str, Difference], _Held]:
    """Every quantity of both."""
    found: dict[str, Difference] = {}
    spectra: dict[str, LyapunovSpectrum] = {}
    dimensions: dict[str, CorrelationDimension] = {}
    if isinstance(truth, System):
        spectra = {who: _spectrum(system, pair[who], asked) for who, system in (("true", truth), ("learned", learned))}
        found |= _exponents(spectra["true"], spectra["learned"])
    if asked.points:
        dimensions = {
            who: correlation_dimension_of(_thinned(part.states, asked.points), theiler=None) for who, part in pair.items()
        }
        found |= _dimension(dimensions["true"], dimensions["learned"])
    found |= _moments(pair["true"].states, pair["learned"].states)
    of_maxima = learned.continuous
    maps = {who: sampled_return_map(part.states, part.dt, asked.component, of_maxima) for who, part in pair.items()}
    if any(part.resting < part.states.shape[1] for part in pair.values()):
        found |= _rhythm(maps["true"], maps["learned"], pair, asked.component, asked.seed)
    return found, _Held(spectra, dimensions, maps)


def _spectrum(system: System, sample: _Sample, asked: _Asked) -> LyapunovSpectrum:
    """The spectra of a sample's orbits, from where they begin; the frames align in a tenth of the time."""
    steps = len(sample.states) - 1
    return lyapunov_spectrum(
        system, sample.states[0], k=asked.k, steps=steps, settle=steps // 10, seed=asked.seed, progress=asked.progress
    )


def _followed(
    system: System, x0: Tensor, steps: int, settle: int, every: int, truth: Tensor | None, label: str, progress: bool
) -> _Sample:
    """The orbits of a system after its settling, in one state of every so many steps, and what became of them."""
    front = begin(system, x0).advance(settle)
    states = [front.x]
    for _ in watched_count(steps // every, label, progress):
        front = front.advance(every)
        states.append(front.x)
    sample = torch.stack(states)
    return _sorted(sample, every * system.dt, truth)


def _sorted(states: Tensor, dt: float, truth: Tensor | None) -> _Sample:
    """A sample, without the orbits that left: became infinite, or are ten extents of the truth away from its mean."""
    finite = states.isfinite().all(-1).all(0)
    known = states[:, finite] if truth is None else truth
    if not known.numel():
        return _Sample(states[:, finite], dt, states.shape[1], states.shape[1], 0)
    extent = known.amax((0, 1)) - known.amin((0, 1))
    reach = extent.amax().clamp(min=STILL * float(known.abs().amax()))
    stays = finite & ((states - known.mean((0, 1))).abs().amax((0, 2)) <= FAR * reach)
    tail = states[-max(2, len(states) // 10) :, stays]
    still = (tail.amax(0) - tail.amin(0)).amax(-1) <= STILL * reach
    return _Sample(states[:, stays], dt, states.shape[1], int((~stays).sum()), int(still.sum()))


def _starts(truth: System, x0: Tensor | None, orbits: int, seed: int) -> Tensor:
    """Where the true orbits begin, (orbits, dim)."""
    start = truth.initial_state((orbits,), seed) if x0 is None else torch.as_tensor(x0)
    if start.ndim != 2:
        raise ShapeError(f"x0 has shape {tuple(start.shape)}; pass (orbits, {truth.dim}).")
    if len(start) < FEWEST or bool((start == start[0]).all()):
        raise InputError(
            f"{len(start)} orbits begin in {len(start.unique(dim=0))} states: their spread, the error bar, is not known.\n"
            f"Pass x0 of shape (orbits, {truth.dim}) with at least {FEWEST} different states."
        )
    return start


def _of_data(data: Tensor, dt: float | None, orbits: int, step: float) -> tuple[_Sample, int]:
    """Data as orbits, a few series cut into pieces; and how many steps of the learned system are between two samples."""
    if dt is None or not 0 < dt < math.inf:
        raise InputError(f"dt is {dt}; of data it is the time between two samples, a positive number.")
    every = round(dt / step)
    if every < 1 or abs(every - dt / step) > WHOLE * every:
        raise InputError(
            f"the data are {dt:g} apart and a step of the learned system is {step:g}: no whole number of steps.\n"
            f"Give the flow the step {dt:g}, or a whole part of it."
        )
    states = torch.as_tensor(data).detach().double()
    if not states.isfinite().all():
        raise InputError(f"{int((~states.isfinite()).sum())} numbers of the data are not finite.\nLeave those times out.")
    states = states.reshape(len(states), -1, states.shape[-1])
    pieces = -(-orbits // states.shape[1])
    length = len(states) // pieces
    if length < 2 * FEWEST:
        raise ShapeError(f"{len(states)} samples cut into {pieces} pieces leave {length} each.\nPass longer data, or fewer orbits.")
    cut = states[: pieces * length].unflatten(0, (pieces, length)).movedim(0, 1).flatten(1, 2)
    return _sorted(cut, dt, None), every


def _scattered(states: Tensor, count: int) -> Tensor:
    """So many of the states, far from each other in time."""
    flat = states.movedim(0, 1).flatten(0, 1)
    return flat[torch.linspace(0, len(flat) - 1, count).long()]


def _thinned(states: Tensor, points: int) -> Tensor:
    """Some of the states of all orbits, about so many, one orbit behind the other."""
    every = max(1, states.shape[0] * states.shape[1] // points)
    return states[::every].movedim(0, 1).flatten(0, 1)


def _exponents(true: LyapunovSpectrum, learned: LyapunovSpectrum) -> dict[str, Difference]:
    pairs = zip(_alive(true, true.exponents).unbind(-1), _alive(learned, learned.exponents).unbind(-1), strict=True)
    floor = TURN / float(true.history_time[-1].amin())
    found = {f"λ{i}".translate(SUBSCRIPTS): of_orbits(*pair, floor) for i, pair in enumerate(pairs, 1) if _all_finite(*pair)}
    dimension = [_alive(spectrum, spectrum.kaplan_yorke_dimension) for spectrum in (true, learned)]
    return found | ({"Kaplan–Yorke dimension": of_orbits(*dimension)} if _all_finite(*dimension) else {})


def _dimension(true: CorrelationDimension, learned: CorrelationDimension) -> dict[str, Difference]:
    if not bool((true.codes == Status.OK) & (learned.codes == Status.OK)):
        return {}
    values, errors = ((float(true.dimension), float(learned.dimension)), (float(true.stderr), float(learned.stderr)))
    return {"correlation dimension": of_estimates(*values, errors, (BLOCKS_FREE, BLOCKS_FREE))}


def _moments(true: Tensor, learned: Tensor) -> dict[str, Difference]:
    """Means and deviations of the components."""
    found = {}
    for i in range(min(true.shape[-1], COMPONENTS)):
        name = f"x{i + 1}".translate(SUBSCRIPTS)
        each = [states[..., i] for states in (true, learned)]
        squares = [(x - x.mean()).square().mean(0) for x in each]
        found[f"mean of {name}"] = of_orbits(each[0].mean(0), each[1].mean(0))
        found[f"deviation of {name}"] = of_deviations(*squares)
    return found


def _rhythm(true: ReturnMap, learned: ReturnMap, pair: dict[str, _Sample], component: int, seed: int) -> dict[str, Difference]:
    """The return map, the time between maxima, and the power spectrum."""
    found = {"return map": return_map_difference(true, learned, seed)}
    if true.of_maxima:
        gaps = [seen.intervals.nanmean(0) for seen in (true, learned)]
        found["time between maxima"] = of_orbits(*gaps) if _all_finite(*gaps) else None
    series = [part.states[..., component] for part in pair.values()]
    found["power spectrum"] = spectrum_difference(*series, (pair["true"].dt, pair["learned"].dt), seed)
    return {name: difference for name, difference in found.items() if difference is not None}


def _columns(found: dict[str, Difference], level: float) -> dict[str, Any]:
    """The fields of a comparison that hold a number for each quantity."""
    parts = ("true", "learned", "true_stderr", "learned_stderr", "stderr", "z", "p_value")
    columns = {part: torch.tensor([getattr(d, part) for d in found.values()], dtype=torch.float64) for part in parts}
    limits = [d.limit(level / len(found)) for d in found.values()]
    return {"names": tuple(found), **columns, "limit": torch.tensor(limits, dtype=torch.float64)}


def _alive(spectrum: LyapunovSpectrum, values: Tensor) -> Tensor:
    return values[spectrum.codes != Status.DIVERGED]


def _all_finite(*values: Tensor) -> bool:
    return all(len(part) >= FEWEST and bool(part.isfinite().all()) for part in values)


def _steps(learned: System, steps: int | None) -> int:
    if steps is None:
        return max(SHORTEST, round(DURATION / learned.dt))
    if check_whole("steps", steps) < 2 * FEWEST:
        raise InputError(f"steps is {steps}; a comparison needs at least {2 * FEWEST}.")
    return steps


def _settling(learned: System, steps: int) -> int:
    """Steps in which orbits part, however short a run is asked for; fewer of a system that has not as many."""
    return (steps if learned.horizon is not None else max(steps, _steps(learned, None))) // 5


def _check(learned: System, truth: Any, orbits: int, component: int, points: int, level: float, seed: int) -> None:
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
    if check_whole("orbits", orbits) < FEWEST:
        raise InputError(f"orbits is {orbits}; fewer than {FEWEST} have no error bar.")
    if not 0 <= check_whole("component", component) < learned.dim:
        raise InputError(f"component is {component}, but the state has the components 0 … {learned.dim - 1}.")
    if points != 0 and check_whole("points", points) < FEWEST_POINTS:
        raise InputError(f"points is {points}; a dimension needs {FEWEST_POINTS} at least, and 0 leaves it out.")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; it is a probability between 0 and 1.")
    check_seed(seed)
