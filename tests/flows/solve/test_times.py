"""Times: their shape, order, direction and derivatives, and their unit."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import separatrix as sx

DOUBLE = {"dtype": torch.float64}
WAYS = [{}, {"method": "tsit5"}, {"method": "rodas5p"}, {"method": "rk4", "dt": 0.01}]


def forced(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """q̈ = −q + cos 2t, whose solution from (q, p) at 0 is  (q + 1/3) cos t + p sin t − cos(2t)/3."""
    return torch.stack([x[..., 1], -x[..., 0] + torch.cos(2 * t)], -1)


def swung(x0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """That solution's q."""
    return (x0[..., 0] + 1 / 3) * t.cos() + x0[..., 1] * t.sin() - (2 * t).cos() / 3


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("batch", [(), (1,), (2,), (3,), (2, 2)])
def test_a_forced_field_is_told_one_time_for_each_state(ways, batch):
    x0 = torch.randn(*batch, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    tolerances = {} if "dt" in ways else {"rtol": 1e-9}
    found = sx.solve(forced, x0, [0.0, 1.0, 3.0], time_dependent=True, **ways, **tolerances)
    exact = torch.stack([swung(x0, t) for t in found.times])
    assert (found.states[..., 0] - exact).abs().max() < 1e-6


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_time_that_meets_the_numbers_of_a_state_is_refused_or_right(batch):
    """ẋ = −t x with as many components as items: t of shape (*batch) would broadcast along the components."""
    x0 = torch.ones(batch, batch, **DOUBLE)
    settings = {"time_dependent": True, "rtol": 1e-9}
    if batch > 1:
        with pytest.raises(sx.errors.InputError, match=r"t\[\.\.\., None\]"):
            sx.solve(lambda x, t: -t * x, x0, [0.0, 1.0], **settings)
    else:
        assert float(sx.solve(lambda x, t: -t * x, x0, [0.0, 1.0], **settings).last) == pytest.approx(math.exp(-0.5), rel=1e-7)
    right = sx.solve(lambda x, t: -t[..., None] * x, x0, [0.0, 1.0], **settings).last
    assert (right - math.exp(-0.5)).abs().max() < 1e-7
    with pytest.raises(sx.errors.ShapeError, match=r"t\[\.\.\., None\]"):
        sx.solve(lambda x, t: -t * x, torch.ones(batch + 1, batch + 2, **DOUBLE), [0.0, 1.0], **settings)


def test_a_ball_meets_a_vibrating_table_where_newton_s_method_says():
    """x = 1 − 4.905 t² = 0.3 sin 9t at 0.514622381305."""
    field = lambda x, t: torch.stack([x[..., 1], torch.full_like(x[..., 1], -9.81)], -1)  # noqa: E731
    event = lambda x, t: x[..., 0] - 0.3 * torch.sin(9 * t)  # noqa: E731
    x0 = torch.tensor([1.0, 0.0], **DOUBLE)
    for start in (x0, x0[None], x0.expand(3, 2)):
        for ways in ({"method": "rk4", "dt": 0.068}, {"method": "rk4", "dt": 0.05}, {}, {"method": "rodas5p"}):
            found = sx.solve_until(field, start, event, direction=-1, end=5.0, time_dependent=True, **ways)
            assert (found.times - 0.514622381305).abs().max() < 1e-7, ways


@pytest.mark.parametrize("ways", WAYS)
def test_decreasing_times_go_backwards(ways):
    x0 = torch.tensor([[0.3, -0.2], [1.0, 0.5]], **DOUBLE)
    tolerances = {} if "dt" in ways else {"rtol": 1e-10}
    there = sx.solve(forced, x0, [0.0, 2.0], time_dependent=True, **ways, **tolerances)
    back = sx.solve(forced, there.last, [2.0, 1.0, 0.0], time_dependent=True, **ways, **tolerances)
    assert back.times[:, 0].tolist() == [2.0, 1.0, 0.0] and (back.reached == 0).all()
    assert (back.last - x0).abs().max() < 1e-7 and (back.states[1, :, 0] - swung(x0, torch.tensor(1.0))).abs().max() < 1e-7


def test_times_that_turn_are_refused():
    for times in ([0.0, 1.0, 0.5], [0.0, -1.0, 0.5], [0.0, 0.0]):
        with pytest.raises(sx.errors.InputError, match="times"):
            sx.solve(lambda x: -x, torch.ones(2, **DOUBLE), times)


def test_an_item_that_fails_on_the_way_back_says_when():
    """ẋ = x²: backwards in time the item from 1 stays finite, the one from −1 diverges at t = −1."""
    found = sx.solve(lambda x: x * x, torch.tensor([[1.0], [-1.0]], **DOUBLE), [0.0, -2.0])
    assert list(found.status) == ["ok", "diverged"] and float(found.reached[1]) == pytest.approx(-1, abs=1e-4)
    assert "t = -1" in found.why[0] and float(found.last[0]) == pytest.approx(1 / 3, rel=1e-4)


@pytest.mark.parametrize("ways", [{"rtol": 1e-11}, {"rtol": 1e-11, "gradient": "backpropagation"}, {"method": "rk4", "dt": 0.01}])
def test_the_derivative_by_a_time_is_the_field_and_by_the_first_one_that_of_a_later_start(ways):
    """Against differences in all times, separate for each item; second derivatives where the graph is kept."""
    x0 = torch.tensor([[0.3, -0.2], [1.0, 0.5]], **DOUBLE)
    times = torch.tensor([[0.1, 0.0], [0.6, 0.8], [1.0, 1.7]], **DOUBLE, requires_grad=True)

    def states(times: torch.Tensor) -> torch.Tensor:
        return sx.solve(forced, x0, times, time_dependent=True, **ways).states

    assert gradcheck(states, times, eps=1e-5, atol=1e-6)
    if "dt" in ways:
        assert gradgradcheck(states, times, eps=1e-5, atol=1e-5)


def test_a_gradient_goes_on_past_an_event_to_a_fixed_end():
    """ẋ = −3 up to the event x = 1 at t* = (x0 − 1)/3, then ẋ = 1 to 2: x = 1 + 2 − t*, whose derivative by x0 is −1/3."""
    x0 = torch.tensor([2.0], **DOUBLE, requires_grad=True)
    hit = sx.solve_until(lambda x: -3 + 0 * x, x0, lambda x: x[..., 0] - 1, end=5.0)
    after = sx.solve(lambda x: 1 + 0 * x, hit.states, [hit.times, 2.0]).last
    assert float(after) == pytest.approx(1 + 2 - 1 / 3) and float(torch.autograd.grad(after.sum(), x0)[0]) == pytest.approx(-1 / 3)


def test_items_that_have_ended_stay_ended_and_the_others_go_on():
    x0 = torch.tensor([[1.0], [math.nan], [2.0]], **DOUBLE, requires_grad=True)
    for ways in ({"rtol": 1e-9}, {"method": "rk4", "dt": 0.01}):
        found = sx.solve(lambda x: -x, x0, [0.0, 1.0], **ways)
        assert list(found.status) == ["ok", "diverged", "ok"] and found.states[:, 1].isnan().all() and "Item 1" in found.why[0]
        assert (found.last[[0, 2]] - torch.tensor([[1.0], [2.0]], **DOUBLE) / math.e).abs().max() < 1e-8
        by = torch.autograd.grad(found.last[[0, 2]].sum(), x0)[0]
        assert (by[:, 0] - torch.tensor([1 / math.e, 0.0, 1 / math.e], **DOUBLE)).abs().max() < 1e-8


def test_a_loop_over_events_goes_on_when_items_have_none_left():
    """Times of the previous event are NaN where there was none; all of them may be NaN."""
    x0 = torch.tensor([[1.0, 0.0], [0.0, 1.0]], **DOUBLE)
    turn = lambda x: torch.stack([x[..., 1], -x[..., 0]], -1)  # noqa: E731
    hit = sx.solve_until(turn, x0, lambda x: x[..., 1] + 0.5, end=1.0)  # −sin t = −1/2 at π/6, and cos t = −1/2 not yet
    after = sx.solve(lambda x: -x, hit.states, [hit.times, 3.0])
    assert list(after.status) == ["ok", "diverged"] and after.times.isnan().any(0).tolist() == [False, True]
    exact = torch.tensor([math.cos(math.pi / 6), -0.5], **DOUBLE) * math.exp(math.pi / 6 - 3)
    assert (after.last[0] - exact).abs().max() < 1e-5
    none = sx.solve_until(turn, x0, lambda x: x[..., 0] - 7, end=0.5)
    ended = sx.solve(lambda x: -x, none.states, [none.times, 3.0])
    assert list(ended.status) == ["diverged"] * 2 and ended.states.isnan().all()


def test_times_in_a_list_are_float64_whatever_the_state():
    assert sx.solve(lambda x: -x, torch.ones(1, **DOUBLE), [0.0, 0.1, 1 / 3]).times.tolist() == [0.0, 0.1, 1 / 3]


def test_forward_mode_gives_the_derivative_by_times():
    one, times = torch.ones(1, **DOUBLE), torch.tensor([0.0, 1.0], **DOUBLE)
    by = torch.func.jacfwd(lambda t: sx.solve(lambda x: -x, one, t, rtol=1e-9).last)(times)
    assert (by - torch.tensor([[1.0, -1.0]], **DOUBLE) / math.e).abs().max() < 1e-7
    with torch.autograd.forward_ad.dual_level(), pytest.raises(sx.errors.InputError, match="forward_ad"):
        x0 = torch.autograd.forward_ad.make_dual(torch.ones(1, **DOUBLE), torch.ones(1, **DOUBLE))
        sx.solve_until(lambda x: -x, x0, lambda x: x[..., 0] - 0.5, end=2.0)


class TimeFirst(nn.Module):
    """A field as torchdiffeq takes it."""

    def forward(self, t, y):
        return -y


@pytest.mark.parametrize("field", [lambda t, y: -y, lambda time, x: -x, lambda ts, y: -y, lambda s, y: -y, TimeFirst()])
@pytest.mark.parametrize("time_dependent", [True, False])
def test_a_function_of_time_and_state_is_refused_by_the_name_of_its_first_argument(field, time_dependent):
    for call in (sx.solve, lambda *args, **more: sx.Flow(field, 1, 0.1, **more)):
        with pytest.raises(sx.errors.InputError, match="time"):
            call(field, torch.ones(1, **DOUBLE), [0.0, 1.0], time_dependent=time_dependent)


def test_float32_times_that_are_too_coarse_end_with_the_reason():
    """At t = 1e7, float32 resolves times to 1: a forced field cannot be solved, an autonomous one can."""
    x0 = torch.tensor([1.0, 0.0])
    found = sx.solve(forced, x0, [1e7, 1e7 + 3], time_dependent=True)
    assert found.status == "not_converged" and "x0.double()" in found.why[0]
    still = sx.solve(lambda x: -x, x0, [1e7, 1e7 + 1])
    assert still.status == "ok" and float(still.last[0]) == pytest.approx(math.exp(-1), rel=1e-4)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "rodas5p"])
@pytest.mark.parametrize(("size", "pace"), [(1e-9, 1.0), (1e9, 1e-6), (1e-160, 1e12)])
def test_neither_the_unit_of_the_state_nor_that_of_the_time_matters(method, size, pace):
    """x → c x, t → t/p: the same steps, the same numbers to rounding."""

    def field(x: torch.Tensor, size: float, pace: float) -> torch.Tensor:
        a, b = (x / size).unbind(-1)
        return size * pace * torch.stack((b, 2 * (1 - a * a) * b - a), -1)

    x0 = torch.tensor([[2.0, 0.0], [0.0, 0.5]], **DOUBLE)
    plain = sx.solve(lambda x: field(x, 1.0, 1.0), x0, [0.0, 5.0], method=method)
    other = sx.solve(lambda x: field(x, size, pace), size * x0, [0.0, 5.0 / pace], method=method)
    assert (plain.accepted - other.accepted).abs().max() <= 1
    torch.testing.assert_close(other.last / size, plain.last, rtol=1e-7, atol=1e-7)
