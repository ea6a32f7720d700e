"""Echo states: one unit whose answer is known, for every strength of its memory and its drive."""

import math

import pytest
import torch

import separatrix as sx


def noise(steps: int, scale: float, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(w: float, drive: torch.Tensor) -> sx.Map:
    """h' = tanh(w h + u_n)."""
    return sx.Map(lambda h, n: torch.tanh(w * h + drive[n]), 1, time_dependent=True)


@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0])
def test_a_unit_with_a_weight_below_one_forgets_under_any_drive_at_least_as_fast_as_its_weight(scale):
    """|tanh′| ≤ 1, so that each step shrinks every distance by the factor 0.8 or less."""
    found = sx.echo_state(unit(0.8, noise(400, scale)), steps=400)
    assert found.verdict == "echo state"
    assert int(found.responses) == 1
    assert found.contraction <= math.log(0.8) + 1e-12
    assert found.exponent <= math.log(0.8) + 1e-12
    assert found.status == "ok"


def test_a_linear_unit_contracts_at_exactly_its_weight():
    drive = noise(200, 1.0)
    found = sx.echo_state(sx.Map(lambda h, n: -0.6 * h + drive[n], 1, time_dependent=True), steps=200, starts=5)
    assert float(found.contraction) == pytest.approx(math.log(0.6), abs=1e-6)  # up to the growth of the states' size
    assert float(found.exponent) == pytest.approx(math.log(0.6), abs=1e-12)
    torch.testing.assert_close(found.exponents, torch.full((5,), math.log(0.6), dtype=torch.float64))


def test_a_bistable_unit_has_no_echo_states_although_its_exponent_is_negative():
    """w = 2 and drive within ±0.1: h stays on the side it began on, since 2h − tanh⁻¹h > 0.1 somewhere on (0, 1)."""
    found = sx.echo_state(unit(2.0, noise(2_000, 0.1).clamp(-0.1, 0.1)))
    assert found.verdict == "several responses"
    assert int(found.responses) == 2
    assert found.exponent + 10 * found.stderr < 0
    positive = found.groups[0] == found.groups
    assert 0 < int(positive.sum()) < 32
    assert "2 different places" in found.summary()


def test_a_large_drive_makes_a_bistable_unit_forget():
    found = sx.echo_state(unit(2.0, noise(2_000, 2.0)))
    assert found.verdict == "echo state"
    assert found.distance[-1] < 1e-12


def test_the_fixed_points_of_a_bistable_unit_have_the_exponent_of_their_multiplier():
    """h = tanh(2h) at ±0.95750402407729, where the multiplier is 2(1 − h²)."""
    found = sx.echo_state(sx.Map(lambda h: torch.tanh(2 * h), 1), starts=8)
    assert found.verdict == "several responses"
    exact = math.log(2 * (1 - 0.95750402407729**2))
    assert found.exponents.tolist() == pytest.approx([exact] * 8, abs=1e-9)
    assert float(found.distance[-1]) == pytest.approx(2, abs=1e-9)  # +h* and −h*, over h*


def test_a_chaotic_map_is_sensitive():
    """Nearby states separate at ln 2 on x → 1 − 2x², a conjugate of the doubling map."""
    found = sx.echo_state(sx.Map(lambda x: 1 - 2 * x * x, 1), torch.tensor([0.1], dtype=torch.float64), spread=0.5, starts=12)
    assert found.verdict == "sensitive"
    assert float(found.exponent) == pytest.approx(math.log(2), abs=0.01)
    assert int(found.responses) == 12


def test_slow_forgetting_is_undecided_not_several_responses():
    """0.9995^2000 leaves e^−1 of the distance."""
    found = sx.echo_state(sx.Map(lambda h: 0.9995 * h, 1))
    assert found.verdict == "undecided"
    assert found.status == "not_converged"
    assert float(found.contraction) == pytest.approx(math.log(0.9995), rel=1e-9)


def test_each_item_of_a_batch_has_its_own_verdict():
    gains = torch.tensor([0.5, 2.0, 0.9995], dtype=torch.float64)
    found = sx.echo_state(
        sx.classic.logistic(torch.tensor([2.5, 3.2, 3.9], dtype=torch.float64)), torch.tensor([0.5]).double(), spread=0.4
    )
    assert found.verdict.tolist() == ["echo state", "several responses", "sensitive"]
    assert found.responses[:2].tolist() == [1, 2]  # the two phases of the 2-cycle
    several = sx.echo_state(sx.Map(lambda h: torch.tanh(gains[:, None] * h), 1), torch.zeros(3, 1).double(), steps=1_000)
    assert several.verdict.tolist() == ["echo state", "several responses", "undecided"]


def test_states_that_diverge_rule_out_an_echo_state():
    """x → x²: inside ±1 all states converge to 0, outside they grow without bound."""
    found = sx.echo_state(sx.Map(lambda x: x * x, 1), spread=1.5, steps=600)
    grow = int((found.groups < 0).sum())
    assert 0 < grow < 32
    assert found.verdict == "several responses"
    assert f"{grow} diverge" in found.summary()
    all_diverge = sx.echo_state(sx.Map(lambda x: 2 + x * x, 1), steps=100)
    assert (all_diverge.verdict, all_diverge.status) == ("diverged", "diverged")


def test_a_gru_driven_by_its_stream_is_followed_copy_by_copy(tmp_path):
    torch.manual_seed(0)
    system = sx.Recurrent(torch.nn.GRU(2, 6), sx.Stream(torch.randn(9, 8, 2), copies=3))
    found = sx.echo_state(system, starts=4, steps=300)
    assert found.groups.shape == (4, 3)
    assert (found.verdict == "echo state").all()
    rate = sx.lyapunov_spectrum(system, k=1, steps=240, settle=60).exponents[:, 0]
    torch.testing.assert_close(found.exponent, rate, rtol=0, atol=5e-3)  # other starts and frames: O(1/T)
    again = sx.load(found.save(tmp_path / "echo.zarr"))
    assert torch.equal(again.distance, found.distance) and torch.equal(again.time, found.time)
    assert found.to_dataset().distance.sel(time=300.0).dims == ("batch",)
    assert (again.verdict == found.verdict).all()


def test_states_mapped_to_one_point_have_converged_with_an_exponent_of_minus_infinity():
    found = sx.echo_state(sx.Map(lambda x: 0.0 * x + 1, 2), steps=50)
    assert found.verdict == "echo state"
    assert float(found.exponent) == float(found.contraction) == -math.inf


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"starts": 1}, "starts.* 1"),
        ({"spread": 0.0}, r"spread.* 0\.0"),
        ({"spread": math.nan}, "spread.* nan"),
        ({"distinct": -1.0}, r"distinct.* -1\.0"),
        ({"steps": 0}, "steps.* 0"),
        ({"steps": 5}, r"5.* 4"),
        ({"starts": 2.5}, r"starts.* 2\.5"),
    ],
)
def test_options_out_of_range_are_refused(options, names):
    rnn = torch.nn.RNN(1, 2)
    with pytest.raises(sx.SeparatrixError, match=names):
        sx.echo_state(sx.Recurrent(rnn, torch.zeros(4, 1)), **options)


def test_throw_raises_what_it_otherwise_marks():
    with pytest.raises(sx.errors.NotConvergedError, match="more steps"):
        sx.echo_state(sx.Map(lambda h: 0.9995 * h, 1), steps=100, throw=True)
    with pytest.raises(sx.errors.DivergedError, match="spread"):
        sx.echo_state(sx.Map(lambda x: 2 + x * x, 1), steps=100, throw=True)


def test_a_network_with_two_memories_and_no_input_has_two_responses_by_default():
    """h ← tanh(2 h) has fixed points at ±0.9575; the default centre is the mean of several initial states, not one of them."""
    unit = torch.nn.RNN(1, 1, bias=False).double()
    with torch.no_grad():
        unit.weight_hh_l0.fill_(2.0)
    found = [sx.echo_state(sx.Recurrent(unit), steps=200, seed=seed) for seed in range(5)]
    assert [(one.verdict, int(one.responses)) for one in found] == [("several responses", 2)] * 5


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.005, "sensitive"), (1.0, "undecided"), (0.9999, "undecided"), (0.5, "echo state")]
)
def test_states_that_begin_close_for_their_size_have_not_converged_by_that(factor, verdict):
    """Near 10⁹ the initial states, 1 apart, agree to 9 digits; only 0.5⁴⁰⁰ brings them together."""
    far = torch.full((3,), 1e9, dtype=torch.float64)
    found = sx.echo_state(sx.Map(lambda x: 1e9 + factor * (x - 1e9), 3), far, starts=4, steps=4000 if factor > 1.001 else 400)
    assert found.verdict == verdict
    assert (found.status == "ok") == (verdict != "undecided")


def test_more_starts_than_memory_holds_are_refused_with_the_bytes():
    with pytest.raises(sx.errors.InputError, match=r"PiB, but .* are available"):
        sx.echo_state(sx.Map(lambda x: 0.5 * x, 1000), starts=10**7)
