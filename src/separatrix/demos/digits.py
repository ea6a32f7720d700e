"""A GRU that reads scikit-learn's 1,797 handwritten digits row by row."""

import copy

import torch
from torch import Tensor, nn

from separatrix.demos.demo import Demo
from separatrix.demos.handwriting import Digits

HIDDEN, EPOCHS, RATE = 64, 40, 3e-3


class RowReader(nn.Module):
    """GRU that reads eight rows of eight pixels, with a linear readout of its last state into ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 8, 8) → (batch, 10)."""
        return self.head(self.rnn(images)[0][:, -1])


def digits(seed: int = 0, progress: bool = False, epochs: int = EPOCHS) -> Demo:
    """Train a GRU on 1,437 of the digits, with its untrained twin as a control.

    Args:
        seed: seed of the split, the initial weights and the batches.
        progress: show a progress bar.
        epochs: number of passes over the training digits; 40 take about ten seconds.
    """
    data = Digits.load(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = RowReader()
    trained = copy.deepcopy(untrained)
    data.fit(trained, epochs, RATE, "Training on the digits, epoch", progress)
    facts = {
        name: {
            "accuracy on 360 unseen digits": data.accuracy(model, data.test),
            "trained on": f"{len(data.train):,} digits, {epochs} epochs of Adam" if model is trained else "nothing",
        }
        for name, model in (("trained", trained), ("untrained twin (control)", untrained))
    }
    title = "A GRU that reads handwritten digits row by row"
    return Demo(title, {"trained": trained, "untrained twin (control)": untrained}, data.images, facts)
