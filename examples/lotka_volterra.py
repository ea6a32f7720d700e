"""Prey and predators: growth and decay are known, what happens when they meet is learned from noisy counts, and read as a formula.

Run it:  python examples/lotka_volterra.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import INK, QUIET, SERIES, styled

ALPHA, BETA, GAMMA, DELTA = 1.3, 0.9, 0.8, 1.8
STARTS = ((0.5, 4.5), (1.0, 1.0), (2.0, 3.0), (3.5, 0.8))  # each known; what comes after is seen with noise
SPAN, EVERY, DT = 6.0, 0.2, 0.1
NOISE = 0.05  # standard deviation of each count
FAR = 5  # times as long as what was learned from
WINDOWS = (6, 11, 21, 31)  # samples: alone, prey grow for ever, so an orbit is followed further as the network learns of it
HIDDEN = 16


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, read, draw and save `lotka_volterra.png`; the coefficients of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    found = learn(seeds=1 if asked.quick else 5, max_steps=25 if asked.quick else 60)
    figure(found).savefig(asked.out / "lotka_volterra.png", dpi=120)
    return found


def known(x: Tensor) -> Tensor:
    """What each population does alone."""
    return x * x.new_tensor([ALPHA, -DELTA])


def network(seed: int) -> nn.Module:
    """(x, y) ↦ what meeting does to both; nothing, to begin with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2))
    return sx.nn.parts.zero_output_(layers.double())


def learn(*, seeds: int, max_steps: int) -> dict[str, Any]:
    """Fit a network to each seed's noisy counts, and read the terms that it has learned."""
    start = torch.tensor(STARTS, dtype=torch.float64)
    near, far = (torch.linspace(0, span, round(span / EVERY) + 1, dtype=torch.float64) for span in (SPAN, FAR * SPAN))
    truth = follow(sx.classic.LotkaVolterra(ALPHA, BETA, GAMMA, DELTA), start, far, dt=DT / 4)
    seen, fields = [], []
    for seed in range(seeds):
        noise = torch.randn(truth[: len(near)].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        seen.append(truth[: len(near)] + NOISE * noise)
        fields.append(sx.nn.Universal(known, network(seed)))
        for count in WINDOWS:
            fit = sx.nn.fit_observations(
                fields[-1], seen[-1][:count], x0=start, times=near[:count], dt=DT, decay=NOISE**2, max_steps=max_steps
            )
        print(f"seed {seed}: {fit}")
    learned = torch.stack([follow(field, start, far, dt=DT) for field in fields])
    states = learned[:, : len(near)].flatten(1, 2)  # of each seed, where it was fitted
    with torch.no_grad():
        values = torch.stack([field.missing(x, 0.0) for field, x in zip(fields, states, strict=True)])
    terms = sx.sparse_terms(values, states)
    tell(terms)
    return {"truth": truth, "seen": seen, "learned": learned, "fields": fields, "terms": terms, "near": len(near)}


@torch.no_grad()
def follow(field: sx.Field, start: Tensor, times: Tensor, *, dt: float) -> Tensor:
    """States at the asked times, shape (times, items, 2)."""
    return sx.solve(field, start, times, method="rk4", dt=dt).states


def tell(terms: sx.results.SparseTerms) -> None:
    """The formulas beside the true ones."""
    for i, (name, true) in enumerate((("ẋ", f"−{BETA} x y"), ("ẏ", f"{GAMMA} x y"))):
        print(f"missing from {name}: {terms.formula(i)}    (true: {true})")
    print(f"off what the network gives by {terms.error.mean(0)[0]:.1%} and {terms.error.mean(0)[1]:.1%} of its size")


@styled
def figure(found: dict[str, Any]) -> Figure:
    """The counts and what follows, the plane, both learned terms over the true ones, and the coefficients that were read."""
    picture = Figure(figsize=(11, 7.4), layout="constrained")
    grid = picture.add_gridspec(3, 3, height_ratios=(1, 1, 2))
    prey, predators = picture.add_subplot(grid[0, :]), picture.add_subplot(grid[1, :])
    for i, (axes, name) in enumerate(((prey, "prey x"), (predators, "predators y"))):
        draw_counts(axes, found, i, name)
    prey.set_title("One of the four orbits, learned from up to the line")
    prey.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98))
    predators.set_xlabel("time")
    for i, name in enumerate(("ẋ", "ẏ")):
        draw_term(picture.add_subplot(grid[2, i]), found, i, name)
    draw_coefficients(picture.add_subplot(grid[2, 2]), found)
    return picture


def draw_counts(axes: Axes, found: dict[str, Any], i: int, name: str, item: int = 0) -> None:
    """One population of one orbit: noisy counts, and the learned field of each seed far beyond them."""
    look, near = SERIES[i], found["near"]
    times = torch.linspace(0, FAR * SPAN, len(found["truth"]))
    for number, one in enumerate(found["learned"]):
        label = "learned, each seed" if number == 0 else None
        axes.plot(times, one[:, item, i], color=look.color, linewidth=1, alpha=0.7, label=label)
    axes.plot(times, found["truth"][:, item, i], color=INK, linestyle=(0, (2, 1.5)), linewidth=1.2, label="truth")
    axes.plot(times[:near], found["seen"][0][:, item, i], linestyle="", markersize=3, label="seen", **look.marks)
    axes.axvline(SPAN, color=QUIET, linewidth=0.8)
    axes.set_ylabel(name)
    axes.set_ylim(bottom=min(-0.2, float(found["seen"][0][:, item, i].min()) - 0.1))


@torch.no_grad()
def draw_term(axes: Axes, found: dict[str, Any], i: int, name: str) -> None:
    """What each seed's network gives at the states of the true orbits, against what is missing there: x y times a number."""
    states = found["truth"][: found["near"]].flatten(0, 1)
    met = states.prod(-1)
    slope = (-BETA, GAMMA)[i]
    ends = torch.tensor([0.0, float(met.max())])
    axes.plot(ends, slope * ends, color=INK, linewidth=1, label=f"truth, {slope:g} x y".replace("-", "−"), zorder=3)
    for number, field in enumerate(found["fields"]):
        label = "learned, each seed" if number == 0 else None
        axes.plot(met, field.missing(states, 0.0)[:, i], linestyle="", markersize=2.4, label=label, **SERIES[i].marks)
    axes.set(title=f"What is missing from {name}", xlabel="x y", ylabel="missing term (population / time)")
    axes.legend()


def draw_coefficients(axes: Axes, found: dict[str, Any]) -> None:
    """All coefficients that were read, by term, over the true ones."""
    terms = found["terms"]
    place = terms.terms.index("x y")
    for i, (look, name, true) in enumerate(zip(SERIES, ("ẋ", "ẏ"), (-BETA, GAMMA), strict=False)):
        axes.hlines(true, place - 0.4, place + 0.4, color=INK, linewidth=1, label="truth" if i == 0 else None)
        for number, row in enumerate(terms.coefficients[:, i]):
            label = f"read from {name}, each seed" if number == 0 else None
            axes.plot(range(len(row)), row, linestyle="", label=label, **look.marks)
    axes.set_xticks(range(len(terms.terms)), terms.terms)
    axes.set(title="The formula", xlabel="term", ylabel="coefficient", ylim=(-1.2, 1.6))
    axes.legend(loc="upper left")


if __name__ == "__main__":
    main()
