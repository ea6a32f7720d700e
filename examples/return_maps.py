"""Flows seen now and then: Lorenz's maxima, a section of Rössler's band and its return map, and a driven oscillator strobed.

Run it:  python examples/return_maps.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

import separatrix as sx
from separatrix.plot.return_map import draw_return_map
from separatrix.plot.style import FAINT, INK, SERIES, TICKS, styled


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, draw and save `return_maps.png`; the two return maps, the section's points and the strobed states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few orbits, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    orbits, seen = (40, 10) if asked.quick else (200, 20)

    lorenz = sx.classic.lorenz63()
    maxima = sx.return_map(lorenz, lorenz.initial_state((orbits,)), component=2, steps=seen, settle=15)
    print(maxima)

    rossler = sx.classic.rossler(dt=0.05)
    section = sx.Section(rossler, axis=1, offset=0.0, direction=-1)  # the half plane y = 0, x < 0
    start = section.initial_state((orbits,))
    returns = sx.return_map(section, start, component=0, steps=seen, settle=15)
    points = sx.trajectory(section, start, seen, settle=15)
    print(returns)

    strobed = sx.Stroboscopic(sx.classic.duffing(dt=0.1), frequency="omega")
    states = sx.trajectory(strobed, strobed.initial_state((10 * orbits,)), 2 * seen, settle=15)
    band = sx.trajectory(rossler, steps=2_000, settle=2_000)
    figure(maxima, band, section.embed(points), returns, states).savefig(asked.out / "return_maps.png", dpi=120)
    return {"maxima": maxima, "section": section, "points": points, "returns": returns, "strobed": states}


@styled
def figure(maxima: sx.results.ReturnMap, band: Tensor, cut: Tensor, returns: sx.results.ReturnMap, strobed: Tensor) -> Figure:
    """Four panels: the cusp, the band with its section, the parabola, and the strobed attractor."""
    picture = Figure(figsize=(9.4, 8.4), layout="constrained")
    (cusp, cross), (parabola, folds) = picture.subplots(2, 2)
    draw_return_map(cusp, maxima, name="z (dimensionless)")
    cusp.set_title("Lorenz: each maximum of z and the next")
    cross.plot(band[:, 0], band[:, 1], color=FAINT, linewidth=0.5)
    cross.axhline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    flat = cut.reshape(-1, 3)
    cross.plot(flat[:, 0], flat[:, 1], "o", color=SERIES[1].color, markersize=1.6, markeredgewidth=0, rasterized=True)
    cross.set(xlabel="x (dimensionless)", ylabel="y (dimensionless)", title="Rössler: the band, cut at y = 0 downwards")
    cross.set_aspect("equal", adjustable="box")
    draw_return_map(parabola, returns, name="x (dimensionless)", color=SERIES[1].color)
    parabola.set_title("Rössler: x at each return and the next")
    dots = strobed.reshape(-1, 2)
    folds.plot(dots[:, 0], dots[:, 1], ",", color=SERIES[0].color, alpha=0.6, rasterized=True)
    folds.set(
        xlabel="position q (dimensionless)", ylabel="velocity (dimensionless)", title="Duffing, seen once a period of its force"
    )
    for axes in (cusp, cross, parabola, folds):
        axes.tick_params(**TICKS)
    return picture


if __name__ == "__main__":
    main()
