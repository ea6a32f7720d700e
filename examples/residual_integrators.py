"""Residual networks as integrators: what networks trained in 6 steps say in 12, 24 and 48 shorter ones, and why.

Run it:  python examples/residual_integrators.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.stability_region import draw_stability_region
from separatrix.plot.step_convergence import draw_step_convergence, finish
from separatrix.plot.style import INK, NOTE, QUIET, SERIES, TICKS, styled

WIDTH, HIDDEN = 8, 32  # numbers in the state, hidden units of the field
STEPS, TIME = 6, 3.0  # in which all are trained
FACTORS = (1, 2, 4, 8)  # parts of a step in which they are followed
TRAIN, TEST, BATCH = 1_000, 2_000, 64
RATE, LONGEST = 1e-2, 1.0  # the highest of one cycle of Adam; gradients are cut to that length
TURNS, NOISE = 1.5, 0.03  # of the spirals
SHOWN = 100  # states whose eigenvalues and errors are measured
KINDS = {  # name: method, factors of which each batch draws one
    "Euler": ("euler", (1,)),
    "midpoint": ("midpoint", (1,)),
    "RK4": ("rk4", (1,)),
    "Euler, steps drawn": ("euler", (1, 2, 4)),
}


class Network(nn.Module):
    """Points of the plane into 8 numbers, these through the layers, and into the scores of two classes."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 2)
        field = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, WIDTH))
        self.depth = sx.nn.ContinuousDepth(field, end=TIME, steps=STEPS, method=method)

    def forward(self, x: Tensor, factor: int = 1, method: str | None = None) -> Tensor:
        """Scores (items, 2) of points (items, 2), with each step taken in `factor` parts."""
        depth = self.depth if factor == 1 and method is None else self.depth.refined(factor, method=method)
        return self.head(depth(self.stem(x)))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, measure, draw and save `residual_integrators.png`; accuracies by kind, the orders and the regions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and short training, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    seeds, epochs = (1, 4) if asked.quick else (5, 120)
    networks = {kind: trained(kind, seeds, epochs) for kind in KINDS}
    found = {"accuracy": accuracies(networks), **measured(networks)}
    tell(found)
    figure(found, networks).savefig(asked.out / "residual_integrators.png", dpi=120)
    return found


def spirals(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points (count, 2) on two arms that turn about each other, and which arm."""
    random = torch.Generator().manual_seed(seed)
    radius, arm = torch.rand(count, generator=random).sqrt(), torch.arange(count) % 2
    angle = torch.pi * (2 * TURNS * radius + arm)
    x = radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
    return x + NOISE * torch.randn(count, 2, generator=random), arm


def trained(kind: str, seeds: int, epochs: int) -> list[Network]:
    """One network a seed, all at once: Adam on the cross-entropy, its rate in one cycle."""
    method, factors = KINDS[kind]
    networks = [untrained(method, seed) for seed in range(seeds)]
    weights = {name: w.detach().requires_grad_() for name, w in torch.func.stack_module_state(networks)[0].items()}
    scores = torch.func.vmap(lambda w, x, factor: torch.func.functional_call(networks[0], w, (x, factor)), in_dims=(0, 0, None))
    x, arm = (torch.stack(part) for part in zip(*(spirals(TRAIN, seed) for seed in range(seeds)), strict=True))
    random = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(weights.values())
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * -(-TRAIN // BATCH))
    for _ in range(epochs):
        for batch in torch.rand(seeds, TRAIN, generator=random).argsort(1).split(BATCH, dim=1):
            factor = factors[int(torch.randint(len(factors), (), generator=random))]
            optimiser.zero_grad()
            given = scores(weights, x.gather(1, batch[..., None].expand(-1, -1, 2)), factor)
            loss = seeds * nn.functional.cross_entropy(given.flatten(0, 1), arm.gather(1, batch).flatten())  # each its own mean
            loss.backward()
            cut(weights)
            optimiser.step()
            cycle.step()
    for seed, network in enumerate(networks):
        network.load_state_dict({name: w[seed].detach() for name, w in weights.items()})
    told = ", ".join(f"{accuracy(network, seed):.1%}" for seed, network in enumerate(networks))
    print(f"{kind}, of new points: {told}", flush=True)
    return networks


def cut(weights: dict[str, Tensor]) -> None:
    """Each network's gradient, to at most the length `LONGEST`."""
    gradients = [w.grad.flatten(1) for w in weights.values() if w.grad is not None]
    share = (LONGEST / torch.cat(gradients, 1).norm(dim=1, keepdim=True)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(share)


def untrained(method: str, seed: int) -> Network:
    """A network as PyTorch initialises it: the same weights for all methods."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(method)


@torch.no_grad()
def accuracy(network: Network, seed: int, factor: int = 1, method: str | None = None) -> float:
    """The share of new points that is told right."""
    x, arm = spirals(TEST, 1_000 + seed)
    return float((network(x, factor, method).argmax(-1) == arm).double().mean())


def accuracies(networks: dict[str, list[Network]]) -> dict[str, dict[str, Tensor]]:
    """Of each kind: in shorter steps of its own method, (factors, seeds), and by other methods in as many steps, (seeds)."""
    found = {}
    for kind, models in networks.items():
        own = [[accuracy(model, seed, factor) for seed, model in enumerate(models)] for factor in FACTORS]
        by = {name: [accuracy(model, seed, 1, name) for seed, model in enumerate(models)] for name in ("euler", "midpoint", "rk4")}
        found[kind] = {"own": torch.tensor(own), **{name: torch.tensor(values) for name, values in by.items()}}
    return found


def measured(networks: dict[str, list[Network]]) -> dict[str, Any]:
    """Of the first seed's networks: the order in which each nears its limit, and its eigenvalues before and after."""
    x = spirals(SHOWN, 2_000)[0]
    with torch.no_grad():
        starts = {kind: models[0].stem(x).double() for kind, models in networks.items()}
        fresh = untrained("euler", 0)
        start = fresh.stem(x).double()
    return {
        "orders": {kind: sx.step_convergence(networks[kind][0].depth, starts[kind]) for kind in KINDS},
        "regions": {kind: sx.stability_region(networks[kind][0].depth, starts[kind]) for kind in KINDS},
        "before": sx.stability_region(fresh.depth, start),
    }


def tell(found: dict[str, Any]) -> None:
    """The numbers of the page, means ± standard errors over seeds."""
    for kind, values in found["accuracy"].items():
        told = ", ".join(f"{STEPS * factor}: {percent(one)}" for factor, one in zip(FACTORS, values["own"], strict=True))
        print(f"{kind}, followed in steps of its own method\n  {told}")
        print(f"  in {STEPS} steps of " + ", ".join(f"{name}: {percent(values[name])}" for name in ("euler", "midpoint", "rk4")))
        print(f"  {found['orders'][kind]}\n  {found['regions'][kind]}")
    print(f"before training\n  {found['before']}")


def percent(values: Tensor) -> str:
    """Mean and standard error over seeds."""
    return f"{100 * values.mean():.1f} ± {100 * stderr(values):.1f} %"


def stderr(values: Tensor) -> Tensor:
    """Of the mean along the last axis; 0 of one value."""
    count = values.shape[-1]
    return values.std(-1) / count**0.5 if count > 1 else torch.zeros(values.shape[:-1], dtype=values.dtype)


def extent(values: Tensor) -> Tensor:
    """How far the least and the largest along the last axis are from the mean, (2, ...): bars within what there can be."""
    return torch.stack([values.mean(-1) - values.amin(-1), values.amax(-1) - values.mean(-1)]).clamp(min=0.0)


@styled
def figure(found: dict[str, Any], networks: dict[str, list[Network]]) -> Figure:
    """Accuracies, orders, a decision in two resolutions; the eigenvalues before and after, in the methods' regions."""
    picture = Figure(figsize=(12.4, 8.2), layout="constrained")
    top, bottom = picture.subplots(2, 3)
    for axes in (*top, *bottom):
        axes.tick_params(which="both", **TICKS)
    draw_accuracies(top[0], found["accuracy"])
    draw_orders(top[1], found["orders"])
    draw_decisions(top[2], networks["Euler"][0])
    shown = (
        (found["before"], "Euler, before training"),
        (found["regions"]["Euler"], "Euler, trained"),
        (found["regions"]["RK4"], "RK4, trained"),
    )
    for axes, (region, title) in zip(bottom, shown, strict=True):
        draw_stability_region(axes, region, bar=axes is bottom[-1])
        axes.set_title(title)
    return picture


def draw_accuracies(axes: Axes, found: dict[str, dict[str, Tensor]]) -> None:
    """Means over seeds, bars from the least to the largest, and each seed."""
    steps = np.array([STEPS * factor for factor in FACTORS])
    for place, (look, (kind, values)) in enumerate(zip(SERIES, found.items(), strict=False)):
        shift = 1 + 0.03 * (place - 1.5)  # or the bars would hide each other
        own = 100 * values["own"]
        axes.plot(steps * shift, own, color=look.color, linestyle="", marker=".", markersize=3, alpha=0.5)
        axes.errorbar(steps * shift, own.mean(-1), extent(own), linestyle=look.line, label=kind, **look.marks)
    axes.axhline(50, color=QUIET, linewidth=0.8)
    axes.text(steps[0], 45.5, "guessing", **NOTE)
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.set(
        title=f"Trained in {STEPS} steps, followed in more", xlabel="steps in the same time", ylabel="new points told right (%)"
    )
    axes.set_ylim(0, 104)
    axes.legend(loc="lower center", ncols=2)


def draw_orders(axes: Axes, found: dict[str, sx.results.StepConvergence]) -> None:
    """How trained networks near their limits."""
    for number, kind in enumerate(KINDS):
        draw_step_convergence(axes, found[kind], name=kind, number=number)
    finish(axes, 0.0)
    axes.set_title("The limit of short steps, after training")


@torch.no_grad()
def draw_decisions(axes: Axes, network: Network) -> None:
    """What the Euler network says of the plane in 12 steps, and where its border lies in the 6 that it has learned."""
    side = torch.linspace(-1.15, 1.15, 301)
    points = torch.cartesian_prod(side, side)
    half, own = ((scores := network(points, factor))[:, 1] - scores[:, 0] for factor in (2, 1))
    half, own = (margin.reshape(301, 301).T.numpy() for margin in (half, own))
    side = side.numpy()
    axes.pcolormesh(side, side, half > 0, cmap=ListedColormap(["#f4cfa5", "#b9d0e2"]), rasterized=True)
    axes.contour(side, side, own, levels=[0.0], colors=INK, linewidths=1.2)
    x, arm = spirals(400, 1_000)
    for look, which in zip((SERIES[1], SERIES[0]), (0, 1), strict=True):
        axes.plot(*x[arm == which].T, linestyle="", marker=look.marker, markersize=2.4, color=look.color)
    axes.set(
        title=f"Euler: {2 * STEPS} half steps (shade), {STEPS} steps (line)",
        xlabel="x₁ (dimensionless)",
        ylabel="x₂ (dimensionless)",
    )
    axes.set_aspect("equal")
    axes.grid(False)


if __name__ == "__main__":
    main()
