"""The correlation dimension against sets of known dimension, brute force, closed forms of C(r) and published values."""

import math

import numpy as np
import pytest
import torch

import separatrix as sx
from separatrix import plot
from separatrix.analysis.attractor.correlation_dimension import pair_counts

CANTOR = math.log(2) / math.log(3)
ACCUMULATION = 3.569945671870945  # of the logistic map's period doublings


def points_of(name: str, count: int, seed: int = 0) -> np.ndarray:
    """Independent points of a set, (count, dim)."""
    draw = np.random.default_rng(seed)
    turn = 2 * np.pi * draw.random((2, count))
    match name:
        case "interval":
            return draw.random((count, 1))
        case "circle":
            return np.stack([np.cos(turn[0]), np.sin(turn[0])], -1)
        case "square":
            return draw.random((count, 2))
        case "cube":
            return draw.random((count, 3))
        case "normal":
            return draw.normal(size=(count, 2))
        case "cantor":
            return (2 * (draw.random((count, 40)) < 0.5) / 3.0 ** np.arange(1, 41)).sum(-1, keepdims=True)
        case "cantor × interval":
            return np.concatenate([points_of("cantor", count, seed), draw.random((count, 1))], -1)
        case _:
            ring = 2 + np.cos(turn[1])
            return np.stack([np.cos(turn[0]) * ring, np.sin(turn[0]) * ring, np.sin(turn[1])], -1)


DIMENSIONS = {
    "interval": 1.0,
    "circle": 1.0,
    "square": 2.0,
    "normal": 2.0,
    "torus": 2.0,
    "cube": 3.0,
    "cantor": CANTOR,
    "cantor × interval": 1 + CANTOR,
}


@pytest.mark.parametrize("w", [1, 2, 7])
def test_the_tree_counts_the_pairs_that_brute_force_counts(w):
    x = points_of("normal", 203)
    radii = np.geomspace(1e-3, 10, 40)
    i, j = np.triu_indices(len(x), k=w)
    apart = np.linalg.norm(x[i] - x[j], axis=-1)
    counts, most = pair_counts(x, radii, w)
    assert counts.sum((0, 1)).tolist() == [(apart <= radius).sum() for radius in radii]
    assert most == len(i)


@pytest.mark.parametrize("name", DIMENSIONS)
def test_a_set_of_known_dimension_has_it_within_two_error_bars(name):
    """Seeds are fixed; an error bar is that of the range's worst third, so it is wide."""
    found = sx.correlation_dimension_of(points_of(name, 5_000))
    assert found.status == "ok"
    assert abs(float(found.dimension) - DIMENSIONS[name]) < 2 * float(found.stderr)
    assert float(found.stderr) < 0.1


def test_the_error_bar_holds_for_nine_of_ten_draws():
    """20 draws of 1,500 points of a plane's normal distribution, in one batch."""
    draws = torch.as_tensor(np.stack([points_of("normal", 1_500, seed) for seed in range(20)], axis=1))
    found = sx.correlation_dimension_of(draws)
    assert found.batch == (20,) and (found.codes == sx.Status.OK).all()
    assert int(((found.dimension - 2).abs() < 2 * found.stderr).sum()) >= 18


def test_the_share_of_near_pairs_of_a_square_is_the_closed_form():
    """C(r) = π r² − 8 r³/3 + r⁴/2 for r ≤ 1; edges make the share of a point vary by 0.3, so C by 0.6/√4000 = 1 %: 4 of that."""
    found = sx.correlation_dimension_of(points_of("square", 4_000))
    r, share = found.radii, found.correlation
    shown = (r > 0.02) & (r < 1)
    exact = math.pi * r**2 - 8 * r**3 / 3 + r**4 / 2
    assert torch.allclose(share[shown], exact[shown], rtol=0.04)


def test_the_share_of_near_pairs_of_a_circle_is_the_closed_form():
    """C(r) = (2/π) arcsin(r/2): two points an angle a apart are 2 sin(a/2) apart. At equal angles, a point counts one too few or
    many on either side.
    """
    angle = 2 * math.pi * torch.arange(3_001, dtype=torch.float64) / 3_001
    found = sx.correlation_dimension_of(torch.stack([angle.cos(), angle.sin()], -1))
    r, share = found.radii, found.correlation
    shown = (r > 0.05) & (r < 2)
    assert torch.allclose(share[shown], 2 / math.pi * (r[shown] / 2).asin(), atol=1 / 1_500)


def test_another_unit_changes_the_range_and_nothing_else():
    x = points_of("torus", 1_500)
    found, other = sx.correlation_dimension_of(x), sx.correlation_dimension_of(8 * x)
    for name in ("dimension", "stderr", "takens", "correlation"):
        assert torch.allclose(getattr(other, name), getattr(found, name), rtol=1e-10)
    assert torch.allclose(other.range, 8 * found.range, rtol=1e-12)


def test_the_henon_attractor_has_the_published_dimension_below_kaplan_and_yorke_s():
    """1.220 ± 0.036: Sprott & Rowlands 2001, Int. J. Bifurcation Chaos 11, 1865; 1.21 ± 0.01 and 1.25 ± 0.02: Grassberger &
    Procaccia 1983. The Kaplan–Yorke dimension is 1.2583, from λ = 0.41921, −1.62319.
    """
    found = sx.correlation_dimension(sx.classic.henon())
    error = float(found.stderr)
    assert found.status == "ok" and error < 0.04
    assert abs(float(found.dimension) - 1.220) < math.hypot(0.036, error)
    assert float(found.dimension) - 2 * error < 1 + 0.41921 / 1.62319
    assert float(found.takens) == pytest.approx(1.220, abs=0.036)


def test_the_lorenz_attractor_has_the_published_dimension():
    """2.05 ± 0.01: Grassberger & Procaccia 1983; 2.068 ± 0.086: Sprott & Rowlands 2001. 5,000 states."""
    found = sx.correlation_dimension(sx.classic.lorenz63(dt=0.02), steps=25_000, every=5)
    assert found.status == "ok"
    assert abs(float(found.dimension) - 2.05) < 2 * float(found.stderr)
    assert float(found.stderr) < 0.12


def test_the_logistic_map_at_the_end_of_its_doublings_has_the_published_dimension():
    """0.500 ± 0.005: Grassberger & Procaccia 1983, table I."""
    found = sx.correlation_dimension(sx.classic.logistic(ACCUMULATION), settle=30_000)
    assert abs(float(found.dimension) - 0.500) < 2 * float(found.stderr)
    assert float(found.stderr) < 0.04


def test_what_rests_has_dimension_zero_and_a_turning_circle_one():
    rest, cycle = (sx.correlation_dimension(sx.classic.logistic(r), steps=2_000) for r in (2.5, 3.5))
    assert float(rest.dimension) == 0 and float(rest.stderr) == 0 and rest.status == "ok"
    assert abs(float(cycle.dimension)) < 0.02
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)  # by an angle that is no fraction of π
    circle = sx.correlation_dimension(sx.Map(lambda x: x @ turn.mT, 2), torch.tensor([1.0, 0.0], dtype=torch.float64), steps=4_000)
    assert abs(float(circle.dimension) - 1) < 2 * float(circle.stderr) + 1e-3


def test_pairs_near_in_time_make_an_orbit_look_like_a_line():
    """A line that winds densely round a torus, seen 500 times a turn: at small r its own neighbours in time are all there is."""
    t = 2 * np.pi * np.arange(12_000) / 500
    angles = np.stack([np.cos(t), np.sin(t), np.cos(t * 2**0.5), np.sin(t * 2**0.5)], -1)
    naive = sx.correlation_dimension_of(angles, theiler=1)
    apart = sx.correlation_dimension_of(angles, theiler=None)
    assert int(apart.theiler) > 100
    small = (naive.radii > 0.02) & (naive.radii < 0.05)
    near = naive.correlation[small].log().diff() / naive.radii[small].log().diff()
    assert near.mean() == pytest.approx(1, abs=0.1)
    assert (apart.correlation[small] < 0.2 * naive.correlation[small]).all()


def test_a_batch_is_a_loop_and_a_run_that_diverges_is_blank():
    system = sx.Map(lambda x: torch.stack([1 - 1.4 * x[..., 0] ** 2 + x[..., 1], 0.3 * x[..., 0]], -1), 2)
    x0 = torch.tensor([[0.1, 0.1], [9.0, 9.0], [0.3, -0.2]], dtype=torch.float64)
    found = sx.correlation_dimension(system, x0, steps=1_500)
    assert found.status.tolist() == ["ok", "diverged", "ok"]
    assert found.dimension[1].isnan() and found.correlation[:, 1].isnan().all()
    for i in (0, 2):
        alone = sx.correlation_dimension(system, x0[i], steps=1_500)
        assert float(alone.dimension) == pytest.approx(float(found.dimension[i]), rel=1e-12)
    assert "2 ok, 1 diverged" in repr(found)


def test_the_grain_of_single_precision_is_not_taken_for_a_plateau():
    """Below 1,000 roundings of the largest coordinate, distances are those of the arithmetic."""
    x = torch.rand(4_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    found = sx.correlation_dimension_of(x)
    assert abs(float(found.dimension) - 1) < 2 * float(found.stderr)
    assert float(found.range[0]) > 1_000 * torch.finfo(torch.float32).eps * 0.99


def test_too_few_states_for_the_dimension_give_none():
    """300 states resolve at most 2 log₁₀ 300 = 5 dimensions; in ten dimensions no range of two octaves is straight."""
    found = sx.correlation_dimension_of(np.random.default_rng(0).normal(size=(300, 10)))
    assert found.status == "not_converged" and found.dimension.isnan() and found.range.isnan().all()
    assert "not converged" in repr(found)


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        ({"tol": 0}, "tol.* 0"),
        ({"theiler": 0}, "theiler.* 0"),
        ({"every": 0}, "every.* 0"),
        ({"steps": 0}, "steps.* 0"),
        ({"settle": -1}, "settle.* -1"),
        ({"steps": 2.5}, r"steps.* 2\.5"),
    ],
)
def test_options_out_of_range_are_refused(bad, names):
    with pytest.raises(sx.errors.InputError, match=names):
        sx.correlation_dimension(sx.classic.henon(), **bad)


def test_points_of_another_shape_or_kind_are_refused():
    with pytest.raises(sx.errors.ShapeError, match=r"20.*\(5, 2\)"):
        sx.correlation_dimension_of(torch.zeros(5, 2))
    with pytest.raises(sx.errors.InputError, match="int64"):
        sx.correlation_dimension_of(torch.zeros(50, 2, dtype=torch.int64))
    with pytest.raises(sx.errors.InputError, match="points"):
        sx.correlation_dimension_of([["a"]])
    assert sx.correlation_dimension_of(torch.full((50, 2), math.nan)).status == "diverged"


def test_it_respects_the_horizon_of_its_inputs():
    network = sx.Recurrent(torch.nn.RNN(2, 4), torch.randn(200, 2, generator=torch.Generator().manual_seed(0)))
    found = sx.correlation_dimension(network)
    assert found.settings["settle"] + found.settings["steps"] <= 200
    with pytest.raises(sx.errors.HorizonError, match="201"):
        sx.correlation_dimension(network, steps=201)


def test_throw_raises_what_it_otherwise_marks():
    far, cantor = torch.tensor([50.0, 50.0], dtype=torch.float64), torch.tensor([0.1, 0.1], dtype=torch.float64)
    with pytest.raises(sx.errors.DivergedError):
        sx.correlation_dimension(sx.classic.henon(), far, steps=200, throw=True)
    with pytest.raises(sx.errors.NotConvergedError, match="raise steps"):
        sx.correlation_dimension(sx.classic.henon(), cantor, steps=100, throw=True)
    assert sx.correlation_dimension(sx.classic.henon(), cantor, steps=100).status == "not_converged"


def test_it_is_saved_and_loaded(tmp_path):
    found = sx.correlation_dimension_of(points_of("circle", 400))
    again = sx.load(found.save(tmp_path / "dimension"))
    assert isinstance(again, sx.results.CorrelationDimension) and repr(again) == repr(found)
    assert torch.equal(again.slopes.nan_to_num(), found.slopes.nan_to_num())


def test_the_picture_shows_the_fitted_range_over_the_local_slopes():
    found = sx.correlation_dimension_of(points_of("square", 1_500))
    figure = found.plot()
    (band,) = figure.findobj(lambda artist: artist.get_gid() == "range")
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx(found.range.tolist())
    (line,) = figure.findobj(lambda artist: artist.get_gid() == "dimension")
    assert line.get_ydata()[0] == pytest.approx(float(found.dimension))
    assert figure.axes[0].get_xlabel() == "distance r (the state's unit)"
    nothing = sx.correlation_dimension_of(torch.full((50, 2, 2), math.nan, dtype=torch.float64))
    assert "<svg" in plot.svg(nothing.plot())


def test_points_that_coincide_have_dimension_0_and_no_fitted_range():
    found = sx.correlation_dimension_of(torch.zeros(100, 2))
    assert found.dimension == 0 and found.range.isnan().all()
    assert found.summary() == "correlation dimension 0: all 100 states coincide up to rounding"
    with pytest.raises(sx.errors.ShapeError, match="shape"):
        sx.correlation_dimension_of(torch.rand(100, 0, 2))
