"""Rest points of trained networks of 128 units from 1,024 guesses, against Adam on q = ½‖F(x) − x‖² as FixedPointFinder runs it."""

import torch
from torch import Tensor, nn

import separatrix as sx
from timing import Row, stopwatch

UNITS, BITS, TIME, BATCH, GUESSES = 128, 3, 40, 64, 1_024
ROUNDS, FIRST_RATE = 500, {"RNN": 1e-3, "GRU": 1e-2}
LABEL = {"RNN": "tanh network", "GRU": "GRU"}
TOL = 1e-12
F64 = torch.float64


def rows() -> list[Row]:
    """A tanh network and a GRU, each trained on the spot to hold three bits."""
    return [_row(kind) for kind in ("RNN", "GRU")]


def _row(kind: str) -> Row:
    network = trained(kind)
    guesses = states_between(network)
    system = sx.Recurrent(network, constant=torch.zeros(BITS))
    sx.fixed_points(system, guesses[:16])  # warms up
    ours: list[sx.results.FixedPoints] = []
    theirs: list[Tensor] = []
    our_seconds = stopwatch(lambda: ours.append(sx.fixed_points(system, guesses)))
    their_seconds = stopwatch(lambda: theirs.append(by_adam(network, guesses)))
    found, reached = ours[0], gaps(network, theirs[0])
    exact = int((gaps(network, found.reached[found.codes == 0]) <= TOL).sum())
    points = len(distinct(theirs[0][reached <= 1e-6]))  # q < 1e-12 is what Adam is asked for
    if points > len(found.points):
        raise AssertionError(f"Adam found {points} points, and fixed_points {len(found.points)}.")
    counted = f"{points} points, {int((reached <= TOL).sum()):,} guesses to 1e-12, median {float(reached.median()):.1g}"
    work = f"{LABEL[kind]} {UNITS} trained on 3 bits, {GUESSES:,} guesses: {len(found.points)} points, {exact:,} guesses to 1e-12"
    against = f"Adam on q, as FixedPointFinder: {counted}"
    if not points:
        return Row(work, our_seconds, against, None, "s", note=f"Adam stops after {their_seconds:.3g} s")
    return Row(work, our_seconds, against, their_seconds, "s", goal=10.0)


def trained(kind: str) -> nn.Module:
    """A network after 500 batches of the task, float64."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        core, readout = getattr(nn, kind)(BITS, UNITS), nn.Linear(UNITS, BITS)
    parameters = [*core.parameters(), *readout.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=FIRST_RATE[kind])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, ROUNDS)
    for _ in range(ROUNDS):
        pulses, bits = task(generator)
        loss = nn.functional.mse_loss(readout(core(pulses)[0]), bits)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    return core.double().requires_grad_(False)


def task(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pulses of ±1 now and then, and the sign of the last one on each line, both (time, batch, 3)."""
    pulses = torch.randint(0, 2, (TIME, BATCH, BITS), generator=generator) * 2.0 - 1
    pulses = pulses * (torch.rand(TIME, BATCH, BITS, generator=generator) < 0.15)
    pulses[0] = torch.randint(0, 2, (BATCH, BITS), generator=generator) * 2.0 - 1
    bits = [pulses[0]]
    for pulse in pulses[1:]:
        bits.append(pulse.where(pulse != 0, bits[-1]))
    return pulses, torch.stack(bits)


def states_between(network: nn.Module) -> Tensor:
    """States on the line between two visited ones each, (guesses, units)."""
    generator = torch.Generator().manual_seed(1)
    states = network(task(generator)[0].double())[0].flatten(0, 1)
    first, second = (states[torch.randint(len(states), (GUESSES,), generator=generator)] for _ in range(2))
    share = torch.rand(GUESSES, 1, dtype=F64, generator=generator)
    return share * first + (1 - share) * second


def by_adam(network: nn.Module, guesses: Tensor) -> Tensor:
    """The states after Adam on the mean of q over all guesses: rate 1, reduced on plateaus, until q < 1e-12 or 5,000 steps."""
    x, u = guesses.clone()[None].requires_grad_(), torch.zeros(1, len(guesses), BITS, dtype=F64)
    optimiser = torch.optim.Adam([x], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.95, patience=2, cooldown=0)
    before = torch.full((len(guesses),), torch.inf, dtype=F64)
    for _ in range(5_000):
        q = (network(u, x)[1] - x).square().sum(-1)[0] / 2
        optimiser.zero_grad()
        q.mean().backward()
        optimiser.step()
        schedule.step(float(q.detach().mean()))
        change, before = (q.detach() - before).abs(), q.detach()
        if ((before < 1e-12) | (change < 1e-20 * schedule.get_last_lr()[0])).all():
            break
    return x.detach()[0]


def gaps(network: nn.Module, states: Tensor) -> Tensor:
    """‖F(x) − x‖∞ of each state."""
    u = torch.zeros(1, len(states), BITS, dtype=F64)
    return (network(u, states[None])[1][0] - states).abs().amax(-1)


def distinct(states: Tensor, distance: float = 1e-3) -> Tensor:
    """States no two of which are nearer than the distance in every component."""
    kept: list[Tensor] = []
    while len(states):
        kept.append(states[0])
        states = states[(states - states[0]).abs().amax(-1) > distance]
    return torch.stack(kept) if kept else states
