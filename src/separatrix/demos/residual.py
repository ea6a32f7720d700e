"""Networks of forty blocks on handwritten digits, with and without skip connections."""

import torch
from torch import Tensor, nn

from separatrix.demos.demo import Demo
from separatrix.demos.handwriting import Digits

WIDTH, BLOCKS, EPOCHS, RATE = 64, 40, 15, 1e-3
SMOOTHING = 0.1  # of the labels: without it the scores, and with them the gain, grow for as long as training lasts


class Block(nn.Module):
    """Block f(x) = W relu(x) + b, or x + f(x) with a skip connection."""

    def __init__(self, is_residual: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.is_residual = is_residual

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 64) → (batch, 64)."""
        change = self.linear(torch.relu(x))
        return x + change if self.is_residual else change


class Deep(nn.Module):
    """Deep network: a linear stem from pixels to 64 units, all blocks, and a linear head to ten classes."""

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
        seed: seed of the split, the initial weights and the batches.
        progress: show a progress bar.
        epochs: number of passes over the training digits; 15 take about ten seconds for both networks.
    """
    models, facts = {}, {}
    for name in ("residual", "plain"):
        data = Digits.load(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models[name] = model = Deep(is_residual=name == "residual")
        data.fit(model, epochs, RATE, f"Training the {name} network, epoch", progress, SMOOTHING)
        facts[name] = {
            "accuracy on 360 unseen digits": data.accuracy(model, data.test),
            "accuracy on the training digits": data.accuracy(model, data.train),
            "trained on": f"{len(data.train):,} digits, {epochs} epochs of Adam",
        }
    title = f"Networks of {BLOCKS} blocks on handwritten digits, with and without skip connections"
    return Demo(title, models, data.images[data.test], facts, targets=data.labels[data.test])
