"""A sheet of inputs carried through two classifiers of two moons, layer by layer: a plain network, and a residual one.

Both are 8 numbers wide and learn the same points. The plain one crushes its plane to a thread within a few layers, and folds it; in
the residual one each layer is a small step, x + h(x), and the sheet flows.

Run it:  python examples/flow_maps.py [--quick] [--out DIR] [--film]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.flow_map import draw_layer
from separatrix.plot.style import canvas, styled

WIDTH, DEPTH, EPOCHS = 8, 6, 400


class Plain(nn.Module):
    """x ← tanh(W x + b)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The next layer's numbers."""
        return torch.tanh(self.linear(x))


class Residual(Plain):
    """x ← x + tanh(W x + b) / 2."""

    def forward(self, x: Tensor) -> Tensor:
        """The next layer's numbers."""
        return x + super().forward(x) / 2


def main(argv: list[str] | None = None) -> dict[str, sx.results.FlowMap]:
    """Train, carry, draw and save `flow_maps.png`, and with --film `flow_maps.gif`; the two flow maps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a coarse sheet, in seconds")
    parser.add_argument("--film", action="store_true", help="write the residual network's way as a GIF too")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    counts = (43, 28) if asked.quick else (85, 55)

    points, classes = two_moons()
    sheet = sx.grid((-1.7, -1.2), (2.7, 1.7), counts)
    flows = {}
    for name, block in {"plain": Plain, "residual": Residual}.items():
        model = trained(block, points, classes)
        layers = [f"{number}" for number in range(1, DEPTH + 1)]
        flows[name] = sx.flow_map(model, sheet, layers=layers, points=points, classes=classes)
        print(f"{name}: {flows[name]}")
    figure(flows).savefig(asked.out / "flow_maps.png", dpi=110)
    if asked.film:
        flows["residual"].animate(
            asked.out / "flow_maps.gif", fps=14, move=1.1, rest=0.5, size=3.6, dpi=80, title="Residual network"
        )
    return flows


def two_moons(count: int = 300) -> tuple[Tensor, Tensor]:
    """Two half circles in each other's arms, with noise; points (count, 2) and classes 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.pi * torch.rand(count, dtype=torch.float64, generator=generator)
    classes = torch.arange(count) % 2
    upper, lower = torch.stack([angle.cos(), angle.sin()], -1), torch.stack([1 - angle.cos(), 0.5 - angle.sin()], -1)
    noise = 0.08 * torch.randn(count, 2, dtype=torch.float64, generator=generator)
    return torch.where(classes[:, None] > 0, lower, upper) + noise, classes


def trained(block: type[Plain], points: Tensor, classes: Tensor) -> nn.Sequential:
    """A classifier of the points, by Adam."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Linear(2, WIDTH)
        nn.init.orthogonal_(first.weight)
        model = nn.Sequential(first, *(block() for _ in range(DEPTH)), nn.Linear(WIDTH, 2)).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(points), classes).backward()
        optimiser.step()
    return model


@styled
def figure(flows: dict[str, sx.results.FlowMap]) -> Figure:
    """A row for each network: its input, and every other layer."""
    shown = (0, 2, 4, 6, 7)
    picture, panels = canvas(len(flows), len(shown), width=2.75, height=3.2)
    for row, (name, flow) in zip(panels, flows.items(), strict=True):
        for axes, layer in zip(row, shown, strict=True):
            draw_layer(axes, flow, layer, title=False)
            told = {0: "input", DEPTH + 1: "output"}.get(layer, f"layer {layer}")
            axes.set_title(f"{name.capitalize()}: {told}" if layer == 0 else told.capitalize())
    return picture


if __name__ == "__main__":
    main()
