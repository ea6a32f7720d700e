"""Flow maps: a sheet of inputs mapped through the layers of a network or the steps of a system, stretched, bent and folded."""

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
from separatrix.core.checks import as_numbers, check_all_finite, check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.evolve import begin, check_steps
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

ACROSS = 41  # states along each side of a default sheet
SHOWN = 8  # pictures of a default run of a system, besides the first
TIME = 2  # default duration of a flow's run


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FlowMap(Result):
    r"""Images of a batch of inputs (a sheet, if it is a grid) after each layer; layer 0 is the input.

    A layer with one or two components is shown unchanged, a wider one in its two leading principal components P over the sheet.
    Each picture X is aligned to the previous one, Y, by the orthogonal matrix R of  min ‖(X − x̄) P R − Y‖_F  (Procrustes), so that
    the choice of axes does not appear as motion.

    Args:
        images: (layer, *batch, axis); NaN where not finite.
        share: (layer), share of the variance over the batch in the two axes.
        turned: (layer, axis, axis), R: a rotation for layers with up to two components, otherwise possibly a reflection; the
            identity without alignment.
        area: (layer, cell_row, cell_column), area of the image of each grid cell in the full space of the layer, relative to the
            area of the cell; None if the batch is not a grid.
        flipped: (layer, cell_row, cell_column), whether the image of the cell shows its back in the picture; None if the batch is
            not a grid.
        dots: (layer, item, axis), images of `points` in the same axes; None without points.
        classes: (item), classes of the points; None without points.
        names: names of the layers.
        widths: number of components of each layer's output.
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
        """Width, share of the variance, change of area and flipped share of each layer, in words."""
        lines = [f"{counted(self.codes.numel(), 'input')} mapped through {counted(len(self.names) - 1, 'layer')}"]
        for i, (name, width) in enumerate(zip(self.names, self.widths, strict=True)):
            line = f"{name}: {counted(width, 'number')}, {float(self.share[i]):.0%} of the variance shown"
            if self.area is not None and self.flipped is not None:
                finite = self.area[i][torch.isfinite(self.area[i])]
                median = plain(float(finite.median())) if len(finite) else "unknown"
                line += f", areas × {median} (median), {float(self.flipped[i].double().mean()):.0%} flipped"
            lines.append(line)
        diverged = int((self.codes == Status.DIVERGED).sum())
        return "\n".join(lines + ([f"{counted(diverged, 'input')} diverged"] if diverged else []))

    def _remedy(self, status: Status) -> str:
        return "These inputs left the finite numbers; leave them out of x0, or show fewer layers or steps."

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
        """Write a film of the sheet moving from layer to layer, as a GIF or an MP4 (which needs the extra "vision").

        Between two layers the sheet is interpolated linearly; only the pictures at rest show data.

        Args:
            path: file name, ending in .gif or .mp4.
            fps: pictures per second.
            move, rest: seconds from one layer to the next, and at each layer.
            size, dpi: width in inches, and pixels per inch.
            colors: number of colours of a GIF, 2 … 256; fewer make a smaller file.
            title: title above the picture.
            progress: show a progress bar.

        Raises:
            InputError: the file name has another ending, or a number is not positive.
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
    throw: bool = False,
) -> FlowMap:
    r"""Images of a grid of inputs after each layer of a network, or each step of a system:  x0, F₁(x0), F₂(F₁(x0)), …

    Args:
        model: an `nn.Module`, run once as a twin with hooks on its layers; or any System.
        x0: inputs (*batch, *input) of a module, or states (*batch, dim) of a system. A grid (rows, columns, …) is a sheet with
            areas and folds: `sx.grid((-1, -1), (1, 1), (41, 41))`, or `origin + sx.grid(…) @ axes` in a wider space.
            Default for a system: 41 × 41 states whose first two components are within 1 of the initial state's; 41 in one
            dimension.
        layers: names of layers as in `model.named_modules()`, shown in the order of their calls. Default: the model's children,
            with the contents of Sequential and ModuleList, without dropout and flatten.
        steps: number of steps of a system. Default: 8, or 2 units of time for a flow, within the horizon.
        every: steps between two pictures. Default: such that 8 are shown, or all of fewer.
        points: data that is mapped along and shown in the same axes, (items, *input).
        classes: classes of the points, (items), whole numbers.
        align: align each picture to the previous one.
        seed: seed of the initial state.
        progress: show a progress bar of the steps of a system.
        throw: raise instead of marking inputs `diverged`.

    Returns:
        FlowMap: `images` (layer, *batch, 2), `area`, `flipped`, `share`, `names`; a status for each input.

    Raises:
        InputError: the grid is empty or not finite, there is no such layer, or an option belongs to the other kind of model.
        ShapeError: the points or classes do not fit the inputs.
        UnsupportedModuleError: the model is neither a module nor a system, or a layer does not return a tensor.
        DivergedError: with `throw=True`.

    Limits: principal components are those of the inputs shown, not of the data. The picture of a wide layer is a projection, which
        can overlap itself although the layer does not fold; `flipped` counts the folds of the picture. The cost is inputs × width
        × the smaller of both.
    Source: images of the input plane as Hauser & Ray 2017, NeurIPS 30; Procrustes as Schönemann 1966, Psychometrika 31, 1.

    Example:
        >>> half = nn.Linear(2, 2, bias=False)
        >>> half.weight.data = 0.5 * torch.eye(2)
        >>> sx.flow_map(nn.Sequential(half), sx.grid((-1, -1), (1, 1), (5, 5)))
        25 inputs mapped through 1 layer
        input: 2 numbers, 100% of the variance shown, areas × 1 (median), 0% flipped
        0: 2 numbers, 100% of the variance shown, areas × 0.25 (median), 0% flipped
    """
    check_seed(seed)
    if every is not None:
        check_whole("every", every, 1)
    layers = [layers] if isinstance(layers, str) else layers
    if layers is not None and not (isinstance(layers, Sequence) and all(isinstance(name, str) for name in layers)):
        raise InputError(f"expected names of layers, as in model.named_modules(), got {layers!r}.")
    if isinstance(model, System):
        if layers is not None:
            raise InputError("layers does not apply to a System.\nPass steps, or the nn.Module itself.")
        x = _default_sheet(model, seed) if x0 is None else x0
    elif isinstance(model, nn.Module):
        if steps is not None:
            raise InputError("steps does not apply to a module.\nPass layers, or a System: sx.Map(module, dim).")
        if x0 is None:
            raise InputError("expected inputs x0 for a module, got None.\nPass, for example, sx.grid((-1, -1), (1, 1), (41, 41)).")
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
    return frames.result(batch, given[1], settings).or_raise(throw)


def _default_sheet(system: System, seed: int) -> Tensor:
    start = begin(system, seed=seed).x
    if start.ndim > 1:
        raise ShapeError(f"expected one system, got a batch of shape {tuple(start.shape[:-1])}.\nPass one of them, or x0.")
    axes = min(2, system.dim)
    sheet = start.expand(*(ACROSS,) * axes, -1).clone()
    sheet[..., :axes] += grid((-1,) * axes, (1,) * axes, (ACROSS,) * axes).to(sheet)
    return sheet


def _batch_axes(sheet: Tensor, points: Any) -> int:
    """Number of leading batch axes of a module's inputs: all but those of one point; without points, up to two."""
    if points is not None:
        return max(sheet.ndim - (torch.as_tensor(points).ndim - 1), 1)
    return min(2, max(sheet.ndim - 1, 1))


def _read(x: Any, name: str) -> Tensor:
    value = as_numbers(name, x, None)
    if value.numel() == 0:
        raise InputError(
            f"{name} is empty: expected at least 1 input, got shape {tuple(value.shape)}.\nPass, for example, sx.grid(…)."
        )
    if value.is_complex():
        raise InputError(f"expected real numbers in {name}, got {value.dtype}.\nPass torch.view_as_real({name}).flatten(-2).")
    if not value.is_floating_point():
        raise InputError(f"expected floating-point numbers in {name}, got {value.dtype}.\nPass {name}.double().")
    check_all_finite(name, value, "")
    return value.detach()


def _points(points: Any, classes: Any, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if points is None:
        if classes is not None:
            raise InputError("classes needs points, got None.\nPass points too.")
        return None, None
    dots = _read(points, "points").to(inputs)
    if dots.shape[1:] != inputs.shape[1:]:
        raise ShapeError(f"expected points of shape {tuple(inputs.shape[1:])} each, like the inputs, got {tuple(dots.shape[1:])}.")
    if classes is None:
        return dots, torch.zeros(len(dots), dtype=torch.int64)
    labels = as_numbers("classes", classes, None)
    if labels.shape != dots.shape[:1]:
        raise ShapeError(f"expected classes of shape ({len(dots)},), one per point, got {tuple(labels.shape)}.")
    return dots, labels.long().cpu()


def _run_steps(system: System, x: Tensor, frames: "_Frames", steps: int | None, every: int | None, progress: bool) -> None:
    if steps is None:
        wanted = SHOWN * (every or max(1, round(TIME / SHOWN / system.dt)))
        steps = wanted if system.horizon is None else min(wanted, system.horizon)
    check_steps(system, steps=steps)
    check_whole("steps", steps, 1)
    every = every or max(1, steps // SHOWN)
    front = begin(system, x)
    frames.add("step 0", front.x)
    for tick in watched_count(steps // every, "Flow map", progress):
        front = front.advance(every)
        frames.add(f"step {(tick.index + 1) * every}", front.x)


class _Frames:
    """The pictures so far, each made when its layer returns, so that wide outputs are not stored."""

    def __init__(self, count: int, grid: tuple[int, int] | None, align: bool) -> None:
        self.count, self.grid, self.align = count, grid, align
        self.names: list[str] = []
        self.widths: list[int] = []
        self.places: list[Tensor] = []
        self.shares: list[Tensor] = []
        self.turned: list[Tensor] = []
        self.areas: list[Tensor] = []

    def add(self, name: str, output: Tensor) -> None:
        """Add the picture of a layer's output (items, …): the sheet, then the points."""
        if output.ndim == 0 or len(output) < self.count:
            raise UnsupportedModuleError(
                f"expected an output of {name} with a first axis of at least {self.count} inputs, got {tuple(output.shape)}."
            )
        values = output.detach().reshape(len(output), -1).clone()  # a later layer may overwrite its input
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
        """The flow map of all pictures."""
        places = torch.stack(self.places)
        places = places.where(torch.isfinite(places).all(-1, keepdim=True), torch.nan)
        images = places[:, : self.count].reshape(len(places), *batch, 2)
        diverged = ~torch.isfinite(images).all(-1).all(0)
        flow = FlowMap(
            codes=torch.where(diverged, Status.DIVERGED, Status.OK).to(torch.int8),
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
            return flow
        areas, signs = torch.stack(self.areas), _signed_areas(in_own_unit(images, (1, 2, 3))[0]).sign()
        return replace(flow, area=areas / areas[0], flipped=signs * signs[0] < 0)


def _pictured(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Two coordinates of each item, (items, 2), and their share of the sheet's variance."""
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
    """The orthogonal R, (2, 2), that minimises ‖(X − x̄) R − (Y − ȳ)‖_F; with `reflect` it may be a reflection."""
    known = torch.isfinite(places).all(-1) & torch.isfinite(onto).all(-1)
    if not known.any():
        return torch.eye(2, dtype=places.dtype, device=places.device)
    x, y = (_centered(one[known]) for one in (places, onto))
    left, _, right = torch.linalg.svd(x.mT @ y)
    if not reflect:
        left = left * torch.stack([left.new_ones(()), torch.linalg.det(left @ right).sign()])
    return left @ right


def _centered(places: Tensor) -> Tensor:
    """Centred values in units of the largest, so that products do not overflow; units do not change R."""
    scaled = in_own_unit(places)[0]
    return scaled - scaled.mean(0)


def _areas(values: Tensor) -> Tensor:
    """Areas of the cells of a grid (rows, columns, width) in any number of dimensions, each as two triangles."""
    corner, right, up, far = values[:-1, :-1], values[:-1, 1:], values[1:, :-1], values[1:, 1:]
    return _triangle(right - corner, up - corner) + _triangle(right - far, up - far)


def _triangle(p: Tensor, q: Tensor) -> Tensor:
    """Half of base times height; more accurate for a thin triangle than a Gram determinant."""
    base = p.norm(dim=-1)
    along = (p * q).sum(-1) / base.square().clamp(min=torch.finfo(p.dtype).tiny)
    return base * (q - along[..., None] * p).norm(dim=-1) / 2


def _signed_areas(images: Tensor) -> Tensor:
    """Twice the signed areas, (layer, rows − 1, columns − 1), as cross products of the cells' diagonals."""
    p, q = images[:, 1:, 1:] - images[:, :-1, :-1], images[:, :-1, 1:] - images[:, 1:, :-1]
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]
