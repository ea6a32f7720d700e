"""The picture of a profile shows what was measured."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import separatrix as sx
from of_function import Of
from separatrix import plot
from separatrix.plot.depth import draw_gains
from separatrix.plot.style import canvas


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.inside(x))


@pytest.fixture(scope="module")
def profile() -> sx.results.DepthProfile:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), Block(), Block(), nn.Linear(5, 3))
    return sx.depth_profile(model, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))


def test_the_curves_are_the_medians_over_the_inputs_along_the_layers_that_carry_the_whole_signal(profile):
    whole = profile.cut
    growth, gradients = profile.plot().axes
    drawn = {line.get_label(): line.get_ydata() for line in growth.lines}
    assert drawn["singular values σ₁ … σ₄"] == pytest.approx(profile.singular_values[whole, :, 0].quantile(0.5, dim=1).numpy())
    medians = [line.get_ydata() for line in growth.lines if len(line.get_ydata()) == int(whole.sum())]
    assert any(np.allclose(line, profile.gain.quantile(0.5, dim=1)[whole]) for line in medians)
    assert np.allclose(gradients.lines[0].get_ydata(), profile.gradient.quantile(0.5, dim=1)[whole])


def test_layers_are_named_and_full_where_the_whole_signal_passes(profile):
    growth, gradients = profile.plot().axes
    assert [label.get_text() for label in gradients.get_xticklabels()] == ["0", "1.inside", "1", "2.inside", "2", "3"]
    full = next(line for line in growth.lines if line.get_label() == "gain ‖J‖/√d")
    assert full.get_xdata().tolist() == [0, 2, 4, 5]
    assert growth.get_yscale() == gradients.get_yscale() == "log"


def test_the_pictures_label_tells_the_verdict(profile):
    assert profile.plot().get_label().endswith(f"{profile.verdict}.")


def test_several_networks_share_a_relative_depth(profile):
    _, ((axes,),) = canvas()
    draw_gains(axes, {"one": profile, "other": profile})
    curves = {line.get_label(): line for line in axes.lines}
    assert curves["one"].get_xdata().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert np.allclose(curves["other"].get_ydata(), profile.gain.quantile(0.5, dim=1)[profile.cut])


def test_one_input_a_single_layer_and_a_dead_network_have_pictures():
    dead = nn.Sequential(nn.Linear(3, 3, dtype=torch.float64), nn.ReLU())
    nn.init.constant_(dead[0].bias, -100.0)
    for model, layers in ((dead, None), (dead, ["0"]), (dead, ["1"])):
        figure = sx.depth_profile(model, torch.ones(1, 3), layers=layers).plot()
        figure.canvas.draw()
    assert any("exactly 0" in text.get_text() for text in figure.axes[0].texts)


def test_a_network_that_diverges_everywhere_says_so():
    class Overflow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 1e200) ** 2

    profile = sx.depth_profile(Overflow(), torch.ones(2, 3))
    assert "every input diverged" in profile.summary()
    assert profile.plot().axes[0].texts[0].get_text() == "all inputs diverged"


def test_the_second_figure_shows_gradients_of_parameters_overflow_and_dead_units():
    """Layers that float16 cannot hold, one with two of five units that are never above 0, and a gradient too small for float16."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].bias[[1, 3]] = -100.0
        model[0].bias[0] = 1e6
    profile = sx.depth_profile(model, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), loss=lambda y: 1e-9 * y.sum())
    gradients, magnitudes, shares = plot.layer_sizes_figure(profile).axes
    (line,) = gradients.lines
    assert line.get_xdata().tolist() == [0, 2] and line.get_ydata() == pytest.approx(
        profile.parameter_gradient[[0, 2]].quantile(0.5, dim=1).numpy()
    )
    assert gradients.get_yscale() == magnitudes.get_yscale() == "log"
    drawn = {line.get_label(): line.get_ydata() for line in magnitudes.lines}
    assert drawn["largest magnitude"] == pytest.approx(profile.peak.quantile(0.5, dim=1).numpy())
    assert drawn["root mean square"] == pytest.approx(profile.activation.quantile(0.5, dim=1).numpy())
    (limit,) = magnitudes.findobj(lambda artist: artist.get_gid() == "limit")
    assert list(limit.get_ydata()) == [65504.0] * 2
    assert (drawn["largest magnitude"] > 65504).all() and (profile.margin() < 1).all()
    assert [bar.get_height() for bar in shares.patches] == pytest.approx([0.0, 0.4, 0.0])
    (lost,) = shares.findobj(lambda artist: artist.get_gid() == "underflow")
    assert lost.get_ydata()[-1] == 1.0
    assert [label.get_text() for label in shares.get_xticklabels()] == ["0", "1", "2"]


def test_the_second_figure_says_why_it_is_empty(profile):
    old = dataclasses.replace(profile, peak=None, parameter_gradient=None)
    assert [axes.texts[0].get_text() for axes in plot.layer_sizes_figure(old).axes] == ["not measured"] * 3
    overflow = sx.depth_profile(Of(lambda x: (x * 1e200) ** 2), torch.ones(2, 3))
    assert {axes.texts[0].get_text() for axes in plot.layer_sizes_figure(overflow).axes} == {"all inputs diverged"}
    bare = sx.depth_profile(Of(torch.tanh), torch.ones(2, 3))
    assert plot.layer_sizes_figure(bare).axes[0].texts[0].get_text() == "no layer has weights of its own"
