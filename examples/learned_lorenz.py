"""Lorenz's flow learned from trajectories by a small network, and judged by its dynamics, beside networks that failed to learn it.

Run it:  python examples/learned_lorenz.py [--quick] [--out DIR]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import separatrix as sx

DT = 0.01  # between two samples, and the step of all flows
HIDDEN = 32  # units in each of two layers
CENTRE, SPREAD = (0.0, 0.0, 25.0), (10.0, 12.0, 12.0)  # of the states where trajectories begin: most are off the attractor
Z = 2  # the component whose maxima are followed


@dataclass(frozen=True)
class Case:
    """What a network learns from.

    Args:
        name: in the table.
        trajectories: how many, each `samples` long.
        samples: of each.
        transients: whether they begin off the attractor.
        noise: of each sample, in deviations of the data.
    """

    name: str
    trajectories: int
    samples: int
    transients: bool = True
    noise: float = 0.0

    def data(self, seed: int) -> Tensor:
        """Trajectories, (time, trajectory, 3), by RK4 at a quarter of the step."""
        random = torch.Generator().manual_seed(seed)
        centre, spread = torch.tensor([CENTRE, SPREAD], dtype=torch.float64)
        x0 = centre + spread * torch.randn(self.trajectories, 3, dtype=torch.float64, generator=random)
        settle = 0 if self.transients else 4 * round(20 / DT)
        states = sx.trajectory(sx.classic.lorenz63(dt=DT / 4), x0, 4 * self.samples, settle=settle, every=4)
        return states + self.noise * states.std((0, 1)) * torch.randn(states.shape, dtype=torch.float64, generator=random)


@dataclass(frozen=True)
class Learned:
    """A network's flow, how it was learned, and the verdict on it."""

    case: Case
    flow: sx.Flow
    fit: sx.nn.FlowFit
    verdict: sx.DynamicsComparison


GOOD = Case("64 trajectories with transients", 64, 200)
FAILURES = (
    Case("one trajectory of 4 units of time", 1, 400, transients=False),
    Case("64 trajectories with 1 % noise", 64, 200, noise=0.01),
)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, judge, draw and save `learned_lorenz.png`; the networks that learned from enough data, and those that did not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, short training and short orbits, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    training = {"steps": 300, "polish": 60} if asked.quick else {"steps": 2_000, "polish": 600}
    judging = {"orbits": 8, "steps": 600} if asked.quick else {"orbits": 64, "steps": 10_000}

    good = [learned(GOOD, seed, training, judging) for seed in range(1 if asked.quick else 5)]
    failed = [learned(case, 0, training, judging) for case in FAILURES]
    agreeing = sum(one.verdict.agrees for one in good)
    print(f"{agreeing} of {len(good)} networks agree with Lorenz's flow in every quantity, within error bars")
    figure(good[0], failed[0]).savefig(asked.out / "learned_lorenz.png", dpi=120)
    return {"good": good, "failed": failed}


def learned(case: Case, seed: int, training: dict[str, int], judging: dict[str, int]) -> Learned:
    """A network that learned from the case's data, and the verdict on its flow."""
    states = case.data(seed)
    field = sx.nn.Normalized.of(network(seed), states, DT)
    fit = sx.nn.fit_flow(field, states, DT, horizon=2, seed=seed, **training)
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
