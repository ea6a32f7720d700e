"""CIFAR-10 under attack, after Celledoni et al. 2023, from a local folder of the data set; no network is asked for anything.

Run it:  python examples/cifar10.py --data FOLDER [--networks NAME …] [--margins M …] [--images N] [--out DIR]
         python examples/cifar10.py --quick [--out DIR]      on generated images in the same format, in seconds

Of the paper: widths 32, 64 and 128 with four convolutions each, margin loss with m of 0.07, 0.15 or 0.3, SGD at a rate of 10⁻²
with momentum 0.9, divided by 10 every 30 epochs, 100 epochs of batches of 128, images shifted by up to 4 pixels and mirrored, two
contractions after each expansion, a fresh start at a fifth of the rate where the loss is no longer finite, and the first 1,024
test images. Otherwise: convolutions are orthogonal by construction and padded circularly, pixels from 0 to 1 are
not normalised, so that the factor 1 is in their unit; the attack has restarts and several losses, and certified accuracy stands
beside it. Every epoch is saved; a run that was stopped goes on from there when it is started again.
"""

import argparse
import copy
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.progress import watched_count
from separatrix.loading.cifar10 import CLASSES, NAMES, RECORD, SHAPE, TEST, TRAIN, cifar10
from separatrix.plot.adversarial import draw_adversarial
from separatrix.plot.robustness import draw_robustness, finish
from separatrix.plot.style import TICKS, styled

MARGINS = (0.07, 0.15, 0.3)
KINDS = ("alternating", "non_expansive", "residual")
MOMENTUM, EVERY, SHIFT = 0.9, 30, 4
SLOWER, STARTS = 5, 4  # how often a network is trained at most, each time at a fifth of the rate before
SUBSTEPS = 2  # contractions after each expansion
LADDER = tuple(0.05 * 1.2**i for i in range(30))  # ε that are tried for the picture
CONVOLUTIONS = 4  # in each stage: one in each non-expansive block, two in each other
QUICK_IMAGES = 24  # in each of the generated files


@dataclass(frozen=True)
class Plan:
    """How large, how long, on how many images."""

    widths: tuple[int, ...] = (32, 64, 128)
    epochs: int = 100
    batch: int = 128
    rate: float = 1e-2
    images: int = 1024
    options: dict[str, Any] = field(default_factory=dict)
    ladder: tuple[float, ...] = LADDER


FEW = {"radii": (0.1, 0.3, 1.0), "steps": 5, "restarts": 2}
QUICK = Plan(widths=(4, 4, 4), epochs=2, batch=16, images=16, options=FEW, ladder=LADDER[::6])


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train what is not trained yet, attack, and save `cifar10.png`; the results by network and margin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder cifar-10-batches-bin (the binary version)")
    parser.add_argument("--networks", nargs="+", choices=KINDS, default=list(KINDS), help="which to train")
    parser.add_argument("--margins", nargs="+", type=float, default=None, help="of the loss; default 0.07 0.15 0.3")
    parser.add_argument("--images", type=int, default=None, help="test images to evaluate, of 10,000; default 1024")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--runs", type=Path, default=None, help="folder of checkpoints and results; default OUT/cifar10-runs")
    parser.add_argument("--quick", action="store_true", help="narrow networks on a few generated images, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.data is None and not asked.quick:
        parser.error("--data FOLDER says where CIFAR-10 is; or --quick, which needs none.")
    if asked.images is not None and asked.images < 1:
        parser.error(f"--images is {asked.images}; at least one is evaluated.")
    plan = QUICK if asked.quick else Plan()
    plan = plan if asked.images is None else replace(plan, images=asked.images)
    margins = asked.margins or (MARGINS[1:2] if asked.quick else MARGINS)
    with tempfile.TemporaryDirectory() as scratch:
        data = asked.data or generated(Path(scratch) / "data")
        cifar10(data, train=False)  # a file that is missing is told before training, not after it
        runs = asked.runs or (Path(scratch) / "runs" if asked.quick else asked.out / "cifar10-runs")
        runs.mkdir(parents=True, exist_ok=True)
        found = {(kind, m): studied(kind, m, data, runs, plan, asked.device) for m in margins for kind in asked.networks}
        picture = deceived(found, margins[0], data, asked.device, plan.ladder)
    figure(found, margins, picture).savefig(asked.out / "cifar10.png", dpi=120)
    return {"results": {key: result for key, (_, result) in found.items()}, "picture": picture}


def network(kind: str, widths: tuple[int, ...], seed: int = 0) -> nn.Module:
    """One of the three, untrained, on pixels from 0 to 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "residual":
            return sx.nn.ResidualConvNet(SHAPE[0], CLASSES, image_size=SHAPE[1], widths=widths, blocks=CONVOLUTIONS // 2)
        blocks = CONVOLUTIONS if kind == "non_expansive" else CONVOLUTIONS // 2
        options = {"image_size": SHAPE[1], "widths": widths, "blocks": blocks, "substeps": SUBSTEPS}
        return sx.nn.LipschitzConvNet(SHAPE[0], CLASSES, kind=kind, **options)


def studied(kind: str, margin: float, data: Path, runs: Path, plan: Plan, device: str) -> tuple[nn.Module, sx.results.Robustness]:
    """A trained network and its robustness, from the folder of runs where they are."""
    name = f"{kind}-{margin:g}"
    model = trained(network(kind, plan.widths).to(device), data, runs / f"{name}.safetensors", margin, plan, name)
    kept = runs / f"{name}-{plan.images}.zarr"
    if not kept.exists():
        images, labels = cifar10(data, train=False)
        shown = images[: plan.images].to(device) / 255
        sx.bounds.robustness(model, shown, labels[: plan.images].to(device), progress=True, **plan.options).save(kept)
    result = sx.results.Robustness.load(kept)
    print(f"{name}: {result}", flush=True)
    return model, result


def trained(model: nn.Module, data: Path, path: Path, margin: float, plan: Plan, name: str) -> nn.Module:
    """Epochs of SGD from where the checkpoint stands; where the loss is no longer finite, all of them again more slowly."""
    beginning, optimiser = copy.deepcopy(model.state_dict()), sgd(model)
    done, rate = resumed(model, optimiser, path) or (0, plan.rate)
    while done < plan.epochs:
        examples = cifar10(data, train=True)
        if learned(model, optimiser, examples, sx.nn.MarginLoss(margin), path, replace(plan, rate=rate), done, name):
            break
        done, rate = 0, rate / SLOWER
        if rate < plan.rate / SLOWER ** (STARTS - 0.5):
            raise sx.errors.DivergedError(f"the loss of {name} was not finite in {STARTS} trainings.\nTrain it at a smaller rate.")
        print(f"{name}: the loss is no longer finite; it is trained again, at a rate of {rate:g}", flush=True)
        model.load_state_dict(beginning)
        optimiser = sgd(model)
    return model.eval()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser, whose rate is set in each epoch."""
    return torch.optim.SGD(model.parameters(), momentum=MOMENTUM)


def learned(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    examples: tuple[Tensor, Tensor],
    loss: nn.Module,
    path: Path,
    plan: Plan,
    done: int,
    name: str,
) -> bool:
    """The epochs that are left, each saved when it is done; whether the loss stayed finite."""
    (images, labels), device = examples, next(model.parameters()).device
    model.train()
    for tick in watched_count(plan.epochs - done, f"Training {name}, epoch", True):
        epoch = done + tick.index
        optimiser.param_groups[0]["lr"] = plan.rate * 0.1 ** (epoch // EVERY)
        random = torch.Generator().manual_seed(epoch)
        for batch in torch.randperm(len(images), generator=random).split(plan.batch):
            optimiser.zero_grad()
            value = loss(model(varied(images[batch] / 255, random).to(device)), labels[batch].to(device))
            value.backward()
            optimiser.step()
        if not torch.isfinite(value):
            return False
        keep(model, optimiser, path, epoch + 1, plan.rate)
    return True


def varied(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image shifted by up to 4 pixels over a black border, half of them mirrored."""
    count, side = len(images), images.shape[-1]
    padded = nn.functional.pad(images, [SHIFT] * 4)
    down, across = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=random) + torch.arange(side)
    mirrored = torch.rand(count, 1, generator=random) < 0.5
    across = torch.where(mirrored, across.flip(-1), across)
    which = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def keep(model: nn.Module, optimiser: torch.optim.Optimizer, path: Path, epoch: int, rate: float) -> None:
    """Weights, momenta, the first rate and the epoch in one file, which takes the place of the last one when it is whole."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"momentum.{i}": state["momentum_buffer"] for i, state in optimiser.state_dict()["state"].items()}
    tensors["rate"] = torch.tensor(rate, dtype=torch.float64)
    fresh = path.with_suffix(".new")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh, metadata={"epoch": str(epoch)})
    fresh.replace(path)


def resumed(model: nn.Module, optimiser: torch.optim.Optimizer, path: Path) -> tuple[int, float] | None:
    """Load a checkpoint where there is one; how many epochs are done, and at which first rate."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt", device=str(next(model.parameters()).device)) as held:
        tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - the file is no dictionary
        epoch = int(held.metadata()["epoch"])
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    state = optimiser.state_dict()
    momenta = {int(name.split(".")[1]): {"momentum_buffer": t} for name, t in tensors.items() if name.startswith("momentum.")}
    optimiser.load_state_dict({**state, "state": momenta})
    return epoch, float(tensors["rate"])


def deceived(
    found: dict[tuple[str, float], Any], margin: float, data: Path, device: str, ladder: tuple[float, ...]
) -> sx.results.AdversarialImages:
    """The first test image that all networks of one margin read right, and what deceives each; else the first of all."""
    images, labels = cifar10(data, train=False)
    models = {kind.replace("_", "-"): model for (kind, m), (model, _) in found.items() if m == margin}
    right = torch.stack([result.read == result.labels for (_, m), (_, result) in found.items() if m == margin]).all(0)
    i = int(right.long().argmax())
    shown, label = images[i : i + 1].to(device) / 255, labels[i : i + 1].to(device)
    return sx.bounds.adversarial_images(models, shown, label, radii=ladder, steps=10, restarts=2)


@styled
def figure(
    found: dict[tuple[str, float], Any], margins: tuple[float, ...] | list[float], picture: sx.results.AdversarialImages
) -> Figure:
    """The curves of each margin; beside them the first test image against each network of the first."""
    whole = Figure(figsize=(5 * len(margins) + 7.6, 1.2 + 2.2 * len(picture.names)), layout="constrained")
    left, right = whole.subfigures(1, 2, width_ratios=(5 * len(margins), 7.6))
    for axes, margin in zip(left.subplots(1, len(margins), squeeze=False)[0], margins, strict=True):
        axes.tick_params(**TICKS)
        for number, (kind, (_, result)) in enumerate((k, v) for (k, m), v in found.items() if m == margin):
            draw_robustness(axes, result, name=kind.replace("_", "-"), number=number)
        finish(axes)
        axes.set_title(f"margin {margin:g}, {result.count:,} test images")
    draw_adversarial(right, picture, classes=NAMES)
    return whole


def generated(folder: Path) -> Path:
    """A folder in the format of the data set, whose classes are ten colours under noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in (*TRAIN, *TEST):
        labels = np.arange(QUICK_IMAGES) % CLASSES
        angle = 2 * np.pi * labels / CLASSES
        color = np.stack([np.cos(angle), np.sin(angle), np.cos(2 * angle)], -1)[:, :, None, None]
        images = 128 + 80 * color + random.normal(0, 20, (QUICK_IMAGES, *SHAPE))
        records = np.concatenate([labels[:, None], images.clip(0, 255).reshape(QUICK_IMAGES, RECORD - 1)], -1)
        records.astype(np.uint8).tofile(folder / name)
    return folder


if __name__ == "__main__":
    try:
        main()
    except sx.SeparatrixError as error:
        raise SystemExit(f"cifar10.py: {error}") from None
