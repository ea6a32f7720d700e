"""Presnov's decomposition: a field as the slope of a potential and a turn along circles, and networks that take the two in turn.

Van der Pol's oscillator is decomposed, and followed by splitting: Strang's error is of second order only if both parts are
followed at second order. Then networks of 1 to 8 blocks learn a map that twists a disc and folds it. No flow of the plane can do
that; these have four numbers, and a linear projection at the end.

Run it:  python examples/presnov.py [--quick] [--out DIR]
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.flows.methods import SOLVERS, cayley_midpoint, lie, strang
from separatrix.plot.style import BAR, FAINT, INK, QUIET, canvas, series, styled

ROOM, HIDDEN, PLANES = 4, 4, 4  # numbers in the network's state, and the size of its blocks
STEPS = 2.0 ** -np.arange(4, 10)
START = torch.tensor([1.2, 0.8], dtype=torch.float64)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Decompose, split, learn, draw and save `presnov.png`; the parts, the errors of splitting, and those of the networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks, two seeds, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    blocks, seeds, rounds = ((1, 2), 2, 60) if asked.quick else ((1, 2, 4, 8), 5, 600)

    parts = sx.nn.presnov(van_der_pol, nodes=2)  # exact: the field is a cubic
    splits = {name: errors(step) for name, step in splittings(parts).items()}
    for name, found in splits.items():
        print(f"{name}: one step of size h is off by a multiple of h^{slope(STEPS, found):.2f}")
    learned, model = {}, None
    for count in blocks:
        runs = [trained(count, seed, rounds) for seed in range(seeds)]
        learned[count], model = torch.tensor([error(run) for run in runs]), runs[0]
        print(f"{count} blocks: relative error {', '.join(f'{value:.3f}' for value in learned[count].tolist())}")
    figure(parts, splits, learned, model).savefig(asked.out / "presnov.png", dpi=120)
    return {"parts": parts, "splits": splits, "learned": learned, "slopes": {n: slope(STEPS, e) for n, e in splits.items()}}


def van_der_pol(x: Tensor) -> Tensor:
    """The field (q, (1 − p²) q − p): up the slope of q²/2 − p²q²/4, and round the origin at the rate −(1 + pq/2)."""
    p, q = x.unbind(-1)
    return torch.stack([q, (1 - p**2) * q - p], dim=-1)


Step = Callable[[Tensor, float], Tensor]


def splittings(parts: sx.nn.Presnov) -> dict[str, Step]:
    """Steps of the whole field from steps of its parts."""

    def gradient(x: Tensor, h: float) -> Tensor:
        return SOLVERS["midpoint"].step(lambda y, t: parts.gradient(y), x, 0.0, h)

    def cayley(x: Tensor, h: float) -> Tensor:
        return cayley_midpoint(parts.skew, x, h)

    def lie_euler(x: Tensor, h: float) -> Tensor:
        return (torch.matrix_exp(h * parts.skew(x).matrix) @ x[..., None])[..., 0]

    return {
        "Strang, Cayley midpoint": lambda x, h: strang.step((gradient, cayley), x, h),
        "Strang, Lie–Euler": lambda x, h: strang.step((gradient, lie_euler), x, h),
        "Lie, Cayley midpoint": lambda x, h: lie.step((gradient, cayley), x, h),
    }


def errors(step: Step) -> np.ndarray:
    """Of one step of each size, against RK4 with 64 steps in its place."""
    found = []
    for h in STEPS:
        exact, fine = START, h / 64
        for _ in range(64):
            exact = SOLVERS["rk4"].step(lambda x, t: van_der_pol(x), exact, 0.0, fine)
        found.append(float((step(START, h) - exact).norm()))
    return np.array(found)


def slope(across: np.ndarray, up: np.ndarray) -> float:
    """Of the logarithms, by least squares."""
    return float(np.polyfit(np.log(across), np.log(up), 1)[0])


def target(x: Tensor) -> Tensor:
    """A disc twisted by up to three quarters of a turn, then folded along its first axis."""
    angle = 1.5 * math.pi * (1 - x.norm(dim=-1))
    p, q = x.unbind(-1)
    return torch.stack([angle.cos() * p - angle.sin() * q, (angle.sin() * p + angle.cos() * q).abs()], dim=-1)


def disc(count: int, seed: int) -> Tensor:
    """Points of the unit disc, uniform, shape (count, 2)."""
    random = torch.Generator().manual_seed(seed)
    radius, turn = torch.rand(2, count, dtype=torch.float64, generator=random)
    return radius.sqrt()[:, None] * torch.stack([(2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()], dim=-1)


def trained(blocks: int, seed: int, rounds: int) -> nn.Module:
    """A network of so many blocks in four numbers, two of which begin at 0, and a linear projection; by L-BFGS."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flows = sx.nn.PresnovNetwork(ROOM, blocks=blocks, hidden=HIDDEN, planes=PLANES)
        model = nn.Sequential(nn.ZeroPad1d((0, ROOM - 2)), flows, nn.Linear(ROOM, 2)).double()
    x = disc(400, seed)
    options = {"max_iter": rounds, "history_size": 50, "tolerance_change": 1e-12, "line_search_fn": "strong_wolfe"}
    optimiser = torch.optim.LBFGS(model.parameters(), **options)

    def loss() -> Tensor:
        optimiser.zero_grad()
        off = nn.functional.mse_loss(model(x), target(x))
        off.backward()
        return off

    optimiser.step(loss)
    return model


@torch.no_grad()
def error(model: nn.Module) -> float:
    """The root mean square error on points that it has not seen, relative to the spread of the map's values."""
    x = disc(4_000, seed=10_000)
    wanted = target(x)
    return float((model(x) - wanted).norm() / (wanted - wanted.mean(0)).norm())


@styled
def figure(parts: sx.nn.Presnov, splits: dict[str, np.ndarray], learned: dict[int, Tensor], model: nn.Module) -> Figure:
    """The field and its parts; the errors of splitting, those of the networks, and what the largest network does."""
    picture, (top, bottom) = canvas(2, 3, width=3.9, height=3.5)
    for axes, part, title in zip(
        top,
        (van_der_pol, parts.gradient, parts.sphere),
        ("Van der Pol's field f", "= the slope ∇U", "+ the turn X, xᵀX = 0"),
        strict=True,
    ):
        draw_field(axes, part)
        axes.set_title(title)
    draw_potential(top[1], parts)
    draw_circles(top[2])
    draw_splits(bottom[0], splits)
    draw_learned(bottom[1], learned)
    draw_disc(bottom[2], model, max(learned))
    return picture


def draw_field(axes: Axes, field: Callable[[Tensor], Tensor]) -> None:
    """Streamlines, darker where it is faster."""
    ticks = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)
    p, q = torch.meshgrid(ticks, ticks, indexing="xy")
    velocity = field(torch.stack([p, q], dim=-1))
    speed = velocity.norm(dim=-1)
    shade = 0.35 + 0.65 * (speed / speed.max()).sqrt().numpy()
    stream = {"density": 0.95, "linewidth": 0.9, "arrowsize": 0.8, "cmap": "Blues", "zorder": 2}
    lines = axes.streamplot(ticks.numpy(), ticks.numpy(), velocity[..., 0].numpy(), velocity[..., 1].numpy(), color=shade, **stream)
    lines.lines.set_clim(0, 1)
    axes.set(xlabel="state x₁", ylabel="state x₂", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
    axes.grid(False)


def draw_potential(axes: Axes, parts: sx.nn.Presnov) -> None:
    """Levels of U, which the slope crosses at right angles."""
    ticks = torch.linspace(-2.5, 2.5, 121, dtype=torch.float64)
    p, q = torch.meshgrid(ticks, ticks, indexing="xy")
    u = parts.potential(torch.stack([p, q], dim=-1)).numpy()
    axes.contour(ticks, ticks, u, levels=[-6, -4, -2, -1, -0.3, 0.3, 0.6], colors=series(1).color, linewidths=0.8, zorder=1)
    axes.plot([], [], color=series(1).color, linewidth=0.8, label="levels of U, dashed below 0")
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")


def draw_circles(axes: Axes) -> None:
    """Circles about the origin, which the turn follows."""
    turn = np.linspace(0, 2 * np.pi, 200)
    for radius in (0.5, 1, 1.5, 2, 2.5):
        axes.plot(radius * np.cos(turn), radius * np.sin(turn), color=series(1).color, linewidth=0.8, zorder=1)
    axes.plot([], [], color=series(1).color, linewidth=0.8, label="circles")
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")


def draw_splits(axes: Axes, splits: dict[str, np.ndarray]) -> None:
    """Error of one step against its size."""
    for i, (name, found) in enumerate(splits.items()):
        look = series(i)
        axes.loglog(STEPS, found, linestyle=look.line, **look.marks, label=f"{name}: h^{slope(STEPS, found):.2f}")
    axes.set(xlabel="step h (unit of time)", ylabel="error of one step", title="Splitting f into its parts")
    axes.set_xticks(STEPS, [f"1/{round(1 / h)}" for h in STEPS], minor=False)
    axes.set_xticks([], minor=True)
    axes.legend()


def draw_learned(axes: Axes, learned: dict[int, Tensor]) -> None:
    """Error against the number of blocks: each seed, the geometric mean with bars, and a power of the number."""
    look, counts = series(0), np.array(list(learned))
    logs = torch.stack([found.log() for found in learned.values()]).numpy()
    mean, bar = np.exp(logs.mean(1)), BAR * standard_error(logs)
    axes.plot(counts, np.exp(logs), "o", color=FAINT, markersize=3, zorder=1)
    power, level = np.polyfit(np.log(counts), logs, 1)  # of each seed
    told = f"blocks^({power.mean():.2f} ± {BAR * standard_error(power):.2f})".replace("-", "−")
    axes.plot(counts, np.exp(level.mean()) * counts ** power.mean(), color=QUIET, linestyle=(0, (1, 1.3)), label=told)
    spread = [mean * (1 - np.exp(-bar)), mean * (np.exp(bar) - 1)]
    axes.errorbar(counts, mean, spread, fmt="o", color=look.color, label=f"mean of {logs.shape[1]} seeds, ±{BAR} s.e.")
    axes.set(
        xscale="log", yscale="log", xlabel="blocks", ylabel="relative error on unseen points", title="Learning a twist and a fold"
    )
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xticks([], minor=True)
    low, high = axes.get_ylim()
    ticks = [tick for tick in (0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.legend()


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over seeds, the last axis."""
    return values.std(-1, ddof=1) / values.shape[-1] ** 0.5


@torch.no_grad()
def draw_disc(axes: Axes, model: nn.Module, blocks: int) -> None:
    """Where circles and rays of the disc go: by the map, and by the network."""
    for i, line in enumerate(rays_and_circles()):
        wanted, got = target(line), model(line)
        axes.plot(*wanted.mT, color=FAINT, linewidth=3.2, label=None if i else "the map")
        axes.plot(*got.mT, color=INK, linewidth=0.8, label=None if i else f"{blocks} blocks")
    axes.set(xlabel="value y₁", ylabel="value y₂", aspect="equal", title="Circles and rays, twisted and folded", ylim=(-0.25, 1.45))
    axes.legend(loc="upper center", ncols=2)


def rays_and_circles() -> list[Tensor]:
    """Lines in the unit disc, each of shape (point, 2)."""
    turn = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    ring = torch.stack([turn.cos(), turn.sin()], dim=-1)
    out = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
    return [radius * ring for radius in (0.25, 0.5, 0.75, 1.0)] + [
        out * torch.tensor([math.cos(a), math.sin(a)]) for a in np.arange(0, 2 * math.pi, math.pi / 4)
    ]


if __name__ == "__main__":
    main()
