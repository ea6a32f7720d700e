r"""Random tanh networks cross into chaos: λ₁ and the attractor's dimension against the gain g.

x' = tanh(W x),  W_ij ~ N(0, g²/N).  All networks, several at each gain, are one run along the ensemble axis. Two checks that
need no tangents: where the origin attracts, λ₁ = ln |largest eigenvalue of W|; at any g the mean of all N exponents is
⟨ln tanh'⟩ + ln|det W| / N, along the same orbit.

Run it:  python examples/rnn_edge.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import canvas, mark_zero, series, styled

SETTLE = 500


def main(argv: list[str] | None = None) -> dict[str, Tensor]:
    """Measure, draw and save `rnn_edge.png`; what was measured, each of shape (gain, network)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small networks, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    size, copies, steps = (24, 2, 500) if asked.quick else (100, 4, 1_500)
    gains = torch.linspace(0.5, 3.0, 6 if asked.quick else 16, dtype=torch.float64)
    weights = random_weights(gains, copies, size)
    system = sx.Recurrent([network(w) for w in weights.flatten(0, 1)])
    spectrum = sx.lyapunov_spectrum(system, steps=steps, settle=SETTLE)
    shape = weights.shape[:2]
    found = {
        "gain": gains[:, None].expand(shape),
        "rate": spectrum.exponents[:, 0].reshape(shape),
        "dimension": spectrum.kaplan_yorke_dimension.reshape(shape) / size,
        "mean": spectrum.exponents.mean(-1).reshape(shape),
        "exact mean": mean_exponent(system, weights, steps),
        "exact rate": torch.linalg.eigvals(weights).abs().amax(-1).log(),
    }
    print(spectrum)
    print(f"mean exponent, largest difference from the identity: {(found['mean'] - found['exact mean']).abs().max():.1e}")
    figure(found, size).savefig(asked.out / "rnn_edge.png", dpi=150)
    return found


def random_weights(gains: Tensor, copies: int, size: int) -> Tensor:
    """Gaussian matrices of standard deviation g/√N, shape (gains, copies, N, N); the same draws at every gain."""
    normal = torch.randn(copies, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return gains[:, None, None, None] * normal / size**0.5


def network(weight: Tensor) -> nn.RNN:
    """The tanh network with this recurrent weight and no bias."""
    module = nn.RNN(1, len(weight), bias=False, dtype=torch.float64)
    module.weight_hh_l0.data = weight
    return module


def mean_exponent(system: sx.System, weights: Tensor, steps: int) -> Tensor:
    """(1/N) ⟨ln|det J|⟩ along the orbit that the spectrum was taken of, shape (gain, network): J = diag(1 − x'²) W."""
    with torch.no_grad():
        orbit = sx.trajectory(system, steps=steps, settle=SETTLE)[1:]
    slopes = torch.log1p(-orbit.square()).mean((0, -1))
    return slopes.reshape(weights.shape[:2]) + torch.linalg.slogdet(weights).logabsdet / weights.shape[-1]


@styled
def figure(found: dict[str, Tensor], size: int) -> Figure:
    """λ₁, the dimension and the mean exponent, each against the gain."""
    picture, ((left, middle, right),) = canvas(1, 3, width=3.6, height=3.2)
    gain, dots, line = found["gain"], {"color": series(0).color, "markersize": 3}, {"color": series(1).color, "linewidth": 1}
    mark_zero(left)
    left.plot(gain, found["rate"], "o", **dots)
    at_rest = found["exact rate"].where(found["exact rate"] < 0, torch.nan)
    left.plot(gain, at_rest, label=["ln |largest eigenvalue of W|", *[None] * (gain.shape[1] - 1)], **line)
    left.set(ylabel="λ₁ (nats per step)", title="The border is near g = 1")
    left.legend(loc="lower right")
    middle.plot(gain, found["dimension"], "o", **dots)
    middle.set(ylabel="Kaplan–Yorke dimension / N", title=f"The attractor's dimension, N = {size}")
    right.plot(gain, found["mean"], "o", **dots)
    right.plot(gain, found["exact mean"], label=["⟨ln tanh′⟩ + ln|det W| / N", *[None] * (gain.shape[1] - 1)], **line)
    right.set(ylabel="mean of all exponents (nats per step)", title="An identity, network by network")
    right.legend(loc="lower left")
    for ax in (left, middle, right):
        ax.set(xlabel="gain g")
    return picture


if __name__ == "__main__":
    main()
