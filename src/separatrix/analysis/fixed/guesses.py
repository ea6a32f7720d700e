"""Where to look for fixed points: states that the system visits, and their surroundings."""

import torch
from torch import Tensor

from separatrix.core.evolve import trajectory
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System

WALKERS, STEPS = 16, 100
STANDS, GROWN = 1e-9, 1e9  # times the size of where orbits begin: less and more spread is no measure of where points lie
NEAREST, FARTHEST = 0.01, 2.0  # scatter about a visited state, in units of the orbits' spread


def default_guesses(system: System, count: int, seed: int) -> Tensor:
    """States of several orbits, each scattered by 1 % to 200 % of their spread, shape (count, dim), float64.

    Of an orbit that leaves the finite numbers only the start counts. Orbits without spread, and those that grow beyond all
    measure, are scattered by the size of where they begin, after a step if that is 0; by 1 if that is 0 too.
    """
    steps = STEPS if system.horizon is None else min(STEPS, system.horizon)
    start = system.initial_state((WALKERS,), seed)
    orbits = trajectory(system, start, steps).double().cpu()
    stays = torch.isfinite(orbits[-1]).all(-1)
    visited = torch.cat([orbits[0], orbits[1:, stays].flatten(0, 1)])
    generator = torch_generator(seed, "guesses")
    chosen = visited[torch.randint(len(visited), (count,), generator=generator)]
    spread = visited.std(0, correction=0)
    typical, size = _size(spread), _size(orbits[0]) or _size(orbits[1]) or 1.0
    moves = STANDS < typical / size < GROWN
    spread = spread.clamp(min=0.1 * typical) if moves else torch.full_like(spread, size)
    reach = torch.logspace(*torch.tensor([NEAREST, FARTHEST]).log10().tolist(), count, dtype=torch.float64)
    noise = torch.randn(count, system.dim, dtype=torch.float64, generator=generator)
    return chosen + reach[:, None] * spread * noise


def _size(x: Tensor) -> float:
    """Root mean square of the finite numbers."""
    return float(x.nan_to_num(posinf=0.0, neginf=0.0).square().mean().sqrt())
