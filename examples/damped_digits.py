"""Digits under noise: a residual network, a plain one, and two between them whose damping λ is learned.

Run it:  python examples/damped_digits.py [--quick] [--out DIR]
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

import separatrix as sx
from separatrix.demos.handwriting import BATCH, Digits
from separatrix.nn.flows.damped import START
from separatrix.plot.style import BAR, INK, NOTE, TICKS, series, styled

WIDTH, BLOCKS, SEEDS, EPOCHS = 16, 8, 5, 16
RATE, MOMENTUM, DECAY = 0.1, 0.9, 1e-4  # the paper's; its rate is a tenth from half of the epochs on, and again from three quarters
DRAWS = 10  # of the noise, for each digit
KINDS: dict[str, dict[str, Any]] = {
    "residual, λ = 0": {"damping": 0.0},
    "In-ResNet, λ learned": {"rule": "in"},
    "λ-In-ResNet, λ learned": {"rule": "lambda-in"},
    "plain, λ = 1": {"damping": 1.0},
}
RESIDUAL = next(iter(KINDS))
Noise = Callable[[Tensor, float, torch.Generator], Tensor]


class Preactivated(nn.Module):
    """b(x): batch norm, ReLU, a 3 × 3 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(items, WIDTH, 8, 8), the same after."""
        return self.conv(self.norm(x).relu())


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, measure, draw and save `damped_digits.png`; accuracies (kind, seed, level) by noise, and λ (seed, block) by kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds and one epoch, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    found = measured(*((2, 1, 1) if asked.quick else (SEEDS, EPOCHS, DRAWS)))
    tell(found)
    figure(found).savefig(asked.out / "damped_digits.png", dpi=120)
    return found


def network(kind: str, seed: int) -> nn.Sequential:
    """A convolution, damped blocks, and a last layer; of one seed, all kinds begin from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lift, head = nn.Conv2d(1, WIDTH, 3, padding=1, bias=False), nn.Linear(WIDTH * 16, 10)
        blocks = [Preactivated() for _ in range(BLOCKS)]
        damped = [sx.nn.Damped(block, **KINDS[kind]) for block in blocks]
    end = [nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), head]
    return nn.Sequential(nn.Unflatten(1, (1, 8)), lift, *damped, *end)


def trained(model: nn.Module, data: Digits, epochs: int) -> nn.Module:
    """By the paper's recipe, in fewer epochs."""
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    falls = sorted({math.ceil(epochs / 2), math.ceil(3 * epochs / 4)})
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, falls)
    for _ in range(epochs):
        for batch in data.train[torch.randperm(len(data.train), generator=data.generator)].split(BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimiser.step()
        schedule.step()
    return model.eval()


def gaussian(x: Tensor, level: float, random: torch.Generator) -> Tensor:
    """A normal number added to each pixel, whose range is 0 … 1."""
    return (x + level * torch.randn(x.shape, generator=random)).clamp(0, 1)


def impulse(x: Tensor, level: float, random: torch.Generator) -> Tensor:
    """A share of the pixels turned black or white."""
    hit, white = (torch.rand(x.shape, generator=random) for _ in range(2))
    return torch.where(hit < level, (white < 0.5).to(x), x)


def contrast(x: Tensor, level: float, random: torch.Generator) -> Tensor:
    """The share of the contrast that is taken away."""
    mean = x.mean((-1, -2), keepdim=True)
    return mean + (1 - level) * (x - mean)


def blur(x: Tensor, level: float, random: torch.Generator) -> Tensor:
    """Each pixel spread by a normal distribution of this width, in pixels."""
    place = torch.arange(8.0)
    weight = torch.exp(-0.5 * ((place[:, None] - place) / max(level, 1e-3)) ** 2)
    weight = weight / weight.sum(-1, keepdim=True)
    return weight @ x @ weight.mT


NOISES: dict[str, tuple[Noise, tuple[float, ...], str]] = {
    "Gaussian noise": (gaussian, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), "standard deviation (range of a pixel: 1)"),
    "impulse noise": (impulse, (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4), "share of the pixels"),
    "less contrast": (contrast, (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8), "share of the contrast taken away"),
    "blur": (blur, (0.0, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4), "width (pixels)"),
}


def measured(seeds: int, epochs: int, draws: int) -> dict[str, Any]:
    """Accuracies on the 360 digits that each seed leaves out, and what λ has become."""
    accuracy = {name: torch.zeros(len(KINDS), seeds, len(levels)) for name, (_, levels, _) in NOISES.items()}
    damping: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for i, kind in enumerate(KINDS):
        for seed in range(seeds):
            data = Digits.load(seed)
            model = trained(network(kind, seed), data, epochs)
            damping[kind].append(
                torch.stack([block.damping for block in model.children() if isinstance(block, sx.nn.Damped)]).detach()
            )
            for name, (noise, levels, _) in NOISES.items():
                accuracy[name][i, seed] = torch.stack([share(model, data, noise, level, seed, draws) for level in levels])
            print(f"{kind}, seed {seed}: {float(accuracy['blur'][i, seed, 0]):.1%} of the clean digits", flush=True)
    return {"accuracy": accuracy, "damping": {kind: torch.stack(found) for kind, found in damping.items()}}


@torch.no_grad()
def share(model: nn.Module, data: Digits, noise: Noise, level: float, seed: int, draws: int) -> Tensor:
    """Of the unseen digits that are read correctly; the noise is the same for all kinds of networks."""
    random = torch.Generator().manual_seed(seed)
    images, labels = data.images[data.test], data.labels[data.test]
    times = draws if noise in (gaussian, impulse) else 1  # the others draw nothing
    return torch.stack([(model(noise(images, level, random)).argmax(-1) == labels).float().mean() for _ in range(times)]).mean()


def tell(found: dict[str, Any]) -> None:
    """Means over the seeds with standard errors, and how far each kind is above the residual network of the same seed."""
    for name, accuracy in found["accuracy"].items():
        print(f"{name}: accuracy in % at the levels {', '.join(f'{level:g}' for level in NOISES[name][1])}")
        for kind, own in zip(KINDS, accuracy, strict=True):
            print(f"  {kind:>22}: {pairs(100 * own)}")
        for kind, own in zip(KINDS, accuracy, strict=True):
            if kind != RESIDUAL:
                print(f"  {kind:>22} above the residual: {pairs(100 * (own - accuracy[0]))}")
    for kind, damping in found["damping"].items():
        print(f"λ, {kind}: {pairs(damping, 3)}")


def pairs(values: Tensor, digits: int = 1) -> str:
    """Mean ± standard error over the seeds, of each column."""
    mean, error = values.mean(0), deviation(values)
    return ", ".join(f"{m:.{digits}f} ± {e:.{digits}f}" for m, e in zip(mean, error, strict=True))


def deviation(values: Tensor) -> Tensor:
    """Standard error of the mean over the seeds, the first axis."""
    return values.std(0) / len(values) ** 0.5


@styled
def figure(found: dict[str, Any]) -> Figure:
    """Accuracy against each noise, and the learned λ of each block."""
    whole = Figure(figsize=(12.4, 7.4), layout="constrained")
    panels = whole.subplots(2, 3).flatten()
    for axes in panels:
        axes.tick_params(**TICKS)
    for axes, (name, accuracy) in zip((panels[0], panels[1], panels[3], panels[4]), found["accuracy"].items(), strict=True):
        against_noise(axes, name, accuracy)
    above(panels[2], found["accuracy"])
    learned(panels[5], found["damping"])
    panels[0].legend(loc="lower left")
    return whole


def against_noise(axes: Axes, name: str, accuracy: Tensor) -> None:
    """One noise."""
    _, levels, unit = NOISES[name]
    for i, kind in enumerate(KINDS):
        look, own = series(i), 100 * accuracy[i]
        beside = torch.tensor(levels) + 0.008 * (i - 1.5) * levels[-1]  # so that bars do not hide each other
        axes.errorbar(beside, own.mean(0), BAR * deviation(own), label=kind, linestyle=look.line, **look.marks)
    axes.set_title(name.capitalize() if name.islower() else name)
    axes.set_xlabel(unit)
    axes.set_ylabel("digits read correctly (%)")


def above(axes: Axes, accuracy: dict[str, Tensor]) -> None:
    """Mean over the levels of each noise, against the residual network of the same seed."""
    for i, kind in enumerate(KINDS):
        if kind == RESIDUAL:
            continue
        gains = torch.stack([100 * (own[i] - own[0])[:, 1:].mean(-1) for own in accuracy.values()], dim=1)
        place = torch.arange(len(accuracy)) + 0.16 * (i - 2)
        axes.errorbar(place, gains.mean(0), BAR * deviation(gains), linestyle="none", **series(i).marks)
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xticks(range(len(accuracy)), [name.replace(" ", "\n") for name in accuracy])
    axes.set_title("Above the residual network")
    axes.set_ylabel("more digits of the same seed,\nmean over the levels (%)")


def learned(axes: Axes, damping: dict[str, Tensor]) -> None:
    """λ of each block."""
    for i, (kind, own) in enumerate(damping.items()):
        if "learned" in kind:
            look = series(i)
            beside = torch.arange(1, BLOCKS + 1) + 0.16 * (i - 1.5)
            axes.errorbar(beside, own.mean(0), BAR * deviation(own), label=kind, linestyle=look.line, **look.marks)
    low, high = START
    axes.axhspan(low, high, color="#e9ebee", zorder=0)
    axes.text(0.7, high, "where λ began", va="bottom", **NOTE)
    axes.set_ylim(bottom=0)
    axes.set_title("What λ has become")
    axes.set_xlabel("block")
    axes.set_ylabel("λ")


if __name__ == "__main__":
    main()
