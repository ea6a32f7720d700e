"""Forty blocks deep on handwritten digits: with a way for the signal around each block, and without."""

import torch
from torch import Tensor, nn

from separatrix.demos.demo import Demo
from separatrix.demos.handwriting import Digits

WIDTH, BLOCKS, EPOCHS, RATE = 64, 40, 15, 1e-3
SMOOTHING = 0.1  # of the labels: without it the scores, and with them the gain, grow for as long as one trains


class Block(nn.Module):
    """f(x) = W relu(x) + b, or x + f(x)."""

    def __init__(self, is_residual: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.is_residual = is_residual

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 64) → (batch, 64)."""
        change = self.linear(torch.relu(x))
        return x + change if self.is_residual else change


class Deep(nn.Module):
    """Pixels into 64 numbers, through all blocks, into ten classes."""

    def __init__(self, is_residual: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(64, WIDTH)
        self.blocks = nn.Sequential(*(Block(is_residual) for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 8, 8) → (batch, 10)."""
        return self.head(self.blocks(self.stem(images.flatten(1))))


def residual(seed: int = 0, progress: bool = False, epochs: int = EPOCHS) -> Demo:
    """Train a residual and a plain network of 40 blocks on 1,437 of the digits, from the same weights and in the same way.

    Args:
        seed: of the split, the initial weights and the batches.
        progress: show a progress bar.
        epochs: passes over the training digits; 15 take some ten seconds for both.
    """
    models, facts = {}, {}
    for name in ("residual", "plain"):
        data = Digits.load(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models[name] = model = Deep(is_residual=name == "residual")
        data.fit(model, epochs, RATE, f"Training the {name} network, epoch", progress, SMOOTHING)
        facts[name] = {
            "accuracy on 360 digits it has not seen": data.accuracy(model, data.test),
            "accuracy on those it was trained on": data.accuracy(model, data.train),
            "trained on": f"{len(data.train):,} digits, {epochs} epochs of Adam",
        }
    title = f"{BLOCKS} blocks deep on handwritten digits, with a way around each block and without"
    return Demo(title, models, data.images[data.test], facts, targets=data.labels[data.test])
