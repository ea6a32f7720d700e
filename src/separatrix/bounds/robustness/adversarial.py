"""One image, several classifiers: the small change with which each of them misclassifies it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from separatrix.bounds.robustness.robustness import Classified, ascending, nearest_found
from separatrix.core.errors import InputError
from separatrix.core.result import Result, Status
from separatrix.core.wording import plain

LADDER = tuple(0.05 * 1.1**i for i in range(60))  # ε from 0.05 to 14, each a tenth larger than the last


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AdversarialImages(Result):
    r"""Adversarial images x + δ: for each of several networks, a perturbation δ with which it misclassifies x + δ.

    Args:
        images: x, (images, pixels).
        perturbations: δ, (networks, images, pixels); NaN where no attack succeeded.
        distances: ‖δ‖₂, (networks, images); 0 where the network misclassifies x itself, inf where no attack succeeded.
        labels: (images), the true classes.
        read: (networks, images), the class that each network predicts for x.
        misread: (networks, networks, images), [i, j]: the class that network j predicts for x + δ of network i; −1 without δ.
        names: names of the networks.
        shape: shape of an image.
    """

    images: Tensor
    perturbations: Tensor
    distances: Tensor
    labels: Tensor
    read: Tensor
    misread: Tensor
    names: tuple[str, ...]
    shape: tuple[int, ...]

    drawn_by: ClassVar[str] = "separatrix.plot.adversarial:adversarial_figure"
    layout: ClassVar[dict[str, str]] = {
        "images": "batch pixel",
        "perturbations": "network batch pixel",
        "distances": "network batch",
        "labels": "batch",
        "read": "network batch",
        "misread": "network reader batch",
    }
    units: ClassVar[dict[str, str]] = {
        "images": "the inputs' unit",
        "perturbations": "the inputs' unit",
        "distances": "the inputs' unit, ℓ₂",
    }

    def summary(self) -> str:
        """The distance of each network from a misclassification."""
        lines = []
        for name, distances in zip(self.names, self.distances, strict=True):
            met = distances[distances.isfinite()]
            nearest = f"misclassified at ‖δ‖₂ = {plain(float(met.median()))} (median)" if len(met) else "never misclassified"
            lines.append(f"{name}: {nearest}, {len(met)} of {len(distances)}")
        return "\n".join(lines)


def adversarial_images(
    models: Mapping[str, nn.Module],
    inputs: Tensor,
    labels: Tensor,
    *,
    radii: Sequence[float] | Tensor = LADDER,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    attack: str = "all",
    steps: int = 20,
    restarts: int = 5,
    at_once: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> AdversarialImages:
    r"""Find the smallest perturbation with which each network misclassifies an image, and the predictions of the others for it.

    The attack of `robustness` tries increasing radii until it succeeds: ‖δ‖₂ exceeds the smallest distance at which this attack
    succeeds by at most the gap between two radii.

    Args:
        models: networks by name, which take the same images.
        inputs: images, (images, …).
        labels: (images), integers.
        radii: the ε > 0 to try. Default: 0.05 to 14, in steps of 10 %.
        bounds, attack, steps, restarts, at_once, seed, progress: as for `robustness`.

    Returns:
        AdversarialImages; an image that some network never misclassifies is "not converged".

    Raises:
        InputError: there are no networks; otherwise as for `robustness`.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = nn.init.eye_(model.weight)  # the border is x₁ = x₂
        >>> inputs, labels = torch.tensor([[0.6, 0.4]]), torch.tensor([0])  # at a distance of 0.14
        >>> found = sx.bounds.adversarial_images({"linear": model}, inputs, labels, radii=(0.1, 0.2))
        >>> print(f"{found.distances.item():.1f}")  # the first radius at which the attack succeeds
        0.2
    """
    if not models:
        raise InputError("models is empty; expected at least 1 network.")
    scored = {name: Classified(model, inputs, labels, bounds, at_once) for name, model in models.items()}
    options = {"attack": attack, "steps": steps, "restarts": restarts, "seed": seed}
    changes = [nearest_found(each, ascending(radii), progress=progress, **options) for each in scored.values()]
    first = next(iter(scored.values()))
    distances = torch.stack([change.flatten(1).norm(dim=1) for change in changes]).nan_to_num(nan=math.inf)
    return AdversarialImages(
        codes=torch.where(distances.isfinite().all(0), Status.OK, Status.NOT_CONVERGED).to(torch.int8),
        images=first.x.flatten(1),
        perturbations=torch.stack([change.flatten(1) for change in changes]),
        distances=distances,
        labels=first.labels,
        read=torch.stack([each.read for each in scored.values()]),
        misread=torch.stack([torch.stack([_read(each, first.x + change) for each in scored.values()]) for change in changes]),
        names=tuple(scored),
        shape=tuple(first.x.shape[1:]),
        settings={**options, "at_once": at_once, "bounds": None if bounds is None else tuple(bounds)},
    )


def _read(classified: Classified, x: Tensor) -> Tensor:
    """The class that a network predicts; −1 without an image or a finite score."""
    scores = classified.say(x)
    return scores.argmax(-1).where(scores.isfinite().all(-1) & ~x.flatten(1).isnan().any(-1), -1)
