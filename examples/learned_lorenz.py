"""Lorenz's flow learned from trajectories by a small network, and judged by its dynamics, beside networks that failed to learn it.

Run it:  python examples/learned_lorenz.py [--quick] [--out DIR]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.comparison import draw_differences, draw_return_maps
from separatrix.plot.flow_fit import draw_flow_fit
from separatrix.plot.style import BAR, FAINT, INK, SERIES, TICKS, styled

DT = 0.01  # between two samples, and the step of all flows
HIDDEN = 32  # units in each of two layers
CENTRE, SPREAD = (0.0, 0.0, 25.0), (10.0, 12.0, 12.0)  # of the states that settle on the attractor
DEVIATION = (7.9, 9.0, 8.6)  # of the attractor
SEEDS = 3
Z = 2  # the component whose maxima are followed


@dataclass(frozen=True)
class Case:
    """What a network learns from.

    Args:
        name: in the table.
        trajectories: how many, each `samples` long.
        samples: of each.
        displaced: how far off the attractor they begin, in its deviations, so that their transients are seen.
        noise: of each sample, in deviations of the data.
    """

    name: str
    trajectories: int
    samples: int
    displaced: float = 0.0
    noise: float = 0.0

    def data(self, seed: int) -> Tensor:
        """Trajectories, (time, trajectory, 3), by RK4 at a quarter of the step."""
        random = torch.Generator().manual_seed(seed)
        centre, spread, deviation = torch.tensor([CENTRE, SPREAD, DEVIATION], dtype=torch.float64)
        true = sx.classic.lorenz63(dt=DT / 4)
        x0 = centre + spread * torch.randn(self.trajectories, 3, dtype=torch.float64, generator=random)
        settled = sx.trajectory(true, x0, 0, settle=4 * round(20 / DT))[-1]
        start = settled + self.displaced * deviation * torch.randn(x0.shape, dtype=torch.float64, generator=random)
        states = sx.trajectory(true, start, 4 * self.samples, every=4)
        return states + self.noise * states.std((0, 1)) * torch.randn(states.shape, dtype=torch.float64, generator=random)


@dataclass(frozen=True)
class Learned:
    """A network's flow, how it was learned, and the verdict on it."""

    case: Case
    flow: sx.Flow
    fit: sx.results.FlowFit
    verdict: sx.results.DynamicsComparison


GOOD = Case("256 short trajectories with transients", 256, 50, displaced=0.2)
OTHERS = (
    Case("64 trajectories on the attractor", 64, 200),
    Case("one of 4 units of time on the attractor", 1, 400),
    Case("256 with transients and 1 % noise", 256, 50, displaced=0.2, noise=0.01),
)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, judge, draw and save `learned_lorenz.png`; the networks that learned from enough data, and those that did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, two others, short training and short orbits, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    training = {"steps": 200, "polish": 40} if asked.quick else {"steps": 2_000, "polish": 3_000}
    judging = {"starts": 8, "steps": 400, "points": 1_000} if asked.quick else {"starts": 32, "steps": 5_000}

    good = [learned(GOOD, seed, training, judging) for seed in range(1 if asked.quick else SEEDS)]
    others = [learned(case, 0, training, judging) for case in OTHERS[asked.quick :]]
    agreeing = sum(one.verdict.agrees for one in good)
    print(f"\n{agreeing} of {len(good)} networks that learned from {GOOD.name} agree with Lorenz's flow in every quantity")
    figure(good, others).savefig(asked.out / "learned_lorenz.png", dpi=120)
    return {"good": good, "others": others}


def learned(case: Case, seed: int, training: dict[str, int], judging: dict[str, int]) -> Learned:
    """A network that learned from the case's data, and the verdict on its flow."""
    states = case.data(seed)
    field = sx.nn.parts.Normalized.of(network(seed), states, DT)
    fit = sx.nn.fit_flow(field, states, DT, horizon=1, seed=seed, **training)
    flow = sx.Flow(field, 3, DT)
    verdict = sx.compare_dynamics(flow, sx.classic.lorenz63(dt=DT), component=Z, seed=seed, **judging)
    print(f"\n{case.name}, seed {seed}\n{fit}\n{verdict}\n{verdict.table() if verdict.names else ''}", flush=True)
    return Learned(case, flow, fit, verdict)


def network(seed: int) -> nn.Module:
    """A network of two hidden layers, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(3, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 3)]
        return nn.Sequential(*layers).double()


@styled
def figure(good: list[Learned], others: list[Learned]) -> Figure:
    """The learned attractor, its return map and its losses; the verdicts on it and on a failure; the exponents of all."""
    picture = Figure(figsize=(13.2, 8.2), layout="constrained")
    (wings, cusp, loss), (passed, failed, exponents) = picture.subplots(2, 3)
    draw_attractors(wings, good[0])
    draw_return_maps(cusp, good[0].verdict, name="z")
    cusp.set_title("Successive maxima of z")
    draw_flow_fit(loss, good[0].fit)
    loss.set_title("Learning")
    draw_differences(passed, good[0].verdict)
    passed.set_title("The verdict on it")
    draw_differences(failed, others[-2].verdict)
    failed.set_title("The verdict on one that saw too little")
    draw_exponents(exponents, good, others)
    for axes in (wings, cusp, loss, passed, failed, exponents):
        axes.tick_params(**TICKS)
    return picture


def draw_attractors(axes: Axes, one: Learned) -> None:
    """Forty units of time of the learned flow over the true one, both from one state."""
    true = sx.classic.lorenz63(dt=DT)
    start, steps = one.case.data(seed=100)[-1, 0], round(40 / DT)
    for flow, color, width, name in ((true, FAINT, 1.6, "true"), (one.flow, SERIES[1].color, 0.6, "learned")):
        orbit = sx.trajectory(flow, start, steps, settle=round(5 / DT)).detach()
        axes.plot(orbit[:, 0], orbit[:, Z], color=color, linewidth=width, label=name)
    axes.set(xlabel="x (dimensionless)", ylabel="z (dimensionless)", title="A learned flow over the true one")
    axes.legend(loc="lower left")


def draw_exponents(axes: Axes, good: list[Learned], others: list[Learned]) -> None:
    """λ₁ and λ₃ of every learned flow, less the true ones, with bars of two standard errors of the difference."""
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axvline(0, color=INK, linewidth=0.8)
    known = [one for one in (*good, *others) if one.verdict.names]
    for one in known:
        look = SERIES[0] if one in good else SERIES[1 + others.index(one)]
        x, y = (one.verdict.of(name) for name in ("λ₁", "λ₃"))
        place = [row["learned"] - row["true"] for row in (x, y)]
        label = one.case.name if one is good[0] or one not in good else None
        axes.errorbar(*place, xerr=BAR * x["stderr"], yerr=BAR * y["stderr"], linestyle="none", label=label, **look.marks)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set(xlabel="λ₁, learned − true (nats per unit time)", ylabel="λ₃, learned − true (nats per unit time)")
    axes.set_title("Exponents by what was learned from")
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.82), fontsize=7)


if __name__ == "__main__":
    main()
