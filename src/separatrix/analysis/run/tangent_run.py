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
from separatrix.core.memory import check_memory, check_whole_jacobian
from separatrix.core.orthonormal import eliminate, eliminates, orthonormalise
from separatrix.core.progress import watched
from separatrix.core.randomness import torch_generator

# Note [QR interval]
# A QR measures the growth of the frame. Its interval is the caller's and follows from the number of steps, not from the spectrum,
# so that the exponents and the error bars of an item do not depend on its neighbours in the batch.
# In m steps without a factorisation, the condition number of the frame grows like exp((λ₁ − λ_k) m), and with it the error of the
# small R_ii. So between two QRs the frame is factorised as often as the running spectrum demands, to reach the condition
# COMFORTABLE; a stretch beyond BEARABLE is repeated with fewer steps. When this happens affects only rounding, because the
# triangular factors multiply to the R of the whole stretch. See Note [Elimination] for the factorisation.
# A zero R_ii counts only if it arises in a single step: then the Jacobian is singular to rounding, and that direction stays at −∞.
# So do all directions after it, because they are orthogonalised against the arbitrary vector from QR.
# In a frame in general position the erased directions are the last ones, so no others are affected. A leading direction that is
# exactly uncoupled from the rest would be an exception.
COMFORTABLE = {torch.float64: 1e7, torch.float32: 1e3}
BEARABLE = {torch.float64: 1e9, torch.float32: 1e4}
LONGEST = 128  # steps between two QRs if neither the run nor its caller fixes them


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
        every: steps between two QRs; None leaves them to the caller. See Note [QR interval].
        erased: (*batch, k), the directions that a Jacobian has erased.
        pace: steps until the frame is factorised next, fewer if it would degenerate.
        steepest: nats per step, the largest recent spread of the frame's growth.
        block: the growth over the stretch before this QR; None at the start.
    """

    front: Front
    every: int | None
    erased: Tensor
    pace: int = 1
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
        return cls(front.with_tangents(frame), None if every == "auto" else int(every), erased)

    @property
    def steps(self) -> int:
        """Number of steps in the stretch before this QR."""
        return 0 if self.block is None else self.block.steps

    def advanced(self, steps: int) -> "TangentRun":
        """The run at its next QR, `steps` steps later."""
        run = replace(self, block=None)
        while run.steps < steps:
            run = run._factorised(steps - run.steps)
        return run

    def with_all_directions(self) -> "TangentRun":
        """The same run with no direction marked as erased, as at its start."""
        return replace(self, erased=torch.zeros_like(self.erased))

    def _factorised(self, left: int) -> "TangentRun":
        """The run at the next factorisation of its frame: by QR if it comes `left` steps from here, at the end of the stretch."""
        steps = min(self.pace, left)
        after = self.front.advance(steps)
        v, logs = orthonormalise(after.v) if steps == left else eliminate(after.v)
        erased, width = self.erased, _width(logs, self.erased)
        overflow = logs.isnan().any(-1) & after.x.isfinite().all(-1)
        if steps > 1 and (bool(overflow.any()) or width > math.log(BEARABLE[logs.dtype])):
            return replace(self, pace=max(1, steps // 4))._factorised(left)
        if width == math.inf:
            v, logs = orthonormalise(after.v)
            erased = erased | (logs == -math.inf).long().cummax(-1).values.bool()
            width = _width(logs, erased)
        front = replace(after, v=v, lived=after.lived.where(~overflow, self.front.n))
        block = Block(logs.masked_fill(erased, 0.0), after.time - self.front.time, steps)
        total = block if self.block is None else self.block + block
        pace, steepest = self._pace(width, v, steps)
        return replace(self, front=front, erased=erased, pace=pace, steepest=steepest, block=total)

    def _pace(self, width: float, v: Tensor, steps: int) -> tuple[int, float]:
        """Steps to the next factorisation, and the steepest spectrum, after `steps` steps spread the frame's growth by `width`.

        A frame from elimination is not orthonormal, which adds to the spread by about the logarithm of √k.
        """
        comfortable = math.log(COMFORTABLE[v.dtype])
        from_frame = 0.5 * math.log(v.shape[-2]) if eliminates(v) else 0.0
        spread = max(width - from_frame, 0.0) / steps
        steepest = max(spread, 0.95 * self.steepest) if math.isfinite(width) else self.steepest
        longest = (comfortable - from_frame) / max(steepest, 1e-9)
        return max(1, min(int(longest), 2 * self.pace)), steepest


def stretches(run: TangentRun, steps: int, longest: int = LONGEST) -> Iterator[TangentRun]:
    """The run at each QR over `steps` steps, at most `longest` apart unless the run fixes its interval."""
    end, apart = run.front.n + steps, longest if run.every is None else run.every
    while run.front.n < end:
        run = run.advanced(min(apart, end - run.front.n))
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
    if k == x.shape[-1]:
        check_whole_jacobian(x, 3, "Pass a smaller k, or fewer initial states.")
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
