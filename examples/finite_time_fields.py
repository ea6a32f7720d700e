"""Finite-time exponents as fields: what a double gyre and a forced spring keep apart, and where a classifier draws its border.

Run it:  python examples/finite_time_fields.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.finite_time_field import draw_finite_time_field
from separatrix.plot.style import styled

WIDTH, DEPTH, EPOCHS = 16, 5, 600


class Classifier(nn.Module):
    """Equal tanh layers and a linear head. The two inputs are the first two numbers of a state; the others begin at 0.

    The first layer's weights from the others are 0, and stay so: what they are multiplied by is 0 in every example. So the
    Jacobian from the state has the singular values of that from the two inputs, and else only zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, dtype=torch.float64) for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, 1, dtype=torch.float64)
        with torch.no_grad():
            self.layers[0].weight[:, :2] *= (WIDTH / 2) ** 0.5
            self.layers[0].weight[:, 2:] = 0

    def layer(self, x: Tensor, n: int) -> Tensor:
        """The state after layer n."""
        return torch.tanh(self.layers[n](x))

    def forward(self, x: Tensor) -> Tensor:
        """(items, WIDTH) → (items); above 0 is the second class."""
        for n in range(DEPTH):
            x = self.layer(x, n)
        return self.head(x)[..., 0]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, draw and save `finite_time_fields.png`; the three fields, the classifier's margin and its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="coarse grids, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    fine = 1 if asked.quick else 4

    gyre = sx.finite_time_lyapunov(sx.classic.double_gyre(), sx.grid((0.02, 0.02), (1.98, 0.98), (60 * fine, 30 * fine)), steps=150)
    print(gyre)
    spring = sx.finite_time_lyapunov(sx.classic.duffing(), sx.grid((-2, -2), (2, 2), (40 * fine, 40 * fine)), steps=524, every=4)
    print(spring)  # two periods of the force

    points, classes = two_moons()
    model = trained(points, classes)
    plane = inputs(sx.grid((-1.6, -1.1), (2.6, 1.6), (40 * fine, 30 * fine)))
    network = sx.Map(model.layer, WIDTH, time_dependent=True)  # depth is time
    field = sx.finite_time_lyapunov(network, plane, steps=DEPTH)
    print(field)
    with torch.no_grad():
        margin = model(plane)
        accuracy = float(((model(inputs(points)) > 0) == (classes > 0)).double().mean())
    print(f"the classifier is right on {accuracy:.1%} of its two moons")
    figure(gyre, spring, field, margin, points, classes).savefig(asked.out / "finite_time_fields.png", dpi=120)
    return {"gyre": gyre, "spring": spring, "field": field, "margin": margin, "accuracy": accuracy}


def two_moons(count: int = 400) -> tuple[Tensor, Tensor]:
    """Two half circles in each other's arms, with noise; points (count, 2) and classes 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.pi * torch.rand(count, dtype=torch.float64, generator=generator)
    classes = (torch.arange(count) % 2).double()
    upper, lower = torch.stack([angle.cos(), angle.sin()], -1), torch.stack([1 - angle.cos(), 0.5 - angle.sin()], -1)
    noise = 0.1 * torch.randn(count, 2, dtype=torch.float64, generator=generator)
    return torch.where(classes[:, None] > 0, lower, upper) + noise, classes


def inputs(points: Tensor) -> Tensor:
    """Points of the plane as states of the network."""
    return torch.cat([points, points.new_zeros(*points.shape[:-1], WIDTH - 2)], dim=-1)


def trained(points: Tensor, classes: Tensor) -> Classifier:
    """A classifier of the points, by Adam."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(inputs(points)), classes).backward()
        optimiser.step()
    return model


@styled
def figure(
    gyre: sx.results.FiniteTimeField,
    spring: sx.results.FiniteTimeField,
    field: sx.results.FiniteTimeField,
    margin: Tensor,
    points: Tensor,
    classes: Tensor,
) -> Figure:
    """The gyre's ridges, the spring's; the classifier's, with the border of its classes and the points it learned from."""
    picture = Figure(figsize=(9.6, 7.4), layout="constrained")
    panels = picture.subplot_mosaic([["gyre", "gyre"], ["spring", "classifier"]], width_ratios=(1, 1.3))
    left, middle, right = panels["gyre"], panels["spring"], panels["classifier"]
    draw_finite_time_field(left, gyre, names=("x (cells)", "y (cells)"))
    left.set_title(f"A double gyre, T = {float(gyre.time.max()):.3g}")
    draw_finite_time_field(middle, spring, names=("displacement q", "velocity dq/dt"))
    middle.set_title(f"Duffing's oscillator, T = {float(spring.time.max()):.3g}")
    draw_finite_time_field(right, field, names=("first input (dimensionless)", "second input (dimensionless)"))
    right.set_title(f"A classifier of two moons, T = {DEPTH} layers")
    plane = field.x0
    right.contour(plane[..., 0], plane[..., 1], margin, levels=[0], colors="white", linewidths=1.2)
    for kind, marker in ((0, "o"), (1, "^")):
        own = points[classes == kind]
        right.plot(
            own[:, 0], own[:, 1], marker, markersize=2.4, markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.4
        )
    return picture


if __name__ == "__main__":
    main()
