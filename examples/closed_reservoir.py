"""An echo-state network trained on the Lorenz equations and closed: its exponents beside those of the flow.

Run it:  python examples/closed_reservoir.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import canvas, series, styled

DT = 0.02  # sampling time of the flow, and hence the loop's step
FLOW = (0.906, 0.0, -14.57)  # exponents of the flow: Sprott 2003, Chaos and Time-Series Analysis, p. 432
RADIUS = 0.1  # of the recurrent weights: the reservoir forgets faster than the flow contracts
INPUT = 0.2  # of the input weights: units far from saturation
RIDGE = 1e-9


class Reservoir(nn.Module):
    """h' = tanh(W h + V u + b): fixed random weights, after Jaeger & Haas 2004."""

    def __init__(self, units: int, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.input_size, self.hidden_size = 3, units
        recurrent = torch.randn(units, units, generator=draw, dtype=torch.float64)
        radius = torch.linalg.eigvals(recurrent).abs().max()
        self.register_buffer("w", RADIUS * recurrent / radius)
        self.register_buffer("v", INPUT * (2 * torch.rand(units, 3, generator=draw, dtype=torch.float64) - 1))
        self.register_buffer("b", torch.rand(units, generator=draw, dtype=torch.float64) - 0.5)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        """One step."""
        return torch.tanh(h @ self.w.T + u @ self.v.T + self.b)


class Readout(nn.Module):
    """The next input, linear in h and 1."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, h: Tensor) -> Tensor:
        """(*batch, units) → (*batch, 3)."""
        return with_one(h) @ self.weight


def with_one(h: Tensor) -> Tensor:
    """h and 1."""
    return torch.cat([h, torch.ones_like(h[..., :1])], dim=-1)


def trained(units: int, samples: int, seed: int) -> tuple[Reservoir, Readout, Tensor, Tensor, float]:
    """The reservoir, its readout by ridge regression, the flow's orbit, the state at its end, and the error of one prediction."""
    fine = sx.Iterate(sx.classic.lorenz63(dt=DT / 4), 4)
    orbit = sx.trajectory(fine, torch.tensor([1.0, 1.0, 20.0], dtype=torch.float64), samples + 300, settle=2_000)
    orbit = (orbit - orbit.mean(0)) / orbit.std(0)
    reservoir = Reservoir(units, seed)
    states = sx.trajectory(sx.Recurrent(reservoir, orbit[:-1]), None, len(orbit) - 1)[1:]
    x, y = with_one(states[300:]), orbit[301:]
    weight = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=torch.float64), x.T @ y)
    error = float((x @ weight - y).square().mean().sqrt() / y.std())
    return reservoir, Readout(weight), orbit, states[-1], error


def main(argv: list[str] | None = None) -> tuple[float, sx.results.LyapunovSpectrum]:
    """Train, close, measure, draw and save `closed_reservoir.png`; the error of one prediction and the loop's spectrum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small reservoir, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    units, samples, steps = (120, 1_500, 1_000) if asked.quick else (300, 20_000, 20_000)
    reservoir, readout, sequence, state, error = trained(units, samples, seed=0)
    loop = sx.ClosedLoop(reservoir, readout, dt=DT)
    spectrum = sx.lyapunov_spectrum(loop, state, k=3, steps=steps, settle=500)
    print(f"reservoir of {units} units, error of one prediction {error:.1e} of the standard deviation")
    for i, (value, bar, flow) in enumerate(zip(spectrum.exponents, spectrum.stderr, FLOW, strict=True), 1):
        print(f"λ{i} = {float(value):8.3f} ± {float(bar):.3f} nats per unit time   (the flow: {flow})")
    generated = loop.feedback(sx.trajectory(loop, state, 3_000))
    figure(sequence[-3_000:], generated.detach()).savefig(asked.out / "closed_reservoir.png", dpi=150)
    return error, spectrum


@styled
def figure(given: Tensor, generated: Tensor) -> Figure:
    """The flow's own orbit, and what the closed loop makes of itself."""
    picture, (axes,) = canvas(1, 2)
    titles = ("The Lorenz equations, sampled at 0.02", "The closed reservoir, running by itself")
    for i, (ax, orbit, title) in enumerate(zip(axes, (given, generated), titles, strict=True)):
        ax.plot(orbit[:, 0], orbit[:, 2], color=series(i).color, linewidth=0.5)
        ax.set(xlabel="x (standard deviations)", ylabel="z (standard deviations)", title=title, xlim=(-2.8, 2.8), ylim=(-2.8, 2.8))
    return picture


if __name__ == "__main__":
    main()
