r"""A network that remembers three bits: its 8 memories, and the saddles between them.

Each of three inputs sends a pulse of ±1 now and then; each of three outputs holds the sign of the last pulse of its input. A GRU is
trained on it here, then its fixed points without input are found: what attracts is a memory, a saddle is where a pulse decides.
They form a cube: 8 memories at its corners, a saddle on each of its 12 edges, one on each of 6 faces, one in the middle. A check:
over all fixed points of a map of a ball into itself the signs of det(I − DF) sum to 1 (Brouwer), so a single one cannot be missing.

Task: Sussillo & Barak 2013, Neural Comput. 25, 626.

Run it:  python examples/flip_flop.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.fixed_points import draw_multipliers, kinds, looks
from separatrix.plot.style import FAINT, canvas, styled

BITS, STEPS, BATCH = 3, 40, 64


class FlipFlop(nn.Module):
    """A GRU, and a linear readout of one number a bit."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.core = nn.GRU(BITS, units)
        self.readout = nn.Linear(units, BITS)

    def forward(self, pulses: Tensor) -> Tensor:
        """The bits it holds at each step, of pulses (time, batch, 3)."""
        return self.readout(self.core(pulses)[0])


def main(argv: list[str] | None = None) -> tuple[FlipFlop, sx.results.FixedPoints]:
    """Train, find, draw and save `flip_flop.png`; the network and its fixed points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a shorter training, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    network = trained(units=16 if asked.quick else 24, rounds=400 if asked.quick else 1_500)
    pulses, _ = task(torch.Generator().manual_seed(1), time=400, batch=8)
    with torch.no_grad():
        path = network.core(pulses)[0].double()
    guesses = states_of(path, 256 if asked.quick else 1_024)
    found = sx.fixed_points(sx.Recurrent(network.core, constant=torch.zeros(BITS)), guesses)
    print(found)
    print("sum of the signs of det(I − DF):", degree(found))
    print("bits held by what attracts:", sorted(memories(network, found)))
    figure(network, found, path).savefig(asked.out / "flip_flop.png", dpi=150)
    return network, found


def task(generator: torch.Generator, time: int, batch: int) -> tuple[Tensor, Tensor]:
    """Pulses, and the sign of the last pulse on each line, both (time, batch, 3); the first step sets every bit."""
    pulses = torch.randint(0, 2, (time, batch, BITS), generator=generator) * 2.0 - 1
    pulses = pulses * (torch.rand(time, batch, BITS, generator=generator) < 0.15)
    pulses[0] = torch.randint(0, 2, (batch, BITS), generator=generator) * 2.0 - 1
    bits = [pulses[0]]
    for pulse in pulses[1:]:
        bits.append(pulse.where(pulse != 0, bits[-1]))
    return pulses, torch.stack(bits)


def trained(units: int, rounds: int) -> FlipFlop:
    """The network after so many batches of Adam, the learning rate falling to zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FlipFlop(units)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, rounds)
    loss = torch.zeros(())
    for _ in range(rounds):
        pulses, bits = task(generator, STEPS, BATCH)
        loss = nn.functional.mse_loss(network(pulses), bits)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    print(f"mean square error after {rounds:,} batches: {float(loss.detach()):.2g}")
    return network


def states_of(path: Tensor, count: int) -> Tensor:
    """States on the line between two visited ones each, where saddles may be."""
    generator = torch.Generator().manual_seed(2)
    states = path.flatten(0, 1)
    first, second = (states[torch.randint(len(states), (count,), generator=generator)] for _ in range(2))
    share = torch.rand(count, 1, dtype=states.dtype, generator=generator)
    return share * first + (1 - share) * second


def degree(found: sx.results.FixedPoints) -> int:
    """Σ sign det(I − DF) over the points, which is 1 for a map of a ball into itself if none is missing."""
    return int((1 - found.multipliers).prod(-1).real.sign().sum())


def memories(network: FlipFlop, found: sx.results.FixedPoints) -> set[str]:
    """The signs that the readout gives at the points that attract, such as "+−+"."""
    stable = [i for i, kind in enumerate(found.kind) if kind.startswith("stable")]
    with torch.no_grad():
        bits = network.readout(found.points[stable].float())
    return {"".join("+" if bit > 0 else "−" for bit in row) for row in bits.tolist()}


def seen(network: FlipFlop, states: Tensor) -> Tensor:
    """States through the readout, the three bits drawn as a cube seen from the side, shape (…, 2)."""
    with torch.no_grad():
        first, second, third = network.readout(states.float()).unbind(-1)
    return torch.stack([first + 0.5 * third, second + 0.3 * third], dim=-1)


@styled
def figure(network: FlipFlop, found: sx.results.FixedPoints, path: Tensor) -> Figure:
    """The points as the readout sees them, over the orbits that they order, and their multipliers."""
    picture, ((left, right),) = canvas(1, 2, width=4.8, height=4.6)
    left.plot(*seen(network, path).unbind(-1), color=FAINT, linewidth=0.4, alpha=0.4)
    for number, kind in enumerate(kinds(found)):
        rows = [i for i, name in enumerate(found.kind) if name == kind]
        marks = looks(kind, number).marks
        left.plot(*seen(network, found.points[rows]).T, linestyle="", markersize=7, label=f"{len(rows)} × {kind}", **marks)
    left.set(xlabel="bit 1 + 0.5 bit 3", ylabel="bit 2 + 0.3 bit 3", title="A 3-bit memory, as its readout sees it")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    draw_multipliers(right, found)
    right.set_title("Multipliers and the unit circle")
    return picture


if __name__ == "__main__":
    main()
