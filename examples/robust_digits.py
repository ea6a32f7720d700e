"""Digits read under attack: a network that is 1-Lipschitz by construction, and an unconstrained one of equal size.

Run it:  python examples/robust_digits.py [--quick] [--out DIR]
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx
from separatrix.demos.handwriting import BATCH, Digits
from separatrix.plot.adversarial import draw_adversarial
from separatrix.plot.robustness import draw_robustness, finish
from separatrix.plot.style import TICKS, series, styled

PIXELS, CLASSES, WIDTH, EPOCHS = 64, 10, 128, 40
MATRICES = 4  # of the size WIDTH, between the first and the last layer: one in each non-expansive block, two in each residual one
MARGIN = 1.1  # in pixels, whose range is 1; the nearest digits of two classes are about 1.9 apart, and 1.1 of margin asks for 1.6
BROKEN = 0.2  # the accuracy below which the unconstrained network counts as broken
RATES = {"constrained": 2e-2, "unconstrained": 2e-3}  # of learning: weights of norm 1 turn more slowly than free ones
RADII = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)
SHOWN = 12  # digits of which the most typical one is in the picture


@dataclass(frozen=True)
class Pair:
    """The two networks of one seed, the digits they have not seen, and how robust they are."""

    models: dict[str, nn.Module]
    images: Tensor
    labels: Tensor
    robust: dict[str, sx.results.Robustness]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, attack, draw and save `robust_digits.png`; the pairs, the ε that breaks the unconstrained one, and the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, half the training, fewer radii and shorter attacks")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    seeds, radii, shown, epochs = ((1,), RADII[5:8], 2, EPOCHS // 2) if asked.quick else (range(5), RADII, SHOWN, EPOCHS)
    pairs = [made(seed, radii, epochs) for seed in seeds]
    for name, found in pairs[0].robust.items():
        print(f"{name}: {found}")
    told = compared(pairs)
    print(
        f"over {len(seeds)} seeds, at ε = {told['radius']:.3g}, mean (least … most):\n"
        + "\n".join(f"{what} {mean:.1%} ({low:.1%} … {high:.1%})" for what, (mean, low, high) in told["share"].items())
    )
    effort = {"steps": 5, "restarts": 2} if asked.quick else {}
    picture = sx.bounds.adversarial_images(pairs[0].models, pairs[0].images[:shown], pairs[0].labels[:shown], **effort)
    print(picture)
    figure(pairs, picture, told["radius"]).savefig(asked.out / "robust_digits.png", dpi=120)
    return {"pairs": pairs, "picture": picture, **told}


def made(seed: int, radii: tuple[float, ...], epochs: int) -> Pair:
    """Both networks trained on the same 1,437 digits with the same loss, attacked on the other 360."""
    models: dict[str, nn.Module] = {}
    for name in RATES:
        data = Digits.load(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models[name] = trained(untrained(name), data, RATES[name], epochs)
    images, labels = data.images[data.test].flatten(1), data.labels[data.test]
    robust = {name: sx.bounds.robustness(model, images, labels, radii=radii) for name, model in models.items()}
    return Pair(models, images, labels, robust)


def untrained(name: str) -> nn.Module:
    """75,534 parameters without a constraint on any of them, or 75,530."""
    if name == "constrained":
        return sx.nn.LipschitzNet(PIXELS, CLASSES, hidden=WIDTH, blocks=MATRICES, kind="non_expansive")
    return sx.nn.ResidualNet(PIXELS, CLASSES, hidden=WIDTH, blocks=MATRICES // 2)


def trained(model: nn.Module, data: Digits, rate: float, epochs: int) -> nn.Module:
    """By Adam on the margin loss, with a rate that rises and falls in one cycle."""
    loss, images = sx.nn.MarginLoss(MARGIN), data.images.flatten(1)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    batches = math.ceil(len(data.train) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches)
    for _ in range(epochs):
        for batch in data.train[torch.randperm(len(data.train), generator=data.generator)].split(BATCH):
            optimiser.zero_grad()
            loss(model(images[batch]), data.labels[batch]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def compared(pairs: list[Pair]) -> dict[str, Any]:
    """The smallest ε at which the unconstrained networks' mean accuracy is below 20 %; mean, least and most of each share there."""
    left = {name: torch.stack([pair.robust[name].empirical_accuracy for pair in pairs]) for name in RATES}
    at = int((left["unconstrained"].mean(0) < BROKEN).nonzero()[0, 0])
    constrained = [pair.robust["constrained"] for pair in pairs]
    shares = {
        "unconstrained, clean": [pair.robust["unconstrained"].clean for pair in pairs],
        "unconstrained, under attack": left["unconstrained"][:, at].tolist(),
        "constrained, clean": [found.clean for found in constrained],
        "constrained, under attack": left["constrained"][:, at].tolist(),
        "constrained, certified": [float(found.certified_accuracy[at]) for found in constrained],
        "constrained, under 10 steps up the cross-entropy": [
            float(usual(pair, float(constrained[0].radii[at])).empirical_accuracy) for pair in pairs
        ],
    }
    share = {what: (sum(values) / len(values), min(values), max(values)) for what, values in shares.items()}
    return {"radius": float(constrained[0].radii[at]), "share": share}


def usual(pair: Pair, radius: float) -> sx.results.Robustness:
    """The constrained network under the attack with which such networks are often reported: PGD-10, one start, cross-entropy."""
    options = {"radii": [radius], "attack": "cross entropy", "steps": 10, "restarts": 1}
    return sx.bounds.robustness(pair.models["constrained"], pair.images, pair.labels, **options)


@styled
def figure(pairs: list[Pair], picture: sx.results.AdversarialImages, radius: float) -> Figure:
    """The first seed's curves with their errors, the others' without; beside them what it takes to deceive each network."""
    whole = Figure(figsize=(12.4, 5.6), layout="constrained")
    left, right = whole.subfigures(1, 2, width_ratios=(1, 1.12))
    axes = left.subplots()
    axes.tick_params(**TICKS)
    for number, name in enumerate(RATES):
        draw_robustness(axes, pairs[0].robust[name], name=name, number=number)
        for other in pairs[1:]:
            found = other.robust[name]
            axes.plot(found.radii, 100 * found.empirical_accuracy, color=series(number).color, linewidth=0.6, alpha=0.5)
    finish(axes)
    axes.legend(loc="lower left")
    axes.axvline(radius, color="#646a73", linewidth=0.8, linestyle=":")
    axes.annotate(f"ε = {radius:.3g}", (radius, 100), xytext=(4, -2), textcoords="offset points", fontsize=8, va="top")
    axes.set_title("360 digits neither network has seen")
    draw_adversarial(right, picture, i=typical(picture))
    return whole


def typical(picture: sx.results.AdversarialImages) -> int:
    """The digit whose distances are nearest to the median ones."""
    middle = picture.distances.median(1, keepdim=True).values
    return int((picture.distances / middle).log().square().sum(0).argmin())


if __name__ == "__main__":
    main()
