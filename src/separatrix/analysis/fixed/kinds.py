"""What the eigenvalues at a fixed point say: does it attract, repel, or both, and does it turn?"""

import torch
from torch import Tensor

BORDER = {torch.float64: 1e-6, torch.float32: 1e-3}  # nearer to the border than this, a sign may be rounding's


def kind_of(growth: Tensor, turning: Tensor, border: float, dim: int | None = None) -> str:
    """The kind of one fixed point in words.

    A node or a focus is told by its leading eigenvalue, which is what is seen near it.

    Args:
        growth: (dim), descending, negative inwards: ln|μ| of a map, Re λ / max|λ| of a flow.
        turning: (dim), zero for a real eigenvalue.
        border: a growth below this in size is undecided.
        dim: of the state, where only the leading eigenvalues are known. NaN stands for those that were not found.
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
