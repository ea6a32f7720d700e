"""Basins of the magnetic pendulum on a 256 × 256 grid, from the first line to the answer."""

import torch

import separatrix as sx
from timing import Row, stopwatch

SIDE, GOAL = 256, 60.0


def rows() -> list[Row]:
    """Released at rest over three magnets; compilation counts. The thirds of the circle are the magnets' by symmetry."""
    places = sx.grid((-2, -2), (2, 2), (SIDE, SIDE))
    released = torch.cat([places, torch.zeros_like(places)], dim=-1)
    found: list[sx.results.Basins] = []
    system = sx.classic.magnetic_pendulum()
    seconds = stopwatch(lambda: found.append(sx.basins_of_attraction(sx.Compiled(system), released)))
    if len(found[0].kind) != 3 or float(found[0].undecided) > 0:
        raise AssertionError(f"the pendulum has 3 equilibria, and every state falls to one: {found[0]}.")
    return [
        Row(f"magnetic pendulum, basins of {SIDE} × {SIDE} states, sx.Compiled", seconds, "goal", GOAL, "s", floor=True, goal=1.0)
    ]
