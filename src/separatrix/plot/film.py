"""The sheet of a flow map moving from layer to layer, as a film."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from separatrix.analysis.pictures.flow_map import FlowMap
from separatrix.core.checks import check_positive, check_whole
from separatrix.core.errors import InputError, MissingExtraError
from separatrix.core.progress import watched_count
from separatrix.plot.flow_map import draw_dots, draw_sheet, named, seen_as, view
from separatrix.plot.runs import array
from separatrix.plot.style import NOTE, canvas, styled

BLOCK = 16  # pixels: sides of an MP4 are whole numbers of these


def write_film(
    flow: FlowMap,
    path: Path,
    *,
    fps: int,
    move: float,
    rest: float,
    size: float,
    dpi: int,
    colors: int,
    title: str,
    progress: bool,
) -> Path:
    """`FlowMap.animate`."""
    for name, value in {"fps": fps, "move": move, "rest": rest, "size": size, "dpi": dpi}.items():
        check_positive(name, value)
    check_whole("colors", colors, 2, 256)
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} for the film does not exist.")
    write = {".gif": _write_gif, ".mp4": _write_mp4}.get(path.suffix.lower())
    if write is None:
        raise InputError(f"{path.name} has the suffix {path.suffix!r}; expected .gif or .mp4.")
    moments = list(_moments(len(flow.names), max(round(move * fps), 1), max(round(rest * fps), 1)))
    shown = (_picture(flow, *moments[tick.index], size, dpi, title) for tick in watched_count(len(moments), "pictures", progress))
    write(path, shown, fps, colors)
    return path


def _moments(layers: int, moving: int, resting: int) -> Iterator[tuple[int, float]]:
    """A layer and the fraction of the way to the next, with slow starts and ends."""
    for layer in range(layers):
        yield from ((layer, 0.0) for _ in range(resting))
        if layer < layers - 1:
            for step in range(1, moving):
                t = step / moving
                yield layer, t * t * (3 - 2 * t)


@styled
def _picture(flow: FlowMap, layer: int, share: float, size: float, dpi: int, title: str) -> np.ndarray:
    """One picture, (height, width, 3), bytes."""
    figure, ((axes,),) = canvas(width=size, height=1.16 * size)
    after = min(layer + 1, len(flow.names) - 1)
    nearest = after if share > 0.5 else layer
    flipped = None if flow.flipped is None else flow.flipped[nearest].cpu().numpy()
    draw_sheet(axes, _between(array(flow.images[layer]), array(flow.images[after]), share), flipped)
    if flow.dots is not None and flow.classes is not None:
        draw_dots(axes, _between(array(flow.dots[layer]), array(flow.dots[after]), share), flow.classes.cpu().numpy())
    (center, reach), (center_after, reach_after) = view(flow, layer), view(flow, after)
    center, reach = _between(center, center_after, share), _between(reach, reach_after, share)
    axes.set(xlim=(center[0] - reach, center[0] + reach), ylim=(center[1] - reach, center[1] + reach), aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.set_title(": ".join(part for part in (title, named(flow, nearest)) if part))
    axes.set_xlabel(seen_as(flow, nearest), **NOTE)
    canvas_of = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas_of.draw()
    return np.asarray(canvas_of.buffer_rgba())[..., :3].copy()


def _between(before: Any, after: Any, share: float) -> Any:
    return (1 - share) * before + share * after


def _write_gif(path: Path, pictures: Iterator[np.ndarray], fps: int, colors: int) -> None:
    """Write a GIF with one palette for all pictures, so that still parts take no space."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("a GIF needs Pillow, which is not installed.\nRun pip install 'separatrix[vision]'") from None
    frames = [Image.fromarray(picture) for picture in pictures]
    palette = frames[len(frames) // 2].quantize(colors)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=round(1000 / fps), loop=0, optimize=False)


def _write_mp4(path: Path, pictures: Iterator[np.ndarray], fps: int, colors: int) -> None:
    try:
        import imageio.v2 as imageio  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("an MP4 needs imageio, which is not installed.\nRun pip install 'separatrix[vision]'") from None
    with imageio.get_writer(path, fps=fps) as film:
        for picture in pictures:
            margins = [(0, -side % BLOCK) for side in picture.shape[:2]]
            film.append_data(np.pad(picture, [*margins, (0, 0)], constant_values=255))
