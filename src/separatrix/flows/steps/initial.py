"""Initial states of which some numbers are not known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from separatrix.core.errors import InputError, ShapeError


class Initial:
    """States at the first time as a function of their unknown numbers, which are counted from where they began.

    Args:
        x0: first guesses, shape (*batch, dim); one that requires a gradient is unknown, and is given what is found.
        unknown: which numbers of x0 are, a mask that broadcasts against it. Default: all of an x0 that requires a gradient,
            none of any other.
        batch: axes of the run, against which those of an x0 with unknown numbers broadcast: series that begin alike.

    Attributes:
        states: the first guesses of every item, shape (*batch, dim).
        unit: how much one of each unknown number is, shape (count).
        place: which of the unknown numbers each number of a state is, shape (*batch, dim, count).
    """

    def __init__(self, x0: Any, unknown: Any = None, batch: Sequence[int] = ()) -> None:
        self.given = torch.as_tensor(x0)
        guess = self.given.detach()
        guess = guess if guess.is_floating_point() else guess.double()
        if self.given.requires_grad and not self.given.is_leaf:
            raise InputError(
                "x0 requires a gradient but is computed from other tensors, which a fit cannot change.\n"
                "Pass x0.detach().requires_grad_() to have its own numbers fitted, or x0.detach() if they are known."
            )
        mask = _mask(unknown, self.given)
        self.count = int(mask.sum())
        self.unit = guess.new_ones(self.count)
        self._guess, self._mask = guess.clone(), mask
        number = mask.flatten().cumsum(0).sub(1).reshape(mask.shape)
        shape = _broadcast(guess.shape[:-1], batch) if self.count else tuple(guess.shape[:-1])
        whole = [part.expand(*shape, guess.shape[-1]) for part in (self._guess, number, mask)]
        self.states = whole[0]
        self.place = torch.eye(self.count + 1, self.count).to(guess)[whole[1].where(whole[2], self.count)]

    def at(self, z: Tensor) -> Tensor:
        """The states, shape (*batch, dim)."""
        return self.states + (self.place @ (self.unit * z) if self.count else 0.0)

    def rows(self, by_state: Tensor) -> Tensor:
        """Derivatives by the unknown numbers, (…, *batch, count, dim), from those by the states, (…, *batch, dim, dim)."""
        return self.unit[:, None] * (self.place.mT @ by_state)

    def found(self, z: Tensor) -> Tensor:
        """The states in the shape of x0."""
        return self._guess.masked_scatter(self._mask, self._guess[self._mask] + self.unit * z)

    @torch.no_grad()
    def learn(self, z: Tensor) -> None:
        """Give the user's own tensor these values."""
        if self.given.requires_grad:
            self.given.copy_(self.found(z))


def _mask(unknown: Any, x0: Tensor) -> Tensor:
    """Which numbers of x0 are unknown, a mask of its shape."""
    if unknown is None:
        return torch.full(x0.shape, x0.requires_grad, dtype=torch.bool, device=x0.device)
    mask = torch.as_tensor(unknown, device=x0.device)
    if mask.dtype != torch.bool:
        kind = str(mask.dtype).removeprefix("torch.")
        raise InputError(f"unknown is {kind}, not a mask.\nPass True for each number of x0 that is to be fitted, else False.")
    try:
        return mask.expand_as(x0)
    except RuntimeError:
        raise ShapeError(
            f"unknown has shape {tuple(mask.shape)}, but x0 {tuple(x0.shape)}: they do not broadcast.\n"
            "Pass a mask of the shape of x0, or of one state."
        ) from None


def _broadcast(own: Sequence[int], batch: Sequence[int]) -> tuple[int, ...]:
    """The axes of a run; x0's own where they do not broadcast, which is told where its states are seen."""
    try:
        return np.broadcast_shapes(tuple(own), tuple(batch))
    except ValueError:
        return tuple(own)
