"""λ(r) of the logistic map for 2,000 values of r: one run, with the grid as a batched parameter.

Run it:  python examples/logistic_exponents.py [--quick] [--out DIR]
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import separatrix as sx
from separatrix.plot.style import INK, canvas, mark_zero, series, styled


def main(argv: list[str] | None = None) -> tuple[Tensor, Tensor]:
    """Measure, draw and save `logistic_exponents.png`; the grid r and λ(r), each of shape (values)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a coarse grid, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    r = torch.linspace(2.8, 4.0, 400 if asked.quick else 2_000, dtype=torch.float64)
    system = sx.classic.logistic(r)  # the grid is the batch
    spectrum = sx.lyapunov_spectrum(system, steps=1_000 if asked.quick else 10_000, settle=1_000)
    rate = spectrum.exponents[:, 0]
    orbit = sx.trajectory(system, steps=200, settle=1_000)[..., 0]
    print(spectrum)
    print(f"λ(4) = {rate[-1]:.5f}; exactly ln 2 = {math.log(2):.5f}")
    figure(r, rate, orbit).savefig(asked.out / "logistic_exponents.png", dpi=150)
    return r, rate


def exact(r: Tensor) -> Tensor:
    """λ(r) where a formula is known: the fixed point up to r = 3, the 2-cycle up to 1 + √6, and r = 4; NaN elsewhere."""
    fixed, cycle = (2 - r).abs().log(), (4 + 2 * r - r * r).abs().log() / 2
    known = torch.where(r <= 3, fixed, torch.where(r <= 1 + math.sqrt(6), cycle, torch.nan))
    return torch.where(r == 4, math.log(2), known)


@styled
def figure(r: Tensor, rate: Tensor, orbit: Tensor) -> Figure:
    """The orbits above, λ below."""
    picture, ((upper,), (lower,)) = canvas(2, width=8, height=2.6)
    grid = r.expand_as(orbit).flatten()
    upper.plot(grid, orbit.flatten(), ",", color=INK, alpha=0.25, rasterized=True)
    upper.set(ylabel="x, after 1,000 steps", ylim=(0, 1), xlim=(float(r[0]), 4), title="Orbits of the logistic map")
    mark_zero(lower)
    lower.plot(r, rate, color=series(0).color, linewidth=0.7, label="measured")
    lower.plot(r, exact(r), color=series(1).color, linewidth=2, linestyle=series(1).line, label="exact, where a formula is known")
    lower.plot(4, math.log(2), "o", color=series(1).color, clip_on=False)
    lower.annotate("ln 2", (4, math.log(2)), xytext=(-8, 0), textcoords="offset points", ha="right", va="center")
    lower.set(xlabel="r", ylabel="λ (nats per step)", ylim=(-2, 1), xlim=(float(r[0]), 4), title="Their exponents")
    lower.legend(loc="lower left")
    return picture


if __name__ == "__main__":
    main()
