"""A GRU that reads scikit-learn's 1,797 handwritten digits row by row."""

import copy

import torch
from torch import Tensor, nn

from separatrix.demos.demo import Demo
from separatrix.evolve import watched_count

HIDDEN, EPOCHS, BATCH, RATE = 64, 40, 64, 3e-3


class RowReader(nn.Module):
    """Eight rows of eight pixels into a GRU; its last state into ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 8, 8) → (batch, 10)."""
        return self.head(self.rnn(images)[0][:, -1])


def digits(seed: int = 0, progress: bool = False, epochs: int = EPOCHS) -> Demo:
    """Train the reader on 1,437 of the digits and keep its untrained twin.

    Args:
        seed: of the split, the initial weights and the batches.
        progress: show a progress bar.
        epochs: passes over the training digits; 40 take some ten seconds.
    """
    images, labels = _digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = RowReader()
    trained = copy.deepcopy(untrained)
    _train(trained, images[train], labels[train], generator, epochs, progress)
    facts = {
        name: {
            "accuracy on 360 digits it has not seen": f"{_accuracy(model, images[test], labels[test]):.1%}",
            "trained on": f"{len(train):,} digits, {epochs} epochs of Adam" if model is trained else "nothing",
        }
        for name, model in (("trained", trained), ("untrained twin (control)", untrained))
    }
    title = "A GRU that reads handwritten digits row by row"
    return Demo(title, {"trained": trained, "untrained twin (control)": untrained}, images, facts)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 16.0, dtype=torch.float32), torch.tensor(data.target, dtype=torch.int64)


def _train(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator, epochs: int, progress: bool) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    loss = nn.CrossEntropyLoss()
    for _ in watched_count(epochs, "Training on the digits, epoch", progress):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            optimiser.zero_grad()
            loss(model(images[batch]), labels[batch]).backward()
            optimiser.step()
    model.eval()


@torch.no_grad()
def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(-1) == labels).float().mean())
