"""Margins of a classifier: the loss that asks for them, and the radius within which a Lipschitz bound turns them into proof."""

import math

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, ShapeError


class MarginLoss(nn.Module):
    r"""The multiclass hinge loss  Σᵢ Σ_{j≠yᵢ} max(0, m L − (z_{yᵢ} − z_j)) / batch,  which is 0 when every margin is at least m L.

    A network with Lipschitz factor L whose loss on an image is 0 reads it right within an ℓ₂ distance of m/√2, see
    `certified_radii`: m is a distance in the space of the inputs.

    Args:
        margin: m > 0.
        lipschitz: L, the factor of the network.

    Shape: scores z (batch, classes) and labels y (batch), whole numbers; gives one number.

    Raises:
        InputError: a margin or factor that is not positive; labels that are no whole numbers.
        ShapeError: scores or labels are not of these shapes.
    Source: Weston & Watkins 1999, ESANN; with m in units of L as in Celledoni et al. 2023, SIAM J. Sci. Comput. 45.
    """

    def __init__(self, margin: float, *, lipschitz: float = 1.0) -> None:
        super().__init__()
        for name, value in (("margin", margin), ("lipschitz", lipschitz)):
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}; it is a positive number.")
        self.margin, self.lipschitz = margin, lipschitz

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch."""
        check_shapes(scores, labels)
        wanted = self.margin * self.lipschitz
        missing = (wanted - leads(scores, labels)).relu().sum(-1) - wanted  # the class itself leads by 0
        return missing.mean()

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"margin={self.margin}, lipschitz={self.lipschitz}"


def certified_radii(scores: Tensor, labels: Tensor, lipschitz: float, *, head: Tensor | None = None) -> Tensor:
    r"""The ℓ₂ distance within which a classifier is proven to keep reading each input right:  minⱼ (z_y − z_j) / (g_j L).

    Why: z_y − z_j is the product of the scores with e_y − e_j, a vector of length √2, so it is √2 L-Lipschitz in the input and
    stays positive for every perturbation shorter than (z_y − z_j)/(√2 L). With the last linear layer's weights W known and L
    the factor of what comes *before* it, z_y − z_j is ‖w_y − w_j‖ L-Lipschitz, which is never worse than √2 ‖W‖₂ L.

    Args:
        scores: z, shape (batch, classes).
        labels: y, shape (batch), whole numbers from 0 to classes − 1.
        lipschitz: L of the map from the input to the scores, or to the head's input; a proven bound, not an estimate.
        head: W, shape (classes, features). Default: none, g_j = √2.

    Returns:
        Shape (batch); 0 where the input is read wrong, NaN where L is infinite: nothing is proven then.

    Raises:
        ShapeError: scores, labels or head are not of these shapes.
        InputError: a label is not one of the classes, or L is negative or NaN.
    Source: Tsuzuku, Sato & Sugiyama 2018, NeurIPS 31, proposition 1.
    """
    check_labels(scores, labels)
    if not lipschitz >= 0:
        raise InputError(f"lipschitz is {lipschitz}; a Lipschitz factor is a number from 0 on.")
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
    """min over j ≠ y of z_y − z_j, shape (batch): positive where the input is read right."""
    return leads(scores, labels).scatter(-1, labels[:, None], math.inf).amin(-1)


def check_labels(scores: Tensor, labels: Tensor) -> None:
    """Refuse scores of other than two axes and two classes, and labels that do not fit them."""
    check_shapes(scores, labels)
    classes = scores.shape[-1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, but the classifier has {classes} classes, "
            f"0 to {classes - 1}."
        )


def check_shapes(scores: Tensor, labels: Tensor) -> None:
    """The same without a look at the numbers."""
    if scores.ndim != 2 or scores.shape[-1] < 2:
        raise ShapeError(f"scores have shape {tuple(scores.shape)}; a classifier gives (images, classes), at least 2 classes.")
    if labels.shape != scores.shape[:1]:
        raise ShapeError(f"there are {len(scores)} images but labels of shape {tuple(labels.shape)}.\nPass one for each image.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels are {str(labels.dtype).removeprefix('torch.')}; a label is a whole number, the class's place.")


def _gains(scores: Tensor, labels: Tensor, head: Tensor | None) -> Tensor:
    """g_j: by how much a unit step of the head's input may change z_y − z_j, shape (batch, classes)."""
    if head is None:
        return torch.full_like(scores, math.sqrt(2))
    if head.ndim != 2 or len(head) != scores.shape[-1]:
        raise ShapeError(f"the head has shape {tuple(head.shape)}; it is (classes, features), of {scores.shape[-1]} classes.")
    rows = head.detach().to(scores)
    return (rows[labels][:, None] - rows).norm(dim=-1)
