"""Initial states with unknown components."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from separatrix.core.errors import InputError, ShapeError


class Initial:
    """Initial states as a function of their unknown components, measured from the first guess.

    Args:
        x0: first guesses, shape (*batch, dim). A leaf that requires a gradient is unknown, and `learn` writes to it.
        unknown: mask of the unknown numbers, which broadcasts against x0. Default: all if x0 requires a gradient, else none.
        batch: batch axes of the run. Initial states with unknown numbers broadcast against them: several series can share a start.

    Attributes:
        states: the first guesses of every item, shape (*batch, dim).
        unit: scale of each unknown number, shape (count).
        place: one-hot index of the unknown number behind each number of a state, shape (*batch, dim, count).
    """

    def __init__(self, x0: Any, unknown: Any = None, batch: Sequence[int] = ()) -> None:
        self.given = torch.as_tensor(x0)
        guess = self.given.detach()
        guess = guess if guess.is_floating_point() else guess.double()
        if self.given.requires_grad and not self.given.is_leaf:
            raise InputError(
                "expected a leaf tensor for x0, but it requires a gradient and is computed from other tensors.\n"
                "Pass x0.detach().requires_grad_() to fit its own numbers, or x0.detach() if they are known."
            )
        mask = _mask(unknown, self.given)
        self.count = int(mask.sum())
        self.unit = guess.new_ones(self.count)
        self._guess, self._mask = guess.clone(), mask
        number = mask.flatten().cumsum(0).sub(1).reshape(mask.shape)
        shape = _broadcast(guess.shape[:-1], batch) if self.count else tuple(guess.shape[:-1])
        expanded = [part.expand(*shape, guess.shape[-1]) for part in (self._guess, number, mask)]
        self.states = expanded[0]
        self.place = torch.eye(self.count + 1, self.count).to(guess)[expanded[1].where(expanded[2], self.count)]

    def at(self, z: Tensor) -> Tensor:
        """The states, shape (*batch, dim)."""
        return self.states + (self.place @ (self.unit * z) if self.count else 0.0)

    def rows(self, by_state: Tensor) -> Tensor:
        """Derivatives in the unknown numbers, (…, *batch, count, dim), from those in the states, (…, *batch, dim, dim)."""
        return self.unit[:, None] * (self.place.mT @ by_state)

    def found(self, z: Tensor) -> Tensor:
        """The states in the shape of x0."""
        return self._guess.masked_scatter(self._mask, self._guess[self._mask] + self.unit * z)

    @torch.no_grad()
    def learn(self, z: Tensor) -> None:
        """Write the values to the user's own tensor."""
        if self.given.requires_grad:
            self.given.copy_(self.found(z))


def _mask(unknown: Any, x0: Tensor) -> Tensor:
    """Mask of the unknown numbers, of the shape of x0."""
    if unknown is None:
        return torch.full(x0.shape, x0.requires_grad, dtype=torch.bool, device=x0.device)
    mask = torch.as_tensor(unknown, device=x0.device)
    if mask.dtype != torch.bool:
        kind = str(mask.dtype).removeprefix("torch.")
        raise InputError(f"expected a Boolean mask for unknown, got {kind}.\nPass True for each number of x0 to fit, else False.")
    try:
        return mask.expand_as(x0)
    except RuntimeError:
        raise ShapeError(
            f"unknown has shape {tuple(mask.shape)}, x0 has {tuple(x0.shape)}: they do not broadcast.\n"
            "Pass a mask of the shape of x0, or of one state."
        ) from None


def _broadcast(own: Sequence[int], batch: Sequence[int]) -> tuple[int, ...]:
    """The batch axes of a run; those of x0 if they do not broadcast, which is reported where its states are checked."""
    try:
        return np.broadcast_shapes(tuple(own), tuple(batch))
    except ValueError:
        return tuple(own)
