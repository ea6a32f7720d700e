"""A network in depth: singular values and gain from layer to layer, and the gradient that reaches each layer."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from separatrix.analysis.depth.result import FACTOR, DepthProfile
from separatrix.core.wording import counted
from separatrix.plot.runs import alive, array, of_runs
from separatrix.plot.style import BAR, FAINT, INK, NOTE, QUIET, SERIES, canvas, nothing_to_show, series, styled

MOST_MARKS = 16  # on one of several curves
MOST_NAMES = 36  # layers named below the axis; if there are more, every second one, and so on


def draw_singular_values(axes: Axes, profile: DepthProfile) -> None:
    """Draw σ_1 … σ_k, thin, and the gain ‖J‖_F/√d with its error over layers: median over the inputs, band over their range.

    Filled markers: layers that carry the whole signal. Singular values of exactly 0 have no logarithm and are left out.
    """
    if not alive(profile).any():
        nothing_to_show(axes, "all inputs diverged")
        return
    place = _along(profile)
    if profile.singular_values is not None:
        sigma = positive(of_runs(profile, profile.singular_values, 1))[place]
        for i in reversed(range(sigma.shape[-1])):
            name = "singular values σ₁ … σ" + _below(sigma.shape[-1]) if i == 0 else None
            look = {"color": INK, "linewidth": 1.4} if i == 0 else {"color": FAINT, "linewidth": 0.8}
            axes.plot(place, across(sigma[..., i])[1], label=name, **look)
    gain, error = (of_runs(profile, value, 1) for value in (profile.gain, profile.gain_stderr))
    _draw(axes, profile, positive(gain), 0, "gain ‖J‖/√d", bar=BAR * np.median(error, 1))
    axes.axhspan(1 / FACTOR, FACTOR, color=QUIET, alpha=0.1, linewidth=0, gid="moderate")
    axes.axhline(1, color=INK, linewidth=1, gid="one")
    axes.set_yscale("log")
    axes.set_ylabel("growth from the input (factor)")
    axes.legend()
    _name_layers(axes, profile)
    _say_erased(axes, profile)


def draw_gradients(axes: Axes, profile: DepthProfile) -> None:
    """Draw the norm of the gradient of the loss at each layer: median over the inputs, band over their range."""
    if not alive(profile).any():
        nothing_to_show(axes, "all inputs diverged")
        return
    _draw(axes, profile, positive(of_runs(profile, profile.gradient, 1)), 1, f"gradient of {profile.loss}")
    axes.set_yscale("log")
    axes.set_ylabel("gradient norm ‖∂loss/∂y‖")
    axes.legend()
    _name_layers(axes, profile)


def draw_gains(axes: Axes, profiles: dict[str, DepthProfile], *, gradient: bool = False) -> None:
    """Draw several networks over relative depth, each along the layers that carry its whole signal.

    Args:
        profiles: the profiles by name.
        gradient: draw the norm of the gradient instead of the gain.
    """
    for number, (name, profile) in enumerate(profiles.items()):
        if not alive(profile).any():
            continue
        cuts = np.flatnonzero(array(profile.cut))
        values = positive(of_runs(profile, profile.gradient if gradient else profile.gain, 1))[cuts]
        depth = np.linspace(0, 1, len(cuts)) if len(cuts) > 1 else np.ones(len(cuts))
        look = series(number)
        low, median, high = across(values)
        axes.fill_between(depth, low, high, color=look.color, alpha=0.18, linewidth=0)
        sparse = {"markersize": 3.5, "markevery": -(-len(cuts) // MOST_MARKS)}
        axes.plot(depth, median, linestyle=look.line, label=name, **sparse, **look.marks)
    if not axes.lines:
        nothing_to_show(axes, "all inputs diverged")
        return
    axes.set_yscale("log")
    if not gradient:
        axes.axhspan(1 / FACTOR, FACTOR, color=QUIET, alpha=0.1, linewidth=0, gid="moderate")
        axes.axhline(1, color=INK, linewidth=1, gid="one")
    axes.set_xlabel("relative depth (0: first layer, 1: last)")
    axes.set_ylabel("gradient norm ‖∂loss/∂y‖" if gradient else "gain ‖J‖/√d (factor)")
    axes.legend()


def _draw(axes: Axes, profile: DepthProfile, values: np.ndarray, number: int, name: str, bar: np.ndarray | None = None) -> None:
    look, place, line = SERIES[number], np.arange(len(values)), _along(profile)
    low, median, high = across(values)
    if values.shape[1] > 1:
        axes.fill_between(line, low[line], high[line], color=look.color, alpha=0.18, linewidth=0)
    axes.plot(line, median[line], linestyle=look.line, color=look.color, linewidth=1.2, zorder=3)
    if bar is not None and bar.any():
        axes.errorbar(place, median, np.minimum(bar, 0.99 * median), fmt="none", ecolor=look.color, elinewidth=0.8)
    is_cut = array(profile.cut) > 0
    for chosen, face, label in ((is_cut, look.color, name), (~is_cut, "white", None)):
        if chosen.any():
            mark = {"color": look.color, "marker": look.marker, "markerfacecolor": face, "markersize": 4}
            axes.plot(place[chosen], median[chosen], linestyle="none", label=label, zorder=4, **mark)


def _along(profile: DepthProfile) -> np.ndarray:
    """Indices of the layers that lines connect: those that carry the whole signal, or all if there are none."""
    cuts = np.flatnonzero(array(profile.cut))
    return cuts if len(cuts) else np.arange(len(profile.layers))


def positive(values: np.ndarray) -> np.ndarray:
    """The positive values; NaN for the rest."""
    return np.where(values > 0, values, np.nan)


def across(values: np.ndarray) -> np.ndarray:
    """Minimum, median and maximum of the positive values over the inputs, (3, layer); NaN if there are none."""
    spread, some = np.full((3, len(values)), np.nan), ~np.isnan(values).all(1)
    spread[:, some] = [reduce(values[some], axis=1) for reduce in (np.nanmin, np.nanmedian, np.nanmax)]
    return spread


def _name_layers(axes: Axes, profile: DepthProfile) -> None:
    all_cut = bool(profile.cut.all())
    name_layers(axes, profile.layers)
    axes.set_xlabel("layer, in the order of the forward pass" if all_cut else "layer (filled markers: the whole signal passes)")


def name_layers(axes: Axes, layers: tuple[str, ...]) -> None:
    """Put the names of the layers below the axis, or of every second one, and so on."""
    place = np.arange(0, len(layers), -(-len(layers) // MOST_NAMES))
    axes.set_xticks(place, [_short(layers[i]) for i in place], rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_xlabel("layer, in the order of the forward pass")


def draw_range(axes: Axes, place: np.ndarray, values: np.ndarray, number: int, name: str) -> None:
    """Draw the median of values (layer, run) at these places, and a band over their range."""
    look = series(number)
    low, median, high = across(values)
    if values.shape[1] > 1:
        axes.fill_between(place, low, high, color=look.color, alpha=0.18, linewidth=0)
    axes.plot(place, median, linestyle=look.line, markersize=4, label=name, gid=name, **look.marks)


def width_of(layers: tuple[str, ...]) -> float:
    """Width of a figure over the layers, inches."""
    return float(np.clip(0.2 * len(layers) + 2, 5.5, 10))


def _short(name: str) -> str:
    return name if len(name) <= 24 else "…" + name[-23:]


def _say_erased(axes: Axes, profile: DepthProfile) -> None:
    if profile.singular_values is not None and array(profile.singular_values == 0).any():
        axes.text(0.99, 0.02, "singular values of exactly 0 are not drawn", ha="right", transform=axes.transAxes, **NOTE)


def _below(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


@styled
def depth_figure(profile: DepthProfile, *, title: str = "") -> Figure:
    """Draw growth above and gradients below."""
    figure, axes = canvas(2, 1, width=width_of(profile.layers), height=3.3)
    draw_singular_values(axes[0, 0], profile)
    draw_gradients(axes[1, 0], profile)
    axes[0, 0].set_title(title)
    axes[0, 0].set_xlabel("")
    axes[0, 0].tick_params(labelbottom=False)  # the names stand below
    where = f"{counted(len(profile.layers), 'layer')} of {title or profile.model}"
    figure.set_label(f"Singular values, gain and gradient over {where}: {profile.verdict}.")
    return figure
