"""A run with an orthonormal tangent frame, which yields the growth of every direction at each QR."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front
from separatrix.core.memory import check_memory
from separatrix.core.orthonormal import orthonormalise
from separatrix.core.progress import watched
from separatrix.core.randomness import torch_generator

# Note [QR interval]
# In m steps between two QRs the condition number of the frame grows like exp((λ₁ − λ_k) m), and with it the error of the small
# R_ii. So m is chosen from the running spectrum to reach the condition COMFORTABLE, and a stretch beyond BEARABLE is repeated with
# fewer steps. A zero R_ii counts only if it arises in a single step: then the Jacobian is singular to rounding, and that direction
# stays at −∞. So do all directions after it, because they are orthogonalised against the arbitrary vector from QR.
# In a frame in general position the erased directions are the last ones, so no others are affected. A leading direction that is
# exactly uncoupled from the rest would be an exception.
COMFORTABLE = {torch.float64: 1e8, torch.float32: 1e3}
BEARABLE = {torch.float64: 1e11, torch.float32: 1e4}
LONGEST = 1024  # maximum number of steps between two QRs


@dataclass(frozen=True)
class Block:
    """Growth over a stretch of steps: Σ log R_ii, shape (*batch, k), with its duration in time and in steps."""

    logs: Tensor
    time: float | Tensor
    steps: int

    def __add__(self, other: "Block") -> "Block":
        return Block(self.logs + other.logs, self.time + other.time, self.steps + other.steps)


@dataclass(frozen=True)
class TangentRun:
    """An orbit and its orthonormal frame at a QR, immutable: `advanced` returns a new one.

    Args:
        front: the states and their tangents as rows, shape (*batch, k, dim).
        every: steps to the next QR, fewer if the frame would degenerate. See Note [QR interval].
        adapts: whether `every` adapts to the spectrum.
        erased: (*batch, k), the directions that a Jacobian has erased.
        steepest: nats per step, the largest recent spread of the frame's growth.
        block: the growth over the stretch before this QR; None at the start.
    """

    front: Front
    every: int
    adapts: bool
    erased: Tensor
    steepest: float = 0.0
    block: Block | None = None

    @classmethod
    def begin(cls, front: Front, frame: Tensor, every: int | Literal["auto"] = "auto") -> "TangentRun":
        """The start.

        Args:
            front: the states.
            frame: orthonormal tangents as rows, shape (*batch, k, dim).
            every: steps between two QRs, or "auto".
        """
        if every != "auto":
            check_whole("every", every, 1, way_out='Or pass "auto".')
        erased = torch.zeros_like(frame[..., 0], dtype=torch.bool)
        return cls(front.with_tangents(frame), 1 if every == "auto" else int(every), every == "auto", erased)

    @property
    def steps(self) -> int:
        """Number of steps in the stretch before this QR."""
        return 0 if self.block is None else self.block.steps

    def advanced(self, steps: int) -> "TangentRun":
        """The run at the next QR, after `steps` steps, or fewer if they would degenerate the frame."""
        after = self.front.advance(steps)
        v, logs = orthonormalise(after.v)
        overflow = logs.isnan().any(-1) & after.x.isfinite().all(-1)
        if steps > 1 and (bool(overflow.any()) or _width(logs, self.erased) > math.log(BEARABLE[logs.dtype])):
            return self._in_pieces(steps)
        erased = self.erased | (logs == -math.inf).long().cummax(-1).values.bool()
        front = replace(after, v=v, lived=after.lived.where(~overflow, self.front.n))
        block = Block(logs.masked_fill(erased, 0.0), after.time - self.front.time, steps)
        every, steepest = self._interval(_width(logs, erased), logs.dtype, steps) if self.adapts else (self.every, self.steepest)
        return TangentRun(front, every, self.adapts, erased, steepest, block)

    def with_all_directions(self) -> "TangentRun":
        """The same run with no direction marked as erased, as at its start."""
        return replace(self, erased=torch.zeros_like(self.erased))

    def _in_pieces(self, steps: int) -> "TangentRun":
        """Repeat a stretch with fewer steps at a time: all of it if `every` is fixed, only its beginning if it adapts."""
        if self.adapts:
            shorter = replace(self, every=max(1, steps // 4))
            return shorter.advanced(shorter.every)
        first = self.advanced(steps // 2)
        second = first.advanced(steps - steps // 2)
        return replace(second, block=first.block + second.block)

    def _interval(self, width: float, dtype: torch.dtype, steps: int) -> tuple[int, float]:
        """Steps to the next QR, and the steepest spectrum, after `steps` steps spread the frame's growth by `width` nats."""
        steepest = max(width / steps, 0.95 * self.steepest) if math.isfinite(width) else self.steepest
        longest = math.log(COMFORTABLE[dtype]) / max(steepest, 1e-9)
        return max(1, min(int(longest), 2 * self.every, LONGEST)), steepest


def stretches(run: TangentRun, steps: int, least: int = 1) -> Iterator[TangentRun]:
    """The run at each QR over `steps` steps; if `every` adapts, there are at least `least` QRs."""
    end = run.front.n + steps
    longest = max(1, steps // least) if run.adapts else steps
    while run.front.n < end:
        run = run.advanced(min(run.every, longest, end - run.front.n))
        yield run


def settled(run: TangentRun, steps: int, *, progress: bool = False) -> TangentRun:
    """The run after `steps` steps, in which its frame aligns."""
    for aligned in watched(stretches(run, steps), steps, "Settling", progress):
        run = aligned
    return run


def _width(logs: Tensor, erased: Tensor) -> float:
    """The largest spread of log R_ii over directions that are not erased, including 0, since lengths must not overflow either."""
    logs = logs.masked_fill(erased | logs.isnan(), 0.0)
    return float((logs.amax(-1).clamp(min=0) - logs.amin(-1).clamp(max=0)).max())


def random_frame(x: Tensor, k: int, seed: int) -> Tensor:
    """k random orthonormal tangents, the same at every state, shape (*batch, k, dim)."""
    check_memory(f"a frame of {k} tangents", 3.0 * k * x.numel(), x, "Pass a smaller k, or fewer initial states.")
    generator = torch_generator(seed, "tangent frame")
    rows = [torch.randn(x.shape[-1], dtype=torch.float64, generator=generator) for _ in range(k)]  # the first do not depend on k
    q, _ = orthonormalise(torch.stack(rows))
    return q.to(x).expand(*x.shape[:-1], k, x.shape[-1])


def check_k(k: int | None, dim: int) -> int:
    """The number of exponents, by default dim.

    Raises:
        InputError: k is not in 1 … dim.
    """
    if k is None:
        return dim
    k = check_whole("k", k)
    if not 1 <= k <= dim:
        raise InputError(f"k is {k} but the state has {dim} numbers.\nPass k in 1 … {dim}, or leave it out for all of them.")
    return k
