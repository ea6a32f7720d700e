"""A network whose every piece is "constrained" and which is nowhere near 1-Lipschitz: its certificate says which pieces are why.

Run it:  python examples/certificate.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import separatrix as sx
from separatrix.core.wording import plain
from separatrix.plot.certificate import draw_certificate
from separatrix.plot.style import INK, styled

WIDTH, BLOCKS, EPOCHS, RATE = 64, 3, 60, 3e-3
LEAST, MOST = -1.9, 0.05  # what training clamps a step to
MEAN, STD = 0.3, 0.38  # of the pixels


def at_most_one(weight: Tensor) -> Tensor:
    """The matrix divided by its norm, where that is above 1."""
    return weight / torch.linalg.matrix_norm(weight, 2).clamp(min=1)


class Contraction(nn.Linear):
    """x ↦ x − Aᵀ relu(Ax + b) with ‖A‖ ≤ 1, which never expands: its Jacobian is 1 − AᵀDA, with D between 0 and 1."""

    @property
    def guarantee(self) -> sx.nn.Guarantee:
        """1-Lipschitz."""
        return sx.nn.Guarantee(lipschitz=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 64) → (batch, 64)."""
        a = at_most_one(self.weight)
        return x - torch.relu(F.linear(x, a, self.bias)) @ a


class Block(nn.Module):
    """A lift  relu(c W x)  with ‖W‖ ≤ 1, a contraction, and a step  x + |u| relu(Bx)  with ‖B‖ ≤ 1 that may expand a little.

    Two things are not constrained. The learned number c. And the sign of u: training clamps u to [−1.9, 0.05], so that it can
    expand by 1.05 at most, or contract; but the layer takes |u|, so that −1.9 runs as an expansion by 2.9.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.step = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.contraction = Contraction(WIDTH, WIDTH)
        self.c, self.u = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-0.1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 64) → (batch, 64)."""
        x = torch.relu(self.c * F.linear(x, at_most_one(self.lift.weight), self.lift.bias))
        x = self.contraction(x)
        return x + self.u.abs() * torch.relu(F.linear(x, at_most_one(self.step.weight), self.step.bias))


class Constrained(nn.Module):
    """Normalised pixels, three blocks, and a head with norm at most 1."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 64) → (batch, 10)."""
        return F.linear(self.blocks((images - MEAN) / STD), at_most_one(self.head.weight), self.head.bias)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, certify, draw and save `certificate.png`; the certificate, the accuracy, and the learned numbers c and u."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="train briefly, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    learned, kept = order[:1437], order[1437:]
    model = trained(images[learned], labels[learned], EPOCHS // 10 if asked.quick else EPOCHS)
    with torch.no_grad():
        accuracy = float((model(images[kept]).argmax(-1) == labels[kept]).float().mean())
    found = sx.certificate(model, 64, inputs=images[kept])
    scales, steps = ([float(getattr(block, name).detach()) for block in model.blocks] for name in "cu")
    print(found)
    print(f"right on {accuracy:.1%} of the digits it has not seen; learned scales c {scales}, steps u {steps}")
    figure(found, scales, steps).savefig(asked.out / "certificate.png", dpi=120)
    return {"certificate": found, "accuracy": accuracy, "scales": scales, "steps": steps, "model": model}


def trained(images: Tensor, labels: Tensor, epochs: int) -> Constrained:
    """By Adam on the cross-entropy, the steps u clamped after each of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Constrained()
    optimiser, generator = torch.optim.Adam(model.parameters(), lr=RATE), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(128):
            optimiser.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
            with torch.no_grad():
                for block in model.blocks:
                    block.u.clamp_(LEAST, MOST)
    return model.eval()


@styled
def figure(found: sx.results.Certificate, scales: list[float], steps: list[float]) -> Figure:
    """The factor of each layer, the bound so far and what was measured; the claim, 1, is the black line."""
    picture = Figure(figsize=(7.4, 6.2), layout="constrained")
    axes = picture.subplots()
    draw_certificate(axes, found)
    axes.set_title(f"Claimed: 1-Lipschitz. Proven: at most {plain(found.bound)}. Measured: at least {plain(found.lower)}.")
    learned = "learned scales c: " + ", ".join(map(plain, scales)) + ";  steps u: " + ", ".join(map(plain, steps))
    picture.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, labelcolor=INK, title=learned)
    return picture


if __name__ == "__main__":
    main()
