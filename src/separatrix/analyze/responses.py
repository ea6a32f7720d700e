"""How many different things many initial states end up doing: under one drive, or with none."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.analysis.statistics import standard_error
from separatrix.evolve import begin
from separatrix.system import System

SAME = 1e-6  # distance, over the size of the states, under which two responses are one
MOST_STEPS = 20_000
ENOUGH_E_FOLDS = 20  # after which states that still differ are taken to differ for good


@dataclass(frozen=True)
class Responses:
    """Where many initial states went under one common drive.

    Args:
        groups: which response each initial state reached, shape (states), numbered from 0; −1 for those that diverged.
        steps: how long they were followed.
        settled: whether that is their end: all have met, or what is apart has stopped closing in.
    """

    groups: Tensor
    steps: int
    settled: bool

    @property
    def count(self) -> int:
        """How many different responses."""
        return int(self.groups.max()) + 1


@torch.no_grad()
def common_drive_responses(system: System, states: int, rate: float, seed: int) -> Responses:
    """Follow many initial states, uniform in ±1, under the same inputs, for as long as λ₁ says that forgetting takes.

    Args:
        system: any System, its inputs the same for all.
        states: how many.
        rate: λ₁, nats per step; states are given 25/|λ₁| steps, from 200 to 20,000 and within the horizon.
        seed: of the initial states.
    """
    rate = abs(rate) if math.isfinite(rate) else 1.0
    steps = int(min(max(25 / max(rate, 1e-3), 200), MOST_STEPS))
    steps = steps if system.horizon is None else min(steps, system.horizon)
    x0 = 2 * torch.rand(states, system.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1
    halfway = begin(system, x0).advance(steps // 2)
    end = halfway.advance(steps - steps // 2)
    before, after = _distances(halfway.x), _distances(end.x)
    groups = grouped(after < SAME, end.x)
    closing_in = bool(((after < before / 2) & (after >= SAME)).any())
    settled = int(groups.max()) < 1 or (rate * steps > ENOUGH_E_FOLDS and not closing_in)
    return Responses(groups, steps, settled)


@torch.no_grad()
def attractors(system: System, x0: Tensor, settle: int, steps: int) -> Tensor:
    """Which attractor each initial state reaches, shape (states): told apart by the mean and the second moments of the state.

    Two runs are on one attractor when these agree within 6 of their combined standard errors (plus 1e-6 of their size). Those that
    diverged are on none: −1.
    """
    front = begin(system, x0).advance(settle)
    blocks = []
    for _ in range(32):
        total = 0.0
        for _ in range(max(steps // 32, 1)):
            front = front.advance(1)
            total = total + torch.cat([front.x, front.x.square()], dim=-1)
        blocks.append(total / max(steps // 32, 1))
    series = torch.stack(blocks)
    mean, error = series.mean(0), standard_error(series, torch.ones_like(series))
    size = mean.abs().nan_to_num(posinf=0.0).max()
    tolerance = 6 * (error[:, None].square() + error[None].square()).sqrt() + 1e-6 * (1 + size)
    return grouped(((mean[:, None] - mean[None]).abs() <= tolerance).all(-1), mean)


def _distances(x: Tensor) -> Tensor:
    """Distances between states, (n, n), over their size; NaN with one that diverged."""
    size = x.nan_to_num().abs().max().clamp(min=1e-12)
    return torch.cdist(x, x) / (size * x.shape[-1] ** 0.5)


def grouped(linked: Tensor, x: Tensor) -> Tensor:
    """The connected components of a symmetric relation between the states x, numbered from 0 in order of first appearance.

    Args:
        linked: (n, n), bool.
        x: (n, dim); those that are not finite belong to no group: −1.
    """
    from scipy.sparse.csgraph import connected_components

    alive = x.isfinite().all(-1).cpu()
    groups = torch.full((len(x),), -1, dtype=torch.int64)
    if bool(alive.any()):
        _, labels = connected_components(linked.cpu()[alive][:, alive].numpy(), directed=False)
        groups[alive] = torch.as_tensor(labels, dtype=torch.int64)
    return groups
