"""Where to look for rest points: states that the system visits, and their surroundings."""

import torch
from torch import Tensor

from separatrix.evolve import trajectory
from separatrix.randomness import torch_generator
from separatrix.system import System

WALKERS, STEPS = 16, 100
NEAREST, FARTHEST = 0.01, 2.0  # scatter about a visited state, in units of the orbits' spread


def default_guesses(system: System, count: int, seed: int) -> Tensor:
    """States of several orbits, each scattered by 1 % to 200 % of their spread, shape (count, dim), float64.

    Of an orbit that leaves the finite numbers only the start counts. Orbits without spread are scattered by 1.
    """
    steps = STEPS if system.horizon is None else min(STEPS, system.horizon)
    start = system.initial_state((WALKERS,), seed)
    orbits = trajectory(system, start, steps).double().cpu()
    stays = torch.isfinite(orbits[-1]).all(-1)
    visited = torch.cat([orbits[0], orbits[1:, stays].flatten(0, 1)])
    generator = torch_generator(seed, "guesses")
    chosen = visited[torch.randint(len(visited), (count,), generator=generator)]
    spread = visited.std(0, correction=0)
    typical = float(spread.square().mean().sqrt())
    spread = torch.full_like(spread, 1.0) if not 1e-9 < typical < 1e9 else spread.clamp(min=0.1 * typical)
    reach = torch.logspace(*torch.tensor([NEAREST, FARTHEST]).log10().tolist(), count, dtype=torch.float64)
    noise = torch.randn(count, system.dim, dtype=torch.float64, generator=generator)
    return chosen + reach[:, None] * spread * noise
