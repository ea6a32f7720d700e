"""Zeros known already: a guess near one is brought there without a Jacobian of its own."""

import torch
from torch import Tensor

from separatrix.analysis.fixed.newton import Linear, Linearised, Residual, Zeros, allowed

HALVED = 0.5  # of the distance to a zero: where a step leaves no more, those after it converge
CHORDS = 30  # steps at most
SAME = 1e-6  # distance, over the size of the state, under which two zeros are one
MOST_NUMBERS = 2**24  # in all inverses


class Anchors:
    r"""Isolated zeros z of r, each with J(z)⁻¹, and the chord steps  x ← x − J(z)⁻¹ r(x)  to the nearest one.

    The Jacobian is exact at the zero, so that they converge quadratically like Newton's, at the cost of a product each.
    """

    def __init__(self, residual: Residual, linearised: Linearised) -> None:
        self.residual, self.linearised = residual, linearised
        self._at: Linear | None = None
        self._inverse = torch.zeros(0)

    def add(self, x: Tensor) -> None:
        """Take in zeros that are not among these yet; those without an inverse, and more than memory should hold, are left out."""
        x = self._new(x)
        if not len(x):
            return
        at = Linear.at(self.linearised, x)
        inverse, failed = torch.linalg.inv_ex(at.jacobian)
        sound = (failed == 0) & ~at.vague()
        room = MOST_NUMBERS // x.shape[-1] ** 2 - len(self._inverse)
        kept = sound & (sound.cumsum(0) <= room)
        at, inverse = at.only(kept), inverse[kept]
        if self._at is not None:
            at, inverse = self._at.joined(at), torch.cat([self._inverse, inverse])
        if len(inverse):
            self._at, self._inverse = at, inverse

    def _new(self, x: Tensor) -> Tensor:
        """One of each group of states that are near each other, and near none of the zeros."""
        within = SAME * x.norm(dim=-1).clamp(min=1)
        if self._at is not None:
            apart = torch.cdist(x, self._at.x).amin(-1) > within
            x, within = x[apart], within[apart]
        earlier = (torch.cdist(x, x) <= within).tril(-1).any(-1)
        return x[~earlier]

    def landed(self, x: Tensor, r: Tensor, tol: float) -> tuple[Tensor, Zeros | None]:
        """Which of the items x with residuals r come to one of the zeros, (items), bool, and where these then are.

        An item is taken along only if its first step leaves no more than half of the distance to the nearest zero.
        """
        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if self._at is None:
            return none, None
        nearest = torch.cdist(x, self._at.x).argmin(-1)
        trial = x - self._moved(nearest, r)
        zero = self._at.x[nearest]
        near = (trial - zero).norm(dim=-1) <= HALVED * (x - zero).norm(dim=-1)
        if not bool(near.any()):
            return none, None
        nearest, trial = nearest[near], trial[near]
        length = self._at.length[nearest]
        r = self.residual(trial)
        for _ in range(CHORDS):
            arrived = (r.abs() <= allowed(tol, trial, length)).all(-1)
            further = trial - self._moved(nearest, r)
            ahead = self.residual(further)
            better = ahead.abs().amax(-1) < r.abs().amax(-1)
            trial, r = further.where(better[:, None], trial), ahead.where(better[:, None], r)
            if bool((arrived | ~better).all()):  # those that have arrived take one more step: it is what rounding leaves
                break
        arrived = (r.abs() <= allowed(tol, trial, length)).all(-1)
        which = none.clone()
        which[near.nonzero()[arrived, 0]] = True
        size, no = r.abs().amax(-1)[arrived], torch.zeros_like(arrived[arrived])
        return which, Zeros(trial[arrived], size, ~no, no, torch.zeros_like(size))

    def _moved(self, nearest: Tensor, r: Tensor) -> Tensor:
        return (self._inverse[nearest] @ r[..., None])[..., 0]
