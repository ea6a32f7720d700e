"""What Newton leaves out: relativity learned from the gravitational wave of one orbit about a black hole.

Run it:  python examples/black_hole.py [--quick] [--out DIR]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.plot.style import INK, NOTE, QUIET, SERIES, styled

P, E = 100.0, 0.5  # semi-latus rectum, in units of the black hole's mass, and eccentricity
SAMPLES, EVERY = 250, 240.96  # of the wave, in units of time of that mass
FAR = 5  # times as long as what was learned from
FINE = 8  # steps of the truth from sample to sample; the fitted field takes 2
HIDDEN = 32


class Cosine(nn.Module):
    """Number by number."""

    def forward(self, x: Tensor) -> Tensor:
        """cos x."""
        return x.cos()


class Corrections(nn.Module):
    """(χ, φ) ↦ (F₁, F₂)(cos χ): neither the angle in the plane nor the count of orbits matters to the law of motion."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, HIDDEN), Cosine(), nn.Linear(HIDDEN, HIDDEN), Cosine(), nn.Linear(HIDDEN, 2)
        ).double()

    def forward(self, x: Tensor) -> Tensor:
        """Both corrections, relative to Newton's speeds."""
        return self.layers(x[..., :1].cos())


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, draw and save `black_hole.png`; the errors of all seeds on what was learned from and far beyond."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and a third of the wave, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    found = learn(seeds=1 if asked.quick else 5, samples=80 if asked.quick else SAMPLES, max_steps=12 if asked.quick else 40)
    figure(found).savefig(asked.out / "black_hole.png", dpi=120)
    return found


def learn(*, seeds: int, samples: int, max_steps: int) -> dict[str, Any]:
    """Fit the corrections to the wave of the first samples; the orbits of the truth, of Newton and of each fit, 5 times as long."""
    times = EVERY * torch.arange(FAR * samples - FAR + 1, dtype=torch.float64)
    start = sx.classic.schwarzschild_orbit().initial_state()
    orbit = {
        "truth": follow(sx.classic.SchwarzschildOrbit(P, E), start, times, EVERY / FINE),
        "Newton": follow(sx.classic.KeplerOrbit(P, E), start, times, EVERY / FINE),
    }
    seen = wave(orbit["truth"][:samples])
    tell("Newton alone", errors(orbit["Newton"], orbit["truth"], samples))
    fields, fits, learned, seconds = [], [], [], []
    for seed in range(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            field = sx.nn.Universal(sx.classic.KeplerOrbit(P, E), sx.nn.parts.zero_output_(Corrections()), combine="factor")
        begun = time.perf_counter()
        fit = sx.nn.fit_observations(
            field, seen, x0=start, times=times[:samples], dt=EVERY / 2, observe=wave, max_steps=max_steps, tol=1e-4
        )
        seconds.append(time.perf_counter() - begun)
        learned.append(follow(field, start, times, EVERY / 2))
        fields.append(field)
        fits.append(fit)
        print(f"seed {seed}, {seconds[-1]:.0f} s: {fit}")
        tell("  learned", errors(learned[-1], orbit["truth"], samples))
    orbit["learned"] = torch.stack(learned)
    error = torch.tensor([errors(one, orbit["truth"], samples) for one in learned])
    tell(f"median of {seeds} seeds", error.median(0).values.tolist())
    return {
        "orbits": orbit,
        "errors": error,
        "Newton": errors(orbit["Newton"], orbit["truth"], samples),
        "samples": samples,
        "fits": fits,
        "fields": fields,
        "seconds": seconds,
    }


@torch.no_grad()
def follow(field: sx.Field, start: Tensor, times: Tensor, dt: float) -> Tensor:
    """States at the asked times, shape (times, 2), by equal steps."""
    return sx.solve(field, start, times, method="rk4", dt=dt).states


def wave(states: Tensor) -> Tensor:
    """h₊ of an orbit seen at equal times, shape (times)."""
    return sx.classic.quadrupole_waveform(sx.classic.orbit_in_plane(states, p=P, e=E), EVERY)[..., 0]


def errors(states: Tensor, truth: Tensor, samples: int) -> list[float]:
    """Relative errors of the wave, and of the orbit: where it was learned from, and over the whole."""
    place = sx.classic.orbit_in_plane
    windows = (slice(samples), slice(None))
    waves = [relative(wave(states[window]), wave(truth[window])) for window in windows]
    return waves + [relative(place(states[window], p=P, e=E), place(truth[window], p=P, e=E)) for window in windows]


def relative(found: Tensor, truth: Tensor) -> float:
    """‖found − truth‖ / ‖truth‖."""
    return float((found - truth).norm() / truth.norm())


def tell(what: str, error: list[float]) -> None:
    """Four errors in words."""
    near, far, orbit_near, orbit_far = error
    print(f"{what}: wave off by {near:.2g} and, {FAR} times as far, {far:.2g}; orbit by {orbit_near:.2g} and {orbit_far:.2g}")


@torch.no_grad()
def corrections(field: sx.Field, chi: Tensor) -> Tensor:
    """χ̇ and φ̇ over Newton's, less 1: shape (angles, 2)."""
    states = torch.stack([chi, torch.zeros_like(chi)], dim=-1)
    return field(states, 0.0) / sx.classic.KeplerOrbit(P, E)(states, 0.0) - 1


@styled
def figure(found: dict[str, Any]) -> Figure:
    """The wave where it was learned and at the far end; orbits; the corrections; errors of all seeds."""
    picture = Figure(figsize=(11, 7.4), layout="constrained")
    grid = picture.add_gridspec(3, 3, height_ratios=(1, 1, 1.5))
    truth, samples = found["orbits"]["truth"], found["samples"]
    top, bottom = picture.add_subplot(grid[0, :]), picture.add_subplot(grid[1, :])
    draw_wave(top, found, slice(0, samples))
    draw_wave(bottom, found, slice(len(truth) - samples, len(truth)))
    top.set_title("The wave that was learned from")
    bottom.set_title(f"The end of {FAR} times that: not seen")
    bottom.set_xlabel("time (in units of the black hole's mass, G = c = 1)")
    top.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98))
    draw_orbits(picture.add_subplot(grid[2, 0]), found)
    draw_corrections(picture.add_subplot(grid[2, 1]), found)
    draw_misfits(picture.add_subplot(grid[2, 2]), found)
    return picture


def draw_wave(axes: Axes, found: dict[str, Any], window: slice) -> None:
    """The true wave, Newton's, and that of the first seed's field."""
    orbit = found["orbits"]
    times = EVERY * torch.arange(len(orbit["truth"]))[window]
    axes.plot(times, wave(orbit["Newton"])[window], color=SERIES[1].color, linestyle=SERIES[1].line, linewidth=1, label="Newton")
    axes.plot(times, wave(orbit["truth"])[window], color=INK, linewidth=1, label="truth")
    marks = {"linestyle": "", "markersize": 2.6, **SERIES[0].marks}
    axes.plot(times, wave(orbit["learned"][0])[window], label="learned", **marks)
    axes.set_ylabel("h₊ (mass/distance)")


def draw_orbits(axes: Axes, found: dict[str, Any]) -> None:
    """Where the particle goes, over the time that was learned from."""
    orbit, samples = found["orbits"], found["samples"]
    fine = EVERY / FINE * torch.arange(FINE * (samples - 1) + 1, dtype=torch.float64)
    start = orbit["truth"][0]
    paths = {
        "Newton": follow(sx.classic.KeplerOrbit(P, E), start, fine, EVERY / FINE),
        "truth": follow(sx.classic.SchwarzschildOrbit(P, E), start, fine, EVERY / FINE),
    }
    for (name, path), color in zip(paths.items(), (SERIES[1].color, INK), strict=True):
        x, y = sx.classic.orbit_in_plane(path, p=P, e=E).unbind(-1)
        axes.plot(x, y, color=color, linewidth=1.6 if name == "Newton" else 0.8, label=name)
    x, y = sx.classic.orbit_in_plane(orbit["learned"][0][:samples:2], p=P, e=E).unbind(-1)
    axes.plot(x, y, linestyle="", markersize=2.6, label="learned", **SERIES[0].marks)
    axes.plot(0, 0, "o", color="black", markersize=5)
    axes.set(title="The orbit", xlabel="x (in units of the mass)", ylabel="y (in units of the mass)", aspect="equal")


def draw_corrections(axes: Axes, found: dict[str, Any]) -> None:
    """What relativity does to both speeds, and what each seed has learned of it."""
    chi = torch.linspace(0, torch.pi, 41, dtype=torch.float64)
    true = corrections(sx.classic.SchwarzschildOrbit(P, E), chi)
    learned = torch.stack([corrections(field, chi) for field in found["fields"]])
    for part, (look, name) in enumerate(zip(SERIES, ("χ̇", "φ̇"), strict=False)):
        axes.plot(chi.cos(), 100 * true[:, part], color=INK, linewidth=1, label="truth" if part == 0 else None)
        for one in learned:
            axes.plot(chi.cos(), 100 * one[:, part], linestyle="", markersize=3, **look.marks)
        axes.plot([], [], linestyle="", label=f"learned, {name}", **look.marks)
    axes.set(title="Corrections of Newton's speeds", xlabel="cos χ (1: closest)", ylabel="change of speed (%)")
    axes.legend()


def draw_misfits(axes: Axes, found: dict[str, Any]) -> None:
    """How each fit went, and how far off it is after 5 times the time."""
    steps = max(len(fit.misfit) for fit in found["fits"])
    for fit, far in zip(found["fits"], found["errors"][:, 1], strict=True):
        axes.plot(fit.misfit, color=SERIES[0].color, linewidth=1)
        axes.plot(steps + 2, far, markersize=4, **SERIES[1].marks)
    axes.plot([], [], color=SERIES[0].color, linewidth=1, label="during the fit")
    axes.plot([], [], linestyle="", label=f"after, {FAR} times as far", **SERIES[1].marks)
    axes.axhline(found["Newton"][1], color=QUIET, linewidth=0.8)
    axes.text(steps, found["Newton"][1] * 1.15, f"Newton, {FAR} times as far", ha="right", **NOTE)
    axes.set(title="Error of the wave, by seed", xlabel="steps of the fit", ylabel="relative error of h₊", yscale="log")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.93))


if __name__ == "__main__":
    main()
