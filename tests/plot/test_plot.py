"""What is drawn is what was measured."""

import importlib
import inspect
import math
import pkgutil
import re
from dataclasses import dataclass, fields, replace
from typing import get_args
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch import Tensor, nn

import separatrix as sx
from separatrix import plot
from separatrix.core.errors import InputError
from separatrix.core.result import Result, Status
from separatrix.core.wording import measured, plain, power_of_ten
from separatrix.flows.solution import Followed, StructuredSolution
from separatrix.plot.style import BAR, SERIES
from separatrix.portrait import Portrait, analyze
from separatrix.portrait.verdict import SURE

QUICK = {"copies": 3, "steps": 200, "also": "none"}


def network(kind: type[nn.RNNBase], gain: float = 1.0, **options) -> nn.RNNBase:
    torch.manual_seed(0)
    made = kind(3, 6, batch_first=True, **options)
    with torch.no_grad():
        made.weight_hh_l0.mul_(gain)
    return made


@pytest.fixture(scope="module")
def driven() -> Portrait:
    return analyze(network(nn.GRU), torch.randn(12, 8, 3, generator=torch.Generator().manual_seed(0)), **QUICK)


@pytest.fixture(scope="module")
def relu() -> Portrait:
    """A ReLU network whose last three units are always off: three exponents are −∞."""
    net = network(nn.RNN, nonlinearity="relu")
    with torch.no_grad():
        net.bias_ih_l0[3:] = -100.0
        net.bias_ih_l0[:3] = 100.0
        net.weight_hh_l0.copy_(0.5 * torch.eye(6))
    return analyze(net, torch.randn(12, 8, 3, generator=torch.Generator().manual_seed(0)), **QUICK)


@pytest.fixture(scope="module")
def bistable() -> Portrait:
    """The map h ← tanh(2h): two attractors, near ±0.96."""
    cell = nn.RNNCell(1, 1)
    with torch.no_grad():
        cell.weight_hh.fill_(2.0)
        cell.bias_ih.zero_()
        cell.bias_hh.zero_()
    return analyze(cell, copies=8, steps=200, also="none")


@pytest.fixture(scope="module")
def diverged(driven: Portrait) -> Portrait:
    """The record of a network all of whose runs left the finite numbers."""
    codes = torch.full_like(driven.spectrum.codes, int(Status.DIVERGED))
    nan = torch.full_like(driven.spectrum.exponents, math.nan)
    spectrum = replace(driven.spectrum, codes=codes, exponents=nan, stderr=nan, check=None)
    gone = torch.full_like(driven.pooled.exponents, math.nan)
    pooled = replace(driven.pooled, codes=codes[0], exponents=gone, stderr=gone, runs=0, diverged=len(codes))
    return replace(driven, spectrum=spectrum, pooled=pooled, plane=torch.full_like(driven.plane, math.nan), verdict="diverged: …")


def drawn(figure, gid: str):
    """The artists with a given gid."""
    found = figure.findobj(lambda artist: artist.get_gid() == gid)
    assert found, f"nothing is drawn as {gid!r}"
    return found


def words(figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def bars(axes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and the half heights of the error bars of the first error-bar container in some axes."""
    line, _, (segments, *_) = axes.containers[0].lines
    spans = np.array([np.ptp(segment[:, 1]) / 2 for segment in segments.get_segments()])
    return *line.get_data(), spans


# ---------------------------------------------------------------- the table


def result_classes() -> set[type[Result]]:
    """Every Result class that the rooms with results define, but for those that others only build on."""
    found = set()
    for room in ("analysis", "portrait", "nn", "bounds", "flows"):
        package = importlib.import_module(f"separatrix.{room}")
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            members = vars(importlib.import_module(module.name)).values()
            found |= {kind for kind in members if isinstance(kind, type) and issubclass(kind, Result)}
    return found - {Result, Portrait, Followed, StructuredSolution}  # which draws itself


@pytest.mark.parametrize("kind", sorted(result_classes(), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_result_names_the_function_that_draws_it(kind):
    if kind.plot is not Result.plot:  # it draws itself
        return
    module, _, function = kind.drawn_by.partition(":")
    (drawn,) = list(inspect.signature(getattr(importlib.import_module(module), function)).parameters.values())[:1]
    assert kind in (drawn.annotation, *get_args(drawn.annotation))


def test_a_result_of_ones_own_is_drawn_once_it_is_defined():
    class Height(sx.Result):
        drawn_by = f"{__name__}:height_figure"

    assert Height(codes=torch.zeros((), dtype=torch.int8)).plot().get_label() == "a height"


def height_figure(result: sx.Result) -> matplotlib.figure.Figure:
    return matplotlib.figure.Figure(label="a height")


def test_plot_finds_the_picture_of_each_part_of_a_portrait(driven):
    for result in (driven, driven.spectrum, driven.pooled, driven.propagation, driven.spectrum.check):
        assert isinstance(result.plot(), matplotlib.figure.Figure)
        assert result.plot().get_label(), "a screen reader finds no words"
        assert "<svg" in result._repr_html_()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Unpictured(Result):
    value: Tensor


def test_a_result_without_a_picture_says_how_to_give_it_one():
    with pytest.raises(InputError, match=r"a Unpictured has no figure.\nGive the class .* plot\(self\)"):
        Unpictured(codes=torch.tensor(0), value=torch.tensor(1.0)).plot()


def test_a_subclass_is_drawn_as_what_it_inherits_from(driven):
    class Special(type(driven.pooled)):
        pass

    special = Special(**{field.name: getattr(driven.pooled, field.name) for field in fields(driven.pooled)})
    np.testing.assert_allclose(bars(special.plot().axes[0])[1], driven.pooled.exponents)


# ---------------------------------------------------------------- what is drawn


def test_an_error_bar_that_reaches_zero_means_at_the_edge():
    assert BAR == SURE


def test_the_spectrum_shows_the_exponents_and_twice_their_standard_errors(driven):
    axes = driven.pooled.plot().axes[0]
    index, value, error = bars(axes)
    assert index.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(value, driven.pooled.exponents)
    np.testing.assert_allclose(error, 2 * driven.pooled.stderr, rtol=1e-9)
    assert axes.get_ylabel() == "Lyapunov exponent λᵢ (nats per step)"


def test_the_spread_and_the_runs_are_those_of_the_batch(driven):
    figure = driven.spectrum.plot()
    runs = np.array([line.get_ydata() for line in figure.axes[0].lines if line.get_gid() == "run"])
    np.testing.assert_allclose(runs, driven.spectrum.exponents)
    (band,) = drawn(figure, "spread")
    lower, upper = (driven.spectrum.exponents.mean(0) + sign * driven.spectrum.exponents.std(0) for sign in (-1, 1))
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(float(lower.min())) and heights.max() == pytest.approx(float(upper.max()))


def test_zero_is_marked_and_in_view_however_far_the_exponents_are(driven):
    figure = driven.pooled.plot()
    (line,) = drawn(figure, "zero")
    assert list(line.get_ydata()) == [0, 0]
    low, high = figure.axes[0].get_ylim()
    assert low < 0 < high


def test_erased_directions_are_arrows_below_the_axis_and_counted(relu):
    figure = relu.pooled.plot()
    (arrows,) = drawn(figure, "erased")
    assert arrows.get_xdata().tolist() == [4, 5, 6]
    assert "3 at −∞" in words(figure)
    _, finite, _ = bars(figure.axes[0])
    np.testing.assert_allclose(finite, math.log(0.5), atol=1e-9)
    lane_top = max(drawn(figure, "lanes")[0].get_extents().y1, 0)
    assert arrows.get_transform().transform((4, arrows.get_ydata()[0]))[1] < lane_top


def test_several_spectra_are_told_apart_without_colour(driven, relu):
    figure = plot.compare_spectra({"trained": driven.pooled, "twin": relu.spectrum}, unit="nats per step")
    first, second = (container.lines[0] for container in figure.axes[0].containers)
    np.testing.assert_allclose(first.get_ydata(), driven.pooled.exponents)
    np.testing.assert_allclose(second.get_ydata(), relu.pooled.exponents[:3])
    assert first.get_marker() != second.get_marker() and first.get_linestyle() != second.get_linestyle()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["trained", "twin"]


def test_the_palette_is_told_apart_in_grey_by_lightness_or_marker():
    lightness = [np.dot(to_rgb(look.color), (0.2126, 0.7152, 0.0722)) for look in SERIES]
    assert abs(lightness[0] - lightness[1]) > 0.2, "two curves, the usual case, differ in lightness alone"
    assert len({(look.marker, look.filled) for look in SERIES}) == len({str(look.line) for look in SERIES}) == len(SERIES)


def test_convergence_draws_the_history_and_ends_in_the_band(driven):
    figure = plot.panel_figures(driven)["convergence"]
    (line,) = drawn(figure, "running 1")
    np.testing.assert_allclose(line.get_xdata(), driven.spectrum.history_time.mean(1))
    np.testing.assert_allclose(line.get_ydata(), driven.spectrum.history[..., 0].mean(1))
    band = drawn(figure, "final 1")[0]
    rate, error = driven.lambda_1
    assert band.get_y() == pytest.approx(rate - 2 * error) and band.get_height() == pytest.approx(4 * error)
    assert line.get_ydata()[-1] == pytest.approx(rate)
    assert drawn(figure, "check")[0].get_ydata()[0] == pytest.approx(driven.check[0])
    assert figure.axes[0].get_xlabel() == "averaging time (steps)"


def test_the_check_draws_each_run_and_the_diagonal(driven):
    figure = plot.panel_figures(driven)["check"]
    axes = figure.axes[0]
    line, _, (across, upward) = axes.containers[0].lines
    x, y = line.get_data()
    np.testing.assert_allclose([np.ptp(s[:, 0]) for s in across.get_segments()], 4 * driven.spectrum.stderr[:, 0])
    np.testing.assert_allclose([np.ptp(s[:, 1]) for s in upward.get_segments()], 4 * driven.spectrum.check.stderr)
    np.testing.assert_allclose(x, driven.spectrum.exponents[:, 0])
    np.testing.assert_allclose(y, driven.spectrum.check.rate)
    (diagonal,) = drawn(figure, "diagonal")
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert axes.get_xlim() == axes.get_ylim() and axes.get_aspect() == 1
    worst = float((driven.spectrum.check.rate - driven.spectrum.exponents[:, 0]).abs().max())
    assert plain(worst) in words(figure)


def test_propagation_draws_the_median_the_range_and_the_slope(driven):
    figure = plot.panel_figures(driven)["propagation"]
    axes, growth = figure.axes[0], driven.propagation
    curves = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(curves["largest, σ₁"].get_ydata(), np.median(growth.log_norm, 1))
    np.testing.assert_allclose(curves["typical, ‖J‖/√dim"].get_ydata(), np.median(growth.log_gain, 1))
    (slope,) = drawn(figure, "slope")
    np.testing.assert_allclose(slope.get_ydata(), driven.lambda_1[0] * growth.lags.double())
    heights = drawn(figure, "range largest, σ₁")[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(float(growth.log_norm.min()))


def test_the_right_hand_scale_of_propagation_is_the_factor(driven):
    (scale,) = driven.propagation.plot().axes[0].child_axes
    nats_to_decades = scale._functions[0]
    assert nats_to_decades(math.log(1000)) == pytest.approx(3)
    assert power_of_ten(-12) == "10⁻¹²" and power_of_ten(0) == "1"


def test_the_phase_portrait_draws_every_state_on_equal_scales(driven):
    figure = plot.panel_figures(driven)["plane"]
    axes = figure.axes[0]
    points = drawn(figure, "states 1")[0].get_offsets()
    np.testing.assert_allclose(points, driven.plane.reshape(-1, 2))
    assert list(drawn(figure, "end")[0].get_xydata()[0]) == driven.plane[-1, 0].tolist()
    assert axes.get_aspect() == 1
    assert f"({driven.explained[0]:.0%} of variance)" in axes.get_xlabel()


def test_attractors_are_told_apart_and_the_headline_band_is_of_the_main_one(bistable):
    figure = plot.panel_figures(bistable)["plane"]
    assert "attractor 1" in words(figure) and "attractor 2" in words(figure)
    for group in (0, 1):
        marked = drawn(figure, f"attractor {group + 1}")[0].get_xydata()
        np.testing.assert_allclose(marked, bistable.plane[-1][bistable.groups == group])
    running = drawn(plot.panel_figures(bistable)["convergence"], "running 1")[0].get_ydata()
    assert running[-1] == pytest.approx(bistable.lambda_1[0])


def test_the_histogram_counts_every_sequence_and_marks_mean_spread_and_headline(driven):
    figure = plot.panel_figures(driven)["finite_time"]
    axes, values = figure.axes[0], driven.finite_time
    counts = [bar.get_height() for bar in axes.containers[0]]
    assert sum(counts) == len(values)
    assert drawn(figure, "mean")[0].get_xdata()[0] == pytest.approx(float(values.mean()))
    assert drawn(figure, "spread")[0].get_width() == pytest.approx(2 * float(values.std(correction=0)))
    assert drawn(figure, "headline")[0].get_xdata()[0] == pytest.approx(driven.lambda_1[0])
    assert axes.get_xlabel() == "finite-time exponent over 8 steps (nats per step)"


def test_an_autonomous_network_has_no_histogram(bistable):
    assert "finite_time" not in plot.panel_figures(bistable)


def test_the_border_has_zero_in_its_middle_and_each_rate_with_its_bar():
    figure = plot.border_figure({"a": (0.2, 0.05), "b": (-0.6, 0.01), "c": (-math.inf, 0.0), "d": (math.nan, math.nan)})
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    assert low == -high
    line, _, (span,) = axes.containers[0].lines
    assert line.get_xdata().tolist() == [0.2]
    np.testing.assert_allclose(span.get_segments()[0][:, 0], [0.1, 0.3])
    assert "λ₁ = −∞" in words(figure) and "diverged" in words(figure)


def test_every_axis_has_a_label_and_measured_axes_a_unit(driven):
    figures = [driven.plot(), *plot.panel_figures(driven).values(), driven.spectrum.check.plot()]
    for axes in (axes for figure in figures for axes in figure.axes):
        assert axes.get_xlabel() and axes.get_ylabel()
        both = axes.get_xlabel() + axes.get_ylabel()
        assert re.search(r"\((nats|nats per step|nats per unit time|\d+% of variance)\)", both), both


def test_the_portrait_has_its_four_panels_under_the_verdict(driven):
    figure = driven.plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Spectrum",
        "Gradient propagation",
        "Convergence",
        "Phase portrait",
    ]
    assert driven.verdict in figure.get_suptitle().replace("\n", " ")


def test_diverged_runs_are_said_not_drawn(diverged):
    figure = diverged.plot()
    assert "diverged" in words(figure)
    assert "all diverged" in words(diverged.spectrum.plot())
    assert "all runs diverged" in words(diverged.pooled.plot())
    assert all("<svg" in plot.svg(figure) for figure in plot.panel_figures(diverged).values())


def test_diverged_runs_are_left_out_and_counted():
    spectrum = sx.lyapunov_spectrum(sx.classic.henon(a=torch.tensor([1.2, 1.4, 9.0])), steps=300, check=True)
    figure = spectrum.plot()
    assert "mean of 2 runs (1 diverged)" in words(figure)
    np.testing.assert_allclose(bars(figure.axes[0])[1], spectrum.exponents[:2].mean(0))


# ---------------------------------------------------------------- style and SVG


def test_drawing_leaves_the_users_settings_and_pyplot_alone(driven):
    with matplotlib.rc_context({"font.size": 23.0, "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        plot.svg(driven.plot())
        assert dict(matplotlib.rcParams) == before
    managed = vars(importlib.import_module("matplotlib._pylab_helpers"))["Gcf"].figs
    assert not managed


def test_the_users_settings_do_not_change_the_picture(driven):
    ours = plot.svg(driven.propagation.plot())
    with matplotlib.rc_context(
        {"font.size": 23.0, "axes.grid": False, "xtick.labelsize": 30, "axes.facecolor": "black", "savefig.facecolor": "red"}
    ):
        theirs = plot.svg(driven.propagation.plot())
    assert ours == theirs


def test_an_svg_is_one_accessible_element_without_metadata(driven):
    text = plot.svg(driven.pooled.plot())
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and root.get("role") == "img"
    assert root.get("aria-label").startswith("Lyapunov spectrum of 3 runs. λ₁ = ")
    assert not re.search(r"<\?xml|<!DOCTYPE|<!--|<metadata|<style|<text", text)


def test_words_of_the_user_are_escaped_in_an_svg(driven):
    text = plot.svg(plot.compare_spectra({'<script>"&': driven.pooled}))
    ElementTree.fromstring(text)
    assert "<script" not in text


def test_the_same_figure_gives_the_same_svg(driven):
    assert plot.svg(driven.plot()) == plot.svg(driven.plot())


def test_svgs_in_one_page_share_no_ids_and_refer_to_their_own(driven, relu):
    texts = [plot.svg(driven.propagation.plot()), plot.svg(relu.propagation.plot()), plot.svg(driven.plot(), prefix="mine")]
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in texts]
    assert not ids[0] & ids[1] and not ids[0] & ids[2]
    assert all(name.startswith("mine-") for name in ids[2])
    for text, own in zip(texts, ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)) <= {(n, "") for n in own} | {("", n) for n in own}
        assert len(re.findall(r' id="', text)) == len(own)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (-0.43049, 0.000196, "−0.4305 ± 0.0002"),
        (0.1234, 0.0123, "0.123 ± 0.012"),
        (12.34, 0.9, "12.3 ± 0.9"),
        (1.2e-7, 3e-8, "(1.2 ± 0.3) × 10⁻⁷"),
        (-0.001, 0.04, "0.00 ± 0.04"),
        (-1.1062, 5e-17, "−1.106"),
        (-math.inf, 0.0, "−∞"),
        (math.nan, math.nan, "unknown"),
        (0.5, math.nan, "0.5"),
        (0.0, 0.0, "0"),
    ],
)
def test_a_value_is_said_in_the_digits_of_its_error(value, error, said):
    assert measured(value, error) == said


# ---------------------------------------------------------------- bifurcations


def test_a_branch_is_solid_where_it_is_stable_and_its_flip_is_marked_at_three():
    branch = sx.continuation(sx.classic.logistic(), "r", 2.6, 3.4, torch.tensor([0.6]), step_size=0.03)
    figure = branch.plot()
    (stable,), (unstable,), (mark,) = (drawn(figure, gid) for gid in ("stable", "unstable", "bifurcation"))
    assert stable.get_linestyle() == "-" and unstable.get_linestyle() == "--"
    assert stable.get_xdata().max() < unstable.get_xdata().max() and stable.get_xdata().min() == pytest.approx(2.6)
    assert mark.get_xdata()[0] == pytest.approx(3.0) and mark.get_label() == "flip"
    assert "flip at 3" in figure.get_label()


def test_an_orbit_diagram_shows_every_kept_state():
    diagram = sx.orbit_diagram(sx.classic.logistic(), "r", (2.8, 3.4, 5), steps=10)
    (dots,) = drawn(diagram.plot(), "orbits")
    np.testing.assert_allclose(np.sort(dots.get_ydata()), np.sort(diagram.states.numpy().ravel()))
    np.testing.assert_allclose(np.unique(dots.get_xdata()), diagram.values)


def test_distances_are_drawn_as_they_are_with_the_verdict_in_the_legend():
    echo = sx.echo_state(sx.Map(lambda h: torch.tanh(2 * h), 1), starts=6, steps=200)
    axes = echo.plot().axes[0]
    line = next(line for line in axes.get_lines() if line.get_gid() == "largest 1")
    np.testing.assert_allclose(line.get_ydata(), echo.distance)
    assert "several responses" in axes.get_legend().get_texts()[0].get_text()
    assert axes.get_yscale() == "log"


def test_a_memory_curve_and_its_capacity_are_drawn():
    memory = sx.memory_capacity(sx.Map(lambda x: 0.5 * x, 1), steps=500)
    axes = memory.plot().axes[0]
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), memory.curve)
    assert "of 1" in axes.get_legend().get_texts()[0].get_text()


def test_transient_growth_is_drawn_between_its_two_slopes():
    matrix = torch.tensor([[0.5, 4.0], [0.0, 0.4]], dtype=torch.float64)
    growth = sx.transient_growth(sx.Map(lambda x: x @ matrix.mT, 2), steps=20)
    axes = growth.plot().axes[0]
    curve = next(line for line in axes.get_lines() if line.get_gid() == "growth 1")
    np.testing.assert_allclose(curve.get_ydata(), growth.log_norm)
    assert any(text.get_text().startswith("initial rate") for text in axes.get_legend().get_texts())


def test_windows_of_a_drive_are_drawn_with_their_means():
    inputs = torch.randn(2_000, 2, generator=torch.Generator().manual_seed(0))
    found = sx.stationarity(inputs)
    axes = found.plot().axes[0]
    assert len(axes.get_xticks()) == 8
    assert "stationary" in found.plot().get_label()


def test_further_singular_values_are_drawn_below_the_first():
    growth = sx.gradient_propagation(sx.Map(lambda x: x * torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64), 3))
    names = [line.get_label() for line in growth.plot().axes[0].get_lines()]
    assert {"σ₂", "σ₃"} <= set(names)


def test_results_that_diverged_say_so_in_their_pictures():
    blown = sx.Map(lambda x: 2 + x * x, 1)
    for measure in (sx.echo_state, sx.transient_growth, sx.memory_capacity):
        assert "diverged" in measure(blown, steps=300).plot().axes[0].texts[0].get_text()
