"""Echo states: when one unit forgets where it began, under a drive and under noise.

Run it:  python examples/echo_state.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import separatrix as sx
from separatrix.plot.echo_state import draw_distances
from separatrix.plot.style import BAR, INK, SERIES, mark_zero, styled

WEIGHT = 2.0  # beyond 1: without a drive the unit h' = tanh(2h) rests on either side


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, draw and save `echo_state.png`; the verdicts over the drive's size, and those of a double well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and steps, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    sizes = torch.linspace(0, 1.6, 9 if asked.quick else 41, dtype=torch.float64)
    steps = 1_500 if asked.quick else 4_000

    unit = sx.Map(driven_unit(sizes, steps), 1, time_dependent=True)
    echo = sx.echo_state(unit, torch.zeros(len(sizes), 1, dtype=torch.float64), steps=steps, starts=16)
    print(echo)
    shown = torch.tensor([0.2, 1.2], dtype=torch.float64)
    pair = sx.echo_state(
        sx.Map(driven_unit(shown, steps), 1, time_dependent=True), torch.zeros(2, 1, dtype=torch.float64), steps=400, starts=16
    )

    well = sx.Flow(lambda x: x - x**3, 1, 0.05, method="euler")
    wells = {scale: sx.echo_state(sx.Noisy(well, scale), spread=1.5, steps=1_000) for scale in (0.0, 0.8)}
    for scale, found in wells.items():
        print(f"a double well under noise of scale {scale}: {found}")
    orbits = {scale: orbits_of(sx.Noisy(well, scale)) for scale in wells}
    figure(sizes, echo, pair, orbits, wells).savefig(asked.out / "echo_state.png", dpi=120)
    return {"sizes": sizes, "echo": echo, "wells": wells}


def driven_unit(sizes: Tensor, steps: int) -> Any:
    """h' = tanh(2h + size · ξ_n), one size for each item of the batch, all under the same ξ."""
    noise = torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return lambda h, n: torch.tanh(WEIGHT * h + (sizes * noise[n])[:, None])


def orbits_of(system: sx.Noisy) -> Tensor:
    """Nine states under one realisation, (time, state)."""
    x0 = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]
    return sx.trajectory(system, x0, 600)[..., 0]


@styled
def figure(
    sizes: Tensor, echo: sx.results.EchoState, pair: sx.results.EchoState, orbits: dict[float, Tensor], wells: dict[float, Any]
) -> Figure:
    """Distances of two sizes; λ₁ and the responses over all sizes; orbits in a double well without and with noise."""
    picture = Figure(figsize=(11, 6.6), layout="constrained")
    (distances, border), (calm, noisy) = picture.subplots(2, 2)
    draw_distances(distances, pair, names=("drive 0.2", "drive 1.2"))
    distances.set(title="16 states of h ← tanh(2h + drive)", xlabel="time (steps)")

    several = (echo.responses > 1).numpy()
    for kind, look, name in ((several, SERIES[1], "several responses"), (~several, SERIES[0], "echo state: one response")):
        bars = {"capsize": 0, "elinewidth": 1, "linestyle": "none", "label": name}
        border.errorbar(sizes[kind], echo.exponent[kind], BAR * echo.stderr[kind], **bars, **look.marks)
    mark_zero(border)
    border.set(title="λ₁ < 0 on both sides of the border", xlabel="size of the drive (standard deviation)")
    border.set_ylabel("λ₁ under this drive (nats per step)")
    border.legend()

    for axes, (scale, paths) in zip((calm, noisy), orbits.items(), strict=True):
        time = 0.05 * torch.arange(len(paths))
        axes.plot(time, paths, color=INK, linewidth=0.8)
        verdict = wells[scale].verdict
        axes.set(
            title=f"A double well, noise {scale:g}: {verdict}", xlabel="time (units of time)", ylabel="state x (dimensionless)"
        )
        axes.set_ylim(-2.1, 2.1)
    return picture


if __name__ == "__main__":
    main()
