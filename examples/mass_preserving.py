"""Networks that keep the sum of their state: an epidemic's flow map learned with and without, and a field of three exchanges.

Run it:  python examples/mass_preserving.py [--quick] [--out DIR]
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.wording import counted
from separatrix.plot.style import INK, NOTE, QUIET, SERIES, Series, styled

WIDTHS, BLOCKS, HIDDEN = (3, 10, 10, 15), 3, 50  # of both networks that learn the epidemic
TRAIN, TEST = 900, 100
STEPS = 1000  # compositions of the time-1 map
DT, SPAN, FAR = 0.1, 30, 300  # samples of the three exchanges; how long a learned field is held to the truth, and followed
LEARNED_SPAN = 10  # of the orbits that are learned from
SHOWN = 20  # compositions in the picture of one epidemic
FLOOR = 1e-17  # where 0 is drawn on a logarithmic axis


class Unconstrained(sx.nn.Block):
    """x ↦ x + V Σ(Ux + u) + v: what a mass-preserving step with hidden units is but for the mean that it takes off."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.inner, self.outer = nn.Linear(dim, HIDDEN), nn.Linear(HIDDEN, dim)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """One step of a residual network."""
        return x + self.outer(torch.relu(self.inner(x)))


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Learn, draw and save `mass_preserving.png`; the errors of all networks, and their orbits beside the true ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and short training, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    epidemic = learn_epidemic(seeds=1 if asked.quick else 5, epochs=15 if asked.quick else 150)
    exchange = learn_exchange(iterations=60 if asked.quick else 1500)
    figure(epidemic, exchange).savefig(asked.out / "mass_preserving.png", dpi=120)
    return {"epidemic": epidemic, "exchange": exchange}


def sir(t: float, y: np.ndarray) -> np.ndarray:
    """Susceptible, infected and recovered parts of a population, R₀ = 1; y has shape (3, items)."""
    infected, recovered = y[0] * y[1], y[1]
    return np.stack([-infected, infected - recovered, recovered])


def exchanges(t: float, y: np.ndarray) -> np.ndarray:
    """ẏ = M(y) 1 with an antisymmetric M; y has shape (3, items)."""
    a, b, c = y
    return np.stack([-c * a**2 + b * c, c * a**2 - np.sin(a), -b * c + np.sin(a)])


def orbits(field: Callable[[float, np.ndarray], np.ndarray], start: np.ndarray, times: np.ndarray) -> Tensor:
    """Reference orbits at 1e-11, shape (times, items, 3)."""
    shape = start.T.shape
    found = solve_ivp(
        lambda t, y: field(t, y.reshape(shape)).ravel(), (0, times[-1]), start.T.ravel(), t_eval=times, rtol=1e-11, atol=1e-11
    )
    return torch.tensor(found.y.reshape(*shape, -1)).permute(2, 1, 0).contiguous()


def network(kind: str) -> sx.nn.Sequential:
    """Lift, steps and projection, in float64; the two kinds have as many parameters."""
    kept = sx.nn.mass_preserving_network(WIDTHS, blocks=BLOCKS, hidden=HIDDEN, activation=torch.relu)
    assert isinstance(kept, sx.nn.Sequential)  # one without weights
    if kind == "mass-preserving":
        return kept.double()
    steps = [Unconstrained(block.dim) if isinstance(block, sx.nn.MassPreserving) else block for block in kept]
    return sx.nn.Sequential(*steps).double()


def trained(model: nn.Module, before: Tensor, after: Tensor, *, seed: int, epochs: int) -> nn.Module:
    """The paper's recipe: Adam, learning rate 1e-2, a tenth of it every 60 epochs, weight decay 1e-5, batches of 32."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, max(2 * epochs // 5, 1), 0.1)
    random = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(before), generator=random).split(32):
            optimiser.zero_grad()
            nn.functional.mse_loss(model(before[batch]), after[batch]).backward()
            optimiser.step()
        schedule.step()
    return model


def learn_epidemic(*, seeds: int, epochs: int) -> dict[str, Any]:
    """The SIR model's time-1 map, learned by both kinds of network from 900 points of the simplex."""
    points = np.random.RandomState(0).rand(TRAIN + TEST, 3)
    truth = orbits(sir, points / points.sum(1, keepdims=True), np.arange(STEPS + 1.0))
    before, after, test = truth[0, :TRAIN], truth[1, :TRAIN], truth[:, TRAIN:]
    found: dict[str, Any] = {"truth": test, "errors": {}, "orbits": {}, "models": {}}
    for kind in ("mass-preserving", "unconstrained"):
        models = []
        for seed in range(seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                models.append(network(kind))
            trained(models[-1], before, after, seed=seed, epochs=epochs)
        with torch.no_grad():
            errors = torch.stack([nn.functional.mse_loss(model(test[0]), test[1]) for model in models])
            found["orbits"][kind] = torch.stack([sx.trajectory(model, test[0], STEPS) for model in models], dim=1)
        found["errors"][kind] = errors
        found["models"][kind] = models
        tell_epidemic(kind, found)
    return found


def tell_epidemic(kind: str, found: dict[str, Any]) -> None:
    """What a kind of network reached, over its seeds."""
    errors, orbit, truth = found["errors"][kind], found["orbits"][kind], found["truth"][:, None]
    drift = (orbit.sum(-1) - 1).abs().amax(-1)  # the worst test point, shape (time, seeds)
    error = (orbit - truth).square().mean((-1, -2)).sqrt()  # root mean square over test points
    parameters = sum(parameter.numel() for parameter in found["models"][kind][0].parameters())
    told = ", ".join(f"{one:.2e}" for one in errors)
    print(f"{kind}, {parameters:,} parameters: test MSE {told}; median {errors.median():.2e}")
    print("  medians of the seeds:")
    for n in (1, 30, STEPS):
        print(f"  after {counted(n, 'step')} |Σx − 1| ≤ {drift[n].median():.1e}, error {error[n].median():.1e}")


class Free(nn.Module):
    """The field f(x) = V Σ(Ux + u) + v, without its mean taken off."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, hidden), nn.Linear(hidden, 3)

    def forward(self, x: Tensor, t: float = 0.0) -> Tensor:
        """ẋ."""
        return self.outer(torch.tanh(self.inner(x)))


def learn_exchange(*, iterations: int) -> dict[str, Any]:
    """The field of three exchanges, from samples of 60 orbits on a time of 10; followed from 20 new states, with and without."""
    random = np.random.RandomState(0)
    seen = orbits(exchanges, random.rand(60, 3), DT * np.arange(round(LEARNED_SPAN / DT) + 1))
    truth = orbits(exchanges, random.rand(20, 3), DT * np.arange(round(SPAN / DT) + 1))
    before, after = (part.reshape(-1, 3)[::3] for part in (seen[:-1], seen[1:]))
    found: dict[str, Any] = {"truth": truth, "learned": {}, "field_error": {}, "models": {}}
    for kind in ("mass-preserving", "unconstrained"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            field = sx.nn.MassPreserving(3, hidden=64).flow.field if kind == "mass-preserving" else Free(64)
        model = sx.Flow(fitted(field.double(), before, after, iterations), 3, DT, method="rk4")
        with torch.no_grad():
            found["learned"][kind] = sx.trajectory(model, truth[0], round(FAR / DT))
            states = truth.reshape(-1, 3)
            velocity = torch.tensor(exchanges(0, states.T.numpy())).T
            found["field_error"][kind] = float((model.residual(states) - velocity).norm() / velocity.norm())
        found["models"][kind] = model
        tell_exchange(kind, found)
    return found


def fitted(field: nn.Module, before: Tensor, after: Tensor, iterations: int) -> nn.Module:
    """The field of which one Runge–Kutta step goes from each sample to the next, by L-BFGS."""
    step = sx.Flow(field, 3, DT, method="rk4")
    options = {"max_iter": iterations, "max_eval": 2 * iterations, "history_size": 50, "line_search_fn": "strong_wolfe"}
    optimiser = torch.optim.LBFGS(field.parameters(), tolerance_grad=1e-12, tolerance_change=0, **options)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.mse_loss(step(before), after) / DT**2  # of the mean velocity along a step
        value.backward()
        return value

    optimiser.step(loss)
    return field


def tell_exchange(kind: str, found: dict[str, Any]) -> None:
    """How far off the learned field is, its orbits, and their sums."""
    learned, truth = found["learned"][kind], found["truth"]
    error = (learned[: len(truth)] - truth).norm(dim=-1)
    change = changes(learned)
    print(
        f"three exchanges, {kind}: the field is off by {found['field_error'][kind]:.1e} of its size along new orbits, the orbits by"
    )
    print(f"  {error[100].median():.1e} at t = 10 and {error[-1].median():.1e} at t = {SPAN} (medians of 20)")
    told = ", ".join(f"{float(change[round(t / DT) - 1].max()):.0e} at t = {t}" for t in (1, SPAN, FAR))
    print(f"  largest |Σy − Σy(0)|: {told}")


def changes(learned: Tensor) -> Tensor:
    """How far the sum of each orbit is from where it began, after each step."""
    return (learned.sum(-1) - learned[0].sum(-1)).abs()[1:]


@styled
def figure(epidemic: dict[str, Any], exchange: dict[str, Any]) -> Figure:
    """An epidemic over compositions, its sum, and errors by seed; the exchanges' orbits, and how their sums drift."""
    picture = Figure(figsize=(11, 6.6), layout="constrained")
    top, bottom = picture.subplots(2, 3)
    draw_epidemic(top[0], epidemic)
    draw_drift(top[1], epidemic)
    draw_errors(top[2], epidemic)
    draw_orbits(bottom[0], exchange)
    draw_in_time(bottom[1], exchange)
    draw_changes(bottom[2], exchange)
    return picture


def draw_epidemic(axes: Axes, found: dict[str, Any]) -> None:
    """The parts of one population of the test set, the one with the most infected."""
    item = int(found["truth"][0, :, 1].argmax())
    shown = torch.arange(0, SHOWN + 1, 2)
    for part, (name, up) in enumerate((("susceptible", 0.2), ("infected", -0.06), ("recovered", 0.97))):
        line = found["truth"][: SHOWN + 1, item, part]
        axes.plot(line, color=INK, linewidth=1, label="truth" if part == 0 else None)
        axes.text(SHOWN, up, name, ha="right", va="center", fontsize=8)
        for look, (kind, orbit) in zip(SERIES, found["orbits"].items(), strict=False):
            axes.plot(shown, orbit[shown, 0, item, part], linestyle="", label=kind if part == 0 else None, **look.marks)
    axes.set(
        title="An epidemic, R₀ = 1", xlabel="compositions of the time-1 map", ylabel="part of the population", ylim=(-0.1, 1.02)
    )
    axes.legend(loc="center right")


def draw_drift(axes: Axes, found: dict[str, Any]) -> None:
    """How far the sum goes from 1: the worst test point of each seed."""
    for look, (kind, orbit) in zip(SERIES, found["orbits"].items(), strict=False):
        drift = (orbit.sum(-1) - 1).abs().amax(-1)[1:]
        band(axes, torch.arange(1, len(drift) + 1), drift, look, kind)
    axes.set(xscale="log", yscale="log", ylim=(FLOOR, 10))
    axes.set(title="The sum of its three parts", xlabel="compositions of the time-1 map")
    axes.set_ylabel("largest |Σx − 1| of 100 populations")
    axes.legend(loc="center right")


def draw_errors(axes: Axes, found: dict[str, Any]) -> None:
    """Test errors of the time-1 map, one mark for each seed and a line at their median."""
    for place, (look, errors) in enumerate(zip(SERIES, found["errors"].values(), strict=False)):
        axes.plot(torch.full_like(errors, place), errors, linestyle="", **look.marks)
        axes.hlines(errors.median(), place - 0.2, place + 0.2, color=look.color)
    axes.set(title="Error of one step, by seed", ylabel="test error (mean square)", yscale="log", xlim=(-0.6, 1.6))
    low, high = axes.get_ylim()
    axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
    axes.set_xticks(range(len(found["errors"])), list(found["errors"]))


def draw_orbits(axes: Axes, found: dict[str, Any]) -> None:
    """Orbits of the learned field over the true ones."""
    dots = {"linestyle": "", "markersize": 2.5, **SERIES[0].marks}
    for item in range(3):
        true, learned = (orbits[: len(found["truth"]), item] for orbits in (found["truth"], found["learned"]["mass-preserving"]))
        axes.plot(true[:, 0], true[:, 2], color=INK, linewidth=0.9, label="truth" if item == 0 else None)
        axes.plot(learned[::4, 0], learned[::4, 2], label="learned" if item == 0 else None, **dots)
    axes.set(title="Three exchanges, ẏ = M(y) 1", xlabel="y₁ (dimensionless)", ylabel="y₃ (dimensionless)")
    axes.legend()


def draw_in_time(axes: Axes, found: dict[str, Any]) -> None:
    """The three numbers of one new orbit."""
    times = DT * torch.arange(len(found["truth"]))
    learned = found["learned"]["mass-preserving"][: len(times)]
    for part, (look, name) in enumerate(zip(SERIES, ("y₁", "y₂", "y₃"), strict=False)):
        axes.plot(times, found["truth"][:, 0, part], color=INK, linewidth=0.9)
        axes.plot(times[::5], learned[::5, 0, part], linestyle="", markersize=3, label=name, **look.marks)
    axes.axvline(LEARNED_SPAN, color=QUIET, linewidth=0.8)
    axes.text(LEARNED_SPAN + 0.4, 0.02, "longer than what was learned from", transform=axes.get_xaxis_transform(), **NOTE)
    axes.set(title="One orbit that was not seen", xlabel="time (dimensionless)", ylabel="state (dimensionless)", ylim=(-0.6, 2.2))
    axes.legend(loc="upper right", ncols=3)


def draw_changes(axes: Axes, found: dict[str, Any]) -> None:
    """How far the sums of orbits go from where they began: the median orbit, and all."""
    times = DT * torch.arange(1, round(FAR / DT) + 1)
    for look, (kind, learned) in zip(SERIES, found["learned"].items(), strict=False):
        band(axes, times, changes(learned), look, kind)
    axes.axvline(LEARNED_SPAN, color=QUIET, linewidth=0.8)
    axes.set(xscale="log", yscale="log", ylim=(FLOOR, 10))
    axes.set(title="The sum along 20 new orbits", xlabel="time (dimensionless)", ylabel="|Σy − Σy(0)|: median and range")
    axes.legend(loc="center left")


def band(axes: Axes, across: Tensor, values: Tensor, look: Series, name: str) -> None:
    """The median over the second axis, and the range."""
    low, middle, high = (part.clamp(min=FLOOR) for part in (values.amin(1), values.median(1).values, values.amax(1)))
    axes.fill_between(across, low, high, color=look.color, alpha=0.2, linewidth=0)
    axes.plot(across, middle, color=look.color, linestyle=look.line, label=name)


if __name__ == "__main__":
    main()
