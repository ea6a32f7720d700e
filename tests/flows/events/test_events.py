"""Events against closed forms: when and where, their derivatives, and what has none."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import separatrix as sx
from separatrix.flows.field import Field
from separatrix.flows.methods import PAIRS, SOLVERS
from separatrix.flows.steps.piece import Piece

DOUBLE = {"dtype": torch.float64}
G = 9.81
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
WAYS = (CLOSE, {"method": "dopri5", "dt": 0.2}, {"method": "rk4", "dt": 0.1})


def falling(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[..., 1], torch.full_like(x[..., 1], -G)], -1)


def turning(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[..., 1], -x[..., 0]], -1)


def height(x: torch.Tensor) -> torch.Tensor:
    return x[..., 0]


def van_der_pol(x: torch.Tensor) -> torch.Tensor:
    a, b = x.unbind(-1)
    return torch.stack((b, 2 * (1 - a * a) * b - a), -1)


@pytest.mark.parametrize("ways", [*WAYS, {"method": "leapfrog", "dt": 0.05}, {"method": "implicit_midpoint", "dt": 0.05}])
def test_a_ball_comes_down_when_it_should_with_the_derivatives_of_the_closed_form(ways):
    """t* = (v + s)/g, s = √(v² + 2gh):  dt*/dh = 1/s, dt*/dv = t*/s, v(t*) = −s. All methods here are exact on parabolas."""
    x0 = torch.tensor([[1.0, 2.0], [0.0, 1.0], [0.0, 0.1], [5.0, 0.0], [3.0, -4.0]], **DOUBLE, requires_grad=True)
    h, v = x0.detach().unbind(-1)
    s = (v**2 + 2 * G * h).sqrt()
    found = sx.solve_until(falling, x0, height, direction=-1, end=100.0, **ways)
    torch.testing.assert_close(found.times, (v + s) / G, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.states, torch.stack([0 * s, -s], -1), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.speeds, -s, rtol=0, atol=1e-12)
    (by_time,) = torch.autograd.grad(found.times.sum(), x0, retain_graph=True)
    torch.testing.assert_close(by_time, torch.stack([1 / s, (v + s) / G / s], -1), rtol=1e-11, atol=1e-11)
    (by_state,) = torch.autograd.grad(found.states.sum(), x0)  # the height there is 0 whatever x0 is
    torch.testing.assert_close(by_state, torch.stack([-G / s, -v / s], -1), rtol=1e-11, atol=1e-11)


def test_an_oscillator_s_quarter_period_follows_the_tolerance():
    x0 = torch.tensor([[1.0, 0.0], [3.0, 0.0]], **DOUBLE)
    errors = [
        (sx.solve_until(turning, x0, height, end=9.0, rtol=tol, atol=tol).times - math.pi / 2).abs().max() for tol in (1e-4, 1e-8)
    ]
    assert errors[0] < 1e-3 and errors[1] < 1e-7


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("leapfrog", 2), ("rk4", 4), ("yoshida4", 4)])
def test_the_time_of_an_event_has_the_method_s_order(method, order):
    x0 = torch.tensor([1.0, 0.3], **DOUBLE)
    exact = math.atan2(1.0, -0.3)  # of x = cos t + 0.3 sin t
    steps = torch.tensor([0.04, 0.02, 0.01], **DOUBLE)
    found = [sx.solve_until(turning, x0, height, end=3.0, method=method, dt=float(dt)) for dt in steps]
    errors = torch.stack([(one.times - exact).abs() for one in found])
    slope = (errors[0] / errors[-1]).log() / (steps[0] / steps[-1]).log()
    assert order - 0.3 < float(slope) < order + 1.2  # a symmetric orbit may cancel the leading term


@pytest.mark.parametrize("event", [lambda x: x[0] - 0.5, lambda x: x[..., 0] - x[..., 0].mean()])
def test_an_event_that_mixes_items_is_refused(event):
    with pytest.raises(sx.errors.InputError, match="event"):
        sx.solve_until(lambda x: -x, torch.tensor([[1.0, 0.0], [0.0, 1.0]], **DOUBLE), event, end=1.0)


def test_events_of_a_nonlinear_field_are_scipy_s():
    x0 = torch.tensor([[2.0, 0.0], [0.5, -1.0], [0.1, 0.1]], **DOUBLE)

    def crossed(t: float, y: list[float]) -> float:
        return y[0] - 0.3 * math.sin(t)

    crossed.terminal = True
    exact = []
    for x in x0.tolist():
        run = solve_ivp(lambda t, y: [y[1], 2 * (1 - y[0] ** 2) * y[1] - y[0]], (0, 30), x, rtol=1e-12, atol=1e-12, events=crossed)
        exact.append([float(run.t_events[0][0]), *run.y_events[0][0]])
    settings = {"rtol": 1e-11, "atol": 1e-11, "time_dependent": True}
    found = sx.solve_until(lambda x, t: van_der_pol(x), x0, lambda x, t: x[..., 0] - 0.3 * t.sin(), end=30.0, **settings)
    torch.testing.assert_close(
        torch.cat([found.times[:, None], found.states], -1), torch.tensor(exact, **DOUBLE), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("ways", WAYS)
def test_first_and_second_derivatives_are_those_of_finite_differences(ways):
    """In x0, in a parameter of the field, in one of the surface and in the start, each of which moves the event."""
    point = torch.tensor([1.0, 0.4, 1.3, 0.2, 0.1], **DOUBLE, requires_grad=True)

    def event(point: torch.Tensor) -> torch.Tensor:
        stiffness, level, start = point[2:]

        def field(x, t):
            return torch.stack([x[..., 1], -stiffness * x[..., 0].sin() + 0.2 * t.cos()], -1)

        def curve(x, t):
            return x[..., 0] - level * x[..., 1] ** 2

        found = sx.solve_until(field, point[:2], curve, start=start, end=20.0, time_dependent=True, **ways)
        return torch.cat([found.times[None], found.states])

    assert gradcheck(event, point, eps=1e-6, atol=2e-6, rtol=1e-5)
    if "dt" in ways:  # steps by tolerance move with their inputs, by as much as the tolerance; second differences see that
        assert gradgradcheck(lambda point: event(point)[0], point, eps=1e-5, atol=1e-5, rtol=1e-4)


def test_gradients_reach_networks_as_fields_and_as_events():
    torch.manual_seed(0)
    field, event = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double(), nn.Linear(2, 1).double()
    with torch.no_grad():
        field[2].weight *= 0.3
        field[2].bias.copy_(torch.tensor([1.0, 0.5]))  # a drift across the surface, bent by the rest
        event.weight.copy_(torch.tensor([[1.0, 0.5]]))
        event.bias.fill_(-0.5)
    x0 = torch.tensor([[0.0, 0.0], [0.1, -0.2], [0.2, 0.1]], **DOUBLE)

    def total() -> torch.Tensor:
        found = sx.solve_until(field, x0, event, end=20.0, rtol=1e-11, atol=1e-11)
        return found.times.sum() + found.states.square().sum()

    assert bool(sx.solve_until(field, x0, event, end=20.0).found.all())
    for parameter in (field[0].weight, field[2].bias, event.weight, event.bias):
        (gradient,) = torch.autograd.grad(total(), parameter)
        with torch.no_grad():
            flat, eps = parameter.view(-1), 1e-5
            flat[0] += eps
            above = total()
            flat[0] -= 2 * eps
            below = total()
            flat[0] += eps
        assert float(gradient.view(-1)[0]) == pytest.approx(float(above - below) / (2 * eps), rel=1e-5, abs=1e-8)


def test_a_flow_is_followed_along_its_field_by_its_own_method():
    """An nn.Module event is called as an event, not as a field."""
    flow = sx.Flow(turning, 2, 0.05, method="rk4")
    x0 = torch.tensor([1.0, 0.0], **DOUBLE)
    found = sx.solve_until(flow, x0, height, end=3.0)
    assert found.settings["method"] == "rk4" and found.settings["dt"] == 0.05
    assert float(found.times) == pytest.approx(math.pi / 2, abs=1e-6)
    assert float(sx.solve_until(flow, x0, height, end=3.0, method="dopri5").times) == pytest.approx(math.pi / 2, abs=1e-4)


def test_equal_steps_are_of_the_asked_length_so_that_an_item_knows_nothing_of_the_end_or_of_others():
    x0, start = torch.tensor([[1.0, 0.0], [0.5, 0.2]], **DOUBLE), torch.tensor([0.0, 7.0], **DOUBLE)
    ways = {"method": "euler", "dt": 0.3}  # far enough from the truth that other steps would show
    both = sx.solve_until(turning, x0, height, start=start, end=torch.tensor([5.0, 60.5], **DOUBLE), **ways)
    for i, end in ((0, 4.9), (0, 17.0), (1, 11.0)):
        alone = sx.solve_until(turning, x0[i], height, start=start[i], end=end, **ways)
        assert float(alone.times) == pytest.approx(float(both.times[i]), abs=1e-12)
    ended = sx.solve_until(turning, x0, lambda x: x[..., 0] - 9, end=torch.tensor([1.0, 0.5], **DOUBLE), **ways)
    assert ended.accepted.tolist() == [4, 2] and ended.reached.tolist() == [1.0, 0.5] and set(ended.status) == {"ok"}


@pytest.mark.parametrize("ways", [{"rtol": 1e-9, "atol": 1e-9}, {"method": "rk4", "dt": 0.03}])
def test_parameters_of_each_item_make_the_batch_with_the_states(ways):
    """A quarter of a turn at the rate r takes π / 2r; rates along one axis, and along the last of two."""

    class Turning(Field):
        def __init__(self) -> None:
            super().__init__()
            self.hold(rate=torch.tensor([1.0, 2.0, 3.0], **DOUBLE))

        def forward(self, x, t):
            return self.rate[..., None] * turning(x)

    wanted = math.pi / 2 / torch.tensor([1.0, 2.0, 3.0], **DOUBLE)
    for x0 in (torch.tensor([1.0, 0.0], **DOUBLE), torch.tensor([1.0, 0.0], **DOUBLE).expand(2, 3, 2)):
        found = sx.solve_until(Turning(), x0, height, end=9.0, **ways)
        torch.testing.assert_close(found.times, wanted.expand(found.times.shape), rtol=0, atol=1e-6)


def test_the_direction_is_kept_and_both_is_the_first_of_both():
    x0 = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.5, 1.0]], **DOUBLE)  # x = sin t, −sin t, √1.25 sin(t + φ)
    times = {
        way: sx.solve_until(turning, x0, lambda x: x[..., 0] - 0.2, direction=way, end=9.0, rtol=1e-11, atol=1e-11).times
        for way in (1, -1, 0)
    }
    low, shift = math.asin(0.2), math.atan2(0.5, 1.0)
    far = math.asin(0.2 / math.sqrt(1.25))
    rising = [low, math.pi + low, 2 * math.pi + far - shift]
    falling_ = [math.pi - low, 2 * math.pi - low, math.pi - far - shift]
    torch.testing.assert_close(times[1], torch.tensor(rising, **DOUBLE), rtol=0, atol=1e-8)
    torch.testing.assert_close(times[-1], torch.tensor(falling_, **DOUBLE), rtol=0, atol=1e-8)
    torch.testing.assert_close(times[0], torch.minimum(times[1], times[-1]), rtol=0, atol=1e-8)


def test_two_crossings_within_one_step_are_both_seen():
    """A parabola, on which a step of any length is exact: above 0 at both ends, below in the middle."""
    x0 = torch.tensor([0.3, -3.0], **DOUBLE)
    for direction, sign in ((-1, -1), (1, 1), (0, -1)):
        found = sx.solve_until(lambda x: -falling(-x), x0, height, end=0.9, method="rk4", dt=5.0, direction=direction)
        assert int(found.accepted) == 1
        assert float(found.times) == pytest.approx((3 + sign * math.sqrt(9 - 2 * G * 0.3)) / G, abs=1e-13)


def test_a_start_on_the_surface_leaves_it_first():
    """Up from the floor, also by rounding below it, and through it: the whole period, or half of it."""
    x0 = torch.tensor([[0.0, 1.0], [-1e-17, 1.0], [1e-17, 1.0]], **DOUBLE)
    for settings in ({}, {"method": "rk4", "dt": 8.0}):  # the second comes down within the first eighth of its only step
        found = sx.solve_until(falling, x0, height, direction=0, end=8.0, **settings)
        torch.testing.assert_close(found.times, torch.full((3,), 2 / G, **DOUBLE), rtol=0, atol=1e-13)
    for direction, wanted in ((1, 2 * math.pi), (-1, math.pi), (0, math.pi)):
        found = sx.solve_until(turning, torch.tensor([0.0, 1.0], **DOUBLE), height, direction=direction, end=9.0, **CLOSE)
        assert float(found.times) == pytest.approx(wanted, abs=1e-6)


def test_an_orbit_that_touches_is_told_by_its_speed():
    """1 + cos t is below 10⁻⁶ for a time of 0.0028, four eighths of a step; and never below −10⁻⁶."""
    x0 = torch.tensor([[1.0, 0.0], [1.0, 0.0]], **DOUBLE)
    depth = torch.tensor([1e-6, -1e-6], **DOUBLE)
    fine = sx.solve_until(turning, x0, lambda x: x[..., 0] + 1 - depth, end=6.0, method="dopri5", dt=0.005)
    assert fine.found.tolist() == [True, False]
    assert float(fine.times[0]) == pytest.approx(math.pi - math.acos(1 - 1e-6), abs=1e-9)
    assert float(fine.speeds[0]) == pytest.approx(-math.sin(math.acos(1 - 1e-6)), abs=1e-7)


@pytest.mark.parametrize("ways", [{}, {"method": "rk4", "dt": 0.03}])
def test_each_item_ends_for_itself(ways):
    """ẋ = x² from x0 reaches 2 at t = 1/x0 − 1/2 and diverges at 1/x0. Items: in time, too late, on the other side, not finite."""
    x0 = torch.tensor([[1.0], [0.1], [-1.0], [0.5], [math.nan]], **DOUBLE, requires_grad=True)
    never = torch.tensor([False, False, False, True, False])
    rate = torch.ones((), **DOUBLE, requires_grad=True)

    def event(x: torch.Tensor) -> torch.Tensor:
        return torch.where(never, 1 + x[..., 0] ** 2, x[..., 0] - 2)

    found = sx.solve_until(lambda x: rate * x * x, x0, event, end=3.0, **ways)
    assert found.found.tolist() == [True, False, False, False, False]
    assert found.status.tolist() == ["ok", "ok", "ok", "diverged", "diverged"]
    assert found.times[0].item() == pytest.approx(0.5, abs=1e-4)
    assert found.times[1:].isnan().all() and found.states[1:].isnan().all()
    assert float(found.reached[1]) == pytest.approx(3.0) and float(found.reached[3]) == pytest.approx(2.0, abs=0.1)
    by_x0, by_rate = torch.autograd.grad(found.times[0], [x0, rate])
    assert float(by_x0[0]) == pytest.approx(-1.0, abs=1e-3) and float(by_rate) == pytest.approx(-0.5, abs=1e-3)
    assert (by_x0[1:] == 0).all()


def test_an_item_is_followed_no_further_than_its_event_and_its_steps_are_told():
    found = sx.solve_until(lambda x: 1000 * x * x, torch.tensor([1.0], **DOUBLE), lambda x: x[..., 0] - 2, end=1e6, **CLOSE)
    assert bool(found.found) and float(found.times) == pytest.approx(5e-4, rel=1e-6)
    given_up = sx.solve_until(turning, torch.tensor([1.0, 0.0], **DOUBLE), lambda x: x[..., 0] - 9, end=1e3, max_steps=20)
    assert given_up.status == "not_converged" and 0 < float(given_up.reached) < 1e3
    few = sx.solve_until(turning, torch.tensor([1.0, 0.0], **DOUBLE), height, end=9.0, method="rk4", dt=0.1, max_steps=10)
    assert few.status == "not_converged" and int(few.accepted) == 10


def test_the_tolerance_of_the_time_is_kept():
    x0 = torch.tensor([1.0, 0.0], **DOUBLE)
    loose = sx.solve_until(turning, x0, lambda x: torch.expm1(5 * x[..., 0]), end=3.0, tol=1e-2, **CLOSE)
    assert abs(float(loose.times) - math.pi / 2) < 1e-2
    assert float(sx.solve_until(turning, x0, height, end=3.0, **CLOSE).times) == pytest.approx(math.pi / 2, abs=1e-7)


def test_bounces_one_after_the_other_are_a_geometric_series():
    """v_n = eⁿ v_0, and the n-th bounce of a ball thrown up from the floor at t_n = (2 v_0 / g) (1 − eⁿ) / (1 − e)."""
    restitution, speed = torch.tensor(0.8, **DOUBLE, requires_grad=True), torch.tensor(3.0, **DOUBLE, requires_grad=True)
    x, t = torch.stack([torch.zeros((), **DOUBLE), speed]), torch.zeros((), **DOUBLE)
    for _ in range(8):
        found = sx.solve_until(falling, x, height, start=t, end=20.0, direction=-1)
        t, x = found.times, torch.stack([torch.zeros((), **DOUBLE), -restitution * found.states[1]])
    assert t.item() == pytest.approx(2 * 3 / G * (1 - 0.8**8) / 0.2, abs=1e-12)
    by_speed, by_restitution = torch.autograd.grad(t, [speed, restitution])
    assert float(by_speed) == pytest.approx(t.item() / 3, abs=1e-11)
    assert float(by_restitution) == pytest.approx(6 / G * sum(n * 0.8 ** (n - 1) for n in range(8)), abs=1e-10)


def test_a_loop_goes_on_without_items_that_have_no_event_left():
    found = sx.solve_until(turning, torch.tensor([[1.0, 0.0], [0.1, 0.0]], **DOUBLE), lambda x: x[..., 0] + 0.5, end=9.0, **CLOSE)
    again = sx.solve_until(turning, found.states, lambda x: x[..., 0] + 0.5, start=found.times, end=9.0, **CLOSE)
    assert found.found.tolist() == again.found.tolist() == [True, False]
    assert float(again.times[0]) == pytest.approx(4 * math.pi / 3, abs=1e-6)
    ended = sx.solve_until(turning, torch.tensor([1.0, 0.0], **DOUBLE), height, start=2.0, end=2.0)
    assert not ended.found and ended.status == "ok"


@pytest.mark.parametrize("name", ["rk4", "dopri5", "leapfrog"])
def test_a_step_s_polynomial_goes_through_its_ends_with_the_field_s_slope_and_is_the_pair_s_own(name):
    x, t, h = torch.tensor([[1.0, 0.3], [2.0, -1.0]], **DOUBLE), torch.zeros(2, 1, **DOUBLE), torch.tensor([[0.2], [0.5]], **DOUBLE)

    def field(x, t):
        return torch.stack([x[..., 1], -x[..., 0].sin()], -1)

    method = SOLVERS[name]
    piece, zero, one = Piece.of(method, field, x, t, h), torch.zeros(2, 1, **DOUBLE), torch.ones(2, 1, **DOUBLE)
    after = method.step(field, x, t, h)
    for got, wanted in (
        (piece.at(zero), x),
        (piece.at(one), after),
        (piece.slope(zero), h * field(x, t)),
        (piece.slope(one), h * field(after, t)),
    ):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-14)
    if name in PAIRS:
        share = torch.tensor([[0.3], [0.8]], **DOUBLE)
        torch.testing.assert_close(piece.at(share), PAIRS[name].between(field, x, t, h, share), rtol=0, atol=1e-14)


def test_single_precision_stays_so_and_more_batch_axes_are_kept():
    x0 = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]], requires_grad=True)
    for settings in ({"rtol": 1e-5, "atol": 1e-5}, {"method": "rk4", "dt": 0.1}):
        found = sx.solve_until(falling, x0, height, direction=-1, end=9.0, **settings)
        assert found.times.shape == (1, 2) and found.states.dtype == torch.float32 and found.states.shape == (1, 2, 2)
        assert float(found.times[0, 1].detach()) == pytest.approx(2 / G, abs=1e-6)
        (gradient,) = torch.autograd.grad(found.times.sum(), x0)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"direction": 2}, "direction is 2"),
        ({"tol": -1.0}, "tol is -1"),
        ({"end": -1.0}, "end = -1"),
        ({"end": math.inf}, "end"),
        ({"end": torch.ones(3)}, "end has shape"),
        ({"event": lambda x: x}, "event"),
        ({"event": lambda x: 1.0}, "a float"),
        ({"event": lambda x: x[..., 0] < 0}, "bool"),
        ({"event": lambda x: x.sub_(0.5)[..., 0]}, "in place"),
        ({"direction": torch.tensor([1, -1])}, "direction is tensor"),
        ({"x0": torch.ones(2, 2, dtype=torch.int64)}, "int64"),
        ({"x0": torch.ones(())}, "x0"),
        ({"x0": torch.ones(0, 2)}, "x0"),
        ({"max_steps": 0, "dt": 0.1}, "max_steps is 0"),
        ({"method": "rk4"}, "rk4"),
        ({"method": "rk5", "dt": 0.1}, "rk5"),
        ({"dt": -1.0}, "dt is -1"),
        ({"rtol": 2.0}, "rtol is 2"),
        ({"field": lambda x: -x, "x0": torch.ones(2, 3), "method": "leapfrog", "dt": 0.1}, "3"),
        ({"field": lambda x: x[..., :1]}, "velocities of shape"),
    ],
)
def test_bad_input_is_named(change, words):
    asked = SimpleNamespace(**({"field": turning, "x0": torch.ones(2, 2), "event": height, "end": 1.0} | change))
    rest = {key: value for key, value in vars(asked).items() if key not in ("field", "x0", "event")}
    with pytest.raises(sx.SeparatrixError, match=words):
        sx.solve_until(asked.field, asked.x0, asked.event, **rest)


def test_failures_are_raised_where_asked():
    with pytest.raises(sx.errors.DivergedError, match="1 of 1"):
        sx.solve_until(lambda x: x * x, torch.ones(1, 1, **DOUBLE), lambda x: x[..., 0] + 1, end=5.0, rtol=1e-4, throw=True)
