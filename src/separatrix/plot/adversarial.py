"""Adversarial images: an image, the perturbation and their sum, with the prediction of each network."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from separatrix.bounds.robustness.adversarial import AdversarialImages
from separatrix.core.errors import InputError
from separatrix.core.wording import plain
from separatrix.plot.runs import array
from separatrix.plot.style import INK, nothing_to_show, styled

SIDE = 2.0  # inches, of one image
TEXT = 0.62  # inches, of the lines below and above it
CAPTION = {"fontsize": 8}
CHANGE = "RdBu_r"  # blue takes away, red adds


def as_picture(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An image in Matplotlib's form: (H, W) grey, or (H, W, 3); a vector of h² numbers is read as h × h pixels."""
    if len(shape) == 1:
        side = round(shape[0] ** 0.5)
        shape = (side, side) if side**2 == shape[0] else (1, shape[0])
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 3 and shape[0] == 3:
        return np.moveaxis(values.reshape(shape), 0, -1)
    if len(shape) == 2:
        return values.reshape(shape)
    raise InputError(f"an image of shape {shape} cannot be drawn; expected (H, W), (1, H, W) or (3, H, W).")


def draw_adversarial(
    holder: Figure | SubFigure, found: AdversarialImages, *, i: int = 0, classes: Sequence[str] | None = None
) -> None:
    """Draw image i: one row per network with x, δ and x + δ, each with a caption below.

    Args:
        holder: a figure, or a part of one.
        found: the result to draw.
        i: index of the image.
        classes: names of the classes. Default: their numbers.
    """
    rows = len(found.names)
    panels = holder.subplots(rows, 3, squeeze=False)
    x, changes = array(found.images[i]), array(found.perturbations[:, i])
    known = changes[np.isfinite(changes)]
    most = max(float(np.abs(known).max()), 1e-12) if known.size else 1.0
    low, high = found.settings["bounds"] or (x.min(), x.max())

    def named(label: int) -> str:
        return "nothing" if label < 0 else classes[label] if classes else str(label)

    def readings(of: np.ndarray) -> str:
        return "\n".join(f"{name}: {named(int(label))}" for name, label in zip(found.names, of, strict=True))

    for row, (name, change) in enumerate(zip(found.names, changes, strict=True)):
        before, middle, after = panels[row]
        _show(before, as_picture(x, found.shape), low, high)
        before.set_title(f"x: {named(int(found.labels[i]))}" if row == 0 else "x")
        before.set_xlabel(readings(array(found.read[:, i])), **CAPTION)
        before.set_ylabel(f"against the\n{name} network")
        far = float(found.distances[row, i])
        if not 0 < far < np.inf:
            nothing_to_show(middle, "no attack succeeded" if far else "x itself is misclassified")
            after.set_axis_off()
            continue
        image = _show(middle, _signed(as_picture(change, found.shape)), -most, most, CHANGE)
        middle.set_title("δ")
        middle.set_xlabel(f"‖δ‖₂ = {plain(far)}")
        _show(after, as_picture((x + change).clip(low, high), found.shape), low, high)
        after.set_title("x + δ")
        after.set_xlabel(readings(array(found.misread[row, :, i])), **CAPTION)
        bar = holder.colorbar(image, ax=middle, shrink=0.75, pad=0.03)
        bar.set_label("change of a pixel", fontsize=8)
        bar.ax.tick_params(labelsize=7)


def _signed(change: np.ndarray) -> np.ndarray:
    """The change in the channel that changes most."""
    if change.ndim == 2:
        return change
    most = np.abs(change).argmax(-1)
    return np.take_along_axis(change, most[..., None], -1)[..., 0]


def _show(axes: Axes, picture: np.ndarray, low: float, high: float, colors: str = "gray") -> object:
    """Draw one image without ticks, from its smallest value to its largest."""
    if picture.ndim == 3:  # red, green and blue are shown as they are, from 0 to 1
        picture = ((picture - low) / max(high - low, 1e-12)).clip(0, 1)
    image = axes.imshow(picture, cmap=colors, vmin=low, vmax=high, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=INK, linewidth=0.6)
    return image


@styled
def adversarial_figure(found: AdversarialImages, *, i: int = 0, classes: Sequence[str] | None = None) -> Figure:
    """Image i of the result: x, δ and x + δ for each network."""
    rows = len(found.names)
    figure = Figure(figsize=(3 * SIDE + 1.6, rows * (SIDE + TEXT)), layout="constrained")
    draw_adversarial(figure, found, i=i, classes=classes)
    each = "; ".join(f"{name}: ‖δ‖₂ = {plain(float(far))}" for name, far in zip(found.names, found.distances[:, i], strict=True))
    figure.set_label(f"An image, the change with which each network misclassifies it, and their sum. {each}.")
    return figure
