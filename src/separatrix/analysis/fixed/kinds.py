"""Kinds of fixed points from their eigenvalues: node, focus, saddle or centre, stable or unstable."""

import torch
from torch import Tensor

BORDER = {torch.float64: 1e-6, torch.float32: 1e-3}  # distance from the border of stability below which a sign may be rounding


def kind_of(growth: Tensor, turning: Tensor, border: float, dim: int | None = None) -> str:
    """The kind of one fixed point in words.

    The leading eigenvalue, which dominates nearby, decides between node and focus.

    Args:
        growth: (eigenvalue), descending: ln|μ| of a map, Re λ / max|λ| of a flow. NaN for eigenvalues that were not found.
        turning: (eigenvalue), zero for a real eigenvalue.
        border: absolute growth below which the sign is undecided.
        dim: dimension of the state, if only the leading eigenvalues are known.
    """
    if growth.isnan().any():
        return "undecided"
    dim = dim or len(growth)
    outwards, undecided = int((growth > border).sum()), int((growth.abs() <= border).sum())
    turns = turning.abs() > border
    if undecided:
        return "centre" if undecided == dim and turns.all() else "undecided"
    if outwards == len(growth) < dim:
        return f"at least {outwards} unstable directions"
    if 0 < outwards < dim:
        return f"saddle with {outwards} unstable direction{'' if outwards == 1 else 's'}"
    return f"{'unstable' if outwards else 'stable'} {'focus' if turns[0] else 'node'}"
