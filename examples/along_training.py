"""Along training: how a network of one bit of memory comes to have two states to rest in.

A small tanh network is trained to hold the sign of the last pulse that it was given. Its weights are kept as it learns, and every
checkpoint is measured: λ₁ of the network under its pulses, and the fixed points without any. It begins with one fixed point, which
forgets; on the way two memories are born with a saddle between them.

Run it:  python examples/along_training.py [--quick] [--out DIR]
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.along import draw_along, draw_tracks
from separatrix.plot.style import series, styled

UNITS, TIME, BATCH = 12, 30, 64


class Memory(nn.Module):
    """A tanh network and a linear readout of the bit."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.RNN(1, UNITS)
        self.readout = nn.Linear(UNITS, 1)

    def forward(self, pulses: Tensor) -> Tensor:
        """The bit at each step, of pulses (time, batch, 1)."""
        return self.readout(self.core(pulses)[0])


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, follow, draw and save `along_training.png`; the checkpoints' losses, spectra and fixed points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer checkpoints, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    model, checkpoints, losses = trained(rounds=900, every=75 if asked.quick else 12)
    pulses, _ = task(torch.Generator().manual_seed(1), time=1_200, batch=1)
    spectra = sx.along(
        checkpoints,
        lambda system: sx.lyapunov_spectrum(system, k=1, steps=300 if asked.quick else 1_000),
        model=model,
        build=lambda network: sx.Recurrent(network.core, pulses[:, 0]),
    )
    print(spectra)
    points = sx.along(
        checkpoints,
        lambda system: sx.fixed_points(system, starts=64),
        model=model,
        build=lambda network: sx.Recurrent(network.core),
    )
    print(points)
    figure(model, checkpoints, losses, spectra, points).savefig(asked.out / "along_training.png", dpi=120)
    return {"losses": losses, "spectra": spectra, "points": points, "bits": bits(model, checkpoints, points)}


def task(generator: torch.Generator, time: int, batch: int) -> tuple[Tensor, Tensor]:
    """Pulses of ±1 now and then, and the sign of the last, both (time, batch, 1); the first step has one."""
    signs = torch.randint(0, 2, (time, batch, 1), generator=generator) * 2.0 - 1
    here = torch.rand(time, batch, 1, generator=generator) < 0.15
    here[0] = True
    pulses = signs * here
    held = [pulses[0]]
    for pulse in pulses[1:]:
        held.append(pulse.where(pulse != 0, held[-1]))
    return pulses, torch.stack(held)


def trained(rounds: int, every: int) -> tuple[Memory, dict[int, dict[str, Tensor]], dict[int, float]]:
    """The network, its weights after every so many batches, and the loss before each."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Memory()
    optimiser = torch.optim.Adam(model.parameters(), lr=1.5e-3)
    checkpoints, losses = {0: copy.deepcopy(model.state_dict())}, {}
    for i in range(1, rounds + 1):
        pulses, held = task(generator, TIME, BATCH)
        loss = nn.functional.mse_loss(model(pulses), held)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses[i] = float(loss.detach())
        if i % every == 0:
            checkpoints[i] = copy.deepcopy(model.state_dict())
    print(f"mean square error after {rounds} batches: {losses[rounds]:.2g}")
    return model, checkpoints, losses


def bits(model: Memory, checkpoints: dict[int, dict[str, Tensor]], points: sx.results.Along) -> Tensor:
    """What each checkpoint's readout says at its fixed points, (checkpoint, track); NaN where a point is not there."""
    tracks = points.result
    weights = torch.stack([one["readout.weight"][0] for one in checkpoints.values()]).double()
    bias = torch.stack([one["readout.bias"] for one in checkpoints.values()]).double()
    return (tracks.points * weights[:, None]).sum(-1) + bias


@styled
def figure(model: Memory, checkpoints: dict, losses: dict, spectra: sx.results.Along, points: sx.results.Along) -> Figure:
    """The loss with λ₁ below it, and beside them the fixed points as the readout sees them."""
    picture = Figure(figsize=(10.6, 4.6), layout="constrained")
    grid = picture.add_gridspec(2, 2, width_ratios=(1, 1.2))
    upper, lower, right = (picture.add_subplot(place) for place in (grid[0, 0], grid[1, 0], grid[:, 1]))
    upper.plot(list(losses), list(losses.values()), color=series(0).color, linewidth=1)
    upper.set(yscale="log", ylabel="mean square error", title="A network learns to hold one bit")
    draw_along(lower, spectra, label="batches of training")
    lower.set(ylabel="λ₁ (nats per step)")
    draw_tracks(right, points.result, bits(model, checkpoints, points), label="batches of training")
    right.set(ylabel="bit read out at the fixed point", title="Its fixed points without input")
    for axes in (upper, lower):
        axes.set_xlim(right.get_xlim())
    return picture


if __name__ == "__main__":
    main()
