"""A flow that keeps volumes, learned from samples by a network that keeps them and by one that does not; 4,000 steps of each.

Run it:  python examples/volume_preserving.py [--quick] [--out DIR]
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import SERIES, TICKS, styled

A, B, C = math.sqrt(3), math.sqrt(2), 1.0  # as Dombre et al. 1986
TURN = 2 * math.pi
DT = 0.3  # time that one step of the networks takes
SAMPLES = 1_000
TRACERS, FEW, STEPS = 400, 40, 4_000


def abc(x: Tensor) -> Tensor:
    """The velocity of the ABC flow, without divergence. Source: Arnold 1965; Dombre et al. 1986, J. Fluid Mech. 167, 353."""
    x, y, z = x.unbind(-1)
    return torch.stack([A * z.sin() + C * y.cos(), B * x.sin() + A * z.cos(), C * y.sin() + B * x.cos()], dim=-1)


class Circles(nn.Module):
    """Angles as points of circles, so that what follows is periodic."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, k) → (…, 2k)."""
        return torch.cat([x.cos(), x.sin()], dim=-1)


def periodic(inputs: int, outputs: int, width: int = 14) -> nn.Module:
    """A function of angles."""
    return nn.Sequential(Circles(), nn.Linear(2 * inputs, width), nn.Tanh(), nn.Linear(width, outputs))


class Plain(nn.Module):
    """An ordinary residual network on the torus, x + h f(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = (nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))
        self.f = nn.Sequential(Circles(), *inner)

    def forward(self, x: Tensor) -> Tensor:
        """The image of a state."""
        return x + DT * self.f(x)


def shears() -> sx.nn.Sequential:
    """Each coordinate in turn is moved by a periodic function of the two others."""
    orders = ([[0], [1], [2]], [[2], [1], [0]], [[0], [1], [2]])
    return sx.nn.Sequential(*(sx.nn.VolumePreserving(3, partition=order, shift=periodic, dt=DT) for order in orders), dt=DT)


NETWORKS = {"shears": shears, "plain network": lambda: Plain(width=24)}


class OnTorus(sx.System):
    """A map of angles, each taken back to 0 … 2π."""

    def __init__(self, system: sx.System) -> None:
        super().__init__(3, dt=DT)
        self.system = system

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The next angles."""
        return self.system.step(x, n).remainder(TURN)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The same derivative."""
        x, v = self.system.pushforward(x, v, n)
        return x.remainder(TURN), v


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, follow tracers, draw and save `volume_preserving.png`; errors, sections, volumes and exponents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less training and fewer steps, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    iterations, steps = (30, 80) if asked.quick else (1_500, STEPS)

    truth = sx.Iterate(sx.Flow(abc, dim=3, dt=DT / 10), 10)
    systems = {"truth": truth}
    for name, build in NETWORKS.items():
        network = learned(build, truth, iterations)
        systems[name] = network if isinstance(network, sx.System) else sx.Map(network, 3)
    found = {name: measured(system, truth, steps) for name, system in systems.items()}
    for name, values in found.items():
        volume, exponents = values["volume"], ", ".join(f"{value:.4f}" for value in values["exponents"])
        print(f"{name}: error {values['error']:.1e}, exponents {exponents}, ", end="")
        print(f"mean ln volume {float(volume[-1].mean()):.1e} after {len(volume):,} steps")
    figure(found).savefig(asked.out / "volume_preserving.png", dpi=120)
    return found


def angles(count: int, seed: int) -> Tensor:
    """States uniform on the torus, shape (count, 3)."""
    return TURN * torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def learned(build: Any, truth: sx.System, iterations: int) -> nn.Module:
    """A network fitted to samples of the flow's map by L-BFGS."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build().double()
    x = angles(SAMPLES, seed=0)
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
def measured(system: sx.System, truth: sx.System, steps: int) -> dict[str, Any]:
    """The error of a step, where tracers cross z = 0 in the second half of a run, volumes along its beginning, and exponents."""
    test, torus = angles(2_000, seed=1), OnTorus(system)
    run = sx.trajectory(torus, angles(TRACERS, seed=2), steps)[steps // 2 :]
    return {
        "error": float((system.step(test) - truth.step(test)).square().mean().sqrt()),
        "section": torch.cat([crossed(before, after) for before, after in pairwise(run)]),
        "volume": volumes(torus, angles(FEW, seed=2), steps // 4),
        "exponents": sx.lyapunov_spectrum(torus, angles(FEW, seed=3), steps=steps // 8).exponents.mean(0),
    }


def volumes(system: sx.System, x: Tensor, steps: int) -> Tensor:
    """The logarithm of the volume about each tracer over that at the start, shape (steps, tracers), by dense Jacobians."""
    one = torch.eye(3, dtype=torch.float64).expand(*x.shape[:-1], 3, 3)
    volume, along = torch.zeros(x.shape[:-1], dtype=torch.float64), []
    for _ in range(steps):
        x, jacobian = system.pushforward(x, one)
        volume = volume + torch.linalg.slogdet(jacobian).logabsdet
        along.append(volume)
    return torch.stack(along)


def crossed(before: Tensor, after: Tensor) -> Tensor:
    """Where the straight lines between two states cross z = 0 upwards, shape (crossings, 2), as (x, y)."""
    step = (after - before + math.pi).remainder(TURN) - math.pi
    crosses = (before[:, 2] > math.pi) & (before[:, 2] + step[:, 2] >= TURN)
    fraction = (TURN - before[crosses, 2]) / step[crosses, 2]
    return (before[crosses] + fraction[:, None] * step[crosses])[:, :2].remainder(TURN)


@styled
def figure(found: dict[str, Any]) -> Figure:
    """The sections of the flow and of both networks, and the volume about tracers along their paths."""
    picture = Figure(figsize=(9.6, 6.6), layout="constrained")
    panels = picture.subplot_mosaic([["truth", "shears", "plain network"], ["volume"] * 3], height_ratios=(1.25, 1))
    titles = {"truth": "The flow", "shears": "Shears, learned", "plain network": "Plain network, learned"}
    for name, title in titles.items():
        draw_section(panels[name], found[name]["section"])
        panels[name].set_title(title)
    draw_volume(panels["volume"], found)
    return picture


def draw_section(axes: Axes, section: Tensor) -> None:
    """Where tracers crossed z = 0 in the second half of their run."""
    axes.plot(section[:, 0], section[:, 1], ",", color=SERIES[0].color, rasterized=True)
    axes.set(xlim=(0, TURN), ylim=(0, TURN), aspect="equal", xlabel="x (rad), where z = 0", ylabel="y (rad)")
    axes.tick_params(**TICKS)
    axes.grid(visible=False)


def draw_volume(axes: Axes, found: dict[str, Any]) -> None:
    """The median over tracers, with the band that holds the middle nine tenths of them."""
    for i, name in enumerate(("shears", "plain network")):
        volume = found[name]["volume"]
        time = DT * torch.arange(1, len(volume) + 1)
        low, middle, high = torch.quantile(volume, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64), dim=1)
        axes.fill_between(time, low, high, color=SERIES[i].color, alpha=0.2, linewidth=0)
        axes.plot(time, middle, color=SERIES[i].color, linestyle=SERIES[i].line, label=name)
    axes.set(xlabel="time t", ylabel="ln (volume / volume at t = 0)")
    axes.set_title("The volume about a tracer: median, and the middle 90 % of tracers")
    axes.legend(loc="lower left")
    axes.tick_params(**TICKS)


if __name__ == "__main__":
    main()
