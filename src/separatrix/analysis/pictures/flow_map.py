"""A sheet of inputs carried through a network's layers, or a system's steps: where it is stretched, bent and folded."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separatrix.analysis.depth.outputs import run_layers
from separatrix.analysis.lyapunov.finite_time import grid
from separatrix.analysis.pictures.plane import in_own_unit, principal_axes
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.evolve import begin, check_steps
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

ACROSS = 41  # states along each side of a default sheet
SHOWN = 8  # pictures of a default run of a system, besides the first
TIME = 2  # that a flow takes for them


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FlowMap(Result):
    r"""Images of a batch of inputs, a sheet where it is a grid, after each layer. Layer 0 is the input itself.

    A layer of one or two numbers is shown as it is, a wider one in its two leading principal components over the sheet; each
    picture is then turned onto the one before by the orthogonal matrix R that brings it nearest (Procrustes), so that what is seen
    to move is not the choice of axes:  min ‖(X − x̄) P R − Y‖_F.

    Args:
        images: (layer, *batch, axis); NaN where not finite.
        share: (layer), how much of the variance over the batch the two axes hold.
        turned: (layer, axis, axis), R; the identity without alignment. Of two numbers a rotation, else perhaps a reflection too.
        area: (layer, cell_row, cell_column), area of each grid cell's image in the layer's own space, all of its numbers, over that
            of the cell; None where the batch is no grid.
        flipped: (layer, cell_row, cell_column), whether the cell's image shows its back in the picture; None likewise.
        dots: (layer, item, axis), images of the points given, in the same axes; None without.
        classes: (item), whole numbers; None without.
        names: of the layers.
        widths: numbers in each layer's output.
    """

    images: Tensor
    share: Tensor
    turned: Tensor
    area: Tensor | None = None
    flipped: Tensor | None = None
    dots: Tensor | None = None
    classes: Tensor | None = None
    names: tuple[str, ...]
    widths: tuple[int, ...]

    drawn_by: ClassVar[str] = "separatrix.plot.flow_map:flow_map_figure"
    layout: ClassVar[dict[str, str]] = {
        "images": "layer batch axis",
        "share": "layer",
        "turned": "layer axis turned_axis",
        "area": "layer cell_row cell_column",
        "flipped": "layer cell_row cell_column",
        "dots": "layer item axis",
        "classes": "item",
    }
    units: ClassVar[dict[str, str]] = {"images": "units of the layer", "share": "1", "area": "1"}

    def summary(self) -> str:
        """Layer by layer: its width, what its picture holds, how areas changed, and how much of it shows its back."""
        lines = [f"{counted(self.codes.numel(), 'input')} carried through {counted(len(self.names) - 1, 'layer')}"]
        for i, (name, width) in enumerate(zip(self.names, self.widths, strict=True)):
            told = f"{name}: {counted(width, 'number')}, {float(self.share[i]):.0%} of the variance in view"
            if self.area is not None and self.flipped is not None:
                known = self.area[i][torch.isfinite(self.area[i])]
                middle = plain(float(known.median())) if len(known) else "unknown"
                told += f", areas × {middle} (median), {float(self.flipped[i].double().mean()):.0%} shows its back"
            lines.append(told)
        lost = int((self.codes == Status.DIVERGED).sum())
        return "\n".join(lines + ([f"{counted(lost, 'input')} diverged"] if lost else []))

    def animate(
        self,
        path: str | Path,
        *,
        fps: int = 20,
        move: float = 1.2,
        rest: float = 0.6,
        size: float = 4.2,
        dpi: int = 100,
        colors: int = 48,
        title: str = "",
        progress: bool = False,
    ) -> Path:
        """Write the sheet's way from layer to layer as a film: a GIF, or an MP4 (with the extra "vision").

        Between two layers it moves on straight lines: what is true is what is seen while it rests.

        Args:
            path: ends in .gif or .mp4.
            fps: pictures per second.
            move, rest: seconds from one layer to the next, and at each layer.
            size, dpi: inches of a side, and pixels to the inch.
            colors: of a GIF, 2 … 256; fewer make a smaller file.
            title: above the picture.
            progress: show a bar of the pictures.

        Raises:
            InputError: the name ends otherwise, or a number is not positive.
            MissingExtraError: the library that writes the file is not installed.
        """
        shown = importlib.import_module("separatrix.plot.film")
        looks = {"fps": fps, "move": move, "rest": rest, "size": size, "dpi": dpi}
        return shown.write_film(self, Path(path), colors=colors, title=title, progress=progress, **looks)


@torch.no_grad()
def flow_map(
    model: System | nn.Module,
    x0: Tensor | None = None,
    *,
    layers: Sequence[str] | str | None = None,
    steps: int | None = None,
    every: int | None = None,
    points: Tensor | None = None,
    classes: Tensor | None = None,
    align: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> FlowMap:
    r"""The images of a grid of inputs under each layer of a network, or under a system's steps:  x0, F₁(x0), F₂(F₁(x0)), …

    Args:
        model: an `nn.Module`, run once through a twin, which listens to its layers; or any System.
        x0: inputs, (*batch, *input) for a module, states (*batch, dim) for a system. As a grid, (rows, columns, …), it is a sheet
            with areas and folds: `sx.grid((-1, -1), (1, 1), (41, 41))`, or `origin + sx.grid(…) @ axes` in a wider space.
            Default, of a system: 41 × 41 states, its first two numbers within 1 of the initial state; 41 of a single number.
        layers: names as in `model.named_modules()`, shown in the order of their calls. Default: the model's children, with
            Sequential and ModuleList opened, without those that only pass on (dropout, flatten).
        steps: of a system. Default: 8, or 2 units of a flow's time, or all that it can take.
        every: show one step in so many. Default: so that 8 are shown, or all of fewer.
        points: data to carry along in the same axes, (items, *input).
        classes: their classes, (items), whole numbers.
        align: turn each picture onto the one before.
        seed: of the initial state.
        progress: show a bar of a system's steps.

    Returns:
        FlowMap: `images` (layer, *batch, 2), `area`, `flipped`, `share`, `names`; a status for each input.

    Raises:
        InputError: an empty grid, numbers that are not finite, no such layer, or options of the other kind of model.
        ShapeError: points or classes that do not fit.
        UnsupportedModuleError: neither a module nor a system, or a layer that gives no tensor.

    Limits: principal components are those of the inputs shown, not of the data. A wide layer's picture is a shadow: it may overlap
        itself where the layer does not fold, so `flipped` counts folds of the picture. It costs inputs × width × the smaller
        of both.
    Source: images of the input plane as Hauser & Ray 2017, NeurIPS 30; Procrustes as Schönemann 1966, Psychometrika 31, 1.
    """
    check_seed(seed)
    if every is not None and check_whole("every", every) < 1:
        raise InputError(f"every is {every}; it shows one step in so many, so it is at least 1.")
    layers = [layers] if isinstance(layers, str) else layers
    if layers is not None and not (isinstance(layers, Sequence) and all(isinstance(name, str) for name in layers)):
        raise InputError(f"layers are {layers!r}; they are names, as in model.named_modules().")
    if isinstance(model, System):
        if layers is not None:
            raise InputError("layers were named, but a System has steps.\nPass steps=…, or the nn.Module itself.")
        x = _default_sheet(model, seed) if x0 is None else x0
    elif isinstance(model, nn.Module):
        if steps is not None:
            raise InputError(f"steps is {steps}, but a module has layers.\nPass layers=[…], or a System: sx.Map(module, dim).")
        if x0 is None:
            raise InputError("a network's inputs have no default.\nPass x0, such as sx.grid((-1, -1), (1, 1), (41, 41)).")
        x = x0
    else:
        raise UnsupportedModuleError(
            f"expected a System or an nn.Module, got a {type(model).__name__}.\nWrap a function: sx.Map(f, dim)."
        )
    sheet = _read(x, "x0")
    batch = sheet.shape[:-1] if isinstance(model, System) else sheet.shape[: _batch_axes(sheet, points)]
    inputs = sheet.reshape(-1, *sheet.shape[len(batch) :])
    given = _points(points, classes, inputs)
    frames = _Frames(count=len(inputs), grid=tuple(batch) if len(batch) == 2 and min(batch) > 1 else None, align=align)
    both = torch.cat([inputs, given[0]]) if given[0] is not None else inputs
    if isinstance(model, System):
        _run_steps(model, both, frames, steps, every, progress)
    else:
        frames.add("input", both)
        run_layers(model, both, layers, frames.add)
    settings = {"layers": layers and list(layers), "steps": steps, "every": every, "align": align, "seed": seed}
    return frames.result(batch, given[1], settings)


def _default_sheet(system: System, seed: int) -> Tensor:
    start = begin(system, seed=seed).x
    if start.ndim > 1:
        raise ShapeError(f"this is a batch of systems, {tuple(start.shape[:-1])}.\nPass one of them, or x0.")
    axes = min(2, system.dim)
    sheet = start.expand(*(ACROSS,) * axes, -1).clone()
    sheet[..., :axes] += grid((-1,) * axes, (1,) * axes, (ACROSS,) * axes).to(sheet)
    return sheet


def _batch_axes(sheet: Tensor, points: Any) -> int:
    """How many leading axes of a module's inputs are the batch: all but those of one input; two where no points tell."""
    if points is not None:
        return max(sheet.ndim - (torch.as_tensor(points).ndim - 1), 1)
    return min(2, max(sheet.ndim - 1, 1))


def _read(x: Any, name: str) -> Tensor:
    try:
        value = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers: {str(error).splitlines()[0]}") from None
    if value.numel() == 0:
        raise InputError(f"{name} is empty: its shape is {tuple(value.shape)}.\nPass at least one input, such as sx.grid(…).")
    if value.is_complex():
        raise InputError(f"{name} is {value.dtype}, but a sheet is of real numbers.\nPass torch.view_as_real({name}).flatten(-2).")
    if not value.is_floating_point():
        raise InputError(f"{name} is {value.dtype}, but a sheet is of real numbers.\nPass {name}.double().")
    if not bool(torch.isfinite(value).all()):
        raise InputError(f"{name} has {int((~torch.isfinite(value)).sum())} numbers that are not finite, out of {value.numel()}.")
    return value.detach()


def _points(points: Any, classes: Any, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if points is None:
        if classes is not None:
            raise InputError("classes were given without the points that they are of.\nPass points=… too.")
        return None, None
    dots = _read(points, "points").to(inputs)
    if dots.shape[1:] != inputs.shape[1:]:
        raise ShapeError(f"points are of shape {tuple(dots.shape[1:])} each, but the inputs of {tuple(inputs.shape[1:])}.")
    if classes is None:
        return dots, torch.zeros(len(dots), dtype=torch.int64)
    try:
        labels = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError):
        raise InputError("classes cannot be read as numbers.\nPass one whole number for each point.") from None
    if labels.shape != dots.shape[:1]:
        raise ShapeError(f"there are {len(dots)} points but classes have shape {tuple(labels.shape)}.\nPass one class for each.")
    return dots, labels.long().cpu()


def _run_steps(system: System, x: Tensor, frames: "_Frames", steps: int | None, every: int | None, progress: bool) -> None:
    if steps is None:
        wanted = SHOWN * (every or max(1, round(TIME / SHOWN / system.dt)))
        steps = wanted if system.horizon is None else min(wanted, system.horizon)
    check_steps(system, steps=steps)
    if steps < 1:
        raise InputError(f"steps is {steps}; it is at least 1.")
    every = every or max(1, steps // SHOWN)
    front = begin(system, x)
    frames.add("step 0", front.x)
    for tick in watched_count(steps // every, "steps", progress):
        front = front.advance(every)
        frames.add(f"step {(tick.index + 1) * every}", front.x)


class _Frames:
    """The pictures so far, each made when its layer is left: what is wide is not kept."""

    def __init__(self, count: int, grid: tuple[int, int] | None, align: bool) -> None:
        self.count, self.grid, self.align = count, grid, align
        self.names: list[str] = []
        self.widths: list[int] = []
        self.places: list[Tensor] = []
        self.shares: list[Tensor] = []
        self.turned: list[Tensor] = []
        self.areas: list[Tensor] = []

    def add(self, name: str, output: Tensor) -> None:
        """The picture of a layer's output, (items, …): the sheet, then the points."""
        if output.ndim == 0 or len(output) < self.count:
            raise UnsupportedModuleError(f"{name} gives {tuple(output.shape)}, which has no batch axis of the inputs first.")
        values = output.detach().reshape(len(output), -1).clone()  # a layer behind this one may write over its input
        places, share = _pictured(values, self.count)
        turned = torch.eye(2, dtype=values.dtype, device=values.device)
        if self.align and self.places:
            turned = procrustes(places[: self.count], self.places[-1][: self.count], reflect=values.shape[1] > 2)
        self.names.append(name)
        self.widths.append(values.shape[1])
        self.places.append(places @ turned)
        self.shares.append(share)
        self.turned.append(turned)
        if self.grid is not None:
            self.areas.append(_areas(values[: self.count].reshape(*self.grid, -1)))

    def result(self, batch: tuple[int, ...], classes: Tensor | None, settings: dict[str, Any]) -> FlowMap:
        """All of them."""
        places = torch.stack(self.places)
        places = places.where(torch.isfinite(places).all(-1, keepdim=True), torch.nan)
        images = places[:, : self.count].reshape(len(places), *batch, 2)
        lost = ~torch.isfinite(images).all(-1).all(0)
        made = FlowMap(
            codes=torch.where(lost, Status.DIVERGED, Status.OK).to(torch.int8),
            images=images,
            share=torch.stack(self.shares),
            turned=torch.stack(self.turned),
            dots=None if classes is None else places[:, self.count :],
            classes=classes,
            names=tuple(self.names),
            widths=tuple(self.widths),
            settings=settings,
        )
        if self.grid is None:
            return made
        areas, signs = torch.stack(self.areas), _signed_areas(in_own_unit(images, (1, 2, 3))[0]).sign()
        return replace(made, area=areas / areas[0], flipped=signs * signs[0] < 0)


def _pictured(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Two numbers of each item, (items, 2), and the share of the sheet's variance that they hold."""
    width = values.shape[1]
    if width <= 2:
        return torch.nn.functional.pad(values, (0, 2 - width)), values.new_ones(())
    sheet = values[:count]
    known = sheet[torch.isfinite(sheet).all(-1)]
    if not len(known):
        return torch.full_like(values[:, :2], torch.nan), values.new_tensor(torch.nan)
    center, axes, share = principal_axes(known)
    return (values - center) @ axes.mT, share.sum()


def procrustes(places: Tensor, onto: Tensor, *, reflect: bool) -> Tensor:
    """The orthogonal R, (2, 2), that makes ‖(X − x̄) R − (Y − ȳ)‖_F least; a rotation unless it may reflect."""
    known = torch.isfinite(places).all(-1) & torch.isfinite(onto).all(-1)
    if not known.any():
        return torch.eye(2, dtype=places.dtype, device=places.device)
    x, y = (_centered(one[known]) for one in (places, onto))
    left, _, right = torch.linalg.svd(x.mT @ y)
    if not reflect:
        left = left * torch.stack([left.new_ones(()), torch.linalg.det(left @ right).sign()])
    return left @ right


def _centered(places: Tensor) -> Tensor:
    """In units of the largest number, which turn nothing: products of numbers near the largest there is would overflow."""
    scaled = in_own_unit(places)[0]
    return scaled - scaled.mean(0)


def _areas(values: Tensor) -> Tensor:
    """Areas of a grid's cells in any number of dimensions, each as two triangles; (rows, columns, width)."""
    corner, right, up, far = values[:-1, :-1], values[:-1, 1:], values[1:, :-1], values[1:, 1:]
    return _triangle(right - corner, up - corner) + _triangle(right - far, up - far)


def _triangle(p: Tensor, q: Tensor) -> Tensor:
    """Half of base times height, which loses fewer digits in a thin triangle than a Gram determinant."""
    base = p.norm(dim=-1)
    along = (p * q).sum(-1) / base.square().clamp(min=torch.finfo(p.dtype).tiny)
    return base * (q - along[..., None] * p).norm(dim=-1) / 2


def _signed_areas(images: Tensor) -> Tensor:
    """(layer, rows − 1, columns − 1), twice: half the cross product of a cell's diagonals."""
    p, q = images[:, 1:, 1:] - images[:, :-1, :-1], images[:, :-1, 1:] - images[:, 1:, :-1]
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]
