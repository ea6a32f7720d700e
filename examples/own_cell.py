r"""A cell of your own, with a state of two tensors: does adaptation calm a chaotic network?

h' = h + ε (−h + tanh(W h + U u − b a)),   a' = a + ε (h − a) / τ:  units of activity h, each slowed by its own fatigue a.
Nothing here is known to Separatrix: it calls the cell, differentiates it, and takes the state to be (h, a). One check is exact:
at b = 0 nothing depends on a, so that as many exponents as there are units equal ln(1 − ε/τ).

Run it:  python examples/own_cell.py [--quick] [--out DIR]
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import BAR, INK, canvas, mark_zero, series, styled

INPUTS, GAIN = 3, 3.0
RATE, SLOWNESS = 0.2, 5.0  # ε and τ
STRENGTHS = (0.0, 0.5, 1.0, 2.0)


class AdaptingCell(nn.Module):
    """(u, (h, a)) → (h, (h, a)), as a PyTorch cell is usually written."""

    def __init__(self, hidden: int, strength: float) -> None:
        super().__init__()
        self.input_size = INPUTS
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.input = nn.Linear(INPUTS, hidden, bias=False)
        self.register_buffer("strength", torch.tensor(strength))  # a tensor, because it differs within an ensemble

    def forward(self, u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The output and the next state."""
        h, a = state
        target = torch.tanh(self.recurrent(h) + self.input(u) - self.strength * a)
        after = h + RATE * (target - h), a + RATE / SLOWNESS * (h - a)
        return after[0], after


def main(argv: list[str] | None = None) -> sx.results.LyapunovSpectrum:
    """Measure, draw and save `own_cell.png`; the spectra, one batch item a strength."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    hidden, steps = (20, 600) if asked.quick else (40, 4_000)
    inputs = 0.1 * torch.randn(steps + steps // 5, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    example = (torch.zeros(hidden), torch.zeros(hidden))  # the shape of the state, without batch
    system = sx.Recurrent([cell(hidden, strength) for strength in STRENGTHS], inputs, state=example)
    sx.testing.check_system(system)
    spectrum = sx.lyapunov_spectrum(system, steps=steps, settle=steps // 5, check=True)
    print(spectrum)
    figure(spectrum, hidden).savefig(asked.out / "own_cell.png", dpi=150)
    return spectrum


def cell(hidden: int, strength: float) -> AdaptingCell:
    """The cell with Gaussian weights of one seed."""
    made, generator = AdaptingCell(hidden, strength), torch.Generator().manual_seed(0)
    nn.init.normal_(made.recurrent.weight, std=GAIN / hidden**0.5, generator=generator)
    nn.init.normal_(made.input.weight, generator=generator)
    return made


@styled
def figure(spectrum: sx.results.LyapunovSpectrum, hidden: int) -> Figure:
    """The leading exponents for each strength, and λ₁ against it beside the two-trajectory rate."""
    picture, ((left, right),) = canvas(1, 2)
    index, exact = torch.arange(1, hidden + 1), math.log(1 - RATE / SLOWNESS)
    for i, strength in enumerate(STRENGTHS):
        look, value, error = series(i), spectrum.exponents[i, :hidden], spectrum.stderr[i, :hidden]
        left.fill_between(index, value - BAR * error, value + BAR * error, color=look.color, alpha=0.22, linewidth=0)
        left.plot(index, value, color=look.color, linestyle=look.line, label=f"b = {strength:g}")
    left.annotate("ln(1 − ε/τ)", (hidden, exact), (0, 3), textcoords="offset points", ha="right")
    left.set(xlabel="index i", ylabel="λᵢ (nats per step)", title=f"The leading {hidden} of {2 * hidden} exponents")
    left.legend()
    right.errorbar(STRENGTHS, spectrum.exponents[:, 0], BAR * spectrum.stderr[:, 0], color=series(0).color, label="λ₁ ± 2 s.e.")
    right.plot(STRENGTHS, spectrum.check.rate, "o", color=INK, fillstyle="none", markersize=9, label="two trajectories")
    right.set(xlabel="strength of adaptation b", ylabel="λ₁ (nats per step)", title="Checked without derivatives")
    right.legend()
    for ax in (left, right):
        mark_zero(ax)
    return picture


if __name__ == "__main__":
    main()
