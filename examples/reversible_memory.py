"""Networks of 1,000 layers whose memory does not grow with depth, their gradients, and rings that only inertia takes apart.

Run it:  python examples/reversible_memory.py [--quick] [--out DIR]
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

import separatrix as sx
from separatrix.plot.style import BAR, INK, NOTE, QUIET, TICKS, series, styled

GAMMA, WIDTH, ITEMS, TIME = 0.9, 32, 64, 3.0  # all layers together go a time of 3, so that gradients neither vanish nor explode
DEPTHS = (10, 30, 100, 300, 1000)
LAYERS, HIDDEN, POINTS, RATE = 30, 16, 256, 0.01  # of the networks that take rings apart
RADII, THICKNESS = (0.5, 1.0), 0.05
PARTS = ("residual", "momentum", "reversible")
Run = Callable[[Tensor], Tensor]


class Small(nn.Module):
    """One of many layers:  f(x) = (T / depth) tanh(Wx + b)."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.linear, self.step = nn.Linear(dim, dim), TIME / depth

    def forward(self, x: Tensor) -> Tensor:
        """(items, dim), the same after."""
        return self.step * torch.tanh(self.linear(x))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, train, draw and save `reversible_memory.png`; bytes and errors by depth, and the rings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer layers, one seed and few iterations, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    depths, seeds = (DEPTHS[:-1], 1) if asked.quick else (DEPTHS, 5)
    kept = {part: [stored(part, depth) for depth in depths] for part in PARTS}
    errors = torch.stack([torch.stack([gradient_errors(depth, seed) for depth in depths]) for seed in range(seeds)])
    rings = {kind: [separated(kind, seed, 15 if asked.quick else 300) for seed in range(seeds)] for kind in PARTS[:2]}
    found = {"depths": depths, "kept": kept, "errors": errors, "rings": rings}
    tell(found)
    figure(found).savefig(asked.out / "reversible_memory.png", dpi=120)
    return found


def layers_of(dim: int, depth: int, seed: int) -> nn.ModuleList:
    """Layers with weights of a seed, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleList(Small(dim, depth) for _ in range(depth)).double()


def residual(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """A plain residual network, which stores its activations."""
    for f in layers:
        x = x + f(x)
    return x


def momentum(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """A momentum network that stores its activations."""
    v = torch.zeros_like(x)
    for f in layers:
        v = GAMMA * v + (1 - GAMMA) * f(x)
        x = x + v
    return x


def stored(part: str, depth: int) -> float:
    """Bytes that are held between the passes, for each number of the state, but for the weights; in float32."""
    if part == "reversible":
        halves = layers_of(WIDTH // 2, depth, 0)
        network: nn.Module = sx.nn.Reversible(halves[::2], halves[1::2]).float()
    else:
        network = sx.nn.Momentum(layers_of(WIDTH, depth, 0), gamma=GAMMA).float()
    x = torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(0))
    run = (lambda y: residual(network.layers, y)) if part == "residual" else network
    return sx.testing.held_bytes(run, x, apart_from=network) / x.numel()


def gradient_errors(depth: int, seed: int) -> Tensor:
    """Relative errors in float32 of ours, of stored activations and of plain inversion; then how far inversion misses the input."""
    layers, random = layers_of(WIDTH, depth, seed), torch.Generator().manual_seed(seed)
    x, w = torch.randn(2, ITEMS, WIDTH, dtype=torch.float64, generator=random)
    exact = gradients(lambda y: momentum(layers, y), x, w, layers)
    short, y, u = layers.float(), x.float(), w.float()
    network = sx.nn.Momentum(short, gamma=GAMMA)
    inverted, missed = by_plain_inversion(network, y, u)
    sides = (gradients(network, y, u, short), gradients(lambda z: momentum(short, z), y, u, short), inverted)
    return torch.stack([*((side - exact).norm() / exact.norm() for side in sides), missed])


def gradients(run: Run, x: Tensor, w: Tensor, layers: nn.Module) -> Tensor:
    """Of Σ w·x', by the input and all weights, in one vector."""
    leaf = x.clone().requires_grad_()
    found = torch.autograd.grad((run(leaf) * w).sum(), [leaf, *layers.parameters()])
    return torch.cat([one.flatten().double() for one in found])


def by_plain_inversion(network: sx.nn.Momentum, x0: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """What one gets with v = (v' − (1 − γ) f(x)) / γ in floats: gradients, and the largest error of the input that came back."""
    with torch.no_grad():
        x, v = network.advance(x0)
    grad_x, grad_v, grads = w, torch.zeros_like(w), []
    for f in reversed(network.layers):
        x = (x - v).detach().requires_grad_()
        value = f(x)
        v = (v - (1 - GAMMA) * value.detach()) / GAMMA
        grad_v = grad_v + grad_x
        along, *own = torch.autograd.grad(value, [x, *f.parameters()], (1 - GAMMA) * grad_v)
        grad_x, grad_v, grads = grad_x + along, GAMMA * grad_v, own + grads
    missed = (x.detach() - x0).abs().max().double()
    return torch.cat([one.flatten().double() for one in (grad_x, *grads)]), missed


class Field(nn.Module):
    """One of few layers in the plane:  f(x) = (C tanh(Ax + a) + c) / LAYERS,  a small step for both kinds of networks."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(points, 2), the same after."""
        return self.outer(torch.tanh(self.inner(x))) / LAYERS


class Planar(nn.Module):
    """Layers f on points of the plane, with inertia or without, and a line that tells two classes.

    Args:
        kind: "residual" or "momentum".
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Field() for _ in range(LAYERS))
        self.line = nn.Linear(2, 1)
        self.moved = sx.nn.Momentum(self.layers, gamma=GAMMA) if kind == "momentum" else None

    def paths(self, x: Tensor) -> Tensor:
        """The points behind each layer, (layer, points, 2)."""
        v, seen = torch.zeros_like(x), [x]
        for f in self.layers:
            v = f(x) if self.moved is None else GAMMA * v + (1 - GAMMA) * f(x)
            seen.append(x := x + v)
        return torch.stack(seen)

    def forward(self, x: Tensor) -> Tensor:
        """One score a point."""
        return self.line(self.paths(x)[-1] if self.moved is None else self.moved(x))[..., 0]


def ring_points(seed: int) -> tuple[Tensor, Tensor]:
    """Points of two rings about the origin, and which one each is of."""
    random = torch.Generator().manual_seed(seed)
    which = torch.arange(POINTS) % 2
    angle = 2 * math.pi * torch.rand(POINTS, generator=random)
    radius = torch.tensor(RADII)[which] + THICKNESS * torch.randn(POINTS, generator=random)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1), which.float()


def separated(kind: str, seed: int, iterations: int) -> dict[str, Any]:
    """A network trained on the rings of a seed; how many points of other rings it tells, and their paths."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Planar(kind)
    x, which = ring_points(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(iterations):
        optimiser.zero_grad()
        functional.binary_cross_entropy_with_logits(model(x), which).backward()
        optimiser.step()
    others, theirs = ring_points(seed + 1000)
    with torch.no_grad():
        right = float(((model(others) > 0).float() == theirs).float().mean())
        print(f"rings, {kind}, seed {seed}: {right:.1%}", flush=True)
        return {
            "right": right,
            "paths": model.paths(others),
            "which": theirs,
            "line": (model.line.weight[0].tolist(), model.line.bias.item()),
        }


def tell(found: dict[str, Any]) -> None:
    """The numbers behind the picture."""
    depths = ", ".join(map(str, found["depths"]))
    for part, bytes_held in found["kept"].items():
        print(f"bytes held for each number of the state through {depths} layers, {part}: {', '.join(f'{b:g}' for b in bytes_held)}")
    names = ("gradient, ours", "gradient, stored activations", "gradient, plain inversion", "input, plain inversion")
    for name, own in zip(names, found["errors"].unbind(-1), strict=True):
        told = ", ".join(f"{median:.1e} (to {most:.1e})" for median, most in zip(own.median(0).values, own.amax(0), strict=True))
        print(f"float32 error of the {name}, median (largest) of {len(own)} seeds: {told}")
    for kind, runs in found["rings"].items():
        mean, error = share(runs)
        print(f"points of the rings told apart, {kind}: {mean:.1f} ± {error:.1f} %")


def share(runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean over the seeds of the points that are told apart, in per cent, and its standard error; 0 of one seed."""
    right = 100 * torch.tensor([run["right"] for run in runs])
    return float(right.mean()), float(right.std() / len(right) ** 0.5) if len(right) > 1 else 0.0


@styled
def figure(found: dict[str, Any]) -> Figure:
    """Memory and errors against depth; below, the rings behind the last layer."""
    whole = Figure(figsize=(10.4, 8.6), layout="constrained")
    panels = whole.subplots(2, 2)
    for axes in panels.flat:
        axes.tick_params(which="both", **TICKS)
    draw_memory(panels[0, 0], found)
    draw_errors(panels[0, 1], found)
    for axes, kind in zip(panels[1], PARTS[:2], strict=True):
        draw_rings(axes, kind, found["rings"][kind])
    return whole


def draw_memory(axes: Axes, found: dict[str, Any]) -> None:
    """Bytes for each number of the state."""
    for i, (part, kept) in enumerate(found["kept"].items()):
        axes.plot(found["depths"], kept, linestyle=series(i).line, label=part, **series(i).marks)
    axes.set(xscale="log", yscale="log", xlabel="layers", ylabel="bytes held for each number of the state")
    axes.set_title("Between the passes, without the weights")
    axes.legend()


def draw_errors(axes: Axes, found: dict[str, Any]) -> None:
    """Of gradients in float32, against stored activations in float64."""
    depths, names = torch.tensor(found["depths"]), ("recomputed on the lattice", "stored activations", "plain inversion")
    for i, name in enumerate(names):
        own, look = found["errors"][..., i], series((1, 0, 2)[i])
        middle = own.median(0).values
        bars = torch.stack([middle - own.amin(0), own.amax(0) - middle])
        axes.errorbar(depths * (0.96, 1.04, 1.0)[i], middle, bars, label=name, linestyle=look.line, **look.marks)
    through = torch.linspace(DEPTHS[0], 170, 50)
    axes.plot(through, 2.0**-24 * GAMMA**-through, color=QUIET, linewidth=0.8, linestyle=":")
    axes.annotate(r"$2^{-24}\gamma^{-L}$", (100, 2.0**-24 * GAMMA**-100), xytext=(-42, 2), textcoords="offset points", **NOTE)
    axes.set(xscale="log", yscale="log", xlabel="layers L", ylabel="relative error of the gradient")
    axes.set_title(f"Momentum network, γ = {GAMMA:g}, in float32")
    axes.legend(loc="upper left")


def draw_rings(axes: Axes, kind: str, runs: list[dict[str, Any]]) -> None:
    """The median seed: paths of the points, where they end, and the line between the classes."""
    run = sorted(runs, key=lambda one: one["right"])[len(runs) // 2]
    mean, error = share(runs)
    for i in range(2):
        own = run["paths"][:, run["which"] == i]
        axes.plot(*own[:, ::4].unbind(-1), color=series(i).color, linewidth=0.5, alpha=0.35)
        marks = {**series(i).marks, "markersize": 3.5}
        axes.plot(*own[-1].T, linestyle="none", label=("inner ring", "outer ring")[i], **marks)
    limits = axes.get_xlim(), axes.get_ylim()
    (a, b), c = run["line"]
    axes.axline((-a * c / (a**2 + b**2), -b * c / (a**2 + b**2)), slope=-a / b, color=INK, linewidth=1)
    axes.set(xlim=limits[0], ylim=limits[1], xlabel="x₁", ylabel="x₂")
    axes.set_title(f"{kind.capitalize()} network, {LAYERS} layers: {mean:.1f} ± {BAR * error:.1f} % told apart")
    axes.legend(loc="best")


if __name__ == "__main__":
    main()
