"""Dimension and order: how the Hénon attractor fills the plane, and what the spectra of a cycle, a torus and chaos look like.

Run it:  python examples/dimension_and_order.py [--quick] [--out DIR]
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import separatrix as sx
from separatrix.plot.correlation_dimension import draw_correlation, draw_slopes
from separatrix.plot.power_spectrum import draw_power
from separatrix.plot.style import styled

GOLDEN = (math.sqrt(5) - 1) / 2


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, draw and save `dimension_and_order.png`; the dimension and the spectra."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter orbits, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    steps = 8_192 if asked.quick else 32_768

    dimension = sx.correlation_dimension(sx.classic.henon(), steps=6_000 if asked.quick else 30_000)
    print("Hénon:", dimension)
    starts = torch.tensor([math.pi + 0.3, 2 * math.pi * GOLDEN], dtype=torch.float64)
    spectra = {
        "Logistic map, r = 3.83": sx.power_spectrum(sx.classic.logistic(3.83), steps=steps),
        "Standard map, K = 0.6": sx.power_spectrum(sx.classic.standard_map(0.6), starts, steps=steps, observable=on_circles),
        "Logistic map, r = 3.6": sx.power_spectrum(sx.classic.logistic(3.6), steps=steps),
    }
    for name, spectrum in spectra.items():
        print(f"{name}: {spectrum}")
    figure(dimension, spectra).savefig(asked.out / "dimension_and_order.png", dpi=120)
    return {"dimension": dimension, "spectra": spectra}


def on_circles(states: Tensor) -> Tensor:
    """Angles through their sines and cosines, which do not jump where an angle begins anew."""
    return torch.cat([states.sin(), states.cos()], dim=-1)


@styled
def figure(dimension: sx.results.CorrelationDimension, spectra: dict[str, sx.results.PowerSpectrum]) -> Figure:
    """The share of near pairs and its local slopes; below, three spectra."""
    picture = Figure(figsize=(11.5, 6.6), layout="constrained")
    upper, lower = picture.subfigures(2, 1)
    left, right = upper.subplots(1, 2)
    draw_correlation(left, dimension)
    left.set_title("Hénon map: pairs nearer than r")
    draw_slopes(right, dimension)
    right.set_title(f"Its correlation dimension: {float(dimension.dimension):.2f} ± {float(dimension.stderr):.2f}")
    for axes, (name, spectrum) in zip(lower.subplots(1, 3), spectra.items(), strict=True):
        draw_power(axes, spectrum)
        axes.set(title=name, xlabel="frequency (cycles per step)", ylabel="power density (variance · step)")
    return picture


if __name__ == "__main__":
    main()
