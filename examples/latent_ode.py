"""Series at uneven times: a latent ODE beside a GRU that is given the time gaps, on noisy pendulums and spirals.

Run it:  python examples/latent_ode.py [--quick] [--out DIR]
"""

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.progress import watched_count
from separatrix.nn.latent.recognition import Gates
from separatrix.nn.latent.stacked import perceptron
from separatrix.plot.style import BAR, FAINT, INK, QUIET, SERIES, Series, styled

TRAIN, TEST = 200, 100  # series
BATCH = 50
LATENT, HIDDEN = 4, 32
RATE = 1e-2  # of Adam, falling to 0 along a cosine
REFINE = 60  # steps on each test series' own posterior
QUICK = {"steps": 20, "refine": 10}
DRAWN = 400  # times in a picture


WHERE = ("between observations", "beyond them")
DOTS = {"color": FAINT, "marker": "o", "markersize": 3.2, "markeredgecolor": INK, "markeredgewidth": 0.6}


class Task(NamedTuple):
    """Trajectories to learn from.

    Args:
        name: what they are called.
        observed: numbers in an observation.
        window: the time that is learned from; as much again is to be told.
        points: observations in it, of each series that is learned from; half as many of one that is tested.
        noise: standard deviation of an observation.
        dt: steps of the latent state.
        steps: of training, for both kinds of network.
        starts: (items, testing, generator) ↦ where series begin, a row for each.
        follow: (starts, times) ↦ the truth at those times, shape (times, items, observed).
        refine: steps on each test series' own posterior.
    """

    name: str
    observed: int
    window: float
    points: int
    noise: float
    dt: float
    steps: int
    starts: Callable[[int, bool, torch.Generator], Tensor]
    follow: Callable[[Tensor, Tensor], Tensor]
    refine: int = REFINE


class Data(NamedTuple):
    """Series of one seed, shapes (times, items, …); `read` says which entries of a test series are observed."""

    start: Tensor
    times: Tensor
    truth: Tensor
    values: Tensor
    read: Tensor


def swinging(items: int, testing: bool, generator: torch.Generator) -> Tensor:
    """Angles within ±2 and velocities within ±1, so that a pendulum swings and never turns over."""
    return (2 * torch.rand(items, 2, generator=generator, dtype=torch.float64) - 1) * torch.tensor([2.0, 1.0])


def pendulum(start: Tensor, times: Tensor) -> Tensor:
    """Angle and velocity of  θ̈ = −sin θ."""
    return sx.solve(sx.classic.pendulum(g=1.0).field, start, times, method="rk4", dt=0.05).states


def turning(items: int, testing: bool, generator: torch.Generator) -> Tensor:
    """Radius, angle and direction. Tests begin further in, so that where they end has been seen of others."""
    random = torch.rand(3, items, generator=generator, dtype=torch.float64)
    return torch.stack([0.5 + (1.5 if testing else 2.5) * random[0], 2 * math.pi * random[1], (random[2] - 0.5).sign()], dim=-1)


def spiral(start: Tensor, times: Tensor) -> Tensor:
    """ṙ = 0.15, φ̇ = ±1,  in the plane."""
    radius, angle, direction = start.unbind(-1)
    r, phi = radius + 0.15 * times, angle + times * direction
    return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)


TASKS = (
    Task("pendulum", 2, 10.0, 30, 0.2, 0.4, 400, swinging, pendulum),
    Task("spirals", 2, 2 * math.pi, 30, 0.2, 0.3, 800, turning, spiral),
)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, draw and save `latent_ode.png`; for each task the errors of both kinds of network, and the networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and short training, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    parser.add_argument("--gru-rate", type=float, default=RATE, help="rate of Adam for the GRU, which does better at 0.02")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    tasks = [task._replace(**QUICK) if asked.quick else task for task in TASKS]
    options = {"seeds": 1 if asked.quick else 5, "progress": not asked.quick, "gru_rate": asked.gru_rate}
    found = {task.name: learn(task, **options) for task in tasks}
    figure(found).savefig(asked.out / "latent_ode.png", dpi=120)
    return found


class GapGRU(nn.Module):
    """A bidirectional GRU over all times, observed or asked: it is given the value or 0, whether there is one, and both gaps.

    It tells the value at each entry by a hidden layer on both states. Several are trained at once, as latent ODEs are.
    """

    def __init__(self, observed: int, hidden: int, models: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(Gates(observed + 3, hidden, models) for _ in range(2))
        self.told = perceptron([2 * hidden, hidden, observed], models)

    def forward(self, values: Tensor, times: Tensor, read: Tensor) -> Tensor:
        """The series at all its times, shape (times, models, items, observed)."""
        seen = read[..., None].to(values)
        gaps = torch.diff(times, dim=0)[..., None].to(values)
        none = torch.zeros_like(gaps[:1])
        given = torch.cat([values * seen, seen, torch.cat([none, gaps]), torch.cat([gaps, none])], dim=-1)
        forth, back = (self.states(cell, one) for cell, one in zip(self.cells, (given, given.flip(0)), strict=True))
        return self.told(torch.cat([forth, back.flip(0)], dim=-1))

    def states(self, cell: Gates, given: Tensor) -> Tensor:
        """Of one direction, shape (times, models, items, hidden)."""
        entered = cell.of_input(given)
        states = [entered.new_zeros(*entered.shape[1:-1], entered.shape[-1] // 3)]
        for one in entered:
            states.append(cell(one, states[-1]))
        return torch.stack(states[1:])


def generate(task: Task, seed: int, *, testing: bool) -> Data:
    """Training series on the window; test series on twice that, of which every second point of the window is observed."""
    generator = torch.Generator().manual_seed(2 * seed + testing)
    items, spans = (TEST, 2) if testing else (TRAIN, 1)
    uneven = torch.rand(spans, task.points, items, generator=generator, dtype=torch.float64).sort(1).values
    uneven[0, 0] = 0.0
    times = task.window * torch.cat([uneven[i] + i for i in range(spans)])
    start = task.starts(items, testing, generator)
    truth = task.follow(start, times)
    noise = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    order = torch.arange(len(times))[:, None]
    read = ((order % 2 == 0) & (order < task.points)).expand(times.shape)
    return Data(start, times, truth.float(), (truth + task.noise * noise).float(), read)


def some_read(times: Tensor, window: float, generator: torch.Generator) -> Tensor:
    """What a network may read in training: half of the points; of every second series only those before a random time."""
    until = window * (0.3 + 0.5 * torch.rand(times.shape[1:], generator=generator))
    until[..., ::2] = math.inf
    read = (torch.rand(times.shape, generator=generator) < 0.5) & (times < until)
    read[0] = True
    return read


def draws(data: list[Data], task: Task, progress: bool, label: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each training step the series of all seeds, shape (times, seeds, items), and what of them may be read."""
    generator = torch.Generator().manual_seed(0)
    values, times = (torch.stack([getattr(one, name) for one in data], dim=1) for name in ("values", "times"))
    for _ in watched_count(task.steps, label, progress):
        chosen = torch.randint(TRAIN, (len(data), BATCH), generator=generator)
        seed = torch.arange(len(data))[:, None]
        yield values[:, seed, chosen], times[:, seed, chosen], some_read(times[:, seed, chosen], task.window, generator)


def descent(parameters: Any, steps: int, rate: float = RATE) -> tuple[torch.optim.Optimizer, Any]:
    """Adam, and the fall of its rate."""
    optimiser = torch.optim.Adam(parameters, lr=rate)
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)


def train_latent(task: Task, data: list[Data], progress: bool) -> sx.nn.LatentODE:
    """One model for each seed, all at once. Through the first half of training the window grows, and so does the weight of KL."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = sx.nn.LatentODE(task.observed, LATENT, HIDDEN, dt=task.dt, models=len(data))
        optimiser, fall = descent(model.parameters(), task.steps)
        for i, (values, times, read) in enumerate(draws(data, task, progress, f"{task.name}, latent ODE")):
            optimiser.zero_grad()
            rows = math.ceil(task.points * min(1.0, 0.2 + 1.6 * i / task.steps))
            loss = model.loss(values[:rows], times[:rows], read=read[:rows], kl_weight=min(1.0, 2 * i / task.steps) ** 2)
            loss.backward()
            optimiser.step()
            fall.step()
    return model


def train_gru(task: Task, data: list[Data], progress: bool, rate: float = RATE) -> GapGRU:
    """One for each seed, all at once. The loss is the squared error at what may not be read."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GapGRU(task.observed, HIDDEN, len(data))
        optimiser, fall = descent(model.parameters(), task.steps, rate)
        for values, times, read in draws(data, task, progress, f"{task.name}, GRU"):
            optimiser.zero_grad()
            miss = (model(values, times, read) - values).square().mean(-1).where(~read, 0.0).sum((0, 2)) / (~read).sum((0, 2))
            miss.sum().backward()
            optimiser.step()
            fall.step()
    return model


def errors(told: Tensor, data: Data, window: float) -> Tensor:
    """Root mean square errors against the truth, shape (seeds, 2): at unobserved times of the window, and beyond it."""
    miss = (told - data.truth).square().mean(-1)
    inside = data.times < window
    chosen = torch.stack([inside & ~data.read, ~inside])
    return (miss.where(chosen, 0.0).sum((1, 3)) / chosen.sum((1, 3))).sqrt().T


def learn(task: Task, *, seeds: int, progress: bool, gru_rate: float = RATE) -> dict[str, Any]:
    """Both kinds of network for every seed, and their errors, shape (seeds, 2)."""
    data, tests = ([generate(task, seed, testing=testing) for seed in range(seeds)] for testing in (False, True))
    latent = train_latent(task, data, progress)
    found = judged(task, tests, latent, train_gru(task, data, progress, gru_rate))
    tell(task, found)
    return found


@torch.no_grad()
def judged(task: Task, tests: list[Data], latent: sx.nn.LatentODE, gru: GapGRU) -> dict[str, Any]:
    """What the networks of all seeds tell of the test series of their seed."""
    together = Data(*(torch.stack(column, dim=1) for column in zip(*tests, strict=True)))
    _, times, _, values, read = together
    told = {"latent ODE": latent.predict(values, times, times, mask=read, refine=task.refine).mean, "GRU": gru(values, times, read)}
    found = {kind: errors(each, together, task.window) for kind, each in told.items()}
    first = {kind: each[:, 0] for kind, each in told.items()}
    return {"errors": found, "told": first, "latent": latent, "gru": gru, "test": tests[0]}


def tell(task: Task, found: dict[str, Any]) -> None:
    """Errors of both, over seeds."""
    size = float(found["test"].truth.square().mean().sqrt())
    print(f"{task.name}: root mean square errors against the truth, of size {size:.2f}; noise {task.noise}")
    for kind, values in found["errors"].items():
        parameters = sum(weight.numel() for weight in found["latent" if kind == "latent ODE" else "gru"].parameters()) // len(
            values
        )
        told = [f"{where} {spread(values[:, i])}" for i, where in enumerate(WHERE)]
        print(f"  {kind}, {parameters:,} parameters: {', '.join(told)} (mean of {len(values)} seeds ± standard error)")


def spread(values: Tensor) -> str:
    """Mean ± standard error."""
    return f"{values.mean():.3f}" + (f" ± {standard_error(values):.3f}" if len(values) > 1 else "")


def standard_error(values: Tensor) -> float:
    """Of the mean over seeds."""
    return float(values.std()) / len(values) ** 0.5


@styled
def figure(found: dict[str, dict[str, Any]]) -> Figure:
    """A row for each task: what the latent ODE tells, what the GRU tells, and the errors of both by seed."""
    picture = Figure(figsize=(11, 6.8), layout="constrained")
    for row, task in zip(picture.subplots(len(TASKS), 3, width_ratios=(1, 1, 0.8)), TASKS, strict=True):
        draw = draw_in_time if task.name == "pendulum" else draw_in_the_plane
        for axes, kind, look in zip(row, found[task.name]["told"], SERIES, strict=False):
            draw(axes, task, found[task.name], kind, look)
        draw_errors(row[2], task, found[task.name])
    return picture


def draw_in_time(axes: Axes, task: Task, found: dict[str, Any], kind: str, look: Series) -> None:
    """One number of one test series, observed up to the end of the window."""
    test, item = found["test"], 0
    times, read = test.times[:, item], test.read[:, item]
    at = torch.linspace(0, 2 * task.window, DRAWN)
    axes.plot(at, task.follow(test.start[item], at)[:, 0], color=INK, linewidth=0.9, label="truth")
    if kind == "latent ODE":
        told = found["latent"].model(0).predict(test.values[:, item], times, at, mask=read, samples=200, refine=REFINE)
        low, high = (told.mean[:, 0] + side * 2 * told.std[:, 0] for side in (-1, 1))
        axes.fill_between(at, low, high, color=look.color, alpha=0.25, linewidth=0, label="± 2 standard deviations")
        axes.plot(at, told.mean[:, 0], color=look.color, linestyle=look.line, label=kind)
    else:
        axes.plot(times[~read], found["told"][kind][~read, item, 0], color=look.color, linestyle=look.line, label=kind)
    axes.plot(times[read], test.values[read, item, 0], linestyle="", label="observed", **DOTS)
    axes.axvline(task.window, color=QUIET, linewidth=0.8)
    axes.set(title=f"A pendulum, by the {kind}", xlabel="time (√(length / gravity))", ylabel="angle (rad)", ylim=(-2.6, 3.6))
    axes.legend(ncols=2, loc="upper left")


def draw_in_the_plane(axes: Axes, task: Task, found: dict[str, Any], kind: str, look: Series) -> None:
    """One test spiral of each direction, side by side, observed on the window."""
    test, at = found["test"], torch.linspace(0, 2 * task.window, DRAWN)
    for place, item in enumerate((int(test.start[:, 2].argmax()), int(test.start[:, 2].argmin()))):
        read = test.read[:, item]
        away = torch.tensor([9.0 * place, 0.0])
        axes.plot(*(task.follow(test.start[item], at) + away).T, color=INK, linewidth=0.9, label=None if place else "truth")
        if kind == "latent ODE":
            lines = sampled(found["latent"].model(0), test, item, at)
            for line in lines:
                axes.plot(*(line + away).T, color=look.color, linewidth=0.5, alpha=0.35)
        told = lines.mean(0) if kind == "latent ODE" else found["told"][kind][~read, item]
        axes.plot(*(told + away).T, color=look.color, linestyle=look.line, label=None if place else kind)
        axes.plot(*(test.values[read, item] + away).T, linestyle="", label=None if place else "observed", **DOTS)
    axes.set(title=f"Two spirals, by the {kind}", xlabel="x₁ (the second one is shifted)", ylabel="x₂", aspect="equal")
    axes.set(xlim=(-5, 14), ylim=(-5, 7.5))
    axes.legend(ncols=3, loc="upper left")


@torch.no_grad()
def sampled(model: sx.nn.LatentODE, test: Data, item: int, at: Tensor, samples: int = 32) -> Tensor:
    """Curves from samples of one series' posterior, shape (samples, times, observed)."""
    mean, std = model.posterior(test.values[:, item], test.times[:, item], test.read[:, item], refine=REFINE)
    eps = torch.randn(samples, len(mean), generator=torch.Generator().manual_seed(0))
    return model.decode(mean + std * eps, at).movedim(1, 0)


def draw_errors(axes: Axes, task: Task, found: dict[str, Any]) -> None:
    """A mark for each seed; beside them their mean and two standard errors."""
    for i, (kind, look) in enumerate(zip(found["errors"], SERIES, strict=False)):
        values = found["errors"][kind]
        for place in range(2):
            here = place + 0.24 * (2 * i - 1)
            axes.plot(
                torch.full((len(values),), here - 0.06), values[:, place], linestyle="", label=None if place else kind, **look.marks
            )
            if len(values) > 1:
                bar = BAR * standard_error(values[:, place])
                axes.errorbar(here + 0.08, values[:, place].mean(), bar, color=look.color, marker="_", markersize=9)
    axes.axhline(task.noise, color=QUIET, linewidth=0.8, label="noise of an observation")
    axes.set(title=f"Errors, {task.name}", ylabel="root mean square error", xlim=(-0.5, 1.5))
    axes.set_ylim(0, 1.4 * max(float(values.max()) for values in found["errors"].values()))  # room for the legend
    axes.set_xticks(range(2), WHERE)
    axes.legend(loc="upper left")


if __name__ == "__main__":
    main()
