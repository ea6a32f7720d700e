"""Known zeros: a guess near one converges to it without a Jacobian of its own."""

import torch
from torch import Tensor

from separatrix.analysis.fixed.newton import Linear, Linearised, Residual, Zeros, allowed

HALVED = 0.5  # a step that leaves at most this share of the distance to a zero is followed by convergence
CHORDS = 30  # maximum number of steps
SAME = 1e-6  # distance relative to the size of the state below which two zeros are the same
MOST_NUMBERS = 2**24  # in all inverses together


class Anchors:
    r"""Isolated zeros z of r with J(z)⁻¹, and chord steps  x ← x − J(z)⁻¹ r(x)  to the nearest one.

    The Jacobian is exact at the zero, so the steps converge quadratically, like Newton's, at the cost of one product each.
    """

    def __init__(self, residual: Residual, linearised: Linearised) -> None:
        self.residual, self.linearised = residual, linearised
        self._at: Linear | None = None
        self._inverse = torch.zeros(0)

    def add(self, x: Tensor) -> None:
        """Add new zeros, except those without an inverse and those that exceed the memory limit."""
        x = self._new(x)
        if not len(x):
            return
        at = Linear.at(self.linearised, x)
        inverse, failed = torch.linalg.inv_ex(at.jacobian)
        invertible = (failed == 0) & ~at.vague()
        room = MOST_NUMBERS // x.shape[-1] ** 2 - len(self._inverse)
        kept = invertible & (invertible.cumsum(0) <= room)
        at, inverse = at.only(kept), inverse[kept]
        if self._at is not None:
            at, inverse = self._at.joined(at), torch.cat([self._inverse, inverse])
        if len(inverse):
            self._at, self._inverse = at, inverse

    def _new(self, x: Tensor) -> Tensor:
        """One state of each group of neighbours, without those near a known zero."""
        within = SAME * x.norm(dim=-1).clamp(min=1)
        if self._at is not None:
            apart = torch.cdist(x, self._at.x).amin(-1) > within
            x, within = x[apart], within[apart]
        earlier = (torch.cdist(x, x) <= within).tril(-1).any(-1)
        return x[~earlier]

    def landed(self, x: Tensor, r: Tensor, tol: float) -> tuple[Tensor, Zeros | None]:
        """Which items x with residuals r converge to a known zero, (items), bool, and where they end.

        An item is tried only if its first step at least halves the distance to the nearest zero.
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
            if bool((arrived | ~better).all()):  # arrived items have taken one more step, down to rounding
                break
        arrived = (r.abs() <= allowed(tol, trial, length)).all(-1)
        converged = none.clone()
        converged[near.nonzero()[arrived, 0]] = True
        size, false = r.abs().amax(-1)[arrived], torch.zeros_like(arrived[arrived])
        return converged, Zeros(trial[arrived], size, ~false, false, torch.zeros_like(size))

    def _moved(self, nearest: Tensor, r: Tensor) -> Tensor:
        return (self._inverse[nearest] @ r[..., None])[..., 0]
