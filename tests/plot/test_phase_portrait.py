"""What a phase portrait and a flow map show is what was measured."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from torch import nn

import separatrix as sx
from separatrix.plot.flow_map import BACK, FRONT, cells, draw_layer, named, threads
from separatrix.plot.phase_portrait import draw_phase_portrait


def double_well(x: torch.Tensor) -> torch.Tensor:
    q, p = x.unbind(-1)
    return torch.stack([p, q - q**3 - 0.3 * p], dim=-1)


@pytest.fixture(scope="module")
def well() -> sx.results.PhasePortrait:
    return sx.phase_portrait(sx.Flow(double_well, 2, dt=0.02), low=(-2, -1.5), high=(2, 1.5), steps=100, resolution=20)


@pytest.fixture(scope="module")
def lorenz() -> sx.results.PhasePortrait:
    return sx.phase_portrait(sx.classic.lorenz63(), plane=(0, 2), steps=300, resolution=20)


class Fold(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[..., 0].abs(), x[..., 1]], dim=-1)


@pytest.fixture(scope="module")
def folded() -> sx.results.FlowMap:
    sheet = sx.grid((-1, -1), (1, 1), (11, 9))
    return sx.flow_map(
        nn.Sequential(Fold()), sheet, points=sheet[::5, ::4].reshape(-1, 2), classes=torch.arange(9) % 2, align=False
    )


def lines(axes, gid: str) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in axes.lines if line.get_gid() == gid]


def test_nullclines_and_manifolds_are_drawn_where_they_were_found(well):
    axes = well.plot().axes[0]
    for number, line in enumerate((well.nullcline_1, well.nullcline_2), 1):
        np.testing.assert_array_equal(lines(axes, f"nullcline {number}")[0], line.numpy())
    for name, curves in (("separatrix", well.stable), ("unstable manifold", well.unstable)):
        np.testing.assert_array_equal(np.stack(lines(axes, name)), curves.numpy())
    assert axes.get_xlim() == (-2, 2) and axes.get_ylim() == (-1.5, 1.5)


def test_fixed_points_are_marked_by_kind_as_elsewhere(well):
    """The same colours and markers as in the picture of `fixed_points`: full where they attract."""
    axes = well.plot().axes[0]
    for kind in ("stable focus", "saddle with 1 unstable direction"):
        rows = [i for i, name in enumerate(well.rest.kind) if name == kind]
        np.testing.assert_array_equal(lines(axes, kind)[0], well.rest_places[rows].numpy())
        ours = next(line for line in axes.lines if line.get_gid() == kind)
        theirs = next(line for line in well.rest.plot().axes[0].lines if line.get_gid() == kind)
        for look in ("get_marker", "get_markerfacecolor", "get_markeredgecolor"):
            assert getattr(ours, look)() == getattr(theirs, look)()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "2 × stable focus" in labels and "separatrix (stable manifold)" in labels


def test_in_more_than_two_dimensions_the_share_that_leaves_the_plane_is_shown(lorenz, well):
    axes = lorenz.plot().axes[0]
    mesh = next(one for one in axes.collections if one.get_gid() == "leaving")
    np.testing.assert_array_equal(np.asarray(mesh.get_array()).reshape(20, 20), lorenz.leaving.T.numpy())
    assert mesh.get_clim() == (0, 1)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert not any("separatrix" in label for label in labels) and any("off the plane" in label for label in labels)
    assert not [one for one in well.plot().axes[0].collections if one.get_gid() == "leaving"]


def test_a_flow_has_streamlines_and_a_map_has_arrows(well):
    henon = sx.phase_portrait(sx.classic.henon(), steps=50, resolution=24)
    axes = henon.plot().axes[0]
    (arrows,) = [one for one in axes.collections if one.get_gid() == "arrows"]
    size = np.hypot(arrows.U, arrows.V)
    np.testing.assert_allclose(size, np.ones_like(size), rtol=1e-12)
    assert not [one for one in well.plot().axes[0].collections if one.get_gid() == "arrows"]
    assert any(isinstance(one, LineCollection) for one in well.plot().axes[0].collections)


def test_parts_of_a_portrait_can_be_left_out(well):
    axes = Figure().subplots()
    draw_phase_portrait(axes, well, names=("q", "p"), orbits=False, nullclines=False, legend=False)
    assert lines(axes, "orbits") == [] and lines(axes, "nullcline 1") == [] and axes.get_legend() is None
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("q", "p")


def test_a_sheet_is_drawn_cell_by_cell_with_its_back_in_another_colour(folded):
    axes = folded.plot().axes[1]
    (sheet,) = [one for one in axes.collections if isinstance(one, PolyCollection)]
    corners = np.stack([path.vertices[:4] for path in sheet.get_paths()])
    np.testing.assert_array_equal(corners, cells(folded.images[1].numpy()))
    faces, flipped = sheet.get_facecolor(), folded.flipped[1].reshape(-1).numpy()
    front, back = (np.array([int(hue[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for hue in (FRONT, BACK))
    np.testing.assert_allclose(faces[~flipped, :3], np.tile(front, (int((~flipped).sum()), 1)), atol=1e-12)
    np.testing.assert_allclose(faces[flipped, :3], np.tile(back, (int(flipped.sum()), 1)), atol=1e-12)
    for kind in (0, 1):
        np.testing.assert_array_equal(lines(axes, f"class {kind}")[0], folded.dots[1][folded.classes == kind].numpy())


def test_the_threads_of_a_sheet_are_its_grid_lines_edges_among_them():
    places = sx.grid((0, 0), (1, 2), (30, 5)).numpy()
    drawn = threads(places)
    assert len(drawn) == 13 + 5
    np.testing.assert_array_equal(drawn[0], places[0])
    np.testing.assert_array_equal(drawn[12], places[-1])
    np.testing.assert_array_equal(drawn[-1], places[:, -1])


def test_every_layer_has_a_panel_and_a_name(folded):
    figure = folded.plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["input", "layer 0"]
    assert named(folded, 0) == "input" and figure.get_label().startswith("99 inputs mapped through 1 layer")


def test_what_has_no_grid_is_drawn_as_dots_and_what_diverged_is_said():
    some = torch.tensor([[0.1, 0.1], [0.2, 0.0], [0.0, 0.3]], dtype=torch.float64)
    axes = sx.flow_map(sx.classic.henon(), some, steps=2).plot().axes[0]
    np.testing.assert_array_equal(lines(axes, "inputs")[0], some.numpy())
    gone = sx.flow_map(sx.classic.henon(), 1e3 * torch.ones(3, 3, 2, dtype=torch.float64), steps=30)
    axes = Figure().subplots()
    draw_layer(axes, gone, len(gone.names) - 1)
    assert "became infinite or NaN" in axes.texts[0].get_text()
