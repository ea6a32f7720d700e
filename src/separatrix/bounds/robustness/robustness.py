"""Accuracy of a classifier under small perturbations: a certified lower bound, and an empirical upper bound by attack."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separatrix.bounds.robustness.attack import ATTACKS, Attack, drawing_from
from separatrix.core.checks import as_inputs, as_numbers, check_choice, check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.twin import twin
from separatrix.core.wording import counted, plain
from separatrix.core.wrappers import bare
from separatrix.nn.guarantee import guarantee_of
from separatrix.nn.nonexpansive.margin import certified_radii, check_labels
from separatrix.nn.nonexpansive.orthogonal import frozen

RADII = (8 / 255, 16 / 255, 36 / 255, 0.3, 0.5, 0.6, 0.8, 1.0)  # for which CIFAR-10 results are published
ROUNDING = 100  # units in the last place of the scores by which rounding may change a margin


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Robustness(Result):
    r"""Accuracy of a classifier under perturbations of ℓ₂ norm ≤ ε: certified ≤ true ≤ empirical.

    Each image has two distances, certified ≤ broken; the accuracy at ε is the share of images whose distance exceeds ε.

    Args:
        certified: (images), distance within which the classification is proven to be correct; 0 if the image is misclassified,
            NaN if no Lipschitz bound is known.
        broken: (images), distance of the misclassified image that the attack found; 0 if the image itself is misclassified, inf
            if no attack succeeded within the largest radius.
        labels, read: (images), true and predicted classes; −1 where the scores are not finite.
        radii: (radii), the ε of the attacks, ascending.
        lipschitz: the Lipschitz bound used for the certificates; inf if none is known.
    """

    certified: Tensor
    broken: Tensor
    labels: Tensor
    read: Tensor
    radii: Tensor
    lipschitz: float

    drawn_by: ClassVar[str] = "separatrix.plot.robustness:robustness_figure"
    layout: ClassVar[dict[str, str]] = {
        "certified": "batch",
        "broken": "batch",
        "labels": "batch",
        "read": "batch",
        "radii": "radius",
    }
    units: ClassVar[dict[str, str]] = {
        "certified": "the inputs' unit, ℓ₂",
        "broken": "the inputs' unit, ℓ₂",
        "radii": "the inputs' unit, ℓ₂",
    }

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def has_certificate(self) -> bool:
        """Whether a Lipschitz bound is known."""
        return math.isfinite(self.lipschitz)

    @property
    def clean(self) -> float:
        """Accuracy without perturbation."""
        return float((self.read == self.labels).double().mean())

    @property
    def certified_accuracy(self) -> Tensor:
        """Certified accuracy at each radius, shape (radii); NaN if no Lipschitz bound is known."""
        return self.certified_at(self.radii)

    @property
    def empirical_accuracy(self) -> Tensor:
        """Accuracy under attack at each radius, shape (radii)."""
        return share_beyond(self.broken, self.radii)

    def certified_at(self, radii: Tensor) -> Tensor:
        """Certified accuracy at any radii, shape of `radii`."""
        return share_beyond(self.certified, radii) if self.has_certificate else torch.full_like(radii, math.nan)

    def stderr(self, accuracy: Tensor | float) -> Tensor:
        """The binomial standard error  √(p (1 − p)/n)  of a share p in a random sample of n images."""
        share = torch.as_tensor(accuracy, dtype=torch.float64)
        return (share * (1 - share) / self.count).sqrt()

    def summary(self) -> str:
        """Clean, certified and empirical accuracy, with standard errors."""
        lines = [f"of {counted(self.count, 'image')}, {self._percent(self.clean)} are classified correctly"]
        if not self.has_certificate:
            lines.append("no certified accuracy: no Lipschitz bound is known for this network")
        for radius, proven, left in zip(self.radii, self.certified_accuracy, self.empirical_accuracy, strict=True):
            proof = f"certified {self._percent(proven)}, " if self.has_certificate else ""
            lines.append(f"within ε = {plain(float(radius))}: {proof}under attack {self._percent(left)}")
        failed = int((self.codes != Status.OK).sum())
        if failed:
            lines.append(f"{counted(failed, 'image')} with scores that are not finite, counted as misclassified")
        return "\n".join(lines)

    def _percent(self, share: Tensor | float) -> str:
        return f"{100 * float(share):.1f} ± {100 * float(self.stderr(share)):.1f} %"


def share_beyond(distances: Tensor, radii: Tensor) -> Tensor:
    """The share of distances that exceed each radius, shape of `radii`."""
    return (distances > radii.to(distances.device)[..., None]).double().mean(-1)


def robustness(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    radii: Sequence[float] | Tensor = RADII,
    lipschitz: float | None = None,
    head: Tensor | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    attack: str = "all",
    steps: int = 20,
    restarts: int = 5,
    at_once: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> Robustness:
    r"""Measure the certified and the empirical accuracy of a classifier under ℓ₂ perturbations.

    Certified: the distance of `certified_radii`, from the margin and a Lipschitz bound. Empirical: projected gradient descent (PGD)
    of the Adversarial Robustness Toolbox within each radius, smallest first, on the images that are still classified correctly. A
    perturbation within ε is also within any larger ε, so both curves decrease. An attack that succeeds within a certified
    distance disproves the Lipschitz bound and raises an error: certified ≤ empirical always holds.

    Args:
        model: maps (images, …) to scores of shape (images, classes). It is not changed; it runs in evaluation mode, in the
            dtype of the inputs (the steps of the attack in float32).
        inputs: images of any shape after the first axis, (images, …).
        labels: (images), integers.
        radii: the ε > 0 of the attacks.
        lipschitz: a proven Lipschitz bound of the model, in the ℓ₂ norms of inputs and scores. Default: that of its `guarantee`.
        head: weights (classes, features) of the last linear layer; `lipschitz` is then the bound of everything before it.
        bounds: bounds of each pixel within which attacks stay; None for none. Certificates hold in either case.
        attack: "all": the first restart maximises the lead of the nearest wrong class, the second the cross-entropy, both from the
            image itself; the others maximise the lead of one wrong class after the other, from random points in the ball.
            "margin" or "cross entropy": all restarts maximise this loss, the first from the image, the others from random points.
        steps: number of steps of each restart; the step size is 5 ε/steps.
        restarts: maximum number of restarts per image and radius.
        at_once: number of images in one batch.
        seed: seed of the random starts.
        progress: show a progress bar.

    Returns:
        Robustness: for each image the distance `certified` and the distance `broken`; accuracies with binomial standard errors.

    Raises:
        InputError: an attack disproves `lipschitz`; images are not finite or out of bounds; a label is not a class; or a radius
            is not positive.
        ShapeError: the numbers of labels and images differ, or the scores are not of shape (images, classes).
        MissingExtraError: the attack library is not installed.
    Limits: empirical accuracy is an upper bound of the true accuracy, which a stronger attack lowers: do not compare it with
        certified accuracy, or with that of a weaker attack. The rounding of the network's own arithmetic is not part of the proof.
    Source: Tsuzuku, Sato & Sugiyama 2018, NeurIPS 31 (certificate); Madry et al. 2018, ICLR (PGD); the library is Nicolae et al.
        2018, arXiv 1807.01069.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = nn.init.eye_(model.weight)  # the border is x₁ = x₂
        >>> inputs, labels = torch.tensor([[0.6, 0.4], [0.9, 0.1]]), torch.tensor([0, 0])
        >>> found = sx.bounds.robustness(model, inputs, labels, radii=(0.1, 0.3), lipschitz=1.0)
        >>> found.certified_accuracy.tolist(), found.empirical_accuracy.tolist()  # distances 0.14 and 0.57
        ([1.0, 0.5], [1.0, 0.5])
    """
    if head is not None and lipschitz is None:
        raise InputError("head requires lipschitz, the bound of everything before the last layer.\nPass both.")
    scored = Classified(model, inputs, labels, bounds, at_once)
    radii = ascending(radii).to(scored.x.device)
    bound = guarantee_of(scored.ready).lipschitz if lipschitz is None else float(lipschitz)
    certified = certified_radii(scored.scores, scored.labels, bound, head=head)
    change = nearest_found(scored, radii, attack=attack, steps=steps, restarts=restarts, seed=seed, progress=progress)
    broken = change.flatten(1).norm(dim=1)
    certified = _consistent(certified, broken, bound, scored.scores)
    settings = {"attack": attack, "steps": steps, "restarts": restarts, "at_once": at_once, "seed": seed}
    return Robustness(
        codes=torch.where(scored.finite, Status.OK, Status.DIVERGED).to(torch.int8),
        certified=certified.where(scored.right | certified.isnan(), 0.0),
        broken=broken.nan_to_num(nan=math.inf),
        labels=scored.labels,
        read=scored.read,
        radii=radii,
        lipschitz=bound,
        settings={**settings, "bounds": None if bounds is None else tuple(bounds), "head": head is not None},
    )


class Classified:
    """Classifier with matching images and labels, and its scores for them."""

    def __init__(self, model: nn.Module, inputs: Any, labels: Any, bounds: tuple[float, float] | None, at_once: int) -> None:
        model = bare(model)
        if not isinstance(model, nn.Module):
            raise UnsupportedModuleError(f"expected a classifier that is an nn.Module, got a {type(model).__name__}.")
        self.model, self.bounds, self.at_once = model, bounds, check_whole("at_once", at_once, 1)
        self.x = as_inputs("the images", inputs).detach()
        if self.x.ndim < 2 or len(self.x) == 0:
            raise ShapeError(f"the images have shape {tuple(self.x.shape)}; expected (images, …) with at least one image.")
        if self.x.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"expected images in float32 or float64, got {str(self.x.dtype).removeprefix('torch.')}.\nPass images.float()."
            )
        _check_bounds(self.x, bounds)
        self.labels = as_numbers("labels", labels, None).to(self.x.device)
        self.ready = frozen(twin(model, dtype=self.x.dtype, device=self.x.device, detach=True))
        self.scores = self.say(self.x)
        check_labels(self.scores, self.labels)
        self.labels = self.labels.long()
        self.finite = self.scores.isfinite().all(-1)
        self.read = self.scores.argmax(-1).where(self.finite, -1)
        self.right = self.read == self.labels

    @torch.no_grad()
    def say(self, x: Tensor) -> Tensor:
        """Scores of images, (images, classes)."""
        parts = [self.ready(part) for part in x.split(self.at_once)]
        if not isinstance(parts[0], Tensor):
            raise UnsupportedModuleError(
                f"expected the classifier to return a tensor, got a {type(parts[0]).__name__}.\n"
                "Wrap it in a module that returns the scores."
            )
        return torch.cat(parts)

    def attack(self, kind: str, steps: int) -> Attack:
        """The library's attack on it."""
        check_choice("attack", kind, ATTACKS)
        device = self.x.device if self.x.device.type == "cuda" else torch.device("cpu")
        model = frozen(twin(self.model, dtype=torch.float32, device=device, detach=True))
        return Attack(model, kind, self.bounds, check_whole("steps", steps, 1), self.at_once, device)


def nearest_found(
    scored: Classified, radii: Tensor, *, attack: str, steps: int, restarts: int, seed: int, progress: bool
) -> Tensor:
    """The perturbation found at the smallest radius for each image; 0 if it is misclassified itself, NaN if none was found."""
    run, each = scored.attack(attack, steps), check_whole("restarts", restarts, 1)
    change = torch.zeros_like(scored.x)
    change[scored.right] = math.nan
    with drawing_from(check_seed(seed)):
        for radius, restart in _turns(radii, each, progress):
            standing = change.flatten(1).isnan().any(1).nonzero()[:, 0]
            if not len(standing):
                break
            x, labels = scored.x[standing], scored.labels[standing]
            found = run(x, scored.scores[standing], labels, radius, restart)
            wrong = _wrong(scored.say(found), labels)
            change[standing[wrong]] = (found - x)[wrong]
    return change


def _turns(radii: Tensor, restarts: int, progress: bool) -> Iterator[tuple[float, int]]:
    """Every restart at the smallest radius, then at the next."""
    for tick in watched_count(len(radii) * restarts, "Attacks", progress):
        yield float(radii[tick.index // restarts]), tick.index % restarts


def _wrong(scores: Tensor, labels: Tensor) -> Tensor:
    return (scores.argmax(-1) != labels) | ~scores.isfinite().all(-1)


def _consistent(certified: Tensor, broken: Tensor, lipschitz: float, scores: Tensor) -> Tensor:
    """Certified distances, after checking that no attack came closer than rounding explains."""
    if not math.isfinite(lipschitz):
        return certified
    slack = ROUNDING * torch.finfo(scores.dtype).eps * scores.abs().amax(-1) / max(lipschitz, 1e-30)
    excess = certified - broken - slack
    if (excess > 0).any():
        i = int(excess.nan_to_num(nan=-math.inf).argmax())
        raise InputError(
            f"{lipschitz:.6g} is not a Lipschitz bound of this network: image {i} is certified within {float(certified[i]):.6g}, "
            f"but is misclassified at a distance of {float(broken[i]):.6g}.\n"
            "Pass a proven bound, such as that of sx.certificate; a power iteration does not prove one."
        )
    return torch.minimum(certified, broken.nan_to_num(nan=math.inf))


def ascending(radii: Any) -> Tensor:
    """The radii in ascending order; raises InputError if one is not positive."""
    values = as_numbers("radii", radii).flatten()
    if not len(values) or not (values.isfinite() & (values > 0)).all():
        raise InputError(f"radii are {values.tolist()}; expected at least one number, all positive.")
    return values.unique(sorted=True)


def _check_bounds(x: Tensor, bounds: tuple[float, float] | None) -> None:
    if bounds is None:
        return
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise InputError(f"bounds are {bounds}; expected two numbers, the first below the second.")
    low, high = bounds
    if x.min() < low or x.max() > high:
        raise InputError(
            f"the pixels range from {float(x.min()):.4g} to {float(x.max()):.4g}, outside the bounds {low} to {high}.\n"
            "Pass raw pixels and normalise within the model, or pass other bounds or bounds=None."
        )
