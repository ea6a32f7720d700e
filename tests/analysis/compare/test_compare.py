"""Comparisons of systems whose difference is known: copies, other parameters, another clock, linear flows, data; false alarms."""

import math

import pytest
import torch
from scipy.stats import ttest_ind

import separatrix as sx
from separatrix.analysis.attractor.maxima import sampled_return_map
from separatrix.analysis.compare.resampled import DRAWS, of_deviations, of_orbits, return_map_difference, spectrum_difference

QUICK = {"component": 2, "starts": 12, "steps": 1_500, "settle": 600, "points": 1_500}
LORENZ = sx.classic.lorenz63(dt=0.02)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Faster(sx.Field):
    """A field on another clock."""

    def __init__(self, field: sx.Field, factor: float) -> None:
        super().__init__()
        self.field, self.factor = field, factor

    def forward(self, x, t):
        return self.factor * self.field(x, t)

    def pushforward(self, x, v, t):
        value, pushed = self.field.pushforward(x, v, t)
        return self.factor * value, self.factor * pushed


def linear(*rates: float) -> sx.Flow:
    matrix = torch.diag(torch.tensor(rates, dtype=torch.float64))
    return sx.Flow(lambda x: x @ matrix, len(rates), 0.05)


def test_lorenz_agrees_with_itself_from_other_starts_and_its_exponents_are_the_published_ones():
    """Sprott 2003: 0.9056, 0, −14.5723; D_KY 2.0622."""
    found = sx.compare_dynamics(LORENZ, LORENZ, **QUICK)
    assert found.agrees and found.status == "ok" and found.left == found.resting == (0, 0)
    published = {"λ₁": 0.9056, "λ₂": 0.0, "λ₃": -14.5723, "Kaplan–Yorke dimension": 2.0622}
    for name, value in published.items():
        row = found.of(name)
        assert abs(row["true"] - value) < 4 * row["true_stderr"] and row["stderr"] < 0.05
    assert "agree within error bars" in found.summary() and len(found.table().splitlines()) == len(found.names) + 1


def test_another_parameter_is_found_to_differ():
    found = sx.compare_dynamics(sx.classic.lorenz63(rho=26.0, dt=0.02), LORENZ, **QUICK)
    different = {name for name, differs in zip(found.names, found.differs, strict=True) if differs}
    assert not found.agrees and {"mean of x₃", "return map", "time between maxima"} <= different
    assert "differ: " in found.summary() and "mean of x₃ by" in found.summary()


def test_a_faster_clock_changes_rates_and_times_but_no_dimension_or_measure():
    """With 20 orbits; with 12 the power spectra differ significantly for only three seeds in four."""
    found = sx.compare_dynamics(sx.Flow(Faster(LORENZ.field, 1.2), 3, 0.02 / 1.2), LORENZ, **{**QUICK, "starts": 20})
    different = {name for name, differs in zip(found.names, found.differs, strict=True) if differs}
    assert {"λ₃", "time between maxima", "power spectrum"} <= different
    assert not different & {"Kaplan–Yorke dimension", "correlation dimension", "deviation of x₃", "return map", "λ₂"}
    row, gap = found.of("λ₃"), found.of("time between maxima")
    assert row["learned"] / row["true"] == pytest.approx(1.2, abs=0.01)
    assert gap["learned"] / gap["true"] == pytest.approx(1 / 1.2, abs=0.01)


def test_a_linear_flow_has_its_rates_and_comes_to_rest():
    """RK4's own rate is off by (h λ)⁵ / 120 h, 2e-6 here at most; the other exponent is that of a flow with another rate.

    Frames align at the rate 1/2 in a tenth of the steps, 12 units of time, and what is left of their angle counts twice: e⁻¹².
    """
    found = sx.compare_dynamics(linear(-1.0, -1.5), linear(-1.0, -2.0), normal(6, 2), steps=2400, points=0)
    assert found.of("λ₁")["true"] == pytest.approx(-1.0, abs=1e-5)
    assert found.of("λ₂")["true"] == pytest.approx(-2.0, abs=1e-5) and found.of("λ₂")["learned"] == pytest.approx(-1.5, abs=1e-5)
    assert bool(found.differs[found.names.index("λ₂")]) and not bool(found.differs[found.names.index("λ₁")])
    assert found.resting == (6, 6) and "6 of 6 learned orbits ended at rest" in found.summary()


def test_false_alarms_are_as_rare_as_the_level():
    """Hénon's map against itself, 20 times: at a level of 5 % more than 4 alarms have a chance of 0.3 %."""
    henon = sx.classic.henon()
    found = [sx.compare_dynamics(henon, henon, starts=12, steps=400, settle=80, points=0, seed=seed) for seed in range(20)]
    assert sum(not one.agrees for one in found) <= 4
    p = torch.cat([one.p_value for one in found])
    assert 0.2 < float((p < 0.5).double().mean()) < 0.8
    for one in found[:2]:  # the exponents of each orbit add up to ln b
        assert float(one.true[:2].sum()) == pytest.approx(math.log(0.3), abs=1e-9)


def test_orbits_separate_before_they_are_measured_however_short_a_run_is():
    henon = sx.classic.henon()
    found = sx.compare_dynamics(henon, henon, starts=4, steps=40, points=0)
    assert found.settings["settle"] == 400  # a fifth of the default 2,000: these orbits begin near each other


def test_orbits_that_leave_are_an_answer():
    away = sx.compare_dynamics(sx.classic.henon(a=3.0), sx.classic.henon(), starts=8, steps=200)
    assert away.status == "diverged" and away.left == (0, 8) and not away.agrees and away.names == ()
    assert "8 of 8 learned orbits" in away.summary()
    assert away.plot().get_label() == away.summary()
    with pytest.raises(sx.errors.DivergedError, match="8 of 8 learned orbits"):
        sx.compare_dynamics(sx.classic.henon(a=3.0), sx.classic.henon(), starts=8, steps=200, throw=True)


def test_a_few_orbits_that_leave_are_counted_and_the_others_measured():
    """Beyond |x| = 1.28 the learned map runs away; some orbits of Hénon's map come there within 40 steps, others do not."""
    henon = sx.classic.henon()
    leaky = sx.Map(lambda x: torch.where(x[..., :1] > 1.2715, 1e3 * x, henon.step(x)), 2)
    found = sx.compare_dynamics(leaky, henon, starts=64, steps=30, settle=10, points=0)
    assert 0 < found.left[1] < 60 and not found.agrees and found.status == "ok"
    assert f"{found.left[1]} of 64 learned orbits" in found.summary()


def test_data_of_the_truth_take_the_place_of_the_system():
    data = sx.trajectory(LORENZ, LORENZ.initial_state((2,)), 9_000, settle=600, every=2)
    settings = {"dt": 0.04, "component": 2, "starts": 12, "settle": 600, "points": 1_500}
    same = sx.compare_dynamics(LORENZ, data.numpy(), **settings)
    other = sx.compare_dynamics(sx.classic.lorenz63(rho=26.0, dt=0.02), data, **settings)
    assert same.agrees and not other.agrees
    assert not any("λ" in name for name in same.names) and {"return map", "mean of x₁"} <= set(same.names)
    assert same.orbits == (12, 12) and len(same.maps["true"].values) == pytest.approx(4_500 / 6 * 0.04 / 0.75, rel=0.1)


def test_means_are_compared_by_welch_s_test():
    a, b = normal(9), 0.3 + 2 * normal(14, seed=1)
    expected = ttest_ind(b, a, equal_var=False)
    found = of_orbits(a, b)
    assert found.p_value == pytest.approx(float(expected.pvalue), rel=1e-9)
    assert found.z == pytest.approx(float(expected.statistic), rel=1e-9)
    assert found.limit(float(expected.pvalue)) == pytest.approx(abs(found.z), rel=1e-9)


def test_deviations_have_the_error_of_the_delta_method():
    """Of n independent normal numbers in m orbits: σ̂ has the error σ / √(2 n m)."""
    x = 3 * normal(400, 200)
    found = of_deviations((x**2).mean(0), (x**2).mean(0))
    assert found.true == pytest.approx(3, abs=0.03)
    assert found.true_stderr == pytest.approx(3 / math.sqrt(2 * 400 * 200), rel=0.2)


def test_the_distance_of_two_return_maps_is_that_of_their_curves():
    """Logistic maps r x (1 − x) seen from uniform x: the curves are 0.4 x (1 − x) apart, √(1/30) of it in the mean square."""
    x = torch.rand(1_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    series = [torch.stack([x, r * x * (1 - x)]) for r in (3.0, 3.4)]
    maps = [sampled_return_map(states, 1.0, 0, of_maxima=False) for states in series]
    found = return_map_difference(*maps, seed=0)
    spread = float(torch.cat([x.flatten(), x.flatten()]).std())
    assert found.learned * spread == pytest.approx(0.4 * math.sqrt(1 / 30), rel=0.02)
    assert found.p_value == pytest.approx(1 / (DRAWS + 1))
    assert return_map_difference(maps[0], maps[0], seed=0).learned == pytest.approx(0, abs=1e-12)


def test_power_e_times_as_large_is_one_apart_in_every_band():
    series = normal(1_024, 60), math.exp(0.5) * normal(1_024, 60, seed=1)
    found = spectrum_difference(*series, (0.1, 0.1), seed=0)
    assert found.learned == pytest.approx(1, abs=0.05) and found.p_value < 1e-3
    same = spectrum_difference(series[0], normal(1_024, 60, seed=2), (0.1, 0.1), seed=0)
    assert same.p_value > 0.01


def test_sampled_maxima_are_those_of_a_sine():
    """A parabola through samples h apart is off by some h⁴/100 in value and h³/30 in time."""
    t = 0.05 * torch.arange(2_000, dtype=torch.float64)
    phases = torch.tensor([0.0, 0.3, 1.1], dtype=torch.float64)
    found = sampled_return_map((t[:, None] + phases).sin()[..., None], 0.05, 0)
    known = found.values.isfinite()
    assert known.sum(0).tolist() == [16, 16, 16]
    assert float((found.values[known] - 1).abs().max()) < 1e-5
    gaps = found.intervals[found.intervals.isfinite()]
    assert float((gaps - 2 * math.pi).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("truth", "change", "numbers"),
    [
        (sx.classic.henon(), {}, "3 .* 2"),
        (sx.Iterate(LORENZ, 2), {}, "a flow .*a map"),
        (LORENZ, {"starts": 2}, "starts is 2; .* 4"),
        (LORENZ, {"component": 3}, "component is 3; .* 2"),
        (LORENZ, {"level": 0.0}, "level.* 0"),
        (LORENZ, {"points": 10}, "points is 10; .* 1000"),
        (LORENZ, {"steps": 3}, "steps is 3; .* 8"),
        (LORENZ, {"x0": torch.ones(8, 3, dtype=torch.float64)}, "8 orbits .* 1 "),
        (LORENZ, {"seed": -1}, "seed"),
        (normal(500, 3), {}, "dt.* None"),
        (normal(500, 3), {"dt": 0.03}, r"0\.02.* 0\.03"),
        (normal(40, 3), {"dt": 0.02}, "8 .* 40 "),
        (normal(500, 3).log(), {"dt": 0.02}, "of 1500 numbers"),
        (normal(500, 2), {"dt": 0.02}, "3 .* 2"),
        (None, {}, "expected a System, got"),
    ],
)
def test_bad_input_is_refused_in_a_line(truth, change, numbers):
    with pytest.raises(sx.SeparatrixError, match=numbers):
        sx.compare_dynamics(LORENZ, truth, **change)


def test_an_unknown_quantity_is_refused():
    found = sx.compare_dynamics(sx.classic.henon(), sx.classic.henon(), starts=6, steps=100, points=0)
    with pytest.raises(sx.errors.InputError, match="'warmth'"):
        found.of("warmth")
