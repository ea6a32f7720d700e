"""The coordinate check: why the best step size of a wide network is not that of a narrow one, and how μP makes it so.

A network of two hidden layers takes one step of Adam at widths from 64 to 1,024. In PyTorch's usual parametrisation the change of
its output grows with the width; with the initial weights and the step sizes of μP it does not.

Run it:  python examples/width_scaling.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import canvas, styled
from separatrix.plot.widths import draw_exponents, draw_sizes

INPUTS, STEP_SIZE = 16, 1e-3


class Network(nn.Module):
    """Two hidden layers whose activations have size 1, and one output with weights of size width^(−power)."""

    def __init__(self, width: int, power: float) -> None:
        super().__init__()
        self.enter, self.hidden = nn.Linear(INPUTS, width, bias=False), nn.Linear(width, width, bias=False)
        self.leave = nn.Linear(width, 1, bias=False)
        for layer, size in ((self.enter, INPUTS**-0.5), (self.hidden, (2 / width) ** 0.5), (self.leave, width**-power)):
            nn.init.normal_(layer.weight, std=size)

    def forward(self, x: Tensor) -> Tensor:
        """(items, INPUTS) → (items, 1)."""
        return self.leave(torch.relu(self.hidden(torch.relu(self.enter(x)))))


def networks(widths: tuple[int, ...], power: float) -> dict[int, list[Network]]:
    """Five networks of each width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {width: [Network(width, power) for _ in range(5)] for width in widths}


def usual(network: Network) -> torch.optim.Optimizer:
    """Adam with one step size for all layers."""
    return torch.optim.Adam(network.parameters(), lr=STEP_SIZE)


def scaled(network: Network) -> torch.optim.Optimizer:
    """Adam with step sizes ∝ 1/width for weights that are summed over the width."""
    narrow, wide = [network.enter.weight], [network.hidden.weight, network.leave.weight]
    groups = [{"params": narrow}, {"params": wide, "lr": STEP_SIZE * 64 / network.hidden.in_features}]
    return torch.optim.Adam(groups, lr=STEP_SIZE)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Check both parametrisations, draw and save `width_scaling.png`; the results by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small widths, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    x = torch.randn(32, INPUTS, generator=torch.Generator().manual_seed(0))
    y = torch.sin(x[:, :1])
    found = {}
    for name, power, optimizer in (("Usual parametrisation", 0.5, usual), ("μP", 1.0, scaled)):
        found[name] = sx.along(
            networks((64, 128, 256) if asked.quick else (64, 128, 256, 512, 1024), power),
            lambda some, optimizer=optimizer: sx.coordinate_sizes(some, x, targets=y, optimizer=optimizer, steps=1),
        ).result
        print(f"{name}: {found[name]}")
    figure(found).savefig(asked.out / "width_scaling.png", dpi=120)
    return found


@styled
def figure(found: dict[str, sx.results.WidthScaling]) -> Figure:
    """One row for each parametrisation: activations, their change in one step, and the exponents."""
    drawn, axes = canvas(2, 3, width=3.7, height=3.1)
    for row, (name, one) in zip(axes, found.items(), strict=True):
        draw_sizes(row[0], one, "activation")
        draw_sizes(row[1], one, "change")
        draw_exponents(row[2], one)
        row[0].legend(*row[1].get_legend_handles_labels())
        row[0].set_title(name)
    for column in axes.T:
        low, high = min(one.get_ylim()[0] for one in column), max(one.get_ylim()[1] for one in column)
        for one in column:
            one.set_ylim(low, high)
    return drawn


if __name__ == "__main__":
    main()
