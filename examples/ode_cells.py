"""Recurrent cells from ODEs beside a GRU: digits read row by row, then noise; what is left of them, and the spectra.

Run it:  python examples/ode_cells.py [--quick] [--out DIR]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import separatrix as sx
from separatrix.plot.style import BAR, INK, NOTE, SERIES, canvas, mark_zero, styled

ROWS, CLASSES, UNITS = 8, 10, 32
LENGTH = 100  # steps of a sequence: the rows of a digit, then noise
NOISE = 0.3  # standard deviation; that of the pixels is 0.38
TRAIN = 1400  # digits, of 1,797
BATCH, RATE, CLIP = 32, 3e-3, 1.0  # digits a step of Adam, its rate, and the largest norm of a network's gradient
TEST_EVERY = 50  # steps of Adam
LINEAR = 0.01  # nats per step, within which the axis of the exponents is linear
STREAMS = 2  # independent drives that each network's spectrum is averaged over

KINDS: dict[str, Callable[[], nn.Module]] = {
    "GRU": lambda: nn.GRUCell(ROWS, UNITS),
    "antisymmetric": lambda: sx.nn.AntisymmetricRNN(ROWS, UNITS, dt=0.1, gamma=0.01),
    "Lipschitz": lambda: sx.nn.LipschitzRNN(ROWS, UNITS, dt=0.1),
    "coRNN": lambda: sx.nn.CoRNN(ROWS, UNITS, dt=0.1, gamma=1.0, epsilon=0.5),
    "LEM": lambda: sx.nn.LEM(ROWS, UNITS, dt=0.1),
}


class Reader(nn.Module):
    """A recurrent network, and a linear readout of what it gives at the end of a sequence.

    Args:
        core: a layer of `sx.nn`, or a `nn.GRUCell`, whose step is written out: vmap does not go into PyTorch's own.
    """

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core, self.head = core, nn.Linear(UNITS, CLASSES)

    def forward(self, sequence: Tensor) -> Tensor:
        """(time, batch, rows) → (batch, classes)."""
        if not isinstance(self.core, nn.GRUCell):
            return self.head(self.core(sequence)[0][-1])
        h = sequence.new_zeros(sequence.shape[1], UNITS)
        for u in nn.functional.linear(sequence, self.core.weight_ih, self.core.bias_ih):
            r, z, n = u.chunk(3, dim=-1)
            from_r, from_z, from_n = nn.functional.linear(h, self.core.weight_hh, self.core.bias_hh).chunk(3, dim=-1)
            r, z = (r + from_r).sigmoid(), (z + from_z).sigmoid()
            n = (n + r * from_n).tanh()
            h = n + z * (h - n)
        return self.head(h)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, measure, draw and save `ode_cells.png`; accuracies, spectra, bounds and gradients of every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds and hardly any training, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the picture")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)

    size = {"seeds": 2, "iterations": 2, "steps": 60} if asked.quick else {"seeds": 5, "iterations": 400, "steps": 1000}
    found = {kind: followed(kind, **size) for kind in KINDS}
    figure(found).savefig(asked.out / "ode_cells.png", dpi=120)
    return found


def followed(kind: str, *, seeds: int, iterations: int, steps: int) -> dict[str, Any]:
    """One kind of network, measured before training and after it, over its seeds."""
    models = []
    for seed in range(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.append(Reader(KINDS[kind]()))
    found: dict[str, Any] = {"before": measured(models, steps)}
    found["accuracy"], found["at"] = trained(models, iterations)
    found["after"] = measured(models, steps)
    tell(kind, found, sum(weight.numel() for weight in models[0].core.parameters()))
    return found


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images with values about 0, (count, rows, pixels), and classes: to learn from, and to test on."""
    bunch = load_digits()
    images, classes = torch.tensor(bunch.images / 16 - 0.3, dtype=torch.float32), torch.tensor(bunch.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order[:TRAIN]], classes[order[:TRAIN]], images[order[TRAIN:]], classes[order[TRAIN:]]


def padded(images: Tensor, generator: torch.Generator) -> Tensor:
    """(time, count, pixels): the rows of each image, then noise that is never the same."""
    noise = NOISE * torch.randn(len(images), LENGTH - ROWS, ROWS, generator=generator)
    return torch.cat([images, noise], dim=1).transpose(0, 1)


def trained(models: list[nn.Module], iterations: int) -> tuple[Tensor, Tensor]:
    """Train all networks at once, each on batches of its own; test accuracies, (tests, seeds), and the steps they are of."""
    images, classes, test_images, test_classes = digits()
    random = torch.Generator().manual_seed(1)
    test = padded(test_images, torch.Generator().manual_seed(2))
    weights, _ = stack_module_state(models)
    optimiser = torch.optim.Adam(weights.values(), lr=RATE)

    def outputs(sequences: Tensor) -> Tensor:
        return vmap(lambda own, u: functional_call(models[0], own, (u,)))(weights, sequences)

    at, accuracy = [], []
    for iteration in range(iterations + 1):
        if iteration % TEST_EVERY == 0 or iteration == iterations:
            with torch.no_grad():
                right = outputs(test.expand(len(models), *test.shape)).argmax(-1) == test_classes
            print(f"  step {iteration}: {right.double().mean():.1%}", flush=True)
            at.append(iteration)
            accuracy.append(right.double().mean(-1))
        chosen = torch.randint(TRAIN, (len(models), BATCH), generator=random)
        sequences = torch.stack([padded(images[own], random) for own in chosen])
        loss = nn.functional.cross_entropy(outputs(sequences).flatten(0, 1), classes[chosen].flatten(), reduction="sum") / BATCH
        optimiser.zero_grad()
        loss.backward()
        clip([weight.grad for weight in weights.values()])
        if iteration < iterations:
            optimiser.step()
    for i, model in enumerate(models):
        model.load_state_dict({name: weight[i].detach() for name, weight in weights.items()})
    return torch.stack(accuracy), torch.tensor(at)


def clip(gradients: list[Tensor]) -> None:
    """Shorten each network's gradient to the largest norm that is allowed; networks are the first axis."""
    norm = sum(gradient.flatten(1).square().sum(1) for gradient in gradients).sqrt()
    for gradient in gradients:
        gradient.mul_((CLIP / norm).clamp(max=1).reshape(-1, *[1] * (gradient.ndim - 1)))


def measured(models: list[nn.Module], steps: int) -> dict[str, Any]:
    """Spectra under an endless stream of sequences; and how gradients go back from the end of a sequence towards the digit."""
    _, _, images, _ = digits()
    test = padded(images, torch.Generator().manual_seed(2)).double()
    cores = [model.core for model in models]
    stream = sx.Stream(test.transpose(0, 1), copies=STREAMS)
    spectrum = sx.lyapunov_spectrum(sx.Recurrent(cores, stream), steps=steps, settle=steps // 4)
    along = sx.Recurrent(cores, test[:, :STREAMS])
    gradients = sx.gradient_propagation(along, settle=ROWS, lags=range(0, LENGTH - ROWS, 7), k=1)
    bounds = [cores[i].cells[0].exponent_bounds() for i in range(len(cores))] if hasattr(cores[0], "cells") else None
    return {"spectrum": spectrum, "gradients": gradients, "bounds": bounds}


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Over seeds, the last axis: the mean, and its standard error."""
    return values.mean(-1), values.std(-1) / values.shape[-1] ** 0.5


def by_seed(values: Tensor) -> Tensor:
    """(…, streams, seeds) → (…, seeds): the mean over streams."""
    return values.mean(-2)


def tell(kind: str, found: dict[str, Any], parameters: int) -> None:
    """What a kind of network reached, and its exponents."""
    accuracy = said(found["accuracy"][-1], ".3f")
    print(f"{kind}, {parameters:,} parameters: {accuracy} of test digits after {int(found['at'][-1])} steps of Adam")
    for when in ("before", "after"):
        measure = found[when]
        exponents = by_seed(measure["spectrum"].exponents.movedim(-1, 0))  # (k, seeds)
        print(f"  {when}: exponents from {said(exponents[0])} to {said(exponents[-1])}, sum {said(exponents.sum(0), '.3f')}")
        if measure["bounds"]:
            low, high = torch.tensor(measure["bounds"]).T
            print(f"    proven between {low.min():.3f} and {high.max():.3f}")
        gradients = measure["gradients"]
        print(
            f"    ln of the largest gradient over {int(gradients.lags[-1])} steps: {said(by_seed(gradients.log_norm[-1]), '.2f')}"
        )


def said(values: Tensor, form: str = ".4f") -> str:
    """A mean over seeds and its standard error."""
    mean, error = mean_and_error(values)
    return f"{mean:{form}} ± {error:{form}}"


@styled
def figure(found: dict[str, dict[str, Any]]) -> Figure:
    """Accuracy, gradients, and the spectra before and after training."""
    picture, panels = canvas(2, 2, width=4.8, height=3.5)
    draw_accuracy(panels[0, 0], found)
    draw_gradients(panels[0, 1], found)
    for axes, when in zip(panels[1], ("before", "after"), strict=True):
        draw_spectra(axes, found, when)
    for axes in panels[1]:
        axes.set_yscale("symlog", linthresh=LINEAR)
        axes.set(ylim=(-2, 0.1), yticks=[-1, -0.1, -LINEAR, 0, LINEAR, 0.1])
        axes.yaxis.set_major_formatter("{x:g}")
    return picture


def draw_accuracy(axes: Axes, found: dict[str, dict[str, Any]]) -> None:
    """Test accuracy over training."""
    for look, (kind, own) in zip(SERIES, found.items(), strict=True):
        mean, error = mean_and_error(100 * own["accuracy"])
        axes.errorbar(own["at"], mean, BAR * error, label=kind, linestyle=look.line, markersize=3.5, **look.marks)
    axes.axhline(100 / CLASSES, color=INK, linewidth=0.8)
    axes.annotate("line: chance", (0.98, 0.02), xycoords="axes fraction", ha="right", **NOTE)
    axes.set(xlabel="steps of Adam", ylabel="test digits that are told (%)", ylim=(0, 100))
    axes.set_title(f"Digits, then {LENGTH - ROWS} steps of noise")
    axes.legend(loc="upper left", ncols=2)


def draw_gradients(axes: Axes, found: dict[str, dict[str, Any]]) -> None:
    """The largest singular value of the Jacobian over lags: thin before training, thick after it."""
    for look, own in zip(SERIES, found.values(), strict=True):
        for when, width in (("before", 0.8), ("after", 1.8)):
            gradients = own[when]["gradients"]
            mean, error = mean_and_error(by_seed(gradients.log_norm))
            axes.plot(gradients.lags, mean, color=look.color, linestyle=look.line, linewidth=width)
            axes.fill_between(gradients.lags, mean - BAR * error, mean + BAR * error, color=look.color, alpha=0.12, linewidth=0)
    mark_zero(axes)
    axes.set(xlabel="lag (steps)", ylabel="ln of the largest gradient (nats)")
    axes.set_title("Gradients back to the digit")
    axes.annotate("thin: before training, thick: after", (0.02, 0.04), xycoords="axes fraction", **NOTE)


def draw_spectra(axes: Axes, found: dict[str, dict[str, Any]], when: str) -> None:
    """All exponents, by their place in the spectrum."""
    for look, own in zip(SERIES, found.values(), strict=True):
        exponents = by_seed(own[when]["spectrum"].exponents.movedim(-1, 0))
        place = (torch.arange(len(exponents)) + 0.5) / len(exponents)
        mean, error = mean_and_error(exponents)
        every = len(exponents) // 16
        axes.plot(place, mean, color=look.color, linestyle=look.line)
        axes.errorbar(place[::every], mean[::every], BAR * error[::every], linestyle="none", markersize=3.5, **look.marks)
    mark_zero(axes)
    axes.set(xlabel="place in the spectrum, of all exponents", ylabel="exponents (nats per step)")
    axes.set_title(f"Spectra {when} training")


if __name__ == "__main__":
    main()
