"""Return maps: successive maxima of flows and successive values of maps."""

import math

import pytest
import torch
from scipy.special import ellipk

import separatrix as sx
from separatrix.core.components import components
from separatrix.core.derived import Frozen


def damped(dt: float = 0.02) -> sx.Flow:
    """q̈ = −2γ q̇ − ω₀² q with γ = 0.1, ω₀ = 2: each maximum is the last times e^{−γT}, T = 2π/√(ω₀² − γ²)."""
    return sx.Flow(lambda x: components(x[..., 1], -0.2 * x[..., 1] - 4 * x[..., 0]), 2, dt, start=(1.0, 0.3))


def test_a_damped_oscillator_s_maxima_shrink_by_its_logarithmic_decrement():
    found = sx.return_map(damped(), steps=6, settle=2)
    period = 2 * math.pi / math.sqrt(4 - 0.01)
    torch.testing.assert_close(found.after, found.before * math.exp(-0.1 * period), rtol=1e-7, atol=0)
    torch.testing.assert_close(found.intervals, torch.full((6,), period, dtype=torch.float64), rtol=1e-7, atol=0)
    assert found.of_maxima and found.status == "ok"


def test_a_pendulum_s_maxima_are_its_amplitude_a_period_apart():
    """θ̈ = −sin θ released at 2: the period is 4 K(sin 1)."""
    swing = sx.Flow(lambda x: components(x[..., 1], -x[..., 0].sin()), 2, 0.02)
    found = sx.return_map(swing, torch.tensor([2.0, 0.0], dtype=torch.float64), steps=3, settle=0)
    torch.testing.assert_close(found.values, torch.full((4,), 2.0, dtype=torch.float64), rtol=1e-7, atol=0)
    assert float(found.mean_interval[0]) == pytest.approx(4 * ellipk(math.sin(1) ** 2), rel=1e-7)


def test_lorenz_s_maxima_lie_on_one_cusp():
    """Lorenz 1963, fig. 4: z_{n+1} rises with z_n up to the cusp near 38.5 and falls after it, always steeper than 1 (the curve has
    a thickness: only neighbours farther apart than that are compared).
    """
    found = sx.return_map(
        sx.classic.lorenz63(dt=0.02), sx.classic.lorenz63().initial_state((40,)), component=2, steps=12, settle=20
    )
    z, order = found.before.flatten().sort()
    after = found.after.flatten()[order]
    slope = after.diff() / z.diff()
    left, right = (z[1:] < 38.2), (z[:-1] > 38.8)
    assert int(left.sum()) > 100 and int(right.sum()) > 100
    assert (slope[left & (z.diff() > 0.02)] > 1).all()
    assert (slope[right & (z.diff() > 0.02)] < -1).all()


def test_a_map_s_values_follow_its_formula():
    found = sx.return_map(sx.classic.logistic(3.9), steps=50, settle=10)
    torch.testing.assert_close(found.after, 3.9 * found.before * (1 - found.before), rtol=1e-13, atol=1e-13)
    assert found.intervals.eq(1).all() and not found.of_maxima


def test_a_section_s_visits_are_its_points_a_return_time_apart():
    section = sx.Section(sx.classic.rossler(dt=0.05), 1, direction=-1)
    found = sx.return_map(section, steps=5, settle=2)
    orbit = sx.trajectory(section, None, 5, settle=2)
    torch.testing.assert_close(found.values, orbit[:, 0], rtol=0, atol=0)
    times = torch.stack([section.elapsed(u) for u in orbit[:-1]])
    torch.testing.assert_close(found.intervals, times, rtol=1e-10, atol=0)


def test_a_run_whose_maxima_end_is_nan_from_there_on_and_its_neighbours_go_on():
    """q̈ = −q + q² has a well; what begins beyond it has no maximum of q but goes to infinity."""
    flow = sx.Flow(lambda x: components(x[..., 1], x[..., 0] ** 2 - x[..., 0]), 2, 0.05)
    x0 = torch.tensor([[0.3, 0.1], [1.5, 0.1], [-0.2, 0.0]], dtype=torch.float64)
    found = sx.return_map(flow, x0, steps=3, settle=0)
    assert found.status.tolist() == ["ok", "diverged", "ok"]
    assert found.values[:, 1].isnan().all() and found.values[:, [0, 2]].isfinite().all()
    assert "1 of 3 runs ended early" in found.summary()


def test_what_is_saved_is_loaded(tmp_path):
    found = sx.return_map(damped(), steps=4, settle=0)
    again = sx.load(found.save(tmp_path / "map.zarr"))
    assert torch.equal(again.values, found.values) and again.of_maxima is True and again.component == 0


def test_the_picture_shows_each_visit_over_the_one_before():
    found = sx.return_map(sx.classic.logistic(3.9), steps=50, settle=10)
    dots = found.plot().findobj(lambda artist: artist.get_gid() == "visits")[0]
    assert torch.equal(torch.tensor(dots.get_xdata()), found.before)
    assert torch.equal(torch.tensor(dots.get_ydata()), found.after)


def test_the_answer_in_words():
    assert "7 successive maxima of component 0, from" in sx.return_map(damped(), steps=6, settle=0).summary()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"component": 2}, "component is 2; .* 0 to 1"),
        ({"component": -1}, "component.* -1"),
        ({"component": 0.5}, r"component.* 0\.5"),
        ({"steps": 0}, "steps.* 0"),
        ({"max_steps": 0}, "max_steps.* 0"),
        ({"settle": -1}, "settle.* -1"),
    ],
)
def test_options_out_of_range_are_refused(options, names):
    with pytest.raises(sx.errors.InputError, match=names):
        sx.return_map(damped(), **options)


def test_throw_raises_what_it_otherwise_marks():
    henon, far = sx.classic.henon(), torch.tensor([50.0, 50.0], dtype=torch.float64)
    assert sx.return_map(henon, far, steps=20, settle=0).status == "diverged"
    with pytest.raises(sx.errors.DivergedError):
        sx.return_map(henon, far, steps=20, settle=0, throw=True)


def test_a_component_without_a_maximum_and_a_field_of_time_are_refused():
    drift = sx.Flow(lambda x: torch.ones_like(x), 2, 0.1)
    with pytest.raises(sx.errors.InputError, match=r"component 1 .* 50 steps"):
        sx.return_map(drift, component=1, max_steps=50)
    with pytest.raises(sx.errors.InputError, match="time"):
        sx.return_map(sx.classic.duffing())


@pytest.mark.parametrize("derived", [lambda flow: sx.Noisy(flow, 0.1), lambda flow: Frozen(flow, 0)])
def test_maxima_between_steps_are_asked_of_a_flow_itself(derived):
    """A noisy flow goes on in time too, but has no states between its steps; it is no map either."""
    with pytest.raises(sx.errors.UnsupportedModuleError, match="Flow"):
        sx.return_map(derived(sx.classic.lorenz63()), component=2, steps=5)
