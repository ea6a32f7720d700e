"""Number of different responses that many initial states end in, with or without a drive."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.analysis.run.statistics import standard_error
from separatrix.core.evolve import begin
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System

SAME = 1e-6  # distance below which two responses count as one, relative to the size of the states
MOST_STEPS = 20_000
ENOUGH_E_FOLDS = 20  # states that still differ after this many e-folds are taken to differ for good


@dataclass(frozen=True)
class Separation:
    """Distances between many states under one drive, and the responses they end in.

    Args:
        steps: (time), steps after which the distances were taken.
        largest, median: (time, *batch), distance between two states, over their size; NaN once fewer than two are finite.
        size: (time, *batch), largest component of a state so far, times √dim.
        groups: (state, *batch), response that each state reached, numbered from 0; −1 if it diverged.
        closing_in: (*batch), whether the distance of two different responses halved within the last half of the time.
    """

    steps: Tensor
    largest: Tensor
    median: Tensor
    size: Tensor
    groups: Tensor
    closing_in: Tensor


@dataclass(frozen=True)
class Responses:
    """Responses of many initial states to one common drive.

    Args:
        groups: response that each initial state reached, shape (states), numbered from 0; −1 if it diverged.
        steps: number of steps for which they were followed.
        settled: whether the groups are final: all states have converged, or those that differ no longer approach each other.
    """

    groups: Tensor
    steps: int
    settled: bool

    @property
    def count(self) -> int:
        """Number of different responses."""
        return int(self.groups.max()) + 1


@torch.no_grad()
def common_drive_responses(
    system: System, states: int, rate: float, seed: int, *, visited: Tensor, most: int = MOST_STEPS
) -> Responses:
    """Follow many initial states under the same inputs for 25/|λ₁| steps.

    They are uniform in ±1, the range of a tanh network, or in ± the largest component of the visited states if that is larger.

    Args:
        system: any System; its inputs are the same for all states.
        states: number of initial states.
        rate: λ₁, nats per step; the number of steps is limited to 200 … `most` and to the horizon.
        seed: seed of the initial states.
        visited: states on the orbit of the network.
        most: maximum number of steps.
    """
    rate = abs(rate) if math.isfinite(rate) else 1.0
    steps = int(min(max(25 / max(rate, 1e-3), 200), most))
    steps = steps if system.horizon is None else min(steps, system.horizon)
    spread = max(1.0, _largest(visited))
    x0 = scattered(torch.zeros(system.dim, dtype=torch.float64), states, spread, seed)
    found = separation(_positions(system, x0, (0, steps // 2, steps)), steps)
    settled = int(found.groups.max()) < 1 or (rate * steps > ENOUGH_E_FOLDS and not bool(found.closing_in))
    return Responses(found.groups, steps, settled)


def scattered(x0: Tensor, states: int, spread: float, seed: int) -> Tensor:
    """States uniform in x0 ± spread, with the same offsets for each item of the batch, shape (states, *batch, dim)."""
    offsets = 2 * torch.rand(states, x0.shape[-1], dtype=torch.float64, generator=torch_generator(seed, "offsets of responses")) - 1
    return x0 + spread * offsets.to(x0).reshape(states, *[1] * (x0.ndim - 1), -1)


def _positions(system: System, x0: Tensor, marks: tuple[int, ...]) -> Iterator[tuple[int, Tensor]]:
    front = begin(system, x0)
    for mark in marks:
        front = front.advance(mark - front.n)
        yield mark, front.x


def separation(positions: Iterable[tuple[int, Tensor]], total: int, distinct: float = SAME) -> Separation:
    """Distances between states over time.

    Args:
        positions: pairs of a number of steps, increasing, and the states then, shape (states, *batch, dim).
        total: total number of steps.
        distinct: distance below which two states count as one, relative to the size of the states.
    """
    steps, largest, median, sizes = [], [], [], []
    size = halfway = between = x = torch.zeros(())
    for n, x in positions:
        size = torch.maximum(size, x.nan_to_num().abs().amax((0, -1)).clamp(min=1e-12))
        sizes.append(size * x.shape[-1] ** 0.5)
        between = _distances(x) / sizes[-1][..., None, None]
        halfway = between if 2 * n <= total else halfway
        steps.append(n)
        largest.append(between.flatten(-2).nan_to_num(-1.0).amax(-1))
        median.append(_of_pairs(between).nanmedian(-1).values)
    closing_in = ((between < halfway / 2) & (between >= distinct)).any(-1).any(-1)
    alive = x.isfinite().all(-1).sum(0) > 0
    spread = torch.stack(largest)
    return Separation(
        torch.tensor(steps),
        spread.where(spread >= 0, torch.nan),
        torch.stack(median),
        torch.stack(sizes),
        _groups(between < distinct, x),
        closing_in & alive,
    )


def _of_pairs(between: Tensor) -> Tensor:
    """The distances of all pairs on one axis; for a single state, its distance from itself."""
    i, j = torch.triu_indices(*between.shape[-2:], offset=1)
    return between[..., i, j] if len(i) else between.flatten(-2)


def _groups(linked: Tensor, x: Tensor) -> Tensor:
    """`grouped` for each item of a batch: (*batch, states, states) and (states, *batch, dim) → (states, *batch)."""
    states, dim = x.shape[0], x.shape[-1]
    items = zip(linked.reshape(-1, states, states), x.reshape(states, -1, dim).unbind(1), strict=True)
    return torch.stack([grouped(one, at) for one, at in items], dim=-1).reshape(states, *x.shape[1:-1])


@torch.no_grad()
def attractors(system: System, x0: Tensor, settle: int, steps: int) -> Tensor:
    """The attractor that each initial state reaches, shape (states), distinguished by the first and second moments of the state.

    Two runs are on one attractor if these agree within 6 combined standard errors plus 1e-6 of the size of the runs and of the
    initial states. Runs that diverged are marked −1.
    """
    front = begin(system, x0).advance(settle)
    unit = max(_largest(x0), _largest(front.x)) or 1.0  # makes both moments of order 1
    blocks = []
    for _ in range(32):
        total = 0.0
        for _ in range(max(steps // 32, 1)):
            front = front.advance(1)
            x = front.x / unit
            total = total + torch.cat([x, x.square()], dim=-1)
        blocks.append(total / max(steps // 32, 1))
    series = torch.stack(blocks)
    mean, error = series.mean(0), standard_error(series, torch.ones_like(series))
    tolerance = 6 * (error[:, None].square() + error[None].square()).sqrt() + SAME * (1 + _largest(mean))
    return grouped(((mean[:, None] - mean[None]).abs() <= tolerance).all(-1), mean)


def _largest(x: Tensor) -> float:
    """The largest absolute value of the finite numbers."""
    return float(x.abs().nan_to_num(nan=0.0, posinf=0.0).max())


def _distances(x: Tensor) -> Tensor:
    """Distances between states, (states, *batch, dim) → (*batch, states, states); NaN for those that diverged."""
    rows = x.movedim(0, -2)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def grouped(linked: Tensor, x: Tensor) -> Tensor:
    """Connected components of a symmetric relation between the states x, numbered from 0 in order of first appearance.

    Args:
        linked: (n, n), bool.
        x: (n, dim); states that are not finite get −1.
    """
    from scipy.sparse.csgraph import connected_components

    alive = x.isfinite().all(-1).cpu()
    groups = torch.full((len(x),), -1, dtype=torch.int64)
    if bool(alive.any()):
        _, labels = connected_components(linked.cpu()[alive][:, alive].numpy(), directed=False)
        groups[alive] = torch.as_tensor(labels, dtype=torch.int64)
    return groups
