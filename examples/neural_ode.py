"""Van der Pol's oscillator learned from noisy trajectories by a neural ODE, and judged by its cycle and its exponents.

    ẋ = v,   v̇ = (1 − x²) v − x

Forty trajectories of eight samples, half a unit of time apart, with noise of standard deviation 0.05 on every number: a network of
two hidden layers is fitted as the field, together with the noiseless start of each trajectory. What it learned is a flow like any
other: its limit cycle, the rates of its equilibrium and both Lyapunov exponents (on a cycle, the Floquet exponents) are measured
and compared with the equation's own, which SciPy computes. Printed is the mean over the seeds, of data, noise and initial weights,
and their standard deviation; the networks of all seeds are one batch. It takes about a minute on one idle core.

Run it:  python examples/neural_ode.py [--quick] [--seeds N] [--out DIR]
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.phase_portrait import draw_phase_portrait
from separatrix.plot.style import INK, NOTE, canvas, series, styled

NOISE = 0.05
SAMPLES, GAP = 8, 0.5  # of each trajectory, and the time between them
STARTS = (2.5, 3.5)  # trajectories begin uniformly in |x|, |v| up to these
WINDOW = ((-2.8, -4.0), (2.8, 4.0))
STEP, DT = 0.125, 0.05  # of RK4, in training and when the flow is measured
SETTLE, STEPS = 800, 1_000  # of the flow: until it is on its cycle, and for four turns and more
TRUE, LEARNED = series(0), series(1)
FRAME = {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}  # of a legend over lines


@dataclass(frozen=True)
class Found:
    """What is measured of a field: the cycle's period and largest x, its two exponents, the real and imaginary rate at rest."""

    period: float
    amplitude: float
    exponents: tuple[float, float]
    rest: tuple[float, float]

    @property
    def numbers(self) -> dict[str, float]:
        """By name."""
        return {
            "period of the cycle": self.period,
            "largest x on it": self.amplitude,
            "exponent along it": self.exponents[0],
            "exponent across it": self.exponents[1],
            "growth at rest": self.rest[0],
            "turning at rest": self.rest[1],
        }


def van_der_pol(x: Tensor) -> Tensor:
    """The true field."""
    x, v = x.unbind(-1)
    return torch.stack([v, (1 - x * x) * v - x], dim=-1)


def truth() -> Found:
    """Of the true field, by SciPy: one turn of the cycle with the integral of the divergence along it, which is the exponent."""

    def field(_: float, y: np.ndarray) -> list[float]:
        x, v, _ = y
        return [v, (1 - x * x) * v - x, 1 - x * x]

    def turn(_: float, y: np.ndarray) -> float:
        return y[1]

    turn.direction = -1
    settings = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-12, "events": turn}
    settled = solve_ivp(field, (0, 60), [2.0, 0.0, 0.0], **settings)
    times, states = settled.t_events[0][-2:], settled.y_events[0][-2:]
    period = float(times[1] - times[0])
    across = float(states[1, 2] - states[0, 2]) / period
    return Found(period, float(states[1, 0]), (0.0, across), (0.5, math.sqrt(3) / 2))


class Networks(nn.Module):
    """Fields of two hidden layers, one for each seed; states have the seeds as their first axis.

    Args:
        hidden: width of the layers.
        seeds: how many networks.
    """

    def __init__(self, hidden: int, seeds: int) -> None:
        super().__init__()
        layers = [[nn.Linear(*widths) for widths in ((2, hidden), (hidden, hidden), (hidden, 2))] for _ in range(seeds)]
        each = list(zip(*layers, strict=True))
        self.weights = nn.ParameterList([torch.stack([layer.weight.detach().mT for layer in layers]) for layers in each])
        self.biases = nn.ParameterList([torch.stack([layer.bias.detach()[None] for layer in layers]) for layers in each])

    def forward(self, x: Tensor) -> Tensor:
        """The velocities, (seeds · items, 2)."""
        x = x.unflatten(0, (len(self.weights[0]), -1))
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x.tanh() if i else x, weight)
        return x.flatten(0, 1)

    def one(self, seed: int) -> "Networks":
        """The network of one seed."""
        alone = Networks(self.weights[0].shape[-1], 1).double()
        alone.load_state_dict({name: tensor[seed : seed + 1] for name, tensor in self.state_dict().items()})
        return alone


def samples(count: int, seeds: int) -> tuple[Tensor, Tensor]:
    """Times, and noisy trajectories of shape (samples, seeds, count, 2)."""
    generator = torch.Generator().manual_seed(0)
    shape = (seeds, count, 2)
    x0 = (2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1) * torch.tensor(STARTS, dtype=torch.float64)
    times = GAP * torch.arange(SAMPLES, dtype=torch.float64)
    states = sx.solve(van_der_pol, x0, times, rtol=1e-10, atol=1e-10).states
    return times, states + NOISE * torch.randn(states.shape, dtype=torch.float64, generator=generator)


def train(model: sx.nn.NeuralODE, times: Tensor, noisy: Tensor, rounds: int) -> Tensor:
    """Fit the fields and the starts, on ever longer pieces of the trajectories; each seed's mean square error over the noise's."""
    starts = noisy[0].clone().requires_grad_()
    optimiser = torch.optim.Adam([{"params": model.parameters(), "lr": 1e-2}, {"params": [starts], "lr": 5e-3}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, rounds)
    for i in range(rounds):
        seen = min(SAMPLES, 3 + i * (SAMPLES - 2) // (rounds // 2))
        optimiser.zero_grad()
        error = (model.solve(starts, times[:seen]).states - noisy[:seen]).square().mean((0, 2, 3)) / NOISE**2
        error.sum().backward()
        optimiser.step()
        schedule.step()
        if i % (rounds // 10) == 0:
            print(f"round {i}: error over noise {float(error.detach().mean()):.3g}", flush=True)
    return error.detach()


@torch.no_grad()
def measure(model: sx.nn.NeuralODE, seeds: int, steps: int) -> tuple[list[Found], Tensor]:
    """The same of the learned fields, by their flows; and their cycles, (time, seeds, 2)."""
    flow = sx.Flow(model.field, 2, DT)
    path = sx.trajectory(flow, torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(seeds, 1), STEPS, settle=SETTLE)
    exponents = sx.lyapunov_spectrum(flow, path[0], steps=steps, settle=steps // 10).exponents
    found = []
    for seed in range(seeds):
        alone = sx.Flow(model.field.function.one(seed), 2, DT)
        rest = sx.fixed_points(alone, torch.zeros(1, 2, dtype=torch.float64))
        growth, turning = (values[0] if len(rest.points) else torch.tensor([math.nan]) for values in (rest.rates, rest.frequencies))
        largest = float(path[:, seed, 0].amax())
        along, across = exponents[seed].tolist()
        found.append(Found(turns(path[:, seed, 1]), largest, (along, across), (float(growth.amax()), float(turning.abs().amax()))))
    return found, path


def turns(v: Tensor) -> float:
    """The mean time between zeros of v at which it falls."""
    falls = ((v[:-1] > 0) & (v[1:] <= 0)).nonzero()[:, 0]
    times = DT * (falls + v[falls] / (v[falls] - v[falls + 1]))
    return float((times[-1] - times[0]) / (len(times) - 1)) if len(times) > 1 else math.nan


def main(argv: list[str] | None = None) -> tuple[Found, list[Found]]:
    """Train, measure, draw and save `neural_ode.png`; what the true field has, and what each seed's has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, a small network and few rounds, in seconds")
    parser.add_argument("--seeds", type=int, default=5, help="how many draws of the noise and of the initial weights")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    hidden, rounds, count, steps, seeds = (16, 120, 20, 400, 1) if asked.quick else (32, 2_000, 40, 2_000, asked.seeds)

    times, noisy = samples(count, seeds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = sx.nn.NeuralODE(Networks(hidden, seeds).double(), 2, dt=STEP)
    left = train(model, times, noisy, rounds)
    true, (found, cycles) = truth(), measure(model, seeds, steps)
    for seed in range(seeds):
        print(f"seed {seed}: error over noise {left[seed]:.2f}, {found[seed]}")
    print(table(true, found))
    figure(model, noisy[:, 0], cycles, true, found).savefig(asked.out / "neural_ode.png", dpi=110)
    return true, found


def table(true: Found, found: list[Found]) -> str:
    """The numbers in Markdown."""
    rows = ["| | true | learned |", "|---|---|---|"]
    for name, value in true.numbers.items():
        learned = torch.tensor([one.numbers[name] for one in found], dtype=torch.float64)
        spread = f" ± {learned.std():.3f}" if len(found) > 1 else ""
        rows.append(f"| {name} | {value:.4f} | {learned.mean():.4f}{spread} |")
    return "\n".join(rows).replace("-0.", "−0.").replace("-1.", "−1.")


@styled
def figure(model: sx.nn.NeuralODE, noisy: Tensor, cycles: Tensor, true: Found, found: list[Found]) -> Figure:
    """The samples with the true cycle; the learned portrait with its cycles; the numbers, as learned minus true."""
    picture, ((data, portrait, numbers),) = canvas(1, 3, width=3.9, height=4.1)
    settled = sx.trajectory(sx.Flow(van_der_pol, 2, DT), torch.tensor([2.0, 0.0], dtype=torch.float64), 140, settle=SETTLE)
    draw_samples(data, noisy, settled)
    draw_learned(portrait, model, settled, cycles[:140])
    draw_numbers(numbers, true, found)
    return picture


def draw_samples(axes: Axes, noisy: Tensor, cycle: Tensor) -> None:
    """What was learned from."""
    for path in noisy.unbind(1):
        axes.plot(*path.T, color=INK, linewidth=0.4, alpha=0.25)
    axes.plot(*noisy.flatten(0, 1).T, ".", color=INK, markersize=3, alpha=0.7, label="samples of a seed")
    axes.plot(*cycle.T, color=TRUE.color, linewidth=1.6, label="true cycle")
    axes.set(title="Samples", **window())
    axes.legend(loc="upper right", **FRAME)


def draw_learned(axes: Axes, model: sx.nn.NeuralODE, cycle: Tensor, cycles: Tensor) -> None:
    """The portrait of the first learned field, with the cycle of every one over the true one."""
    flow = sx.Flow(model.field.function.one(0), 2, DT)
    found = sx.phase_portrait(flow, low=WINDOW[0], high=WINDOW[1], plane=(0, 1), resolution=40, steps=10)
    draw_phase_portrait(axes, found, orbits=False, nullclines=False, legend=False, density=1.0)
    axes.plot(*cycle.T, color=TRUE.color, linewidth=3.2, alpha=0.55, label="true cycle")
    for number, path in enumerate(cycles.unbind(1)):
        label = "learned, every seed's" if number == 0 else None
        axes.plot(*path.T, color=LEARNED.color, linestyle=LEARNED.line, linewidth=1.2, label=label)
    axes.set(title="The learned flow", **window())
    axes.set_aspect("auto")
    axes.legend(loc="upper right", **FRAME)


def draw_numbers(axes: Axes, true: Found, found: list[Found]) -> None:
    """Learned minus true, a mark for each seed, with mean and standard deviation."""
    at = ("axes fraction", "data")
    for row, (name, value) in enumerate(true.numbers.items()):
        off = torch.tensor([one.numbers[name] for one in found], dtype=torch.float64) - value
        axes.plot(off, torch.full_like(off, row), ".", color=INK, markersize=4, alpha=0.5)
        spread = float(off.std()) if len(off) > 1 else 0.0
        axes.errorbar(float(off.mean()), row, xerr=spread, fmt=LEARNED.marker, color=LEARNED.color, capsize=3, markersize=5)
        axes.annotate(f"true: {value:.4g}".replace("-", "−"), (0.98, row + 0.35), xycoords=at, ha="right", **NOTE)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set(title="Learned minus true", xlabel="difference, in the numbers' own units", ylim=(len(true.numbers) - 0.3, -0.6))
    axes.set_yticks(range(len(true.numbers)), list(true.numbers))


def window() -> dict[str, object]:
    """Labels and limits of a panel of states."""
    (left, low), (right, high) = WINDOW
    return {"xlabel": "position x", "ylabel": "velocity v", "xlim": (left, right), "ylim": (low, high)}


if __name__ == "__main__":
    main()
