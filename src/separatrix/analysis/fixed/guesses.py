"""Initial guesses for fixed points: states that the system visits, and their surroundings."""

import torch
from torch import Tensor

from separatrix.core.evolve import trajectory
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System

WALKERS, STEPS = 16, 100
STANDS, GROWN = 1e-9, 1e9  # relative to the size of initial states: limits of a spread that measures where points lie
NEAREST, FARTHEST = 0.01, 2.0  # scatter about a visited state, in units of the spread of the orbits


def default_guesses(system: System, count: int, seed: int) -> Tensor:
    """States on several orbits, scattered by 1 % to 200 % of the orbits' spread, shape (count, dim), float64.

    An orbit that becomes non-finite contributes only its initial state. If the orbits have no spread, or grow without bound, the
    scatter is the size of the initial states; if that is 0, their size after one step; if that is 0 too, 1.
    """
    steps = STEPS if system.horizon is None else min(STEPS, system.horizon)
    start = system.initial_state((WALKERS,), seed)
    orbits = trajectory(system, start, steps).double().cpu()
    finite = torch.isfinite(orbits[-1]).all(-1)
    visited = torch.cat([orbits[0], orbits[1:, finite].flatten(0, 1)])
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
