"""The rate at which two nearby trajectories separate."""

import math

import pytest
import torch
from torch import Tensor

import separatrix as sx


def linear(*diagonal: float) -> sx.Map:
    matrix = torch.tensor(diagonal, dtype=torch.float64).diag()
    return sx.Map(lambda x: x @ matrix, len(diagonal))


def test_trajectories_of_a_linear_map_separate_at_its_leading_rate():
    """At the fixed point 0 the separation is exactly a tangent: its rate is ln 2 once it points along the first axis."""
    measured = sx.divergence_rate(linear(2.0, 0.5), torch.zeros(2).double(), steps=50, settle=50)
    assert float(measured.rate) == pytest.approx(math.log(2), abs=1e-12)
    assert measured.status == "ok"
    assert float(measured.stderr) < 1e-12


def test_it_counts_time_not_steps():
    """ẋ = −0.3 x by RK4 with dt = 0.1: −0.3 nats per unit time."""
    measured = sx.divergence_rate(sx.Flow(lambda x: -0.3 * x, 1, 0.1), torch.zeros(1).double(), steps=50, settle=10)
    assert float(measured.rate) == pytest.approx(-0.3, abs=1e-6)


def test_curvature_and_rounding_stay_below_a_millionth_a_step():
    """Full logistic map: the rate along an orbit is the mean of log |4 − 8x| along it, though no derivative is taken."""
    system, x0 = sx.classic.logistic(4.0), torch.tensor([0.3], dtype=torch.float64)
    measured = sx.divergence_rate(system, x0, steps=1000, settle=0)
    states = sx.trajectory(system, x0, 999)
    assert float(measured.rate) == pytest.approx(float((4 - 8 * states).abs().log().mean()), abs=1e-4)


def test_trajectories_that_merge_have_rate_minus_infinity():
    """A map to one point: not a divergence, not NaN."""
    measured = sx.divergence_rate(sx.Map(lambda x: 0 * x, 2), torch.ones(3, 2).double(), steps=20, settle=0)
    assert (measured.rate == -math.inf).all()
    assert (measured.codes == sx.Status.OK).all()


def test_an_item_that_diverges_is_marked_alone():
    """Hénon inside and outside its basin."""
    x0 = torch.tensor([[0.0, 0.0], [3.0, 0.5], [0.1, -0.1]], dtype=torch.float64)
    measured = sx.divergence_rate(sx.classic.henon(), x0, steps=300, settle=100)
    without = sx.divergence_rate(sx.classic.henon(), x0[[0, 2]], steps=300, settle=100)
    assert measured.status.tolist() == ["ok", "diverged", "ok"]
    assert measured.rate[1].isnan() and measured.stderr[1].isnan()
    assert torch.equal(measured.rate[[0, 2]], without.rate)


def test_batches_of_states_and_parameters_broadcast():
    """Each item has the rate of its own parameter: at rest in 0 the logistic map's slope is r."""
    r = torch.tensor([0.5, 1.5, 3.0], dtype=torch.float64)
    measured = sx.divergence_rate(sx.classic.logistic(r[:, None]), torch.zeros(2, 1).double(), steps=20, settle=0)
    assert measured.rate.shape == (3, 2)
    assert measured.rate.numpy() == pytest.approx(r.log()[:, None].expand(3, 2).numpy(), abs=1e-7)  # curvature: r d² of r d


def test_both_copies_have_the_same_noise():
    """A drive that is a function of n is the same for both: additive noise separates nothing, and the rate is that of the map."""

    def step(x: Tensor, n: int) -> Tensor:
        return 0.5 * x + torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(n))

    measured = sx.divergence_rate(sx.Map(step, 2, time_dependent=True), torch.zeros(2).double(), steps=100, settle=10)
    assert float(measured.rate) == pytest.approx(math.log(0.5), abs=1e-6)


def test_float32_uses_a_distance_it_can_resolve():
    """1e-8 would vanish beside a state of 1 in float32; at 1e-3 curvature adds 0.0032 to the cycle's smaller slope, 0.083: 2 %."""
    x0 = torch.tensor([0.3], dtype=torch.float32)
    measured = sx.divergence_rate(sx.classic.logistic(3.2), x0, steps=400, settle=100)
    assert measured.rate.dtype == torch.float32
    assert float(measured.rate) == pytest.approx(math.log(0.16) / 2, rel=0.03)


def test_the_horizon_holds_for_it_too():
    """More steps than inputs are refused."""
    system = sx.Recurrent(torch.nn.RNN(1, 2), torch.ones(30, 1))
    with pytest.raises(sx.errors.HorizonError, match="30"):
        sx.divergence_rate(system, steps=40)


def test_throw_raises_instead_of_marking():
    """x' = x² overflows from 2 within 12 steps; 5 steps are too few for an error bar."""
    with pytest.raises(sx.errors.DivergedError, match="1 of 2 items"):
        sx.divergence_rate(sx.Map(lambda x: x**2, 1), torch.tensor([[0.5], [2.0]]).double(), steps=30, throw=True)
    with pytest.raises(sx.errors.NotConvergedError, match="1 of 1 item"):
        sx.divergence_rate(linear(2.0, 0.5), torch.zeros(2).double(), steps=5, throw=True)


def test_the_answer_is_in_words():
    """repr: the rate, its error, the unit."""
    text = repr(sx.divergence_rate(linear(2.0, 0.5), torch.zeros(2).double(), steps=50))
    assert "0.6931" in text and "nats per step" in text


class WrongTangent(sx.System):
    """x' = a x with the tangent of b x."""

    def __init__(self, a: float, b: float | Tensor) -> None:
        super().__init__(dim=1)
        self.hold(a=a, b=b)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return self.a * x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        return self.step(x, n), torch.as_tensor(self.b)[..., None, None] * v


def test_only_the_items_whose_tangent_is_wrong_disagree():
    """With a = 0.5 and slopes 0.5, 0.4, 0: the rates are ln ½ and those of the tangents ln b; −∞ is compared too."""
    system = WrongTangent(0.5, torch.tensor([0.5, 0.4, 0.0]).double())
    spectrum = sx.lyapunov_spectrum(system, torch.ones(3, 1).double(), steps=100, check=True)
    assert spectrum.disagreement.tolist() == [False, True, True]
    assert spectrum.status.tolist() == ["ok", "not_converged", "not_converged"]
    assert repr(spectrum).startswith("The check disagrees in 2 of 3 runs, most in run 2: λ₁ = −∞")
    with pytest.raises(sx.errors.NotConvergedError, match="The check disagrees in 2 of 3"):
        sx.lyapunov_spectrum(system, torch.ones(3, 1).double(), steps=100, check=True, throw=True)
    assert not sx.lyapunov_spectrum(system, torch.ones(3, 1).double(), steps=100).disagreement.any()


def test_a_pair_that_diverges_where_the_orbit_does_not_disagrees():
    """At the fixed point 0 of x' = 2 x, the wrong tangent 0.5 x predicts decay, but neighbours leave."""
    system = WrongTangent(2.0, 0.5)
    spectrum = sx.lyapunov_spectrum(system, torch.zeros(1).double(), steps=100, check=True)
    assert spectrum.disagreement and "separate at 0.6931" in repr(spectrum).splitlines()[0]


@pytest.mark.parametrize("slope", [1e-3, 1e-6, 1e-9, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contraction_below_rounding_is_not_a_disagreement(slope, dtype):
    """About the fixed point 1 of x' = slope x + (1 − slope) the pair is resolved to rounding alone, the tangent is exact."""
    system = sx.Map(lambda x: slope * x + (1 - slope), 3)
    spectrum = sx.lyapunov_spectrum(system, torch.ones(3, dtype=dtype), k=1, steps=100, check=True)
    assert not spectrum.disagreement and spectrum.status == "ok"


def test_a_run_too_short_for_error_bars_has_no_disagreement_and_is_not_ok():
    """Seven steps make no error bar: nothing is claimed either way."""
    spectrum = sx.lyapunov_spectrum(WrongTangent(0.5, 0.4), torch.ones(1).double(), steps=7, check=True)
    assert not spectrum.disagreement and spectrum.status == "not_converged"


def test_sound_chaotic_runs_do_not_disagree():
    """200 runs of the Hénon map, many of which separate from their checks by rounding; the level is 10⁻⁴ over all of them."""
    x0 = 0.1 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for steps in (60, 600):
        assert not sx.lyapunov_spectrum(sx.classic.henon(), x0, steps=steps, settle=50, check=True).disagreement.any()


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1e9])
def test_the_rate_does_not_depend_on_the_unit_of_the_state(unit):
    """Hénon with x counted in units of c: a change of coordinates; the separation is small beside the attractor in each."""
    henon = sx.classic.henon()
    system = sx.Map(lambda x: unit * henon.step(x / unit), 2)
    measured = sx.lyapunov_spectrum(system, torch.tensor([0.1, 0.1]).double() * unit, steps=1000, settle=100, check=True)
    assert not measured.disagreement
    assert float(measured.check.rate) == pytest.approx(0.4192, abs=4 * float(measured.check.stderr))
