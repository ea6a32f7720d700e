"""scikit-learn's 1,797 handwritten digits, and the training of a network on them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from separatrix.core.progress import watched_count

BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Images, (count, 8, 8) between 0 and 1, and their labels, split at random.

    Args:
        images, labels: all 1,797 digits.
        train, test: indices of the 1,437 training digits and of the 360 others.
        generator: random generator of the batches.
    """

    images: Tensor
    labels: Tensor
    train: Tensor
    test: Tensor
    generator: torch.Generator

    @classmethod
    def load(cls, seed: int) -> "Digits":
        """The digits from scikit-learn, split at random."""
        from sklearn.datasets import load_digits

        data = load_digits()
        images = torch.tensor(data.images / 16.0, dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=generator)
        first = len(order) * 4 // 5
        return cls(images, torch.tensor(data.target, dtype=torch.int64), order[:first], order[first:], generator)

    def fit(self, model: nn.Module, epochs: int, rate: float, label: str, progress: bool, smoothing: float = 0.0) -> None:
        """Train by Adam on the cross-entropy, then put the model into evaluation mode.

        Args:
            model: maps images to scores of ten classes.
            epochs: number of passes over the training digits.
            rate: learning rate.
            label: label of the progress bar.
            progress: show a progress bar.
            smoothing: label smoothing.
        """
        optimiser = torch.optim.Adam(model.parameters(), lr=rate)
        loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
        for _ in watched_count(epochs, label, progress):
            for batch in self.train[torch.randperm(len(self.train), generator=self.generator)].split(BATCH):
                optimiser.zero_grad()
                loss(model(self.images[batch]), self.labels[batch]).backward()
                optimiser.step()
        model.eval()

    @torch.no_grad()
    def accuracy(self, model: nn.Module, of: Tensor) -> str:
        """The percentage of the digits with these indices that a model classifies correctly."""
        return f"{float((model(self.images[of]).argmax(-1) == self.labels[of]).float().mean()):.1%}"
