"""Solutions against closed forms and SciPy's; orders of convergence; what happens to items that fail."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import separatrix as sx

DOUBLE = {"dtype": torch.float64}


def van_der_pol(x: torch.Tensor) -> torch.Tensor:
    a, b = x.unbind(-1)
    return torch.stack((b, 2 * (1 - a * a) * b - a), -1)


def test_steps_by_tolerance_meet_scipys_solution_and_follow_the_tolerance():
    x0 = torch.tensor([[2.0, 0.0], [0.5, -1.0]], **DOUBLE)
    times = torch.linspace(0, 10, 7, **DOUBLE)
    exact = [
        solve_ivp(lambda t, y: [y[1], 2 * (1 - y[0] ** 2) * y[1] - y[0]], (0, 10), x, rtol=1e-12, atol=1e-12, t_eval=times).y
        for x in x0.numpy()
    ]
    exact = torch.as_tensor(exact).permute(2, 0, 1)
    errors = [(sx.solve(van_der_pol, x0, times, rtol=tol, atol=tol).states - exact).abs().max() for tol in (1e-5, 1e-9)]
    assert errors[0] < 1e-2 and errors[1] < 1e-6 and errors[1] < 1e-3 * errors[0]


def test_every_item_has_its_own_times_and_its_own_steps():
    x0 = torch.tensor([[1.0], [2.0], [3.0]], **DOUBLE)
    times = torch.stack([torch.linspace(0, end, 5, **DOUBLE) for end in (1.0, 2.0, 9.0)], dim=1)
    for settings in ({"rtol": 1e-8, "atol": 1e-10}, {"method": "rk4", "dt": 0.01}):
        found = sx.solve(lambda x: -x, x0, times, **settings)
        assert (found.states[..., 0] - x0[:, 0] * torch.exp(-times)).abs().max() < 1e-6
    assert len(sx.solve(lambda x: -x, x0, times).accepted.unique()) > 1


def test_an_item_that_fails_does_not_hold_up_the_others():
    x0 = torch.tensor([[0.5], [1.5], [-1.0]], **DOUBLE)
    times = [0.0, 0.5, 1.0]
    found = sx.solve(lambda x: x * x, x0, times)  # x0 / (1 − x0 t), infinite at t = 1/x0
    assert list(found.status) == ["ok", "diverged", "ok"]
    assert float(found.reached[1]) == pytest.approx(2 / 3, abs=1e-4)
    exact = x0 / (1 - x0 * torch.tensor([[1.0]], **DOUBLE))
    assert (found.last - exact)[[0, 2]].abs().max() < 1e-4 and found.last[1].isnan().all()
    assert (found.states[1] - x0 / (1 - 0.5 * x0)).abs().max() < 1e-4


def test_gradients_reach_the_network_and_the_start():
    torch.manual_seed(0)
    field, x0 = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double(), torch.randn(3, 2, **DOUBLE)
    for settings in ({"rtol": 1e-10, "atol": 1e-12}, {"method": "rk4", "dt": 0.02}):

        def loss(start: torch.Tensor, settings=settings) -> torch.Tensor:
            return sx.solve(field, start, [0.0, 0.4, 1.0], **settings).states.square().sum()

        start = x0.clone().requires_grad_()
        by_weight, by_start = torch.autograd.grad(loss(start), [field[0].weight, start])
        nudge = 1e-5 * torch.ones_like(x0)
        assert float((by_start * nudge).sum()) == pytest.approx((loss(x0 + nudge) - loss(x0 - nudge)).item() / 2, rel=1e-6)
        with torch.no_grad():
            field[0].weight[0, 0] += 1e-5
            above = loss(x0)
            field[0].weight[0, 0] -= 2e-5
            below = loss(x0)
            field[0].weight[0, 0] += 1e-5
        assert float(by_weight[0, 0]) == pytest.approx(float(above - below) / 2e-5, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"times": [0.0, 2.0, 1.0]}, "time 2 is 1 after 2"),
        ({"times": [0.0, 1.0, 1.0]}, "time 2 is 1 after 1"),
        ({"times": [0.0]}, "shape"),
        ({"times": [0.0, math.nan]}, "1 of 2"),
        ({"rtol": 0.0}, "rtol is 0"),
        ({"atol": -1.0}, "atol is -1"),
        ({"method": "rk4"}, "rk4"),
        ({"method": "rk5"}, "rk5"),
        ({"dt": 0.0}, "dt is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"field": lambda x: x[..., :1]}, "velocities of shape"),
    ],
)
def test_bad_input_is_named(change, words):
    asked = {"field": lambda x: -x, "x0": torch.ones(3, 2, **DOUBLE), "times": [0.0, 1.0]} | change
    with pytest.raises(sx.SeparatrixError, match=words):
        sx.solve(asked.pop("field"), asked.pop("x0"), asked.pop("times"), **asked)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x0": torch.ones(3, 2, dtype=torch.int64)}, "int64"),
        ({"x0": torch.ones(3, 2, dtype=torch.float16)}, "float16"),
        ({"x0": torch.ones(0, 2, **DOUBLE)}, "x0 of shape"),
        ({"x0": torch.tensor(1.0, **DOUBLE)}, "x0"),
        ({"x0": torch.full((2,), math.nan, **DOUBLE)}, "2 of 2"),
        ({"x0": [["a"]]}, "x0"),
        ({"times": ["a", "b"]}, "times"),
        ({"times": torch.tensor([[0.0, 0.0], [1.0, 1.0]])}, "has the batch"),
        ({"field": lambda x: x.mul_(-1)}, "in place"),
        ({"field": lambda x: "no"}, "str"),
        ({"field": lambda x: 1j * x}, "complex"),
        ({"field": lambda x: x > 0}, "bool"),
        ({"method": "leapfrog", "dt": 0.1, "x0": torch.ones(3, 3, **DOUBLE)}, "3 numbers"),
    ],
)
def test_what_no_run_can_begin_from_is_named(change, words):
    asked = {"field": lambda x: -x, "x0": torch.ones(3, 2, **DOUBLE), "times": [0.0, 1.0]} | change
    with pytest.raises(sx.SeparatrixError, match=words):
        sx.solve(asked.pop("field"), asked.pop("x0"), asked.pop("times"), **asked)


def test_states_and_times_may_be_lists_and_times_whole_numbers():
    found = sx.solve(lambda x: -x, [[1.0, 2.0]], [0, 1, 2])
    assert found.states.dtype == torch.float32 and found.states.shape == (3, 1, 2)
    assert (found.states[:, 0, 0] - torch.exp(-torch.arange(3.0))).abs().max() < 1e-5
    assert torch.equal(sx.solve(lambda x: -x, [[1.0, 2.0]], torch.arange(3)).states, found.states)


def test_a_flow_brings_its_field_its_method_and_its_step():
    flow = sx.Flow(van_der_pol, 2, 0.01, method="rk4")
    x0 = torch.tensor([2.0, 0.0], **DOUBLE)
    assert torch.allclose(sx.solve(flow, x0, [0.0, 1.0]).last, sx.trajectory(flow, x0, 100)[-1], atol=1e-13)
    assert sx.solve(flow, x0, [0.0, 1.0], method="dopri5").settings["dt"] is None


def test_one_state_without_a_batch_is_followed_like_a_batch_of_one():
    x0 = torch.tensor([2.0, 0.0], **DOUBLE)
    for settings in ({}, {"method": "rk4", "dt": 0.01}):
        alone, batch = (sx.solve(van_der_pol, x, [0.0, 0.5, 1.0], **settings) for x in (x0, x0[None]))
        assert alone.states.shape == (3, 2) and torch.equal(alone.states, batch.states[:, 0]) and alone.status == "ok"


def test_an_items_solution_does_not_depend_on_the_rest_of_the_batch():
    x0 = torch.tensor([[2.0, 0.0], [0.01, 0.0], [-3.0, 4.0]], **DOUBLE)
    together = sx.solve(van_der_pol, x0, [0.0, 5.0])
    for i in range(3):
        alone = sx.solve(van_der_pol, x0[i : i + 1], [0.0, 5.0])
        assert int(alone.accepted) == int(together.accepted[i])
        assert (alone.last[0] - together.last[i]).abs().max() < 1e-12


def test_both_pairs_meet_the_tolerance():
    x0, exact = torch.ones(1, 1, **DOUBLE), math.exp(math.sin(5.0))
    for method in ("dopri5", "tsit5"):
        found = sx.solve(lambda x, t: x * torch.cos(torch.as_tensor(t)), x0, [0.0, 5.0], method=method, time_dependent=True)
        assert found.settings["method"] == method and float(found.last) == pytest.approx(exact, rel=1e-4)


def test_progress_is_shown_on_demand(capsys):
    for settings in ({}, {"method": "rk4", "dt": 0.1}):
        sx.solve(lambda x: -x, torch.ones(1, 1, **DOUBLE), [0.0, 1.0], progress=True, **settings)
    assert capsys.readouterr().out == ""


def test_a_number_that_stays_zero_needs_no_absolute_tolerance():
    found = sx.solve(lambda x: -x, torch.tensor([[1.0, 0.0]], **DOUBLE), [0.0, 1.0], rtol=1e-8, atol=0.0)
    assert list(found.status) == ["ok"] and float(found.last[0, 0]) == pytest.approx(math.exp(-1), rel=1e-6)


def test_a_splitting_method_refuses_a_field_that_is_not_separable():
    with pytest.raises(sx.errors.InputError, match="separable"):
        sx.solve(lambda x: x * x.flip(-1), torch.ones(2, 2, **DOUBLE), [0.0, 1.0], method="leapfrog", dt=0.1)


def test_a_pulse_that_steps_would_leap_over_is_seen_with_a_longest_step():
    """ẋ = exp(−((t − 7)/0.05)²) from 0: its integral is 0.05 √π."""

    def field(x, t):
        return torch.exp(-(((t - 7.0) / 0.05) ** 2))[..., None] + 0 * x

    def end(**asked) -> float:
        return float(
            sx.solve(field, torch.zeros(1, **DOUBLE), [0.0, 10.0], time_dependent=True, rtol=1e-8, atol=1e-10, **asked).last
        )

    area = 0.05 * math.pi**0.5
    assert end() < 1e-200  # leapt over
    assert end(max_step=0.05) == pytest.approx(area, rel=1e-7)
    layer = sx.nn.NeuralODE(field, 1, end=10.0, method="dopri5", rtol=1e-8, atol=1e-10, max_step=0.05, time_dependent=True)
    assert float(layer(torch.zeros(1, **DOUBLE))) == pytest.approx(area, rel=1e-7)
    found = sx.solve_until(
        field,
        torch.zeros(1, **DOUBLE),
        lambda x, t: x[..., 0] - area / 2,
        end=10.0,
        max_step=0.05,
        rtol=1e-8,
        atol=1e-10,
        time_dependent=True,
    )
    assert float(found.times) == pytest.approx(7.0, abs=1e-5)


def test_steps_by_tolerance_are_not_longer_than_the_longest():
    """The method's amplification is e^z + z⁶/3600 + …, which makes 5e-8 of 40 steps of z = −1/8."""
    found = sx.solve(lambda x: -x, torch.ones(1, **DOUBLE), [0.0, 5.0], max_step=0.125)
    assert int(found.accepted) >= 40
    assert float(found.last) == pytest.approx(math.exp(-5), rel=6e-8)


@pytest.mark.parametrize("asked", [{"max_step": 0.0}, {"max_step": -1.0}, {"max_step": "long"}, {"max_step": 0.1, "dt": 0.1}])
def test_a_longest_step_is_a_positive_time_and_stands_alone(asked):
    with pytest.raises(sx.errors.InputError, match="max_step"):
        sx.solve(lambda x: -x, torch.ones(1, **DOUBLE), [0.0, 1.0], **asked)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("Radau", "rodas5p"), ("BDF", "rodas5p"), ("Kvaerno5", "rodas5p"), ("RK45", "dopri5"), ("RK4", "rk4")]
)
def test_methods_of_other_libraries_are_refused_with_the_one_that_takes_their_place(theirs, ours):
    with pytest.raises(sx.errors.InputError, match=f'method="{ours}"'):
        sx.solve(lambda x: -x, torch.ones(1, **DOUBLE), [0.0, 1.0], method=theirs)
