"""A continuous normalizing flow: two moons learned as a density, held to the exact one, a kernel estimate and a mixture.

Run it:  python examples/density.py [--quick] [--out DIR]
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from torch import Tensor

import separatrix as sx
from separatrix.core.wording import measured
from separatrix.plot.style import BAR, INK, NOTE, SERIES, TICKS, styled

NOISE = 0.1  # standard deviation about the two half circles
TRAIN, TEST, BATCH = 1000, 2000, 256
HIDDEN = (64, 64)
DT, FINE = 1 / 6, 1 / 16  # of the steps in training, and after it
LOW, HIGH = (-1.75, -1.25), (2.75, 1.75)  # corners of the pictures
WIDE = ((-3.0, -3.0), (4.0, 3.5))  # corners of the square on which the density is added up
PROBES = (1, 2, 4, 8, 16, 32, 64)
MAP = "cividis"
BRIGHTEST = 0.75  # the density at which the colours end


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, draw and save `density.png`; what each seed measured, and the flow of the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and short training, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    seeds, steps, side = (1, 80, 40) if asked.quick else (5, 1200, 80)
    runs = [one_seed(seed, steps=steps) for seed in range(seeds)]
    tell(runs)
    flow, grid = runs[0]["flow"], sx.grid(LOW, HIGH, (side, side)).to(torch.float64)
    found = {"runs": runs, "flow": flow, "mass": mass(flow, side), "probes": probed(runs[0]), "grid": grid}
    found["density"] = flow.log_density(grid)[0].exp()
    print(f"the learned density of seed 0 adds up to {found['mass']:.6f}")
    figure(found).savefig(asked.out / "density.png", dpi=120)
    return found


class Standardised:
    """A density in the units of the data: its flow is of points with mean 0 and variance 1.

    Args:
        flow: of standardised points.
        mean, scale: of the data, shape (2).
    """

    def __init__(self, flow: sx.nn.ContinuousNormalizingFlow, mean: Tensor, scale: Tensor) -> None:
        self.flow, self.mean, self.scale = flow, mean, scale

    @torch.no_grad()
    def log_density(self, x: Tensor, *, probes: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
        """The log-density at points, and its standard error."""
        found = self.flow.log_density((x - self.mean) / self.scale, probes=probes, seed=seed)
        return found.values - self.scale.log().sum(), found.stderr

    @torch.no_grad()
    def carried(self, n: int, times: list[float]) -> Tensor:
        """Samples of the base on their way, shape (times, n, 2)."""
        z = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=self.mean.dtype)
        return self.flow.transport(z, times).states * self.scale + self.mean


def moons(n: int, seed: int) -> Tensor:
    """Points of the two moons."""
    return torch.tensor(make_moons(n, noise=NOISE, random_state=seed)[0])


def exact(x: Tensor, nodes: int = 2000) -> Tensor:
    """The log-density of the two moons: a normal one about each point of two half circles."""
    angle = (torch.arange(nodes, dtype=x.dtype) + 0.5) * math.pi / nodes
    outer = torch.stack([angle.cos(), angle.sin()], dim=-1)
    centres = torch.cat([outer, torch.tensor([1.0, 0.5], dtype=x.dtype) - outer])
    parts = [torch.cdist(piece, centres).square() for piece in x.reshape(-1, 2).split(500)]
    peak = -math.log(2 * math.pi * NOISE**2 * len(centres))
    return torch.cat([(-part / (2 * NOISE**2)).logsumexp(-1) + peak for part in parts]).reshape(x.shape[:-1])


def one_seed(seed: int, *, steps: int) -> dict[str, Any]:
    """New points, new weights: the mean test log-likelihoods of the flow, a kernel estimate, a mixture and the truth."""
    train, test = moons(TRAIN, seed), moons(TEST, 1000 + seed)
    flow = learned(train, seed, steps=steps)
    values = {"flow": flow.log_density(test)[0], "truth": exact(test)}
    values |= {name: torch.tensor(model.fit(train).score_samples(test)) for name, model in references().items()}
    print(f"seed {seed}: " + ", ".join(f"{name} {float(value.mean()):.4f}" for name, value in values.items()), flush=True)
    return {"flow": flow, "test": test, "values": values, "below": below_truth(values)}


def below_truth(values: dict[str, Tensor]) -> dict[str, float]:
    """How far each mean is below that of the true density on the same points."""
    return {name: float((values["truth"] - value).mean()) for name, value in values.items() if name != "truth"}


def learned(train: Tensor, seed: int, *, steps: int) -> Standardised:
    """A flow of highest likelihood, by Adam with a falling rate; with finer steps after the training."""
    mean, scale = train.mean(0), train.std(0)
    points, random = ((train - mean) / scale).float(), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        field = sx.nn.parts.DenseField(2, hidden=HIDDEN, time_dependent=True)
    flow = sx.nn.ContinuousNormalizingFlow(field, 2, dt=DT)
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        batch = points[torch.randint(len(points), (BATCH,), generator=random)]
        optimiser.zero_grad()
        (-flow.log_density(batch).mean).backward()
        optimiser.step()
        schedule.step()
    return Standardised(sx.nn.ContinuousNormalizingFlow(field.double(), 2, dt=FINE), mean, scale)


def references() -> dict[str, Any]:
    """A kernel estimate and a mixture, each with its one setting chosen by cross-validation."""
    bandwidths, components = np.geomspace(0.05, 0.25, 8), np.arange(4, 21, 4)
    return {
        "kernels": GridSearchCV(KernelDensity(), {"bandwidth": bandwidths}),
        "mixture": GridSearchCV(GaussianMixture(random_state=0), {"n_components": components}),
    }


def mass(flow: Standardised, side: int) -> float:
    """The learned density, added up over a square far wider than the moons."""
    low, high = WIDE
    points = sx.grid(low, high, (side, side)).to(torch.float64)
    cell = math.prod((b - a) / (side - 1) for a, b in zip(low, high, strict=True))
    return float(flow.log_density(points)[0].exp().sum() * cell)


def probed(run: dict[str, Any]) -> dict[str, Any]:
    """Hutchinson's estimate against the exact trace: how far off it is, and how far it says, by the number of probes."""
    x = run["test"][:400]
    exactly = run["flow"].log_density(x)[0]
    error, told = [], []
    for probes in PROBES:
        value, stderr = run["flow"].log_density(x, probes=probes, seed=probes)
        error.append(float((value - exactly).square().mean().sqrt()))
        told.append(float(stderr.square().mean().sqrt()))
    return {"error": error, "stderr": told}


def tell(runs: list[dict[str, Any]]) -> None:
    """Mean test log-likelihoods over the seeds, and how far they are below the truth."""
    for name in runs[0]["values"]:
        value = spread([float(run["values"][name].mean()) for run in runs])
        below = spread([run["below"][name] for run in runs]) if name != "truth" else (0.0, 0.0)
        print(f"{name}: test log-likelihood {measured(*value)} nats a point, {measured(*below)} below the truth")


def spread(values: list[float]) -> tuple[float, float]:
    """The mean over seeds and its standard error."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), error


@styled
def figure(found: dict[str, Any]) -> Figure:
    """Samples on their way; the learned density and the true one; test log-likelihoods by seed; the estimate of the trace."""
    picture = Figure(figsize=(11.5, 5.6), layout="constrained")
    above, below = picture.add_gridspec(2, 1, height_ratios=(1, 1.2))
    draw_way([picture.add_subplot(place) for place in above.subgridspec(1, 5)], found["flow"])
    panels = [picture.add_subplot(place) for place in below.subgridspec(1, 4)]
    shade(panels[0], found["grid"], found["density"], "Learned density")
    shade(panels[1], found["grid"], exact(found["grid"]).exp(), "True density")
    draw_seeds(panels[2], found["runs"])
    draw_probes(panels[3], found["probes"])
    for axes in panels:
        axes.tick_params(which="both", **TICKS)
    return picture


def draw_way(panels: list[Axes], flow: Standardised) -> None:
    """The same samples at five times; light and dark are the two sides of the normal density from which they come."""
    times = [0.0, 0.25, 0.5, 0.75, 1.0]
    points = flow.carried(1500, times)
    for axes, time, x in zip(panels, times, points, strict=True):
        axes.scatter(*x.mT, c=points[0, :, 0], s=3, cmap=MAP, linewidths=0, rasterized=True)
        axes.set(title=f"t = {time:g}", xlabel="x₁", xlim=(-2.4, 3.4), ylim=(-1.9, 2.4), aspect="equal")
        axes.tick_params(which="both", **TICKS)
        axes.grid(False)
    panels[0].set_ylabel("x₂")


def shade(axes: Axes, x: Tensor, density: Tensor, title: str) -> None:
    """A density over the plane, both in one scale."""
    axes.pcolormesh(x[..., 0], x[..., 1], density, cmap=MAP, vmin=0, vmax=BRIGHTEST, shading="gouraud", rasterized=True)
    axes.text(0.98, 0.04, f"0 … {BRIGHTEST} per unit area", transform=axes.transAxes, ha="right", color="white", fontsize=7.5)
    axes.set(title=title, xlabel="x₁", ylabel="x₂", aspect="equal")
    axes.grid(False)


def draw_seeds(axes: Axes, runs: list[dict[str, Any]]) -> None:
    """How far the mean test log-likelihood of each kind is below the truth: seeds, their mean and its error."""
    names = list(runs[0]["below"])
    for place, (look, name) in enumerate(zip(SERIES, names, strict=False)):
        values = [run["below"][name] for run in runs]
        mean, error = spread(values)
        axes.plot(np.full(len(values), place - 0.12), values, linestyle="", **look.marks)
        axes.errorbar(place + 0.15, mean, BAR * error, color=INK, marker="_", markersize=10)
    axes.set(title="Below the truth, by seed", ylabel="test log-likelihood lost (nats a point)", xlim=(-0.5, len(names) - 0.5))
    axes.text(0.03, 0.03, f"bars: {BAR} standard errors", transform=axes.transAxes, **NOTE)
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(names)), names)


def draw_probes(axes: Axes, found: dict[str, Any]) -> None:
    """The error of Hutchinson's estimate and the standard error that it tells."""
    axes.plot(PROBES, found["error"], linestyle="", label="error", **SERIES[0].marks)
    axes.plot(PROBES[1:], found["stderr"][1:], color=SERIES[1].color, linestyle=SERIES[1].line, label="standard error told")
    axes.set(title="Hutchinson's estimate", xlabel="probes of a point", ylabel="log-density (nats, root mean square)")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(PROBES[::2], [str(probes) for probes in PROBES[::2]])
    low, high = axes.get_ylim()
    ticks = [2.0**p for p in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.legend(loc="upper right")


if __name__ == "__main__":
    main()
