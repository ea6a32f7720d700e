"""How much a layer may expand when the next contracts: two budgets, the steps learned inside them, and slopes during training.

Run it:  python examples/contraction_budget.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

import separatrix as sx
from separatrix.core.tangent import jacobian
from separatrix.nn.nonexpansive.budget import BUDGETS
from separatrix.plot.style import INK, NOTE, QUIET, canvas, series, styled

SLOPE, WIDTH, BLOCKS = 0.5, 16, 4
POINTS, TEMPERATURE, RATE = 400, 0.1, 0.01
EXPANSION = r"$h_\mathrm{E}$"
NAMES = ("exact", "published", "unconstrained")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, draw and save `contraction_budget.png`; the steps before and after, the slopes, and certified accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer training steps, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    rounds = 60 if asked.quick else 600

    points, classes = spirals()
    networks = built()
    first = {name: steps_of(networks[name]) for name in BUDGETS}
    slopes = {name: trained(network, points, classes, rounds) for name, network in networks.items()}
    last = {name: steps_of(networks[name]) for name in BUDGETS}
    bounds = {name: networks[name].guarantee.lipschitz for name in BUDGETS}
    for name, network in networks.items():
        right = float((network(points).argmax(-1) == classes).double().mean())
        promised = f", guaranteed {bounds[name]:.4f}" if name in bounds else ""
        print(f"{name}: {right:.1%} of the points right; largest slope during training {max(slopes[name]):.4g}{promised}")
    figure(first, last, slopes, rounds).savefig(asked.out / "contraction_budget.png", dpi=120)
    return {"first": first, "last": last, "slopes": slopes, "bounds": bounds, "networks": networks}


def spirals() -> tuple[Tensor, Tensor]:
    """Two arms that wind about each other by three quarters of a turn; points (POINTS, 2) and classes 0 or 1."""
    random = torch.Generator().manual_seed(0)
    along = torch.rand(POINTS, generator=random, dtype=torch.float64)
    classes = torch.arange(POINTS) % 2
    angle = 1.5 * torch.pi * along + torch.pi * classes
    arms = (0.4 + 1.6 * along)[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
    return arms + 0.08 * torch.randn(POINTS, 2, generator=random, dtype=torch.float64), classes


def built() -> dict[str, nn.Module]:
    """A network within each budget, and an unconstrained one of equal shape."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        within = {name: sx.nn.LipschitzNet(2, 2, hidden=WIDTH, blocks=BLOCKS, slope=SLOPE, budget=name) for name in BUDGETS}
        free = sx.nn.ResidualNet(2, 2, hidden=WIDTH, blocks=BLOCKS)
    return {name: network.double() for name, network in {**within, "unconstrained": free}.items()}


def trained(network: nn.Module, points: Tensor, classes: Tensor, rounds: int) -> list[float]:
    """The largest norm of a Jacobian at the points, before training and after every twentieth of it."""
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    slopes = [largest_slope(network, points)]
    for i in range(1, rounds + 1):
        optimiser.zero_grad()
        functional.cross_entropy(network(points) / TEMPERATURE, classes).backward()
        optimiser.step()
        if i % (rounds // 20) == 0:
            slopes.append(largest_slope(network, points))
    return slopes


@torch.no_grad()
def largest_slope(network: nn.Module, points: Tensor) -> float:
    """The largest of all ‖Df(x)‖₂."""
    return float(torch.linalg.matrix_norm(jacobian(network, points), 2).max())


@torch.no_grad()
def steps_of(network: sx.nn.LipschitzNet) -> Tensor:
    """The steps (h, h_E) of every block, shape (block, 2)."""
    return torch.stack([torch.stack(block.step_sizes()) for block in network if isinstance(block, sx.nn.parts.Alternating)])


@styled
def figure(first: dict[str, Tensor], last: dict[str, Tensor], slopes: dict[str, list[float]], rounds: int) -> Figure:
    """The feasible sets with the steps that were learned, and the slopes of the networks while they learned."""
    picture, ((left, right),) = canvas(1, 2, width=4.9, height=3.9)
    draw_sets(left)
    for i, name in enumerate(BUDGETS):
        look = series(i)
        for before, after in zip(first[name].tolist(), last[name].tolist(), strict=True):
            left.annotate("", after, before, arrowprops={"arrowstyle": "-", "color": look.color, "linewidth": 1})
        left.plot(*first[name].mT, "o", color=look.color, markerfacecolor="white", markersize=4, zorder=3)
        left.plot(*last[name].mT, look.marker, color=look.color, markersize=6, zorder=4, label=f"learned within the {name} budget")
    left.legend(loc="upper left")
    draw_slopes(right, slopes, rounds)
    return picture


def draw_sets(axes: Axes) -> None:
    """Where the product of both factors is at most 1, for each budget; the largest expansions marked."""
    h = torch.linspace(0, 2, 801, dtype=torch.float64)
    for name, shade in (("exact", "#e3ebf2"), ("published", "#f7d9b5")):
        room = BUDGETS[name].room(h, SLOPE)
        inside = room >= 0
        axes.fill_between(h[inside], 0, room[inside], color=shade, linewidth=0)
        axes.plot(h[inside], room[inside], color=QUIET, linewidth=1)
    pointer = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.8}
    for told, at, place in (
        (f"exact budget\nmax(|1 − ah|, |1 − h|)\n · (1 + {EXPANSION}) ≤ 1", (1.42, 1.05), (1.455, 1.27)),
        (f"published budget\n√(1 − 2ah + h²)\n · (1 + {EXPANSION}) ≤ 1", (0.28, 0.09), (0.04, 0.72)),
    ):
        axes.annotate(told, at, place, ha="left", fontsize=7.5, color=INK, arrowprops=pointer)
    axes.set(xlabel="contraction's step h", ylabel=f"expansion's step {EXPANSION}", xlim=(0, 2), ylim=(0, 2.1))
    axes.set_title(f"Feasible steps at slope a = {SLOPE:g}")


def draw_slopes(axes: Axes, slopes: dict[str, list[float]], rounds: int) -> None:
    """The largest norm of a Jacobian of each network while it learned, and the bound that holds for two of them."""
    for i, name in enumerate(NAMES):
        look = series(i)
        when = torch.linspace(0, rounds, len(slopes[name]))
        axes.semilogy(when, slopes[name], linestyle=look.line, **look.marks, label=name)
    axes.axhline(1, color=INK, linewidth=1)
    axes.text(rounds, 1.06, "guaranteed of both budgets: at most 1", ha="right", va="bottom", **NOTE)
    axes.legend(loc="lower right")
    axes.set(xlabel="training step", ylabel="largest ‖Df(x)‖₂ at the points", xlim=(-0.02 * rounds, 1.02 * rounds))
    axes.set_title("Slopes during training")


if __name__ == "__main__":
    main()
