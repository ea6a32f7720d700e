"""The Lorenz attractor and its three exponents, as they converge.

Run it:  python examples/lorenz.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import separatrix as sx
from separatrix.core.wording import measured
from separatrix.plot.style import BAR, series, styled

EXACT_SUM = -(10 + 1 + 8 / 3)  # the field's divergence, which is constant


def main(argv: list[str] | None = None) -> sx.results.LyapunovSpectrum:
    """Measure, draw and save `lorenz.png`; the spectrum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    system = sx.classic.lorenz63()
    orbit = sx.trajectory(system, steps=3_000, settle=1_000)
    spectrum = sx.lyapunov_spectrum(system, steps=6_000 if asked.quick else 100_000)
    print(spectrum)
    print(f"Σλ = {spectrum.exponents.sum():.5f}; the field's divergence is {EXACT_SUM:.5f}")
    figure(orbit, spectrum).savefig(asked.out / "lorenz.png", dpi=120)
    return spectrum


@styled
def figure(orbit: torch.Tensor, spectrum: sx.results.LyapunovSpectrum) -> Figure:
    """The attractor on the left; on the right the running estimates, and bands of two standard errors about their last."""
    picture = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = picture.subfigures(1, 2, width_ratios=(1, 1.1))
    ax = left.subplots()
    ax.plot(orbit[:, 0], orbit[:, 2], color=series(0).color, linewidth=0.4)
    ax.set(xlabel="x (dimensionless)", ylabel="z (dimensionless)", title="30 units of time on the attractor")
    time = spectrum.history_time
    rows = right.subplots(3, sharex=True)
    for i, (ax, value, error) in enumerate(zip(rows, spectrum.exponents.tolist(), spectrum.stderr.tolist(), strict=True)):
        estimate = spectrum.history[:, i]
        ax.axhspan(value - BAR * error, value + BAR * error, color=series(i).color, alpha=0.22, linewidth=0)
        ax.plot(time, estimate, color=series(i).color, linewidth=1.2)
        reach = max(8 * error, 1.2 * float((estimate[len(estimate) // 10 :] - value).abs().max()))
        ax.set(ylim=(value - reach, value + reach), ylabel=f"λ{'₁₂₃'[i]} (nats/time)")
        ax.set_title(f"λ{'₁₂₃'[i]} = {measured(value, error)}", fontsize="medium", loc="right")
    rows[-1].set(xlabel="time averaged over (Lorenz's unit)", xscale="log")
    return picture


if __name__ == "__main__":
    main()
