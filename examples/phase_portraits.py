"""Phase portraits: a neuron with its nullclines, a pendulum with its separatrices, and a trained memory of two bits.

The third is a GRU of two units, trained here: each of two inputs sends a pulse of ±1 now and then, each of two outputs
holds the sign of the last pulse of its input. Without input it has four memories; the separatrices say which states fall to which.

Run it:  python examples/phase_portraits.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.phase_portrait import draw_phase_portrait
from separatrix.plot.style import canvas, styled

BITS, STEPS, BATCH = 2, 30, 64
FRICTION = 0.2


class Memory(nn.Module):
    """Two gated units, and a linear readout of one number a bit."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.GRU(BITS, 2)
        self.readout = nn.Linear(2, BITS)

    def forward(self, pulses: Tensor) -> Tensor:
        """The bits it holds at each step, of pulses (time, batch, 2)."""
        return self.readout(self.core(pulses)[0])


def main(argv: list[str] | None = None) -> dict[str, sx.results.PhasePortrait]:
    """Train, measure, draw and save `phase_portraits.png`; the three portraits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a shorter training and a coarser grid, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    resolution = 40 if asked.quick else 100

    neuron = sx.classic.fitzhugh_nagumo()
    starts = torch.tensor([[-1.9, 0.4], [-1.0, -0.45], [0.4, -0.4], [2.2, 1.6], [-2.2, 1.5]])
    spikes = sx.phase_portrait(neuron, starts.double(), low=(-2.4, -0.6), high=(2.4, 1.8), resolution=resolution)
    print(spikes)

    pendulum = sx.Flow(damped_pendulum, 2, dt=0.02)
    released = torch.tensor([[-6.0, 2.8], [0.5, 2.6], [6.0, -2.8]])
    swings = sx.phase_portrait(pendulum, released.double(), low=(-6.8, -3), high=(6.8, 3), steps=2_000, resolution=resolution)
    print(swings)

    network = trained(rounds=400 if asked.quick else 1_200)
    free = sx.Recurrent(network.core, constant=torch.zeros(BITS))
    memory = sx.phase_portrait(free, low=(-1, -1), high=(1, 1), resolution=resolution)
    print(memory)
    figure(spikes, swings, memory).savefig(asked.out / "phase_portraits.png", dpi=110)
    return {"spikes": spikes, "swings": swings, "memory": memory}


def damped_pendulum(x: Tensor) -> Tensor:
    """θ̈ = −sin θ − 0.2 θ̇, of a state (θ, θ̇)."""
    angle, speed = x.unbind(-1)
    return torch.stack([speed, -angle.sin() - FRICTION * speed], dim=-1)


def task(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pulses, and the sign of the last pulse on each line, both (time, batch, 2); the first step sets every bit."""
    pulses = torch.randint(0, 2, (STEPS, BATCH, BITS), generator=generator) * 2.0 - 1
    pulses[1:] *= torch.rand(STEPS - 1, BATCH, BITS, generator=generator) < 0.15
    bits = [pulses[0]]
    for pulse in pulses[1:]:
        bits.append(pulse.where(pulse != 0, bits[-1]))
    return pulses, torch.stack(bits)


def trained(rounds: int) -> Memory:
    """The network after so many batches of Adam, the learning rate falling to zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Memory()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, rounds)
    loss = torch.zeros(())
    for _ in range(rounds):
        pulses, bits = task(generator)
        loss = nn.functional.mse_loss(network(pulses), bits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    print(f"mean square error after {rounds:,} batches: {float(loss.detach()):.2g}")
    return network


@styled
def figure(spikes: sx.results.PhasePortrait, swings: sx.results.PhasePortrait, memory: sx.results.PhasePortrait) -> Figure:
    """The three side by side."""
    picture, ((left, middle, right),) = canvas(1, 3, width=4.9, height=4.9)
    draw_phase_portrait(left, spikes, names=("v (dimensionless)", "w (dimensionless)"))
    left.set_title("A neuron: FitzHugh–Nagumo")
    draw_phase_portrait(middle, swings, names=("angle (radians)", "angular velocity (radians per unit time)"), nullclines=False)
    middle.set_title("A damped pendulum: over the top, or not")
    draw_phase_portrait(right, memory, names=("unit 1 (activity)", "unit 2 (activity)"), orbits=False, nullclines=False)
    right.set_title("A trained memory of two bits")
    for axes in (left, middle, right):
        axes.set_aspect("auto")
    return picture


if __name__ == "__main__":
    main()
