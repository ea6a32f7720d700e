"""The spectrum of a GRU driven by noise, for weights from half to eight times PyTorch's default initialisation.

Run it:  python examples/driven_gru.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import BAR, INK, canvas, mark_zero, series, styled

INPUTS = 8
SETTLE = 800  # steps in which two directions turn into the leading one, at a gap of some 0.03 nats a step


def main(argv: list[str] | None = None) -> tuple[Tensor, sx.results.LyapunovSpectrum]:
    """Measure, draw and save `driven_gru.png`; the scales and the spectra, one batch item a scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    hidden, steps = (16, 600) if asked.quick else (64, 4_000)
    scales = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    networks = [scaled_gru(hidden, float(scale)) for scale in scales]
    inputs = torch.randn(steps + SETTLE, INPUTS, generator=torch.Generator().manual_seed(1))
    spectrum = sx.lyapunov_spectrum(sx.Recurrent(networks, inputs), steps=steps, settle=SETTLE, check=True)
    print(spectrum)
    for scale, exponents, error, near in zip(scales, spectrum.exponents, spectrum.stderr, spectrum.check.rate, strict=True):
        print(f"weights × {scale:g}: λ₁ = {exponents[0]:+.4f} ± {error[0]:.4f}, two trajectories {near:+.4f} nats per step")
    figure(scales, spectrum).savefig(asked.out / "driven_gru.png", dpi=150)
    return scales, spectrum


def scaled_gru(hidden: int, scale: float) -> nn.GRU:
    """PyTorch's default GRU of one seed, all of its weights and biases times a scale."""
    torch.manual_seed(0)
    network = nn.GRU(INPUTS, hidden)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(scale)
    return network


@styled
def figure(scales: Tensor, spectrum: sx.results.LyapunovSpectrum) -> Figure:
    """One spectrum for each scale, with bands of two standard errors; λ₁ against the scale."""
    picture, ((left, right),) = canvas(1, 2)
    index = torch.arange(1, spectrum.exponents.shape[-1] + 1)
    for i, (scale, value, error) in enumerate(zip(scales, spectrum.exponents, spectrum.stderr, strict=True)):
        look = series(i)
        left.fill_between(index, value - BAR * error, value + BAR * error, color=look.color, alpha=0.22, linewidth=0)
        left.plot(index, value, color=look.color, linestyle=look.line, label=f"weights × {scale:g}")
    left.set(xlabel="index i", ylabel="λᵢ (nats per step)", title="Spectra of a GRU driven by white noise")
    left.legend()
    right.errorbar(scales, spectrum.exponents[:, 0], BAR * spectrum.stderr[:, 0], color=series(0).color, label="λ₁ ± 2 s.e.")
    right.plot(scales, spectrum.check.rate, "o", color=INK, fillstyle="none", markersize=9, label="two trajectories")
    right.set(xlabel="weights, in units of PyTorch's default", ylabel="λ₁ (nats per step)", title="Checked without derivatives")
    right.set_xscale("log", base=2)
    right.set_xticks(scales, [f"{scale:g}" for scale in scales])
    right.legend()
    for ax in (left, right):
        mark_zero(ax)
    return picture


if __name__ == "__main__":
    main()
