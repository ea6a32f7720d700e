"""Attractors as sets of states: detected by recurrence, confirmed by displaced states that return."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from separatrix.analysis.lyapunov.divergence import DISTANCE
from separatrix.core.evolve import Front
from separatrix.core.randomness import torch_generator

MOST = 0.9  # fraction of a piece's states within `reach` of the attractor
ALIKE = 1.25  # two sets are the same up to this distance, in units of their reach
COPIES, TIMES = 64, 8  # displaced copies of an attractor's states, and number of times at which they are compared with it
AWAY, BACK, RETURNING = 4, 2, 0.75  # displacement and largest final distance in units of the reach; fraction that must return
SAMPLE = 200  # states of a piece for which distances to all states of another are computed
AT_ONCE = 4_000_000  # distances in memory

# Note [Recurrence]
# Has an orbit settled? Follow it for a piece A of `steps` states, then for a piece B twice as long. Then replace A by every second
# state of B, and repeat. This always compares the later half of the orbit with the quarter before, so that neither the length of
# the transient nor a period must be known. B lies on A if the distances of its states to A do not grow along B (on a drift they
# grow threefold from the first half to the second). A lies on B if the distances in the other direction are not much larger (on a
# decaying orbit they are, by the factor of the decay). For a fixed point, a cycle or a torus the distances are small. On a strange
# attractor, which a finite orbit samples sparsely, they need not be. So no ball size is fixed beforehand: the distance from A below
# which 9 in 10 states of B lie is the reach, within which any orbit has arrived at A.


@dataclass(frozen=True)
class Attractor:
    """Set of states to which an orbit keeps returning.

    Args:
        states: (time, dim), at equal times; a fixed point is one state.
        reach: distance from the set within which a state has arrived.
        spacing: steps between successive states.
        near: distance below which two states are equal.
        flowing: whether successive states are joined by straight lines, as for a flow; those of a map are not.
    """

    states: Tensor
    reach: float
    spacing: int
    near: float
    flowing: bool

    @property
    def pieces(self) -> tuple[Tensor, Tensor]:
        """Starts and directions of the straight segments, both (segment, dim); see `straight`."""
        return straight(self.states, self.flowing)

    @property
    def is_rest(self) -> bool:
        """Whether it is a single state."""
        return len(self.states) == 1

    def period(self) -> float:
        """Period of a cycle in steps, 0 for a fixed point, NaN otherwise."""
        if self.is_rest:
            return 0.0
        return self.spacing * (
            _period_between_steps(self.states, self.near) if self.flowing else _period_in_steps(self.states, self.near)
        )


@dataclass(frozen=True)
class Piece:
    """States of several orbits at equal times, (time, orbits, dim), the steps between them, and the length of the last step.

    That length distinguishes a fixed point from a cycle whose period divides the spacing.
    """

    states: Tensor
    spacing: int
    move: Tensor

    def of(self, rows: Tensor) -> "Piece":
        """The piece of some of the orbits."""
        return Piece(self.states[:, rows], self.spacing, self.move[rows])

    def thinned(self) -> "Piece":
        """Every second state, including the last."""
        return Piece(self.states[1::2], 2 * self.spacing, self.move)


@dataclass(frozen=True)
class Candidate:
    """Two successive pieces of one orbit, which may have reached an attractor.

    Args:
        before, after: the pieces, (time, dim).
        spacing: steps between their states.
        near: distance below which two states are equal.
        rests: whether the orbit is constant at its end.
        flowing: whether the orbit is that of a flow.
        reach: distance from `before` below which most states of `after` lie; NaN if `after` does not lie on `before`.
    """

    before: Tensor
    after: Tensor
    spacing: int
    near: float
    rests: bool
    flowing: bool
    reach: float

    @property
    def attractor(self) -> Attractor:
        """The set, not yet confirmed to attract."""
        return Attractor(self.after[-1:] if self.rests else self.before, self.reach, self.spacing, self.near, self.flowing)

    def is_on(self, known: list[Attractor]) -> int:
        """Index of the known attractor that it lies on, or −1."""
        if not known:
            return -1
        score, owner = nearest(some_of(self.after), known)
        other = known[int(owner.mode().values)]
        back = nearest(some_of(other.states), [replace(self.attractor, reach=max(self.reach, other.reach))])[0]
        return int(owner.mode().values) if score.median() <= ALIKE and back.median() <= ALIKE else -1

    def is_finer_than(self, other: "Candidate") -> bool:
        """Whether its reach is less than half of the other's; any reach is finer than NaN."""
        return (math.isnan(other.reach) and not math.isnan(self.reach)) or self.reach < other.reach / 2


def kept(front: Front, rows: Tensor) -> Front:
    """The front with some of its states, (orbits, dim)."""
    return replace(front, x=front.x[rows], lived=front.lived[rows])


def nearest(x: Tensor, known: list[Attractor]) -> tuple[Tensor, Tensor]:
    """Distance of each state (states, dim) to the nearest attractor in units of its reach, and the attractor's index."""
    begins, moves = (torch.cat(parts) for parts in zip(*(one.pieces for one in known), strict=True))
    counts = torch.tensor([len(one.pieces[0]) for one in known], device=x.device)
    owner = torch.arange(len(known), device=x.device).repeat_interleave(counts)
    reach = torch.tensor([one.reach for one in known], dtype=x.dtype, device=x.device)[owner]
    parts = [(distances(rows, begins, moves) / reach).min(-1) for rows in x.split(max(AT_ONCE // len(begins), 1))]
    return torch.cat([part.values for part in parts]), owner[torch.cat([part.indices for part in parts])]


def some_of(states: Tensor) -> Tensor:
    """At most `SAMPLE` of the states, evenly spaced, including the last."""
    every = -(-len(states) // SAMPLE)
    return states[(len(states) - 1) % every :: every]


def straight(states: Tensor, flowing: bool) -> tuple[Tensor, Tensor]:
    """Starts and directions of the straight segments between successive states of a flow; for a map, its states and zeros."""
    if flowing and len(states) > 1:
        return states[:-1], states.diff(dim=0)
    return states, torch.zeros_like(states)


def distances(x: Tensor, begins: Tensor, moves: Tensor) -> Tensor:
    """Distance of each state to each straight segment, (states, segments)."""
    to_begin = torch.cdist(x, begins, compute_mode="donot_use_mm_for_euclid_dist")
    square = moves.square().sum(-1)
    if not square.any():
        return to_begin
    along = x @ moves.mT - (begins * moves).sum(-1)
    share = (along / square.clamp(min=torch.finfo(x.dtype).tiny)).clamp(0, 1)
    return (to_begin.square() - share * (2 * along - share * square)).clamp(min=0).sqrt()


def piece(front: Front, steps: int, spacing: int) -> tuple[Piece, Front]:
    """The next `steps` states of the orbits at `spacing` steps, and the front after them."""
    states, before = [], front.x
    for _ in range(steps):
        front = front.advance(spacing - 1)
        before, front = front.x, front.advance(1)
        states.append(front.x)
    return Piece(torch.stack(states), spacing, (front.x - before).norm(dim=-1)), front


def recurring(before: Piece, after: Piece, distinct: float, unit: float, flowing: bool) -> list[Candidate]:
    """The candidate of each orbit; `distinct` is relative to its size, or to the unit if that is larger. See Note [Recurrence]."""
    return [
        _candidate(before.states[:, i], after.states[:, i], before.spacing, float(after.move[i]), distinct, unit, flowing)
        for i in range(len(after.move))
    ]


def _candidate(before: Tensor, after: Tensor, spacing: int, move: float, distinct: float, unit: float, flowing: bool) -> Candidate:
    near = distinct * max(unit, float(after.abs().max()))
    later = after[len(after) // 2 :]
    rests = move <= near and float((later - later[-1]).norm(dim=-1).max()) <= near
    reach = near if rests else _reach(before, after, near, flowing)
    return Candidate(before, after, spacing, near, rests, flowing, reach)


def _reach(before: Tensor, after: Tensor, near: float, flowing: bool) -> float:
    """Distance from `before` below which most states of `after` lie; NaN if `after` does not lie on `before`."""
    forth = distances(some_of(after), *straight(before, flowing)).amin(1)
    back = distances(some_of(before), *straight(after, flowing)).amin(1)
    early, late = forth[: len(forth) // 2].median(), forth[len(forth) // 2 :].median()
    reach = forth.quantile(MOST)
    recurs = late <= 2 * early + near and back.quantile(MOST) <= 2 * reach + near
    return max(float(reach), near) if recurs else math.nan


def attracting(front: Front, found: list[Attractor], steps: int, unit: float, seed: int) -> list[float]:
    """The reach of each set that attracts within the given steps, NaN for the others.

    A set attracts if most states displaced by four times its reach return to within twice its reach. A strange attractor may be
    too thin for that; it attracts if states displaced by a tiny distance separate, as they do on it, but stay on it. The distance
    from the set below which 9 in 10 of these states then lie replaces the reach if it is larger.
    """
    generator = torch_generator(seed, "pushes off an attractor")
    _, pushed = _ends(front, found, [AWAY * one.reach for one in found], steps, generator)
    reaches = [_returned(one, x) for one, x in zip(found, pushed, strict=True)]
    if all(math.isfinite(reach) or one.is_rest for reach, one in zip(reaches, found, strict=True)):
        return reaches
    fixed, moved = _ends(front, found, [unit * DISTANCE[front.x.dtype]] * len(found), steps, generator)
    separated = [bool((x - y).norm(dim=-1).median() > one.reach) for one, x, y in zip(found, fixed, moved, strict=True)]
    chaotic = [
        _returned(one, x) if apart and not one.is_rest else math.nan for apart, one, x in zip(separated, found, moved, strict=True)
    ]
    return [reach if math.isfinite(reach) else other for reach, other in zip(reaches, chaotic, strict=True)]


def _ends(front: Front, found: list[Attractor], sizes: list[float], steps: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Later states of copies of each attractor's states, unchanged and displaced at random, both (attractor, time and copy, dim).

    They are taken at several unequally spaced times: on a torus all copies return close to their past at the same times.
    """
    starts, pushes = [], []
    for one, size in zip(found, sizes, strict=True):
        push = torch.randn(COPIES, front.x.shape[-1], dtype=torch.float64, generator=draw).to(front.x)
        pushes.append(size * push / push.norm(dim=-1, keepdim=True))
        starts.append(one.states[torch.randint(len(one.states), (COPIES,), generator=draw).to(front.x.device)])
    x = torch.stack([torch.stack(starts), torch.stack(starts) + torch.stack(pushes)]).flatten(0, 2)
    front = replace(front, x=x, lived=torch.full(x.shape[:1], front.n, device=x.device)).advance(steps)
    ends = []
    for time in range(TIMES):
        front = front.advance((time + 1) ** 2)
        ends.append(front.x.reshape(2, len(found), COPIES, -1))
    fixed, moved = torch.cat(ends, dim=2)
    return fixed, moved


def _returned(one: Attractor, x: Tensor) -> float:
    """The reach that contains most of the states, NaN if too few are close to the attractor."""
    score = nearest(x, [one])[0].nan_to_num(torch.inf)
    if not (score <= BACK).double().mean() >= RETURNING:
        return math.nan
    return one.reach * min(max(float(score.quantile(MOST)), 1.0), float(BACK))


def _period_in_steps(states: Tensor, near: float) -> float:
    """The least lag at which every state recurs."""
    for lag in range(1, len(states) * 9 // 10):
        if (states[lag:] - states[:-lag]).norm(dim=-1).max() <= near:
            return float(lag)
    return math.nan


def _period_between_steps(states: Tensor, near: float) -> float:
    """The real lag of least mean square distance, which is a parabola of the lag close to a period."""
    apart = torch.stack([(states[lag:] - states[:-lag]).square().sum(-1).mean() for lag in range(1, len(states) * 9 // 10)])
    small = max(near**2, 0.01 * float(apart[0]))
    for i in range(1, len(apart) - 1):
        left, middle, right = apart[i - 1 : i + 2].tolist()
        bend = left - 2 * middle + right
        if middle > left or middle >= right or bend <= 0:
            continue
        offset = (left - right) / (2 * bend)
        if middle - bend * offset**2 / 2 <= small:
            return i + 1 + offset
    return math.nan
