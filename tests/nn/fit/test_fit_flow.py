"""Learned flows against closed forms: the fields whose discrete steps are the data's, in whatever units, times and dtype."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.tangent import pushforward
from separatrix.nn.chain import ACTIVATIONS, is_chain, pushed_through

A = torch.tensor([[-0.3, 1.0], [-1.0, -0.1]], dtype=torch.float64)
DT = 0.2


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def orbits(times: torch.Tensor, items: int = 12, seed: int = 0) -> torch.Tensor:
    """Of ẋ = A x, exactly, at times (time) or (time, items)."""
    flow = torch.linalg.matrix_exp(times[..., None, None] * A)
    flow = flow if times.ndim > 1 else flow[:, None]
    return (flow @ normal(items, 2, seed=seed)[..., None])[..., 0]


def even(count: int = 21) -> torch.Tensor:
    return DT * torch.arange(count, dtype=torch.float64)


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(2, 2, bias=False).double()


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()


# of a linear field B, by which a method's step of length h is exp(hA) x
DISCRETE = {
    "euler": (torch.linalg.matrix_exp(DT * A) - torch.eye(2)) / DT,  # I + hB
    "rk4": A,  # I + … + (hB)⁴/24, which leaves ‖hA‖⁵/120/h ≈ 1e-5
}


@pytest.mark.parametrize("method", DISCRETE)
def test_what_is_learned_is_the_field_whose_own_steps_are_the_data(method):
    field = linear()
    fit = sx.nn.fit_flow(field, orbits(even()), DT, method=method, horizon=3, steps=0, polish=40)
    assert fit.status == "ok"
    tolerance = 1e-7 if method == "euler" else 5e-5
    torch.testing.assert_close(field.weight.detach(), DISCRETE[method], rtol=0, atol=tolerance)


def test_shorter_steps_between_samples_come_nearer_to_the_true_field_by_their_order():
    """Heun's field is off by O(h²): a quarter for half the step."""
    errors = []
    for dt in (DT, DT / 2, DT / 4):
        field = linear()
        sx.nn.fit_flow(field, orbits(even()), DT, method="heun", dt=dt, horizon=1, steps=0, polish=40)
        errors.append(float((field.weight.detach() - A).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.25)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("own", [False, True])
def test_samples_may_lie_at_any_times_the_same_for_all_trajectories_or_each_its_own(own):
    gaps = 0.05 + 0.2 * torch.rand(20, 12 if own else 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    times = torch.cat([torch.zeros_like(gaps[:1]), gaps.cumsum(0)])
    times = times if own else times[:, 0]
    field = linear()
    fit = sx.nn.fit_flow(field, orbits(times), times, horizon=2, steps=0, polish=40)
    torch.testing.assert_close(field.weight.detach(), A, rtol=0, atol=1e-4)
    assert float(fit.lead[0]) == pytest.approx(float(gaps.mean()), rel=0.1)


def test_a_field_that_depends_on_time_is_given_the_time_of_the_data():
    """ẋ = w cos t from any state: x(t) = x(0) + w sin t."""

    class Push(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, x, t):
            return self.w * torch.cos(t)[..., None] + 0 * x

    t = even(30)
    states = normal(12, 2) + torch.tensor([2.0, -1.0], dtype=torch.float64) * t.sin()[:, None, None]
    push = Push()
    sx.nn.fit_flow(push, states, DT, time_dependent=True, steps=20, polish=20)
    torch.testing.assert_close(push.w.detach(), torch.tensor([2.0, -1.0], dtype=torch.float64), rtol=0, atol=1e-4)


def test_a_field_of_one_s_own_is_given_the_time_of_the_data_too():
    """Any `Field` may depend on the time: ẋ = w t, from 0.7 on, is w (t² − 0.7²) / 2."""

    class Ramp(sx.Field):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x, t):
            return self.w * torch.as_tensor(t)[..., None] + 0 * x

    t = 0.7 + even(30)
    ramp = Ramp()
    sx.nn.fit_flow(ramp, normal(12, 1) + 1.5 * t[:, None, None] ** 2, t, steps=0, polish=10)
    assert float(ramp.w.detach()) == pytest.approx(3.0, abs=1e-8)


def test_the_loss_is_the_mean_square_distance_from_the_data_in_deviations():
    """Against `sx.solve` on every segment of the held-out end of a single trajectory."""
    t = even(40)
    states, field, horizon = orbits(t, items=1), small(), 3
    fit = sx.nn.fit_flow(field, states, t, horizon=horizon, steps=0, held_out=0.25)
    end = states[-10:, 0]
    starts = end[: len(end) - horizon]
    with torch.no_grad():
        found = sx.solve(field, starts, t[: horizon + 1], method="rk4", dt=DT).states[1:]
    after = torch.stack([end[k : k + len(starts)] for k in range(1, horizon + 1)])
    expected = ((found - after) / states.std(0, correction=0)).square()
    assert float(fit.held_out[0]) == pytest.approx(float(expected.mean()), rel=1e-9)
    torch.testing.assert_close(fit.error, expected.mean((1, 2)).sqrt())


def test_a_fit_is_repeated_to_the_bit_and_leaves_the_global_generator_alone():
    fits, fields = [], []
    for _ in range(2):
        field = small()
        before = torch.get_rng_state()
        fits.append(sx.nn.fit_flow(field, orbits(even()), DT, steps=20, polish=4, seed=3))
        assert torch.equal(torch.get_rng_state(), before)
        fields.append(field)
    assert torch.equal(fits[0].held_out, fits[1].held_out) and torch.equal(fits[0].error, fits[1].error)
    assert torch.equal(fields[0][0].weight, fields[1][0].weight)
    assert not torch.equal(sx.nn.fit_flow(small(), orbits(even()), DT, steps=20, seed=4).training, fits[0].training[:21])


def test_units_do_not_matter_to_a_normalized_field():
    """The same network, data a thousand times as large, on a clock a hundred times as slow: the same losses."""
    fits = []
    for scale, slow in ((1.0, 1.0), (1e3, 1e2)):
        states = scale * orbits(even()) + 5 * scale
        field = sx.nn.parts.Normalized.of(small(), states, slow * DT)
        fits.append(sx.nn.fit_flow(field, states, slow * DT, steps=30))
    torch.testing.assert_close(fits[0].held_out, fits[1].held_out, rtol=1e-6, atol=1e-12)


def test_a_normalized_field_is_its_formula_with_the_derivative_of_forward_ad():
    mean, deviation, speed = normal(2, seed=1), normal(2, seed=2).exp(), normal(2, seed=3).exp()
    network = small()
    field = sx.nn.parts.Normalized(network, mean, deviation, speed)
    x, v = normal(5, 4, 2), normal(5, 4, 3, 2, seed=4)
    expected = speed * network((x - mean) / deviation)
    torch.testing.assert_close(field(x, 0.0), expected)
    value, pushed = pushforward(lambda y: speed * network((y - mean) / deviation), x, v)
    found = field.pushforward(x, v, 0.0)
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1], pushed)
    other = sx.nn.parts.Normalized(small(1), mean * 0, deviation, speed)
    other.load_state_dict(field.state_dict())
    assert torch.equal(other(x, 0.0), field(x, 0.0))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_chain_of_layers_has_the_tangents_of_forward_ad(activation):
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(5, 5, bias=False), activation())
    chain = nn.Sequential(nn.Linear(3, 5), activation(), inner, nn.Linear(5, 3)).double()
    assert is_chain(chain)
    x, v = normal(6, 3), normal(6, 2, 3, seed=1)
    for found, expected in zip(pushed_through(chain, x, v), pushforward(chain, x, v), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_network_that_is_no_chain_has_forward_ad_s_tangents_too():
    network = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    one = torch.ones(2, dtype=torch.float64)
    field = sx.nn.parts.Normalized(network, 0 * one, one, one)
    x, v = normal(6, 2), normal(6, 2, 2, seed=1)
    assert not is_chain(network)
    torch.testing.assert_close(field.pushforward(x, v, 0.0)[1], pushforward(network, x, v)[1])


def test_the_best_weights_on_the_held_out_segments_are_kept():
    """A rate far too large: what it does to the weights is undone."""
    field = small()
    with torch.no_grad():
        field[-1].weight *= 1e-3
    fit = sx.nn.fit_flow(field, orbits(even()), DT, steps=40, lr=1.0, seed=1)
    assert fit.held_out[(fit.steps == fit.best)] == fit.held_out.min()
    assert float(fit.error.square().mean()) == pytest.approx(float(fit.held_out.min()), rel=1e-9)


def test_a_loss_that_is_no_number_ends_the_fit_with_the_weights_from_before():
    class Wild(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.calls = nn.Parameter(torch.full((2,), 0.5, dtype=torch.float64)), 0

        def forward(self, x):
            self.calls += 1
            return self.w * x * (math.nan if self.calls > 200 else 1.0)

    field = Wild()
    fit = sx.nn.fit_flow(field, orbits(even()), DT, horizon=1, steps=500)
    assert fit.status == "diverged" and fit.verdict == "diverged"
    assert torch.isfinite(field.w).all() and int(fit.steps[-1]) < 100


@pytest.mark.parametrize("polish", [0, 10])
def test_weights_that_are_no_numbers_end_the_fit_without_a_traceback(polish):
    class Burst(nn.Module):  # the weights themselves are lost, so that nothing finite is left of any segment
        def __init__(self, calls: int) -> None:
            super().__init__()
            self.w, self.left = nn.Parameter(torch.full((2,), 0.5, dtype=torch.float64)), calls

        def forward(self, x):
            self.left -= 1
            if self.left == 0:
                with torch.no_grad():
                    self.w.fill_(math.nan)
            return self.w * x

    for calls in (1, 60):
        fit = sx.nn.fit_flow(Burst(calls), orbits(even()), DT, horizon=1, steps=0 if polish else 500, polish=polish)
        assert fit.status == "diverged" and fit.verdict == "diverged"


def test_the_field_of_a_flow_is_trained_and_not_its_step():
    field = sx.nn.parts.Normalized(linear(), torch.zeros(2), torch.ones(2), torch.ones(2))
    fit = sx.nn.fit_flow(sx.Flow(field, 2, DT), orbits(even()), DT, steps=0, polish=60)
    x = normal(5, 2, seed=3)
    assert fit.status == "ok" and torch.allclose(field(x, 0.0), x @ A.mT, atol=2e-3)


def test_a_scale_that_is_not_positive_is_refused():
    with pytest.raises(sx.errors.InputError, match="positive"):
        sx.nn.parts.Normalized(linear(), torch.zeros(2), torch.tensor([1.0, 0.0]), torch.ones(2))


def test_an_interrupted_fit_keeps_the_best_so_far():
    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.calls = nn.Parameter(torch.zeros(2, dtype=torch.float64)), 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 400:
                raise KeyboardInterrupt
            return self.w * x

    field = Interrupted()
    fit = sx.nn.fit_flow(field, orbits(even()), DT, horizon=1, steps=500)
    assert fit.status == "not_converged" and "interrupted" in fit.summary()
    assert float(fit.held_out.min()) < float(fit.held_out[0]) and (field.w != 0).any()


def test_a_neural_ode_is_trained_by_its_own_method_and_in_its_own_dtype():
    torch.manual_seed(0)
    ode = sx.nn.NeuralODE(nn.Linear(2, 2, bias=False), end=1.0, dt=DT, method="euler")
    fit = sx.nn.fit_flow(ode, orbits(even()), DT, horizon=2, steps=300, lr=0.05)
    assert fit.settings["method"] == "euler" and ode.field.function.weight.dtype == torch.float32
    torch.testing.assert_close(ode.field.function.weight.detach().double(), DISCRETE["euler"], rtol=0, atol=3e-3)
    times = even().float()[:, None].expand(-1, 12)
    assert sx.nn.fit_flow(ode, orbits(even()).float(), times, steps=2).status == "ok"  # each item's own times, in float32


def test_a_little_noise_leaves_the_field_nearly_unbiased():
    """1 % of noise on 12 · 21 samples: within the field's least-squares error, some 0.01 / DT / √250."""
    field = linear()
    states = orbits(even())
    sx.nn.fit_flow(field, states + 0.01 * states.std() * normal(*states.shape, seed=5), DT, horizon=5, steps=0, polish=40)
    torch.testing.assert_close(field.weight.detach(), A, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"horizon": 0}, "horizon is 0"),
        ({"horizon": 40}, "41 samples"),
        ({"steps": -1}, "steps is -1"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"lr": 0.0}, "lr is 0"),
        ({"held_out": 1.0}, "held_out is 1"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"seed": -1}, "seed is -1"),
        ({"times": -0.1}, "times is -0.1"),
        ({"times": even(5)}, "got 5"),
        ({"times": -even()}, "times must increase"),
        ({"states": orbits(even()).log()}, "not finite"),
        ({"states": orbits(even()).requires_grad_()}, "states requires a gradient"),
        ({"states": even()}, "series"),
        ({"field": nn.Linear(2, 3).double()}, "velocities of shape"),
        ({"field": nn.Tanh()}, "no parameters"),
        ({"field": sx.classic.lorenz63()}, "no parameters"),
        ({"field": torch.tanh}, "nn.Module"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_a_line(change, said):
    given = {"field": linear(), "states": orbits(even()), "times": DT} | change
    with pytest.raises(sx.SeparatrixError, match=said):
        sx.nn.fit_flow(given.pop("field"), given.pop("states"), given.pop("times"), **given)
