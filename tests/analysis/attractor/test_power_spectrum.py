"""Power spectra: Parseval, known frequencies, and verdicts beside λ₁ on systems whose kind is known."""

import math

import pytest
import torch

import separatrix as sx
from separatrix import plot

GOLDEN = (math.sqrt(5) - 1) / 2
SILVER = math.sqrt(2) - 1


def turning(*rates: float, dt: float = 0.05) -> sx.Flow:
    """Uncoupled harmonic oscillators of these angular frequencies."""
    rate = torch.tensor(rates, dtype=torch.float64)

    def field(x):
        p, q = x.chunk(2, dim=-1)
        return torch.cat([rate.to(x) * q, -rate.to(x) * p], -1)

    return sx.Flow(field, 2 * len(rates), dt, start=(1.0,) * len(rates) + (0.0,) * len(rates))


def circle_map(K: float, shift: float) -> sx.Map:
    return sx.Map(lambda x: x + shift - K / (2 * math.pi) * (2 * math.pi * x).sin(), 1)


def turns(x: torch.Tensor) -> torch.Tensor:
    """Turns as points of the circle."""
    return torch.cat([(2 * math.pi * x).sin(), (2 * math.pi * x).cos()], dim=-1)


def angles(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x.sin(), x.cos()], dim=-1)


def van_der_pol(mu: float) -> sx.Flow:
    def field(x):
        return torch.stack([x[..., 1], mu * (1 - x[..., 0] ** 2) * x[..., 1] - x[..., 0]], -1)

    return sx.Flow(field, 2, 0.02, start=(1.0, 0.0))


def state(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# ---------------------------------------------------------------- the spectrum


@pytest.mark.parametrize("name", ["henon", "logistic", "rossler"])
def test_the_integral_of_the_density_is_the_variance(name):
    system = sx.tables.SYSTEMS[name]()
    spectrum = sx.power_spectrum(system, steps=3_000, settle=500, every=1)
    orbit = sx.trajectory(system, None, 2_999, settle=500)
    variance = float(orbit.var(0, correction=0).sum())
    spacing = float(spectrum.frequencies[1])
    assert float(spectrum.variance) == pytest.approx(variance, rel=1e-10)
    assert float(spectrum.power.sum() * spacing) == pytest.approx(variance, rel=1e-10)
    assert float(spectrum.frequencies[-1]) == pytest.approx(0.5 / system.dt)


def test_white_noise_has_a_flat_density_and_is_all_broadband():
    """A map that forgets everything but the noise: variance 0.01, one-sided density 2 · 0.01 / 1 at any frequency."""
    spectrum = sx.power_spectrum(sx.Noisy(sx.Map(lambda x: 0 * x, 1), 0.1), steps=16_384)
    assert float(spectrum.power[1:-1].mean()) == pytest.approx(0.02, rel=0.05)
    assert float(spectrum.broadband) == pytest.approx(1, abs=0.05)
    assert spectrum.verdict == "undecided" and spectrum.status == "not_converged"


def test_a_line_is_at_the_frequency_of_its_oscillator():
    """RK4 turns slower by (ω dt)⁴ / 120, here 5e-8 of ω. The record ends within a turn, so that it has a mean."""
    spectrum = sx.power_spectrum(turning(1.0), every=2)
    assert spectrum.verdict == "periodic"
    assert float(spectrum.base[0]) == pytest.approx(1 / (2 * math.pi), rel=1e-6)
    assert float(spectrum.line_shares[0]) == pytest.approx(1, abs=1e-4)


def test_two_oscillators_show_both_frequencies_and_have_no_base():
    spectrum = sx.power_spectrum(turning(1.0, math.sqrt(2)), every=2)
    assert spectrum.verdict == "quasi-periodic"
    assert sorted(spectrum.base.tolist()) == pytest.approx([1 / (2 * math.pi), math.sqrt(2) / (2 * math.pi)], rel=1e-5)


def test_two_oscillators_at_three_to_two_have_the_base_of_both():
    spectrum = sx.power_spectrum(turning(1.0, 1.5), every=2)
    assert spectrum.verdict == "periodic"
    assert float(spectrum.base[0]) == pytest.approx(0.5 / (2 * math.pi), rel=1e-5)


# ---------------------------------------------------------------- the verdict


def test_the_logistic_maps_verdicts_agree_with_its_exponents():
    """At rest, cycles of 2, 4, 3, 5 and 48 steps, two and eight chaotic bands, intermittency before the window of 3, chaos."""
    r = state(2.5, 3.2, 3.5, 3.83, 3.74, 3.5705, 3.6, 3.575, 3.8284, 3.9, 3.99)
    spectrum = sx.power_spectrum(sx.classic.logistic(r))
    wanted = ["at rest"] + ["periodic"] * 5 + ["chaotic"] * 5
    assert spectrum.verdict.tolist() == wanted
    assert (spectrum.codes == sx.Status.OK).all()
    assert (1 / spectrum.base[1:5, 0]).tolist() == pytest.approx([2, 4, 3, 5], rel=1e-6)
    rate = sx.lyapunov_spectrum(sx.classic.logistic(r), steps=8_000).exponents[:, 0]
    assert (rate > 0).tolist() == [word == "chaotic" for word in wanted]


@pytest.mark.long
@pytest.mark.parametrize(
    ("system", "x0", "observable", "verdict"),
    [
        (circle_map(0.0, GOLDEN), state(0.1), turns, "quasi-periodic"),
        (circle_map(0.0, SILVER), state(0.1), turns, "quasi-periodic"),
        (circle_map(0.0, 3 / 7), state(0.1), turns, "periodic"),
        (circle_map(0.5, 0.6066), state(0.1), turns, "quasi-periodic"),
        (circle_map(0.9, 0.5), state(0.1), turns, "periodic"),
        (sx.classic.standard_map(0.6), state(math.pi + 0.3, 2 * math.pi * GOLDEN), angles, "quasi-periodic"),
        (sx.classic.standard_map(1.0), state(math.pi + 0.2, 0.0), angles, "quasi-periodic"),
        (sx.classic.standard_map(5.0), None, angles, "chaotic"),
        (sx.classic.henon(), None, None, "chaotic"),
        (sx.classic.henon(1.0), None, None, "periodic"),
        (sx.classic.towel(), None, None, "chaotic"),
    ],
    ids=["golden", "silver", "3/7", "circle map", "locked", "KAM", "island", "kicked", "henon", "henon cycle", "towel"],
)
def test_maps_have_the_verdict_of_their_kind_and_exponent(system, x0, observable, verdict):
    spectrum = sx.power_spectrum(system, x0, observable=observable)
    assert spectrum.verdict == verdict
    rate = float(sx.lyapunov_spectrum(system, x0, k=1, steps=1_000).exponents[0])
    assert (rate > 0.01) == (verdict == "chaotic")


@pytest.mark.long
def test_lorenz_is_chaotic_at_28_and_periodic_in_its_windows_at_100_5_and_160():
    """Sparrow 1982, The Lorenz Equations: stable orbits for 99.524 < ρ < 100.795 and 145.9 < ρ < 166.1."""
    system = sx.classic.lorenz63(rho=state(28.0, 100.5, 160.0), dt=0.005)
    spectrum = sx.power_spectrum(system, every=8, steps=3_000 * 8, settle=12_000)
    assert spectrum.verdict.tolist() == ["chaotic", "periodic", "periodic"]


@pytest.mark.long
def test_rossler_goes_from_one_loop_to_two_to_chaos():
    system = sx.classic.rossler(c=state(2.5, 3.5, 5.7))
    spectrum = sx.power_spectrum(system, steps=24_000, every=5)
    assert spectrum.verdict.tolist() == ["periodic", "periodic", "chaotic"]
    strongest = spectrum.lines[:2, 0]
    assert (strongest / spectrum.base[:2, 0]).tolist() == pytest.approx([1, 2], abs=1e-4)


@pytest.mark.long
def test_van_der_pols_oscillator_has_its_known_period():
    """T(μ = 1) = 6.66328686: Andersen & Geer 1982, SIAM J. Appl. Math. 42, 678."""
    spectrum = sx.power_spectrum(van_der_pol(1.0))
    assert spectrum.verdict == "periodic"
    assert 1 / float(spectrum.base[0]) == pytest.approx(6.66328686, rel=1e-5)


@pytest.mark.long
def test_a_forced_oscillator_answers_at_its_drive_or_in_chaos():
    """Duffing's equation at ω = 1.2: γ = 0.2 answers in one period, γ = 0.5 is chaotic."""
    system = sx.classic.duffing(gamma=state(0.2, 0.5))
    spectrum = sx.power_spectrum(system, every=4, steps=16_000)
    assert spectrum.verdict.tolist() == ["periodic", "chaotic"]
    assert float(spectrum.base[0, 0]) == pytest.approx(1.2 / (2 * math.pi), rel=1e-5)
    rate = sx.lyapunov_spectrum(system, k=1, steps=4_000).exponents[:, 0]
    assert (rate > 0.02).tolist() == [False, True]


@pytest.mark.parametrize(
    "system", [sx.Noisy(sx.classic.logistic(2.8), 0.01), sx.Noisy(van_der_pol(1.0), 0.05)], ids=["map", "flow"]
)
def test_noise_is_broadband_but_no_chaos(system):
    spectrum = sx.power_spectrum(system, steps=6_000)
    assert spectrum.verdict == "undecided" and spectrum.status == "not_converged"
    assert float(spectrum.broadband) > 0.01 and int(spectrum.parted_at) == -1
    assert "stay together" in repr(spectrum)


def test_a_network_that_forgets_its_random_inputs_start_is_no_chaos():
    torch.manual_seed(0)
    inputs = torch.randn(3_000, 2, generator=torch.Generator().manual_seed(1))
    spectrum = sx.power_spectrum(sx.Recurrent(torch.nn.RNN(2, 8), inputs))
    assert spectrum.verdict == "undecided" and int(spectrum.parted_at) == -1


def test_a_strange_attractor_without_chaos_is_undecided_or_lines():
    """Of  x' = 2σ tanh(x) cos 2πθ,  θ' = θ + golden,  σ > 1: Grebogi, Ott, Pelikan & Yorke 1984, Physica D 13, 261."""

    def step(x):
        p, theta = x.unbind(-1)
        return torch.stack([3.0 * p.tanh() * (2 * math.pi * theta).cos(), (theta + GOLDEN).remainder(1.0)], -1)

    spectrum = sx.power_spectrum(sx.Map(step, 2), state(0.5, 0.1), observable=lambda x: x[..., :1])
    assert spectrum.verdict != "chaotic" and spectrum.verdict != "periodic"
    assert int(spectrum.parted_at) == -1


def test_a_record_that_is_too_short_for_its_chaos_is_undecided():
    """Rössler's λ₁ is 0.07: in 80 units of time two orbits part by 6 nats."""
    spectrum = sx.power_spectrum(sx.classic.rossler(), steps=4_000)
    assert spectrum.verdict == "undecided" and spectrum.status == "not_converged"


def test_single_precision_is_enough_for_a_verdict():
    r = torch.tensor([2.5, 3.5, 3.9])
    spectrum = sx.power_spectrum(sx.classic.logistic(r), torch.tensor([0.3]))
    assert spectrum.power.dtype == torch.float64 and spectrum.settings["dtype"] == "torch.float32"
    assert spectrum.verdict.tolist() == ["at rest", "periodic", "chaotic"]


# ---------------------------------------------------------------- the record


def test_a_batch_is_a_loop_and_a_run_that_diverges_is_blank():
    x0 = state(0.1, 0.1, 50.0, 50.0, 0.3, -0.2).reshape(3, 2)
    spectrum = sx.power_spectrum(sx.classic.henon(), x0, steps=2_000)
    assert spectrum.status.tolist() == ["ok", "diverged", "ok"]
    assert spectrum.power[:, 1].isnan().all() and spectrum.broadband[1].isnan()
    for i in (0, 2):
        alone = sx.power_spectrum(sx.classic.henon(), x0[i], steps=2_000)
        assert torch.allclose(alone.power, spectrum.power[:, i], rtol=1e-9)
    assert repr(spectrum) == "power spectra of 3 runs: 2 chaotic, 1 diverged"


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        ({"steps": 20}, "32.* 20"),
        ({"every": 0}, "every.* 0"),
        ({"settle": -2}, "settle.* -2"),
        ({"seed": -1}, "seed.* -1"),
    ],
)
def test_options_out_of_range_are_refused(bad, names):
    with pytest.raises(sx.errors.InputError, match=names):
        sx.power_spectrum(sx.classic.henon(), **bad)


def test_throw_raises_what_it_otherwise_marks():
    with pytest.raises(sx.errors.DivergedError):
        sx.power_spectrum(sx.classic.henon(), state(50.0, 50.0), steps=100, throw=True)
    noise = sx.Noisy(sx.Map(lambda x: 0.5 * x, 1), 0.1)
    assert sx.power_spectrum(noise, steps=500).status == "not_converged"
    with pytest.raises(sx.errors.NotConvergedError, match="more steps"):
        sx.power_spectrum(noise, steps=500, throw=True)


def test_an_observable_keeps_time_and_batch():
    with pytest.raises(sx.errors.ShapeError, match="observable"):
        sx.power_spectrum(sx.classic.henon(), steps=100, observable=lambda x: x[..., 0])
    with pytest.raises(sx.errors.HorizonError):
        sx.power_spectrum(sx.Recurrent(torch.nn.RNN(1, 2), torch.zeros(50, 1)), steps=100)


def test_it_is_saved_and_loaded(tmp_path):
    spectrum = sx.power_spectrum(sx.classic.logistic(3.5), steps=500)
    again = sx.load(spectrum.save(tmp_path / "spectrum"))
    assert isinstance(again, sx.results.PowerSpectrum) and repr(again) == repr(spectrum)
    assert again.verdict == "periodic" and torch.equal(again.power, spectrum.power)


def test_the_picture_shows_the_density_and_its_lines():
    spectrum = sx.power_spectrum(sx.classic.logistic(3.5), steps=1_000)
    figure = spectrum.plot()
    (marks,) = figure.findobj(lambda artist: artist.get_gid() == "lines")
    assert sorted(marks.get_xdata()) == pytest.approx([0.25, 0.5])
    assert "periodic" in [text.get_text() for text in figure.axes[0].texts]
    batch = sx.power_spectrum(sx.classic.logistic(state(2.5, 3.5, 3.9)), steps=1_000)
    legend = [text.get_text() for text in batch.plot().axes[0].get_legend().get_texts()]
    assert legend == ["run 1: at rest", "run 2: periodic", "run 3: chaotic"]
    assert "<svg" in plot.svg(sx.power_spectrum(sx.classic.logistic(2.5), steps=500).plot())
