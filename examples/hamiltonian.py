"""Two pendulums learned from pairs of states a tenth of a second apart, and followed for 100,000 steps.

A single pendulum (its energy is separable: leapfrog) and a double one (it is not: implicit midpoint), each by a Hamiltonian network
and by a plain residual network with as many parameters, the same data and the same optimiser steps; with --seeds 3, from three sets
of initial weights. The true energy along what they learned says how long they can be trusted; a table of it, in Markdown, is
printed at the end. A seed takes some three minutes on one core, nearly all of them the double pendulum's 100,000 implicit steps.

Run it:  python examples/hamiltonian.py [--quick] [--seeds N] [--out DIR]
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import FAINT, INK, NOTE, canvas, series, styled

DT = 0.1  # between the states of a pair; gravity, masses and lengths are 1
EVERY = 20  # steps from one energy kept to the next
SHOWN = 1250  # states of an orbit that are drawn, evenly spaced over the run
SIDE = 2.2  # of a picture of states, to both sides
LOOK = {"Hamiltonian": series(0), "plain": series(1)}


class Plain(sx.nn.Block):
    """x ← x + h f(x), f with one hidden layer: a residual network that promises nothing."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, dt=DT)
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, dim))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state a time DT later."""
        return x + self.dt * self.net(x)


@dataclass(frozen=True)
class Case:
    """A system to learn: its energy, what is learned from and followed, and the network that fits its structure."""

    name: str
    energy: Callable[[Tensor], Tensor]
    box: tuple[float, ...]  # initial states are uniform in it …
    most: float  # … below this energy
    trajectories: int
    length: int
    build: Callable[[], sx.nn.Block]

    @property
    def dim(self) -> int:
        """Numbers in the state (q, p)."""
        return len(self.box)

    def states(self, count: int, low: float, high: float, seed: int) -> Tensor:
        """States at random, uniform among those of the box with low < energy / most < high."""
        generator = torch.Generator().manual_seed(seed)
        box = torch.tensor(self.box, dtype=torch.float64)
        x = (2 * torch.rand(400 * count, self.dim, dtype=torch.float64, generator=generator) - 1) * box
        energy = self.energy(x) / self.most
        return x[(energy > low) & (energy < high)][:count]

    def orbits(self, x0: Tensor, steps: int) -> Tensor:
        """The true orbits of x0, (steps + 1, count, dim), to eleven digits."""

        def field(_: float, y: np.ndarray) -> np.ndarray:
            return hamiltonian_field(self.energy, torch.from_numpy(y).reshape(x0.shape)).flatten().numpy()

        times = DT * np.arange(steps + 1)
        found = solve_ivp(field, times[[0, -1]], x0.flatten().numpy(), "DOP853", times, rtol=1e-12, atol=1e-12)
        return torch.from_numpy(found.y.T.copy()).reshape(-1, *x0.shape)


@dataclass(frozen=True)
class Run:
    """What a trained network did: orbits (time, trajectory, dim), one state in `EVERY`; |H − H₀| on them; its loss on the pairs."""

    orbit: Tensor
    error: Tensor
    loss: float

    @property
    def growth(self) -> float:
        """The largest energy error of the whole run over that of its first tenth."""
        return float(self.error.max() / self.error[: len(self.error) // 10].max())

    @property
    def trend(self) -> tuple[float, float]:
        """The rise of the error over the run, in mean errors: a straight line through each trajectory's; and its standard error."""
        time = torch.linspace(-0.5, 0.5, len(self.error), dtype=torch.float64)[:, None]
        rise = (time * self.error).sum(0) / (time**2).sum() / self.error.mean()
        return float(rise.mean()), float(rise.std() / len(rise) ** 0.5)


def swing(x: Tensor) -> Tensor:
    """Energy of a pendulum, above rest:  ½ p² + 1 − cos q."""
    q, p = x.unbind(-1)
    return p**2 / 2 + 1 - q.cos()


def double_swing(x: Tensor) -> Tensor:
    """Energy of a double pendulum, above rest, by its canonical momenta p = M(q) q̇, with M = (2, cos δ; cos δ, 1), δ = q₁ − q₂."""
    q1, q2, p1, p2 = x.unbind(-1)
    cosine = (q1 - q2).cos()
    kinetic = (p1**2 + 2 * p2**2 - 2 * p1 * p2 * cosine) / (2 * (2 - cosine**2))
    return kinetic + 2 * (1 - q1.cos()) + 1 - q2.cos()


def hamiltonian_field(energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(∂H/∂p, −∂H/∂q)."""
    x = x.detach().requires_grad_()
    by_q, by_p = torch.autograd.grad(energy(x).sum(), x)[0].chunk(2, -1)
    return torch.cat([by_p, -by_q], dim=-1)


def cases(hidden: int) -> list[Case]:
    """The two pendulums."""
    return [
        Case(
            "Pendulum",
            swing,
            box=(2.2, 1.8),
            most=1.6,
            trajectories=60,
            length=20,
            build=lambda: sx.nn.SeparableHamiltonian(2, hidden=hidden // 4, dt=DT, method="yoshida4"),
        ),
        Case(
            "Double pendulum",
            double_swing,
            box=(1.0, 1.3, 2.0, 1.3),
            most=0.9,
            trajectories=100,
            length=15,
            build=lambda: sx.nn.Hamiltonian(4, hidden=hidden, dt=DT, tol=1e-12),
        ),
    ]


def main(argv: list[str] | None = None) -> dict[str, dict[str, list[Run]]]:
    """Train, follow, draw and save `hamiltonian.png`; the runs by system and network, one for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks and 2,000 steps, in seconds")
    parser.add_argument("--seeds", type=int, default=1, help="how many initial weights of each network")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    hidden, rounds, steps = (64, (120, 100), 1_500) if asked.quick else (128, (500, 1500), 100_000)

    runs: dict[str, dict[str, list[Run]]] = {}
    for case in cases(hidden):
        runs[case.name] = {"Hamiltonian": [], "plain": []}
        orbits = case.orbits(case.states(case.trajectories, 0.0, 1.0, seed=0), case.length)
        x0 = case.states(16, 0.3, 0.7, seed=1)  # none of those that were learned from
        for seed in range(asked.seeds):
            for name, network in networks(case, seed).items():
                loss = trained(network, orbits, *rounds)
                run = followed(case, network, x0, steps, loss)
                runs[case.name][name].append(run)
                print(f"{case.name}, {name} network, seed {seed}: {told(run, steps)}", flush=True)
    print(table(runs, steps))
    figure(cases(hidden), runs).savefig(asked.out / "hamiltonian.png", dpi=110)
    return runs


def networks(case: Case, seed: int) -> dict[str, sx.nn.Block]:
    """The Hamiltonian network, and a plain one of the most hidden units that need no more parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = case.build().double()
        count = sum(parameter.numel() for parameter in network.parameters())
        plain = Plain(case.dim, (count - case.dim) // (2 * case.dim + 1)).double()
    return {"Hamiltonian": network, "plain": plain}


def trained(network: sx.nn.Block, orbits: Tensor, adam_steps: int, lbfgs_steps: int) -> float:
    """Fit pairs (x_n, x_{n+1}) of the orbits by Adam, then L-BFGS; the mean square error of a step, over DT²."""
    x, y = orbits[:-1].flatten(0, 1), orbits[1:].flatten(0, 1)
    implicit = isinstance(network, sx.nn.Hamiltonian)

    def loss() -> Tensor:
        optimiser.zero_grad()
        gap = network.mismatch(x, y) if implicit else network(x) - y  # the equation of the step needs no solution here
        error = (gap / DT).square().mean()
        error.backward()
        return error.detach()

    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, adam_steps)
    for _ in range(adam_steps):
        optimiser.step(loss)
        schedule.step()
    optimiser = torch.optim.LBFGS(
        network.parameters(),
        max_iter=lbfgs_steps,
        history_size=50,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    optimiser.step(loss)
    with torch.no_grad():
        return float(((network(x) - y) / DT).square().mean())


@torch.no_grad()
def followed(case: Case, network: sx.nn.Block, x0: Tensor, steps: int, loss: float) -> Run:
    """The network's own orbits, and the true energy along them."""
    orbit = sx.trajectory(network, x0, steps, every=EVERY)
    return Run(orbit, (case.energy(orbit) - case.energy(x0)).abs(), loss)


def told(run: Run, steps: int) -> str:
    """A run in words."""
    rise, spread = run.trend
    return (
        f"loss {run.loss:.1e}, energy error at most {run.error.max():.2g} in {steps:,} steps, "
        f"{run.growth:.2f} times that of the first tenth; trend {rise:+.2f} ± {spread:.2f} of its mean"
    )


def table(runs: dict[str, dict[str, list[Run]]], steps: int) -> str:
    """All runs in Markdown, a row for each system and network, with a number for each seed."""
    titles = (
        "system",
        "network",
        "mean square error of a step, over h²",
        "largest energy error",
        f"over that of the first {steps // 10:,} steps",
        "trend of the mean error over the run, in mean errors",
    )
    rows = [titles, ("---",) * len(titles)]
    for system, kinds in runs.items():
        for name, found in kinds.items():
            losses = ", ".join(short(run.loss, 1) for run in found)
            largest = ", ".join(short(float(run.error.max()), 2) for run in found)
            growth = ", ".join(short(run.growth, 3) for run in found)
            trends = ", ".join(f"{round(run.trend[0], 2) + 0.0:.2f} ± {run.trend[1]:.2f}" for run in found).replace("-", "−")
            rows.append((system, name, losses, largest, growth, trends))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def short(value: float, digits: int) -> str:
    """A number to so many digits, with a power of ten where it is below 0.01 or above 1,000."""
    if 0.01 <= value < 1000:
        return f"{value:#.{digits}g}".rstrip(".")
    if not math.isfinite(value):
        return str(value)
    head, power = f"{value:.{digits - 1}e}".split("e")
    return f"{head}e{int(power)}"


@styled
def figure(systems: list[Case], runs: dict[str, dict[str, list[Run]]]) -> Figure:
    """A row for each system: its energy error against steps; where an orbit of each network goes."""
    picture, panels = canvas(len(systems), 3, width=3.7, height=3.3)
    for row, case in zip(panels, systems, strict=True):
        draw_errors(row[0], case, runs[case.name])
        for axes, (name, kind) in zip(row[1:], runs[case.name].items(), strict=True):
            draw_orbit(axes, case, name, kind[0])
    return picture


def draw_errors(axes: Axes, case: Case, kinds: dict[str, list[Run]]) -> None:
    """The largest error of all trajectories so far, a line for each seed."""
    for name, runs in kinds.items():
        for number, run in enumerate(runs):
            largest = run.error[1:].amax(1).cummax(0).values
            steps = EVERY * torch.arange(1, len(largest) + 1)
            label = f"{name} network" if number == 0 else None
            axes.loglog(steps, largest, color=LOOK[name].color, linestyle=LOOK[name].line, linewidth=1.3, label=label)
    axes.set(title=f"{case.name}: energy error", xlabel="steps", ylabel="largest |H − H₀| so far (m g l)")
    axes.legend(loc="upper left")


def draw_orbit(axes: Axes, case: Case, name: str, run: Run) -> None:
    """States of one orbit, and the curve that the true one does not cross: its level set, or the border of what it can reach."""
    item = int(case.energy(run.orbit[0]).argmax())
    start, states = run.orbit[0, item], run.orbit[:: max(1, len(run.orbit) // SHOWN), item]
    side = np.linspace(-SIDE, SIDE, 300)
    across, up = np.meshgrid(side, side)
    if case.dim == 2:
        level = swing(torch.from_numpy(np.stack([across, up], -1)))
        labels = {"xlabel": "angle q (rad)", "ylabel": "momentum p (m √(g l³))"}
    else:
        level = double_swing(torch.from_numpy(np.stack([across, up, 0 * up, 0 * up], -1)))
        labels = {"xlabel": "upper angle q₁ (rad)", "ylabel": "lower angle q₂ (rad)"}
    look = LOOK[name]
    axes.contour(across, up, level, levels=[float(case.energy(start))], colors=INK, linewidths=1.2)
    axes.contour(across, up, level, levels=8, colors=FAINT, linewidths=0.5, zorder=0)
    axes.plot(states[:, 0], states[:, 1], ".", color=look.color, markersize=2.2)
    axes.plot(*start[:2], look.marker, markersize=6, markerfacecolor="white", markeredgecolor=INK)
    axes.set(title=f"{case.name}: {name} network", xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), **labels)
    outside = float((states[:, :2].abs() > SIDE).any(-1).double().mean())
    if outside > 0:
        axes.text(0.98, 0.02, f"{outside:.0%} of its states lie outside", ha="right", transform=axes.transAxes, **NOTE)


if __name__ == "__main__":
    main()
