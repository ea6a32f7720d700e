"""What a parameter does: period doubling, a pitchfork of one neuron, and the Hopf bifurcation of the Lorenz equations.

Run it:  python examples/bifurcations.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import separatrix as sx
from separatrix.parts import along_tangents
from separatrix.plot.bifurcations import draw_branch, draw_orbits
from separatrix.plot.style import FAINT, TICKS, series, styled


class Neuron(sx.System):
    """One neuron that feeds itself:  h ← tanh(w h)."""

    def __init__(self, w: float | Tensor = 1.0) -> None:
        super().__init__(dim=1)
        self.hold(w=w)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The next activity."""
        return torch.tanh(along_tangents(self.w) * x)


def main(argv: list[str] | None = None) -> dict[str, list[sx.results.Branch]]:
    """Follow the branches, draw and save `bifurcations.png`; the branches of each system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a coarse run, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    step = 0.04 if asked.quick else 0.01

    logistic = sx.classic.logistic()
    diagram = sx.orbit_diagram(logistic, "r", (2.6, 4.0, 200 if asked.quick else 1_000), settle=1_000, steps=100)
    doubling = [sx.continuation(logistic, "r", 2.6, 3.7, torch.tensor([0.6]), step_size=step)]
    for _ in range(2):
        doubling.append(sx.continuation(logistic, "r", 2.6, 3.7, doubling[-1].bifurcations[0], step_size=step))
    rest = sx.continuation(Neuron(), "w", 0.5, 1.5, torch.tensor([0.0]), step_size=step)
    fork = rest.bifurcations[0]
    ways = (fork, fork._replace(direction=-fork.direction))
    neuron = [rest, *(sx.continuation(Neuron(), "w", 0.5, 1.5, way, step_size=step) for way in ways)]
    lorenz = [sx.continuation(sx.classic.lorenz63(), "rho", 12.0, 30.0, torch.tensor([5.0, 5.0, 11.0]), step_size=step)]
    for branch in (*doubling, *neuron, *lorenz):
        print(branch)
    figure(diagram, doubling, neuron, lorenz).savefig(asked.out / "bifurcations.png", dpi=120)
    return {"logistic": doubling, "neuron": neuron, "lorenz": lorenz}


@styled
def figure(
    diagram: sx.results.OrbitDiagram,
    doubling: list[sx.results.Branch],
    neuron: list[sx.results.Branch],
    lorenz: list[sx.results.Branch],
) -> Figure:
    """Three panels, a system each."""
    picture = Figure(figsize=(11, 3.8), layout="constrained")
    left, middle, right = picture.subplots(1, 3, width_ratios=(1.4, 1, 1))
    draw_orbits(left, diagram, color=FAINT)
    for number, branch in enumerate(doubling):
        draw_branch(left, branch, color=series(number).color, label=f"period {2**number}")
    left.set(xlabel="r (dimensionless)", ylabel="x (dimensionless)", title="logistic map: orbits and cycles")
    left.legend(loc="lower left")
    for number, branch in enumerate(neuron):
        draw_branch(middle, branch, color=series(number).color)
    middle.set(xlabel="weight w (dimensionless)", ylabel="h (dimensionless)", title="h ← tanh(w h)")
    for branch in lorenz:
        draw_branch(right, branch)
    right.set(xlabel="ρ (dimensionless)", ylabel="x (dimensionless)", title="Lorenz: an equilibrium")
    for axes in (left, middle, right):
        axes.tick_params(**TICKS)
    return picture


if __name__ == "__main__":
    main()
