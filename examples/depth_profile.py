"""Depth is time: why a plain network of 30 layers learns nothing where a residual one of equal depth learns its digits.

Run it:  python examples/depth_profile.py [--quick] [--out DIR]
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.depth import draw_gains, draw_singular_values
from separatrix.plot.style import canvas, styled

WIDTH, DEPTH, SHOWN = 48, 30, 24
LAYERS = [str(n) for n in range(DEPTH + 2)]  # the outputs of the blocks, not what is inside


class Layer(nn.Module):
    """relu(W x + b), with the input added or not."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.linear, self.residual = nn.Linear(WIDTH, WIDTH), residual

    def forward(self, x: Tensor) -> Tensor:
        """(items, WIDTH) → (items, WIDTH)."""
        return torch.relu(self.linear(x)) + (x if self.residual else 0)


def network(residual: bool) -> nn.Module:
    """Sixty-four pixels, 30 equal layers with PyTorch's default weights, ten classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, WIDTH), *[Layer(residual) for _ in range(DEPTH)], nn.Linear(WIDTH, 10))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, profile, draw and save `depth_profile.png`; the profiles by network and the accuracies of the trained ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few epochs, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    data = load_digits()
    images, labels = torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    learned, held_out = order[:1437], order[1437:]
    profiles, accuracy = {}, {}
    for kind in ("plain", "residual"):
        model = network(kind == "residual")
        trained = train(copy.deepcopy(model), images[learned], labels[learned], epochs=4 if asked.quick else 40)
        accuracy[kind] = float((trained(images[held_out]).argmax(-1) == labels[held_out]).float().mean())
        for state, one in ((f"{kind}, untrained", model), (f"{kind}, trained", trained)):
            profiles[state] = sx.depth_profile(one, images[held_out[:SHOWN]], layers=LAYERS)
            print(f"{state}: {profiles[state]}")
        print(f"{kind}: right on {accuracy[kind]:.1%} of {len(held_out)} digits it has not seen")
    figure(profiles, accuracy).savefig(asked.out / "depth_profile.png", dpi=120)
    return {"profiles": profiles, "accuracy": accuracy}


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """The model after some epochs of Adam."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
    return model


@styled
def figure(profiles: dict[str, sx.results.DepthProfile], accuracy: dict[str, float]) -> Figure:
    """The gain of all four, the gradient of all four, and the singular values of the one that learned."""
    drawn, axes = canvas(1, 3, width=4.4, height=3.7)
    named = {
        name + (f": {accuracy[name.split(',')[0]]:.0%} right" if name.endswith(", trained") else ""): profile
        for name, profile in profiles.items()
    }
    draw_gains(axes[0, 0], named)
    draw_gains(axes[0, 1], named, gradient=True)
    draw_singular_values(axes[0, 2], profiles["residual, trained"])
    axes[0, 0].set_title("A change of the input, on its way in")
    axes[0, 1].set_title("A gradient of 1, on its way back")
    axes[0, 2].set_title("The trained residual network")
    return drawn


if __name__ == "__main__":
    main()
