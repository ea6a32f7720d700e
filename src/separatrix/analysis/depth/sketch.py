"""Sketches: random sums of the numbers of wide outputs, which keep lengths and inner products of their tangents."""

import torch
from torch import Tensor

from separatrix.core.randomness import torch_generator

MOST = 4096  # numbers of a sketch

# Note [Sketches]
# The gain at a layer needs lengths and inner products of a few pushed tangents, not the tangents themselves, which at all layers
# of a transformer fill gigabytes. Wide ones are added up in 4,096 groups with random signs: E‖S y‖² = ‖y‖², and the variance of
# ‖S y‖²/‖y‖² is at most 2/4,096, as if from one tangent along 4,096 directions. (Charikar, Chen & Farach-Colton 2004, Theor.
# Comput. Sci. 312, 3, "count sketch".)


class Sketch:
    """The linear map  y ↦ S y  of rows (*batch, width) to rows of at most `MOST` numbers, the same for all rows of a width."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._signs: dict[int, Tensor] = {}

    def __call__(self, rows: Tensor) -> Tensor:
        """S y; a copy of y if that is short enough."""
        width = rows.shape[-1]
        if width <= MOST:
            return rows.clone()
        signed = rows * self._of(width, rows)
        whole = width - width % MOST
        total = signed[..., :whole].unflatten(-1, (-1, MOST)).sum(-2)
        return total + torch.nn.functional.pad(signed[..., whole:], (0, MOST - width % MOST)) if whole < width else total

    def back(self, short: Tensor, width: int) -> Tensor:
        """Sᵀ w."""
        if width <= MOST:
            return short
        return short.repeat(*[1] * (short.ndim - 1), -(-width // MOST))[..., :width] * self._of(width, short)

    def _of(self, width: int, like: Tensor) -> Tensor:
        if width not in self._signs:
            generator = torch_generator(self.seed, "signs of a sketch")
            self._signs[width] = torch.randint(0, 2, (width,), generator=generator).mul_(2).sub_(1).to(like)
        return self._signs[width]
