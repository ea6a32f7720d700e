"""Basins of attraction: a pendulum over three magnets, Newton's method, and a network that remembers three patterns.

Run it:  python examples/basins.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.basins import draw_basins
from separatrix.plot.style import styled

UNITS, PATTERNS, GAIN = 64, 3, 2.0


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, draw and save `basins.png`; the three results, and the patterns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="coarse grids and longer steps, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    side = 16 if asked.quick else 256

    places = sx.grid((-2, -2), (2, 2), (side, side))
    released = torch.cat([places, torch.zeros_like(places)], dim=-1)  # at rest
    system = sx.classic.magnetic_pendulum(dt=0.05) if asked.quick else sx.Compiled(sx.classic.magnetic_pendulum())
    pendulum = sx.basins_of_attraction(system, released)
    print(f"Magnetic pendulum: {pendulum}\n{pendulum.uncertainty_exponent() if side > 31 else ''}")

    newton = sx.basins_of_attraction(sx.Map(newton_step, 2), sx.grid((-1.5, -1.5), (1.5, 1.5), (2 * side, 2 * side)))
    print(f"Newton's method for z³ = 1: {newton}")

    network, patterns = hopfield()
    memories = sx.basins_of_attraction(network, plane_beside(patterns, 2 * side))
    print(f"Network with {PATTERNS} patterns: {memories}")
    figure(pendulum, newton, memories).savefig(asked.out / "basins.png", dpi=120)
    return {"pendulum": pendulum, "newton": newton, "memories": memories, "patterns": patterns}


def newton_step(x: Tensor) -> Tensor:
    """Newton's method for z³ = 1:  z − (z³ − 1)/(3z²),  z = x₁ + i x₂."""
    z = torch.complex(*x.unbind(-1))
    return torch.view_as_real(z - (z**3 - 1) / (3 * z**2))


def hopfield() -> tuple[sx.Recurrent, Tensor]:
    """As an `nn.RNN` h ← tanh(W h), W = (gain/N) Σ p pᵀ over random patterns p of ±1; and these, (pattern, unit)."""
    generator = torch.Generator().manual_seed(1)
    patterns = 2.0 * torch.randint(2, (PATTERNS, UNITS), generator=generator).double() - 1
    with torch.random.fork_rng(devices=[]):
        module = nn.RNN(1, UNITS, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(GAIN / UNITS * patterns.mT @ patterns)
    return sx.Recurrent(module), patterns


def plane_beside(patterns: Tensor, side: int) -> Tensor:
    """The states  a u + b v + 0.4 p₃  with −1.15 ≤ a, b ≤ 1.15, in the plane of the first two patterns, (side, side, unit).

    u is the first pattern; v is the second without its part along the first.
    """
    first, second, third = patterns
    second = second - (second @ first) / UNITS * first
    return sx.grid((-1.15, -1.15), (1.15, 1.15), (side, side)) @ torch.stack([first, second]) + 0.4 * third


@styled
def figure(pendulum: sx.results.Basins, newton: sx.results.Basins, memories: sx.results.Basins) -> Figure:
    """The three maps in a row."""
    picture = Figure(figsize=(13.2, 5.2), layout="constrained")
    left, middle, right = picture.subplots(1, 3)
    draw_basins(left, pendulum, ("x (radii of the magnets)", "y (radii of the magnets)"))
    left.set_title("A pendulum over three magnets")
    draw_basins(middle, newton, ("Re z", "Im z"))
    middle.set_title("Newton's method for z³ = 1")
    draw_basins(right, memories, ("along pattern 1 (length in state space)", "along pattern 2"))
    right.set_title(f"A network of {UNITS} units with {PATTERNS} patterns")
    return picture


if __name__ == "__main__":
    main()
