"""A map that keeps areas, learned from samples by a SympNet, by a HénonNet and by a plain network, and iterated 20,000 times.

Run it:  python examples/symplectic_maps.py [--quick] [--out DIR]
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import FAINT, NOTE, SERIES, TICKS, styled

COSINE = 0.4  # of the angle by which the map turns: five islands (Hénon 1969, figure 5)
SAMPLES, REACH = 400, 0.9  # states in a square of this half width, and their images
SEEDS = 3
STEPS, SHOWN, AREA_STEPS = 20_000, 3_000, 2_000
CURVES = [(0.04 * i, 0.0) for i in range(1, 15)]  # about the centre; those of the islands are about a cycle of period 5
ISLANDS = [(0.57, 0.16), (0.60, 0.16), (0.63, 0.16), (0.66, 0.16), (0.69, 0.16)]


class Quadratic(sx.System):
    """Hénon's quadratic map: a shear p ← p − q², then a turn. Source: Hénon 1969, Quart. Appl. Math. 27, 291."""

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The image of (q, p)."""
        q, p = x.unbind(-1)
        p = p - q**2
        sine = math.sqrt(1 - COSINE**2)
        return torch.stack([COSINE * q - sine * p, sine * q + COSINE * p], dim=-1)


class Plain(nn.Module):
    """An ordinary residual network, x + f(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        """The image of a state."""
        return x + self.f(x)


NETWORKS = {
    "SympNet": lambda: sx.nn.sympnet(2, layers=4, hidden=16),
    "HénonNet": lambda: sx.nn.henonnet(2, layers=5, hidden=12),
    "plain network": lambda: Plain(width=12),
}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, iterate, draw and save `symplectic_maps.png`; errors, orbits and the change of areas of each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less training and shorter orbits, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    iterations, steps, seeds = (80, 600, 1) if asked.quick else (2_000, STEPS, SEEDS)

    truth, x0 = Quadratic(2), torch.tensor(CURVES + ISLANDS, dtype=torch.float64)
    found: dict[str, Any] = {"truth": {"orbits": sx.trajectory(truth, x0, steps)}}
    for name, build in NETWORKS.items():
        found[name] = measured([learned(build, truth, iterations, seed) for seed in range(seeds)], truth, x0, steps)
        print(f"{name}, {found[name]['parameters']} parameters: median error {found[name]['error']:.1e}; ", end="")
        print(f"ln of an area changes by {float(found[name]['area'].abs().max()):.1e} in {len(found[name]['area']):,} steps")
    figure(found).savefig(asked.out / "symplectic_maps.png", dpi=120)
    return found


def square(count: int, half: float, seed: int) -> Tensor:
    """States uniform in a square, shape (count, 2)."""
    return half * (2 * torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1)


def learned(build: Any, truth: sx.System, iterations: int, seed: int) -> nn.Module:
    """A network fitted to samples of the map by L-BFGS."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build().double()
    x = square(SAMPLES, REACH, seed)
    y = truth.step(x)
    optimiser = torch.optim.LBFGS(
        network.parameters(),
        max_iter=iterations,
        history_size=50,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (network(x) - y).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    return network


@torch.no_grad()
def measured(trained: list[nn.Module], truth: sx.System, x0: Tensor, steps: int) -> dict[str, Any]:
    """The median error over seeds; of the first network its orbits, and how areas change along their beginning."""
    system = trained[0] if isinstance(trained[0], sx.System) else sx.Map(trained[0], 2)
    return {
        "parameters": sum(parameter.numel() for parameter in trained[0].parameters()),
        "error": sorted(error(network, truth) for network in trained)[len(trained) // 2],
        "orbits": sx.trajectory(system, x0, steps),
        "area": areas(system, x0, min(steps, AREA_STEPS)),
    }


def error(network: nn.Module, truth: sx.System) -> float:
    """The root mean square error of a coordinate, on states that were not learned from."""
    x = square(2_000, 0.8, seed=1_000)
    return float((network(x) - truth.step(x)).square().mean().sqrt())


def areas(system: sx.System, x: Tensor, steps: int) -> Tensor:
    """The logarithm of the factor by which an area has changed, along each orbit: shape (steps, orbits)."""
    one = torch.eye(2, dtype=torch.float64).expand(*x.shape[:-1], 2, 2)
    total, along = torch.zeros(x.shape[:-1], dtype=torch.float64), []
    for _ in range(steps):
        x, jacobian = system.pushforward(x, one)
        total = total + torch.linalg.slogdet(jacobian).logabsdet
        along.append(total)
    return torch.stack(along)


@styled
def figure(found: dict[str, Any]) -> Figure:
    """The phase portraits, and how areas change along the orbits."""
    picture = Figure(figsize=(9.6, 6.8), layout="constrained")
    panels = picture.subplot_mosaic([["truth", "SympNet", "HénonNet"], ["plain network", "areas", "areas"]])
    titles = {"truth": "Hénon's quadratic map"} | {name: f"{name[0].upper()}{name[1:]}, learned" for name in NETWORKS}
    for name, title in titles.items():
        portrait(panels[name], found[name]["orbits"])
        panels[name].set_title(title)
    draw_areas(panels["areas"], found)
    return picture


def portrait(axes: Axes, orbits: Tensor) -> None:
    """The first states of each orbit, pale, and the last ones."""
    for states, shade in ((orbits[:SHOWN], FAINT), (orbits[-SHOWN:], SERIES[0].color)):
        axes.plot(states[..., 0].flatten(), states[..., 1].flatten(), ",", color=shade, rasterized=True)
    axes.set(xlim=(-0.82, 0.82), ylim=(-0.82, 0.82), aspect="equal", xlabel="position q", ylabel="momentum p")
    axes.set(xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
    axes.tick_params(**TICKS)
    axes.grid(visible=False)


def draw_areas(axes: Axes, found: dict[str, Any]) -> None:
    """The largest change of an area over the orbits, against the step."""
    for i, name in enumerate(NETWORKS):
        change = found[name]["area"].abs().max(dim=1).values
        axes.plot(range(1, len(change) + 1), change, linestyle=SERIES[i].line, color=SERIES[i].color, label=name)
    axes.set(xscale="log", yscale="log", xlabel="steps", ylabel="largest |ln (area / area at the start)|")
    axes.set_title("Areas along the orbits")
    axes.text(1.1, 4e-15, "rounding in float64", **NOTE)
    axes.legend(loc="center left")
    axes.tick_params(**TICKS)


if __name__ == "__main__":
    main()
