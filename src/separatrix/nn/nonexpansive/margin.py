"""Margins of a classifier: a loss that trains them, and the radius that a Lipschitz bound certifies."""

import math

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_positive
from separatrix.core.errors import InputError, ShapeError


class MarginLoss(nn.Module):
    r"""The multiclass hinge loss  Σᵢ Σ_{j≠yᵢ} max(0, m L − (z_{yᵢ} − z_j)) / batch,  zero if every margin is at least m L.

    The margin m is a distance in input space: a network with Lipschitz factor L and zero loss on an image classifies it correctly
    within an ℓ₂ distance of m/√2; see `certified_radii`.

    Args:
        margin: m > 0.
        lipschitz: L, the Lipschitz factor of the network.

    Shape: scores z (batch, classes) and integer labels y (batch,) → one number.

    Raises:
        InputError: margin or lipschitz is not positive, or labels are not integers.
        ShapeError: scores or labels have other shapes.
    Source: Weston & Watkins 1999, ESANN; with m in units of L as in Celledoni et al. 2023, SIAM J. Sci. Comput. 45.

    Example:
        >>> loss = sx.nn.MarginLoss(margin=1.0)
        >>> loss(torch.tensor([[1.5, 1.0, 0.0]]), torch.tensor([0]))  # class 0 leads class 1 by 0.5
        tensor(0.5000)
    """

    def __init__(self, margin: float, *, lipschitz: float = 1.0) -> None:
        super().__init__()
        for name, value in (("margin", margin), ("lipschitz", lipschitz)):
            check_positive(name, value)
        self.margin, self.lipschitz = margin, lipschitz

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The loss, averaged over the batch."""
        check_shapes(scores, labels)
        wanted = self.margin * self.lipschitz
        missing = (wanted - leads(scores, labels)).relu().sum(-1) - wanted  # class y itself has lead 0
        return missing.mean()

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"margin={self.margin}, lipschitz={self.lipschitz}"


def certified_radii(scores: Tensor, labels: Tensor, lipschitz: float, *, head: Tensor | None = None) -> Tensor:
    r"""Certified ℓ₂ radii of a classifier,  minⱼ (z_y − z_j) / (g_j L):  no smaller perturbation changes a correct prediction.

    The lead z_y − z_j is the product of the scores with e_y − e_j, a vector of length √2. It is therefore √2 L-Lipschitz in the
    input, and stays positive for perturbations shorter than (z_y − z_j)/(√2 L). If the weights W of the last linear layer are given
    and L is the factor of the layers *before* it, the lead is ‖w_y − w_j‖ L-Lipschitz, which is never worse than √2 ‖W‖₂ L.

    Args:
        scores: z, shape (batch, classes).
        labels: y, shape (batch,), integers from 0 to classes − 1.
        lipschitz: L of the map from the input to the scores, or to the input of the head; a proven bound, not an estimate.
        head: W, shape (classes, features); then g_j = ‖w_y − w_j‖. Default: none, g_j = √2.

    Returns:
        Radii, shape (batch,): 0 for misclassified inputs, NaN if L is infinite and nothing can be certified.

    Raises:
        ShapeError: scores, labels or head have other shapes.
        InputError: a label is outside of the classes, or L is negative or NaN.
    Source: Tsuzuku, Sato & Sugiyama 2018, NeurIPS 31, proposition 1.

    Example:
        >>> scores, labels = torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0])
        >>> sx.nn.certified_radii(scores, labels, lipschitz=1.0)  # (3 − 1)/√2; the second is misclassified
        tensor([1.4142, 0.0000])
    """
    check_labels(scores, labels)
    if not lipschitz >= 0:
        raise InputError(f"lipschitz is {lipschitz}; expected a number ≥ 0.")
    if math.isinf(lipschitz):
        return torch.full_like(labels, math.nan, dtype=scores.dtype)
    labels = labels.long()
    lead = leads(scores, labels)
    radius = (lead / (_gains(scores, labels, head) * lipschitz)).where(lead > 0, 0.0)
    return radius.scatter(-1, labels[:, None], math.inf).amin(-1)


def leads(scores: Tensor, labels: Tensor) -> Tensor:
    """z_y − z_j for every class j, shape (batch, classes)."""
    return scores.gather(-1, labels.long()[:, None]) - scores


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    """min over j ≠ y of z_y − z_j, shape (batch,): positive for correct predictions."""
    return leads(scores, labels).scatter(-1, labels[:, None], math.inf).amin(-1)


def check_labels(scores: Tensor, labels: Tensor) -> None:
    """Check shapes, and that labels lie within the classes."""
    check_shapes(scores, labels)
    classes = scores.shape[-1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(
            f"labels range from {int(labels.min())} to {int(labels.max())}, but there are {classes} classes, 0 to {classes - 1}."
        )


def check_shapes(scores: Tensor, labels: Tensor) -> None:
    """Check shapes and the dtype of labels."""
    if scores.ndim != 2 or scores.shape[-1] < 2:
        raise ShapeError(f"expected scores of shape (batch, classes) with at least 2 classes, got {tuple(scores.shape)}.")
    if labels.shape != scores.shape[:1]:
        raise ShapeError(f"expected labels of shape ({len(scores)},), one per input, got {tuple(labels.shape)}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"expected integer labels, got {str(labels.dtype).removeprefix('torch.')}.")


def _gains(scores: Tensor, labels: Tensor, head: Tensor | None) -> Tensor:
    """The factors g_j of z_y − z_j, shape (batch, classes)."""
    if head is None:
        return torch.full_like(scores, math.sqrt(2))
    if head.ndim != 2 or len(head) != scores.shape[-1]:
        raise ShapeError(f"expected a head of shape ({scores.shape[-1]}, features), got {tuple(head.shape)}.")
    rows = head.detach().to(scores)
    return (rows[labels][:, None] - rows).norm(dim=-1)
