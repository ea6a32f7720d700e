"""Scouts: orbits that run ahead of the others to discover attractors."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from separatrix.analysis.basins.attractors import Attractor, Candidate, attracting, kept, nearest, piece, recurring
from separatrix.core.evolve import Front


@dataclass(frozen=True)
class Plan:
    """Arguments of `basins_of_attraction`, and the size of the states, below which differences of size do not matter."""

    steps: int
    settle: int
    distinct: float
    max_steps: int
    seed: int
    unit: float


@dataclass(frozen=True)
class Discovery:
    """Discoveries of the scouts.

    Args:
        attractors: the new ones.
        stuck: (scouts), bool, whether the scout rests on a state that does not attract.
        lasted: step at which the last scout had settled or was abandoned.
    """

    attractors: list[Attractor]
    stuck: Tensor
    lasted: int


def discover(front: Front, known: list[Attractor], plan: Plan) -> Discovery:
    """Follow the scouts until their orbits recur, measure the sets that they reach, and keep those that are new and attract."""
    settled, lasted = _settled(front, known, plan)
    groups, leaders = _groups(settled, known)
    new, attracts = _confirmed(front, leaders, known, plan, lasted)
    stuck = torch.zeros(len(front.x), dtype=torch.bool, device=front.x.device)
    for scout, group in groups.items():
        stuck[scout] = group >= 0 and leaders[group].rests and not attracts[group]
    return Discovery(new, stuck, lasted)


def _settled(front: Front, known: list[Attractor], plan: Plan) -> tuple[dict[int, Candidate], int]:
    """The candidate of each scout that settled within the steps, by its index, and the step at which the last one settled."""
    flowing, found = front.system.continuous, {}
    scouts = torch.arange(len(front.x), device=front.x.device)
    before, front = piece(front.advance(min(plan.settle, plan.max_steps - front.n)), plan.steps, 1)
    while len(scouts) and front.n + 2 * before.spacing * plan.steps <= plan.max_steps:
        after, front = piece(front, 2 * plan.steps, before.spacing)
        running = (front.failed_at < 0) & ~_arrived(front.x, known)
        after, before, front, scouts = after.of(running), before.of(running), kept(front, running), scouts[running]
        candidates = recurring(before, after, plan.distinct, plan.unit, flowing)
        done = torch.tensor([math.isfinite(one.reach) for one in candidates], dtype=torch.bool, device=scouts.device)
        found |= {scout: one for scout, one in zip(scouts.tolist(), candidates, strict=True) if math.isfinite(one.reach)}
        before, front, scouts = after.of(~done).thinned(), kept(front, ~done), scouts[~done]
    return found, front.n


def _arrived(x: Tensor, known: list[Attractor]) -> Tensor:
    return nearest(x, known)[0] <= 1 if known else torch.zeros(len(x), dtype=torch.bool, device=x.device)


def _groups(settled: dict[int, Candidate], known: list[Attractor]) -> tuple[dict[int, int], list[Candidate]]:
    """The group of each scout, −1 for a known attractor, and the leaders: the first candidate of each group."""
    groups, leaders = {}, []
    for scout, candidate in settled.items():
        group = -1 if candidate.is_on(known) >= 0 else candidate.is_on([one.attractor for one in leaders])
        if group < 0 and candidate.is_on(known) < 0:
            group = len(leaders)
            leaders.append(candidate)
        groups[scout] = group
    return groups, leaders


def _confirmed(
    front: Front, leaders: list[Candidate], known: list[Attractor], plan: Plan, lasted: int
) -> tuple[list[Attractor], list[bool]]:
    """The new attractors among the leaders, each once, and whether each leader attracts."""
    if not leaders:
        return [], []
    ends = torch.stack([one.after[-1] for one in leaders])
    start = replace(front, x=ends, lived=torch.full(ends.shape[:1], front.n, device=ends.device))
    finest = _measured(start, plan, most=3 * max(lasted, plan.steps))
    sets = [one.attractor for one in finest]
    reaches = attracting(front, sets, lasted, plan.unit, plan.seed)
    new: list[Attractor] = []
    for one, reach in zip(finest, reaches, strict=True):
        if math.isfinite(reach) and one.is_on([*known, *new]) < 0:
            new.append(replace(one.attractor, reach=reach))
    return new, [math.isfinite(reach) for reach in reaches]


def _measured(front: Front, plan: Plan, most: int) -> list[Candidate]:
    """Candidates of the settled orbits of a front, each with the shortest spacing beyond which longer pieces show no finer set."""
    flowing, end, steps = front.system.continuous, front.n + most, plan.steps
    before, front = piece(front, steps, 1)
    after, front = piece(front, 2 * steps, 1)
    best = recurring(before, after, plan.distinct, plan.unit, flowing)
    while front.n + 4 * before.spacing * steps <= end and not all(one.rests for one in best):
        before = after.thinned()
        after, front = piece(front, 2 * steps, before.spacing)
        found = recurring(before, after, plan.distinct, plan.unit, flowing)
        finer = [new.is_finer_than(old) for old, new in zip(best, found, strict=True)]
        best = [new if better else old for old, new, better in zip(best, found, finer, strict=True)]
        if not any(finer) and all(math.isfinite(one.reach) for one in best):
            break
    return best
