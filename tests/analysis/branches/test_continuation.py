"""Bifurcations lie where mathematics puts them, to the digits it gives."""

import math

import pytest
import torch
from torch import Tensor

import separatrix as sx
from separatrix.core.components import along_tangents
from separatrix.core.derived import Derived

R3 = 3.544090359551  # period 4 → 8, a root of a polynomial of degree 12: Bailey & Broadhurst 2001, Math. Comp. 70, 1719


def made(function, dim=1, *, flow=False, p=1.0):
    """The system of a function (x, p) of unbatched or batched states, with the parameter p."""
    if flow:

        class OwnField(sx.Field):
            def __init__(self) -> None:
                super().__init__()
                self.hold(p=p)

            def forward(self, x: Tensor, t: float) -> Tensor:
                return function(x, along_tangents(self.p))

        return sx.Flow(OwnField(), dim, 0.1, method="euler")

    class OwnMap(sx.System):
        def __init__(self) -> None:
            super().__init__(dim)
            self.hold(p=p)

        def step(self, x: Tensor, n: int = 0) -> Tensor:
            return function(x, along_tangents(self.p))

    return OwnMap()


def state(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


LOGISTIC = made(lambda x, p: p * x * (1 - x))
NEURON = made(lambda x, p: torch.tanh(p * x))


def hopf_normal_form(x: Tensor, p) -> Tensor:
    turned = torch.stack([-x[..., 1], x[..., 0]], dim=-1)
    return p * x + turned - x * (x * x).sum(-1, keepdim=True)


def delayed_logistic(x: Tensor, p) -> Tensor:
    return torch.cat([p * x[..., :1] * (1 - x[..., 1:]), x[..., :1]], dim=-1)


def lorenz(x: Tensor, p) -> Tensor:
    a, b, c = x[..., :1], x[..., 1:2], x[..., 2:]
    return torch.cat([10 * (b - a), a * (p - c) - b, a * b - 8 / 3 * c], dim=-1)


def only(branch: sx.results.Branch, kind: str) -> sx.results.Bifurcation:
    assert [b.kind for b in branch.bifurcations] == [kind]
    return branch.bifurcations[0]


@pytest.mark.parametrize(
    ("period", "start", "exact"), [(1, 2.6, 3.0), (2, 3.2, 1 + math.sqrt(6)), (4, 3.5, R3)], ids=["r1", "r2", "r3"]
)
def test_the_logistic_map_doubles_its_period_where_it_should(period, start, exact):
    cycle = sx.trajectory(LOGISTIC.at(p=start), state(0.4), steps=1, settle=2_000)[-1]
    branch = sx.continuation(LOGISTIC, "p", start, 3.7, cycle, period=period, step_size=0.02)
    flip = only(branch, "flip")
    assert flip.parameter == pytest.approx(exact, abs=1e-9)
    torch.testing.assert_close(branch.stable, branch.parameters < exact)
    assert branch.end == "stop" and float(branch.parameters[-1]) == pytest.approx(3.7, abs=1e-12)


def test_the_multiplier_along_the_logistic_map_s_fixed_point_is_two_minus_r():
    branch = sx.continuation(LOGISTIC, "p", 2.6, 3.4, state(0.6), step_size=0.05)
    torch.testing.assert_close(branch.eigenvalues[:, 0].real, 2 - branch.parameters, rtol=0, atol=1e-10)
    torch.testing.assert_close(branch.points[:, 0], 1 - 1 / branch.parameters, rtol=0, atol=1e-10)


def test_a_flow_s_branch_turns_around_its_fold_at_zero():
    """x' = p − x²: x = ±√p, stable above."""
    branch = sx.continuation(made(lambda x, p: p - x**2, flow=True), "p", 1.0, -1.0, state(1.0), step_size=0.03)
    fold = only(branch, "fold")
    assert abs(fold.parameter) < 1e-8 and abs(float(fold.point)) < 1e-8
    assert branch.end == "start" and float(branch.points[-1, 0]) == pytest.approx(-1.0, abs=1e-10)
    torch.testing.assert_close(branch.parameters, branch.points[:, 0] ** 2, rtol=0, atol=1e-11)
    torch.testing.assert_close(branch.eigenvalues[:, 0].real, -2 * branch.points[:, 0], rtol=0, atol=1e-10)
    torch.testing.assert_close(branch.stable, branch.points[:, 0] > 0)


def test_the_quadratic_map_folds_at_minus_a_quarter():
    """x ← p − x²: x² + x = p, double at x = −1/2."""
    branch = sx.continuation(made(lambda x, p: p - x**2), "p", 0.5, -1.0, state(0.37), step_size=0.03)
    fold = only(branch, "fold")
    assert fold.parameter == pytest.approx(-0.25, abs=1e-8) and float(fold.point) == pytest.approx(-0.5, abs=1e-8)


@pytest.mark.parametrize("step", [0.01, 0.0137, 0.05])
def test_one_neuron_forks_at_weight_one(step):
    branch = sx.continuation(NEURON, "p", 0.5, 1.5, state(0.0), step_size=step)
    assert only(branch, "pitchfork").parameter == pytest.approx(1.0, abs=1e-8)
    assert (branch.points == 0).all()


def test_the_arm_of_a_pitchfork_turns_where_it_forks():
    branch = sx.continuation(NEURON, "p", 1.5, 0.5, state(0.86), step_size=0.02)
    fork = only(branch, "pitchfork")
    assert abs(fork.parameter - 1.0) < max(2 * fork.error, 1e-6) < 1e-3
    assert branch.end == "start" and float(branch.points[-1, 0]) == pytest.approx(-float(branch.points[0, 0]), abs=1e-8)


def test_two_branches_exchange_their_stability_at_zero():
    branch = sx.continuation(made(lambda x, p: p * x - x**2, flow=True), "p", -1.0, 1.0, state(0.0), step_size=0.03)
    assert only(branch, "transcritical").parameter == pytest.approx(0.0, abs=1e-8)


def test_lorenz_s_fixed_point_loses_its_stability_at_470_nineteenths():
    """ρ = σ (σ + β + 3)/(σ − β − 1), of the field: the solver is Euler's at dt = 0.1, which would be unstable throughout."""
    branch = sx.continuation(made(lorenz, 3, flow=True), "p", 20.0, 28.0, state(7.0, 7.0, 19.0), step_size=0.03)
    assert only(branch, "Hopf").parameter == pytest.approx(470 / 19, abs=1e-8)
    torch.testing.assert_close(branch.stable, branch.parameters < 470 / 19)


def test_the_hopf_normal_form_turns_at_zero():
    branch = sx.continuation(made(hopf_normal_form, 2, flow=True), "p", -1.0, 1.0, state(0.0, 0.0), step_size=0.03)
    assert only(branch, "Hopf").parameter == pytest.approx(0.0, abs=1e-8)


def test_a_flow_in_another_system_s_clothes_is_still_a_flow():
    """Its fixed points are the field's, so their stability is by Re λ: a Hopf point at 0."""
    flow = made(hopf_normal_form, 2, flow=True)
    for dressed in (sx.Noisy(flow, 0.0), Derived(flow)):
        branch = sx.continuation(dressed, "p", -0.5, 0.5, step_size=0.1)
        assert branch.continuous and only(branch, "Hopf").parameter == pytest.approx(0.0, abs=1e-8)


def test_the_delayed_logistic_map_begins_to_turn_at_two():
    branch = sx.continuation(made(delayed_logistic, 2), "p", 1.5, 2.2, state(0.33, 0.33), step_size=0.03)
    event = only(branch, "Neimark–Sacker")
    assert event.parameter == pytest.approx(2.0, abs=1e-8)
    torch.testing.assert_close(event.point, state(0.5, 0.5), rtol=0, atol=1e-8)


def test_a_ring_of_forty_sites_loses_its_rest_to_one_wave_after_another():
    """Lorenz 1996, at x = F: rates −1 + F (e^{iθ} − e^{−2iθ}), θ = 2π j / 40, so that waves set in at F = 1 / (cos θ − cos 2θ)."""
    ring = made(lambda x, p: (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + p, 40, flow=True)
    branch = sx.continuation(ring, "p", 0.5, 0.99, torch.full((40,), 0.5), step_size=0.01)
    exact = sorted(1 / (math.cos(math.pi * j / 20) - math.cos(math.pi * j / 10)) for j in (7, 8, 9))
    assert [event.kind for event in branch.bifurcations] == ["Hopf"] * 3
    assert branch.bifurcation_parameters.tolist() == pytest.approx(exact, abs=1e-8)
    torch.testing.assert_close(branch.stable, branch.parameters < exact[0])


def test_a_neutral_saddle_is_no_hopf_bifurcation():
    """Rates 1 and −p: their sum is zero at p = 1, but both are real."""
    saddle = made(lambda x, p: torch.cat([x[..., :1], -p * x[..., 1:]], dim=-1), 2, flow=True)
    assert sx.continuation(saddle, "p", 0.5, 1.5, state(0.0, 0.0), step_size=0.03).bifurcations == []


def test_the_direction_of_the_range_changes_nothing():
    back = sx.continuation(LOGISTIC, "p", 3.4, 2.6, state(0.7), step_size=0.03)
    assert only(back, "flip").parameter == pytest.approx(3.0, abs=1e-9)
    assert float(back.parameters[-1]) == pytest.approx(2.6, abs=1e-12)


def test_a_branch_that_is_cut_short_says_so():
    branch = sx.continuation(LOGISTIC, "p", 2.6, 3.4, state(0.6), max_steps=5)
    assert (branch.status, branch.end, len(branch.parameters)) == ("not_converged", "max_steps", 5)
    with pytest.raises(sx.errors.NotConvergedError, match="max_steps=5"):
        sx.continuation(LOGISTIC, "p", 2.6, 3.4, state(0.6), max_steps=5, throw=True)


def test_a_branch_is_saved_and_read_again(tmp_path):
    for stop in (2.8, 3.4):  # without an event, and with one
        branch = sx.continuation(LOGISTIC, "p", 2.6, stop, state(0.6), step_size=0.05)
        again = sx.load(branch.save(tmp_path / str(stop)))
        assert repr(again) == repr(branch) and again.kind == branch.kind
        torch.testing.assert_close(again.eigenvalues, branch.eigenvalues, rtol=0, atol=0)
        assert len(again.bifurcations) == len(branch.bifurcations)


def test_the_logistic_map_s_cascade_is_followed_from_flip_to_flip():
    """Each flip begins the branch of twice the period; the 2-cycle is  x = (r + 1 ± √((r − 3)(r + 1)))/(2 r)  in closed form."""
    first = sx.continuation(LOGISTIC, "p", 2.6, 3.6, state(0.6))
    doubled = sx.continuation(LOGISTIC, "p", 2.6, 3.6, only(first, "flip"))
    flip, r = only(doubled, "flip"), doubled.parameters
    assert flip.parameter == pytest.approx(1 + math.sqrt(6), abs=1e-8)
    assert (flip.period, float(r.min()) > 3.0, doubled.end) == (4, True, "stop")
    root = ((r - 3) * (r + 1)).sqrt()
    off = torch.minimum(*((doubled.points[:, 0] - (r + 1 + sign * root) / (2 * r)).abs() for sign in (1, -1)))
    assert off.max() < 1e-10  # G ≤ 1e-12, divided by 1 − μ, which is 4e-6 or more on the branch's points
    again = sx.continuation(LOGISTIC, "p", 2.6, 3.6, flip)
    assert only(again, "flip").parameter == pytest.approx(R3, abs=1e-8)


def test_both_arms_of_a_pitchfork_are_followed_from_the_fork():
    """ẋ = p x − x³ rests at ±√p."""
    system = made(lambda x, p: p * x - x**3, flow=True)
    fork = only(sx.continuation(system, "p", -1.0, 1.0, state(0.0), step_size=0.03), "pitchfork")
    for way in (1, -1):
        arm = sx.continuation(system, "p", -1.0, 1.0, fork._replace(direction=way * fork.direction), step_size=0.03)
        torch.testing.assert_close(arm.points[:, 0], way * arm.parameters.sqrt(), rtol=0, atol=1e-10)
        assert (arm.end, bool(arm.stable.all()), arm.kind) == ("stop", True, ())


def test_the_other_branch_through_a_transcritical_bifurcation_is_found_from_either():
    """ẋ = p x − x² rests at 0 and at p; in the other's direction, (1, 1) and (0, 1), neither component is the state's alone."""
    system = made(lambda x, p: p * x - x**2, flow=True)
    for start, other in ((0.0, 1.0), (-1.0, 0.0)):
        crossing = only(sx.continuation(system, "p", -1.0, 1.0, state(start), step_size=0.03), "transcritical")
        branch = sx.continuation(system, "p", -1.0, 1.0, crossing, step_size=0.03)
        torch.testing.assert_close(branch.points[:, 0], other * branch.parameters, rtol=0, atol=1e-10)
        assert branch.end == "stop" and bool(branch.stable.all()) == (other > 0)


def test_a_bifurcation_without_another_branch_is_said_in_a_line():
    fold = only(sx.continuation(made(lambda x, p: p - x**2, flow=True), "p", 1.0, -1.0, state(1.0), step_size=0.03), "fold")
    with pytest.raises(sx.errors.InputError, match="got a fold"):
        sx.continuation(made(lambda x, p: p - x**2, flow=True), "p", 1.0, -1.0, fold)
    flip = only(sx.continuation(LOGISTIC, "p", 2.6, 3.4, state(0.6)), "flip")
    with pytest.raises(sx.errors.InputError, match=r"flip at p = 3 .*3\.2 … 3\.4"):
        sx.continuation(LOGISTIC, "p", 3.2, 3.4, flip)
    with pytest.raises(sx.errors.InputError, match=r"period 2.*flip.* 3"):
        sx.continuation(LOGISTIC, "p", 2.6, 3.4, flip, period=3)


@pytest.mark.parametrize(
    ("arguments", "options", "numbers"),
    [
        (("q", 1.0, 2.0), {}, "'q'.* p"),
        (("p", 1.0, math.nan), {}, "range of p is nan"),
        (("p", 2.0, 2.0), {}, "2.0 … 2.0"),
        (("p", 2.6, 3.4), {"period": 0}, "period.* 0"),
        (("p", 2.6, 3.4), {"step_size": 0.0}, "step_size.* 0.0"),
        (("p", "low", 3.4), {}, "range of p is 'low'"),
        (("p", 2.6, 3.4, "here"), {}, "x0"),
        (("p", 2.6, 3.4, torch.zeros(3, 1)), {}, r"batch of shape \(3,\)"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(arguments, options, numbers):
    with pytest.raises(sx.errors.InputError, match=numbers):
        sx.continuation(LOGISTIC, *arguments, **options)


def test_a_start_without_a_fixed_point_near_it_is_refused():
    """x ← p − x² has none for p < −1/4."""
    with pytest.raises(sx.errors.InputError, match="x0 at p = -5"):
        sx.continuation(made(lambda x, p: p - x**2), "p", -5.0, 1.0, state(0.3))


def test_a_flow_has_no_cycles_of_several_steps():
    with pytest.raises(sx.errors.InputError, match=r"period 1 .* 2"):
        sx.continuation(made(hopf_normal_form, 2, flow=True), "p", -1.0, 1.0, period=2)
