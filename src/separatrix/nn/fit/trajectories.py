"""Sampled trajectories from which flows are learned."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separatrix.core.checks import check_all_finite, check_positive
from separatrix.core.errors import InputError, ShapeError
from separatrix.flows.steps.mesh import check_times

EVEN = 1e-6  # relative difference of gaps that count as equal
WHOLE = 10  # minimum number of trajectories for holding out whole ones


@dataclass(frozen=True)
class Trajectories:
    """States at sampled times.

    Args:
        states: shape (time, items, dim), float64.
        times: shape (time, items), float64.
    """

    states: Tensor
    times: Tensor

    @classmethod
    def of(cls, states: Any, times: Any) -> "Trajectories":
        """Trajectories from states (time, *batch, dim) and times (time,), (time, *batch) or one gap between samples.

        Raises:
            ShapeError: states have fewer than 2 axes or samples, or times have another shape.
            InputError: states are not finite or require gradients, or times do not increase.
        """
        if isinstance(states, Tensor) and states.requires_grad and states.is_leaf:
            raise InputError(
                "states requires a gradient, but segments start at fixed samples.\n"
                "Pass states.detach(); to fit initial states with the field, use sx.nn.fit_observations."
            )
        states = torch.as_tensor(states).detach().double()
        if states.ndim < 2 or len(states) < 2 or not states.numel():
            raise ShapeError(
                f"expected states of shape (time, *batch, dim) with at least 2 times, got {tuple(states.shape)}.\n"
                "For a scalar series pass series[:, None]."
            )
        check_all_finite("states", states, "Remove those times.")
        batch = tuple(states.shape[1:-1])
        times = _times(times, len(states), batch).to(states.device)
        each = times.reshape(len(times), -1).expand(len(times), math.prod(batch))
        return cls(states.reshape(len(states), -1, states.shape[-1]), each)

    @property
    def gap(self) -> float | None:
        """The time between two samples if it is constant."""
        gaps = self.times.diff(dim=0)
        return float(gaps.mean()) if float(gaps.amax() - gaps.amin()) <= EVEN * float(gaps.mean()) else None

    def scales(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and deviation of the states and root mean square of their finite-difference velocities, each (dim,)."""
        velocity = self.states.diff(dim=0) / self.times.diff(dim=0)[..., None]
        spread = self.states.flatten(0, 1)
        return spread.mean(0), _positive(spread.std(0, correction=0)), _positive(velocity.square().mean((0, 1)).sqrt())

    def split(self, share: float, least: int, random: torch.Generator) -> "tuple[Trajectories, Trajectories]":
        """Training and held-out parts: whole trajectories if there are ten or more, else at least `least` last times of each."""
        items, count = self.states.shape[1], len(self.states)
        if items >= WHOLE:
            order = torch.randperm(items, generator=random).to(self.states.device)
            out = max(1, round(share * items))
            return self._items(order[out:]), self._items(order[:out])
        first = count - max(least, round(share * count))
        return self._times(slice(0, max(first, 0))), self._times(slice(max(first, 0), count))

    def _items(self, which: Tensor) -> "Trajectories":
        return Trajectories(self.states[:, which], self.times[:, which])

    def _times(self, which: slice) -> "Trajectories":
        return Trajectories(self.states[which], self.times[which])


def _times(times: Any, count: int, batch: tuple[int, ...]) -> Tensor:
    """Increasing times, (time,) or (time, *batch)."""
    times = torch.as_tensor(times, dtype=torch.float64).detach()
    if times.ndim == 0:
        check_positive("times", float(times))
        return times * torch.arange(count, dtype=torch.float64)
    check_times(times, batch)
    if len(times) != count:
        raise ShapeError(f"expected {count} times, one per sample, got {len(times)}.")
    return times


def _positive(scale: Tensor) -> Tensor:
    """A positive scale: 1 for entries that never change."""
    return scale.where(scale > 0, 1.0)
