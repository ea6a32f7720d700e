"""The picture of the README: a network's leading Lyapunov exponent as its recurrent weights grow.

The lines between the markers are the README's, word for word; the others set the seed, add labels and save the picture.

Run it:  python examples/readme.py [--quick] [--out DIR]
"""
# ruff: noqa: E401, I001

import argparse
from pathlib import Path

from matplotlib.axes import Axes
from torch import Tensor, manual_seed

from separatrix.plot.style import INK, NOTE, QUIET, mark_zero, series, styled

ASSETS = Path(__file__).parents[1] / "docs" / "assets"


def draw() -> tuple[Tensor, Tensor]:
    """Run the README's lines; the gains and λ₁, shape (gains)."""
    # fmt: off
    # [readme]
    import matplotlib.pyplot as plt, torch, separatrix as sx

    network, gains = torch.nn.RNN(4, 128), torch.linspace(0.5, 6, 56)
    driven = sx.Recurrent(network, torch.randn(2500, 4))
    family = driven.at(weight_hh_l0=gains[:, None, None] * network.weight_hh_l0)
    spectrum = sx.lyapunov_spectrum(family, k=1)
    plt.errorbar(gains, spectrum.exponents[:, 0], 2 * spectrum.stderr[:, 0])
    # [/readme]
    # fmt: on
    return gains, spectrum.exponents[:, 0]


@styled
def main(argv: list[str] | None = None) -> tuple[Tensor, Tensor]:
    """Draw and save `readme.png`; the gains and λ₁. `--quick` changes nothing: it takes seconds as it is."""
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds as it is")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    manual_seed(0)
    picture = plt.figure(figsize=(7.5, 3.6), layout="constrained")
    gains, rate = draw()
    label(plt.gca(), gains, rate)
    picture.savefig(asked.out / "readme.png", dpi=150)
    plt.close(picture)
    return gains, rate


def label(ax: Axes, gains: Tensor, rate: Tensor) -> None:
    """Axes, the zero line, and what lies on each side of it."""
    ax.axvline(1, color=QUIET, linewidth=1, linestyle=":")
    ax.text(1.05, -1.15, "PyTorch's default", **NOTE)
    ax.axhspan(0, 0.45, color=series(1).color, alpha=0.1, linewidth=0)
    mark_zero(ax)
    ax.text(1.05, 0.25, "chaotic: nearby states part, gradients explode", color=INK)
    ax.text(2.3, -0.15, "ordered: perturbations fade, gradients vanish", color=INK)
    ax.set(
        xlabel="recurrent weights, in units of PyTorch's default", ylabel="λ₁ (nats per step)", xlim=(0.5, 6), ylim=(-1.25, 0.45)
    )
    ax.set_title("λ₁ of nn.RNN(4, 128) driven by noise, as its recurrent weights grow")


if __name__ == "__main__":
    main()
