"""The unstable and stable subspaces spanned by covariant vectors, and the smallest angle between them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.orthonormal import orthonormalise

SURE = 3  # standard errors of 0 within which a direction is neutral
ROUNDED = 1e-9  # nats per unit time: a smaller exponent counts as zero, however small its error bar


@dataclass(frozen=True)
class Split:
    """Numbers of unstable vectors and, after them, of neutral and stable ones, each of shape (*batch)."""

    unstable: Tensor
    neutral: Tensor
    stable: Tensor


def split_by_sign(exponents: Tensor, stderr: Tensor, followed: Tensor) -> Split:
    """The split by the signs of descending exponents, which count as zero within 3 standard errors.

    Args:
        exponents, stderr: (*batch, k).
        followed: (*batch, k), bool, the vectors that exist; the others belong to none of the three.
    """
    doubt = (SURE * stderr.nan_to_num(0.0)).clamp(min=ROUNDED)
    unstable = ((exponents > doubt) & followed).long().cumprod(-1).sum(-1)
    count = followed.sum(-1)
    not_stable = ((exponents >= -doubt) & followed).long().flip(-1).cummax(-1).values.flip(-1).sum(-1)
    return Split(unstable, not_stable - unstable, count - not_stable)


def smallest_angle(coordinates: Tensor, split: Split) -> Tensor:
    """The smallest principal angle between the two subspaces, radians, shape (*batch); NaN if either is empty.

    In the coordinates of the orthonormal frame the vectors are the rows of a lower triangle. The first u axes therefore span the
    unstable subspace, and the sine of the angle is the smallest singular value of the stable basis in the remaining coordinates.

    Args:
        coordinates: (*batch, k, k), unit rows.
        split: numbers of unstable, neutral and stable rows.
    """
    k = coordinates.shape[-1]
    rows = coordinates.reshape(-1, k, k)
    kinds = torch.stack([split.unstable, split.neutral, split.stable], dim=-1).reshape(-1, 3)
    angles = rows.new_full((len(rows),), torch.nan)
    defined = (kinds[:, 0] > 0) & (kinds[:, 2] > 0) & rows.isfinite().all(-1).all(-1)
    for kind in kinds[defined].unique(dim=0):
        items = defined & (kinds == kind).all(-1)
        u, neutral, s = kind.tolist()
        basis, _ = orthonormalise(rows[items, u + neutral : u + neutral + s])
        angles[items] = torch.linalg.svdvals(basis[..., u:])[..., -1].clamp(max=1).asin()
    return angles.reshape(coordinates.shape[:-2])
