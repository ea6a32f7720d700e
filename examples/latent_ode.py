"""Series at uneven times: a latent ODE beside a GRU that is given the time gaps, on noisy pendulums and spirals.

Run it:  python examples/latent_ode.py [--quick] [--out DIR]
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.evolve import watched_count
from separatrix.plot.style import FAINT, INK, NOTE, QUIET, SERIES, styled

TRAIN, TEST = 200, 100  # series
BATCH = 50
LATENT, HIDDEN = 4, 32
RATE = 1e-2  # of Adam, falling to 0 along a cosine
DRAWN = 400  # times in a picture


class Task(NamedTuple):
    """Trajectories to learn from.

    Args:
        name: what they are called.
        observed: numbers in an observation.
        window: the time that is learned from; as much again is to be told.
        points: observations in it, of each series that is learned from; half as many of one that is tested.
        noise: standard deviation of an observation.
        dt: steps of the latent state.
        series: (items, times, testing, generator) ↦ the truth at those times, shape (times, items, observed).
    """

    name: str
    observed: int
    window: float
    points: int
    noise: float
    dt: float
    series: Callable[[Tensor, bool, torch.Generator], Tensor]


class Data(NamedTuple):
    """Series of one seed, shapes (times, items, …); `read` says which entries of a test series are observed, by its first half."""

    times: Tensor
    truth: Tensor
    values: Tensor
    read: Tensor


def pendulums(times: Tensor, testing: bool, generator: torch.Generator) -> Tensor:
    """Angle and velocity of  θ̈ = −sin θ  from angles within ±2 and velocities within ±1: it swings, and never turns over."""
    start = (2 * torch.rand(times.shape[1], 2, generator=generator, dtype=torch.float64) - 1) * torch.tensor([2.0, 1.0])
    return sx.solve(sx.classic.pendulum().field, start, times, method="rk4", dt=0.05).states


def spirals(times: Tensor, testing: bool, generator: torch.Generator) -> Tensor:
    """Half of them clockwise:  ṙ = 0.15, φ̇ = ±1.  Tests begin further in, so that where they end has been seen of others."""
    random = torch.rand(3, times.shape[1], generator=generator, dtype=torch.float64)
    r = 0.5 + (1.5 if testing else 2.5) * random[0] + 0.15 * times
    angle = 2 * math.pi * random[1] + times * (random[2] - 0.5).sign()
    return torch.stack([r * angle.cos(), r * angle.sin()], dim=-1)


TASKS = (
    Task("pendulum", 2, 10.0, 30, 0.2, 0.4, pendulums),
    Task("spirals", 2, 2 * math.pi, 30, 0.2, 0.3, spirals),
)


class GapGRU(nn.Module):
    """A bidirectional GRU over all times, observed or asked: it is given the value or 0, whether there is one, and both gaps.

    It tells the value at each entry by a hidden layer on both states.
    """

    def __init__(self, observed: int, hidden: int) -> None:
        super().__init__()
        self.cells = nn.GRU(observed + 3, hidden, bidirectional=True)
        self.told = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, observed))

    def forward(self, values: Tensor, times: Tensor, read: Tensor) -> Tensor:
        """The series at all its times, shape (times, items, observed)."""
        seen = read[..., None].to(values)
        gaps = torch.diff(times, dim=0)[..., None].to(values)
        none = torch.zeros_like(gaps[:1])
        given = torch.cat([values * seen, seen, torch.cat([none, gaps]), torch.cat([gaps, none])], dim=-1)
        return self.told(self.cells(given)[0])


def generate(task: Task, seed: int, *, testing: bool) -> Data:
    """Training series on the window; test series on twice that, of which every second point of the window is observed."""
    generator = torch.Generator().manual_seed(2 * seed + testing)
    items, spans = (TEST, 2) if testing else (TRAIN, 1)
    uneven = torch.rand(spans, task.points, items, generator=generator, dtype=torch.float64).sort(1).values
    uneven[0, 0] = 0.0
    times = task.window * torch.cat([uneven[i] + i for i in range(spans)])
    truth = task.series(times, testing, generator)
    noise = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    order = torch.arange(len(times))[:, None]
    read = ((order % 2 == 0) & (order < task.points)).expand(times.shape)
    return Data(times, truth.float(), (truth + task.noise * noise).float(), read)


def some_read(times: Tensor, window: float, generator: torch.Generator) -> Tensor:
    """What a network may read in training: half of the points; of every second series only those before a random time."""
    until = window * (0.2 + 0.6 * torch.rand(times.shape[1:], generator=generator))
    until[..., ::2] = math.inf
    read = (torch.rand(times.shape, generator=generator) < 0.5) & (times < until)
    read[0] = True
    return read


def draws(data: list[Data], task: Task, steps: int, progress: bool, label: str):
    """Of each training step the series of all seeds, shape (times, seeds, items), and what of them may be read."""
    generator = torch.Generator().manual_seed(0)
    values, times = (torch.stack([getattr(one, name) for one in data], dim=1) for name in ("values", "times"))
    for _ in watched_count(steps, label, progress):
        chosen = torch.randint(TRAIN, (len(data), BATCH), generator=generator)
        seed = torch.arange(len(data))[:, None]
        yield values[:, seed, chosen], times[:, seed, chosen], some_read(times[:, seed, chosen], task.window, generator)


def descent(parameters: Any, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """Adam, and the fall of its rate."""
    optimiser = torch.optim.Adam(parameters, lr=RATE)
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)


def train_latent(task: Task, data: list[Data], steps: int, progress: bool) -> sx.nn.LatentODE:
    """One model for each seed, all at once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = sx.nn.LatentODE(task.observed, LATENT, HIDDEN, dt=task.dt, models=len(data))
        optimiser, fall = descent(model.parameters(), steps)
        for i, (values, times, read) in enumerate(draws(data, task, steps, progress, f"{task.name}, latent ODE")):
            optimiser.zero_grad()
            rows = math.ceil(task.points * min(1.0, 0.2 + 1.6 * i / steps))
            loss = model.loss(values[:rows], times[:rows], read=read[:rows], kl_weight=min(1.0, 3 * i / steps))
            loss.backward()
            optimiser.step()
            fall.step()
            if progress and i % 100 == 0:
                print(task.name, i, float(loss.detach()) / len(data), model.noise.mean(0).flatten().tolist(), flush=True)
    return model


def train_gru(task: Task, data: list[Data], steps: int, progress: bool) -> list[GapGRU]:
    """One for each seed. The loss is the squared error at what may not be read."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = [GapGRU(task.observed, HIDDEN) for _ in data]
        optimiser, fall = descent([weight for model in models for weight in model.parameters()], steps)
        for i, (values, times, read) in enumerate(draws(data, task, steps, progress, f"{task.name}, GRU")):
            optimiser.zero_grad()
            loss = torch.tensor(0.0)
            for j, model in enumerate(models):
                told = model(values[:, j], times[:, j], read[:, j])
                loss = loss + (told - values[:, j])[~read[:, j]].square().mean()
            loss.backward()
            optimiser.step()
            fall.step()
            if progress and i % 100 == 0:
                print(task.name, i, float(loss.detach()) / len(data), flush=True)
    return models


def errors(told: Tensor, data: Data, window: float) -> Tensor:
    """Root mean square errors against the truth: at unobserved times of the window, and beyond it."""
    miss = (told - data.truth).square().mean(-1)
    inside = data.times < window
    return torch.stack([miss[inside & ~data.read].mean(), miss[~inside].mean()]).sqrt()


def learn(task: Task, *, seeds: int, steps: int, progress: bool) -> dict[str, Any]:
    data, tests = ([generate(task, seed, testing=testing) for seed in range(seeds)] for testing in (False, True))
    latent = train_latent(task, data, steps, progress)
    grus = train_gru(task, data, steps, progress)
    found = {"latent": [], "gru": []}
    with torch.no_grad():
        for j, test in enumerate(tests):
            told = latent.model(j).predict(test.values, test.times, test.times, mask=test.read).mean
            found["latent"].append(errors(told, test, task.window))
            found["gru"].append(errors(grus[j](test.values, test.times, test.read), test, task.window))
    print(task.name, {k: torch.stack(v) for k, v in found.items()})
    print(task.name, {k: torch.stack(v).mean(0) for k, v in found.items()}, [t.truth.square().mean().sqrt() for t in tests])
    return {"errors": found, "latent": latent, "grus": grus, "tests": tests}


if __name__ == "__main__":
    import sys, time
    t=time.time()
    task = TASKS[int(sys.argv[1])]
    f=learn(task, seeds=5, steps=int(sys.argv[2]), progress=True)
    print(time.time()-t)
