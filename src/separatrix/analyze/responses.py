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


@dataclass(frozen=True)
class Responses:
    """Where many initial states went under one common drive.

    Args:
        groups: which response each initial state reached, shape (states), numbered from 0.
        steps: how long they were followed.
        apart: the largest distance left within a group of states that have not met, over the size of the states; 0 if all met.
    """

    groups: Tensor
    steps: int
    apart: float

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
    front = begin(system, x0).advance(steps)
    x = front.x
    size = x.abs().max().clamp(min=1e-12)
    distance = torch.cdist(x, x) / (size * system.dim**0.5)
    groups = components_of(distance < SAME)
    return Responses(groups, steps, float(distance.max()))


@torch.no_grad()
def attractors(system: System, x0: Tensor, settle: int, steps: int) -> Tensor:
    """Which attractor each initial state reaches, shape (states): told apart by the mean and the second moments of the state.

    Two runs are on one attractor when these agree within 6 of their combined standard errors (plus 1e-6 of their size).
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
    tolerance = 6 * (error[:, None].square() + error[None].square()).sqrt() + 1e-6 * (1 + mean.abs().max())
    return components_of(((mean[:, None] - mean[None]).abs() <= tolerance).all(-1))


def components_of(linked: Tensor) -> Tensor:
    """The connected components of a symmetric relation, (n, n) bool → (n) numbers from 0, in order of first appearance."""
    from scipy.sparse.csgraph import connected_components

    _, labels = connected_components(linked.cpu().numpy(), directed=False)
    return torch.as_tensor(labels, dtype=torch.int64)
