"""A rigid body tumbles in free space: its angular momentum stays on a sphere, and a network that is built to stays there too.

Euler's equations ẋ = x × ω, ω = (x₁/I₁, x₂/I₂, x₃/I₃), keep ‖x‖. Two networks of about equal size learn their map over a time of
1/2 from states on the unit sphere: layers that preserve the sphere, and a plain residual network. Each is then run for itself.

Run it:  python examples/rigid_body.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import FAINT, NOTE, QUIET, Series, canvas, series, styled

INERTIA = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
TIME = 0.5  # of one step of the map
VIEW = (0.9, 0.45)  # angles from which the sphere is seen, in radians
ROUNDING = float(np.finfo(float).eps)
SHOWN = 1_000  # steps of each orbit in the pictures of the sphere


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, run, draw and save `rigid_body.png`; the orbits of the map and of both networks, and the networks' errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds of training and steps, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    rounds, steps = (40, 1_000) if asked.quick else (1_000, 10_000)

    networks = {name: trained(name, rounds) for name in ("sphere-preserving", "plain")}
    unseen = on_sphere(2_000, seed=1)
    errors = {
        name: float((followed(network, unseen, 1)[1] - exact(unseen)).norm(dim=-1).mean()) for name, network in networks.items()
    }
    start = rows()
    orbits = {name: followed(network, start, steps) for name, network in {"Euler's equations": exact, **networks}.items()}
    for name, network in networks.items():
        drift = float((orbits[name].norm(dim=-1) - 1).abs().max())
        size = sum(parameter.numel() for parameter in network.parameters())
        print(f"{name}: {size} numbers, off by {errors[name]:.1e} after one step; ‖x‖ off by up to {drift:.1e} in {steps:,} steps")
    figure(orbits).savefig(asked.out / "rigid_body.png", dpi=120)
    return {"orbits": orbits, "errors": errors, "networks": networks}


def euler(x: Tensor, t: float = 0.0) -> Tensor:
    """The field x × ω."""
    return torch.linalg.cross(x, x / INERTIA)


def exact(x: Tensor) -> Tensor:
    """The state a time 1/2 later, by 16 steps of RK4, to 1e-8."""
    flow = sx.Flow(euler, 3, TIME / 16)
    for n in range(16):
        x = flow(x, n)
    return x


def energy(x: Tensor) -> Tensor:
    """½ Σ xᵢ²/Iᵢ, which the body keeps and neither network is told of."""
    return (x**2 / INERTIA).sum(-1) / 2


def on_sphere(count: int, seed: int) -> Tensor:
    """Points of the unit sphere, uniform."""
    x = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=-1, keepdim=True)


def rows() -> Tensor:
    """Where orbits begin: on an arc from near the first axis to near the third, which circle the one or the other."""
    angle = torch.tensor([0.15, 0.4, 0.65, 0.9, 1.15, 1.4], dtype=torch.float64)
    return torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], dim=-1)


class Plain(nn.Module):
    """x + B tanh(A x + b) + c."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.change = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 3))

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.change(x)


def trained(name: str, rounds: int) -> nn.Module:
    """A network of three layers that has learned the map from 300 states, by L-BFGS."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "plain":
            network = nn.Sequential(*(Plain(11) for _ in range(3)))
        else:
            network = sx.nn.Sequential(*(sx.nn.SpherePreserving(3, planes=8, dt=TIME / 3) for _ in range(3)))
    network, x = network.double(), on_sphere(300, seed=0)
    options = {
        "max_iter": rounds,
        "history_size": 50,
        "tolerance_grad": 1e-12,
        "tolerance_change": 1e-14,
        "line_search_fn": "strong_wolfe",
    }
    optimiser, target = torch.optim.LBFGS(network.parameters(), **options), exact(x)

    def loss() -> Tensor:
        optimiser.zero_grad()
        off = nn.functional.mse_loss(network(x), target)
        off.backward()
        return off

    optimiser.step(loss)
    return network


@torch.no_grad()
def followed(network: Any, x: Tensor, steps: int) -> Tensor:
    """States after 0, 1, … steps, shape (steps + 1, orbit, 3)."""
    states = [x]
    for _ in range(steps):
        states.append(network(states[-1]))
    return torch.stack(states)


@styled
def figure(orbits: dict[str, Tensor]) -> Figure:
    """The orbits on the sphere, how far they leave it, and how far the energy leaves its value."""
    picture, ((left, right, norm, kept),) = canvas(1, 4, width=3.7, height=3.7)
    for axes, name, look in ((left, "sphere-preserving", series(0)), (right, "plain", series(1))):
        draw_sphere(axes, orbits["Euler's equations"], orbits[name], look)
        axes.set_title(f"{name.capitalize()}, {min(SHOWN, len(orbits[name]) - 1):,} steps")
    draw_departure(norm, {name: (x.norm(dim=-1) - 1).abs() for name, x in orbits.items() if name != "Euler's equations"})
    norm.set(title="Distance from the sphere", ylabel="| ‖x‖ − 1 |, largest so far")
    norm.axhline(ROUNDING, color=QUIET, linewidth=0.8)
    norm.text(1e2, 0.2 * ROUNDING, "rounding: 2.2e−16", **NOTE)
    norm.set_ylim(bottom=0.05 * ROUNDING)
    norm.legend(loc="center right")
    draw_departure(kept, {name: (energy(x) / energy(x[0]) - 1).abs() for name, x in orbits.items() if name != "Euler's equations"})
    kept.set(title="Energy, which neither is built to keep", ylabel="| E / E₀ − 1 |, largest so far")
    kept.legend(loc="lower right")
    return picture


def draw_sphere(axes: Axes, exact: Tensor, orbits: Tensor, look: Series) -> None:
    """The body's orbits in grey and a network's on them, seen from one side; what is behind the sphere is left out."""
    axes.add_patch(Circle((0, 0), 1, facecolor="#f4f5f7", edgecolor=QUIET))
    for states, marks in ((exact, {"color": FAINT, "markersize": 5}), (orbits, {"color": look.color, "markersize": 2})):
        across, up, depth = seen(states[: SHOWN + 1])
        hidden = (depth < 0) & (np.hypot(across, up) < 1)
        axes.plot(np.where(hidden, np.nan, across), np.where(hidden, np.nan, up), ".", **marks)
    axes.set(aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
    axes.plot([], [], "o", color=FAINT, label="Euler's equations")
    axes.plot([], [], "o", color=look.color, label="network")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, handlelength=1)
    axes.set_axis_off()


def seen(x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Across, up and towards the eye."""
    turn, tilt = VIEW
    p, q, r = x.numpy().transpose(2, 0, 1)
    ahead = np.cos(turn) * p + np.sin(turn) * q
    return np.cos(turn) * q - np.sin(turn) * p, np.cos(tilt) * r - np.sin(tilt) * ahead, np.sin(tilt) * r + np.cos(tilt) * ahead


def draw_departure(axes: Axes, gaps: dict[str, Tensor]) -> None:
    """Of all orbits the largest so far, against the number of steps."""
    for i, (name, gap) in enumerate(gaps.items()):
        most = gap.amax(1).nan_to_num(torch.inf).cummax(0).values[1:]
        look = series(i)
        axes.loglog(np.arange(1, len(most) + 1), most, color=look.color, linestyle=look.line, label=name)
    axes.set(xlabel="steps of 1/2 unit of time")


if __name__ == "__main__":
    main()
