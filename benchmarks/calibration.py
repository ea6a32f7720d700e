"""Are the error bars true? 200 runs of systems that mix, and how often the truth lies within two of their standard errors.

Prints a table, and writes CALIBRATION.md and calibration.json beside this file.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import separatrix as sx
from timing import machine

HERE = Path(__file__).parent
RUNS = 200
WANTED = (0.90, 0.99)  # of the runs
LONG_STATES, LONG_STEPS = 1_000, 20_000  # the truth where no closed form gives it: 2e7 steps, or three times as many for Lorenz63
LORENZ_STEPS = 400_000  # Lorenz63 begins to look like a system that mixes after some 1,000 units of time
TELESCOPING_STEPS = (1_000, 4_000, 16_000)


@dataclass(frozen=True)
class Coverage:
    """How often the truth lay within two standard errors, for one exponent.

    Args:
        truth: the exponent, nats per unit time, `known`: "exact" or the standard error of the long run.
        covered: the part of the runs whose estimate is within two of their own standard errors of it.
        scatter: standard deviation of (estimate − truth) / standard error over the runs; 1 if both are right.
    """

    system: str
    exponent: int
    steps: int
    truth: float
    known: str
    covered: float
    scatter: float


@dataclass(frozen=True)
class Telescoping:
    """An exponent whose fluctuations cancel: the error times the elapsed time, which stays where it is.

    Args:
        bound: what |estimate − truth| · T is below in 95 % of the runs, nats.
        reported: the median of two standard errors · T, nats.
        covered: as above.
    """

    system: str
    exponent: int
    steps: int
    truth: float
    bound: float
    reported: float
    covered: float


class GaussianProducts(sx.System):
    """v ↦ A_n v with independent standard normal entries, other ones for each copy; A_n is a function of n and the seed."""

    def __init__(self, size: int, copies: int, seed: int = 0) -> None:
        super().__init__(size)
        self.copies, self.seed = copies, seed

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state stays at zero; the tangents are what matters."""
        return x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """A product with the matrices of step n."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + n)
        matrices = torch.randn(self.copies, self.dim, self.dim, dtype=v.dtype, generator=generator)
        return x, v @ matrices.mT


Run = Callable[[int, int | None, int], sx.results.LyapunovSpectrum]  # of (runs, steps or the default, seed)


def textbook(system: sx.System) -> Run:
    """Runs from initial states drawn about the system's own."""
    return lambda runs, steps, seed: sx.lyapunov_spectrum(system, system.initial_state((runs,), seed), steps=steps, seed=seed)


def driven_gru(runs: int, steps: int | None, seed: int) -> sx.results.LyapunovSpectrum:
    """One GRU of 8 units, weights doubled, each run along its own white noise."""
    torch.manual_seed(0)
    gru, steps = nn.GRU(2, 8).double(), steps or 2_000
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.mul_(2)
    settle = steps // 5
    inputs = torch.randn(steps + settle, runs, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return sx.lyapunov_spectrum(sx.Recurrent(gru, inputs), steps=steps, settle=settle, seed=seed)


def gaussian(runs: int, steps: int | None, seed: int) -> sx.results.LyapunovSpectrum:
    """Products of 4 × 4 Gaussian matrices."""
    return sx.lyapunov_spectrum(GaussianProducts(4, runs, seed), torch.zeros(runs, 4, dtype=torch.float64), steps=steps)


def newman(size: int) -> Tensor:
    """λ_i = (ln 2 + ψ((N − i + 1)/2)) / 2.  Source: Newman 1986, Commun. Math. Phys. 103, 121."""
    half = torch.arange(size, 0, -1, dtype=torch.float64) / 2
    return (math.log(2) + torch.digamma(half)) / 2


def coverage(name: str, run: Run, truth: sx.results.PooledSpectrum | Tensor, steps: int | None = None) -> list[Coverage]:
    """200 runs, of the default length if none is given, against the exact exponents or those of a very long run."""
    if isinstance(truth, Tensor):
        exact, known = truth, ["exact"] * len(truth)
    else:
        exact, known = truth.exponents, [f"± {error:.1g}" for error in truth.stderr]
    spectrum = run(RUNS, steps, 2)
    deviation = (spectrum.exponents - exact) / spectrum.stderr
    covered, scatter = (deviation.abs() <= 2).double().mean(0), deviation.std(0)
    return [
        Coverage(name, i + 1, spectrum.steps, float(exact[i]), known[i], float(covered[i]), float(scatter[i]))
        for i in range(len(exact))
    ]


def long_run(run: Run, steps: int = LONG_STEPS) -> sx.results.PooledSpectrum:
    """The truth, with an error far below that of one run."""
    return run(LONG_STATES, steps, 1).pooled()


def telescoping(name: str, run: Run, index: int, truth: float) -> list[Telescoping]:
    """The error times T for longer and longer runs."""
    rows = []
    for steps in TELESCOPING_STEPS:
        spectrum = run(RUNS, steps, 3)
        time = float(spectrum.history_time[-1, 0])
        error, bar = (spectrum.exponents[:, index] - truth).abs(), 2 * spectrum.stderr[:, index]
        bound, reported = float(error.quantile(0.95)) * time, float(bar.median()) * time
        rows.append(Telescoping(name, index + 1, steps, truth, bound, reported, float((error <= bar).double().mean())))
    return rows


def main() -> None:
    """Measure, print, write."""
    logistic, henon = textbook(sx.classic.logistic(3.9)), textbook(sx.classic.henon())
    lorenz = textbook(sx.Compiled(sx.classic.lorenz63()))
    lorenz_truth = long_run(lorenz, 3 * LONG_STEPS)
    mixing = [
        *coverage("logistic map, r = 3.9", logistic, long_run(logistic)),
        *coverage("Hénon map", henon, long_run(henon)),
        *(row for row in coverage("Lorenz63", lorenz, lorenz_truth, LORENZ_STEPS) if row.exponent != 2),
        *coverage("GRU, 8 units, driven by white noise", driven_gru, long_run(driven_gru)),
        *coverage("products of 4 × 4 Gaussian matrices", gaussian, newman(4)),
    ]
    cancelling = [
        *telescoping("logistic map, r = 4", textbook(sx.classic.logistic(4.0)), 0, math.log(2)),
        *telescoping("Lorenz63", lorenz, 1, 0.0),
        *telescoping("Lorenz63", lorenz, 0, float(lorenz_truth.exponents[0])),
    ]
    where = machine()
    results = {"machine": where, "mixing": [asdict(row) for row in mixing], "telescoping": [asdict(row) for row in cancelling]}
    (HERE / "calibration.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (HERE / "CALIBRATION.md").write_text(as_markdown(mixing, cancelling))
    for title, head, rows in tables(mixing, cancelling):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        Console().print(table)


def tables(mixing: list[Coverage], cancelling: list[Telescoping]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Titles, heads and cells."""
    first = [
        (
            row.system,
            f"{row.exponent}",
            f"{row.steps:,}",
            f"{row.truth:.5f}".replace("-", "−"),
            row.known,
            percent(row.covered),
            f"{row.scatter:.2f}",
        )
        for row in mixing
    ]
    second = [
        (row.system, f"{row.exponent}", f"{row.steps:,}", f"{row.bound:.2g}", f"{row.reported:.2g}", percent(row.covered))
        for row in cancelling
    ]
    return [
        ("Systems that mix", ("system", "λ", "steps", "truth", "known", "within 2 s.e.", "scatter / s.e."), first),
        ("Fluctuations that telescope", ("system", "λ", "steps", "error · T, 95 %", "2 s.e. · T", "within 2 s.e."), second),
    ]


def percent(part: float) -> str:
    """With half a percent, which is one run of 200."""
    return f"{100 * part:.1f} %"


def as_markdown(mixing: list[Coverage], cancelling: list[Telescoping]) -> str:
    """For the repository."""
    inside = sum(WANTED[0] <= row.covered <= WANTED[1] for row in mixing)
    verdict = f"{inside} of {len(mixing)} exponents lie inside 90–99 %."
    parts = [ABOUT]
    for (title, head, rows), note in zip(tables(mixing, cancelling), (f"{MIXING}\n\n{verdict}", TELESCOPE), strict=True):
        body = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
        parts += [f"### {title}", note, "\n".join(body)]
    return "\n\n".join(parts) + "\n"


ABOUT = f"""Written by `python benchmarks/calibration.py`. {RUNS} runs each, from their own initial states, inputs or matrices, of
the default length but for Lorenz63; exponents in nats per unit time."""

MIXING = """A true standard error has the truth within two of it in 90–99 % of the runs (95 % if it were known exactly; it is itself
an estimate from 20 batches). "Known": exact, or the standard error of one run of 2e7 steps over 1,000 initial states (6e7 for
Lorenz63). *Scatter* is the standard deviation of (estimate − truth) / standard error. The two exponents of the Hénon map add up
to ln 0.3 at every step, so theirs is one test and not two."""

TELESCOPE = """Where the fluctuations are differences, g(x_{n+1}) − g(x_n), they cancel but for the two ends: the error is O(1/T),
so error · T stays where it is while T grows sixteenfold (a mixing system's would grow fourfold). The reported error bar is O(1/T)
as well, but some four times too wide, and safe: its 20 batches see 20 pairs of ends where the run has one. The leading exponent
of Lorenz63 is a mixture: its fluctuations nearly telescope, with a slow random walk below that takes over only after some hundred
units of time. At the default T = 100 its error bar is about three times too wide; at T = 4,000, in the table above, it is right."""


if __name__ == "__main__":
    main()
