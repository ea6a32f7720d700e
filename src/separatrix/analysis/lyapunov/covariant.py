"""Covariant Lyapunov vectors by Ginelli's method."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from separatrix.analysis.lyapunov.factors import FactoredRun, Stretch
from separatrix.analysis.lyapunov.subspaces import Split, smallest_angle, split_by_sign
from separatrix.analysis.run.statistics import standard_error
from separatrix.analysis.run.steps import plan_steps
from separatrix.analysis.run.tally import Tally
from separatrix.analysis.run.tangent_run import Block, TangentRun, check_k, random_frame, settled
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front, begin, check_steps
from separatrix.core.orthonormal import lengths
from separatrix.core.progress import watched
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain

TRANSIENT = 30  # units of time that the frame, and after it the vectors, are given to turn into place
MOST_TRANSIENT = 10_000  # steps
MOST_NUMBERS = 2**24  # numbers in `vectors`, beyond which they are thinned out
CONDITION = {torch.float64: 1e4, torch.float32: 1e2}  # of a frame between two QRs: the rounding of `residual` grows with it
LONGEST = 10  # steps between two QRs, however flat the spectrum: the vectors are known at QR times only
GOOD = {torch.float64: 1e-6, torch.float32: 1e-2}  # sine of an angle below which two directions are one
NEAR = 0.1  # of the median angle: where 1 % of the angles lie below it, the subspaces come near to touching


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CovariantVectors(Result):
    r"""Covariant Lyapunov vectors along an orbit: the directions that the tangent dynamics carry into each other.

    Args:
        vectors: (time, *batch, k, dim), unit rows, in the order of the exponents; the sign is carried along the orbit. NaN: a
            vector that a singular Jacobian erases, or a diverged run.
        states: (time, *batch, dim), where they stand.
        at: (time), the steps at which they stand, counted from the start of the run.
        exponents: (*batch, k), the mean growth rates of the vectors over the window, nats per unit time; −∞ where erased.
        stderr: (*batch, k), standard errors by batch means, NaN when the run is too short to tell.
        angles: (time, *batch), the smallest principal angle between the unstable and the stable subspace, radians; NaN where
            one of them is empty.
        unstable, neutral, stable: (*batch), how many of the k vectors span each; neutral: an exponent within 3 standard errors
            of 0.
        residual: (*batch, k), the largest sin ∠(DF v_n, v_{n+1}) over all QR intervals of the window.
        alignment: (*batch, k), sin of the angle between the vectors of two random backward starts, at the end of the window, where
            it is largest. Not small: `align` is too short, or the exponent is not simple (a complex pair).
        flag: (*batch, k), sin of the angle between vector i of one forward frame and the span of the first i of another, at the
            start of the window, where it is largest. Not small: `settle` is too short, or as above.
        rank: (*batch), how many of the k vectors no Jacobian erases.
        failed_at: (*batch), the step at which a sample left the finite numbers, −1 if it did not.
        steps, settle, align, every: the window, the steps before it and after it, and those between two QRs.
    """

    vectors: Tensor
    states: Tensor
    at: Tensor
    exponents: Tensor
    stderr: Tensor
    angles: Tensor
    unstable: Tensor
    neutral: Tensor
    stable: Tensor
    residual: Tensor
    alignment: Tensor
    flag: Tensor
    rank: Tensor
    failed_at: Tensor
    steps: int
    settle: int
    align: int
    every: int

    drawn_by: ClassVar[str] = "separatrix.plot.covariant:covariant_figure"
    layout: ClassVar[dict[str, str]] = {
        "vectors": "time batch k dim",
        "states": "time batch dim",
        "at": "time",
        "exponents": "batch k",
        "stderr": "batch k",
        "angles": "time batch",
        "unstable": "batch",
        "neutral": "batch",
        "stable": "batch",
        "residual": "batch k",
        "alignment": "batch k",
        "flag": "batch k",
        "rank": "batch",
        "failed_at": "batch",
    }
    units: ClassVar[dict[str, str]] = {
        "at": "steps",
        "exponents": "nats per unit time",
        "stderr": "nats per unit time",
        "angles": "radians",
        "states": "the state's unit",
        "failed_at": "step",
    }

    def summary(self) -> str:
        """Exponents, angles and what they say, and the two checks."""
        k = self.exponents.shape[-1]
        if self.batch:
            smallest = self.angles[self.angles.isfinite()]
            angle = f"smallest angle {plain(float(smallest.min()))} rad; " if len(smallest) else ""
            return f"Covariant vectors of {counted(self.codes.numel(), 'run')}, {k} each: {angle}{self.ended()}"
        if self.codes == Status.DIVERGED:
            return f"Covariant vectors: diverged at step {int(self.failed_at)}"
        shown = ", ".join(map(measured, self.exponents[:4].tolist(), self.stderr.tolist()))
        lines = [
            f"Covariant vectors, growing at {shown}{', …' if k > 4 else ''} nats per {self.clock}",
            f"{int(self.unstable)} unstable, {int(self.neutral)} neutral, {int(self.stable)} stable; {self.hyperbolicity()}",
            f"largest sin ∠(J vₙ, vₙ₊₁) {plain(_largest(self.residual))}, "
            f"between two backward starts {plain(_largest(self.alignment))}, two forward frames {plain(_largest(self.flag))}",
        ]
        if int(self.rank) < k:
            lines.append(f"{counted(k - int(self.rank), 'vector')} erased by a singular Jacobian, and left out")
        return "\n".join([*lines, f"{self.ended()} after {self.settle} + {self.steps} + {self.align} steps"])

    def hyperbolicity(self) -> str:
        """What the angles of all runs together say about hyperbolicity, in words; evidence along these orbits, not a proof."""
        angles = self.angles[self.angles.isfinite()].double()
        if not len(angles):
            return "no two subspaces whose angle could vanish"
        low, median = torch.quantile(angles[:: len(angles) // 1_000_000 + 1], angles.new_tensor([0.01, 0.5])).tolist()
        told = (
            f"smallest angle {plain(float(angles.min()))} rad of {len(angles):,} (1 % below {plain(low)}, median {plain(median)})"
        )
        near = low < NEAR * median
        return f"{told}: {'comes near tangencies, not hyperbolic' if near else 'stays away from 0, as in a hyperbolic system'}"


@torch.no_grad()
def covariant_lyapunov_vectors(
    system: System,
    x0: Tensor | None = None,
    *,
    k: int | None = None,
    steps: int | None = None,
    settle: int | None = None,
    align: int | None = None,
    every: int | Literal["auto"] = "auto",
    keep: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> CovariantVectors:
    r"""Covariant Lyapunov vectors of an orbit: QR forward, triangular factors backward.

        DF Q_{n−1} = Q_n R_n,    C_{n−1} ∝ R_n⁻¹ C_n,    v_n = Q_n C_n

    Vector i grows at the rate λ_i forward and shrinks at it backward, and DF carries v_n into v_{n+1}; those of the frame Q do not.

    Args:
        system: any System; a driven one is followed along its own inputs.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        k: number of leading vectors, 1 … dim. Default: all.
        steps: the window in which the vectors are measured, cut to whole QR intervals. Default: as `lyapunov_spectrum`.
        settle: steps before it, in which the orbit reaches its attractor and the frame aligns. Default: 30 units of time, and a
            fifth of `steps` at least, within the horizon.
        align: steps after it, in which the vectors align as they are followed backward. Default: as `settle`.
        every: steps between two QRs; "auto" picks them from the spectrum seen while settling, 10 at most.
        keep: keep the vectors at one QR time in so many. Default: all, or so that they are 2²⁴ numbers at most.
        seed: for the initial state, where x0 is not given, the frame and the backward start.
        progress: draw a progress bar.

    Returns:
        CovariantVectors: `vectors` (time, *batch, k, dim), `exponents` (*batch, k), `angles` (time, *batch), `residual`.

    Raises:
        InputError: k is not in 1 … dim, or a count is out of range.
        HorizonError: `settle + steps + align` exceeds the steps the system can take.

    Limits: vectors of equal exponents (complex pairs) are not defined one by one, only their span is. They converge like
    exp(−|λ_i − λ_j| t). Beside the vectors kept, memory grows like √steps.
    Source: Ginelli et al. 2007, Phys. Rev. Lett. 99, 130601; angles as Kuptsov & Parlitz 2012, J. Nonlinear Sci. 22, 727.
    """
    check_seed(seed)
    steps, settle, align = _plan(system, steps, settle, align)
    k = check_k(k, system.dim)
    front = begin(system, x0, seed=seed)
    frames = (random_frame(front.x, k, start) for start in (seed, seed + 1))
    aligned, control = (settled(TangentRun.begin(front, frame, every), settle) for frame in frames)
    every = _interval(aligned, steps, settle) if every == "auto" else min(every, steps)
    window, after = steps // every, align // every
    run = FactoredRun(aligned.front, every, window + after)
    tally, erased = _forward(run, window, progress)
    failed = run.front.failed_at >= 0
    means, errors = _means(tally)
    split = split_by_sign(means, errors, ~(erased | failed[..., None]))
    keep = _thinning(keep, window, front.x.numel() * k)
    walk = _BackwardWalk(run, erased, split, window, keep, seed)
    for _ in watched(walk.intervals(), (window + after) * every, "Covariant vectors, backward", progress):
        pass
    asked = {"k": k, "steps": steps, "settle": settle, "align": align, "every": every, "keep": keep, "seed": seed}
    sizes = {"steps": window * every, "settle": settle, "align": after * every, "every": every}
    flag = flag_distance(control.front.v, aligned.front.v)
    return _result(walk, run, flag, sizes, {**asked, "clock": system.clock, "dtype": str(front.x.dtype)})


def flag_distance(v: Tensor, w: Tensor) -> Tensor:
    """The sine of the angle between row i of v and the span of rows 0 … i of w, two orthonormal frames (*batch, k, dim)."""
    return lengths(v - (v @ w.mT).tril() @ w)


def _plan(system: System, steps: int | None, settle: int | None, align: int | None) -> tuple[int, int, int]:
    """The three counts of steps, with defaults that respect the horizon."""
    if steps is not None:
        _check_window(steps)
    plan = plan_steps(system, steps=steps, settle=0)
    room = system.horizon
    wanted = min(max(math.ceil(TRANSIENT / system.dt), plan.steps // 5), MOST_TRANSIENT)
    if room is not None:
        left = room - (steps or 0) - (settle or 0) - (align or 0)
        wanted = max(min(wanted, left // (2 if steps is not None else 4)), 0)
    settle, align = wanted if settle is None else settle, wanted if align is None else align
    if steps is None and room is not None:
        check_steps(system, settle=settle, steps=1, align=align)
        steps = min(plan.steps, room - settle - align)
    steps = plan.steps if steps is None else steps
    check_steps(system, settle=settle, steps=steps, align=align)
    return steps, settle, align


def _check_window(steps: object) -> None:
    check_whole("steps", steps)
    if isinstance(steps, int) and steps < 1:
        raise InputError(f"steps is {steps}; the window in which the vectors are measured has at least 1.")


def _interval(aligned: TangentRun, steps: int, settle: int) -> int:
    """Steps between two QRs that keep the frame's condition number, by the steepest spectrum seen while settling."""
    if settle == 0:
        return 1
    longest = math.log(CONDITION[aligned.front.x.dtype]) / max(aligned.steepest, 1e-9)
    return max(1, min(int(longest), LONGEST, steps))


def _thinning(keep: int | None, window: int, numbers: int) -> int:
    if keep is None:
        return math.ceil(window * numbers / MOST_NUMBERS)
    check_whole("keep", keep)
    if keep < 1:
        raise InputError(f"keep is {keep}; it keeps the vectors at one QR time in so many, so it is at least 1.")
    return keep


def _forward(run: FactoredRun, window: int, progress: bool) -> tuple[Tally, Tensor]:
    """The growth of the frame over the window, and which of its directions a Jacobian erases before the end."""
    tally = Tally()
    erased = torch.zeros_like(run.front.x[..., 0], dtype=torch.bool)[..., None]
    blocks = watched(run.forward(), run.intervals * run.every, "Covariant vectors, forward", progress)
    for i, block in enumerate(blocks):
        lost = block.logs == -math.inf
        erased = erased | lost.long().cummax(-1).values.bool()
        if i < window:
            tally.add(replace(block, logs=block.logs.masked_fill(lost, 0.0)))
    return tally, erased


def _means(tally: Tally) -> tuple[Tensor, Tensor]:
    rates, duration = tally.series()
    return (rates * duration).sum(0) / duration.sum(0), standard_error(rates, duration)


class _BackwardWalk:
    """The recursion from the end of the run to the start of the window, and what it sees on the way.

    Two random starts are followed until the window; their distance there says how well the vectors are aligned.
    """

    def __init__(self, run: FactoredRun, erased: Tensor, split: Split, window: int, keep: int, seed: int) -> None:
        self.run, self.erased, self.split, self.window, self.keep = run, erased, split, window, keep
        self.tally = Tally()
        self.vectors: list[Tensor] = []
        self.states: list[Tensor] = []
        self.angles: list[Tensor] = []
        self.at: list[int] = []
        self._coordinates = _random_triangles(erased, run.front.x, seed)
        self._enter_window(run.front)
        self.residual = torch.zeros_like(self._coordinates[0, ..., 0])

    def intervals(self) -> Iterator[Stretch]:
        """Step back over every QR interval."""
        for left, stretch in enumerate(self.run.backward(), 1):
            i = self.run.intervals - left
            self._coordinates, growth = step_back(self._coordinates, self._regular(stretch.r))
            if i < self.window:
                self._measure(i, stretch, growth[0])
            elif i == self.window:
                self._enter_window(stretch.start)
            yield stretch

    def _enter_window(self, front: Front) -> None:
        self.alignment = sine(*self._coordinates)
        self._ahead = self._along(front)

    def _measure(self, i: int, stretch: Stretch, growth: Tensor) -> None:
        self._coordinates = self._coordinates[:1]
        vectors = self._along(stretch.start)
        pushed = stretch.start.with_tangents(vectors).advance(stretch.steps).v
        self.residual = torch.maximum(self.residual, sine(pushed, self._ahead))
        self._ahead = vectors
        self.tally.add(Block(growth, stretch.time, stretch.steps))
        if i % self.keep == 0:
            self.vectors.append(vectors.masked_fill(self.erased[..., None], math.nan))
            self.states.append(stretch.start.x)
            self.angles.append(smallest_angle(self._coordinates[0], self.split))
            self.at.append(stretch.start.n)

    def _along(self, front: Front) -> Tensor:
        return self._coordinates[0] @ front.v

    def _regular(self, r: Tensor) -> Tensor:
        """R with the identity in place of the erased directions, along which nothing can be followed backward."""
        lost = self.erased[..., None] | self.erased[..., None, :]
        return torch.eye(r.shape[-1], dtype=r.dtype, device=r.device).where(lost, r)


def step_back(coordinates: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors one QR interval earlier, and the logarithms of how much each grows over it.

    Args:
        coordinates: unit rows of a lower triangle, in the frame at the end of the interval, shape (…, *batch, k, k).
        r: the interval's own factor, vᵀ = Qᵀ R, shape (*batch, k, k).
    """
    earlier = torch.linalg.solve_triangular(r.mT, coordinates, upper=False, left=False)
    length = lengths(earlier)
    return earlier / length[..., None], -length.log()


def sine(v: Tensor, w: Tensor) -> Tensor:
    """The sine of the angle between the rows of v and those of w, exact for small angles; w has unit rows."""
    v = v / lengths(v)[..., None]
    return lengths(v - (v * w).sum(-1, keepdim=True) * w)


def _random_triangles(erased: Tensor, x: Tensor, seed: int) -> Tensor:
    """Two backward starts, the same for all samples: unit rows of lower triangles, shape (2, *batch, k, k)."""
    k = erased.shape[-1]
    generator = torch_generator(seed, "covariant frame")
    rows = torch.randn(2, k, k, dtype=torch.float64, generator=generator).tril()
    rows = (rows / lengths(rows)[..., None]).to(x)
    return rows.reshape(2, *[1] * (x.ndim - 1), k, k).expand(2, *x.shape[:-1], k, k)


def _result(walk: _BackwardWalk, run: FactoredRun, flag: Tensor, sizes: dict[str, int], asked: dict[str, Any]) -> CovariantVectors:
    """Averages, checks and verdicts of a finished walk."""
    failed = run.front.failed_at >= 0
    good = GOOD[run.front.x.dtype]
    exponents, stderr = _means(walk.tally)
    lost = walk.erased | failed[..., None]
    checks = [check.masked_fill(walk.erased, 0.0) for check in (walk.residual, walk.alignment, flag)]
    sound = torch.stack([(check <= good).all(-1) for check in checks]).all(0)
    codes = torch.where(sound, Status.OK, Status.NOT_CONVERGED).masked_fill(failed, Status.DIVERGED)
    residual, alignment, flag = (check.masked_fill(lost, math.nan) for check in checks)
    return CovariantVectors(
        codes=codes.to(torch.int8),
        vectors=torch.stack(walk.vectors[::-1]),
        states=torch.stack(walk.states[::-1]),
        at=torch.tensor(walk.at[::-1]),
        exponents=exponents.masked_fill(walk.erased, -math.inf).masked_fill(failed[..., None], math.nan),
        stderr=stderr.masked_fill(walk.erased, 0.0).masked_fill(failed[..., None], math.nan),
        angles=torch.stack(walk.angles[::-1]),
        unstable=walk.split.unstable,
        neutral=walk.split.neutral,
        stable=walk.split.stable,
        residual=residual,
        alignment=alignment,
        flag=flag,
        rank=(~lost).sum(-1),
        failed_at=run.front.failed_at,
        settings=asked,
        **sizes,
    )


def _largest(values: Tensor) -> float:
    known = values[values.isfinite()]
    return float(known.max()) if len(known) else math.nan
