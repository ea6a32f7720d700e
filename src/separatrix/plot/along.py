"""Along training: the results of an analysis over the checkpoints, and fixed points from birth to loss."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from separatrix.analysis.along.along import Along, Separate
from separatrix.analysis.along.tracks import Tracks
from separatrix.analysis.along.widths import WidthScaling
from separatrix.plot.fixed_points import principal_plane
from separatrix.plot.runs import array
from separatrix.plot.style import BAR, INK, canvas, mark_zero, nothing_to_show, series, styled
from separatrix.plot.widths import widths_figure

MOST_LINES = 12  # of results that are listed
FEW = 5  # numbers per checkpoint that are drawn
EVENTS = {"birth": "o", "loss": "X", "stability": "D"}


def headline(found: Along) -> tuple[str, Tensor | None, Tensor | None]:
    """The field of the result that is drawn: its name, values (checkpoint, *batch, number) and standard errors.

    It is the first field in the result's layout with one or a few numbers per run.
    """
    for name, axes in found.result.layout.items():
        value, extra = getattr(found.result, name), len(axes.split()) - 1
        if axes.startswith("batch") and extra <= 1 and value is not None and value.is_floating_point():
            error = getattr(found.result, "stderr", None)
            error = error if error is not None and error.shape == value.shape else None
            return (name, value, error) if extra else (name, value[..., None], None if error is None else error[..., None])
    return "", None, None


def draw_along(axes: Axes, found: Along, *, label: str = "epoch") -> None:
    """Draw the leading numbers over the checkpoints: the median of the runs, their range, and the error bars of a single run."""
    name, values, errors = headline(found)
    if values is None or not bool(values.isfinite().any()):
        nothing_to_show(axes, "no checkpoint has a number to draw")
        return
    x, several = array(found.labels), values.shape[-1] > 1
    flat = array(values).reshape(len(x), -1, values.shape[-1])
    for i in range(min(FEW, flat.shape[-1])):
        own, look = flat[..., i], series(i)
        some = np.isfinite(own).any(1)
        middle, low, high = (f(own[some], axis=1) for f in (np.nanmedian, np.nanmin, np.nanmax))
        if own.shape[1] > 1:
            axes.fill_between(x[some], low, high, color=look.color, alpha=0.2, linewidth=0, gid=f"range {i + 1}")
        elif errors is not None:
            bar = BAR * np.nan_to_num(array(errors).reshape(len(x), -1, values.shape[-1])[some, 0, i])
            axes.errorbar(x[some], middle, bar, linestyle="", ecolor=look.color, elinewidth=0.8)
        line_label = f"{name.removesuffix('s')} {i + 1}" if several else None
        axes.plot(x[some], middle, linestyle=look.line, markersize=3, label=line_label, gid=f"{name} {i + 1}", **look.marks)
    unit = found.result.units.get(name, "")
    axes.set(xlabel=label, ylabel=f"{name.replace('_', ' ')}{f' ({unit})' if unit else ''}")
    if name == "exponents":
        mark_zero(axes)
    if several:
        axes.legend(ncols=2)


def draw_tracks(axes: Axes, tracks: Tracks, seen: Tensor | None = None, *, label: str = "epoch") -> None:
    """Draw fixed points over the checkpoints: attracting ones as solid lines, others as dashed lines, with their events.

    Args:
        tracks: the result to draw.
        seen: one number per point, (checkpoint, track). Default: the first principal component of all points.
        label: label of the horizontal axis.
    """
    alive = tracks.alive.numpy()
    if not alive.any():
        nothing_to_show(axes, "no fixed point was found")
        return
    height, share = (array(seen), "") if seen is not None else _component(tracks)
    x, stable = array(tracks.labels), tracks.stable.numpy()
    for track in range(alive.shape[1]):
        for attracts, look in ((True, series(0)), (False, series(1))):
            rows = np.where((alive & (stable == attracts))[:, track], height[:, track], np.nan)
            style = {"linestyle": look.line, "markersize": 3, "linewidth": 1.3, "gid": f"track {track}"}
            axes.plot(x, rows, **style, **look.marks)
        _join(axes, x, height[:, track], alive[:, track], stable[:, track])
    for attracts, name, look in ((True, "attracts", series(0)), (False, "does not", series(1))):
        if (alive & (stable == attracts)).any():
            axes.plot([], [], linestyle=look.line, markersize=3, label=name, **look.marks)
    _mark_events(axes, tracks, height)
    axes.set(xlabel=label, ylabel="place of the point" if seen is not None else f"principal component 1 ({share} of variance)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _component(tracks: Tracks) -> tuple[np.ndarray, str]:
    states, alive = array(tracks.points), tracks.alive.numpy()
    center, plane, share = principal_plane(states[alive])
    if states.shape[-1] == 1:
        center, plane = np.zeros(1), np.ones((1, 2))
    return (states - center) @ plane[:, 0], f"{share[0]:.0%}"


def _join(axes: Axes, x: np.ndarray, height: np.ndarray, alive: np.ndarray, stable: np.ndarray) -> None:
    """A thin line across a change of stability, where the lines of the two kinds do not meet."""
    for i in np.flatnonzero(alive[1:] & alive[:-1] & (stable[1:] != stable[:-1])):
        axes.plot(x[i : i + 2], height[i : i + 2], color=INK, linewidth=0.6)


def _mark_events(axes: Axes, tracks: Tracks, height: np.ndarray) -> None:
    seen = set()
    for change, likely, (before, after), parts in zip(
        tracks.changes, tracks.likely, tracks.between.tolist(), tracks.event_tracks.tolist(), strict=True
    ):
        side = before if change == "loss" else after
        here = [height[side, track] for track in parts if track >= 0]
        name = f"{change}{f', {likely}' if likely else ''}"
        look = {"color": INK, "markerfacecolor": "none", "markersize": 8, "linestyle": "", "zorder": 4}
        own = None if name in seen else name
        axes.plot([float(tracks.labels[side])] * len(here), here, EVENTS[change], label=own, gid="event", **look)
        seen.add(name)


@styled
def tracks_figure(tracks: Tracks, *, label: str = "epoch", title: str = "") -> Figure:
    """Draw the fixed points over the checkpoints, and their leading rates."""
    figure, ((left, right),) = canvas(1, 2, width=4.8, height=3.8)
    draw_tracks(left, tracks, label=label)
    alive, x = tracks.alive.numpy(), array(tracks.labels)
    if alive.any():
        rates = np.where(alive, array(tracks.rates[..., 0]), np.nan)
        for track in range(alive.shape[1]):
            axes = series(0 if tracks.stable[:, track].any() else 1)
            right.plot(x, rates[:, track], linestyle=axes.line, markersize=3, gid=f"rate {track}", **axes.marks)
        mark_zero(right)
        right.set(xlabel=label, ylabel="leading rate of the point (nats per unit time)")
    else:
        nothing_to_show(right, "no fixed point was found")
    left.set_title(title)
    figure.set_label(tracks.summary())
    return figure


@styled
def along_figure(found: Along, *, label: str = "epoch", title: str = "") -> Figure:
    """The result over the checkpoints."""
    if isinstance(found.result, Tracks):
        return tracks_figure(found.result, label=label, title=title)
    if isinstance(found.result, Separate):
        return separate_figure(found.result)
    if isinstance(found.result, WidthScaling):
        return widths_figure(found.result, title=title)
    figure, ((axes,),) = canvas()
    draw_along(axes, found, label=label)
    axes.set_title(title)
    figure.set_label(found.summary())
    return figure


@styled
def separate_figure(found: Separate) -> Figure:
    """List the summary of each checkpoint's result, whose figures are drawn separately."""
    figure, ((axes,),) = canvas()
    lines = [f"{label}:  {result.summary().splitlines()[0]}" for label, result in found.each.items()]
    nothing_to_show(
        axes, "\n".join([*lines[:MOST_LINES], *(["…"] if len(lines) > MOST_LINES else []), "", "result.each[…].plot() draws one"])
    )
    figure.set_label(found.summary().strip())
    return figure
