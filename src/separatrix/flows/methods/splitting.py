"""Splitting methods for separable fields: leapfrog and its compositions. Each substep is a shear, so the step is symplectic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.core.errors import InputError, ShapeError
from separatrix.flows.methods.solver import Slope, Solver, TangentSlope, Time, along_rows, moved

Parts = tuple[Tensor, ...]  # one half of the state, and optionally the same half of its tangents
Move = Callable[[Parts, Parts, Time], Parts]  # velocity of one half, from (q, p, t)

SEPARABLE = {torch.float32: 1e-4, torch.float64: 1e-9}  # effect of rounding on a half of the field, relative to its size

# Note [Two clocks]
# A time-dependent field stays separable if each half has its own clock: the force the clock that drifts advance, the velocity the
# clock that kicks advance. Both clocks are ordinary coordinates, so the order of the method is kept.


@dataclass(frozen=True)
class Splitting(Solver):
    r"""Leapfrog steps of lengths w₁h, w₂h, … in sequence, for  q̇ = g(p, t), ṗ = f(q, t)  and the state (q, p):

        p ← p + (w h/2) f(q),   q ← q + w h g(p),   p ← p + (w h/2) f(q)

    Adjacent kicks are merged. If f = −∇V and g = ∇T, every substep is a symplectic shear. The inverse step is the step with −h.

    Args:
        name, order: as in `Solver`.
        weights: w₁, w₂, …; symmetric, with sum 1.
    Source: Hairer, Lubich & Wanner 2006, Geometric Numerical Integration, I.1.4 and II.4; Yoshida 1990, Phys. Lett. A 150, 262.
    """

    weights: tuple[float, ...]
    paired: ClassVar[bool] = True

    @property
    def moves(self) -> list[tuple[float, float]]:
        """Pairs (kick, drift) in sequence, as fractions of a step; the last drift is 0."""
        kicks = [(before + after) / 2 for before, after in zip((0.0, *self.weights), (*self.weights, 0.0), strict=True)]
        return list(zip(kicks, (*self.weights, 0.0), strict=True))

    def step(self, field: Slope, x: Tensor, t: Time, h: Time) -> Tensor:
        force, velocity = _halves_of(lambda y, s: (field(*y, s),))
        return joined(*self.follow(force, velocity, *halves((x,)), t, h))[0]

    def pushforward(self, field: TangentSlope, x: Tensor, v: Tensor, t: Time, h: Time) -> tuple[Tensor, Tensor]:
        force, velocity = _halves_of(lambda y, s: field(*y, s))
        x, v = joined(*self.follow(force, velocity, *halves((x, v)), t, h))
        return x, v

    def follow(self, force: Move, velocity: Move, q: Parts, p: Parts, t: Time, h: Time) -> tuple[Parts, Parts]:
        """Both halves after one step, each with its tangents if given. See Note [Two clocks]."""
        drifted = kicked = t
        for kick, drift in self.moves:
            p, kicked = _moved(p, h * kick, force(q, p, drifted)), kicked + h * kick
            if drift:
                q, drifted = _moved(q, h * drift, velocity(q, p, kicked)), drifted + h * drift
        return q, p

    def amplification(self, z: Tensor) -> Tensor:
        """The larger of the two factors on  q̇ = λ p, ṗ = λ q,  whose eigenvalues are ±λ, as for any separable field.

        The step has determinant 1 and a trace that is a polynomial in z², so the factors are the roots of  r² − trace · r + 1.
        Neither exceeds 1 only if both lie on the unit circle, which holds on an interval of the imaginary axis (leapfrog: |z| ≤ 2).
        """
        unit = torch.eye(2, dtype=z.dtype, device=z.device).expand(*z.shape, 2, 2)
        first, second = (self.step(lambda x, t: z[..., None] * x.flip(-1), row, 0.0, 1.0) for row in unit.unbind(-2))
        half = (first[..., 0] + second[..., 1]) / 2
        root = (half * half - 1).sqrt()
        return torch.where((half + root).abs() >= (half - root).abs(), half + root, half - root)

    def check_dim(self, dim: int) -> None:
        """Refuse a state of odd length."""
        if dim % 2:
            raise ShapeError(
                f"{self.name} needs a state (q, p) of two equal halves, got {dim} numbers, which is odd.\n"
                'Use method="implicit_midpoint", or give each coordinate a momentum.'
            )

    def check_field(self, field: Slope, x: Tensor, t: Time) -> None:
        """Refuse a field that is not separable, tested at states near x and at distances of about |x|."""
        for (rate, half), change in zip((("q̇", "q"), ("ṗ", "p")), _changes(field, x, t), strict=True):
            if change > SEPARABLE[x.dtype]:
                raise InputError(
                    f"{self.name} needs a separable field, q̇ = g(p) and ṗ = f(q), but {rate} changes by {change:.2g} of the "
                    f'field when only {half} changes.\nUse method="implicit_midpoint", which works for any field.'
                )


def halves(parts: Parts) -> tuple[Parts, Parts]:
    """(q, p) of a state, and of its tangents if given; an odd number is left to p."""
    middle = parts[0].shape[-1] // 2
    return tuple(part[..., :middle] for part in parts), tuple(part[..., middle:] for part in parts)


def joined(q: Parts, p: Parts) -> Parts:
    """The state, and its tangents, from their halves."""
    return tuple(torch.cat(pair, dim=-1) for pair in zip(q, p, strict=True))


def _halves_of(field: Callable[[Parts, Time], Parts]) -> tuple[Move, Move]:
    """The force and the velocity from a field of the whole state, which is evaluated once for each."""
    return lambda q, p, t: halves(field(joined(q, p), t))[1], lambda q, p, t: halves(field(joined(q, p), t))[0]


def _moved(parts: Parts, length: Time, slopes: Parts) -> Parts:
    lengths = (length, along_rows(length))  # for the half of the state, and for its tangents
    return tuple(moved(part, each, slope) for part, each, slope in zip(parts, lengths, slopes, strict=False))


@torch.no_grad()
def _changes(field: Slope, x: Tensor, t: Time) -> tuple[float, float]:
    """The largest change of q̇ with q alone and of ṗ with p alone, relative to the field, for displacements of about 1 and |x|."""
    random = torch.randn(2, x.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x)
    found = [_change(field, x + size * random[0], x + size * random[1], t) for size in (1.0, x.abs().amax(-1, keepdim=True))]
    by_q, by_p = zip(*found, strict=True)
    return max(by_q), max(by_p)


def _change(field: Slope, x: Tensor, far: Tensor, t: Time) -> tuple[float, float]:
    """The same between two states, relative to the field at the three combinations of their halves, where it is finite."""
    (q, p), (far_q, far_p) = x.chunk(2, -1), far.chunk(2, -1)
    here, beside, above = fields = [field(torch.cat(halves, -1), t) for halves in ((q, p), (far_q, p), (q, far_p))]
    size = torch.stack(fields).nan_to_num(0.0, 0.0, 0.0).abs().amax((0, -1))[..., None]
    by_q, by_p = (((other - here).abs() / size).nan_to_num(0.0, 0.0) for other in (beside, above))
    return float(by_q.chunk(2, -1)[0].amax()), float(by_p.chunk(2, -1)[1].amax())


OUTER = 1 / (2 - 2 ** (1 / 3))  # Yoshida's w₁; w₀ = 1 − 2w₁ is negative: the middle step goes backward

leapfrog = Splitting("leapfrog", 2, weights=(1.0,))
yoshida4 = Splitting("yoshida4", 4, weights=(OUTER, 1 - 2 * OUTER, OUTER))
