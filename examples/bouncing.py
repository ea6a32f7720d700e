"""A ball that bounces: gravity and restitution learned from when and where it meets the floor, by gradients through the events.

Run it:  python examples/bouncing.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import separatrix as sx
from separatrix.core.wording import measured
from separatrix.plot.style import BAR, INK, NOTE, QUIET, SERIES, TICKS, styled

GRAVITY, RESTITUTION = 9.81, 0.8  # what is to be found, in m/s² and as a part of the speed
GUESS = (6.0, 0.5)
BOUNCES, BALLS = 8, 4
TIMING, PLACING = 0.005, 0.01  # standard deviations of what is measured, in seconds and metres
STEPS = 6  # of Gauss and Newton
LONG = 20.0  # seconds, after which no ball bounces any more
SHOWN = 4.8  # seconds
MOST = 12  # flights drawn: the first guess bounces ever faster, without end


class Ball(torch.nn.Module):
    """Gravity and restitution; the state is (x, y, vx, vy), and a bounce turns the vertical velocity and weakens it.

    Args:
        gravity: m/s².
        restitution: the part of the vertical speed that a bounce leaves.
    """

    def __init__(self, gravity: float, restitution: float) -> None:
        super().__init__()
        self.gravity = torch.nn.Parameter(torch.tensor(gravity, dtype=torch.float64))
        self.restitution = torch.nn.Parameter(torch.tensor(restitution, dtype=torch.float64))

    def velocity(self, state: Tensor) -> Tensor:
        """Free flight."""
        vx, vy = state[..., 2], state[..., 3]
        return torch.stack([vx, vy, torch.zeros_like(vx), -self.gravity.expand_as(vy)], dim=-1)

    def bounce(self, state: Tensor) -> Tensor:
        """Just after the floor, from just before."""
        x, _, vx, vy = state.unbind(-1)
        return torch.stack([x, torch.zeros_like(x), vx, -self.restitution * vy], dim=-1)

    def bounces(self, start: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Times and places of the first bounces, each (count, balls)."""
        state, time = start, torch.zeros(len(start), dtype=start.dtype)
        times, places = [], []
        for _ in range(count):
            event = sx.solve_until(self.velocity, state, height, start=time, end=LONG, direction=-1)
            time, state = event.times, self.bounce(event.states)
            times.append(time)
            places.append(event.states[..., 0])
        return torch.stack(times), torch.stack(places)


def height(state: Tensor) -> Tensor:
    """Zero at the floor."""
    return state[..., 1]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, draw and save `bouncing.png`; the learned values with their errors, and how far events are from closed forms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed of noise, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    start = thrown(BALLS)
    with torch.no_grad():
        times, places = Ball(GRAVITY, RESTITUTION).bounces(start, BOUNCES)
    off = (times - closed_form(start, BOUNCES)).abs().max()
    print(f"{BOUNCES} bounces of {BALLS} balls: times are off their closed form by at most {off:.0e} s")
    runs = [learned(start, times, places, seed=seed) for seed in range(1 if asked.quick else 5)]
    tell(runs)
    found = {"off": float(off), "runs": runs, "start": start, "true": (times, places)}
    figure(found).savefig(asked.out / "bouncing.png", dpi=120)
    return found


def thrown(count: int) -> Tensor:
    """Balls thrown from different heights, (x, y, vx, vy)."""
    part = torch.linspace(0, 1, count, dtype=torch.float64)
    return torch.stack([0 * part, 0.5 + 1.5 * part, 0.6 + 0.4 * part, 2.0 - 2 * part], dim=-1)


def closed_form(start: Tensor, count: int) -> Tensor:
    """Bounce times: t₁ = (v + s)/g with s = √(v² + 2gh), then flights of 2 eⁿ s/g each."""
    h, v = start[:, 1], start[:, 3]
    s = (v**2 + 2 * GRAVITY * h).sqrt()
    flights = [2 * RESTITUTION**n * s / GRAVITY for n in range(1, count)]
    return torch.stack([(v + s) / GRAVITY, *flights]).cumsum(0)


def learned(start: Tensor, times: Tensor, places: Tensor, *, seed: int) -> dict[str, Any]:
    """The values of least squares from noisy times and places, by Gauss and Newton's steps with the events' own derivatives."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, *times.shape, dtype=torch.float64, generator=random)
    seen = torch.stack([times + TIMING * noise[0], places + PLACING * noise[1]])
    ball, scale = Ball(*GUESS), torch.tensor([TIMING, PLACING], dtype=torch.float64)[:, None, None]
    history = [values(ball)]
    for _ in range(STEPS):
        residual = ((torch.stack(ball.bounces(start, BOUNCES)) - seen) / scale).flatten()
        matrix = jacobian(residual, ball)
        move = torch.linalg.lstsq(matrix, -residual.detach()[:, None]).solution[:, 0]
        with torch.no_grad():
            for parameter, change in zip(ball.parameters(), move, strict=True):
                parameter += change
        history.append(values(ball))
    spread = torch.linalg.inv(matrix.mT @ matrix).diagonal().sqrt()
    return {"ball": ball, "seen": seen, "history": torch.tensor(history), "stderr": spread}


def jacobian(residual: Tensor, ball: Ball) -> Tensor:
    """∂ residual / ∂ (gravity, restitution), through the events, all rows at once."""
    rows = torch.eye(len(residual), dtype=residual.dtype)
    return torch.stack(torch.autograd.grad(residual, list(ball.parameters()), rows, is_grads_batched=True), dim=-1)


def values(ball: Ball) -> tuple[float, float]:
    """Gravity and restitution."""
    return ball.gravity.item(), ball.restitution.item()


def tell(runs: list[dict[str, Any]]) -> None:
    """What was learned from each noise."""
    for seed, run in enumerate(runs):
        (gravity, restitution), (g_error, r_error) = run["history"][-1].tolist(), run["stderr"].tolist()
        print(f"noise {seed}: gravity {measured(gravity, g_error)} m/s², restitution {measured(restitution, r_error)}")


@styled
def figure(found: dict[str, Any]) -> Figure:
    """Orbits at the first guess and as learned, beside what was measured; the two values step by step, and as found."""
    picture = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = picture.subplots(1, 3, width_ratios=(1.5, 1, 1))
    draw_orbit(left, found)
    draw_steps(middle, found["runs"][0]["history"])
    draw_values(right, found["runs"])
    for axes in (left, middle, right):
        axes.tick_params(which="both", **TICKS)
    return picture


def draw_orbit(axes: Axes, found: dict[str, Any]) -> None:
    """One ball's height over time, at the guess and as learned, and the bounces that were measured."""
    run = found["runs"][0]
    start = found["start"][-1:]
    for look, (name, gravity, restitution) in zip(
        reversed(SERIES[:2]), (("first guess", *GUESS), ("learned", *values(run["ball"]))), strict=True
    ):
        times, heights = orbit(Ball(gravity, restitution), start)
        axes.plot(times, heights, color=look.color, linestyle=look.line, label=name)
    seen = run["seen"][0, :, -1]
    axes.plot(
        seen, torch.zeros_like(seen), linestyle="", marker="o", color=INK, markersize=4, label="measured bounces", clip_on=False
    )
    axes.set(title="One of four balls", xlabel="time (s)", ylabel="height (m)", xlim=(0, SHOWN))
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")


@torch.no_grad()
def orbit(ball: Ball, start: Tensor, points: int = 20) -> tuple[Tensor, Tensor]:
    """Times and heights of one ball from bounce to bounce."""
    times, heights, state, begin = [], [], start, 0.0
    while begin < SHOWN and len(times) < MOST:
        event = sx.solve_until(ball.velocity, state, height, start=begin, end=LONG, direction=-1)
        flight = torch.linspace(begin, float(event.times), points, dtype=torch.float64)
        heights.append(sx.solve(ball.velocity, state, flight).states[:, 0, 1])
        times.append(flight)
        begin, state = float(event.times), ball.bounce(event.states)
    return torch.cat(times), torch.cat(heights)


def draw_steps(axes: Axes, history: Tensor) -> None:
    """Both values after each step of Gauss and Newton, in units of the true ones."""
    truth = torch.tensor([GRAVITY, RESTITUTION], dtype=torch.float64)
    for look, name, value in zip(SERIES, ("gravity", "restitution"), (history / truth).mT, strict=False):
        axes.plot(value, linestyle=look.line, label=name, **look.marks)
    axes.axhline(1, color=QUIET, linewidth=1)
    axes.set(title="Least squares through the events", xlabel="steps of Gauss and Newton", ylabel="value / true value")
    axes.legend(loc="lower right")


def draw_values(axes: Axes, runs: list[dict[str, Any]]) -> None:
    """What was found from each noise, with the error bars that least squares tells."""
    for run in runs:
        (gravity, restitution), error = run["history"][-1].tolist(), (BAR * run["stderr"]).tolist()
        axes.errorbar(gravity, restitution, xerr=error[0], yerr=error[1], color=SERIES[0].color, marker="o", linewidth=1)
    axes.plot(GRAVITY, RESTITUTION, linestyle="", marker="*", markersize=13, color=SERIES[1].color, label="true", zorder=3)
    axes.set(title="Found, by noise", xlabel="gravity (m/s²)", ylabel="restitution (part of the speed)")
    axes.text(0.98, 0.03, f"bars: {BAR} standard errors", transform=axes.transAxes, ha="right", **NOTE)
    axes.legend(loc="upper left")


if __name__ == "__main__":
    main()
