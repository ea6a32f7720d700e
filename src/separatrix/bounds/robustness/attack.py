"""Attacks on a classifier by the Adversarial Robustness Toolbox: PGD within an ℓ₂ ball."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.errors import MissingExtraError
from separatrix.core.randomness import Draws
from separatrix.nn.nonexpansive.margin import margins

STRIDE = 5.0  # times ε/steps, the step size: with the usual 2.5, a walk from a random point ends before it has turned
WITHIN = 1 - 1e-6  # of ε, to which a perturbation is shortened, so that rounding does not move it out of the ball


class _Lead(nn.Module):
    """Minus the margin, a loss that does not depend on the scale of the scores (Carlini & Wagner 2017)."""

    def forward(self, scores: Tensor, own: Tensor) -> Tensor:
        return -margins(scores, own.argmax(-1)).sum()


class _Entropy(nn.Module):
    """Cross-entropy loss: its gradient vanishes for distant scores; for close ones, it pulls to all wrong classes at once."""

    def forward(self, scores: Tensor, own: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, own.argmax(-1), reduction="sum")


class _Towards(nn.Module):
    """Lead of one wrong class over the true class; their difference is e_wrong − e_own."""

    def forward(self, scores: Tensor, difference: Tensor) -> Tensor:
        return (scores * difference).sum()


ATTACKS = {"all": "margin, cross entropy, then wrong classes in turn", "margin": "margin", "cross entropy": "cross entropy"}
"""What the restarts of an attack maximise, by its name."""


class _Scores(nn.Module):
    """Wrapper that protects a model from the library, which would switch its mode and clear its gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.held = (model,)

    def forward(self, x: Tensor) -> Tensor:
        return self.held[0](x)


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent from each image, or from a random point of the ball around it.

    Args:
        model: in float32, on the CPU or a CUDA device, with parameters that do not require gradients.
        kind: a name in `ATTACKS`.
        bounds: bounds of each pixel; None for no bounds.
        steps: number of steps of each restart.
        at_once: number of images in one batch.
        device: device of the model.
    """

    model: nn.Module
    kind: str
    bounds: tuple[float, float] | None
    steps: int
    at_once: int
    device: torch.device

    def __call__(self, x: Tensor, scores: Tensor, labels: Tensor, radius: float, restart: int) -> Tensor:
        """Candidate images within `radius` of x, in the dtype of x."""
        loss, aim = self._aim(scores, labels, restart)
        attack = _library().ProjectedGradientDescentPyTorch(
            self._classifier(loss, x.shape[1:], scores.shape[-1]),
            norm=2,
            eps=radius,
            eps_step=STRIDE * radius / self.steps,
            max_iter=self.steps,
            num_random_init=int(restart >= (2 if self.kind == "all" else 1)),  # the first of each loss begins at the image itself
            batch_size=self.at_once,
            verbose=False,
        )
        with _on(self.device), torch.enable_grad():
            found = attack.generate(x.float().cpu().numpy(), aim.float().cpu().numpy())
        return self._within(x, torch.as_tensor(found).to(x), radius)

    def _aim(self, scores: Tensor, labels: Tensor, restart: int) -> tuple[nn.Module, Tensor]:
        """The loss that this restart maximises, and its labels."""
        own = nn.functional.one_hot(labels, scores.shape[-1])
        if self.kind != "all" or restart < 2:
            is_entropy = self.kind == "cross entropy" or (self.kind == "all" and restart == 1)
            return _Entropy() if is_entropy else _Lead(), own
        wrong = scores.scatter(-1, labels[:, None], -math.inf).argsort(-1, descending=True)[:, :-1]
        target = wrong[:, (restart - 1) % wrong.shape[-1]]  # the likeliest is what the margin goes for already
        return _Towards(), nn.functional.one_hot(target, scores.shape[-1]) - own

    def _classifier(self, loss: nn.Module, shape: torch.Size, classes: int) -> Any:
        from art.estimators.classification import PyTorchClassifier

        kind = "gpu" if self.device.type == "cuda" else "cpu"
        with _on(self.device):
            return PyTorchClassifier(_Scores(self.model), loss, tuple(shape), classes, clip_values=self.bounds, device_type=kind)

    def _within(self, x: Tensor, found: Tensor, radius: float) -> Tensor:
        change = found - x
        length = change.flatten(1).norm(dim=1).clamp_min(1e-30)
        shorter = (WITHIN * radius / length).clamp_max(1.0)
        near = x + change * shorter.view(-1, *[1] * (x.ndim - 1))
        return near if self.bounds is None else near.clamp(*self.bounds)


@contextlib.contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Seed NumPy's and PyTorch's global generators, from which the library draws, and restore them afterwards."""
    before = np.random.get_state()  # noqa: NPY002 - the library's own generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Draws(seed, "attack on a GPU").torch_seed())
        torch.set_rng_state(Draws(seed, "attack").torch_state())
        np.random.seed([seed % 2**32, seed // 2**32])  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


def _library() -> Any:
    """The module of the attack; it takes seconds to import."""
    try:
        from art.attacks.evasion.projected_gradient_descent import projected_gradient_descent_pytorch
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"attacks need the Adversarial Robustness Toolbox, but {error.name} is not installed.\n"
            "Install it with: pip install 'separatrix[attack]'"
        ) from error
    return projected_gradient_descent_pytorch


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
