"""Homotopy paths from guesses to zeros, for guesses on which Newton's method stalls."""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.analysis.fixed.newton import Linearised, solved

FIRST = 0.05  # length of the first step
LEAST = 1e-8  # length of a step below which a path is given up
CONTRACTION = 0.2  # maximum correction of a step, relative to its length
FARTHEST = 10.0  # |λ| beyond which a path is given up, because it goes to infinity
BEND = 0.9  # minimum cosine between tangents at successive points
SHORTER, LONGER = 0.25, 2.0  # factor after a rejected step, and maximum factor after an accepted one


@dataclass(frozen=True)
class Paths:
    """A batch of paths y(s) = (x, λ): the last point on each, its tangent, the next step length, and whether to recentre first."""

    y: Tensor
    tangent: Tensor
    length: Tensor
    centring: Tensor


def follow(linearised: Linearised, x0: Tensor, crossings: Tensor, *, max_steps: int) -> Tensor:
    r"""States near zeros of r, on the paths  λ r(x) = (1 − λ) (x − x0)  from (x0, λ = 0) through λ = 1.

    If r points inwards on a large sphere (F(x) − x of a network with bounded states; a dissipative flow), the path from almost
    every x0 is smooth and crosses λ = 1. It is parametrised by arc length, so it may turn back in λ, and each step is corrected by
    one Newton step perpendicular to the tangent. A path may cross λ = 1 several times. The sign of det(−J) alternates between
    successive crossings; it is +1 at the first.

    Args:
        linearised: x ↦ r(x), J(x).
        x0: (items, dim).
        crossings: (items), the crossing of λ = 1 at which to stop, counted from 1.
        max_steps: maximum number of steps on each path.

    Returns:
        The states at the crossings of λ = 1, (items, largest number of crossings, dim); NaN for crossings that were not reached.

    Source: Chow, Mallet-Paris & Yorke 1978, Math. Comp. 32, 887; Watson 1979, Appl. Math. Comput. 5, 297.
    """
    y = torch.cat([x0, torch.zeros_like(x0[:, :1])], dim=-1)
    upwards = torch.zeros_like(y)
    upwards[:, -1] = 1
    length = torch.full_like(y[:, 0], FIRST)
    paths = Paths(y, upwards, length, torch.ones_like(length, dtype=torch.bool))
    met = torch.zeros_like(crossings)
    ends = x0.new_full((len(x0), int(crossings.max()), x0.shape[-1]), torch.nan)
    for _ in range(max_steps):
        at = ((met < crossings) & (paths.length > LEAST) & (paths.y[:, -1].abs() < FARTHEST)).nonzero()[:, 0]
        if not len(at):
            break
        before = paths.y[at]
        _advance(linearised, x0, paths, at)
        after = paths.y[at]
        share = (1 - before[:, -1]) / (after[:, -1] - before[:, -1])
        through = (share > 0) & (share <= 1)
        ends[at[through], met[at[through]]] = (before + share[:, None] * (after - before))[through, :-1]
        met[at] += through
    return ends


def _advance(linearised: Linearised, x0: Tensor, paths: Paths, at: Tensor) -> None:
    """One step on the paths with indices `at`; a rejected step is repeated from a recentred point."""
    tangent, length, centring = paths.tangent[at], paths.length[at], paths.centring[at]
    ahead = paths.y[at] + tangent * length.masked_fill(centring, 0.0)[:, None]
    correction, turned = _corrected(linearised, x0[at], ahead, tangent)
    size = correction.norm(dim=-1)
    held = (size <= CONTRACTION * length) & ((turned * tangent).sum(-1) > BEND)
    accepted = torch.isfinite(correction + turned).all(-1) & (held | centring)
    new, kept = at[accepted], accepted & ~centring
    paths.y[new] = (ahead + correction)[accepted]
    paths.tangent[new] = turned[accepted]
    growth = (CONTRACTION * length / (2 * size)).sqrt().clamp(0.5, LONGER)
    paths.length[at] = torch.where(kept, length * growth, torch.where(accepted, length, length * SHORTER))
    paths.centring[at] = ~accepted


def _corrected(linearised: Linearised, x0: Tensor, y: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """The Newton step back to the path, perpendicular to its tangent, and the new tangent."""
    x, share = y[:, :-1], y[:, -1:]
    r, jacobian = linearised(x)
    matrix = torch.empty(*y.shape, y.shape[-1], dtype=y.dtype, device=y.device)
    matrix[:, :-1, :-1] = share[..., None] * jacobian
    matrix[:, :-1, :-1].diagonal(dim1=-2, dim2=-1).sub_(1 - share)
    matrix[:, :-1, -1] = r + x - x0
    matrix[:, -1] = tangent
    right = torch.zeros(*y.shape, 2, dtype=y.dtype, device=y.device)
    right[:, :-1, 0] = (1 - share) * (x - x0) - share * r
    right[:, -1, 1] = 1
    correction, turned = solved(matrix, right).unbind(-1)
    return correction, turned / turned.norm(dim=-1, keepdim=True)
