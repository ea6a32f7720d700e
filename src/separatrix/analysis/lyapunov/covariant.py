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
from separatrix.core.evolve import Front, begin, check_steps
from separatrix.core.memory import check_memory
from separatrix.core.orthonormal import lengths
from separatrix.core.progress import watched
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain

TRANSIENT = 30  # units of time for the frame to align, and again for the vectors
MOST_TRANSIENT = 10_000  # steps
MOST_NUMBERS = 2**24  # numbers in `vectors`, beyond which they are thinned out
CONDITION = {torch.float64: 1e4, torch.float32: 1e2}  # of a frame between two QRs; the rounding error of `residual` grows with it
LONGEST = 10  # maximum number of steps between two QRs: vectors are known only at QR times
GOOD = {torch.float64: 1e-6, torch.float32: 1e-2}  # sine of an angle below which two directions count as equal
NEAR = 0.1  # relative to the median angle: if 1 % of the angles lie below it, there are near-tangencies


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CovariantVectors(Result):
    r"""Covariant Lyapunov vectors along an orbit: the directions that the tangent dynamics map into each other.

        DF v_i(n) ∝ v_i(n + 1)

    Args:
        vectors: (time, *batch, k, dim), unit rows, in the order of the exponents; DF v_n is a positive multiple of v_{n+1}.
            NaN for vectors that a singular Jacobian erases, and for diverged runs.
        states: (time, *batch, dim), the states at which the vectors are given.
        at: (time), their steps, counted from the start of the run.
        exponents: (*batch, k), the mean growth rates of the vectors over the window, nats per unit time; −∞ for erased vectors.
        stderr: (*batch, k), standard errors by batch means; NaN if the run is too short for an error bar.
        angles: (time, *batch), the smallest principal angle between the unstable and the stable subspace, radians; NaN if
            either is empty.
        unstable, neutral, stable: (*batch), the number of vectors of each kind; an exponent within 3 standard errors of 0 is
            neutral.
        residual: (*batch, k), the largest sin ∠(DF v_n, v_{n+1}) over all QR intervals of the window.
        alignment: (*batch, k), sine of the angle between the vectors of two random backward starts at the end of the window, where
            it is largest. If it is not small, `align` is too short or the exponent is not simple (a complex pair).
        flag: (*batch, k), sine of the angle between vector i of one forward frame and the span of the first i of another at the
            start of the window, where it is largest. If it is not small, `settle` is too short or the exponent is not simple.
        rank: (*batch), the number of vectors that no Jacobian erases.
        failed_at: (*batch), the step at which a run became non-finite; −1 if it stayed finite.
        steps, settle, align, every: steps in the window, before it, after it, and between two QRs.
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

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return f"The first became non-finite at step {int(self.failed_at[self.codes == status].min())}."
        return (
            f"Largest residual {plain(_largest(self.residual))}, alignment {plain(_largest(self.alignment))}, "
            f"flag {plain(_largest(self.flag))}: increase settle ({self.settle}) and align ({self.align})."
        )

    def summary(self) -> str:
        """The exponents, the angles and what they imply, and the checks."""
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
            lines.append(f"{counted(k - int(self.rank), 'vector')} erased by a singular Jacobian and left out")
        return "\n".join([*lines, f"{self.ended()} after {self.settle} + {self.steps} + {self.align} steps"])

    def hyperbolicity(self) -> str:
        """What the angles of all runs imply about hyperbolicity, in words: evidence along these orbits, not a proof."""
        angles = self.angles[self.angles.isfinite()].double()
        if not len(angles):
            return "no angle: one of the two subspaces is empty"
        low, median = torch.quantile(angles[:: len(angles) // 1_000_000 + 1], angles.new_tensor([0.01, 0.5])).tolist()
        distribution = (
            f"smallest of {len(angles):,} angles {plain(float(angles.min()))} rad (1 % below {plain(low)}, median {plain(median)})"
        )
        if low < NEAR * median:
            return f"{distribution}: near-tangencies, so not hyperbolic"
        return f"{distribution}: stays away from 0, as in a hyperbolic system"


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
    throw: bool = False,
) -> CovariantVectors:
    r"""Covariant Lyapunov vectors of an orbit: QR forward, triangular factors backward.

        DF Q_{n−1} = Q_n R_n,    C_{n−1} ∝ R_n⁻¹ C_n,    v_n = Q_n C_n

    Vector i grows at the rate λ_i forward and shrinks at that rate backward, and DF maps v_n into v_{n+1}. The columns of the
    frame Q have neither property.

    Args:
        system: any System; a driven system is followed along its own inputs.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        k: number of leading vectors, 1 … dim. Default: all.
        steps: length of the window in which vectors are measured, rounded down to whole QR intervals. Default: as in
            `lyapunov_spectrum`.
        settle: steps before the window, in which the orbit reaches its attractor and the frame aligns. Default: 30 units of time,
            but at least a fifth of `steps`, within the horizon.
        align: steps after the window, in which the vectors align on the way backward. Default: as `settle`.
        every: steps between two QRs; "auto" adapts the interval to the spectrum seen while settling, up to 10 steps.
        keep: store the vectors at every `keep`-th QR. Default: 1, or more if they would exceed 2²⁴ numbers.
        seed: seed of the initial state (unless x0 is given), the frame and the backward start.
        progress: show a progress bar.
        throw: raise instead of marking items that diverged or did not converge.

    Returns:
        CovariantVectors: `vectors` (time, *batch, k, dim), `exponents` (*batch, k), `angles` (time, *batch), `residual`.

    Raises:
        InputError: k is not in 1 … dim, or a count is out of range.
        HorizonError: `settle + steps + align` exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: for equal exponents (complex pairs) only the span of the vectors is defined. Vectors converge like
    exp(−|λ_i − λ_j| t). In addition to the stored vectors, memory grows like √steps.
    Source: Ginelli et al. 2007, Phys. Rev. Lett. 99, 130601; angles as Kuptsov & Parlitz 2012, J. Nonlinear Sci. 22, 727.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
        >>> shear = sx.Map(lambda x: x @ matrix.T, dim=2)
        >>> found = sx.covariant_lyapunov_vectors(shear, torch.zeros(2, dtype=torch.float64), steps=100)
        >>> found.exponents  # ln 2 and −ln 2
        tensor([ 0.6931, -0.6931], dtype=torch.float64)
        >>> round(float(found.angles.min()), 4)  # between the eigenvectors (1, 0) and (2, −3): atan 1.5
        0.9828
    """
    check_seed(seed)
    steps, settle, align = _plan(system, steps, settle, align)
    k = check_k(k, system.dim)
    front = begin(system, x0, seed=seed)
    most = LONGEST if every == "auto" else check_whole("every", every, 1)
    _check_kept(keep, steps // most, k * front.x.numel(), front.x)
    frames = (random_frame(front.x, k, start) for start in (seed, seed + 1))
    aligned, control = (settled(TangentRun.begin(front, frame, every), settle) for frame in frames)
    every = _interval(aligned, steps, settle) if every == "auto" else min(every, steps)
    window, after = steps // every, align // every
    run = FactoredRun(aligned.front, every, window + after)
    tally, erased = _forward(run, window, progress)
    failed = run.front.failed_at >= 0
    means, errors = _means(tally)
    split = split_by_sign(means, errors, ~(erased | failed[..., None]))
    _check_kept(keep, window, k * front.x.numel(), front.x)
    keep = _thinning(keep, window, front.x.numel() * k)
    walk = _BackwardWalk(run, erased, split, window, keep, seed)
    for _ in watched(walk.intervals(), (window + after) * every, "Covariant vectors, backward", progress):
        pass
    settings = {"k": k, "steps": steps, "settle": settle, "align": align, "every": every, "keep": keep, "seed": seed}
    sizes = {"steps": window * every, "settle": settle, "align": after * every, "every": every}
    flag = flag_distance(control.front.v, aligned.front.v)
    found = _result(walk, run, flag, sizes, {**settings, "clock": system.clock, "dtype": str(front.x.dtype)})
    return found.or_raise(throw)


def flag_distance(v: Tensor, w: Tensor) -> Tensor:
    """The sine of the angle between row i of v and the span of rows 0 … i of w, two orthonormal frames (*batch, k, dim)."""
    return lengths(v - (v @ w.mT).tril() @ w)


def _plan(system: System, steps: int | None, settle: int | None, align: int | None) -> tuple[int, int, int]:
    """Numbers of steps in the window, before it and after it, with defaults that respect the horizon."""
    if steps is not None:
        check_whole("steps", steps, 1)
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


def _interval(aligned: TangentRun, steps: int, settle: int) -> int:
    """Steps between two QRs that bound the frame's condition number, from the steepest spectrum seen while settling."""
    if settle == 0:
        return 1
    longest = math.log(CONDITION[aligned.front.x.dtype]) / max(aligned.steepest, 1e-9)
    return max(1, min(int(longest), LONGEST, steps))


def _check_kept(keep: int | None, window: int, numbers: int, like: Tensor) -> None:
    """Refuse vectors at more times than there is memory for; by default they are thinned out instead."""
    if keep is not None:
        kept = window // check_whole("keep", keep, 1)
        check_memory(f"vectors at {counted(kept, 'time')}", 2.0 * kept * numbers, like, "Pass a larger keep.")


def _thinning(keep: int | None, window: int, numbers: int) -> int:
    if keep is None:
        return math.ceil(window * numbers / MOST_NUMBERS)
    return keep


def _forward(run: FactoredRun, window: int, progress: bool) -> tuple[Tally, Tensor]:
    """Growth of the frame over the window, and which of its directions a Jacobian erases before the end."""
    tally = Tally()
    erased = torch.zeros_like(run.front.x[..., 0], dtype=torch.bool)[..., None]
    blocks = watched(run.forward(), run.intervals * run.every, "Covariant vectors, forward", progress)
    for i, block in enumerate(blocks):
        zero = block.logs == -math.inf
        erased = erased | zero.long().cummax(-1).values.bool()
        if i < window:
            tally.add(replace(block, logs=block.logs.masked_fill(zero, 0.0)))
    return tally, erased


def _means(tally: Tally) -> tuple[Tensor, Tensor]:
    rates, duration = tally.series()
    return (rates * duration).sum(0) / duration.sum(0), standard_error(rates, duration)


class _BackwardWalk:
    """The backward recursion from the end of the run to the start of the window, with its measurements.

    Two random starts are followed back to the end of the window. Their distance there measures how well the vectors are aligned.
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
        """R with the identity for erased directions, which cannot be followed backward."""
        touched = self.erased[..., None] | self.erased[..., None, :]
        return torch.eye(r.shape[-1], dtype=r.dtype, device=r.device).where(touched, r)


def step_back(coordinates: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors one QR interval earlier, and the logarithms of their growth over it.

    Args:
        coordinates: unit rows of a lower triangle, in the frame at the end of the interval, shape (…, *batch, k, k).
        r: the factor of the interval, vᵀ = Qᵀ R, shape (*batch, k, k).
    """
    earlier = torch.linalg.solve_triangular(r.mT, coordinates, upper=False, left=False)
    length = lengths(earlier)
    return earlier / length[..., None], -length.log()


def sine(v: Tensor, w: Tensor) -> Tensor:
    """Sine of the angle between the rows of v and the unit rows of w, accurate for small angles."""
    v = v / lengths(v)[..., None]
    return lengths(v - (v * w).sum(-1, keepdim=True) * w)


def _random_triangles(erased: Tensor, x: Tensor, seed: int) -> Tensor:
    """Two random backward starts, the same for all items: unit rows of lower triangles, shape (2, *batch, k, k)."""
    k = erased.shape[-1]
    generator = torch_generator(seed, "covariant frame")
    rows = torch.randn(2, k, k, dtype=torch.float64, generator=generator).tril()
    rows = (rows / lengths(rows)[..., None]).to(x)
    return rows.reshape(2, *[1] * (x.ndim - 1), k, k).expand(2, *x.shape[:-1], k, k)


def _result(
    walk: _BackwardWalk, run: FactoredRun, flag: Tensor, sizes: dict[str, int], settings: dict[str, Any]
) -> CovariantVectors:
    """Averages, checks and statuses of a finished walk."""
    failed = run.front.failed_at >= 0
    good = GOOD[run.front.x.dtype]
    exponents, stderr = _means(walk.tally)
    undefined = walk.erased | failed[..., None]
    checks = [check.masked_fill(walk.erased, 0.0) for check in (walk.residual, walk.alignment, flag)]
    passed = torch.stack([(check <= good).all(-1) for check in checks]).all(0)
    codes = torch.where(passed, Status.OK, Status.NOT_CONVERGED).masked_fill(failed, Status.DIVERGED)
    residual, alignment, flag = (check.masked_fill(undefined, math.nan) for check in checks)
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
        rank=(~undefined).sum(-1),
        failed_at=run.front.failed_at,
        settings=settings,
        **sizes,
    )


def _largest(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.max()) if len(finite) else math.nan
