"""Stable and unstable directions: tangent to each other somewhere on the Hénon attractor, never on that of Lorenz.

Run it:  python examples/covariant_vectors.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

import separatrix as sx
from separatrix.plot.covariant import draw_angles, draw_vectors
from separatrix.plot.style import canvas, styled


def main(argv: list[str] | None = None) -> tuple[sx.results.CovariantVectors, sx.results.CovariantVectors]:
    """Measure, draw and save `covariant_vectors.png`; the vectors of both systems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    henon = sx.covariant_lyapunov_vectors(sx.classic.henon(), steps=2_000 if asked.quick else 20_000, every=1)
    lorenz = sx.covariant_lyapunov_vectors(sx.classic.lorenz63(), steps=2_000 if asked.quick else 20_000)
    for found in (henon, lorenz):
        print(found)
    figure(henon, lorenz).savefig(asked.out / "covariant_vectors.png", dpi=120)
    return henon, lorenz


@styled
def figure(henon: sx.results.CovariantVectors, lorenz: sx.results.CovariantVectors) -> Figure:
    """The directions on the Hénon attractor, and for both systems the angle between unstable and stable."""
    picture, ((left, middle, right),) = canvas(1, 3, width=4.2)
    draw_vectors(left, henon)
    draw_angles(middle, henon)
    draw_angles(right, lorenz)
    for axes, title in ((left, "Hénon: the directions"), (middle, "Hénon: down to 0"), (right, "Lorenz: away from 0")):
        axes.set_title(title)
    left.set(xlabel="p (dimensionless)", ylabel="q (dimensionless)")
    return picture


if __name__ == "__main__":
    main()
