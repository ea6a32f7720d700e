"""Attractors as sets of states: what an orbit keeps coming back to, and whether what is near comes there too."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from separatrix.analysis.lyapunov.divergence import DISTANCE
from separatrix.core.evolve import Front
from separatrix.core.randomness import torch_generator

MOST = 0.9  # share of a piece's states nearer than `reach` to the attractor
ALIKE = 1.25  # by how much more than `reach` two sets may lie apart, and still be the same
COPIES, TIMES = 64, 8  # displaced copies of an attractor's states, and how often they are looked at in the end
AWAY, BACK, RETURNING = 4, 2, 0.75  # how many reaches they are displaced, how near they must come, and which share of them
SAMPLE = 200  # states of a piece whose distances are taken to all of another
AT_ONCE = 4_000_000  # distances in memory

# Note [Recurrence]
# Has an orbit settled? Follow it for a piece A of `steps` states, then for a piece B twice as long; then forget A, keep every
# second state of B in its place, and go on. The later half of the orbit's life is always held against the quarter before, so
# that neither a transient nor a period has a length that must be known. B lies on A if the distances of its states to the
# nearest of A do not grow along B (on a drift they grow threefold from half to half), and A lies on B if they are not much
# larger the other way round (on an orbit that falls in, they are, by the factor it falls by). For rest, a cycle or a torus the
# distances come out small. On a strange attractor, whose states fill it thinly, they are what they are: no ball size is set
# beforehand, but the distance that 9 in 10 states of B keep from A is the reach within which any orbit has come to A.


@dataclass(frozen=True)
class Attractor:
    """States that an orbit keeps coming back to.

    Args:
        states: (time, dim), at equal times; a fixed point is one state.
        reach: distance from them within which a state has arrived.
        spacing: steps from one of them to the next.
        near: distance below which two states are one.
        flowing: whether the orbit goes straight from one of them to the next; a map's jumps.
    """

    states: Tensor
    reach: float
    spacing: int
    near: float
    flowing: bool

    @property
    def pieces(self) -> tuple[Tensor, Tensor]:
        """Where the straight pieces begin, and how they go on, both (piece, dim); states alone do not go on."""
        return straight(self.states, self.flowing)

    @property
    def is_rest(self) -> bool:
        """Whether it is one state."""
        return len(self.states) == 1

    def period(self) -> float:
        """Steps of a cycle, 0 for a fixed point, NaN where no cycle was seen."""
        if self.is_rest:
            return 0.0
        return self.spacing * (
            _period_between_steps(self.states, self.near) if self.flowing else _period_in_steps(self.states, self.near)
        )


@dataclass(frozen=True)
class Piece:
    """States of several orbits at equal times, (time, orbits, dim), the steps from one to the next, and the last step's length.

    A cycle whose period divides the spacing stands still in it; its steps do not.
    """

    states: Tensor
    spacing: int
    move: Tensor

    def of(self, rows: Tensor) -> "Piece":
        """The same of some orbits."""
        return Piece(self.states[:, rows], self.spacing, self.move[rows])

    def thinned(self) -> "Piece":
        """Every second state, the last one kept."""
        return Piece(self.states[1::2], 2 * self.spacing, self.move)


@dataclass(frozen=True)
class Candidate:
    """What one orbit came to: two successive pieces, (time, dim), and the reach, NaN where the second is not on the first.

    Args:
        before, after: the pieces.
        spacing: steps between their states.
        near: distance below which two states are one.
        rests: whether the orbit stands still at its end.
        flowing: whether it is a flow's.
        reach: distance that most states of the second keep from the first.
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
        """The set without the proof that it attracts."""
        return Attractor(self.after[-1:] if self.rests else self.before, self.reach, self.spacing, self.near, self.flowing)

    def is_on(self, known: list[Attractor]) -> int:
        """Which of the known attractors it lies on, or −1."""
        if not known:
            return -1
        score, owner = nearest(some_of(self.after), known)
        other = known[int(owner.mode().values)]
        back = nearest(some_of(other.states), [replace(self.attractor, reach=max(self.reach, other.reach))])[0]
        return int(owner.mode().values) if score.median() <= ALIKE and back.median() <= ALIKE else -1

    def is_finer_than(self, other: "Candidate") -> bool:
        """Whether it is a set whose states lie at less than half the distance; any set is finer than none."""
        return (math.isnan(other.reach) and not math.isnan(self.reach)) or self.reach < other.reach / 2


def kept(front: Front, rows: Tensor) -> Front:
    """The front of some of its states; (orbits, dim) only."""
    return replace(front, x=front.x[rows], lived=front.lived[rows])


def nearest(x: Tensor, known: list[Attractor]) -> tuple[Tensor, Tensor]:
    """Distance of each state to the nearest attractor, in units of its reach, and which one that is; x is (states, dim)."""
    begins, moves = (torch.cat(parts) for parts in zip(*(one.pieces for one in known), strict=True))
    counts = torch.tensor([len(one.pieces[0]) for one in known], device=x.device)
    owner = torch.arange(len(known), device=x.device).repeat_interleave(counts)
    reach = torch.tensor([one.reach for one in known], dtype=x.dtype, device=x.device)[owner]
    parts = [(distances(rows, begins, moves) / reach).min(-1) for rows in x.split(max(AT_ONCE // len(begins), 1))]
    return torch.cat([part.values for part in parts]), owner[torch.cat([part.indices for part in parts])]


def some_of(states: Tensor) -> Tensor:
    """At most `SAMPLE` of the states, evenly spread, the last one among them."""
    every = -(-len(states) // SAMPLE)
    return states[(len(states) - 1) % every :: every]


def straight(states: Tensor, flowing: bool) -> tuple[Tensor, Tensor]:
    """Beginnings and directions of the straight pieces between successive states of a flow; of a map, its states."""
    if flowing and len(states) > 1:
        return states[:-1], states.diff(dim=0)
    return states, torch.zeros_like(states)


def distances(x: Tensor, begins: Tensor, moves: Tensor) -> Tensor:
    """Distance of each state to each straight piece, (states, pieces)."""
    to_begin = torch.cdist(x, begins, compute_mode="donot_use_mm_for_euclid_dist")
    square = moves.square().sum(-1)
    if not square.any():
        return to_begin
    along = x @ moves.mT - (begins * moves).sum(-1)
    share = (along / square.clamp(min=torch.finfo(x.dtype).tiny)).clamp(0, 1)
    return (to_begin.square() - share * (2 * along - share * square)).clamp(min=0).sqrt()


def piece(front: Front, steps: int, spacing: int) -> tuple[Piece, Front]:
    """The next `steps` states of the orbits, `spacing` apart, and the front after them."""
    states, before = [], front.x
    for _ in range(steps):
        front = front.advance(spacing - 1)
        before, front = front.x, front.advance(1)
        states.append(front.x)
    return Piece(torch.stack(states), spacing, (front.x - before).norm(dim=-1)), front


def recurring(before: Piece, after: Piece, distinct: float, unit: float, flowing: bool) -> list[Candidate]:
    """What each orbit came to, of states that are large against the unit, or else to be told apart in it. See Note [Recurrence]."""
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
    """Distance that most states of `after` keep from `before`; NaN where it does not lie on it."""
    there = distances(some_of(after), *straight(before, flowing)).amin(1)
    back = distances(some_of(before), *straight(after, flowing)).amin(1)
    early, late = there[: len(there) // 2].median(), there[len(there) // 2 :].median()
    reach = there.quantile(MOST)
    lies_on_it = late <= 2 * early + near and back.quantile(MOST) <= 2 * reach + near
    return max(float(reach), near) if lies_on_it else math.nan


def attracting(front: Front, found: list[Attractor], steps: int, unit: float, seed: int) -> list[float]:
    """The reach of each that attracts within the given steps, NaN of the others.

    Either most states displaced by four times the reach come back to half of that; or, where a strange attractor is too thin for
    that, states displaced by next to nothing part from where they were, as they do on it, and are still on it. The distance that
    9 in 10 of them keep then, whatever their phases, is the reach from now on, if it is more.
    """
    generator = torch_generator(seed, "pushes off an attractor")
    _, pushed = _ends(front, found, [AWAY * one.reach for one in found], steps, generator)
    reaches = [_returned(one, x) for one, x in zip(found, pushed, strict=True)]
    if all(math.isfinite(reach) or one.is_rest for reach, one in zip(reaches, found, strict=True)):
        return reaches
    still, moved = _ends(front, found, [unit * DISTANCE[front.x.dtype]] * len(found), steps, generator)
    parted = [bool((x - y).norm(dim=-1).median() > one.reach) for one, x, y in zip(found, still, moved, strict=True)]
    stay = [
        _returned(one, x) if parts and not one.is_rest else math.nan for parts, one, x in zip(parted, found, moved, strict=True)
    ]
    return [reach if math.isfinite(reach) else other for reach, other in zip(reaches, stay, strict=True)]


def _ends(front: Front, found: list[Attractor], sizes: list[float], steps: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where copies of each attractor's states end, left alone and displaced at random, both (attractor, time and copy, dim).

    At several times, not equally spaced: on a torus all copies come near their own past, or keep away from it, at once.
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
    still, moved = torch.cat(ends, dim=2)
    return still, moved


def _returned(one: Attractor, x: Tensor) -> float:
    """The reach that holds most of the states, NaN where too few are near."""
    score = nearest(x, [one])[0].nan_to_num(torch.inf)
    if not (score <= BACK).double().mean() >= RETURNING:
        return math.nan
    return one.reach * min(max(float(score.quantile(MOST)), 1.0), float(BACK))


def _period_in_steps(states: Tensor, near: float) -> float:
    """The least lag at which every state comes back."""
    for lag in range(1, len(states) * 9 // 10):
        if (states[lag:] - states[:-lag]).norm(dim=-1).max() <= near:
            return float(lag)
    return math.nan


def _period_between_steps(states: Tensor, near: float) -> float:
    """The lag, no whole number, at which the mean square distance is least: near a period it is a parabola of the lag."""
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
