"""A run that carries an orthonormal tangent frame, and says at each QR how much every direction grew."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front
from separatrix.core.orthonormal import orthonormalise
from separatrix.core.randomness import torch_generator

# Note [QR interval]
# Between two QRs the condition number of the frame grows like exp((λ₁ − λ_k) m), and with it the error of the small R_ii. So m is
# chosen from the running spectrum to reach the condition COMFORTABLE; a stretch that came out beyond BEARABLE is taken again with
# fewer steps. A zero R_ii is believed only when one step made it: then the Jacobian itself is singular to rounding, and that
# direction stays at −∞. Those after it do too: what QR puts in its place is arbitrary, and they are orthogonalised against it. In a
# frame in general position the lost directions are the last ones, so that none is taken along; an exactly uncoupled leading one
# would be the exception.
COMFORTABLE = {torch.float64: 1e8, torch.float32: 1e3}
BEARABLE = {torch.float64: 1e11, torch.float32: 1e4}
LONGEST = 1024  # steps between two QRs, however flat the spectrum


@dataclass(frozen=True)
class Block:
    """What a stretch of steps did: Σ log R_ii, shape (*batch, k), and how long it was, in steps and in time."""

    logs: Tensor
    time: float | Tensor
    steps: int

    def __add__(self, other: "Block") -> "Block":
        return Block(self.logs + other.logs, self.time + other.time, self.steps + other.steps)


class TangentRun:
    """An orbit and its frame, advanced block by block.

    Args:
        front: the start.
        frame: orthonormal tangents as rows, shape (*batch, k, dim).
        every: steps between two QRs (fewer where the frame would degenerate), or "auto". See Note [QR interval].
    """

    def __init__(self, front: Front, frame: Tensor, every: int | Literal["auto"] = "auto") -> None:
        if every != "auto" and (not isinstance(every, Integral) or every < 1):
            raise InputError(f'every is {every!r}; it is a number of steps from 1 on, or "auto".')
        self.front = front.with_tangents(frame)
        self.adapts = every == "auto"
        self.every = 1 if every == "auto" else int(every)
        self.erased = torch.zeros_like(frame[..., 0], dtype=torch.bool)
        self.steepest = 0.0

    def blocks(self, steps: int, least: int = 1) -> Iterator[Block]:
        """Advance by so many steps, one QR after another, at least `least` of them unless `every` was asked for."""
        end = self.front.n + steps
        longest = max(1, steps // least) if self.adapts else steps
        while self.front.n < end:
            yield self._block(min(self.every, longest, end - self.front.n))

    def forget_erased(self) -> None:
        """Count all directions again, from here on."""
        self.erased = torch.zeros_like(self.erased)

    def _block(self, steps: int) -> Block:
        start = self.front
        after = start.advance(steps)
        v, logs = orthonormalise(after.v)
        overflow = logs.isnan().any(-1) & after.x.isfinite().all(-1)
        if steps > 1 and (bool(overflow.any()) or self._width(logs) > math.log(BEARABLE[logs.dtype])):
            return self._block_in_pieces(steps)
        self.erased |= (logs == -math.inf).long().cummax(-1).values.bool()
        self.front = replace(after, v=v, lived=after.lived.where(~overflow, start.n))
        if self.adapts:
            self._adapt(logs, steps)
        return Block(logs.masked_fill(self.erased, 0.0), after.time - start.time, steps)

    def _block_in_pieces(self, steps: int) -> Block:
        """A stretch taken again with fewer steps at a time: all of it where `every` was asked for, else only its beginning."""
        if self.adapts:
            self.every = max(1, steps // 4)
            return self._block(self.every)
        return self._block(steps // 2) + self._block(steps - steps // 2)

    def _adapt(self, logs: Tensor, steps: int) -> None:
        width = self._width(logs)
        if math.isfinite(width):
            self.steepest = max(width / steps, 0.95 * self.steepest)
        longest = math.log(COMFORTABLE[logs.dtype]) / max(self.steepest, 1e-9)
        self.every = max(1, min(int(longest), 2 * self.every, LONGEST))

    def _width(self, logs: Tensor) -> float:
        """The largest spread of log R_ii, zero included (lengths must not overflow either), over the directions that count."""
        counted = logs.masked_fill(self.erased | logs.isnan(), 0.0)
        return float((counted.amax(-1).clamp(min=0) - counted.amin(-1).clamp(max=0)).max())


def random_frame(x: Tensor, k: int, seed: int) -> Tensor:
    """k orthonormal tangents at each state, the same at all, shape (*batch, k, dim)."""
    generator = torch_generator(seed, "tangent frame")
    frame = torch.randn(x.shape[-1], x.shape[-1], dtype=torch.float64, generator=generator)[:k]
    q, _ = orthonormalise(frame)
    return q.to(x).expand(*x.shape[:-1], k, x.shape[-1])


def check_k(k: int | None, dim: int) -> int:
    """The number of exponents asked for, all by default.

    Raises:
        InputError: it is not in 1 … dim.
    """
    if k is None:
        return dim
    k = check_whole("k", k)
    if not 1 <= k <= dim:
        raise InputError(f"k is {k} but the state has {dim} numbers.\nAsk for 1 … {dim} exponents, or leave k out for all of them.")
    return k
