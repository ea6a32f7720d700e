"""Memory as a measurement: what reservoirs remember of their input, how their gradients fade, and what eigenvalues hide.

Run it:  python examples/memory.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.memory import draw_memory
from separatrix.plot.propagation import draw_propagation
from separatrix.plot.style import BAR, INK, SERIES, styled
from separatrix.plot.transient import draw_transient

UNITS = 30


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, draw and save `memory.png`; the capacities, the propagation and the transient growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    steps = 2_000 if asked.quick else 12_000

    first = torch.eye(UNITS, dtype=torch.float64)[0]
    line = torch.diag(torch.ones(UNITS - 1, dtype=torch.float64), -1)
    curves = {
        "delay line": sx.memory_capacity(linear(line), direction=first, max_lag=60, steps=steps),
        "linear": sx.memory_capacity(linear(recurrent_weights("random")), max_lag=60, steps=steps),
        "tanh": sx.memory_capacity(reservoir("random"), scale=1.0, max_lag=60, steps=steps),
    }
    for name, found in curves.items():
        print(f"{name}: {found}")

    scales = torch.logspace(-2, 1, 4 if asked.quick else 10, dtype=torch.float64)
    by_scale = {
        kind: [sx.memory_capacity(reservoir(kind), scale=float(scale), max_lag=60, steps=steps) for scale in scales]
        for kind in ("random", "orthogonal")
    }
    driven = sx.Recurrent(
        network("random"), sx.Stream(torch.randn(50, 40, 1, generator=torch.Generator().manual_seed(2)), copies=4)
    )
    growth = sx.gradient_propagation(driven, settle=100)
    print(growth)
    chain = sx.transient_growth(linear(0.9 * line + 0.3 * torch.eye(UNITS, dtype=torch.float64)), steps=120)
    print(chain)
    figure(curves, scales, by_scale, growth, chain).savefig(asked.out / "memory.png", dpi=120)
    return {"curves": curves, "by_scale": by_scale, "growth": growth, "chain": chain}


def linear(weight: Tensor) -> sx.Map:
    """x' = W x."""
    return sx.Map(lambda x: x @ weight.mT, len(weight))


def recurrent_weights(kind: str) -> Tensor:
    """A random matrix of spectral radius 0.9, or 0.9 times an orthogonal one."""
    weight = torch.randn(UNITS, UNITS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if kind == "orthogonal":
        return 0.9 * torch.linalg.qr(weight)[0]
    return 0.9 * weight / torch.linalg.eigvals(weight).abs().max()


def network(kind: str) -> nn.RNN:
    """A tanh network with these weights, whose one input reaches all units."""
    rnn = nn.RNN(1, UNITS, bias=False, dtype=torch.float64)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(recurrent_weights(kind))
        rnn.weight_ih_l0.copy_(torch.randn(UNITS, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    return rnn


def reservoir(kind: str) -> sx.Recurrent:
    """The network on its own: the input measured is its only one."""
    return sx.Recurrent(network(kind))


@styled
def figure(
    curves: dict[str, Any], scales: Tensor, by_scale: dict[str, list[Any]], growth: sx.results.Propagation, chain: Any
) -> Figure:
    """Memory curves; capacity over the size of the input; singular values over lags; a chain's transient growth."""
    picture = Figure(figsize=(11, 6.8), layout="constrained")
    (memory, capacity), (lags, transient) = picture.subplots(2, 2)
    for number, (name, found) in enumerate(curves.items()):
        draw_memory(memory, found, first=number, name=name)
    memory.set_title(f"What {UNITS} units remember of white noise")

    for look, (kind, found) in zip(SERIES, by_scale.items(), strict=False):
        values, errors = (torch.stack([getattr(one, name) for one in found]) for name in ("capacity", "stderr"))
        style = {"linestyle": look.line, "label": f"tanh, {kind} weights", **look.marks}
        capacity.errorbar(scales, values, BAR * errors, **style)
    capacity.axhline(UNITS, color=INK, linestyle=(0, (5, 3)), linewidth=1.1)
    capacity.text(scales[-1], UNITS - 0.6, "as many as units", ha="right", va="top", fontsize=8)
    capacity.set(
        title="A hard drive is soon forgotten",
        xlabel="size of the input (uniform in ± this)",
        ylabel="memory capacity (inputs)",
        xscale="log",
    )
    capacity.set_ylim(0, UNITS * 1.08)
    capacity.legend(loc="lower left")

    draw_propagation(lags, growth)
    lags.set_title("Gradients of the tanh network")
    draw_transient(transient, chain)
    transient.set_title("A chain amplifies before it fades")
    return picture


if __name__ == "__main__":
    main()
